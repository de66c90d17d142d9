"""Quantizing float models: the accuracy before and after against runs of our own, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kilofed.cli import run
from kilofed_tools import heads
from kilofed_tools.convert import quantize_input
from kilofed_tools.errors import ConvertError, DataError, ModelError
from kilofed_tools.evaluate import Runner, runtime_module
from kilofed_tools.quantize import quantize

FOREIGN = Path(__file__).resolve().parents[1] / "data" / "foreign"
FLOAT = FOREIGN / "x_float.tflite"
RNG = np.random.default_rng(3)
DATA = RNG.normal(0, 1, (60, 11)).astype(np.float32)
TEST = RNG.normal(0, 1, (40, 11)).astype(np.float32)

tensorflow = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"),
]


def float_outputs(rows: NDArray[Any]) -> NDArray[Any]:
    """What the float file says, from the runtime alone."""
    module = runtime_module()
    interpreter = module.Interpreter(model_path=str(FLOAT), num_threads=1)
    interpreter.allocate_tensors()
    outputs = []
    for row in rows:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[np.newaxis])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).ravel())
    return np.array(outputs)


@pytest.fixture(scope="module")
def classes() -> NDArray[np.int64]:
    """The float model's own labels of TEST, but for every fifth, which is another."""
    found = float_outputs(TEST).argmax(axis=1)
    count = float_outputs(TEST[:1]).size
    found[::5] = (found[::5] + 1) % count
    return found.astype(np.int64)


class TestWithTensorFlow:
    pytestmark = tensorflow

    def test_a_float_tflite(self, classes: NDArray[np.int64]) -> None:
        count = float_outputs(TEST[:1]).size
        labels = [f"label {n}" for n in range(count)]
        found = quantize(FLOAT, DATA, test=TEST, test_labels=classes, labels=labels, lr=0.25)
        spec = heads.find_head(found.model)
        assert spec.labels == tuple(labels)
        assert spec.lr == 0.25
        assert len(spec.calib) > 0
        floats = float_outputs(TEST).argmax(axis=1)
        said = Runner(found.model).run(quantize_input(found.model, TEST)).argmax(axis=1)
        assert found.samples == 40
        assert found.before == np.mean(floats == classes) == 0.8
        assert found.after == np.mean(said == classes)
        assert found.agree == np.mean(floats == said)
        assert found.agree > 0.85

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.savez(tmp_path / "d.npz", inputs=DATA)
        out = tmp_path / "out.tflite"
        assert (
            run(["quantize", str(FLOAT), "--data", str(tmp_path / "d.npz"), "--out", str(out), "--json"]) == 0
        )
        figures = json.loads(capsys.readouterr().out)
        assert (figures["before"], figures["after"], figures["samples"]) == (None, None, 60)
        assert figures["agree"] > 0.85
        assert figures["bytes"] == len(out.read_bytes())
        assert run(["inspect", str(out), "--json"]) == 0

    def test_data_of_another_shape(self) -> None:
        with pytest.raises(ConvertError, match=r"takes \[11\] a sample, and the data has \[12\]"):
            quantize(FLOAT, np.zeros((5, 12), np.float32))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain", "int8 already.*kilofed convert"),
        ("float_ends", "int8 already"),
        ("uint8_ends", "int8 already"),
        ("x_hybrid", "another way already.*float model"),
        ("x_int16", "another way already"),
    ],
)
def test_what_is_quantized_already_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConvertError, match=words):
        quantize(FOREIGN / f"{name}.tflite", DATA)


def test_a_source_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="neither"):
        quantize(tmp_path / "nothing.keras", DATA)
    with pytest.raises(ModelError):
        quantize(tmp_path / "nothing.tflite", DATA)
    (tmp_path / "bad.tflite").write_bytes(FLOAT.read_bytes()[:100])
    with pytest.raises(ModelError):
        quantize(tmp_path / "bad.tflite", DATA)


@pytest.mark.parametrize(
    ("test", "labels", "words"),
    [
        (np.zeros((3, 12), np.float32), None, "test samples of shape"),
        (np.full((3, 11), np.inf, np.float32), None, "test samples of shape"),
        (np.zeros((0, 11), np.float32), None, "test samples of shape"),
        (np.zeros((3, 11), np.float32), np.zeros(2, np.int64), "one whole number a sample"),
        (np.zeros((3, 11), np.float32), np.zeros(3), "one whole number a sample"),
    ],
)
def test_a_test_set_that_does_not_fit_is_named(
    test: NDArray[Any], labels: NDArray[Any] | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        quantize(FLOAT, DATA, test=test, test_labels=labels)


def test_without_tensorflow_the_next_step_is_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "stand-in" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(textwrap.dedent("raise ImportError('none here')"))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    np.save(tmp_path / "d.npy", DATA)
    arguments = ["quantize", str(FLOAT), "--data", str(tmp_path / "d.npy"), "--out", str(tmp_path / "x")]
    assert run(arguments) == 1
    error = capsys.readouterr().err
    assert "error 120: TensorFlow cannot be imported (none here)" in error
    assert "next: pip install 'kilofed[convert]'" in error
    assert not (tmp_path / "x").exists()
