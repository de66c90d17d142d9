"""The head: blobs to the byte, quantising in exact integers, and writing into the file in place."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilofed_tools import flat, heads, metadata
from kilofed_tools.adapt import adapt
from kilofed_tools.errors import HeadError, ModelContractError
from kilofed_tools.evaluate import Runner, features, head_logits
from kilofed_tools.flat import Table
from kilofed_tools.heads import Head, HeadSpec
from kilofed_tools.prune import prune
from kilofed_tools.tflite import read_model

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ROOT / "tests/data/foreign"


@pytest.fixture(scope="module")
def digits() -> bytes:
    return (ROOT / "models/digits/digits.tflite").read_bytes()


@pytest.fixture(scope="module")
def spec(digits: bytes) -> HeadSpec:
    return heads.find_head(digits)


def random_master(classes: int, features: int, top: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-top, top + 1, (classes, features)).astype(np.int32)
    room = min(heads.BIAS_MAX, 100 * top)
    return weights, rng.integers(-room, room + 1, classes).astype(np.int32)


# ---------------------------------------------------------------- blobs


def test_the_blob_is_the_documented_one_to_the_byte() -> None:
    weights = np.array([[1, -1, 7], [-7, 0, 3]], np.int8)
    head = Head(2, 3, 70000, weights, np.array([-5, 15000], np.int32), 0.5, -3)
    start = bytes([1, 1]), struct.pack("<bHHIf", -3, 2, 3, 70000, 0.5)
    bias = struct.pack("<ii", -5, 15000)
    int8 = bytes([1, 255, 7, 249, 0, 3]) + bytes(2)
    int4 = bytes([0xF1, 0x97, 0x30]) + bytes(1)  # low nibble first: 1, -1 | 7, -7 | 0, 3
    assert heads.encode_head(head, heads.CODEC_INT8) == start[0] + b"\x01" + start[1] + int8 + bias
    assert heads.encode_head(head, heads.CODEC_INT4) == start[0] + b"\x02" + start[1] + int4 + bias
    wide = struct.pack("<6i", 1, -1, 7, -7, 0, 3)
    assert heads.encode_head(head, heads.CODEC_INT32) == start[0] + b"\x00" + start[1] + wide + bias


def test_sizes_of_the_digits_head(digits: bytes) -> None:
    head = heads.read_head(digits)
    assert [len(heads.encode_head(head, codec)) for codec in (0, 1, 2)] == [1336, 376, 216]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 9),
    st.integers(1, 11),
    st.sampled_from([0, 1, 2]),
    st.integers(1, 60000),
    st.integers(0, 2**32),
)
def test_decode_of_encode_is_the_head(classes: int, count: int, codec: int, step: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    top = 7 if codec == heads.CODEC_INT4 else 127
    weights = rng.integers(-top, top + 1, (classes, count)).astype(np.int8)
    bias = rng.integers(-(2**30) // step, 2**30 // step + 1, classes).astype(np.int32)
    head = Head(
        classes, count, step, weights, bias, float(np.float32(rng.uniform(1e-4, 10))), int(seed % 256) - 128
    )
    blob = heads.encode_head(head, codec)
    back = heads.decode_head(blob)
    assert np.array_equal(back.weights, weights)
    assert np.array_equal(back.bias, bias)
    assert (back.step, back.out_scale, back.out_zp) == (step, head.out_scale, head.out_zp)
    assert heads.encode_head(back, codec) == blob
    for length in range(len(blob)):
        with pytest.raises(HeadError):
            heads.decode_head(blob[:length])
    with pytest.raises(HeadError):
        heads.decode_head(blob + b"\0")


def set_at(position: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda blob: blob[:position] + value + blob[position + len(value) :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_at(0, b"\x02"), "version 2"),
        (set_at(1, b"\x02"), "kind 2"),
        (set_at(2, b"\x03"), "unknown head codec 3"),
        (set_at(4, b"\x03\x00"), "a head of 3 x 2 has 32 bytes, not 28"),
        (set_at(6, b"\x09\x00"), "a head of 2 x 9 has 36 bytes, not 28"),
        (set_at(8, bytes(4)), "step 0"),
        (set_at(8, b"\xff\xff\xff\xff"), "step 4294967295"),
        (set_at(12, struct.pack("<f", -1.0)), "output quantization"),
        (set_at(12, struct.pack("<f", float("nan"))), "output quantization"),
        (set_at(12, struct.pack("<f", float("inf"))), "output quantization"),
        (set_at(12, struct.pack("<f", 1e-40)), "output quantization"),
        (set_at(19, b"\x01"), "padding is not zero"),
        (set_at(20, struct.pack("<i", -(2**31))), "a bias of"),
    ],
)
def test_damaged_blobs_are_refused(change: Callable[[bytes], bytes], words: str) -> None:
    head = Head(2, 2, 4, np.array([[1, 2], [3, -4]], np.int8), np.array([5, 6], np.int32), 0.25, 9)
    blob = heads.encode_head(head, heads.CODEC_INT4)
    assert len(blob) == 28
    # two bytes of nibbles at 16, two of padding, biases from 20
    blob = change(blob)
    with pytest.raises(HeadError, match=re.escape(words)):
        heads.decode_head(blob)


def test_an_odd_last_nibble_must_be_zero() -> None:
    head = Head(3, 1, 4, np.array([[1], [2], [3]], np.int8), np.zeros(3, np.int32), 0.25, 9)
    blob = bytearray(heads.encode_head(head, heads.CODEC_INT4))
    blob[17] |= 0x10
    with pytest.raises(HeadError, match="last nibble"):
        heads.decode_head(bytes(blob))


def test_heads_out_of_range_are_not_encoded() -> None:
    good = Head(2, 2, 4, np.array([[1, 9], [3, -4]], np.int8), np.array([5, 6], np.int32), 0.25, 9)
    with pytest.raises(HeadError, match="outside -8 to 7"):
        heads.encode_head(good, heads.CODEC_INT4)
    with pytest.raises(HeadError, match="unknown head codec 9"):
        heads.encode_head(good, 9)
    with pytest.raises(HeadError, match="are not a head of 2 x 3"):
        heads.encode_head(Head(2, 3, 4, good.weights, good.bias, 0.25, 9))
    with pytest.raises(HeadError, match="1 x 2 is out of range"):
        heads.encode_head(Head(1, 2, 4, good.weights[:1], good.bias[:1], 0.25, 9))


# ---------------------------------------------------------------- masters


@settings(max_examples=60, deadline=None)
@given(st.integers(1, heads.WEIGHT_MAX), st.sampled_from([1, 2]), st.integers(0, 2**32))
def test_quantising_follows_the_rule_in_exact_fractions(top: int, codec: int, seed: int) -> None:
    spec = SPEC
    weights, bias = random_master(spec.classes, spec.features, top, seed)
    head = heads.quantise(spec, weights, bias, codec=codec)
    limit = 7 if codec == heads.CODEC_INT4 else 127
    largest = int(np.abs(weights.astype(np.int64)).max())
    step = max(1, -(-largest // limit))
    assert head.step == step
    for master, codes in ((weights, head.weights), (bias, head.bias)):
        for value, code in zip(master.ravel().tolist(), codes.ravel().tolist(), strict=True):
            assert code == (Fraction(value, step) + Fraction(1, 2)).__floor__()
    assert np.abs(head.weights).max() <= limit
    back, back_bias = heads.master(head)
    assert np.array_equal(back, head.weights.astype(np.int64) * step)
    assert 2 * np.abs(back.astype(np.int64) - weights).max() <= step
    assert 2 * np.abs(back_bias.astype(np.int64) - bias).max() <= step
    # what is on the grid already stays there
    again = heads.quantise(spec, back, back_bias, codec=codec)
    if again.step == step:
        assert np.array_equal(again.weights, head.weights)
    # the largest logits of the calibration features stay inside the output range, zero too
    x = spec.calib.astype(np.int64) - spec.zp_x
    logits = (x @ head.weights.astype(np.int64).T + head.bias) * step * 2.0**-20
    low, high = ((end - head.out_zp) * head.out_scale for end in (-128, 127))
    slack = head.out_scale
    assert low <= min(0.0, 1.2 * logits.min()) + slack
    assert high >= max(0.0, 1.2 * logits.max()) - slack


SPEC = heads.find_head((ROOT / "models/digits/digits.tflite").read_bytes())


def test_a_zero_master_has_step_one(spec: HeadSpec) -> None:
    head = heads.quantise(spec, np.zeros((10, 32), np.int32), np.zeros(10, np.int32))
    assert (head.step, head.out_scale, head.out_zp) == (1, float(np.float32(1 / 4000)), -128)


def test_wrong_masters_are_refused(spec: HeadSpec) -> None:
    weights, bias = random_master(10, 32, 1000, 1)
    with pytest.raises(HeadError, match="does not fit"):
        heads.quantise(spec, weights[:9], bias)
    with pytest.raises(HeadError, match="does not fit"):
        heads.quantise(spec, weights, bias[:9])
    with pytest.raises(HeadError, match="calibration features"):
        heads.quantise(spec, weights, bias, spec.calib[:0])
    with pytest.raises(HeadError, match="a weight is above"):
        heads.quantise(spec, weights + np.int32(heads.WEIGHT_MAX), bias)
    with pytest.raises(HeadError, match="a bias is above"):
        heads.quantise(spec, weights, bias + np.int32(heads.BIAS_MAX + 200000))


# ---------------------------------------------------------------- in the file


def test_the_head_of_the_digits_is_found(spec: HeadSpec) -> None:
    assert (spec.classes, spec.features, spec.zp_x) == (10, 32, -128)
    assert spec.labels == tuple("0123456789")
    assert spec.calib.shape == (64, 32)
    assert spec.ms > 256
    assert (spec.lr, spec.batch, spec.epochs) == (0.1, 16, 2)


@pytest.mark.parametrize("top", [0, 1, 126, 127, 128, 40000, heads.WEIGHT_MAX])
def test_writing_changes_its_places_and_nothing_else(digits: bytes, spec: HeadSpec, top: int) -> None:
    head = heads.quantise(spec, *random_master(10, 32, top, top))
    written = heads.write_head(digits, head)
    assert len(written) == len(digits)
    changed = np.flatnonzero(np.frombuffer(written, np.uint8) != np.frombuffer(digits, np.uint8))
    allowed = {i for start, size in spec.places.values() for i in range(start, start + size)}
    assert set(changed.tolist()) <= allowed
    back = heads.read_head(written)
    assert heads.encode_head(back) == heads.encode_head(head)
    assert heads.backbone_hash(written) == heads.backbone_hash(digits)
    assert heads.file_hash(written) == hashlib.blake2b(written, digest_size=8).digest()
    assert heads.backbone(written) == heads.backbone(digits)
    # scales as TFLite reads them
    model = read_model(written)
    x, w, b = (model.tensors[i] for i in (spec.features_tensor, spec.weights_tensor, spec.bias_tensor))
    assert w.scales[0] == np.float32(head.step * 2.0**-20 / float(x.scales[0]))
    assert b.scales[0] == x.scales[0] * w.scales[0]


def logits_only(model: bytes) -> bytes:
    """The model without its SOFTMAX, to compare inner values."""
    parsed = read_model(model)
    spec = heads.find_head(parsed)
    if spec.softmax is None:
        return model
    graph = parsed.subgraph
    graph.values["operators"] = graph.tables("operators")[: spec.softmax]
    graph.values["outputs"] = np.array([spec.out_tensor], np.int32)
    return flat.write(prune(parsed.tree))


def by_tflm(model: bytes, samples: Any) -> Any:
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    interpreter = runtime.Interpreter.from_bytes(model)
    shape = read_model(model).tensors[read_model(model).inputs[0]].shape
    out = []
    for sample in samples:
        interpreter.set_input(sample.reshape(shape), 0)
        interpreter.invoke()
        out.append(interpreter.get_output(0).ravel().copy())
    return np.array(out)


@pytest.mark.parametrize("name", ["digits", "plain", "logits", "only_head", "conv_whole", "binary"])
@pytest.mark.parametrize("top", [3, 900, 70000, heads.WEIGHT_MAX])
def test_both_runtimes_agree_with_numpy_on_a_written_head(name: str, top: int) -> None:
    path = ROOT / "models/digits/digits.tflite" if name == "digits" else FOREIGN / f"{name}.tflite"
    model = adapt(path.read_bytes()).model
    spec = heads.find_head(model)
    head = heads.quantise(spec, *random_master(spec.classes, spec.features, top, 7))
    written = heads.write_head(model, head)
    size = np.prod(read_model(model).tensors[read_model(model).inputs[0]].shape)
    samples = np.random.default_rng(top).integers(-128, 128, (40, int(size)), np.int8)
    expected = head_logits(head, features(model, samples), s_x=spec.s_x, zp_x=spec.zp_x)
    cut = logits_only(written)
    assert np.array_equal(Runner(cut).run(samples), expected)
    assert np.array_equal(by_tflm(cut, samples), expected)
    assert np.array_equal(Runner(written).run(samples), by_tflm(written, samples))
    assert len(np.unique(expected)) > 5


def test_heads_of_another_shape_are_not_written(digits: bytes, spec: HeadSpec) -> None:
    head = heads.read_head(digits)
    with pytest.raises(HeadError, match="9 x 32 does not fit the model's 10 x 32"):
        heads.write_head(digits, Head(9, 32, 1, head.weights[:9], head.bias[:9], 1.0, 0))
    with pytest.raises(HeadError, match="not int8"):
        heads.write_head(digits, Head(10, 32, 1, head.weights.astype(np.int32) + 200, head.bias, 1.0, 0))


def test_the_backbone_is_a_model_of_its_own(digits: bytes, spec: HeadSpec) -> None:
    cut = heads.backbone(digits)
    model = read_model(cut)
    assert [op.name for op in model.operators] == ["CONV_2D"] * 3 + ["MEAN", "FULLY_CONNECTED"]
    assert model.tensors[model.outputs[0]].shape == (1, 32)
    assert metadata.read_metadata(cut, metadata.HEAD) is None
    samples = np.random.default_rng(3).integers(-128, 128, (30, 784), np.int8)
    assert np.array_equal(Runner(cut).run(samples), by_tflm(cut, samples))
    # a plan counts tensors, so it must not survive the cut
    for name in metadata.PLANS:
        planned = metadata.write_metadata(digits, name, metadata.encode_plan([-1] * 19))
        assert metadata.read_metadata(heads.backbone(planned), name) is None


def test_labels_hash_tells_lists_apart() -> None:
    assert heads.labels_hash(["a", "b"]) == hashlib.blake2b(b"a\0b", digest_size=8).digest()
    assert heads.labels_hash(["ab", "c"]) != heads.labels_hash(["a", "bc"])
    assert heads.labels_hash(("a", "b")) == heads.labels_hash(["a", "b"])


# ---------------------------------------------------------------- models outside the contract


def tensor(tree: Table, index: int) -> Table:
    return tree.tables("subgraphs")[0].tables("tensors")[index]


def quantization(tree: Table, index: int) -> Table:
    found = tensor(tree, index).table("quantization")
    assert found is not None
    return found


def operator(tree: Table, index: int) -> Table:
    return tree.tables("subgraphs")[0].tables("operators")[index]


def share_buffer(tree: Table) -> None:
    """Another tensor of the head's bytes: a 10 x 32 constant nobody needs."""
    twin = tensor(tree, SPEC.weights_tensor)
    tree.tables("subgraphs")[0].tables("tensors").append(twin)


def drop_bias(tree: Table) -> None:
    op = operator(tree, SPEC.op)
    op.values["inputs"] = op.numbers("inputs")[:2]


def activate(tree: Table) -> None:
    options = operator(tree, SPEC.op).table("builtin_options")
    assert options is not None
    options.values["fused_activation_function"] = 1


def beta(tree: Table) -> None:
    options = operator(tree, SPEC.op + 1).table("builtin_options")
    assert options is not None
    options.values["beta"] = 2.0


def shuffle(tree: Table) -> None:
    options = operator(tree, SPEC.op).table("builtin_options")
    assert options is not None
    options.values["weights_format"] = 1


def bare(index: int, name: str) -> Callable[[Table], None]:
    return lambda tree: quantization(tree, index).values.pop(name)


def other_op(tree: Table) -> None:
    entry = next(e for e in tree.tables("metadata") if e.text("name") == metadata.HEAD)
    buffer = tree.tables("buffers")[entry.number("buffer")]
    payload = buffer.numbers("data").tobytes().replace(b"\x62op\x05", b"\x62op\x04")
    buffer.values["data"] = np.frombuffer(payload, np.uint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (share_buffer, "shares a buffer"),
        (drop_bias, "has no bias"),
        (activate, "fused activation"),
        (beta, "beta other than 1"),
        (shuffle, "shuffled"),
        (bare(SPEC.out_tensor, "zero_point"), "output zero point is not written out"),
        (lambda tree: quantization(tree, SPEC.weights_tensor).values.update(zero_point=[3]), "around 0"),
        (lambda tree: quantization(tree, SPEC.features_tensor).values.update(scale=[0.0]), "out of range"),
        (lambda tree: quantization(tree, SPEC.features_tensor).values.update(scale=[1e-38]), "out of range"),
        (lambda tree: quantization(tree, SPEC.out_tensor).values.update(scale=[1e38]), "out of range"),
        (other_op, "names operator 4"),
    ],
)
def test_models_outside_the_contract_are_named(digits: bytes, change: Any, words: str) -> None:
    tree = flat.read(digits)
    change(tree)
    with pytest.raises(ModelContractError, match=words):
        heads.find_head(flat.write(tree))


def test_shared_vectors_in_the_file_are_noticed(digits: bytes, spec: HeadSpec) -> None:
    """Point the quantization of the weights at the bias's scale: a patch of one would change the other."""
    model = read_model(digits)
    w = model.tensors[spec.weights_tensor].table.table("quantization")
    b = model.tensors[spec.bias_tensor].table.table("quantization")
    assert w is not None
    assert b is not None
    # the offset field of w's scale vector: the uint32 that leads to its count
    count_at = w.at["scale"] - 4
    slots = [
        i for i in range(0, len(digits) - 4, 4) if i + struct.unpack_from("<I", digits, i)[0] == count_at
    ]
    assert len(slots) == 1
    shared = bytearray(digits)
    struct.pack_into("<I", shared, slots[0], b.at["scale"] - 4 - slots[0])
    with pytest.raises(ModelContractError, match="shared with something else"):
        heads.find_head(bytes(shared))


def test_scales_off_the_grid_are_noticed(digits: bytes, spec: HeadSpec) -> None:
    for name, words in (("w_scale", "whole step"), ("b_scale", "product of its input")):
        start, _ = spec.places[name]
        wrong = digits[:start] + struct.pack("<f", 0.0123) + digits[start + 4 :]
        with pytest.raises(ModelContractError, match=words):
            heads.read_head(wrong)
