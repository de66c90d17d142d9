"""The C core and the numpy trainer give the same bytes, however the work is cut, over shapes that divide
badly."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilofed_tools import trainer
from kilofed_tools.heads import CODEC_INT4, CODEC_INT8, CODEC_INT32, Head, encode_head
from kilofed_tools.trainer import NO_RATE, Rate, TrainConfig
from kilofed_tools.updates import Codec, Residual, base_of, decode_update, encode_update, update_bytes

from .conftest import KF_OK, Round, Runner, make_head, random_rate

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
TRAINING: dict[str, Any] = json.loads((VECTORS / "training.json").read_text())
PARAMS: dict[str, Any] = json.loads((VECTORS / "params.json").read_text())
FEATURES = [1, 2, 3, 7, 16, 31, 32, 33, 64, 127, 255, 256, 257, 300]
WHOLE = 2**32 - 1


def random_case(seed: int) -> dict[str, Any]:
    """Everything a round needs, drawn from awkward values; the seed is the case's name."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 41))
    features = int(rng.choice(FEATURES))
    samples = int(rng.integers(5, 120))
    x_zp = int(rng.choice([-128, -128, 0, 127, rng.integers(-128, 128)]))
    q = rng.integers(-128, 128, (samples, features)).astype(np.int8)
    if seed % 2:
        q = np.maximum(q, x_zp).astype(np.int8)  # as after a ReLU
    head_codec = int(rng.integers(0, 3))
    low, high = [(-(2**23), 2**23), (-128, 128), (-8, 8)][head_codec]
    weights = rng.integers(low, high, (classes, features))
    if seed % 4 == 0:
        weights[:] = 0
    bias = rng.integers(-(2**31), 2**31, classes) if seed % 5 == 0 else rng.integers(-999, 1000, classes)
    steps = [1, 2] if head_codec == 0 else [1, 3, 77, 900, 66052, 1 << 20, 1 << 23]
    low_shift, high_shift = [(1, 38), (20, 30), (10, 17), (28, 38)][seed % 4]
    return {
        "classes": classes,
        "head": (weights, bias, int(rng.choice(steps)), head_codec),
        "q": q,
        "y": rng.integers(0, classes, samples),
        "x_zp": x_zp,
        # Sometimes smaller than the samples: the ring wraps. 257 and more: two bytes a slot.
        "capacity": int(rng.choice([70, 140, 280, 350])),
        "holdout": int(rng.choice([0, 2, 5, 7])),
        "codec": Codec(int(rng.integers(0, 4))),
        "residual": Residual(
            rng.integers(-(2**15), 2**15, (classes, features)).astype(np.int16),
            rng.integers(-(2**20), 2**20, classes).astype(np.int32),
        ),
        "config": TrainConfig(
            epochs=int(rng.integers(1, 4)),
            batch=int(rng.choice([1, 2, 3, 5, 16, 17, 64, 256])),
            lr_w=random_rate(rng, low_shift, high_shift),
            lr_b=random_rate(rng, 1, 30),
            prox=random_rate(rng, 14, 38) if seed % 3 == 0 else NO_RATE,
            seed=int(rng.integers(0, 2**32)),
        ),
        "max_macs": int(rng.integers(1, 5000)),
    }


def on_core(core: Runner, case: dict[str, Any], **change: Any) -> Round:
    arguments = case | change
    weights, bias, step, codec = arguments.pop("head")
    answer = core.round(
        make_head(weights, bias, step, codec=codec), arguments.pop("q"), arguments.pop("y"), **arguments
    )
    assert isinstance(answer, Round), f"the core refused (stage, status): {answer}"
    return answer


def compare(case: dict[str, Any], device: Round) -> None:
    """The same round in numpy, down to every byte that a device could show."""
    weights, bias, step, _ = case["head"]
    samples, capacity = len(case["y"]), case["capacity"]
    newest = np.array([i if i + capacity >= samples else i + capacity for i in range(min(samples, capacity))])
    x, y = case["q"].astype(np.int64)[newest] - case["x_zp"], case["y"][newest]
    kept, held = trainer.split(len(y), case["holdout"])
    W0, b0 = base_of(weights, bias, step)
    result = trainer.train(W0, b0, x[kept], y[kept], case["config"], base=(W0, b0))
    assert (device.W == result.W).all()
    assert (device.b == result.b).all()
    assert (device.samples, device.held_out) == (result.samples, len(held))
    assert (device.loss_q12, device.peak_q12) == (result.loss_q12, result.peak_q12)
    assert device.head_correct == trainer.evaluate(W0, b0, x[held], y[held])
    assert device.params_correct == trainer.evaluate(result.W, result.b, x[held], y[held])
    blob, left = encode_update(result.W, result.b, W0, b0, case["codec"], case["residual"])
    assert device.update == blob
    assert (device.residual.W == left.W).all() and (device.residual.b == left.b).all()
    update = decode_update(device.update, *result.W.shape, "device")
    if case["codec"] == Codec.INT32:
        assert (result.W.astype(np.int64) - W0 + case["residual"].W == update.W).all()


@pytest.mark.parametrize("seed", range(150))
def test_core_equals_numpy(core: Runner, seed: int) -> None:
    case = random_case(seed)
    compare(case, on_core(core, case))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(150, 2**32 - 1))
def test_core_equals_numpy_anywhere(core: Runner, seed: int) -> None:
    case = random_case(seed)
    compare(case, on_core(core, case))


def test_large_heads_and_batches(core: Runner) -> None:
    """The corners of the limits: F = 2048 (int64 sums), C = 300 (two-byte labels), a batch of 256."""
    rng = np.random.default_rng(9)
    for classes, features, samples, codec in (
        (2, 2048, 12, Codec.TERNARY),
        (300, 5, 260, Codec.INT4),
        (1024, 2, 3, Codec.INT8),
    ):
        case = random_case(1) | {
            "classes": classes,
            "head": (rng.integers(-128, 128, (classes, features)), rng.integers(-99, 99, classes), 66052, 1),
            "q": rng.integers(-128, 128, (samples, features)).astype(np.int8),
            "y": rng.integers(0, classes, samples),
            "capacity": 260,
            "holdout": 0,
            "codec": codec,
            "residual": Residual.zeros(classes, features),
            "config": TrainConfig(2, 256, Rate(20000, 26), Rate(20000, 16), Rate(20000, 20), 3),
        }
        compare(case, on_core(core, case))


@pytest.mark.parametrize("seed", [1, 3, 6])
def test_how_the_work_is_cut_changes_no_byte(core: Runner, seed: int) -> None:
    case = random_case(seed)
    whole = on_core(core, case, max_macs=WHOLE)
    assert whole.slices == 0 and whole.update_slices == 0
    for max_macs in (0, 1, 7, 100, 997, 20000):
        cut = on_core(core, case, max_macs=max_macs)
        assert (cut.W == whole.W).all() and (cut.b == whole.b).all()
        assert cut.update == whole.update and cut.personal == whole.personal
        assert (cut.residual.W == whole.residual.W).all()
        assert (cut.loss_q12, cut.params_correct) == (whole.loss_q12, whole.params_correct)
        if max_macs <= 1:
            assert cut.slices > 100


def test_slices_keep_to_their_budget(core: Runner) -> None:
    """Work is 2 C F multiply-accumulates a sample and epoch; a slice of M does at least M of it or what costs
    as much."""
    case = random_case(1)
    classes, features = case["classes"], case["q"].shape[1]
    config = case["config"]
    samples = on_core(core, case, max_macs=WHOLE).samples
    work = 2 * classes * features * samples * config.epochs
    for max_macs in (500, 5000):
        slices = on_core(core, case, max_macs=max_macs).slices
        assert slices >= work / (max_macs + max(8 * features, 8 * classes, 8 * config.batch + 64)) - 1


# ---- single numbers


def test_vectors_of_single_numbers(core: Runner) -> None:
    for case in TRAINING["random"]:
        answer = core.ask("p", struct.pack("<II", case["seed"], 4))
        assert answer.numbers(5) == [case["state"], *case["next"]]
    for case in TRAINING["scale"]:
        values = case["values"]
        answer = core.ask(
            "m",
            struct.pack("<HBI", case["mantissa"], case["shift"], len(values)),
            *(struct.pack("<i", v) for v in values),
        )
        for expected in case["results"]:
            fast, wide = answer.numbers(2)
            assert fast == max(-(2**30), min(2**30, expected))
            assert wide == expected
    for case in TRAINING["softmax"]:
        check_softmax(core, case["z"], case["label"], case["errors"], case["loss_q12"])


def check_softmax(core: Runner, z: list[int], label: int, errors: list[int], loss: int) -> None:
    answer = core.ask("s", struct.pack("<HH", len(z), label), *(struct.pack("<i", v) for v in z))
    assert answer.number() == loss
    assert answer.array("<i2", len(z)).tolist() == errors
    answer.end()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    z=st.one_of(
        st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=30),
        st.lists(st.integers(-40000, 40000), min_size=1, max_size=30),
        st.lists(st.integers(-20, 20), min_size=900, max_size=1024),
    ),
    pick=st.integers(0, 2**16),
)
def test_softmax_equals_numpy(core: Runner, z: list[int], pick: int) -> None:
    label = pick % len(z)
    errors, d_y, total = trainer.softmax_errors(np.array([z]), np.array([label]))
    check_softmax(core, z, label, errors[0].tolist(), int(trainer._losses(d_y, total)[0]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=50),
    mantissa=st.integers(1 << 14, (1 << 15) - 1),
    shift=st.integers(1, 46),
)
def test_the_32_bit_multiplication_equals_the_64_bit_one(
    core: Runner, values: list[int], mantissa: int, shift: int
) -> None:
    answer = core.ask(
        "m", struct.pack("<HBI", mantissa, shift, len(values)), *(struct.pack("<i", v) for v in values)
    )
    for v in values:
        fast, wide = answer.numbers(2)
        assert wide == (v * mantissa + (1 << (shift - 1))) >> shift
        assert fast == max(-(2**30), min(2**30, wide))


# ---- vectors of whole rounds and of blobs


@pytest.mark.parametrize("case", TRAINING["rounds"], ids=lambda c: f"{c['classes']}x{c['features']}")
@pytest.mark.parametrize("max_macs", [WHOLE, 50])
def test_vectors_of_rounds(core: Runner, case: dict[str, Any], max_macs: int) -> None:
    holdout = case["holdout"]
    y = np.array(case["labels"])
    capacity = -(-len(y) // holdout) * holdout if holdout else len(y)
    device = core.round(
        bytes.fromhex(case["head"]),
        np.frombuffer(bytes.fromhex(case["q"]), np.int8).reshape(len(y), -1),
        y,
        TrainConfig(**case["config"]),
        classes=case["classes"],
        x_zp=case["x_zp"],
        capacity=capacity,
        holdout=holdout,
        codec=Codec.INT8,
        max_macs=max_macs,
    )
    assert isinstance(device, Round)
    assert device.W.tobytes().hex() == case["W"]
    assert device.b.tolist() == case["b"]
    assert (device.loss_q12, device.peak_q12) == (case["loss_q12"], case["peak_q12"])
    assert device.held_out == case["held_out"]
    assert (device.head_correct, device.params_correct) == (case["correct_before"], case["correct_after"])
    assert device.personal.hex() == case["personal"]


@pytest.mark.parametrize("case", PARAMS["heads"], ids=lambda c: f"{c['classes']}x{c['features']}")
def test_vectors_of_heads(core: Runner, case: dict[str, Any]) -> None:
    blob = bytes.fromhex(case["blob"])
    answer = core.ask("h", struct.pack("<I", len(blob)), blob)
    classes, features = case["classes"], case["features"]
    assert answer.numbers(4) == [KF_OK, classes, features, case["step"]]
    assert answer.number() == struct.unpack("<I", struct.pack("<f", 0.1))[0]
    assert answer.number() == case["out_zp"]
    expanded = answer.number()
    assert answer.array("<i4", classes * features).tolist() == case["W"]
    assert answer.array("<i4", classes).tolist() == case["b"]
    if blob[2] != 0:
        assert expanded == KF_OK
        assert answer.array("<i1", classes * features).tolist() == case["codes"]


@pytest.mark.parametrize("codec", [CODEC_INT32, CODEC_INT8, CODEC_INT4])
def test_heads_of_the_tools_are_read_by_the_core(core: Runner, codec: int) -> None:
    """kilofed_tools.heads and params.h agree on the head blob."""
    rng = np.random.default_rng(codec)
    top = 7 if codec == CODEC_INT4 else 127
    weights = rng.integers(-top, top + 1, (3, 7)).astype(np.int8)
    bias = rng.integers(-5000, 5000, 3).astype(np.int32)
    blob = encode_head(Head(3, 7, 41, weights, bias, 0.0625, -9), codec)
    answer = core.ask("h", struct.pack("<I", len(blob)), blob)
    assert answer.numbers(6) == [KF_OK, 3, 7, 41, 0x3D800000, -9]
    answer.number()
    W, b = base_of(weights, bias, 41)
    assert (answer.array("<i4", 3, 7) == W).all() and (answer.array("<i4", 3) == b).all()


def test_the_personal_head_is_read_by_the_tools(core: Runner) -> None:
    from kilofed_tools.heads import decode_head

    device = on_core(core, random_case(1))
    head = decode_head(device.personal)
    W, b = base_of(head.weights, head.bias, head.step)
    assert np.abs(device.W.astype(np.int64) - W).max() <= head.step / 2
    assert np.abs(device.b.astype(np.int64) - b).max() <= head.step / 2
    assert head.out_scale * 127 >= 1.25 * device.peak_q12 / 4096 > head.out_scale * 127 / 2 / 1.01
    assert head.out_zp == 0


# ---- sizes


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    classes=st.integers(1, 1024),
    features=st.integers(1, 2048),
    batch=st.integers(1, 256),
    slots=st.integers(1, 13107),
    holdout=st.sampled_from([0, 2, 5]),
)
def test_sizes_are_the_tools(
    core: Runner, classes: int, features: int, batch: int, slots: int, holdout: int
) -> None:
    capacity = slots * 5
    answer = core.ask("z", struct.pack("<HHHHH", classes, features, batch, capacity, holdout))
    assert answer.number() == trainer.params_bytes(classes, features)
    assert answer.number() == trainer.residual_bytes(classes, features)
    assert answer.number() == trainer.ring_bytes(features, classes, capacity)
    assert answer.number() == trainer.train_bytes(classes, batch, capacity, holdout)
    head_and_update = answer.numbers(10)
    n = classes * features
    packed = [4 * n, n, (n + 1) // 2]
    assert head_and_update[0:6:2] == [16 + (p + 3) // 4 * 4 + 4 * classes for p in packed]
    assert head_and_update[6] == 0  # no ternary head
    assert head_and_update[1:8:2] == [update_bytes(codec, classes, features) for codec in Codec]
    assert head_and_update[8:] == [0, 0]  # no such codec


@pytest.mark.parametrize(
    ("classes", "features", "batch", "capacity", "holdout", "zero"),
    [
        (0, 3, 4, 10, 5, {0, 1, 2, 3}),
        (1025, 3, 4, 10, 5, {0, 1, 2, 3}),
        (3, 0, 4, 10, 5, {0, 1, 2}),
        (3, 2049, 4, 10, 5, {0, 1, 2}),
        (3, 3, 0, 10, 5, {3}),
        (3, 3, 257, 10, 5, {3}),
        (3, 3, 4, 0, 5, {2, 3}),
        (3, 3, 4, 10, 1, {3}),
    ],
)
def test_sizes_outside_the_limits_are_zero(
    core: Runner, classes: int, features: int, batch: int, capacity: int, holdout: int, zero: set[int]
) -> None:
    sizes = core.ask("z", struct.pack("<HHHHH", classes, features, batch, capacity, holdout)).numbers(4)
    assert {i for i, size in enumerate(sizes) if size == 0} == zero


def test_the_small_board_pays_what_the_budget_says() -> None:
    """C = 10, F = 32, batch 16, 80 slots with every fifth held out: the 16 KB board."""
    assert trainer.params_bytes(10, 32) == 1320
    assert trainer.residual_bytes(10, 32) == 680
    assert trainer.ring_bytes(32, 10, 80) == 2640
    assert trainer.train_bytes(10, 16, 80, 5) == 768
