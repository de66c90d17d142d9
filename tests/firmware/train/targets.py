"""Rounds of training as machine code of the boards' cores, in QEMU: for the vectors' test and the bench."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kilofed_tools.trainer import TrainConfig, split, train
from kilofed_tools.updates import Codec, base_of, encode_update

from .conftest import ROOT, SOURCES, WARNINGS, make_head

HERE = Path(__file__).parent
TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")


TRAIN = ROOT / "firmware/src/train"


class Target(NamedTuple):
    """How to compile for a core, and a QEMU machine that runs it.

    family: the folder of its kernel family (empty: the portable one). memory: where flash and RAM begin.
    timer: the address and bare.h's kind of a counter; tick_ns: nanoseconds of its tick. shift: at -icount
    shift=N an instruction takes 2^N ns of the board's time.
    """

    machine: str
    flags: list[str]
    family: str
    memory: tuple[int, int]
    timer: tuple[int, int]
    tick_ns: float
    shift: int


CMSDK, NRF, FPGAIO = range(3)  # a timer that counts down; one of an nRF51; a counter, at 20 MHz
_LOW = (0, 0x20000000)
TARGETS = {
    "m0": Target("microbit", ["-mcpu=cortex-m0", "-O2"], "small", _LOW, (0x40008000, NRF), 62.5, 8),
    "m3": Target("mps2-an385", ["-mcpu=cortex-m3", "-O2"], "", _LOW, (0x40000000, CMSDK), 40, 7),
    "m4f": Target("mps2-an386", ["-mcpu=cortex-m4", "-O2"], "dsp", _LOW, (0x40000000, CMSDK), 40, 7),
    "m7": Target("mps2-an500", ["-mcpu=cortex-m7", "-O2"], "dsp", _LOW, (0x40000000, CMSDK), 40, 7),
    "m33": Target(
        *("mps2-an505", ["-mcpu=cortex-m33", "-O2"], "dsp", (0x10000000, 0x38000000)),
        *((0x50000000, CMSDK), 50, 7),
    ),
    "m55": Target(
        "mps3-an547",
        ["-mcpu=cortex-m55", "-mfloat-abi=hard", "-O2", "-fno-branch-count-reg"],
        *("mve", (0, 0x30000000)),
        *((0x59302000, FPGAIO), 50, 7),
    ),
}


def sources(target: Target) -> list[Path]:
    """The training core with the target's kernel family."""
    family = kernels(target)
    names = [source.name for source in family]
    return [source for source in SOURCES if source.name not in names] + family


def kernels(target: Target) -> list[Path]:
    """The files that the target's family has instead of the portable ones."""
    return sorted((TRAIN / target.family).glob("*.c")) if target.family else []


def small_board_round(features: int = 32) -> dict[str, Any]:
    """The 16 KB board's job: 80 slots, ten classes, batch 16, two epochs.

    Half of the features are zero, as after a ReLU.
    """
    rng = np.random.default_rng(4)
    q = np.maximum(rng.integers(-255, 128, (80, features)), -128)
    y = rng.integers(0, 10, 80)
    config: dict[str, Any] = {"epochs": 2, "batch": 16, "seed": 5}
    config |= {"lr_w": [20000, 24 + 4], "lr_b": [26214, 13], "prox": [0, 0]}
    head = make_head(rng.integers(-127, 128, (10, features)), rng.integers(-900, 900, 10), 60)
    return {
        "classes": 10,
        "features": features,
        "x_zp": -128,
        "holdout": 5,
        "config": config,
        "head": head.hex(),
        "q": q.astype(np.int8).tobytes().hex(),
        "labels": y.tolist(),
    }


def expected_update(case: dict[str, Any]) -> str:
    """The int8 update of a case by the trainer in numpy, in hex."""
    shape = case["classes"], case["features"]
    blob = bytes.fromhex(case["head"])
    weights = np.frombuffer(blob, np.int8, shape[0] * shape[1], 16).reshape(shape)
    bias = np.frombuffer(blob[-4 * shape[0] :], "<i4")
    W0, b0 = base_of(weights, bias, int.from_bytes(blob[8:12], "little"))
    x = np.frombuffer(bytes.fromhex(case["q"]), np.int8).reshape(-1, shape[1]).astype(np.int64) - case["x_zp"]
    kept, _ = split(len(x), case["holdout"])
    y = np.array(case["labels"])
    result = train(W0, b0, x[kept], y[kept], TrainConfig(**case["config"]), base=(W0, b0))
    return encode_update(result.W, result.b, W0, b0, Codec.INT8)[0].hex()


def macs(case: dict[str, Any]) -> int:
    """Multiply-accumulates of a case's training: forward and backward, 2 C F a sample and epoch."""
    samples, holdout = len(case["labels"]), case["holdout"]
    trained = samples - (samples // holdout if holdout else 0)
    return int(2 * case["classes"] * case["features"] * trained * case["config"]["epochs"])


def c_bytes(name: str, kind: str, values: list[int]) -> str:
    return f"static const {kind} {name}[] = {{{','.join(map(str, values))}}};\n"


def write_header(path: Path, cases: list[dict[str, Any]]) -> None:
    """The rounds as constant tables."""
    parts = [
        '#include "kilofed/train.h"\n',
        "typedef struct round { uint16_t classes, features, capacity, holdout, samples;\n"
        "  kf_train_config_t cfg; const uint8_t *head; const int8_t *q; const uint8_t *labels; } round_t;\n",
    ]
    rows = []
    for i, case in enumerate(cases):
        samples, holdout, config = len(case["labels"]), case["holdout"], case["config"]
        capacity = -(-samples // holdout) * holdout if holdout else samples
        q = np.frombuffer(bytes.fromhex(case["q"]), np.int8).tolist()
        parts.append(c_bytes(f"HEAD{i}", "uint8_t", list(bytes.fromhex(case["head"]))))
        parts.append(c_bytes(f"Q{i}", "int8_t", q))
        parts.append(c_bytes(f"LABELS{i}", "uint8_t", case["labels"]))
        rates = ",".join(f"{{{m},{s}}}" for m, s in (config["lr_w"], config["lr_b"], config["prox"]))
        cfg = f"{{{config['seed']}u,{config['batch']},{config['epochs']},{case['x_zp']},{rates}}}"
        shape = f"{case['classes']},{case['features']},{capacity},{holdout},{samples}"
        rows.append(f"  {{{shape},{cfg},HEAD{i},Q{i},LABELS{i}}},\n")
    path.write_text("".join(parts) + "static const round_t ROUNDS[] = {\n" + "".join(rows) + "};\n")


class Done(NamedTuple):
    """What a core made of a case: the blobs in hex, and how many instructions the training took."""

    update: str
    personal: str
    instructions: float


def build_image(
    folder: Path,
    target: Target,
    cases: Sequence[dict[str, Any]],
    *,
    flags: Sequence[str] | None = None,
    code: Sequence[Path] | None = None,
) -> Path:
    """An image in `folder` that trains `cases`.

    code: the training core, as sources that are compiled with `flags` (the target's own by default), or as a
    library that has been built already; by default the target's `sources`.
    """
    write_header(folder / "rounds.h", list(cases))
    code = sources(target) if code is None else code
    return compile_image(folder, target, [HERE / "target.c", *code], flags)


def write_script(folder: Path, target: Target) -> Path:
    """target.ld with the target's memory."""
    path = folder / "image.ld"
    text = (HERE / "target.ld").read_text()
    for name, origin in zip(("FLASH", "RAM"), target.memory, strict=True):
        text = text.replace(f"{name}_ORIGIN", f"{origin:#x}")
    path.write_text(text)
    return path


def compile_image(
    folder: Path, target: Target, code: Sequence[Path], flags: Sequence[str] | None = None
) -> Path:
    """An image in `folder` of these sources, objects and libraries, one of which includes bare.h."""
    image = folder / "image.elf"
    subprocess.run(
        [
            "arm-none-eabi-gcc",
            *(flag for flag in WARNINGS if flag != "-Wpedantic"),  # assembly and addresses as pointers
            *(target.flags if flags is None else flags),
            *("-mthumb", "-ffreestanding", "-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections"),
            *(f"-DTIMER_BASE={target.timer[0]:#x}u", f"-DTIMER_KIND={target.timer[1]}"),
            *(f"-I{ROOT / 'firmware/include'}", f"-I{folder}", f"-T{write_script(folder, target)}"),
            *map(str, code),
            *("-o", str(image)),
        ],
        check=True,
    )
    return image


def emulate(image: Path, target: Target) -> list[str]:
    """Runs an image to its end: the lines that it prints."""
    machine = ["-M", target.machine, "-kernel", str(image), "-display", "none", "-monitor", "none"]
    options = ["-serial", "none", "-semihosting-config", "enable=on,target=native"]
    count = ["-icount", f"shift={target.shift}"]
    done = subprocess.run(
        ["qemu-system-arm", *machine, *options, *count],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return (done.stdout + done.stderr).splitlines()


def run_image(image: Path, target: Target) -> list[Done]:
    """Runs an image of `build_image`; a line it does not understand is an AssertionError that shows it."""
    found = []
    for line in emulate(image, target):
        words = line.split()
        assert len(words) == 3, line
        instructions = int(words[2], 16) * target.tick_ns / 2**target.shift
        found.append(Done(words[0], words[1], instructions))
    return found
