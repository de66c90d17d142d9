"""Update blobs: what goes in comes out, what is wrong is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilofed_tools.errors import UpdateError
from kilofed_tools.trainer import BIAS_MAX, WEIGHT_MAX
from kilofed_tools.updates import (
    DELTA_B_MAX,
    DELTA_W_MAX,
    Codec,
    Residual,
    Update,
    base_of,
    decode_update,
    encode_update,
    update_bytes,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors/params.json").read_text()
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Residual]:
    """A trained head, its base and a residual, over shapes that divide badly and magnitudes up to the
    limits."""
    classes, features = draw(st.integers(1, 12)), draw(st.sampled_from([1, 2, 3, 5, 7, 11, 13]))
    spread_w = draw(st.sampled_from([0, 1, 7, 200, 9000, WEIGHT_MAX]))
    spread_b = draw(st.sampled_from([0, 1, 127, 10**6, BIAS_MAX]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def ints(spread: int, *shape: int) -> np.ndarray:
        return rng.integers(-spread, spread, shape, endpoint=True).astype(np.int32)

    residual = Residual(
        ints(min(spread_w, 32767), classes, features).astype(np.int16), ints(min(spread_b, 2**20), classes)
    )
    return (
        ints(spread_w, classes, features),
        ints(spread_b, classes),
        ints(spread_w, classes, features),
        ints(spread_b, classes),
        residual,
    )


@given(changes(), st.sampled_from(Codec))
def test_decode_of_encode_plus_the_residual_is_the_change(case: Any, codec: Codec) -> None:
    W, b, base_W, base_b, residual = case
    blob, left = encode_update(W, b, base_W, base_b, codec, residual)
    classes, features = W.shape
    assert len(blob) == update_bytes(codec, classes, features)
    update = decode_update(blob, classes, features, "north")
    v = W.astype(np.int64) - base_W + residual.W
    v_b = np.clip(b.astype(np.int64) - base_b + residual.b, -BIAS_MAX, BIAS_MAX)
    # What could not be kept in an int16 is the only loss.
    assert (np.clip(v - update.W, -32768, 32767) == left.W).all()
    assert (left.b == v_b - update.b).all()
    if codec == Codec.INT32:
        assert (v == update.W).all() and (update.b == v_b).all() and not left.W.any() and not left.b.any()


@given(changes(), st.sampled_from([Codec.INT8, Codec.INT4]))
def test_rounding_leaves_at_most_half_a_step(case: Any, codec: Codec) -> None:
    W, b, base_W, base_b, residual = case
    blob, _ = encode_update(W, b, base_W, base_b, codec, residual)
    step, step_b = struct.unpack_from("<II", blob, 8)
    update = decode_update(blob, *W.shape, "north")
    assert np.abs(2 * (W.astype(np.int64) - base_W + residual.W - update.W)).max() <= step
    top = 127 if codec == Codec.INT8 else 7
    largest = int(np.abs(W.astype(np.int64) - base_W + residual.W).max())
    assert step == max(1, -(-largest // top))
    assert step_b >= 1


@pytest.mark.parametrize("codec", Codec)
def test_error_feedback_loses_nothing_over_many_rounds(codec: Codec) -> None:
    """Sent so far plus what is left equals all changes so far, after every round."""
    rng = np.random.default_rng(8)
    residual = Residual.zeros(5, 7)
    base_W, base_b = np.zeros((5, 7), np.int32), np.zeros(5, np.int32)
    sent_W, sent_b = np.zeros((5, 7), np.int64), np.zeros(5, np.int64)
    all_W, all_b = sent_W.copy(), sent_b.copy()
    for _ in range(50):
        W, b = (
            rng.integers(-900, 1000, (5, 7)).astype(np.int32),
            rng.integers(-9000, 9999, 5).astype(np.int32),
        )
        blob, residual = encode_update(W, b, base_W, base_b, codec, residual)
        update = decode_update(blob, 5, 7, "north")
        sent_W, sent_b, all_W, all_b = sent_W + update.W, sent_b + update.b, all_W + W, all_b + b
        assert (sent_W + residual.W == all_W).all()
        assert (sent_b + residual.b == all_b).all()


def test_sizes_are_the_published_ones() -> None:
    assert [update_bytes(codec, 10, 32) for codec in Codec] == [1336, 346, 186, 90]
    assert update_bytes(Codec.INT4, 3, 3) == 16 + 5 + 3
    assert update_bytes(Codec.TERNARY, 3, 3) == 16 + 2 + 3


@pytest.mark.parametrize("case", VECTORS["updates"], ids=lambda c: f"{c['classes']}x{c['features']}")
def test_vectors(case: dict[str, Any]) -> None:
    shape = case["classes"], case["features"]
    W, base_W = (np.array(case[key], np.int32).reshape(shape) for key in ("W", "base_W"))
    b, base_b = (np.array(case[key], np.int32) for key in ("b", "base_b"))
    residual = Residual(
        np.array(case["residual_W"], np.int16).reshape(shape), np.array(case["residual_b"], np.int32)
    )
    for result in case["results"]:
        blob, left = encode_update(W, b, base_W, base_b, Codec(result["codec"]), residual)
        assert blob.hex() == result["blob"]
        assert left.W.reshape(-1).tolist() == result["residual_W"]
        assert left.b.tolist() == result["residual_b"]


@pytest.mark.parametrize("case", VECTORS["heads"], ids=lambda c: f"{c['classes']}x{c['features']}")
def test_vectors_of_bases(case: dict[str, Any]) -> None:
    codes = np.array(case["codes"]).reshape(case["classes"], case["features"])
    blob = bytes.fromhex(case["blob"])
    bias = np.frombuffer(blob[-4 * case["classes"] :], "<i4")
    W, b = base_of(codes, bias, case["step"])
    assert W.reshape(-1).tolist() == case["W"] and b.tolist() == case["b"]
    assert W.dtype == b.dtype == np.int32


# ---- refusals


def blob_of(codec: Codec, classes: int = 3, features: int = 3) -> bytes:
    rng = np.random.default_rng(1)
    W = rng.integers(-5000, 5000, (classes, features)).astype(np.int32)
    b = rng.integers(-5000, 5000, classes).astype(np.int32)
    return encode_update(W, b, 0 * W, 0 * b, codec)[0]


def altered(blob: bytes, at: int, value: bytes) -> bytes:
    return blob[:at] + value + blob[at + len(value) :]


INT8, INT4, TERNARY, INT32 = (blob_of(c) for c in (Codec.INT8, Codec.INT4, Codec.TERNARY, Codec.INT32))
REFUSED = {
    "nothing": b"",
    "half a header": INT8[:15],
    "version": altered(INT8, 0, b"\x02"),
    "kind": altered(INT8, 1, b"\x01"),
    "codec": altered(INT8, 2, b"\x04"),
    "reserved": altered(INT8, 3, b"\x01"),
    "classes": altered(INT8, 4, b"\x04"),
    "features": altered(INT8, 6, b"\x04"),
    "swapped shape": altered(blob_of(Codec.INT8, 2, 6), 4, b"\x06\x00\x02\x00"),
    "short": INT8[:-1],
    "long": INT8 + b"\x00",
    "another codec's length": altered(INT8, 2, b"\x02"),
    "no step": altered(INT8, 8, bytes(4)),
    "no bias step": altered(INT8, 12, bytes(4)),
    "a step on exact values": altered(INT32, 8, b"\x02"),
    "a bias step on exact values": altered(INT32, 12, b"\x02"),
    "weight of -128": altered(INT8, 16, b"\x80"),
    "bias of -128": altered(INT8, 25, b"\x80"),
    "nibble of -8": altered(INT4, 16, b"\x08"),
    "nibble padding": altered(INT4, 20, bytes([INT4[20] | 0x10])),
    "ternary byte above 242": altered(TERNARY, 16, b"\xf3"),
    "ternary padding": altered(TERNARY, 17, b"\x00"),
    "huge step": altered(INT8, 8, b"\xff\xff\xff\xff"),
    "huge bias step": altered(INT8, 12, b"\xff\xff\xff\xff"),
    "huge exact weight": altered(INT32, 16, struct.pack("<i", DELTA_W_MAX + 1)),
    "huge exact bias": altered(INT32, 16 + 36, struct.pack("<i", -DELTA_B_MAX - 1)),
}


@pytest.mark.parametrize("blob", REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_the_culprit(blob: bytes) -> None:
    with pytest.raises(UpdateError) as refusal:
        decode_update(blob, 3, 3, "attic")
    assert refusal.value.device == "attic"
    assert "attic" in str(refusal.value) and refusal.value.next_step


@pytest.mark.parametrize("codec", Codec)
def test_the_unaltered_blobs_are_fine(codec: Codec) -> None:
    assert decode_update(blob_of(codec), 3, 3, "attic").name == "attic"


def test_shapes_outside_the_limits_are_refused_even_if_expected() -> None:
    blob = struct.pack("<BBBBHHII", 1, 2, 1, 0, 0, 0, 1, 1)
    with pytest.raises(UpdateError):
        decode_update(blob, 0, 0, "attic")


@given(st.binary(max_size=80))
def test_random_bytes_are_an_update_or_an_update_error(data: bytes) -> None:
    try:
        decode_update(data, 3, 3, "attic")
    except UpdateError as error:
        assert error.device == "attic"


@given(
    st.sampled_from(Codec),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_mutations_stay_in_range_or_are_refused(codec: Codec, mutations: list[tuple[int, int]]) -> None:
    blob = bytearray(blob_of(codec))
    for at, value in mutations:
        blob[at % len(blob)] = value
    try:
        update = decode_update(bytes(blob), 3, 3, "attic")
    except UpdateError:
        return
    assert np.abs(update.W).max() <= DELTA_W_MAX and np.abs(update.b.astype(np.int64)).max() <= DELTA_B_MAX


@pytest.mark.parametrize(
    ("W", "b"),
    [
        (np.zeros(3, np.int32), np.zeros(3, np.int32)),
        (np.zeros((3, 3), np.int32), np.zeros(2, np.int32)),
        (np.zeros((3, 3)), np.zeros(3, np.int32)),
        (np.zeros((3, 3), np.int32), np.zeros(3, np.int64)),
        (np.full((3, 3), DELTA_W_MAX + 1, np.int32), np.zeros(3, np.int32)),
        (np.zeros((3, 3), np.int32), np.full(3, -DELTA_B_MAX - 1, np.int32)),
    ],
)
def test_an_update_built_by_hand_is_checked_too(W: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(UpdateError) as refusal:
        Update("attic", W, b)
    assert refusal.value.device == "attic"


def test_codec_names() -> None:
    assert [Codec.named(name) for name in ("int32", "int8", "int4", "ternary")] == list(Codec)
    with pytest.raises(UpdateError, match="int3"):
        Codec.named("int3")
