"""The engine on an emulated core: build `firmware/bench` for it, run a model there, count instructions.

Counting: under `-icount shift=7` QEMU lets every instruction take 128 ns of the board's time, and the board's
timer ticks at 25 MHz, so 3.2 ticks are one instruction. The count is exact to about one, the same at every
run, and does not depend on how loaded this machine is. Instructions are not cycles.
"""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kilofed.boards import elf
from kilofed.boards.build import TOOLS
from kilofed.boards.emulator import QEMU, QEMU_PACKAGE
from kilofed_tools import heads
from kilofed_tools.plan import with_plan
from kilofed_tools.tflite import Op, read_model

from .figure import BenchError


@dataclasses.dataclass(frozen=True)
class Core:
    """A core: the board whose flags its code is compiled with, and QEMU's machine that runs it."""

    name: str
    board: str
    machine: str


#: The micro:bit has no room for most models; the AN385's Cortex-M3 executes a Cortex-M0's code unchanged.
CORES = (
    Core("m0", "microbit", "mps2-an385"),
    Core("m3", "mps2-an385", "mps2-an385"),
    Core("m4f", "mps2-an386", "mps2-an386"),
    Core("m7", "mps2-an500", "mps2-an500"),
)

NS_OF_INSTRUCTION = 128  # at -icount shift=7
NS_OF_TICK = 40
STACK_FREE = 1024  # of the stack, not counted: any firmware has as much

_JOB = struct.Struct("<4sII")
_ANSWER = struct.Struct("<Ii8I")
_KNOWN_INSTRUCTIONS = 20_000  # that every run counts first, to prove the conversion; and a few around them
_STAGES = ("", "the job", "kf_model_open", "kf_nn_begin", "the inference", "the run to the features")
_TIMEOUT = 900  # seconds; the largest model takes a tenth of it on a loaded machine


@dataclasses.dataclass(frozen=True)
class Run:
    """One model on one core.

    instructions: of the last input's inference. macs: outputs times the weights behind each. arena: bytes of
    RAM, counted as tests/bench/README.md says. flash: of the engine's image, and what the model's file grew
    by. outputs, features: uint8, a row an input; features has no columns when the model has no head.
    """

    instructions: int
    macs: int
    arena: int
    stack: int
    flash: int
    outputs: NDArray[np.uint8]
    features: NDArray[np.uint8]


class Answer(NamedTuple):
    """answer_t of firmware/bench/main.c. stage 0: all went well; outputs, features: bytes an input."""

    stage: int
    status: int
    fault: int
    known_ticks: int
    ticks: int
    arena: int
    state: int
    stack: int
    outputs: int
    features: int


def instructions(ticks: int) -> int:
    """How many instructions took so many ticks of the 25 MHz timer."""
    return round(ticks * NS_OF_TICK / NS_OF_INSTRUCTION)


def build_folder(core: Core, root: Path) -> Path:
    """Where the firmware is built for a core, with the flags that the core's board has."""
    return root / "build" / "bench" / core.name


def image_of(core: Core, root: Path) -> Path:
    """Builds the bench image of a core, in its `build_folder`. BenchError: a tool is missing, or it fails."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is not installed; install it: apt-get install {package}")
    folder = build_folder(core, root)
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    for command in (
        ["cmake", "--preset", core.board, "-B", str(folder), python],
        ["cmake", "--build", str(folder), "--target", "bench"],
    ):
        done = subprocess.run(command, cwd=root / "firmware", capture_output=True, text=True)
        if done.returncode != 0:
            log = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
            raise BenchError(f"{log}\nthe image for {core.name} does not build; see: {' '.join(command)}")
    return folder / "bench.elf"


def run(image: Path, core: Core, model: bytes, inputs: NDArray[np.uint8]) -> Run:
    """Runs `model`, with a memory plan put into it as `kilofed convert` does.

    inputs: uint8 [N, the model's input bytes], at least two. BenchError when QEMU is missing or miscounts, or
    the engine refuses the model or fails.
    """
    planned = with_plan(model)
    answer, rows = run_file(image, core, planned, inputs)
    code = sum(len(segment.data) for segment in elf.read(image).segments)
    return Run(
        instructions=instructions(answer.ticks),
        macs=macs(model),
        arena=answer.arena + answer.state + max(0, answer.stack - STACK_FREE),
        stack=answer.stack,
        flash=code + len(planned) - len(model),
        outputs=rows[:, : answer.outputs],
        features=rows[:, answer.outputs :],
    )


def run_file(
    image: Path, core: Core, file: bytes, inputs: NDArray[np.uint8]
) -> tuple[Answer, NDArray[np.uint8]]:
    """Runs a .tflite as it is. (the answer, uint8 [N, outputs + features]); raises as `run` does."""
    symbols = elf.read(image).symbols
    job = _JOB.pack(b"KBFJ", len(file), len(inputs)) + inputs.tobytes()
    with tempfile.TemporaryDirectory(prefix="kilofed-bench-") as folder:
        loads = []
        for name, content in (("model", file), ("job", job)):
            at, end = symbols[f"bench_{name}"], symbols[f"bench_{name}_end"]
            if len(content) > end - at:
                raise BenchError(f"a {name} of {len(content)} B, the limit is {end - at}; try a smaller one")
            path = Path(folder) / name
            path.write_bytes(content)
            loads += ["-device", f"loader,file={path},addr={at:#x},force-raw=on"]
        said = _emulate(image, core, loads, Path(folder))
    if len(said) < _ANSWER.size:
        raise BenchError(f"the bench image of {core.name} ended without an answer: the engine crashed")
    answer = Answer(*_ANSWER.unpack_from(said))
    if answer.stage:
        what = _STAGES[answer.stage]
        raise BenchError(f"{what} failed on {core.name} with status {answer.status}, fault {answer.fault}")
    counted = instructions(answer.known_ticks)
    if not 0 <= counted - _KNOWN_INSTRUCTIONS <= 12:
        raise BenchError(f"QEMU counts {counted} for {_KNOWN_INSTRUCTIONS} instructions; use QEMU 7.2")
    rows = np.frombuffer(said, np.uint8, -1, _ANSWER.size)
    if rows.size != len(inputs) * (answer.outputs + answer.features):
        raise BenchError(f"the engine stopped before the last of {len(inputs)} inputs on {core.name}")
    return answer, rows.reshape(len(inputs), answer.outputs + answer.features)


def _emulate(image: Path, core: Core, loads: list[str], folder: Path) -> bytes:
    if shutil.which(QEMU) is None:
        raise BenchError(f"{QEMU} is not installed; install it: apt-get install {QEMU_PACKAGE}")
    command = [QEMU, "-M", core.machine, "-kernel", str(image), "-icount", "shift=7"]
    command += ["-display", "none", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", *loads]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BenchError(f"the inference on {core.name} did not end in {_TIMEOUT} s") from None
    if done.returncode != 0:
        raise BenchError(f"QEMU ended with {done.returncode}: {done.stderr.strip()}")
    result = folder / "result"
    return result.read_bytes() if result.is_file() else b""


def verify(model: bytes, inputs: NDArray[np.uint8], found: Run, where: str) -> None:
    """BenchError unless outputs and features are those of TFLite Micro's reference kernels, byte for byte."""
    pairs = [("outputs", found.outputs, reference(model, inputs))]
    if found.features.size:
        pairs.append(("features", found.features, reference_features(model, inputs)))
    for what, got, expected in pairs:
        wrong = int((got != expected).sum())
        if wrong:
            raise BenchError(
                f"{wrong} of {got.size} bytes of the {what} on {where} are not TFLite Micro's, so the"
                " count is worth nothing; find the operator with: pytest tests/firmware/engine"
            )


def reference_features(model: bytes, inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What enters the head, uint8 [N, F], by TFLite Micro's reference kernels."""
    return reference(heads.backbone(model), inputs)


def reference(model: bytes, inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A model's outputs, uint8 [N, bytes], by the kernels in TFLite Micro's wheel."""
    # Not at the top of the file: the package is large, and most topics do without it.
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model, arena_size=len(model) * 10 + (1 << 20))
    details = interpreter.get_input_details(0)
    rows = []
    for row in inputs:
        interpreter.set_input(row.view(details["dtype"]).reshape(details["shape"]), 0)
        interpreter.invoke()
        rows.append(np.ascontiguousarray(interpreter.get_output(0)).view(np.uint8).ravel())
    return np.stack(rows)


def random_inputs(model: bytes, count: int, seed: int = 7) -> NDArray[np.uint8]:
    """Noise, uint8 [count, input bytes]: no kernel here is faster or slower for it by more than a clamp."""
    parsed = read_model(model)
    size = parsed.tensors[parsed.inputs[0]].elements
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (count, size), dtype=np.uint8)


def macs(model: bytes) -> int:
    """Multiply-accumulates of one inference: of convolutions and fully connected layers, padding included."""
    parsed = read_model(model)
    total = 0
    for operator in parsed.operators:
        if operator.code in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED):
            weights = parsed.tensors[operator.inputs[1]]
            # [out, kernel h, kernel w, in], [out, in]; depthwise [1, kernel h, kernel w, out]
            outputs = weights.shape[-1 if operator.code == Op.DEPTHWISE_CONV_2D else 0]
            total += parsed.tensors[operator.outputs[0]].elements * weights.elements // outputs
    return total
