"""The figures of one model on one core, as `make bench` and `kilofed bench` have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilofed.profiling import engine
from kilofed.profiling.cycles import TIMINGS
from kilofed.profiling.engine import Core, Run
from kilofed.profiling.yardstick import Yardstick
from kilofed_tools.operators import check_operators
from kilofed_tools.tflite import read_model

INPUTS = 3
"""Inputs of seeded noise that outputs are compared on."""


@dataclass(frozen=True)
class Measured:
    """One model on one core. note: why the outputs were not compared with TFLite Micro's, "" when they were
    and are equal.
    """

    core: Core
    run: Run
    note: str

    @property
    def cycles(self) -> int:
        """Modelled, by the core's own table."""
        return self.run.cycles[self.core.timings[0]]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        table = TIMINGS[self.core.timings[0]]
        return {
            "core": self.core.name,
            "macs": self.run.macs,
            **{name: value for name, value, _ in rows(self.core, self.run, None)},
            "cycles_model_source": table.source,
            "cycles_model_estimated": table.estimated,
            "outputs_equal_tflite_micro": None if self.note else True,
            "notes": [self.note] if self.note else [],
        }


def measure(
    model: bytes, core: Core, *, root: Path | None = None, progress: Callable[[str], None] | None = None
) -> Measured:
    """Builds the engine for a core, runs `model` on it and counts; compares with TFLite Micro where its wheel
    is installed.

    Raises ToolMissingError, BuildError, EmulatorError, and ModelError for a model that the device refuses.
    """
    check_operators(read_model(model))
    say = progress or (lambda _: None)
    say(f"building the engine for {core.name}")
    image = engine.image_of(core, root, model=model)
    inputs = engine.random_inputs(model, INPUTS)
    say(f"running the model on an emulated {core.machine}")
    run = engine.run(image, core, model, inputs)
    note = engine.oracle_missing()
    if not note:
        say("comparing with TFLite Micro")
        engine.verify(model, inputs, run, core.name)
    return Measured(core, run, note)


def rows(core: Core, run: Run, yardstick: Yardstick | None) -> Iterator[tuple[str, float | int, str]]:
    """(name, value, unit) of each figure; ratios only where there is something to compare with."""
    own, *others = core.timings
    yield "instructions", run.instructions, "instructions"
    yield "instructions_per_mac", round(run.instructions / max(1, run.macs), 2), "instructions"
    for name in (own, *others):
        unit = "cycles, estimated" if TIMINGS[name].estimated else "cycles, modelled"
        yield "cycles_model" if name == own else f"cycles_model_{name}", run.cycles[name], unit
    yield "arena", run.arena, "B"
    yield "stack", run.stack, "B"
    yield "flash", run.flash, "B"
    if yardstick is None:
        return
    compared = [
        ("ratio_to_cmsis_nn", run.instructions, yardstick.instructions.get(core.name)),
        ("cycles_ratio_to_cmsis_nn", run.cycles[own], yardstick.cycles.get(core.name)),
        ("cycles_ratio_to_record", run.cycles[own], yardstick.record.get(core.name)),
        ("arena_ratio_to_cmsis_nn", run.arena, yardstick.arena_of(core.name)),
        ("flash_ratio_to_cmsis_nn", run.flash, yardstick.flash_of(core.name)),
    ]
    for name, ours, theirs in compared:
        if theirs is not None:
            yield name, round(ours / theirs, 3), "ratio"
