"""The engine alone on an emulated core: build `firmware/bench` for it, run a model there, and count.

Counting: a plugin of QEMU (`firmware/bench/plugin/blocks.c`) counts the blocks of code that run between two
addresses. The counts are exact, the same at every run, and do not depend on how loaded this machine is. Every
run first counts a loop of known length, and is refused if that comes out wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.util
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kilofed.boards import catalogue, elf
from kilofed.boards.build import OPS, TOOLS, first_error, operator_table, operators_of, replace_file
from kilofed.boards.catalogue import Board
from kilofed.boards.players import QEMU, QEMU_PACKAGE
from kilofed.errors import BuildError, EmulatorError, FitError, ToolMissingError
from kilofed.profiling import counts, listing
from kilofed.profiling.counts import Part
from kilofed.profiling.cycles import TIMINGS, Timings
from kilofed_tools import heads
from kilofed_tools.errors import ModelContractError, ModelError
from kilofed_tools.plan import with_plan
from kilofed_tools.tflite import Op, read_model


@dataclass(frozen=True)
class Core:
    """A core: the board whose flags its code is compiled with, and QEMU's machine that runs it.

    timings: names in `cycles.TIMINGS` of the tables its cycles are modelled with, its own first.
    """

    name: str
    board: str
    machine: str
    timings: tuple[str, ...]

    @property
    def tables(self) -> dict[str, Timings]:
        """The tables themselves."""
        return {name: TIMINGS[name] for name in self.timings}


#: The micro:bit has no room for most models; the AN385's Cortex-M3 executes a Cortex-M0's code unchanged.
CORES = (
    Core("m0", "microbit", "mps2-an385", ("m0", "m0plus")),
    Core("m3", "mps2-an385", "mps2-an385", ("m3",)),
    Core("m4f", "mps2-an386", "mps2-an386", ("m4f",)),
    Core("m7", "mps2-an500", "mps2-an500", ("m7",)),
    Core("m33", "mps2-an505", "mps2-an505", ("m33",)),
    Core("m55", "mps3-an547", "mps3-an547", ("m55",)),
)

_OF_GCC = {
    "cortex-m0": "m0",
    "cortex-m0plus": "m0",
    "cortex-m3": "m3",
    "cortex-m4": "m4f",
    "cortex-m7": "m7",
    "cortex-m33": "m33",
    "cortex-m55": "m55",
}

_ALIGNED = (
    "m0",
    "m0plus",
)  # Armv6-M: a misaligned access is a fault; the Cortex-M3 that runs it here allows it

STACK_FREE = 1024  # of the stack, not counted: any firmware has as much

_JOB = struct.Struct("<4sII")
_ANSWER = struct.Struct("<Ii7I")
_KNOWN_INSTRUCTIONS = 20_000  # that every run counts first; and a few around them
_AROUND = 16
_PASSES = 3  # the known ones, a warming inference, the counted one
_STAGES = ("", "the job", "kf_model_open", "kf_nn_begin", "the inference", "the run to the features")
#: kf_model_fault_t of firmware/include/kilofed/model.h.
_FAULTS = {
    1: "is no .tflite",
    2: "has an offset that leaves the file",
    3: "has more or fewer operators, tensors, inputs or outputs than the engine takes",
    4: "has an index of something that does not exist",
    5: "reads what nobody wrote before",
    6: "is none that the engine computes",
    7: "has a type that the engine does not compute; it computes int8",
    8: "has a shape that cannot be, or is too large",
    9: "has constant data of the wrong size",
    10: "has a scale or zero point that cannot be",
    11: "has parameters that the engine does not compute",
    12: "has too many activations, and no memory plan",
}
_TIMEOUT = 900  # seconds; the largest model takes a tenth of it on a loaded machine


class Answer(NamedTuple):
    """answer_t of firmware/bench/main.c. stage 0: all went well; outputs, features: bytes an input."""

    stage: int
    status: int
    fault: int
    op: int
    arena: int
    state: int
    stack: int
    outputs: int
    features: int


@dataclass(frozen=True)
class Run:
    """One model on one core.

    instructions, cycles: of the last input's inference; cycles by the name of the table they are modelled
    with. macs: outputs times the weights behind each. arena: bytes of RAM, the stack beyond `STACK_FREE`
    included; flash: of the engine's image, and what the memory plan made the model's file longer. outputs,
    features: uint8, a row an input; features has no columns when the model has no head.
    """

    instructions: int
    cycles: dict[str, int]
    macs: int
    arena: int
    stack: int
    flash: int
    outputs: NDArray[np.uint8]
    features: NDArray[np.uint8]


# ---- images ------------------------------------------------------------------------------------------------


def core(name: str) -> Core:
    """The core called `name`. KeyError: there is none."""
    return {core.name: core for core in CORES}[name]


def core_of(board: Board) -> Core:
    """The core that runs a board's code. BuildError for a core that nothing here emulates."""
    if board.core not in _OF_GCC:
        raise BuildError(
            f"{board.name} has a {board.core}, which nothing here runs a model on",
            f"use a board with one of {', '.join(_OF_GCC)}",
            board=board.name,
        )
    like = core(_OF_GCC[board.core])
    timings = ("m0plus",) if board.core == "cortex-m0plus" else like.timings[:1]
    return Core(board.name, board.name, like.machine, timings)


def build_folder(core: Core, root: Path) -> Path:
    """Where the firmware is built for a core, with the flags that the core's board has."""
    return root / "build" / "bench" / core.name


def image_of(
    core: Core, root: Path | None = None, *, model: bytes | None = None, target: str = "bench"
) -> Path:
    """Builds an image of a core, in its `build_folder`: "bench", or "profile", which tells operators apart.

    root: of a checkout, by default the one this package runs from. model: link only the operators it uses, as
    `kilofed build` does. Raises ToolMissingError, BuildError, and ModelError for a model that cannot be read.
    """
    root = root or _checkout()
    for tool, package in TOOLS.items():
        _need(tool, package, core.board)
    folder, source = build_folder(core, root), root / "firmware"
    toolchain = source / "cmake" / "arm-none-eabi.cmake"
    configure = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(folder), f"-DKF_BOARD={core.board}"]
    configure += [f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", f"-DPython3_EXECUTABLE={sys.executable}"]
    configure += [f"-DKF_OPS={folder / OPS}"]
    table = operator_table(source, None if model is None else operators_of(model))
    image = folder / "images" / f"{target}-{hashlib.blake2b(table, digest_size=4).hexdigest()}.elf"
    with _locked(folder):
        replace_file(folder / OPS, table)
        for command in (configure, ["cmake", "--build", str(folder), "--target", target]):
            _build(command, core.board, f"the {target} image for {core.name}")
        image.parent.mkdir(exist_ok=True)
        replace_file(image, (folder / f"{target}.elf").read_bytes())
    return image


def plugin(root: Path | None = None) -> Path:
    """Builds the counting plugin for this machine. Raises ToolMissingError and BuildError."""
    root = root or _checkout()
    _need("cc", "gcc", "")
    _need(QEMU, QEMU_PACKAGE, "")
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True).stdout
    version = api_version(said)
    source = root / "firmware" / "bench" / "plugin" / "blocks.c"
    library = root / "build" / "bench" / f"blocks-{version}.so"
    with _locked(library.parent):
        if not library.is_file() or library.stat().st_mtime < source.stat().st_mtime:
            part = library.with_suffix(".part")
            flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"]
            flags.append(f"-DAPI_VERSION={version}")
            _build(["cc", *flags, "-o", str(part), str(source)], "", "the counting plugin")
            part.replace(library)
    return library


def api_version(said: str) -> int:
    """The version of the plugins' interface that a QEMU takes. said: what it prints for --version."""
    found = re.search(r"version (\d+)", said)
    return 2 if found and int(found[1]) >= 9 else 1


def _checkout() -> Path:
    root = catalogue.repository()
    if root is None:
        raise BuildError(
            "this installation has no firmware sources", "clone the repository and run kilofed from there"
        )
    return root


def _need(tool: str, package: str, board: str) -> None:
    if shutil.which(tool) is None:
        raise ToolMissingError(
            f"{tool} is not installed", f"install it: apt-get install {package}", board=board, tool=tool
        )


def _build(command: Sequence[str], board: str, what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        log = (done.stdout + done.stderr).strip()
        raise BuildError(
            f"{what} does not build: {first_error(log)}",
            f"read the whole of it: {' '.join(command)}",
            board=board,
            log="\n".join(log.splitlines()[-30:]),
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time in a folder, across processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- runs --------------------------------------------------------------------------------------------------


def run(image: Path, core: Core, model: bytes, inputs: NDArray[np.uint8]) -> Run:
    """Runs `model`, with a memory plan put into it as `kilofed convert` does, and counts.

    inputs: uint8 [N, the model's input bytes], at least two. Raises ToolMissingError; EmulatorError when QEMU
    miscounts or the engine fails; ModelContractError when the engine refuses the model.
    """
    planned = with_plan(model)
    answer, rows, parts = count(image, core, planned, inputs)
    code = sum(len(segment.data) for segment in elf.read(image).segments)
    priced = counts.Pricing(listing.read(image), core.tables)
    cost = counts.NOTHING
    for part in parts.values():
        cost += counts.total(priced.functions(part))
    return Run(
        instructions=cost.instructions,
        cycles=dict(cost.cycles),
        macs=macs(model),
        arena=answer.arena + answer.state + max(0, answer.stack - STACK_FREE),
        stack=answer.stack,
        flash=code + len(planned) - len(model),
        outputs=rows[:, : answer.outputs],
        features=rows[:, answer.outputs :],
    )


def count(
    image: Path, core: Core, file: bytes, inputs: NDArray[np.uint8]
) -> tuple[Answer, NDArray[np.uint8], dict[int, Part]]:
    """Runs a .tflite as it is: (the answer, uint8 [N, outputs + features], what ran in the last input's
    inference by part). Parts: 0 before the first operator, k + 1 operator k (up to 254), for a profile image;
    only 0 for others. Raises as `run` does.
    """
    symbols = elf.read(image).symbols
    with tempfile.TemporaryDirectory(prefix="kilofed-bench-") as folder:
        out = Path(folder) / "blocks"
        places = {"begin": symbols["bench_begin"] & ~1, "end": symbols["bench_end"] & ~1}
        if "bench_operator" in symbols:
            places |= {"teller": symbols["__wrap_kf_op_work"] & ~1, "marks": symbols["bench_operator"]}
        options = [f"{name}={address:#x}" for name, address in places.items()]
        options += [f"passes={_PASSES}", f"out={_escape(out)}"]
        loaded = ["-plugin", ",".join([_escape(plugin()), *options])]
        answer, rows = _run(image, core, file, inputs, Path(folder), loaded)
        passes = counts.read(out) if out.is_file() else {}
    if len(passes) != _PASSES:
        raise EmulatorError(
            f"{QEMU} counts nothing",
            "use one that was built with --enable-plugins, as Debian's and Ubuntu's are",
            board=core.board,
        )
    known = sum(part.instructions for part in passes[0].values())
    if not 0 <= known - _KNOWN_INSTRUCTIONS <= _AROUND:
        raise EmulatorError(
            f"{QEMU} counts {known} for {_KNOWN_INSTRUCTIONS} instructions", "use QEMU 7.2", board=core.board
        )
    parts = passes[_PASSES - 1]
    if core.timings[0] in _ALIGNED and any(sum(part.extra.values()) for part in parts.values()):
        raise EmulatorError(
            f"the code for {core.name} makes misaligned accesses, which are faults on that core",
            "find the operator with: kilofed profile MODEL --board mps2-an385",
            board=core.board,
        )
    return answer, rows, parts


def run_file(
    image: Path, core: Core, file: bytes, inputs: NDArray[np.uint8]
) -> tuple[Answer, NDArray[np.uint8]]:
    """The same without counting, which needs nothing but QEMU and is faster."""
    with tempfile.TemporaryDirectory(prefix="kilofed-bench-") as folder:
        return _run(image, core, file, inputs, Path(folder), [])


def _run(
    image: Path, core: Core, file: bytes, inputs: NDArray[np.uint8], folder: Path, options: Sequence[str]
) -> tuple[Answer, NDArray[np.uint8]]:
    symbols = elf.read(image).symbols
    job = _JOB.pack(b"KBFJ", len(file), len(inputs)) + inputs.tobytes()
    loads = []
    for name, content in (("model", file), ("job", job)):
        at, end = symbols[f"bench_{name}"], symbols[f"bench_{name}_end"]
        if len(content) > end - at:
            raise FitError(
                f"a {name} of {len(content)} bytes, the bench has room for {end - at}",
                "use a smaller model, or fewer inputs",
                board=core.board,
                memory="flash" if name == "model" else "ram",
                needed=len(content),
                available=end - at,
            )
        path = folder / name
        path.write_bytes(content)
        loads += ["-device", f"loader,file={_escape(path)},addr={at:#x},force-raw=on"]
    said = _emulate(image, core, [*loads, *options], folder)
    if len(said) < _ANSWER.size:
        raise EmulatorError(
            f"the bench image of {core.name} ended without an answer",
            "the engine crashed: find the operator with pytest tests/firmware/engine",
            board=core.board,
        )
    answer = Answer(*_ANSWER.unpack_from(said))
    if answer.stage:
        raise _refused(file, answer, core)
    rows = np.frombuffer(said, np.uint8, -1, _ANSWER.size)
    if rows.size != len(inputs) * (answer.outputs + answer.features):
        raise EmulatorError(
            f"the engine stopped before the last of {len(inputs)} inputs on {core.name}",
            "find the operator with pytest tests/firmware/engine",
            board=core.board,
        )
    return answer, rows.reshape(len(inputs), answer.outputs + answer.features)


def _refused(file: bytes, answer: Answer, core: Core) -> ModelContractError:
    """What the engine said, in words."""
    if answer.fault not in _FAULTS:
        return ModelContractError(
            f"{_STAGES[answer.stage]} failed on {core.name} with status {answer.status}",
            "see what a device takes: kilofed inspect MODEL",
        )
    try:
        operator = read_model(file).operators[answer.op]
        what = f"operator {operator.index} ({operator.name})"
    except (ModelError, IndexError):
        what = "the model"
    return ModelContractError(
        f"{what} {_FAULTS[answer.fault]}",
        "quantize the float model with `kilofed quantize`, or see firmware/PORTING.md, Adding an operator",
    )


def _emulate(image: Path, core: Core, options: Sequence[str], folder: Path) -> bytes:
    _need(QEMU, QEMU_PACKAGE, core.board)
    command = [QEMU, "-M", core.machine, "-kernel", str(image), "-nodefaults", "-no-user-config"]
    command += ["-display", "none", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", *options]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise EmulatorError(
            f"the inference on {core.name} did not end in {_TIMEOUT} s",
            "try again on a machine with less to do",
            board=core.board,
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[0]
        raise EmulatorError(
            f"QEMU ended with {done.returncode}: {said}",
            f"repeat it: {' '.join(command)}",
            board=core.board,
            log=done.stderr,
        )
    result = folder / "result"
    return result.read_bytes() if result.is_file() else b""


def _escape(path: Path) -> str:
    """A file name inside a QEMU option, where a comma is doubled."""
    return str(path.resolve()).replace(",", ",,")


# ---- the oracle --------------------------------------------------------------------------------------------


def oracle_missing() -> str:
    """Why `verify` cannot be had here, "" when it can."""
    if importlib.util.find_spec("tflite_micro") is None:
        return "not compared with TFLite Micro, whose wheel is not installed: pip install tflite-micro"
    return ""


def verify(model: bytes, inputs: NDArray[np.uint8], found: Run, where: str) -> None:
    """EmulatorError unless outputs and features are those of TFLite Micro's reference kernels, byte for
    byte.
    """
    compare("outputs", found.outputs, reference(model, inputs), where)
    if found.features.size:
        try:
            features = reference_features(model, inputs)
        except ModelContractError:
            return  # a head that the device would train, in a file that is not in form
        compare("features", found.features, features, where)


def compare(what: str, got: NDArray[np.uint8], expected: NDArray[np.uint8], where: str) -> None:
    """EmulatorError unless two arrays are equal."""
    wrong = int((got != expected).sum())
    if wrong:
        raise EmulatorError(
            f"{wrong} of {got.size} bytes of the {what} on {where} are not TFLite Micro's, so the count"
            " is worth nothing",
            "find the operator with: pytest tests/firmware/engine",
        )


def reference_features(model: bytes, inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What enters the head, uint8 [N, F], by TFLite Micro's reference kernels."""
    return reference(heads.backbone(model), inputs)


def reference(model: bytes, inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A model's outputs, uint8 [N, bytes], by the kernels in TFLite Micro's wheel."""
    # Not at the top of the file: the package is large, and may be missing.
    runtime = importlib.import_module("tflite_micro.python.tflite_micro.runtime")

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
    size = parsed.tensors[parsed.inputs[0]].size_bytes
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (count, size), dtype=np.uint8)


def macs(model: bytes) -> int:
    """Multiply-accumulates of one inference: of convolutions and fully connected layers, padding included."""
    return sum(macs_of(model))


def macs_of(model: bytes) -> list[int]:
    """The same of each operator."""
    parsed = read_model(model)
    found = []
    for operator in parsed.operators:
        found.append(0)
        if operator.code in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED):
            weights = parsed.tensors[operator.inputs[1]]
            # [out, kernel h, kernel w, in], [out, in]; depthwise [1, kernel h, kernel w, out]
            outputs = weights.shape[-1 if operator.code == Op.DEPTHWISE_CONV_2D else 0]
            found[-1] = parsed.tensors[operator.outputs[0]].elements * weights.elements // outputs
    return found
