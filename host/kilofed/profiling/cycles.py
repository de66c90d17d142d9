"""Modelled cycles: what instructions take on each core when memory answers at once.

A model, not a measurement: exact counts of executed instructions (`kilofed.profiling.counts`), priced with
the instruction timings of the core's Technical Reference Manual. No wait states, no bus that is shared, no
cache, no interrupt: silicon that runs from flash with wait states is slower. An instruction whose condition
fails counts as if it were executed. What is assumed where the manual gives a range, or nothing, is said here
beside the number.

A block of code has a price of its own, which depends on the order of its instructions, since loads overlap
with their neighbours; the instruction that ends it has another one when it branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kilofed.profiling.listing import BRANCHES, Instruction, Kind

Price = tuple[int, int]
"""Cycles, and more for each register of a list."""

_LOADS = (Kind.LOAD,)


@dataclass(frozen=True)
class Timings:
    """A core's table.

    source: which manual and table, or what else the numbers rest on. estimated: there is no official table.
    price: of each kind when it does not branch; what is not listed takes one cycle. taken: cycles more when
    it branches. misaligned: cycles more when the target is a 32-bit instruction across two words, which takes
    two fetches. extra: cycles of each further transfer of a misaligned load or store. body: prices the
    instructions of a block, none of them branching.
    """

    core: str
    source: str
    estimated: bool
    price: Mapping[Kind, Price]
    taken: Mapping[Kind, int]
    misaligned: int
    extra: int
    body: Callable[[Timings, Sequence[Instruction]], int]

    def of(self, instruction: Instruction) -> int:
        """Cycles of one instruction by itself, not branching."""
        fixed, each = self.price.get(instruction.kind, (1, 0))
        return fixed + each * instruction.registers

    def block(self, instructions: Sequence[Instruction]) -> int:
        """Cycles of instructions that follow one another, the last one not branching."""
        return self.body(self, instructions)

    def branch(self, last: Instruction, target: Instruction | None) -> int:
        """Cycles more when `last` branches to `target` (None: not known)."""
        if last.kind not in BRANCHES:
            return 0
        across = target is not None and target.size == 4 and target.address % 4 == 2
        return self.taken.get(last.kind, 0) + (self.misaligned if across else 0)


# ---- how the prices of a block add up ----------------------------------------------------------------------


def one_by_one(timings: Timings, instructions: Sequence[Instruction]) -> int:
    """Nothing overlaps: Cortex-M0 and M0+ (their tables stand for any order)."""
    return sum(map(timings.of, instructions))


def loads_in_a_row(timings: Timings, instructions: Sequence[Instruction]) -> int:
    """Cortex-M3 and M4: DDI 0439B, section 3.3.3, "Load/store timings" (DDI 0337H, 3.3.2, is the same).

    A load or a store that follows a load whose result is no part of its address takes one cycle less; a store
    at [register, #offset] always takes one cycle; nothing overlaps with what follows a store, nor with loads
    and stores of several registers.
    """
    total = 0
    before: Instruction | None = None
    for instruction in instructions:
        cycles = timings.of(instruction)
        overlaps = instruction.kind in (*_LOADS, Kind.STORE_INDEXED)
        result = before.writes if before is not None and before.kind in _LOADS else None
        if overlaps and result is not None and not result & instruction.address_of:
            cycles -= 1
        total += cycles
        before = instruction
    return total


def in_pairs(timings: Timings, instructions: Sequence[Instruction]) -> int:
    """An in-order core that issues two neighbours at once: the estimate for Cortex-M7.

    Two go together unless the second reads or writes what the first writes, or both multiply, or both store,
    or one is a load or store of several, a division or special. What a load brings is there one cycle late.
    """
    total = 0
    late: frozenset[str] = frozenset()
    at = 0
    while at < len(instructions):
        first = instructions[at]
        second = instructions[at + 1] if at + 1 < len(instructions) else None
        total += timings.of(first) + (1 if late & first.reads else 0)
        late = first.writes if first.kind in _LOADS else frozenset()
        at += 1
        if second is None or not _pair(timings, first, second) or late & second.reads:
            continue
        late |= second.writes if second.kind in _LOADS else frozenset()
        at += 1
    return total


def _pair(timings: Timings, first: Instruction, second: Instruction) -> bool:
    if timings.of(first) != 1 or timings.of(second) != 1 or first.kind in BRANCHES:
        return False
    if first.writes & (second.reads | second.writes):
        return False
    return not any(first.kind in group and second.kind in group for group in _ONE_UNIT)


_STORES = frozenset({Kind.STORE, Kind.STORE_INDEXED})
_MULTIPLIES = frozenset(
    {Kind.MULTIPLY, Kind.MULTIPLY_ADD, Kind.LONG_MULTIPLY, Kind.LONG_MULTIPLY_ADD, Kind.FLOAT}
)
_ONE_UNIT = (_STORES, _MULTIPLIES, BRANCHES)


def in_beats(timings: Timings, instructions: Sequence[Instruction]) -> int:
    """Vectors worked on in two beats, of which those of different units overlap: the estimate for Cortex-M55.

    A vector instruction takes two cycles, but one behind a vector instruction of the other unit (memory,
    arithmetic); a result of a load is there one cycle late; everything else takes its price.
    """
    vectors = (Kind.VECTOR, Kind.VECTOR_MEMORY)
    total = 0
    before: Instruction | None = None
    for instruction in instructions:
        cycles = timings.of(instruction)
        if before is not None:
            other_unit = before.kind in vectors and before.kind is not instruction.kind
            if instruction.kind in vectors and other_unit:
                cycles -= 1
            if before.kind in _LOADS and before.writes & instruction.reads:
                cycles += 1
        total += cycles
        before = instruction
    return total


# ---- the tables --------------------------------------------------------------------------------------------

M0 = Timings(
    core="Cortex-M0",
    source="Cortex-M0 TRM, DDI 0432C, table 3-1; the multiplier of one cycle",
    estimated=False,
    price={
        Kind.LOAD: (2, 0),
        Kind.STORE: (2, 0),
        Kind.STORE_INDEXED: (2, 0),
        Kind.LOAD_MULTIPLE: (1, 1),
        Kind.STORE_MULTIPLE: (1, 1),
        Kind.POP_PC: (1, 1),
        Kind.SPECIAL: (4, 0),
        Kind.BARRIER: (4, 0),
    },
    # B and Bcc 3, BL 4, BX and BLX 3, ADD or MOV to pc 3, POP with pc 4 + N.
    taken={Kind.BRANCH: 2, Kind.CALL: 3, Kind.BRANCH_REGISTER: 2, Kind.POP_PC: 3},
    misaligned=0,
    extra=0,  # such an access is a fault
    body=one_by_one,
)

M0PLUS = replace(
    M0,
    core="Cortex-M0+",
    source="Cortex-M0+ TRM, DDI 0484C, table 3-1; the multiplier of one cycle, memory on AHB-Lite",
    price={**M0.price, Kind.SPECIAL: (3, 0), Kind.BARRIER: (3, 0)},
    # B and Bcc 2, BL 3, BX and BLX 2, POP with pc 3 + N.
    taken={Kind.BRANCH: 1, Kind.CALL: 2, Kind.BRANCH_REGISTER: 1, Kind.POP_PC: 2},
)

M3 = Timings(
    core="Cortex-M3",
    source="Cortex-M3 TRM, DDI 0337H, table 3-1 and section 3.3.2; multiplications to 64 bits and divisions"
    " at the slow end of their range",
    estimated=False,
    price={
        Kind.MULTIPLY_ADD: (2, 0),
        Kind.LONG_MULTIPLY: (5, 0),  # 3 to 5, by the operands
        Kind.LONG_MULTIPLY_ADD: (7, 0),  # 4 to 7
        Kind.DIVIDE: (12, 0),  # 2 to 12
        Kind.LOAD: (2, 0),
        Kind.LOAD_PC: (2, 0),
        Kind.LOAD_DOUBLE: (3, 0),
        Kind.STORE: (1, 0),
        Kind.STORE_INDEXED: (2, 0),
        Kind.STORE_DOUBLE: (3, 0),
        Kind.LOAD_MULTIPLE: (1, 1),
        Kind.STORE_MULTIPLE: (1, 1),
        Kind.POP_PC: (1, 1),
        Kind.TABLE_BRANCH: (3, 0),
        Kind.SPECIAL: (2, 0),
    },
    # Refilling the pipeline takes P cycles, 1 to 3 "depending on the alignment and width of the target
    # instruction, and whether the processor manages to speculate the address early". A target that stands in
    # the instruction is known early: 1 (so a loop of SUBS and BNE takes 3 cycles, as is known of silicon);
    # one in a register late: 2; one from memory 3, which the manual says of LDR pc, TBB and TBH.
    taken={
        Kind.BRANCH: 1,
        Kind.CALL: 1,
        Kind.BRANCH_REGISTER: 2,
        Kind.LOAD_PC: 3,
        Kind.POP_PC: 3,
        Kind.TABLE_BRANCH: 3,
    },
    misaligned=1,
    extra=1,  # section 3.3.2: one cycle more, two for a word at an odd address
    body=loads_in_a_row,
)

M4 = replace(
    M3,
    core="Cortex-M4",
    source="Cortex-M4 TRM, DDI 0439B, tables 3-1 and 7-1 and section 3.3.3; divisions at the slow end",
    price={
        **M3.price,
        Kind.MULTIPLY_ADD: (1, 0),
        Kind.LONG_MULTIPLY: (1, 0),
        Kind.LONG_MULTIPLY_ADD: (1, 0),
        Kind.FLOAT_DIVIDE: (14, 0),
    },
)

M33 = replace(
    M4,
    core="Cortex-M33",
    source="no official table: that of the Cortex-M4, without the M33's dual issue of 16-bit instructions",
    estimated=True,
)

M7 = Timings(
    core="Cortex-M7",
    source="no official table: neighbours issue in pairs where units and registers allow, loads are used one"
    " cycle late, branches are predicted and cost one cycle when taken",
    estimated=True,
    price={
        Kind.DIVIDE: (12, 0),
        Kind.LOAD_DOUBLE: (1, 0),
        Kind.STORE_DOUBLE: (1, 0),
        Kind.LOAD_MULTIPLE: (1, 1),
        Kind.STORE_MULTIPLE: (1, 1),
        Kind.POP_PC: (1, 1),
        Kind.TABLE_BRANCH: (3, 0),
        Kind.FLOAT_DIVIDE: (14, 0),
    },
    taken={
        Kind.BRANCH: 1,
        Kind.CALL: 1,
        Kind.BRANCH_REGISTER: 2,
        Kind.LOAD_PC: 4,
        Kind.POP_PC: 2,
        Kind.TABLE_BRANCH: 4,
    },
    misaligned=0,
    extra=0,  # 64 bits are read at once
    body=in_pairs,
)

M55 = Timings(
    core="Cortex-M55",
    source="no official table: a vector takes two beats of one cycle, neighbours in different units overlap"
    " by one, loads are used one cycle late, low-overhead loops turn for nothing",
    estimated=True,
    price={
        Kind.DIVIDE: (12, 0),
        Kind.VECTOR: (2, 0),
        Kind.VECTOR_MEMORY: (2, 0),
        Kind.LOAD_DOUBLE: (2, 0),
        Kind.STORE_DOUBLE: (2, 0),
        Kind.LOAD_MULTIPLE: (1, 1),
        Kind.STORE_MULTIPLE: (1, 1),
        Kind.POP_PC: (1, 1),
        Kind.TABLE_BRANCH: (3, 0),
        Kind.FLOAT_DIVIDE: (14, 0),
    },
    taken={
        Kind.BRANCH: 1,
        Kind.CALL: 1,
        Kind.BRANCH_REGISTER: 2,
        Kind.LOAD_PC: 3,
        Kind.POP_PC: 3,
        Kind.TABLE_BRANCH: 3,
        Kind.LOOP_END: 0,
    },
    misaligned=0,
    extra=1,
    body=in_beats,
)

TIMINGS: Mapping[str, Timings] = {
    "m0": M0,
    "m0plus": M0PLUS,
    "m3": M3,
    "m4f": M4,
    "m7": M7,
    "m33": M33,
    "m55": M55,
}
"""Name of a core, as figures have it -> its table."""
