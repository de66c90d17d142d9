"""Fuzz target: what Python decodes as one block.

    u8 what & 7: 0 head | 1 update | 2 settings page | 3 placed samples | 4 head metadata | 5 labels | 6 plan
        | 7 enrolment code

The sums of pages and samples are mended first, unless bit 7 of `what` is set. Promised, and checked: a
KilofedError or a value that encodes again to the same bytes, and within its ranges.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from tests.fuzz.models import check_error

from kilofed import enrol
from kilofed.boards import placed, settings
from kilofed_tools import heads, metadata
from kilofed_tools.errors import KilofedError
from kilofed_tools.updates import DELTA_B_MAX, DELTA_W_MAX, decode_update

KEEP_SUM = 0x80
WEIGHTS_MOST = 1 << 16


def one_input(data: bytes) -> None:
    """One run."""
    if not data:
        return
    what, rest = data[0], data[1:]
    try:
        CHECKS[(what & 7) % len(CHECKS)](rest, not what & KEEP_SUM)
    except KilofedError as error:
        check_error(error)


def _head(data: bytes, mend: bool) -> None:
    del mend
    head = heads.decode_head(data)
    codec = data[2]
    assert heads.encode_head(head, codec) == data
    if head.weights.size <= WEIGHTS_MOST:
        weights, bias = heads.master(head)
        assert np.abs(weights).max() <= heads.WEIGHT_MAX
        assert np.abs(bias).max() <= heads.BIAS_MAX


def _update(data: bytes, mend: bool) -> None:
    del mend
    classes, features = struct.unpack_from("<HH", data, 4) if len(data) >= 8 else (2, 3)
    if classes * features > WEIGHTS_MOST:
        return
    update = decode_update(data, classes, features, "it")
    assert update.W.shape == (classes, features)
    assert np.abs(update.W.astype(np.int64)).max() <= DELTA_W_MAX
    assert np.abs(update.b.astype(np.int64)).max() <= DELTA_B_MAX


def _settings(data: bytes, mend: bool) -> None:
    page = data[:60] + struct.pack("<I", zlib.crc32(data[:60])) if mend and len(data) >= 60 else data
    identity = settings.decode(page)
    again = settings.encode(identity)
    assert settings.decode(again) == identity


def _samples(data: bytes, mend: bool) -> None:
    if mend and len(data) >= 16:
        count, size = struct.unpack_from("<II", data, 4)
        end = min(len(data), 16 + count * (size + 2))
        data = data[:12] + struct.pack("<I", zlib.crc32(data[16:end])) + data[16:]
    inputs, labels = placed.decode(data)
    assert inputs.dtype == np.int8
    assert len(inputs) == len(labels)
    assert len(inputs) == 0 or data.startswith(placed.encode(inputs, labels))


def _head_meta(data: bytes, mend: bool) -> None:
    del mend
    meta = metadata.decode_head_meta(data, features=12)
    assert metadata.decode_head_meta(metadata.encode_head_meta(meta), features=12).ms == meta.ms


def _labels(data: bytes, mend: bool) -> None:
    del mend
    labels = metadata.decode_labels(data, classes=5)
    assert len(labels) == 5
    assert metadata.encode_labels(labels) == data


def _plan(data: bytes, mend: bool) -> None:
    del mend
    offsets = metadata.decode_plan(data, tensors=7)
    assert len(offsets) == 7
    assert metadata.encode_plan(offsets) == data


def _code(data: bytes, mend: bool) -> None:
    del mend
    identity, key = enrol.identity_of(data.decode("utf-8", "replace"))
    assert (len(identity), len(key)) == (8, 32)
    letters = "".join(filter(str.isalnum, data.decode().upper().translate(str.maketrans("ILO", "110"))))
    assert len(letters) == enrol.LETTERS
    assert enrol.identity_of(letters.lower()) == (identity, key)


CHECKS = (_head, _update, _settings, _samples, _head_meta, _labels, _plan, _code)
