"""Running models, and the numpy head's arithmetic against exact fractions."""

from __future__ import annotations

import importlib
import math
import sys
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilofed_tools import evaluate, flat, heads
from kilofed_tools.adapt import adapt
from kilofed_tools.errors import ModelError
from kilofed_tools.evaluate import Runner, accuracy, features, head_accuracy, quantize_multiplier, requantize
from kilofed_tools.tflite import read_model

ROOT = Path(__file__).resolve().parents[2]
DIGITS = (ROOT / "models/digits/digits.tflite").read_bytes()
ONLY_HEAD = (ROOT / "tests/data/foreign/only_head.tflite").read_bytes()


@settings(max_examples=300)
@given(st.floats(2.0**-31, 2.0**20, allow_nan=False))
def test_a_multiplier_is_the_nearest_of_31_bits(real: float) -> None:
    multiplier, shift = quantize_multiplier(real)
    assert 1 << 30 <= multiplier < 1 << 31
    error = abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) - Fraction(real))
    assert error <= Fraction(2) ** (shift - 32)


def test_multipliers_at_the_edges() -> None:
    assert quantize_multiplier(0.0) == (0, 0)
    assert quantize_multiplier(0.5) == (1 << 30, 0)
    assert quantize_multiplier(1.0) == (1 << 30, 1)
    assert quantize_multiplier(math.nextafter(1.0, 0.0)) == (1 << 30, 1)  # rounds up to the next power
    assert quantize_multiplier(2.0**-32) == (1 << 30, -31)
    assert quantize_multiplier(2.0**-33) == (0, 0)


def by_hand(acc: int, multiplier: int, shift: int) -> int:
    """The two roundings of TFLite, as its comments state them, in unbounded integers."""
    left, right = max(shift, 0), max(-shift, 0)
    product = Fraction(acc * (1 << left) * multiplier, 1 << 31)
    half = Fraction(1, 2)
    # halves go up: trunc of x + 0.5, or of x - 0.5 + 2^-31 below zero
    nudge = half if product >= 0 else half * -1 + Fraction(1, 1 << 31)
    high = math.trunc(product + nudge)
    down = Fraction(high, 1 << right)
    rounded = math.floor(abs(down) + half)
    return rounded if high >= 0 else -rounded


@settings(max_examples=300)
@given(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(1 << 30, (1 << 31) - 1),
    st.integers(-31, 3),
    st.integers(0, 31),
)
def test_requantizing_follows_the_two_roundings(acc: int, multiplier: int, shift: int, trim: int) -> None:
    acc >>= trim
    if abs(acc) << max(shift, 0) >= 1 << 31:
        acc >>= 4
    assert int(requantize(np.array([acc]), multiplier, shift)[0]) == by_hand(acc, multiplier, shift)


def test_ties_round_away_from_zero_after_the_shift() -> None:
    # 0.5 * 2^-1: each sum of 2 mod 4 is a tie
    values = np.array([-6, -2, 2, 6])
    assert requantize(values, 1 << 30, -1).tolist() == [-2, -1, 1, 2]


# ---------------------------------------------------------------- the runner


def test_the_runner_says_whether_it_is_exact() -> None:
    assert Runner(DIGITS).exact
    assert not Runner(DIGITS, fast=True).exact


def test_fast_kernels_are_off_by_one_at_most() -> None:
    samples = np.random.default_rng(1).integers(-128, 128, (50, 784), np.int8)
    cut = heads.backbone(DIGITS)
    exact, fast = (Runner(cut, fast=f).run(samples).astype(int) for f in (False, True))
    assert np.abs(exact - fast).max() <= 1


def test_samples_that_do_not_fit_are_refused() -> None:
    runner = Runner(DIGITS)
    with pytest.raises(ModelError, match="783 x int8 do not fit"):
        runner.run(np.zeros((2, 783), np.int8))
    with pytest.raises(ModelError, match="784 x uint8 do not fit"):
        runner.run(np.zeros((2, 784), np.uint8))  # type: ignore[arg-type]
    assert runner.run(np.zeros((0, 784), np.int8)).shape == (0, 10)


def test_float_models_are_refused() -> None:
    with pytest.raises(ModelError, match="input is float32"):
        Runner((ROOT / "tests/data/foreign/x_float.tflite").read_bytes())


def test_what_the_runtime_refuses_is_told() -> None:
    tree = flat.read(ONLY_HEAD)
    tree.tables("operator_codes")[0].values["version"] = 99
    with pytest.raises(ModelError, match=r"the TFLite runtime refuses the model.*version '99'") as caught:
        Runner(flat.write(tree))
    assert caught.value.__cause__ is not None


def test_an_output_of_another_size_than_told_is_refused() -> None:
    """The runtime computes the shapes itself, and gives more than the file says."""
    cut = heads.backbone(DIGITS)
    tree = flat.read(cut)
    graph = tree.tables("subgraphs")[0]
    operators = graph.tables("operators")
    mean = next(op for op in read_model(cut).operators if op.name == "MEAN")
    graph.values["operators"] = operators[: mean.index + 1]
    graph.values["outputs"] = np.array(mean.outputs, np.int32)
    graph.tables("tensors")[mean.outputs[0]].values["shape"] = np.array([1, 31], np.int32)
    with pytest.raises(ModelError, match="gives 32 values where its file says 31"):
        Runner(flat.write(tree)).run(np.zeros((1, 784), np.int8))


def test_features_of_a_model_without_backbone_are_its_input() -> None:
    model = adapt(ONLY_HEAD).model
    samples = np.random.default_rng(1).integers(-128, 128, (5, 11), np.int8)
    assert np.array_equal(features(model, samples), samples)
    with pytest.raises(ModelError, match="nothing but its head"):
        heads.backbone(model)


def test_accuracies_count_the_first_of_equals() -> None:
    spec = heads.find_head(DIGITS)
    head = heads.read_head(DIGITS)  # zero: every class is as good, the first wins
    rows = spec.calib[:20]
    assert head_accuracy(head, rows, np.zeros(20, np.uint8), spec) == 1.0
    assert head_accuracy(head, rows, np.ones(20, np.uint8), spec) == 0.0
    samples = np.random.default_rng(1).integers(-128, 128, (10, 784), np.int8)
    assert accuracy(DIGITS, samples, np.array([0] * 4 + [3] * 6)) == 0.4


# ---------------------------------------------------------------- which runtime


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]


def test_litert_takes_the_place_of_a_missing_tflite_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """ai-edge-litert has the same interface; a double with tflite-runtime behind it stands in for it here."""
    real: Any = importlib.import_module("tflite_runtime.interpreter")
    double = types.ModuleType("ai_edge_litert.interpreter")
    double.Interpreter = real.Interpreter  # type: ignore[attr-defined]
    double.OpResolverType = real.OpResolverType  # type: ignore[attr-defined]
    without(monkeypatch, "tflite_runtime.interpreter", "tflite_runtime")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", double)
    runner = Runner(DIGITS)
    assert not runner.exact
    assert runner.run(np.zeros((1, 784), np.int8)).shape == (1, 10)


def test_no_runtime_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    without(
        monkeypatch,
        "tflite_runtime",
        "tflite_runtime.interpreter",
        "ai_edge_litert",
        "ai_edge_litert.interpreter",
    )
    with pytest.raises(ModelError, match=r"no TFLite runtime is usable.*pip install"):
        evaluate.runtime_module()
