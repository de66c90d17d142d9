"""Conversion: the child process and its deaths, with stand-ins for TensorFlow; and TensorFlow itself.

The stand-ins are packages called `tensorflow` put first on the child's path: they fail as TensorFlow does.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from kilofed_tools import heads
from kilofed_tools.convert import convert, keras_to_int8, quantize_input
from kilofed_tools.errors import ConvertError
from kilofed_tools.evaluate import Runner
from kilofed_tools.tflite import read_model

ROOT = Path(__file__).resolve().parents[2]
DIGITS = (ROOT / "models/digits/digits.tflite").read_bytes()
DATA = np.random.default_rng(1).normal(0, 1, (20, 6)).astype(np.float32)

tensorflow = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"),
]


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """Make `import tensorflow` in the child run `body`. Returns the path of an (empty) Keras file."""
    package = folder / "stand-in" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(textwrap.dedent(body))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    source = folder / "model.keras"
    source.write_bytes(b"")
    return source


def test_a_crash_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "import os, signal\nprint('last words', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)"
    source = stand_in(tmp_path, monkeypatch, body)
    with pytest.raises(ConvertError, match=r"crashed \(SIGSEGV\).*unroll") as caught:
        keras_to_int8(source, DATA)
    assert "last words" in caught.value.log


def test_an_unusable_tensorflow_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stand_in(tmp_path, monkeypatch, "raise ImportError('no such\\nlibrary')")
    with pytest.raises(ConvertError, match=r"cannot be imported \(no such library\).*pip install"):
        keras_to_int8(source, DATA)


def test_a_failure_inside_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stand_in(tmp_path, monkeypatch, "raise RuntimeError('x' * 1000)")
    with pytest.raises(ConvertError, match=r"cannot convert the model \(x+\.\.\.") as caught:
        keras_to_int8(source, DATA)
    assert len(str(caught.value)) < 500
    assert "RuntimeError" not in str(caught.value)


def test_an_exit_inside_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stand_in(tmp_path, monkeypatch, "import os\nos._exit(7)")
    with pytest.raises(ConvertError, match="ended with 7"):
        keras_to_int8(source, DATA)


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    hangs = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(3600)"
    source = stand_in(tmp_path, monkeypatch, hangs)
    for seconds in (2, 8, 32):  # on a machine that is busy, it may not have begun by then
        with pytest.raises(ConvertError, match=f"longer than {seconds} s"):
            keras_to_int8(source, DATA, timeout_s=seconds)
        if pid.exists():
            break
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize("name", ["missing.keras", "model.pt", "folder"])
def test_other_sources_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "model.pt":
        path.write_bytes(b"x")
    with pytest.raises(ConvertError, match=r"neither a \.keras or \.h5 file nor a SavedModel folder"):
        keras_to_int8(path, DATA)


@pytest.mark.parametrize(
    "data", [np.zeros((0, 6)), np.zeros(6), np.array([[1.0, np.nan]]), np.array([[1.0, np.inf]])]
)
def test_unusable_data_is_refused(tmp_path: Path, data: np.ndarray) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"")
    with pytest.raises(ConvertError, match="representative data of shape"):
        keras_to_int8(path, data)


def test_inputs_are_quantized_as_the_file_says() -> None:
    pixels = np.array([[0, 1, 127, 254, 255]]) / 255.0
    assert quantize_input(DIGITS, pixels).tolist() == [[-128, -127, -1, 126, 127]]
    assert quantize_input(DIGITS, np.array([[-5.0, 9.0]])).tolist() == [[-128, 127]]


def test_the_tools_never_import_tensorflow() -> None:
    code = textwrap.dedent(
        """
        import sys, pkgutil, importlib, kilofed_tools
        for module in pkgutil.iter_modules(kilofed_tools.__path__):
            importlib.import_module("kilofed_tools." + module.name)
        loaded = [m for m in sys.modules if m.split(".")[0] in ("tensorflow", "keras", "tflite_runtime")]
        assert not loaded, loaded
        """
    )
    subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "tools")}, check=True, timeout=60
    )


# ---------------------------------------------------------------- with TensorFlow

MAKE = """
import sys, numpy as np, tensorflow as tf
kind, path = sys.argv[1:]
k, L = tf.keras, tf.keras.layers
k.utils.set_random_seed(3)
if kind in ("saved", "zero_bias", "flatten"):
    start = [L.Conv2D(4, 3, activation="relu"), L.Flatten()]
    net = k.Sequential([k.Input((7, 5, 1)), *start, L.Dense(9, activation="relu"), L.Dense(3), L.Softmax()])
elif kind == "lstm":
    net = k.Sequential([k.Input((7, 5)), L.LSTM(4), L.Dense(3)])
elif kind == "unrolled":
    net = k.Sequential([k.Input((4, 5)), L.SimpleRNN(4, unroll=True), L.Dense(3, activation="softmax")])
elif kind == "two":
    x = k.Input((6,))
    net = k.Model(x, [L.Dense(2)(x), L.Dense(3)(x)])
elif kind == "sigmoid":
    net = k.Sequential([k.Input((6,)), L.Dense(8, activation="relu"), L.Dense(1, activation="sigmoid")])
if kind == "saved":
    net.export(path)
else:
    net.save(path)
"""


@pytest.fixture
def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    def run(kind: str) -> Path:
        path = tmp_path / ("saved" if kind == "saved" else f"{kind}.keras")
        subprocess.run(
            [sys.executable, "-c", MAKE, kind, str(path)], check=True, capture_output=True, timeout=300
        )
        return path

    return run


def with_tensorflow(function):  # type: ignore[no-untyped-def]
    for mark in tensorflow:
        function = mark(function)
    return function


@with_tensorflow
@pytest.mark.parametrize("kind", ["flatten", "saved"])
def test_keras_and_saved_models_become_device_models(make, kind: str) -> None:  # type: ignore[no-untyped-def]
    """Keras leaves a zero bias, which the converter drops, and an open batch, which breaks Flatten."""
    source = make(kind)
    data = np.random.default_rng(2).normal(0, 1, (60, 7, 5, 1))
    made = convert(source, data, labels=["a", "b", "c"], lr=0.2)
    spec = heads.find_head(made.model)
    heads.read_head(made.model)
    assert spec.labels == ("a", "b", "c")
    assert spec.lr == 0.2
    assert not any("noise" in note for note in made.notes)
    names = [op.name for op in read_model(made.model).operators]
    assert not {"SHAPE", "PACK", "STRIDED_SLICE", "QUANTIZE", "DEQUANTIZE"} & set(names)
    for tensor in read_model(made.model).tensors:
        if tensor.constant and "head" not in tensor.name and len(tensor.shape) == 2:
            assert len(tensor.scales) == 1  # Dense layers per tensor
    assert Runner(made.model).run(quantize_input(made.model, data[:3])).shape == (3, 3)
    if kind == "flatten":
        assert convert(source, data, labels=["a", "b", "c"], lr=0.2).model == made.model


@with_tensorflow
def test_a_loop_is_refused_before_it_crashes(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConvertError, match="is a loop, which crashes the TFLite converter"):
        convert(make("lstm"), np.zeros((5, 7, 5)))


@with_tensorflow
def test_two_outputs_and_wrong_data_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConvertError, match="1 inputs and 2 outputs"):
        convert(make("two"), DATA)
    with pytest.raises(ConvertError, match=r"does not take data of shape \[6\]"):
        convert(make("flatten"), DATA)


@with_tensorflow
def test_one_sigmoid_becomes_two_classes(make) -> None:  # type: ignore[no-untyped-def]
    made = convert(make("sigmoid"), DATA, labels=["no", "yes"])
    assert heads.find_head(made.model).classes == 2


@with_tensorflow
def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"not a zip")
    with pytest.raises(ConvertError):
        convert(path, DATA)
