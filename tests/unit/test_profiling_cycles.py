"""The cores' timings on short sequences of code whose cycles their manuals tell, and the reading of code."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kilofed.profiling import listing
from kilofed.profiling.counts import Block, Cost, Part, Pricing, read, total
from kilofed.profiling.cycles import M0, M0PLUS, M3, M4, M7, M55, TIMINGS, Timings
from kilofed.profiling.listing import Instruction, Kind, Listing


def code(*lines: str, size: int = 2, at: int = 0x100) -> tuple[Instruction, ...]:
    """Instructions as objdump writes them: "ldr r0, [r1, #4]"."""
    found = []
    for line in lines:
        name, _, operands = line.partition(" ")
        found.append(listing.decode(at, size, name, operands))
        at += size
    return tuple(found)


# Sequence, and what the manual says it takes: (table, lines, cycles, where that stands).
KNOWN: list[tuple[Timings, tuple[str, ...], int, str]] = [
    (M0, ("adds r0, r1, r2",), 1, "DDI 0432C table 3-1: ADDS 1"),
    (M0, ("muls r0, r1",), 1, "MULS 1 with the fast multiplier"),
    (M0, ("ldr r0, [r1, #0]", "ldr r2, [r1, #4]"), 4, "LDR 2, each"),
    (M0, ("strb r0, [r1, #0]",), 2, "STRB 2"),
    (M0, ("ldmia r0!, {r1, r2, r3}",), 4, "LDM 1 + N"),
    (M0, ("push {r4, r5, lr}",), 4, "PUSH 1 + N"),
    (M0, ("dsb sy",), 4, "DSB 4"),
    (M0PLUS, ("ldr r0, [r1, #0]",), 2, "DDI 0484C table 3-1: LDR 2"),
    (M0PLUS, ("mrs r0, PRIMASK",), 3, "MRS 3"),
    (M3, ("mla r0, r1, r2, r3",), 2, "DDI 0337H table 3-1: MLA 2"),
    (M3, ("smull r0, r1, r2, r3",), 5, "SMULL 3 to 5"),
    (M3, ("sdiv r0, r1, r2",), 12, "SDIV 2 to 12"),
    # DDI 0439B section 3.3.3 and DDI 0337H section 3.3.2, "Some optimized examples", word by word.
    (M4, ("ldr r0, [r1]", "ldr r1, [r2]"), 3, "normally three cycles total"),
    (M4, ("ldr r0, [r1, r2]", "str r0, [r3, #20]"), 3, "normally three cycles total"),
    (M4, ("ldr r0, [r1, r2]", "str r1, [r3, r2]"), 3, "normally three cycles total"),
    (M4, ("ldr r0, [r1, r5]", "ldr r1, [r2]", "ldr r2, [r3, #4]"), 4, "normally four cycles total"),
    (M4, ("ldr r0, [r1]", "ldr r2, [r0]"), 4, "the first one's result is the second one's address"),
    (M4, ("str r0, [r1, #4]",), 1, "STR Rx,[Ry,#imm] is always one cycle"),
    (M4, ("str r0, [r1, r2]", "ldr r3, [r4]"), 4, "nothing can be pipelined after the store"),
    (M4, ("ldrd r0, r1, [r2]",), 3, "LDRD requires three cycles when not stalled"),
    (M4, ("ldmia r0, {r1, r2, r3, r4}",), 5, "LDM 1 + N"),
    (M4, ("ldr r0, [r1]", "ldmia r2, {r3, r4}"), 5, "LDM cannot be pipelined with what precedes it"),
    (M4, ("smlad r0, r1, r2, r0",), 1, "table 3-1: SMLAD 1"),
    (M4, ("mla r0, r1, r2, r3",), 1, "MLA 1"),
    (M4, ("smlal r0, r1, r2, r3",), 1, "SMLAL 1"),
    (M4, ("udiv r0, r1, r2",), 12, "UDIV 2 to 12"),
    (M4, ("vldr s0, [r0, #4]",), 2, "table 7-1: VLDR 2"),
    (M4, ("vdiv.f32 s0, s1, s2",), 14, "VDIV 14"),
    # No manual says these: the rules that the model states.
    (M7, ("adds r0, r1, r2", "adds r3, r4, r5"), 1, "neighbours that share nothing"),
    (M7, ("adds r0, r1, r2", "adds r3, r0, r5"), 2, "the second needs the first one's result"),
    (M7, ("smlad r0, r1, r2, r0", "smlad r3, r4, r5, r3"), 2, "one multiplier"),
    (M7, ("ldr r0, [r1]", "ldr r2, [r3]"), 1, "two loads"),
    (M7, ("ldr r0, [r1]", "adds r2, r0, r3"), 3, "a load's result is one cycle late"),
    (M55, ("vldrb.8 q0, [r0]", "vmladav.s8 lr, q0, q1"), 3, "units that overlap"),
    (M55, ("vmladav.s8 r0, q0, q1", "vmladav.s8 r2, q2, q3"), 4, "one unit, two beats each"),
]


@pytest.mark.parametrize(
    ("table", "lines", "cycles", "why"), KNOWN, ids=[k[0].core + " " + k[3] for k in KNOWN]
)
def test_cycles_of_a_sequence(table: Timings, lines: tuple[str, ...], cycles: int, why: str) -> None:
    assert table.block(code(*lines)) == cycles, why


# What a taken branch takes in all.
TAKEN = [
    (M0, "bne.n 100", 3), (M0, "b.n 100", 3), (M0, "bl 100", 4), (M0, "bx lr", 3), (M0, "mov pc, lr", 3),
    (M0, "pop {r4, pc}", 6),
    (M0PLUS, "bne.n 100", 2), (M0PLUS, "bl 100", 3), (M0PLUS, "bx lr", 2), (M0PLUS, "pop {r4, pc}", 5),
    (M4, "bne.n 100", 2), (M4, "bx lr", 3), (M4, "ldr.w pc, [r0, r1, lsl #2]", 5), (M4, "tbb [pc, r0]", 6),
    (M4, "pop {r4, pc}", 6),
    (M55, "le lr, 100", 1),
]  # fmt: skip


@pytest.mark.parametrize(("table", "line", "cycles"), TAKEN, ids=[f"{t[0].core} {t[1]}" for t in TAKEN])
def test_cycles_of_a_taken_branch(table: Timings, line: str, cycles: int) -> None:
    (last,) = code(line)
    (target,) = code("nop", at=0x200)
    assert table.of(last) + table.branch(last, target) == cycles


def test_a_wide_target_across_two_words_is_fetched_twice() -> None:
    (last,) = code("b.n 100")
    aligned, across = (code("add.w r0, r1, r2", size=4, at=at)[0] for at in (0x204, 0x206))
    assert M4.branch(last, across) == M4.branch(last, aligned) + 1
    assert M0.branch(last, across) == M0.branch(last, aligned)


def test_every_core_says_where_its_numbers_come_from() -> None:
    for name, table in TIMINGS.items():
        assert ("no official table" in table.source) == table.estimated, name
        assert table.estimated or "DDI" in table.source
        assert set(table.taken) <= listing.BRANCHES


LISTING = """
00000000 <bench_begin>:
       0:\t4770      \tbx\tlr

00000002 <loop>:
       2:\t3801      \tsubs\tr0, #1
       4:\td1fd      \tbne.n\t2 <loop>
       6:\te9d1 2300 \tldrd\tr2, r3, [r1]

0000000a <.inner>:
       a:\tea56 9696 \t\t\t@ <UNDEFINED> instruction: 0xea569696
       e:\t4770      \tbx\tlr
      10:\t00000100 \t.word\t0x00000100
"""


def test_a_listing_is_read() -> None:
    found = listing.parse(LISTING)
    assert found.functions == {0: "bench_begin", 2: "loop"}
    assert {at: i.size for at, i in found.instructions.items()} == {0: 2, 2: 2, 4: 2, 6: 4, 10: 4, 14: 2}
    assert [i.kind for i in found.block(2, 3)] == [Kind.ALU, Kind.BRANCH, Kind.LOAD_DOUBLE]
    assert found.instructions[6].writes == {"r2", "r3"} and found.instructions[6].address_of == {"r1"}
    with pytest.raises(ValueError, match="0x10"):
        found.block(14, 2)


def test_functions_of_one_name_are_told_apart_by_their_files() -> None:
    text = LISTING + "00000020 <loop>:\n      20:\t4770      \tbx\tlr\n"
    found = listing.parse(text, {0: "main.c", 2: "a/add.c", 0x20: "mul.c"})
    assert found.functions == {0: "bench_begin", 2: "loop (add.c)", 0x20: "loop (mul.c)"}


def test_counts_become_cycles(tmp_path: Path) -> None:
    """The known loop: ten turns of SUBS and BNE, nine of them taken: 10 x 1 + 9 x 2 + 1 on an M4."""
    file = tmp_path / "blocks"
    file.write_text(
        "part 0 0\nnext 1 1 4\nblock 1 2 2 4 5 0\nblock 0 0 1 2 1 9\nnext 0 1 1\n"
        "part 0 0\nblock 1 2 2 4 5 0\nnext 1 1 5\nnext 1 2 1\nblock 2 6 1 4 1 2\n"
    )
    parts = read(file)[0]
    assert parts[0].instructions == 10 * 2 + 1 + 1
    priced = Pricing(listing.parse(LISTING), {"m4f": M4, "m0": M0})
    loop = priced.functions(parts[0])
    assert list(loop) == ["loop"], "what belongs to the bench is left out"
    misaligned = 2  # a word at an odd address, read in three transfers; an M0 has no such thing
    assert loop["loop"] == Cost(21, {"m4f": 10 + 9 * 2 + 1 + 3 + misaligned, "m0": 10 + 9 * 3 + 1 + 1})
    assert total(loop) == loop["loop"]
    file.write_text("noise 1\n")
    with pytest.raises(ValueError, match="noise"):
        read(file)


def test_an_edge_to_the_next_address_is_no_branch() -> None:
    part = Part()
    loop, behind = Block(2, 2, 4), Block(6, 1, 4)
    part.runs[loop] = part.runs[behind] = 1
    part.follows[loop, behind] = 1
    found = Pricing(listing.parse(LISTING), {"m4f": M4}).functions(part)
    assert found["loop"].cycles["m4f"] == 2 + 3


ASSEMBLY = """
.syntax unified
.thumb
.cpu cortex-m4
.fpu fpv4-sp-d16
.thumb_func
.global all
all:
ldrb r0, [r1, #1]
ldrsh.w r0, [r1, r2, lsl #1]
ldr r0, [r1], #4
strh r0, [r1, #2]
str.w r0, [r1, r2]
strd r0, r1, [r2, #8]
stmia r0!, {r1-r3}
vldmia r0!, {d0-d1}
mul r0, r1, r2
smlabb r0, r1, r2, r3
smlald r0, r1, r2, r3
umull r0, r1, r2, r3
it ne
ldrne r0, [r1]
it eq
moveq r0, #1
bls all
blx r3
cbz r0, 1f
bic r0, r1
1:
ble all
pop {r4-r7, pc}
"""

KINDS = [
    Kind.LOAD, Kind.LOAD, Kind.LOAD, Kind.STORE, Kind.STORE_INDEXED, Kind.STORE_DOUBLE, Kind.STORE_MULTIPLE,
    Kind.LOAD_MULTIPLE, Kind.MULTIPLY, Kind.MULTIPLY_ADD, Kind.LONG_MULTIPLY_ADD, Kind.LONG_MULTIPLY, Kind.IT,
    Kind.LOAD, Kind.IT, Kind.ALU, Kind.BRANCH, Kind.BRANCH_REGISTER, Kind.BRANCH, Kind.ALU, Kind.BRANCH,
    Kind.POP_PC,
]  # fmt: skip


@pytest.fixture
def assembled(tmp_path: Path) -> Listing:
    """ASSEMBLY, through the real assembler and objdump."""
    if shutil.which("arm-none-eabi-as") is None:
        pytest.skip("no arm-none-eabi-as here")
    (tmp_path / "all.s").write_text(ASSEMBLY)
    command = ["arm-none-eabi-as", str(tmp_path / "all.s"), "-o", str(tmp_path / "all.o")]
    subprocess.run(command, check=True)
    return listing.read(tmp_path / "all.o")


def test_what_the_disassembler_prints_is_understood(assembled: Listing) -> None:
    found = list(assembled.instructions.values())
    assert [i.kind for i in found] == KINDS
    lists = [i.registers for i in found if i.registers]
    assert lists == [3, 4, 5], "words that STM, VLDM of two double registers, and POP move"
    third = found[2]
    assert third.writes == {"r0", "r1"} and third.address_of == {"r1"}, "the base is written back"
