"""Aggregation: exact, blind to the order of arrival, and hard to fool."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilofed_tools.errors import StrategyError
from kilofed_tools.strategies import TOTAL_WEIGHT_MAX, FedAvg, Mean, ServerMomentum, apply
from kilofed_tools.trainer import BIAS_MAX, WEIGHT_MAX
from kilofed_tools.updates import DELTA_B_MAX, DELTA_W_MAX, Codec, Update, decode_update, encode_update

MASTER_W = np.array([[100, -200, 300], [7, 8, 9]], np.int32)
MASTER_B = np.array([5000, -5000], np.int32)


def update(name: str, seed: int = 0, spread_w: int = 4000, spread_b: int = 90000) -> Update:
    rng = np.random.default_rng(seed)
    W = rng.integers(-spread_w, spread_w, (2, 3), endpoint=True).astype(np.int32)
    return Update(name, W, rng.integers(-spread_b, spread_b, 2, endpoint=True).astype(np.int32))


@st.composite
def cohorts(draw: st.DrawFn) -> list[tuple[Update, int]]:
    spreads = draw(st.sampled_from([(1, 1), (4000, 90000), (DELTA_W_MAX, DELTA_B_MAX)]))
    weights = draw(st.lists(st.integers(1, 65535), min_size=1, max_size=8))
    seed = draw(st.integers(0, 2**32 - 9))
    return [(update(f"device {i}", seed + i, *spreads), weight) for i, weight in enumerate(weights)]


def summed(cohort: list[tuple[Update, int]]) -> FedAvg:
    average = FedAvg(2, 3)
    for one, weight in cohort:
        average.add(one, weight)
    return average


def same(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> bool:
    return bool((a[0] == b[0]).all() and (a[1] == b[1]).all())


# ---- what it computes


@given(cohorts(), st.randoms(use_true_random=False), st.integers(0, 8))
def test_neither_order_nor_grouping_changes_a_bit(
    cohort: list[tuple[Update, int]], rnd: Any, cut: int
) -> None:
    expected = summed(cohort).finish(MASTER_W, MASTER_B)
    shuffled = cohort[:]
    rnd.shuffle(shuffled)
    assert same(summed(shuffled).finish(MASTER_W, MASTER_B), expected)
    left, right = summed(shuffled[:cut]), summed(shuffled[cut:])
    left.merge(right)
    assert same(left.finish(MASTER_W, MASTER_B), expected)
    assert left.total_weight == sum(weight for _, weight in cohort)
    assert left.names == tuple(sorted(one.name for one, _ in cohort))


@given(cohorts())
def test_the_mean_is_the_exact_one_rounded_half_up(cohort: list[tuple[Update, int]]) -> None:
    mean = summed(cohort).mean()
    total = sum(weight for _, weight in cohort)
    for got, parts in ((mean.W, [(u.W, w) for u, w in cohort]), (mean.b, [(u.b, w) for u, w in cohort])):
        for index in np.ndindex(got.shape):
            exact = Fraction(sum(int(array[index]) * weight for array, weight in parts), total)
            assert got[index] == (exact + Fraction(1, 2)).__floor__()


@given(st.integers(0, 2**32 - 1), st.integers(1, 65535))
def test_one_client_is_the_identity(seed: int, weight: int) -> None:
    one = update("only", seed)
    new_W, new_b = summed([(one, weight)]).finish(MASTER_W, MASTER_B)
    assert (new_W == MASTER_W + one.W).all() and (new_b == MASTER_B + one.b).all()
    assert new_W.dtype == new_b.dtype == np.int32


def test_a_trained_head_comes_back_whole() -> None:
    """Through the exact codec the only client's head becomes the new master."""
    rng = np.random.default_rng(2)
    W, b = rng.integers(-9999, 9999, (2, 3)).astype(np.int32), rng.integers(-9999, 9999, 2).astype(np.int32)
    blob, _ = encode_update(W, b, MASTER_W, MASTER_B, Codec.INT32)
    average = FedAvg(2, 3)
    average.add(decode_update(blob, 2, 3, "only"), 17)
    assert same(average.finish(MASTER_W, MASTER_B), (W, b))


def test_clients_weigh_by_their_samples() -> None:
    ones = Update("a", np.ones((2, 3), np.int32) * 100, np.zeros(2, np.int32))
    zeros = Update("b", np.zeros((2, 3), np.int32), np.zeros(2, np.int32))
    assert (summed([(ones, 1), (zeros, 3)]).mean().W == 25).all()


def test_the_master_saturates() -> None:
    far = Mean(np.full((2, 3), 2**24, np.int64), np.full(2, -(2**31), np.int64))
    W, b = apply(far, MASTER_W, MASTER_B)
    assert (W == WEIGHT_MAX).all() and (b == -BIAS_MAX).all()


def test_memory_does_not_grow_with_the_cohort_but_for_names() -> None:
    average = FedAvg(2, 3)
    arrays = {name: value.nbytes for name, value in vars(average).items() if isinstance(value, np.ndarray)}
    for i in range(100):
        average.add(update(f"device {i}", i), 10)
    assert {n: v.nbytes for n, v in vars(average).items() if isinstance(v, np.ndarray)} == arrays


# ---- weights


def test_a_claim_above_the_ring_is_clamped_and_noted() -> None:
    honest = FedAvg(2, 3)
    honest.add(update("liar", 1), 80)
    honest.add(update("other", 2), 80)
    average = FedAvg(2, 3)
    assert average.add(update("other", 2), 80, ring=80) == 80
    assert average.add(update("liar", 1), 65535, ring=80) == 80
    assert same(average.finish(MASTER_W, MASTER_B), honest.finish(MASTER_W, MASTER_B))
    assert honest.notes == []
    assert len(average.notes) == 1 and "liar" in average.notes[0] and "65535" in average.notes[0]


@pytest.mark.parametrize("weight", [0, -1, 1.0, 0.5, "3", None, True, float("nan"), np.float64(2)])
def test_weights_that_are_refused(weight: Any) -> None:
    average = FedAvg(2, 3)
    with pytest.raises(StrategyError) as refusal:
        average.add(update("attic"), weight)
    assert refusal.value.device == "attic" and "attic" in str(refusal.value)
    assert average.total_weight == 0 and average.names == ()


def test_numpy_integers_are_integers() -> None:
    assert FedAvg(2, 3).add(update("a"), np.uint16(7)) == 7


def test_a_ring_of_nothing_is_refused() -> None:
    with pytest.raises(StrategyError, match="attic"):
        FedAvg(2, 3).add(update("attic"), 5, ring=0)


def test_a_total_beyond_the_bound_is_refused_and_adds_nothing() -> None:
    average = FedAvg(2, 3)
    average.add(update("a", 1, DELTA_W_MAX, DELTA_B_MAX), TOTAL_WEIGHT_MAX)
    before = average.finish(MASTER_W, MASTER_B)
    with pytest.raises(StrategyError, match="attic"):
        average.add(update("attic", 2), 1)
    other = summed([(update("b", 3), 1)])
    with pytest.raises(StrategyError):
        average.merge(other)
    assert same(average.finish(MASTER_W, MASTER_B), before) and average.names == ("a",)


def test_the_bound_is_safe_at_the_extremes() -> None:
    """All of the largest total at the largest change: no sum wraps."""
    W, b = np.full((2, 3), DELTA_W_MAX, np.int32), np.full(2, -DELTA_B_MAX, np.int32)
    mean = summed([(Update("a", W, b), TOTAL_WEIGHT_MAX)]).mean()
    assert (mean.W == DELTA_W_MAX).all() and (mean.b == -DELTA_B_MAX).all()


# ---- refusals


def test_another_shape_is_refused_by_name() -> None:
    average = FedAvg(2, 3)
    wrong = Update("attic", np.zeros((3, 2), np.int32), np.zeros(3, np.int32))
    with pytest.raises(StrategyError, match="attic"):
        average.add(wrong, 5)
    with pytest.raises(StrategyError, match="shapes"):
        average.merge(FedAvg(3, 2))
    average.add(update("a"), 1)
    with pytest.raises(StrategyError, match="master"):
        average.finish(MASTER_W.T, MASTER_B)


def test_nobody_counts_twice() -> None:
    average = summed([(update("attic"), 5)])
    with pytest.raises(StrategyError, match="attic"):
        average.add(update("attic", 9), 5)
    with pytest.raises(StrategyError) as refusal:
        average.merge(summed([(update("attic"), 5), (update("b"), 1)]))
    assert refusal.value.device == "attic"
    assert average.total_weight == 5


def test_an_average_of_nothing_is_refused() -> None:
    with pytest.raises(StrategyError, match="no updates"):
        FedAvg(2, 3).finish(MASTER_W, MASTER_B)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1025, 3), (2, 2049)])
def test_heads_outside_the_limits_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(StrategyError):
        FedAvg(*shape)


# ---- momentum


def test_momentum_zero_is_fedavg() -> None:
    momentum = ServerMomentum(0.0)
    for seed in range(3):
        mean = summed([(update("a", seed), 3)]).mean()
        step = momentum.step(mean)
        assert (step.W == mean.W).all() and (step.b == mean.b).all()


def test_momentum_follows_its_recursion_and_resumes() -> None:
    means = [summed([(update("a", seed), 3)]).mean() for seed in range(6)]
    momentum, real = ServerMomentum(0.9), np.zeros((2, 3))
    for mean in means[:3]:
        real = 0.9 * real + mean.W
        assert np.abs(momentum.step(mean).W - real).max() < 3
    resumed = ServerMomentum(0.9, momentum.velocity)
    for mean in means[3:]:
        assert (resumed.step(mean).W == momentum.step(mean).W).all()


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_momentum_refuses(beta: float) -> None:
    with pytest.raises(StrategyError):
        ServerMomentum(beta)


def test_momentum_refuses_another_shape() -> None:
    momentum = ServerMomentum(0.5)
    momentum.step(Mean(np.zeros((2, 3), np.int64), np.zeros(2, np.int64)))
    with pytest.raises(StrategyError):
        momentum.step(Mean(np.zeros((3, 3), np.int64), np.zeros(3, np.int64)))
