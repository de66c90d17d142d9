"""Entries of Model.metadata: read, written in place or anew, and decoded with suspicion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilofed_tools.errors import ModelContractError
from kilofed_tools.evaluate import Runner
from kilofed_tools.metadata import (
    HEAD,
    LABELS,
    PLAN,
    HeadMeta,
    decode_head_meta,
    decode_labels,
    decode_plan,
    encode_head_meta,
    encode_labels,
    encode_plan,
    read_metadata,
    write_metadata,
)
from kilofed_tools.tflite import read_model

ROOT = Path(__file__).resolve().parents[2]
MODEL = (ROOT / "models/digits/digits.tflite").read_bytes()


def entries(model: bytes) -> dict[str, bytes | None]:
    names = [entry.text("name") for entry in read_model(model).tree.tables("metadata")]
    assert len(set(names)) == len(names)
    return {name: read_metadata(model, name) for name in names}


def graph(model: bytes) -> list[Any]:
    parsed = read_model(model)
    tensors = [
        (t.name, t.shape, t.type, None if t.data is None else t.data.tobytes()) for t in parsed.tensors
    ]
    return [
        tensors,
        [(op.name, op.inputs, op.outputs) for op in parsed.operators],
        parsed.inputs,
        parsed.outputs,
    ]


def test_a_new_entry_leaves_all_else() -> None:
    before = entries(MODEL)
    model = write_metadata(MODEL, "note", b"hello")
    assert entries(model) == before | {"note": b"hello"}
    assert graph(model) == graph(MODEL)
    samples = np.random.default_rng(1).integers(-128, 128, (3, 784), np.int8)
    assert np.array_equal(Runner(model).run(samples), Runner(MODEL).run(samples))


def test_an_entry_of_the_same_length_is_written_in_place() -> None:
    model = write_metadata(MODEL, "note", b"hello")
    other = write_metadata(model, "note", b"world")
    differing = [i for i, (a, b) in enumerate(zip(model, other, strict=True)) if a != b]
    assert len(other) == len(model)
    assert 1 <= len(differing) <= 5
    assert read_metadata(other, "note") == b"world"


def test_growing_shrinking_and_removing() -> None:
    first = write_metadata(MODEL, "note", b"hello")
    grown = write_metadata(first, "note", b"x" * 1000)
    assert read_metadata(grown, "note") == b"x" * 1000
    assert write_metadata(grown, "note", b"hello") == first
    removed = write_metadata(first, "note", None)
    assert read_metadata(removed, "note") is None
    assert entries(removed) == entries(MODEL)
    assert len(removed) <= len(MODEL)
    assert write_metadata(removed, "note", None) == removed
    assert write_metadata(removed, "note", b"hello") == first


def test_an_empty_entry_is_there() -> None:
    model = write_metadata(MODEL, "flag", b"")
    assert read_metadata(model, "flag") == b""
    assert read_metadata(write_metadata(model, "flag", b"1"), "flag") == b"1"


def test_many_entries_keep_their_own_bytes() -> None:
    model = MODEL
    for number in range(20):
        model = write_metadata(model, f"n{number}", bytes([number]) * (number + 1))
    for number in range(0, 20, 2):
        model = write_metadata(model, f"n{number}", None)
    for number in range(20):
        expected = bytes([number]) * (number + 1) if number % 2 else None
        assert read_metadata(model, f"n{number}") == expected
    assert graph(model) == graph(MODEL)


# ---------------------------------------------------------------- the head's entry


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 12),
    st.integers(1, 9),
    st.integers(1, 255 * 255 * 256),
    st.floats(1e-6, 64, allow_nan=False),
    st.integers(1, 256),
    st.integers(1, 255),
)
def test_the_head_entry_comes_back(
    classes: int, count: int, ms: int, lr: float, batch: int, epochs: int
) -> None:
    calib = np.random.default_rng(ms).integers(-128, 128, (4, count), np.int8)
    meta = HeadMeta(7, ms, calib, lr, batch, epochs)
    back = decode_head_meta(encode_head_meta(meta), features=count)
    assert (back.op, back.ms, back.lr, back.batch, back.epochs) == (7, ms, lr, batch, epochs)
    assert np.array_equal(back.calib, calib)
    labels = tuple(f"Klasse {c} é" for c in range(classes))
    assert decode_labels(encode_labels(labels), classes=classes) == labels


def good() -> dict[str, Any]:
    payload = read_metadata(MODEL, HEAD)
    assert payload is not None
    decoded: dict[str, Any] = cbor2.loads(payload)
    return decoded


def test_the_keys_are_the_documented_ones() -> None:
    decoded = good()
    assert list(decoded) == ["v", "op", "ms", "calib", "train"]
    assert list(decoded["train"]) == ["lr", "batch", "epochs"]
    assert decoded["v"] == 1
    assert isinstance(decoded["calib"], bytes)


BAD = [
    ({"v": 2}, "version 2"),
    ({"v": None}, "version None"),
    ({"op": -1}, "op -1"),
    ({"op": True}, "op True"),
    ({"op": "5"}, "op '5'"),
    ({"ms": 0}, "ms 0"),
    ({"ms": 1.5}, "ms 1.5"),
    ({"calib": b""}, "rows of 32"),
    ({"calib": b"x" * 33}, "rows of 32"),
    ({"calib": [1, 2]}, "rows of 32"),
    ({"train": None}, "no training defaults"),
    ({"train": {"lr": float("nan"), "batch": 16, "epochs": 2}}, "learning rate nan"),
    ({"train": {"lr": 0, "batch": 16, "epochs": 2}}, "learning rate 0"),
    ({"train": {"lr": 1e9, "batch": 16, "epochs": 2}}, "learning rate"),
    ({"train": {"lr": 0.1, "batch": 257, "epochs": 2}}, "batch 257"),
    ({"train": {"lr": 0.1, "batch": 16}}, "epochs None"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_head_entries_are_refused(change: dict[str, Any], words: str) -> None:
    payload = cbor2.dumps(good() | change)
    with pytest.raises(ModelContractError, match=words):
        decode_head_meta(payload, features=32)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\0".join([b"a"] * 9), "10 labels"),
        (b"0123456789", "10 labels"),
        (b"0\x001\x002\x003\x004\x005\x006\x007\x008\x00", "label ''"),
        (b"0\x001\x002\x003\x004\x005\x006\x007\x008\x00" + b"x" * 65, "64 bytes"),
        (b"\xff", "UTF-8"),
    ],
)
def test_bad_label_entries_are_refused(payload: bytes, words: str) -> None:
    with pytest.raises(ModelContractError, match=words):
        decode_labels(payload, classes=10)


def test_the_zoo_carries_its_labels() -> None:
    payload = read_metadata(MODEL, LABELS)
    assert payload == b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009"


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x01", cbor2.dumps([1]), cbor2.dumps({"v": 1}) + b"\0"])
def test_what_is_not_one_cbor_map_is_refused(payload: bytes) -> None:
    with pytest.raises(ModelContractError):
        decode_head_meta(payload, features=32)


@pytest.mark.parametrize("length", [1, 10, 100, 1000])
def test_a_cut_head_entry_is_refused(length: int) -> None:
    payload = read_metadata(MODEL, HEAD)
    assert payload is not None
    with pytest.raises(ModelContractError):
        decode_head_meta(payload[:-length], features=32)


# ---------------------------------------------------------------- the memory plan


def test_the_plan_is_tflite_micros_own_layout() -> None:
    payload = encode_plan([-1, 0, 784])
    assert payload == np.array([1, 0, 3, -1, 0, 784], "<i4").tobytes()
    assert decode_plan(payload, tensors=3).tolist() == [-1, 0, 784]
    model = write_metadata(MODEL, PLAN, encode_plan([-1] * len(read_model(MODEL).tensors)))
    assert read_metadata(model, PLAN) is not None


@pytest.mark.parametrize(
    "payload",
    [b"", b"abc", encode_plan([1, 2]), encode_plan([1, 2, 3]) + b"\0", b"\2" + encode_plan([1, 2, 3])[1:]],
)
def test_other_plans_are_refused(payload: bytes) -> None:
    with pytest.raises(ModelContractError, match="not a plan for 3 tensors"):
        decode_plan(payload, tensors=3)
