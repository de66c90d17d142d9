"""What rides in a .tflite beside the graph: named entries of Model.metadata.

An entry is a name and a buffer of bytes. A runtime that does not know the name ignores it, so a model with
our entries is still anybody's model. Four names are used:

* ``kilofed.head``: what training needs beyond the graph (`HeadMeta`), as a CBOR map (RFC 8949) with text
  keys: ``v`` 1; ``op`` index of the head operator; ``ms`` mean square of the integer features q - zero_point
  over the calibration set, in units of 1/256; ``calib`` K x F int8 features, row by row; ``train`` a map of
  ``lr`` (learning rate at features of unit RMS), ``batch`` and ``epochs``.
* ``kilofed.labels``: what the C classes mean, UTF-8, joined by NUL. An entry of its own, so that a device can
  hash it (`heads.labels_hash`) without reading CBOR.
* ``kilofed.plan``: a memory plan (`kilofed_tools.planfile`).
* ``OfflineMemoryAllocation``: TFLite Micro's own name for a memory plan, int32 values: version 1, subgraph 0,
  number of tensors, one arena offset a tensor (-1: none). Read, and written where it is asked for: it can say
  neither that tensors overlap nor that they never exist whole.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cbor2
import numpy as np
from numpy.typing import NDArray

from kilofed_tools import flat
from kilofed_tools.errors import ModelContractError
from kilofed_tools.flat import Table
from kilofed_tools.tflite import TFLiteModel, patch, read_model

HEAD = "kilofed.head"
LABELS = "kilofed.labels"
PLAN = "OfflineMemoryAllocation"
KILOFED_PLAN = "kilofed.plan"
PLANS = (KILOFED_PLAN, PLAN)  # of a file that has both, a device reads the first
MAX_LABEL_BYTES = 64

_AGAIN = "make the model again with `kilofed convert`"


@dataclass(frozen=True, eq=False)
class HeadMeta:
    """The entry ``kilofed.head``, decoded.

    op: index of the head operator. ms: at least 1, in 1/256.
    calib: int8 [K, F]. lr: above 0, at most 64. batch: 1 to 256. epochs: 1 to 255.
    """

    op: int
    ms: int
    calib: NDArray[np.int8]
    lr: float
    batch: int
    epochs: int


def read_metadata(model: bytes | TFLiteModel, name: str) -> bytes | None:
    """The bytes of the first entry called `name`, None without one. ModelError when the file is damaged."""
    parsed = read_model(model) if isinstance(model, bytes) else model
    for entry in parsed.tree.tables("metadata"):
        if entry.text("name") == name:
            return bytes(parsed.buffers[entry.number("buffer")].numbers("data").astype(np.uint8))
    return None


def write_metadata(model: bytes, name: str, payload: bytes | None) -> bytes:
    """The model with the entry `name` set to `payload` (None: removed).

    In place when an entry of the same length is there, else the file is laid out anew. The graph, its tensors
    and their order stay as they are. The bytes depend on the model and the payload only.
    """
    parsed = read_model(model)
    entries = parsed.tree.tables("metadata")
    mine = [entry for entry in entries if entry.text("name") == name]
    others = [entry for entry in entries if entry.text("name") != name]
    used = {tensor.buffer for tensor in parsed.tensors} | {entry.number("buffer") for entry in others}
    if len(mine) == 1 and payload:
        number = mine[0].number("buffer")
        old = parsed.buffers[number]
        if number not in used and len(old.numbers("data")) == len(payload):
            return patch(model, [(old.at["data"], payload)])
    buffers = list(parsed.buffers)
    free = [entry.number("buffer") for entry in mine if entry.number("buffer") not in used]
    for number in free:
        buffers[number] = Table("Buffer")
    if payload is not None:
        data = np.frombuffer(payload, np.uint8)
        if free and free[0] != 0:
            number = free[0]
        else:
            number = len(buffers)
            buffers.append(Table("Buffer"))
        buffers[number] = Table("Buffer", {"data": data})
        others.append(Table("Metadata", {"name": name, "buffer": number}))
    while len(buffers) > 1 and not buffers[-1].values and len(buffers) - 1 not in used | _named(others):
        buffers.pop()
    parsed.tree.values["buffers"] = buffers
    parsed.tree.values["metadata"] = others
    return flat.write(parsed.tree)


def _named(entries: list[Table]) -> set[int]:
    return {entry.number("buffer") for entry in entries}


def encode_head_meta(meta: HeadMeta) -> bytes:
    """The CBOR bytes of the entry, in the order above: a reader may rely on `v` coming first."""
    return bytes(
        cbor2.dumps(
            {
                "v": 1,
                "op": meta.op,
                "ms": meta.ms,
                "calib": np.ascontiguousarray(meta.calib, np.int8).tobytes(),
                "train": {"lr": float(meta.lr), "batch": meta.batch, "epochs": meta.epochs},
            }
        )
    )


def _whole(value: object, low: int, high: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelContractError(f"the entry {HEAD} has {what} {value!r} outside {low} to {high}", _AGAIN)
    return value


def decode_head_meta(payload: bytes, *, features: int) -> HeadMeta:
    """Decode and check the entry of a head of `features` features. ModelContractError: it does not fit."""
    stream = io.BytesIO(payload)
    try:
        found = cbor2.load(stream)
    # A decoder of untrusted bytes has many ways to fail (also ValueError, RecursionError, MemoryError): all
    # mean this.
    except Exception as error:
        raise ModelContractError(f"the entry {HEAD} is not CBOR ({error})", _AGAIN) from error
    if not isinstance(found, dict) or stream.read(1):
        raise ModelContractError(f"the entry {HEAD} is not one CBOR map", _AGAIN)
    if found.get("v") != 1:
        raise ModelContractError(
            f"the entry {HEAD} has version {found.get('v')!r} and this program knows version 1",
            "update kilofed, or make the model again with this version's `kilofed convert`",
        )
    calib = found.get("calib")
    if not isinstance(calib, bytes) or not calib or len(calib) % features:
        raise ModelContractError(f"the entry {HEAD} does not hold rows of {features} features", _AGAIN)
    train = found.get("train")
    if not isinstance(train, dict):
        raise ModelContractError(f"the entry {HEAD} has no training defaults", _AGAIN)
    lr = train.get("lr")
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not (math.isfinite(lr) and 0 < lr <= 64):
        raise ModelContractError(f"the entry {HEAD} has the learning rate {lr!r}", _AGAIN)
    return HeadMeta(
        op=_whole(found.get("op"), 0, 2**31 - 1, "op"),
        ms=_whole(found.get("ms"), 1, 255 * 255 * 256, "ms"),
        calib=np.frombuffer(calib, np.int8).reshape(-1, features),
        lr=float(lr),
        batch=_whole(train.get("batch"), 1, 256, "batch"),
        epochs=_whole(train.get("epochs"), 1, 255, "epochs"),
    )


def encode_labels(labels: Sequence[str]) -> bytes:
    """The bytes of ``kilofed.labels``. ModelContractError: a label is empty, too long, or holds a NUL."""
    for label in labels:
        if "\0" in label or not 1 <= len(label.encode("utf-8", "replace")) <= MAX_LABEL_BYTES:
            raise ModelContractError(
                f"the label {label!r} is not a text of 1 to {MAX_LABEL_BYTES} bytes without NUL",
                "give other --labels",
            )
    return "\0".join(labels).encode("utf-8", "replace")


def decode_labels(payload: bytes, *, classes: int) -> tuple[str, ...]:
    """The C labels. ModelContractError: the entry does not hold as many, or one is no label."""
    try:
        labels = tuple(payload.decode().split("\0"))
    except UnicodeDecodeError as error:
        raise ModelContractError(f"the entry {LABELS} is not UTF-8", _AGAIN) from error
    if len(labels) != classes:
        raise ModelContractError(f"the entry {LABELS} does not list {classes} labels", _AGAIN)
    encode_labels(labels)
    return labels


def encode_plan(offsets: NDArray[np.int32] | list[int]) -> bytes:
    """The bytes of ``OfflineMemoryAllocation`` for one arena offset a tensor of subgraph 0 (-1: no place)."""
    return np.array([1, 0, len(offsets), *offsets], "<i4").tobytes()


def decode_plan(payload: bytes, *, tensors: int) -> NDArray[np.int32]:
    """The arena offsets, int32 [tensors]. ModelContractError: the entry is no plan for that many tensors."""
    values = np.frombuffer(payload[: len(payload) // 4 * 4], "<i4")
    if len(payload) % 4 or len(values) != tensors + 3 or values[:3].tolist() != [1, 0, tensors]:
        raise ModelContractError(f"the entry {PLAN} is not a plan for {tensors} tensors", _AGAIN)
    return values[3:].astype(np.int32)
