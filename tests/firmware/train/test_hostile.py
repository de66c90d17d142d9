"""Blobs come over a link: whatever they say, the core reads inside them and answers. The sanitizers watch."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilofed_tools.trainer import Rate, TrainConfig
from kilofed_tools.updates import Codec, encode_update

from .conftest import KF_ERR_ARG, KF_ERR_BLOB, KF_ERR_SHAPE, KF_ERR_STATE, KF_OK, Runner, make_head

CORE = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def head(codec: int = 1) -> bytes:
    rng = np.random.default_rng(codec)
    low, high = [(-900, 900), (-128, 128), (-8, 8)][codec]
    return make_head(rng.integers(low, high, (3, 3)), rng.integers(-99, 99, 3), 5, codec=codec)


def altered(blob: bytes, at: int, value: bytes) -> bytes:
    return blob[:at] + value + blob[at + len(value) :]


def parse(core: Runner, blob: bytes) -> int:
    return core.ask("h", struct.pack("<I", len(blob)), blob).number()


def accept(core: Runner, blob: bytes) -> int:
    base = head()
    sizes = struct.pack("<HHI", 3, 3, len(base))
    return core.ask("a", sizes, base, struct.pack("<I", len(blob)), blob).number()


HEADS = {
    "nothing": b"",
    "half a header": head()[:15],
    "version": altered(head(), 0, b"\x02"),
    "kind": altered(head(), 1, b"\x02"),
    "ternary": altered(head(), 2, b"\x03"),
    "no classes": altered(head(), 4, b"\x00\x00"),
    "no features": altered(head(), 6, b"\x00\x00"),
    "many classes": altered(head(), 4, b"\x01\x04"),
    "many features": altered(head(), 6, b"\x01\x08"),
    "largest counts": altered(head(), 4, b"\xff\xff\xff\xff"),
    "one class more": altered(head(), 4, b"\x04"),
    "short": head()[:-1],
    "long": head() + b"\x00",
    "another codec's length": altered(head(), 2, b"\x00"),
    "no step": altered(head(), 8, bytes(4)),
    "large step": altered(head(), 8, struct.pack("<I", (1 << 23) + 1)),
    "scale of zero": altered(head(), 12, struct.pack("<f", 0.0)),
    "negative scale": altered(head(), 12, struct.pack("<f", -0.5)),
    "endless scale": altered(head(), 12, struct.pack("<f", float("inf"))),
    "scale that is no number": altered(head(), 12, struct.pack("<f", float("nan"))),
    "denormal scale": altered(head(), 12, struct.pack("<f", 1e-40)),
    "padding": altered(head(), 27, b"\x01"),
    "nibble padding": altered(head(2), 20, bytes([head(2)[20] | 0x10])),
    "byte padding": altered(head(2), 21, b"\x01"),
}


@pytest.mark.parametrize("blob", HEADS.values(), ids=HEADS.keys())
def test_heads_that_are_refused(core: Runner, blob: bytes) -> None:
    assert parse(core, blob) == KF_ERR_BLOB


@pytest.mark.parametrize("codec", [0, 1, 2])
def test_the_unaltered_heads_are_fine(core: Runner, codec: int) -> None:
    assert parse(core, head(codec)) == KF_OK


@CORE
@given(data=st.binary(max_size=120))
def test_random_bytes_are_no_head(core: Runner, data: bytes) -> None:
    assert parse(core, data) in (KF_OK, KF_ERR_BLOB)
    assert parse(core, b"\x01\x01" + data) in (KF_OK, KF_ERR_BLOB)


@CORE
@given(
    codec=st.sampled_from([0, 1, 2]),
    mutations=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(-3, 3),
)
def test_mutated_heads(core: Runner, codec: int, mutations: list[tuple[int, int]], cut: int) -> None:
    blob = bytearray(head(codec))
    for at, value in mutations:
        blob[at % len(blob)] = value
    data = bytes(blob[:cut]) if cut < 0 else bytes(blob) + bytes(cut)
    assert parse(core, data) in (KF_OK, KF_ERR_BLOB)


def update(codec: Codec) -> bytes:
    rng = np.random.default_rng(codec)
    W, b = rng.integers(-900, 900, (3, 3)).astype(np.int32), rng.integers(-900, 900, 3).astype(np.int32)
    return encode_update(W, b, 0 * W, 0 * b, codec)[0]


@pytest.mark.parametrize("codec", Codec)
def test_updates_are_accepted(core: Runner, codec: Codec) -> None:
    assert accept(core, update(codec)) == KF_OK


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        update(Codec.INT8)[:15],
        altered(update(Codec.INT8), 0, b"\x02"),
        altered(update(Codec.INT8), 1, b"\x01"),
        altered(update(Codec.INT8), 2, b"\x04"),
        altered(update(Codec.INT8), 3, b"\x01"),
        altered(update(Codec.INT8), 4, b"\x04"),
        altered(update(Codec.INT8), 8, bytes(4)),
        altered(update(Codec.INT8), 12, bytes(4)),
        altered(update(Codec.INT8), 8, b"\xff\xff\xff\xff"),
        update(Codec.INT8)[:-1],
        update(Codec.INT8) + b"\x00",
        altered(update(Codec.TERNARY), 16, b"\xf3"),
        altered(update(Codec.TERNARY), 17, b"\x00"),
    ],
)
def test_updates_that_are_refused_change_nothing(core: Runner, blob: bytes) -> None:
    base = head()
    answer = core.ask("a", struct.pack("<HHI", 3, 3, len(base)), base, struct.pack("<I", len(blob)), blob)
    assert answer.number() == KF_ERR_BLOB
    assert not answer.array("<i2", 9).any() and not answer.array("<i4", 3).any()


@CORE
@given(
    codec=st.sampled_from(Codec),
    mutations=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(-3, 3),
)
def test_mutated_updates(core: Runner, codec: Codec, mutations: list[tuple[int, int]], cut: int) -> None:
    blob = bytearray(update(codec))
    for at, value in mutations:
        blob[at % len(blob)] = value
    data = bytes(blob[:cut]) if cut < 0 else bytes(blob) + bytes(cut)
    assert accept(core, data) in (KF_OK, KF_ERR_BLOB)


# ---- a round that the core refuses: stage 0 ring, 1 residual, 2 head, 3 training


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"y": np.array([0, 3])}, (0, KF_ERR_ARG)),
        ({"holdout": 1}, (0, KF_ERR_ARG)),
        ({"holdout": 3}, (0, KF_ERR_ARG)),
        ({"capacity": 0}, (0, KF_ERR_ARG)),
        ({"head": b"\x01\x01"}, (2, KF_ERR_BLOB)),
        ({"head": make_head(np.ones((3, 4), np.int64), np.ones(3, np.int64), 1)}, (2, KF_ERR_SHAPE)),
        ({"q": np.zeros((0, 3), np.int8), "y": np.zeros(0, np.int64)}, (3, KF_ERR_STATE)),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, tuple) else next(iter(v)),
)
def test_rounds_that_are_refused(core: Runner, change: dict[str, object], expected: tuple[int, int]) -> None:
    arguments = {
        "head": head(),
        "q": np.zeros((2, 3), np.int8),
        "y": np.array([0, 2]),
        "config": TrainConfig(1, 4, Rate(20000, 20), Rate(20000, 20)),
        "classes": 3,
        "x_zp": 0,
        "capacity": 10,
        "holdout": 5,
        "codec": Codec.INT8,
    } | change
    assert core.round(**arguments) == expected  # type: ignore[arg-type]
