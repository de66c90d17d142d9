"""What was executed: blocks of code, how often each ran, and which came after which.

`firmware/bench/plugin/blocks.c` counts them inside QEMU and writes a file; this reads it, and makes
instructions, cycles and functions of it with the image's listing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kilofed.profiling.cycles import Timings
from kilofed.profiling.listing import Listing

OURS = ("bench_", "__wrap_")
"""What functions of the bench itself begin with: executed among the others, and not counted."""


@dataclass(frozen=True)
class Block:
    """Instructions without a branch inside, as the emulator cut them."""

    address: int
    instructions: int
    size: int


@dataclass
class Part:
    """A stretch of execution. runs: block -> times; follows: (block, the next one) -> times; extra: block ->
    transfers that misaligned loads and stores took beyond one each.
    """

    runs: Counter[Block] = field(default_factory=Counter)
    extra: Counter[Block] = field(default_factory=Counter)
    follows: Counter[tuple[Block, Block]] = field(default_factory=Counter)

    @property
    def instructions(self) -> int:
        """Executed, those of the bench itself included."""
        return sum(block.instructions * count for block, count in self.runs.items())


@dataclass(frozen=True)
class Cost:
    """What a stretch of execution took. cycles: table's name -> modelled cycles."""

    instructions: int
    cycles: Mapping[str, int]

    def __add__(self, other: Cost) -> Cost:
        names = self.cycles.keys() | other.cycles.keys()
        cycles = {name: self.cycles.get(name, 0) + other.cycles.get(name, 0) for name in names}
        return Cost(self.instructions + other.instructions, cycles)


NOTHING = Cost(0, {})


def read(path: Path) -> dict[int, dict[int, Part]]:
    """Pass -> part -> what ran in it, of a file that the plugin wrote. ValueError: it is none."""
    passes: dict[int, dict[int, Part]] = {}
    blocks: dict[int, Block] = {}
    edges: list[tuple[Part, int, int, int]] = []  # a block may be named before its own line
    part = Part()
    for line in path.read_text().splitlines():
        what, *numbers = line.split()
        values = [int(number) for number in numbers]
        if what == "part":
            part = passes.setdefault(values[0], {}).setdefault(values[1], Part())
        elif what == "block":
            block = blocks.setdefault(values[0], Block(*values[1:4]))
            part.runs[block] += values[4]
            part.extra[block] += values[5]
        elif what == "next":
            edges.append((part, values[0], values[1], values[2]))
        else:
            raise ValueError(f"{path.name} has a line of {what!r}")
    for part, before, after, count in edges:
        part.follows[blocks[before], blocks[after]] += count
    return passes


class Pricing:
    """Prices what ran of one image. listing: its code; timings: name -> table, any number of them."""

    def __init__(self, listing: Listing, timings: Mapping[str, Timings]) -> None:
        self._listing = listing
        self._timings = timings
        self._starts = list(listing.functions)
        self._blocks: dict[Block, dict[str, int]] = {}

    def functions(self, part: Part) -> dict[str, Cost]:
        """What a part took, by function, the dearest first; without what belongs to the bench."""
        found: dict[str, Cost] = {}
        for block, count in part.runs.items():
            name = self.function(block.address)
            if name.startswith(OURS):
                continue
            fixed = self._price(block)
            extra = part.extra[block]
            cycles = {core: n * count + self._timings[core].extra * extra for core, n in fixed.items()}
            cost = Cost(block.instructions * count, cycles)
            found[name] = found.get(name, NOTHING) + cost
        for (before, after), count in part.follows.items():
            name = self.function(before.address)
            if before.address + before.size == after.address or name.startswith(OURS):
                continue
            last = self._listing.block(before.address, before.instructions)[-1]
            target = self._listing.instructions.get(after.address)
            more = {core: table.branch(last, target) * count for core, table in self._timings.items()}
            found[name] = found.get(name, NOTHING) + Cost(0, more)
        return dict(sorted(found.items(), key=lambda item: -item[1].instructions))

    def kinds(self, part: Part) -> Counter[str]:
        """Instructions of a part by kind (`listing.Kind`, as people read it), without the bench's own."""
        found: Counter[str] = Counter()
        for block, count in part.runs.items():
            if not self.function(block.address).startswith(OURS):
                for instruction in self._listing.block(block.address, block.instructions):
                    found[instruction.kind.value] += count
        return found

    def function(self, address: int) -> str:
        """The function that an address lies in."""
        at = bisect_right(self._starts, address) - 1
        return self._listing.functions[self._starts[at]] if at >= 0 else "?"

    def _price(self, block: Block) -> dict[str, int]:
        if block not in self._blocks:
            code = self._listing.block(block.address, block.instructions)
            self._blocks[block] = {core: table.block(code) for core, table in self._timings.items()}
        return self._blocks[block]


def total(functions: Mapping[str, Cost]) -> Cost:
    """The sum over functions."""
    cost = NOTHING
    for part in functions.values():
        cost += part
    return cost
