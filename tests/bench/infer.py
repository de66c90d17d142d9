"""`infer.<model>.<core>.*`: one inference of each model on each core, beside TFLite Micro with CMSIS-NN."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import engine
from .figure import Figure

COMMAND = "python -m tests.bench --only infer"

#: Name here -> file name among the benchmark models, which are not part of the repository.
FOREIGN = {"kws": "kws_ref_model.tflite", "ic": "ic_resnet8.tflite"}


class Yardstick(NamedTuple):
    """TFLite Micro with CMSIS-NN on one model: instructions of an inference, and bytes by the same rules."""

    instructions: dict[str, int]
    arena: int
    flash: dict[str, int]


#: TFLite Micro with CMSIS-NN, GCC 12.2, measured 2026, see tests/bench/README.md. Arena: of the M4F.
CMSIS_NN = {
    "kws": Yardstick(
        {"m0": 29_000_000, "m3": 10_530_000, "m4f": 7_230_000, "m7": 7_650_000},
        22_820,
        {"m0": 58_476, "m4f": 53_488},
    ),
    "ic": Yardstick(
        {"m0": 97_560_000, "m3": 41_850_000, "m4f": 28_510_000, "m7": 30_030_000},
        54_996,
        {"m0": 56_016, "m4f": 50_812},
    ),
}


def models(root: Path) -> Iterator[tuple[str, bytes]]:
    """(name, file) of every model that is here; says on stderr which are not."""
    yield "digits", (root / "models" / "digits" / "digits.tflite").read_bytes()
    shared = Path(os.environ.get("KILOFED_SHARED", root.parent / "shared")) / "data" / "models"
    for name, file in FOREIGN.items():
        if (shared / file).is_file():
            yield name, (shared / file).read_bytes()
        else:
            what = f"bench: no {shared / file}, so no infer.{name}"
            print(f"{what}: set KILOFED_SHARED to the folder above data/models", file=sys.stderr)


def figures(root: Path) -> Iterator[Figure]:
    """Every model on every core. BenchError when a byte of a result is not TFLite Micro's."""
    images = {core: engine.image_of(core, root) for core in engine.CORES}
    for name, model in models(root):
        inputs = engine.random_inputs(model, 3)
        for core, image in images.items():
            print(f"bench: infer {name} on {core.name}", file=sys.stderr)
            run = engine.run(image, core, model, inputs)
            engine.verify(model, inputs, run, core.name)
            yield from figures_of(f"infer.{name}.{core.name}", core.name, run, CMSIS_NN.get(name))


def figures_of(prefix: str, core: str, run: engine.Run, yardstick: Yardstick | None) -> Iterator[Figure]:
    """What one run becomes; ratios only where there is something to compare with."""

    def figure(name: str, value: float | int, unit: str) -> Figure:
        return Figure(f"{prefix}.{name}", value, unit, COMMAND)

    yield figure("instructions", run.instructions, "instructions")
    yield figure("instructions_per_mac", round(run.instructions / run.macs, 2), "instructions")
    yield figure("arena", run.arena, "B")
    yield figure("stack", run.stack, "B")
    yield figure("flash", run.flash, "B")
    if yardstick is None:
        return
    yield figure("ratio_to_cmsis_nn", round(run.instructions / yardstick.instructions[core], 3), "ratio")
    yield figure("arena_ratio_to_cmsis_nn", round(run.arena / yardstick.arena, 3), "ratio")
    if core in yardstick.flash:
        yield figure("flash_ratio_to_cmsis_nn", round(run.flash / yardstick.flash[core], 3), "ratio")
