"""One measured number, with the command that prints it again."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Figure:
    """A row of `build/bench.json`.

    name: dotted, from the general to the special, e.g. `board.microbit.flash`.
    value: a number, or None where it could not be measured here; `unit` then says why.
    unit: `B`, `instructions`, `fraction`, ...
    command: what a reader types in a checkout to get this figure again.
    """

    name: str
    value: float | int | None
    unit: str
    command: str


class BenchError(Exception):
    """A figure could not be had, or what was measured is wrong. The text says which, and what to try."""
