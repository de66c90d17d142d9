"""Where an inference spends its instructions, its modelled cycles and its RAM: by operator, and by function.

The profile image tells the counting plugin which operator runs; what it executes for that is left out. RAM is
the memory plan's: what is alive while an operator runs, and its scratch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilofed.boards.catalogue import Board
from kilofed.errors import EmulatorError
from kilofed.profiling import counts, engine, listing
from kilofed.profiling.counts import NOTHING, Cost
from kilofed.profiling.cycles import Timings
from kilofed_tools.operators import check_operators
from kilofed_tools.plan import Plan, device_plan, with_plan
from kilofed_tools.tflite import op_name, read_model

TOLD_APART = 254
"""Operators that a profile tells apart; all further ones are one line."""


@dataclass(frozen=True)
class OperatorProfile:
    """One operator. shape: of its (first) output. ram: bytes of the arena in use while it runs.

    functions: name -> what it took, the most instructions first; empty when the operator is among "all
    further ones" of another.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    macs: int
    ram: int
    functions: Mapping[str, Cost] = field(repr=False)

    @property
    def cost(self) -> Cost:
        """The sum over its functions."""
        return counts.total(self.functions)


@dataclass(frozen=True)
class Profile:
    """One inference of a model on a board's core. table: what cycles are modelled with.

    start: what ran before the first operator. kinds: kind of instruction -> how many of all, the most
    frequent first. arena: bytes that the model needs. note: why outputs were not
    compared with TFLite Micro's, "" when they were and are equal.
    """

    board: str
    table: Timings
    operators: tuple[OperatorProfile, ...]
    start: Mapping[str, Cost]
    kinds: Mapping[str, int]
    arena: int
    note: str

    @property
    def functions(self) -> dict[str, Cost]:
        """Function -> what it took in all, the most instructions first."""
        found: dict[str, Cost] = {}
        for part in (self.start, *(operator.functions for operator in self.operators)):
            for name, cost in part.items():
                found[name] = found.get(name, NOTHING) + cost
        return dict(sorted(found.items(), key=lambda item: -item[1].instructions))

    @property
    def cost(self) -> Cost:
        """What the whole inference took."""
        return counts.total(self.functions)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the inference."""
        return sum(operator.macs for operator in self.operators)

    @property
    def peak(self) -> OperatorProfile:
        """The first operator at which the arena is fullest."""
        return max(self.operators, key=lambda operator: operator.ram)

    def cycles(self, cost: Cost) -> int:
        """Modelled cycles of a part."""
        return cost.cycles.get(_TABLE, 0)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""

        def plain(functions: Mapping[str, Cost]) -> list[dict[str, Any]]:
            return [{"function": name, **figures(cost)} for name, cost in functions.items()]

        def figures(cost: Cost) -> dict[str, int]:
            return {"instructions": cost.instructions, "cycles_model": self.cycles(cost)}

        return {
            "board": self.board,
            "core": self.table.core,
            **figures(self.cost),
            "cycles_model_source": self.table.source,
            "cycles_model_estimated": self.table.estimated,
            "macs": self.macs,
            "arena": self.arena,
            "peak_operator": self.peak.index,
            "operators": [
                {
                    "index": operator.index,
                    "name": operator.name,
                    "output_shape": list(operator.shape),
                    "macs": operator.macs,
                    "arena_in_use": operator.ram,
                    **figures(operator.cost),
                    "functions": plain(operator.functions),
                }
                for operator in self.operators
            ],
            "functions": plain(self.functions),
            "kinds": dict(self.kinds),
            "outputs_equal_tflite_micro": None if self.note else True,
            "notes": [self.note] if self.note else [],
        }


_TABLE = "own"


def of(
    model: bytes, board: Board, *, root: Path | None = None, progress: Callable[[str], None] | None = None
) -> Profile:
    """Profiles `model`, with a memory plan put into it as `kilofed convert` does, on a board's core.

    The core is emulated on a machine with more memory than most boards have, so a model need not fit.

    Raises ToolMissingError, BuildError, EmulatorError, FitError for a model beyond what the emulated machine
    holds, and ModelError for one that the device refuses.
    """
    say = progress or (lambda _: None)
    core = engine.core_of(board)
    parsed = read_model(model)
    check_operators(parsed)
    planned = with_plan(model)
    say(f"building the engine for {board.name}")
    image = engine.image_of(core, root, model=model, target="profile")
    inputs = engine.random_inputs(model, 2)
    say(f"running the model on an emulated {core.machine}")
    answer, rows, parts = engine.count(image, core, planned, inputs)
    note = engine.oracle_missing()
    if not note:
        say("comparing with TFLite Micro")
        engine.compare("outputs", rows[:, : answer.outputs], engine.reference(model, inputs), board.name)
    own = core.tables[core.timings[0]]
    priced = counts.Pricing(listing.read(image), {_TABLE: own})
    functions = {number: priced.functions(part) for number, part in parts.items()}
    kinds: Counter[str] = Counter()
    for part in parts.values():
        kinds += priced.kinds(part)
    if not functions.keys() - {0}:
        raise EmulatorError(
            "the profile image does not tell which operator runs",
            "firmware/bench/profile.c must see each operator begin",
            board=board.name,
        )
    plan, macs = device_plan(planned), engine.macs_of(model)
    operators = tuple(
        OperatorProfile(
            index=operator.index,
            name=op_name(operator.code),
            shape=tuple(parsed.tensors[operator.outputs[0]].shape),
            macs=macs[operator.index],
            ram=in_use(plan, operator.index),
            functions=functions.get(operator.index + 1, {}),
        )
        for operator in parsed.operators
    )
    return Profile(
        board.name, own, operators, functions.get(0, {}), dict(kinds.most_common()), plan.arena_bytes, note
    )


def in_use(plan: Plan, operator: int) -> int:
    """Bytes of the arena in use while an operator runs: what is alive then, places shared counted once, and
    its scratch.
    """
    alive = [
        (plan.offsets[tensor], plan.sizes[tensor])
        for tensor, (written, read) in plan.lifetimes.items()
        if written <= operator <= read
    ]
    return _covered([*alive, plan.scratch[operator]])


def _covered(places: Iterable[tuple[int, int]]) -> int:
    """Bytes that lie in any of `places`, (offset, bytes) each."""
    total = end = 0
    for offset, size in sorted(places):
        total += max(0, offset + size - max(end, offset))
        end = max(end, offset + size)
    return total
