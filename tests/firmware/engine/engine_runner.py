"""The engine under test, as a process that answers requests (see runner.c), and the oracle beside it."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
COVERAGE = ["--coverage", "-fprofile-update=atomic"] if os.environ.get("KILOFED_COVERAGE") else []
BUILD = ROOT / "build" / ("coverage" if COVERAGE else "tests") / "engine"

OK, MORE, ERR_MODEL, ERR_UNSUPPORTED, ERR_HEAD = 0, 1, -3, -4, -5
NONE = 0xFFFF

Bytes = npt.NDArray[np.uint8]


def seeds(count: int) -> range:
    """0 .. count-1, or the one that the environment names: what a failure prints to repeat it alone."""
    one = os.environ.get("KILOFED_SEED")
    return range(count) if one is None else range(int(one), int(one) + 1)


def repeat(node: str, seed: int) -> str:
    """The command that runs one seed of one test again."""
    return f"repeat: KILOFED_SEED={seed} python -m pytest '{node}'"


class EngineDied(AssertionError):
    """The process ended in the middle of a request: a sanitizer found something, and its report is the
    message."""


@dataclass(frozen=True)
class Opened:
    """What kf_model_open() found. Scales are float32 bits; `fault` and `error_*` matter when status is
    negative."""

    status: int
    arena_bytes: int
    tensor_bytes: int
    ops: int
    tensors: int
    input_bytes: int
    output_bytes: int
    plan_from_file: int
    fault: int
    error_op: int
    error_tensor: int
    head_op: int
    classes: int
    features: int
    x_zp: int
    x_scale: int
    weights_at: int
    bias_at: int
    w_scale: int
    out_scale: int
    out_zp: int
    macs: int


class Work(NamedTuple):
    """kf_work_t, and its kf_walk_t: `inputs` is the mask of those that the operator goes through."""

    slices: int
    macs: int
    scratch_bytes: int
    in_place: int
    inputs: int
    reach: int
    stride: int
    pad: int
    pace: int


def operators() -> list[str]:
    """The schema's names of all operators that the engine has, from its table."""
    table = (ROOT / "firmware" / "src" / "nn" / "ops.def").read_text()
    return re.findall(r"^KF_OP\((\w+),", table, re.MULTILINE)


def sources() -> list[Path]:
    """The engine's C files, with the kernels in plain C."""
    folders = [ROOT / "firmware" / "src" / part for part in ("model", "nn", "nn/plain")]
    return [path for folder in folders for path in sorted(folder.glob("*.c"))]


def build(name: str, *, flags: list[str], compiler: str = "gcc") -> Path:
    """Compile the runner with the engine into build/tests/engine, unless it is newer than all it is made
    from."""
    BUILD.mkdir(parents=True, exist_ok=True)
    target = BUILD / name
    inputs = [HERE / "runner.c", *sources()]
    watched = [
        *inputs,
        *(ROOT / "firmware").glob("include/kilofed/*.h"),
        *(ROOT / "firmware").glob("src/*/*.h"),
    ]
    if target.exists() and target.stat().st_mtime > max(path.stat().st_mtime for path in watched):
        return target
    include = [f"-I{ROOT / 'firmware' / part}" for part in ("include", "src")]
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]
    partial = target.with_suffix(f".{os.getpid()}")
    options = ["-std=c11", *warnings, *flags, *COVERAGE, *include]
    subprocess.run([compiler, *options, "-o", str(partial), *map(str, inputs)], check=True)
    partial.replace(target)
    return target


class Engine:
    """One runner process. Restarts by itself after it died."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End the process: by the end of its input, so that it may say what it counted and what it leaked."""
        if self.process is not None:
            try:
                self.process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.communicate()
            self.process = None

    def request(self, command: int, a: int = 0, b: int = 0, payload: bytes = b"") -> tuple[int, bytes]:
        """Send one request, return (status, payload)."""
        if self.process is None:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen([self.binary], stdin=pipe, stdout=pipe, stderr=pipe)
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(
                struct.pack("<IIII", command, a & 0xFFFFFFFF, b & 0xFFFFFFFF, len(payload)) + payload
            )
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        head = self.process.stdout.read(8)
        if len(head) != 8:
            _, report = self.process.communicate()
            self.process = None
            raise EngineDied(report.decode(errors="replace"))
        status, length = struct.unpack("<iI", head)
        return status, self.process.stdout.read(length)

    def open(self, model: bytes) -> Opened:
        """kf_model_open() on a copy at an odd address."""
        status, facts = self.request(1, payload=model)
        return Opened(status, *struct.unpack("<13Ii5IiI", facts))

    def run(self, data: bytes, *, max_macs: int = 0xFFFFFFFF, mode: int = 0) -> tuple[int, bytes]:
        """One inference. mode 0: to the end; 1: stop at the features and return them; 2: features, then the
        end; 4: to the end, with the states that the last run left."""
        return self.request(2, max_macs, mode, data)

    def overlay(
        self,
        weights: npt.NDArray[np.int8],
        bias: npt.NDArray[np.int32],
        w_scale: float,
        out_scale: float,
        out_zp: int,
    ) -> int:
        """Run the head of the opened model from these parameters from now on."""
        head = struct.pack("<ffi", w_scale, out_scale, out_zp)
        return self.request(3, payload=head + weights.tobytes() + bias.astype("<i4").tobytes())[0]

    def work(self) -> list[Work]:
        """How every operator of the opened model works."""
        status, facts = self.request(7)
        assert status == OK
        return [Work(*found) for found in struct.iter_unpack("<9I", facts)]


def lite_oracle(model: bytes, inputs: list[Bytes]) -> list[bytes]:
    """The outputs of TensorFlow Lite's reference kernels, for what TensorFlow Lite Micro does not have."""
    from tflite_runtime import interpreter as lite

    resolver = lite.OpResolverType.BUILTIN_REF
    interpreter = lite.Interpreter(model_content=model, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for data in inputs:
        interpreter.set_tensor(source["index"], data.view(source["dtype"]).reshape(source["shape"]))
        interpreter.invoke()
        outputs.append(np.ascontiguousarray(interpreter.get_tensor(sink["index"])).tobytes())
    return outputs


def oracle(model: bytes, inputs: list[Bytes]) -> list[bytes]:
    """The outputs of TensorFlow Lite Micro's reference kernels, as bytes."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model, arena_size=len(model) * 10 + (1 << 20))
    details = interpreter.get_input_details(0)
    outputs = []
    for data in inputs:
        interpreter.set_input(data.view(details["dtype"]).reshape(details["shape"]), 0)
        interpreter.invoke()
        outputs.append(np.ascontiguousarray(interpreter.get_output(0)).tobytes())
    return outputs
