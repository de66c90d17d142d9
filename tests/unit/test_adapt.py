"""Foreign models: brought into the head contract, doing what they did; or refused by name.

The files come from tests/data/make_foreign.py. What they computed before is asked of the `tflite-micro`
wheel, which runs even what tflite-runtime refuses.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kilofed_tools import flat, heads, metadata
from kilofed_tools.adapt import adapt, calibration
from kilofed_tools.errors import ModelContractError, ModelError
from kilofed_tools.evaluate import Runner
from kilofed_tools.tflite import TensorType, read_model

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ROOT / "tests/data/foreign"
DIGITS = (ROOT / "models/digits/digits.tflite").read_bytes()

# file -> words that its notes must hold, one regular expression a note
UNITS = "whole steps"
BROUGHT = {
    "plain": [UNITS],
    "logits": [UNITS],
    "no_bias": [UNITS, "bias of zeros"],
    "per_channel": [UNITS, "per-channel weights became per-tensor"],
    "relu_head": [UNITS, "fused activation was dropped"],
    "float_ends": [UNITS, "float32 input became int8", "float32 output became int8"],
    "uint8_ends": [UNITS, "uint8 input became int8", "uint8 output became int8"],
    "binary": [UNITS, "two classes"],
    "binary_float_ends": [UNITS, "float32 input", "float32 output", "two classes"],
    "conv_head": [UNITS, "convolution became FULLY_CONNECTED", "per-channel"],
    "conv_whole": [UNITS, "convolution became FULLY_CONNECTED", "per-channel"],
    "conv_then_mean": [UNITS, "behind the average", "per-channel"],
    "conv_then_pool": [UNITS, "behind the average", "per-channel"],
    "only_head": [UNITS],
}
REFUSED = {
    "x_float": "computes in float: quantize",
    "x_hybrid": "hybrid",
    "x_int16": "int16 activations",
    "x_sigmoids": "4 independent sigmoids",
    "x_regression": "a regression",
    "x_two_outputs": "1 inputs and 2 outputs",
    "x_conv_relu_mean": "followed by an average",
    "x_places": r"\[1, 5, 4, 5\], not one value a class",
    "x_tanh": "ends in TANH",
    "x_shared_features": "ends in ADD",
    "x_open_batch": "open batch",
}


def load(name: str) -> bytes:
    return (FOREIGN / f"{name}.tflite").read_bytes()


def test_every_file_has_its_case() -> None:
    assert {path.stem for path in FOREIGN.glob("*.tflite")} == set(BROUGHT) | set(REFUSED)
    assert all(path.stat().st_size < 10_000 for path in FOREIGN.glob("*.tflite"))


def samples_for(model: bytes, count: int, seed: int = 1, spread: float = 42) -> NDArray[np.int8]:
    """int8 inputs like those the files were quantized with: normal, three deviations across the range.

    With half the spread no logit of the files saturates.
    """
    parsed = read_model(model)
    size = int(np.prod(parsed.tensors[parsed.inputs[0]].shape))
    values = np.random.default_rng(seed).normal(0, spread, (count, size))
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


def run_original(model: bytes, samples: NDArray[np.int8]) -> NDArray[np.float64]:
    """The file's real-valued output [N, ...] for int8 samples, whatever its own ends are."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    parsed = read_model(model)
    start, end = parsed.tensors[parsed.inputs[0]], parsed.tensors[parsed.outputs[0]]
    interpreter = runtime.Interpreter.from_bytes(model)
    out = []
    for sample in samples.reshape(-1, *start.shape):
        if start.type == TensorType.INT8:
            given: Any = sample
        elif start.type == TensorType.UINT8:
            given = (sample.astype(np.int16) + 128).astype(np.uint8)
        else:
            inner = parsed.tensors[parsed.consumers(start.index)[0].outputs[0]]
            given = ((sample.astype(np.float32) - inner.zero_point) * np.float32(inner.scale)).astype(
                np.float32
            )
        interpreter.set_input(given, 0)
        interpreter.invoke()
        got = interpreter.get_output(0).ravel().astype(np.float64)
        out.append(got if end.type == TensorType.FLOAT32 else (got - end.zero_point) * end.scale)
    return np.array(out)


def run_adapted(model: bytes, samples: NDArray[np.int8]) -> NDArray[np.float64]:
    parsed = read_model(model)
    end = parsed.tensors[parsed.outputs[0]]
    return (Runner(model).run(samples).astype(np.float64) - end.zero_point) * end.scale


@pytest.mark.parametrize("name", BROUGHT)
def test_what_can_be_brought_is_a_device_model(name: str) -> None:
    original = load(name)
    samples = samples_for(original, 200)
    made = adapt(original, samples=samples)
    assert len(made.notes) == len(BROUGHT[name])
    for note, words in zip(made.notes, BROUGHT[name], strict=True):
        assert re.search(words, note)
    spec = heads.find_head(made.model)
    head = heads.read_head(made.model)
    assert heads.write_head(made.model, head) == made.model
    assert 1 <= len(spec.calib) <= 64
    assert spec.ms >= 1
    model = read_model(made.model)
    for operator in model.operators:
        for index in operator.inputs[1:]:
            data = model.tensors[index].table.number("buffer")
            assert model.buffer_at(data) % flat.DATA_ALIGN == 0
    assert metadata.read_metadata(model, metadata.KILOFED_PLAN) is not None
    # again: the same bytes; and what is a device model stays as it is
    assert adapt(original, samples=samples).model == made.model
    kept = adapt(made.model)
    assert (kept.model, kept.notes) == (made.model, ())


@pytest.mark.parametrize("name", BROUGHT)
def test_it_computes_what_it_did(name: str) -> None:
    original = load(name)
    made = adapt(original, samples=samples_for(original, 200))
    samples = samples_for(original, 300, seed=2, spread=21)
    before, after = run_original(original, samples), run_adapted(made.model, samples)
    if name.startswith("binary"):
        before = np.concatenate([1 - before, before], axis=1)
    if name == "relu_head":
        after = np.maximum(after, 0)
    # both files round logits to a step of theirs, and scaling the head's step moves them by up to 1 %
    tolerance = 1.5 * heads.read_head(made.model).out_scale + 0.01 * np.abs(before).max()
    if name.startswith("conv_then"):
        tolerance *= 2  # features are averaged and rounded now, not logits
    if name not in ("logits", "relu_head"):
        tolerance = tolerance / 2 + 2 / 256  # |dp| <= p (1 - p) |d(z_i - z_j)| <= |dz| / 2
    assert before.shape == after.shape
    assert np.abs(before - after).max() <= tolerance
    # where the winner was clear, it is the same
    ordered = np.sort(before, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > tolerance
    assert clear.mean() > 0.5
    assert np.array_equal(before.argmax(axis=1)[clear], after.argmax(axis=1)[clear])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_brought_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelContractError, match=REFUSED[name]) as caught:
        adapt(load(name))
    assert caught.value.next_step
    assert str(caught.value).isprintable()


def test_noise_is_said_to_be_noise() -> None:
    made = adapt(load("plain"))
    assert "noise" in made.notes[-1]
    assert len(heads.find_head(made.model).calib) > 0


def test_labels_and_defaults_ride_in_the_file() -> None:
    labels = ["yes", "no", "häh", "left", "right"]
    made = adapt(load("plain"), labels=labels, lr=0.5, batch=7, epochs=9)
    spec = heads.find_head(made.model)
    assert spec.labels == tuple(labels)
    assert (spec.lr, spec.batch, spec.epochs) == (0.5, 7, 9)
    # new labels for a device model keep its head, its calibration and its other defaults
    renamed = adapt(made.model, labels=["a", "b", "c", "d", "e"])
    again = heads.find_head(renamed.model)
    assert again.labels == ("a", "b", "c", "d", "e")
    assert (again.lr, again.batch, again.epochs, again.ms) == (0.5, 7, 9, spec.ms)
    assert np.array_equal(again.calib, spec.calib)
    assert renamed.notes == ()
    head, kept = heads.read_head(made.model), heads.read_head(renamed.model)
    assert heads.encode_head(head) == heads.encode_head(kept)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"] * 4, "4 labels were given for 5"),
        (["a", "b", "c", "d", "a"], "two labels are the same"),
        (["a", "b", "c", "d", ""], "label ''"),
        (["a", "b", "c", "d", "e" * 65], "64 bytes"),
    ],
)
def test_bad_labels_are_refused(labels: list[str], words: str) -> None:
    with pytest.raises(ModelContractError, match=words):
        adapt(load("plain"), labels=labels)


def test_bad_training_defaults_are_refused() -> None:
    with pytest.raises(ModelContractError, match="batch 0"):
        adapt(load("plain"), batch=0)
    with pytest.raises(ModelContractError, match="learning rate"):
        adapt(load("plain"), lr=-1.0)


def test_samples_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelError, match="do not fit"):
        adapt(load("plain"), samples=np.zeros((3, 10), np.int8))


def test_a_softmax_beta_goes_into_the_head() -> None:
    tree = flat.read(load("plain"))
    options = tree.tables("subgraphs")[0].tables("operators")[-1].table("builtin_options")
    assert options is not None
    options.values["beta"] = 0.25
    original = flat.write(tree)
    made = adapt(original, samples=samples_for(original, 100))
    assert any("beta of 0.25" in note for note in made.notes)
    samples = samples_for(original, 200, seed=4, spread=21)
    tolerance = heads.read_head(made.model).out_scale + 2 / 256
    assert np.abs(run_original(original, samples) - run_adapted(made.model, samples)).max() <= tolerance


def test_a_head_too_large_to_be_trained_is_refused() -> None:
    tree = flat.read(load("plain"))
    graph = tree.tables("subgraphs")[0]
    weights = int(graph.tables("operators")[1].numbers("inputs")[1])
    quantization = graph.tables("tensors")[weights].table("quantization")
    assert quantization is not None
    quantization.values["scale"] = np.array([40.0], np.float32)
    with pytest.raises(ModelContractError, match="too large to be trained"):
        adapt(flat.write(tree))


def test_calibration_rows_cover_the_corners() -> None:
    rng = np.random.default_rng(3)
    cloud = rng.integers(-5, 6, (500, 16), np.int8)
    corners = np.full((4, 16), -100, np.int8)
    corners[np.arange(4), np.arange(4)] = 120
    rows = np.concatenate([cloud[:200], corners, cloud[200:]])
    ms, calib = calibration(rows, 0)
    assert len(calib) == 64
    assert {bytes(row) for row in corners} <= {bytes(row) for row in calib[:5]}
    assert ms == round(256 * float(np.mean(rows.astype(np.float64) ** 2)))
    # fewer rows than asked for, all alike, all zero
    assert len(calibration(rows[:7], 0)[1]) == 7
    assert calibration(np.zeros((50, 16), np.int8), 0)[0] == 1
    assert len(calibration(np.zeros((50, 16), np.int8), 0)[1]) == 1
    # K = clamp(2048 // F, 4, 64)
    wide = rng.integers(-128, 128, (40, 1024), np.int8)
    assert len(calibration(wide, -128)[1]) == 4


@pytest.mark.parametrize("name", ["conv_then_pool", "binary_float_ends", "per_channel"])
def test_damaged_models_are_brought_or_refused(name: str) -> None:
    """What passes the checks is run by the runtime too, so a hole in them is a crash of this test."""
    original = load(name)
    size = read_model(original).tensors[read_model(original).inputs[0]].elements
    rng = random.Random(11)
    outcomes = {"brought": 0, "refused": 0}
    for number in range(250):
        mutant = bytearray(original)
        for _ in range(rng.randrange(1, 4)):
            position = rng.randrange(len(mutant))
            mutant[position] = rng.choice([0, 1, 127, 128, 255, mutant[position] ^ 1 << rng.randrange(8)])
        try:
            adapt(bytes(mutant), samples=np.zeros((2, size), np.int8))
            outcomes["brought"] += 1
        except ModelError as error:
            assert str(error).isprintable()
            outcomes["refused"] += 1
        except Exception as error:
            pytest.fail(f"mutant {number} of {name}: {type(error).__name__}: {error}")
    assert min(outcomes.values()) > 20


def shared_models() -> list[Path]:
    folder = Path(os.environ.get("KILOFED_SHARED", ROOT.parent / "shared")) / "data" / "models"
    return sorted(folder.glob("*.tflite"))


@pytest.mark.parametrize("stem", ["ic_resnet8", "kws_ref_model"])
def test_published_models_are_brought_too(stem: str) -> None:
    found = [path for path in shared_models() if path.stem == stem]
    if not found:
        pytest.skip("shared data not present")
    original = found[0].read_bytes()
    samples = np.random.default_rng(8).integers(
        -128, 128, (40, read_model(original).tensors[0].elements), np.int8
    )
    made = adapt(original, samples=samples)
    assert len(made.model) < len(original)
    tolerance = heads.read_head(made.model).out_scale + 2 / 256
    assert np.abs(run_original(original, samples) - run_adapted(made.model, samples)).max() <= tolerance
    cut = heads.backbone(made.model)
    spec = heads.find_head(made.model)
    rows = Runner(cut).run(samples)
    assert rows.shape == (40, spec.features)
    assert heads.encode_head(heads.read_head(heads.write_head(made.model, heads.read_head(made.model))))


@pytest.mark.tensorflow
def test_the_files_are_those_of_their_generator(tmp_path: Path) -> None:
    script = ROOT / "tests/data/make_foreign.py"
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path)], capture_output=True, check=False, timeout=600
    )
    if b"No module named 'tensorflow'" in done.stderr:
        pytest.skip("TensorFlow is not installed")
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for path in sorted(FOREIGN.glob("*.tflite")):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
