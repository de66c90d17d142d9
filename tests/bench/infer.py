"""`infer.<model>.<core>.*`: one inference of each model on each core, beside what other engines take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kilofed.profiling import engine
from kilofed.profiling import figures as measuring
from kilofed.profiling.yardstick import YARDSTICKS

from . import alikes
from .figure import BenchError, Figure

COMMAND = "python -m tests.bench --only infer"

#: Name here -> file name among the benchmark models, which are not part of the repository.
FOREIGN = {
    "kws": "kws_ref_model.tflite",
    "ic": "ic_resnet8.tflite",
    "ad": "ad01_int8.tflite",
    "vww": "vww_96_int8.tflite",
}


def foreign(name: str, root: Path) -> Path:
    """Where a benchmark model is looked for."""
    shared = Path(os.environ.get("KILOFED_SHARED", root.parent / "shared"))
    return shared / "data" / "models" / FOREIGN[name]


def models(root: Path) -> Iterator[tuple[str, bytes]]:
    """(name, file) of every model that is here; says on stderr which are not, and why."""
    yield "digits", (root / "models" / "digits" / "digits.tflite").read_bytes()
    for name in FOREIGN:
        path = foreign(name, root)
        if path.is_file():
            yield name, path.read_bytes()
        else:
            what = f"bench: no {path}, so no infer.{name}"
            print(f"{what}: set KILOFED_SHARED to the folder above data/models", file=sys.stderr)
    yield from alikes.models(root)


def figures(root: Path) -> Iterator[Figure]:
    """Every model on every core. KilofedError when a byte of a result is not TFLite Micro's."""
    missing = engine.oracle_missing()
    if missing:
        raise BenchError(missing)
    for name, model in models(root):
        for core in engine.CORES:
            print(f"bench: infer {name} on {core.name}", file=sys.stderr)
            found = measuring.measure(model, core, root=root)
            yield from figures_of(f"infer.{name}.{core.name}", found)


def figures_of(prefix: str, found: measuring.Measured) -> Iterator[Figure]:
    """What one run becomes."""
    yardstick = YARDSTICKS.get(alikes.original(prefix.split(".")[1]))
    for name, value, unit in measuring.rows(found.core, found.run, yardstick):
        yield Figure(f"{prefix}.{name}", value, unit, COMMAND)
