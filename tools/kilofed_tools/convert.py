"""From Keras to a device model: convert and quantize in a child process, then bring the result into form.

TensorFlow is slow to load, prints to stdout, may crash on some layers, and cannot share a process with
tflite-runtime: so it lives in `convert_child`, and this module only hands over files and reads the answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilofed_tools.adapt import Adapted, adapt
from kilofed_tools.errors import ConvertError
from kilofed_tools.tflite import read_model

TIMEOUT_S = 900.0
LOG_LINES = 40


def quantize_input(model: bytes, data: NDArray[np.floating[Any]]) -> NDArray[np.int8]:
    """float data [N, ...] as the model's int8 input: round(x / scale) + zero_point, clipped to -128..127."""
    parsed = read_model(model)
    tensor = parsed.tensors[parsed.inputs[0]]
    quantized = np.rint(data.astype(np.float64) / tensor.scale) + tensor.zero_point
    clipped: NDArray[np.int8] = np.clip(quantized, -128, 127).astype(np.int8)
    return clipped


def source_kind(source: Path) -> str:
    """Whether it is "keras" or "saved_model" in the words of `run_converter`; ConvertError when neither."""
    if source.is_dir() and (source / "saved_model.pb").is_file():
        return "saved_model"
    if source.is_file() and source.suffix in (".keras", ".h5"):
        return "keras"
    raise ConvertError(
        f"{source} is neither a .keras or .h5 file nor a SavedModel folder",
        "give the path that model.save() wrote, or a .tflite",
    )


def keras_to_int8(source: Path, data: NDArray[np.floating[Any]], *, timeout_s: float = TIMEOUT_S) -> bytes:
    """The converter's int8 .tflite for a Keras file or a SavedModel folder, not yet in the head contract.

    data: float [N, ...], N >= 1, the representative data that fixes the activations' ranges; some hundred
    real inputs. The same source and data give the same bytes. ConvertError when TensorFlow refuses, crashes
    or takes too long.
    """
    return run_converter(source, source_kind(source), data, timeout_s=timeout_s)[0]


def run_converter(
    source: Path,
    kind: str,
    data: NDArray[np.floating[Any]],
    *,
    test: NDArray[np.floating[Any]] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[bytes, NDArray[np.float32] | None]:
    """(int8 .tflite, what the float model says to `test`): the child process, see `keras_to_int8`.

    kind: "keras", "saved_model", or "tflite" for a float .tflite. test: float [M, ...]; the second result is
    then float32 [M, C], else None.
    """
    if data.ndim < 2 or len(data) == 0 or not np.all(np.isfinite(data)):
        raise ConvertError(
            f"representative data of shape {list(data.shape)} cannot be used",
            "give finite floats [N, ...], a hundred or more real inputs",
        )
    with tempfile.TemporaryDirectory(prefix="kilofed-convert-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({"source": str(source.resolve()), "kind": kind}))
        np.save(folder / "data.npy", data.astype(np.float32))
        if test is not None:
            np.save(folder / "test.npy", test.astype(np.float32))
        code, log = _run(folder, timeout_s)
        if code == 0:
            outputs = None if test is None else np.load(folder / "outputs.npy", allow_pickle=False)
            return (folder / "model.tflite").read_bytes(), outputs
        if code == 3:
            answer = json.loads((folder / "error.json").read_text())
            raise ConvertError(answer["what"], answer["next_step"], log=log)
        if code < 0:
            raise ConvertError(
                f"the TFLite converter crashed ({signal.Signals(-code).name})",
                "build LSTM and GRU layers with unroll=True, or use convolutions over time instead",
                log=log,
            )
        raise ConvertError(
            f"the converter's process ended with {code}",
            "read its log with --verbose, and free some memory",
            log=log,
        )


def _run(folder: Path, timeout_s: float) -> tuple[int, str]:
    package_root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
        # oneDNN chooses its summation order by the machine; without it the same file comes out everywhere
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    with (folder / "log").open("wb") as log:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "kilofed_tools.convert_child", str(folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ConvertError(
                f"the converter took longer than {timeout_s:.0f} s", "give fewer representative inputs"
            ) from error
    lines = (folder / "log").read_text(errors="replace").splitlines()
    return done.returncode, "\n".join(lines[-LOG_LINES:])


def convert(
    source: Path,
    data: NDArray[np.floating[Any]],
    *,
    labels: Sequence[str] | None = None,
    lr: float | None = None,
    batch: int | None = None,
    epochs: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Adapted:
    """A device model from a Keras file or a SavedModel folder: quantized to int8, with a head of its own.

    data: float [N, ...], N >= 1, some hundred real inputs, which fix the ranges of activations and calibrate
    the head. labels: the classes' names, numbers by default. lr, batch, epochs: defaults for whoever trains
    the model. TensorFlow runs in a child process for at most timeout_s. ConvertError when it refuses, crashes
    or takes too long; ModelError when what came out cannot be a device model.
    """
    raw = keras_to_int8(source, data, timeout_s=timeout_s)
    samples = quantize_input(raw, data)
    return adapt(raw, samples=samples, labels=labels, lr=lr, batch=batch, epochs=epochs)
