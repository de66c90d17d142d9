"""The machine code of an image, an instruction at a time: what GNU objdump says, in a form that can be
counted and priced.

An instruction has a `Kind`, which is as much of it as the cores' timing tables tell apart, and the registers
it reads and writes, which say what can overlap.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from kilofed.boards import elf
from kilofed.boards.build import TOOLS
from kilofed.errors import ToolMissingError

OBJDUMP = "arm-none-eabi-objdump"

_HEADING = re.compile(r"^([0-9a-f]{8}) <([^>]+)>:$")
_LINE = re.compile(r"^\s*([0-9a-f]+):\t([0-9a-f]{4}(?: [0-9a-f]{4})?)\s*\t\s*(\S+)(?:\s+(.*))?$")
_CONDITION = "(?:eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|al)?"
_REGISTER = re.compile(r"\b(r\d+|sb|sl|fp|ip|sp|lr|pc|[sdq]\d+)\b")
_NAMES = {"sb": "r9", "sl": "r10", "fp": "r11", "ip": "r12"}


class Kind(Enum):
    """What timing tables tell apart. The value is what people read."""

    ALU = "data processing"
    MULTIPLY = "multiply"
    MULTIPLY_ADD = "multiply, add"
    LONG_MULTIPLY = "multiply to 64 bits"
    LONG_MULTIPLY_ADD = "multiply to 64 bits, add"
    DIVIDE = "divide"
    LOAD = "load"
    LOAD_DOUBLE = "load of two"
    LOAD_MULTIPLE = "load of several"
    STORE = "store"
    STORE_INDEXED = "store at a sum of registers"
    STORE_DOUBLE = "store of two"
    STORE_MULTIPLE = "store of several"
    BRANCH = "branch"
    CALL = "call"
    BRANCH_REGISTER = "branch to a register"
    LOAD_PC = "load of pc"
    POP_PC = "load of several and pc"
    TABLE_BRANCH = "table branch"
    LOOP_END = "end of a low-overhead loop"
    IT = "if-then"
    SPECIAL = "special register"
    BARRIER = "barrier"
    FLOAT = "floating point"
    FLOAT_DIVIDE = "floating-point divide"
    VECTOR = "vector arithmetic"
    VECTOR_MEMORY = "vector load or store"


BRANCHES = frozenset(
    {
        Kind.BRANCH,
        Kind.CALL,
        Kind.BRANCH_REGISTER,
        Kind.LOAD_PC,
        Kind.POP_PC,
        Kind.TABLE_BRANCH,
        Kind.LOOP_END,
    }
)
"""Kinds after which the next instruction may lie elsewhere."""

_TABLE: tuple[tuple[str, Kind], ...] = (
    (f"b{_CONDITION}|cbn?z", Kind.BRANCH),
    ("bl", Kind.CALL),
    (f"blx{_CONDITION}|bx{_CONDITION}|blxns|bxns", Kind.BRANCH_REGISTER),
    ("tbb|tbh", Kind.TABLE_BRANCH),
    ("le|letp|wls|wlstp", Kind.LOOP_END),
    ("it[te]{0,3}", Kind.IT),
    (f"mrs{_CONDITION}|msr{_CONDITION}|cps(?:ie|id)?|vmrs|vmsr", Kind.SPECIAL),
    ("dmb|dsb|isb", Kind.BARRIER),
    (f"ldrd{_CONDITION}", Kind.LOAD_DOUBLE),
    (f"strd{_CONDITION}", Kind.STORE_DOUBLE),
    (f"(?:ldr(?:s?[bh]|ex[bh]?)?t?|lda(?:ex)?[bh]?){_CONDITION}", Kind.LOAD),
    (f"(?:str(?:[bh]|ex[bh]?)?t?|stl(?:ex)?[bh]?){_CONDITION}", Kind.STORE),
    (f"(?:ldm(?:ia|db|fd|ea)?|pop|vldm(?:ia|db)?|vpop){_CONDITION}", Kind.LOAD_MULTIPLE),
    (f"(?:stm(?:ia|db|fd|ea)?|push|vstm(?:ia|db)?|vpush){_CONDITION}", Kind.STORE_MULTIPLE),
    (f"(?:smlal(?:d|dx|bb|bt|tb|tt)?|umlal|umaal|smlsldx?)s?{_CONDITION}", Kind.LONG_MULTIPLY_ADD),
    (f"(?:smull|umull)s?{_CONDITION}", Kind.LONG_MULTIPLY),
    (
        f"(?:mla|mls|smla(?:bb|bt|tb|tt|wb|wt|d|dx)|smls(?:d|dx)|smmlar?|smmlsr?|usada8)s?{_CONDITION}",
        Kind.MULTIPLY_ADD,
    ),
    (
        f"(?:mul|smul(?:bb|bt|tb|tt|wb|wt)|smuadx?|smusdx?|smmulr?|usad8)s?{_CONDITION}",
        Kind.MULTIPLY,
    ),
    (f"(?:sdiv|udiv){_CONDITION}", Kind.DIVIDE),
    (f"vldr{_CONDITION}", Kind.LOAD),
    (f"vstr{_CONDITION}", Kind.STORE),
    (r"v(?:ldr|str)[bhwd].*|v(?:ld|st)[24][0-3]?", Kind.VECTOR_MEMORY),
    (f"(?:vdiv|vsqrt){_CONDITION}", Kind.FLOAT_DIVIDE),
    ("sqrshrl?|uqrshll?|sqshll?|uqshll?|srshrl?|urshrl?|lsll|lsrl|asrl|sqrshrl|uqrshll", Kind.ALU),
)
_PATTERNS = tuple((re.compile(pattern), kind) for pattern, kind in _TABLE)
_NO_RESULT = re.compile(f"(?:cmp|cmn|tst|teq){_CONDITION}")


@dataclass(frozen=True)
class Instruction:
    """One instruction. size: bytes, 2 or 4. registers: of a list, for the kinds with several.

    address_of: registers that a load or store makes its address of.
    """

    address: int
    size: int
    name: str
    operands: str
    kind: Kind
    registers: int
    reads: frozenset[str]
    writes: frozenset[str]
    address_of: frozenset[str]

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + self.size

    @property
    def text(self) -> str:
        """As an assembler takes it."""
        return f"{self.name} {self.operands}".strip()


@dataclass(frozen=True)
class Listing:
    """An image's code. instructions: by address. functions: address of each function's start -> its name,
    ascending.
    """

    instructions: Mapping[int, Instruction]
    functions: Mapping[int, str]

    def block(self, address: int, count: int) -> tuple[Instruction, ...]:
        """`count` instructions from an address on. ValueError when they are not in the image."""
        found = []
        for _ in range(count):
            if address not in self.instructions:
                raise ValueError(f"no instruction at {address:#x}")
            found.append(self.instructions[address])
            address = found[-1].end
        return tuple(found)


def read(image: Path) -> Listing:
    """The code of the ELF file `image`. Raises ToolMissingError without the cross compiler's objdump."""
    if shutil.which(OBJDUMP) is None:
        package = TOOLS["arm-none-eabi-gcc"]
        raise ToolMissingError(
            f"{OBJDUMP} is not installed", f"install it: apt-get install {package}", tool=OBJDUMP
        )
    text = subprocess.run(
        [OBJDUMP, "--disassemble", str(image)], check=True, capture_output=True, text=True
    ).stdout
    return parse(text, elf.read(image).local)


def parse(text: str, local: Mapping[int, str] | None = None) -> Listing:
    """The same from what objdump printed, with raw bytes. local: address of a file-local function -> its
    source file; two that share a name get it added: "run (add.c)".
    """
    instructions: dict[int, Instruction] = {}
    functions: dict[int, str] = {}
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            if not heading[2].startswith("."):  # a label inside library code
                functions[int(heading[1], 16)] = heading[2]
        elif found := _LINE.match(line):
            operands = re.split(r"\s*[;@<]", found[4] or "")[0].strip()
            size = 2 * len(found[2].split())
            # Some Armv8.1-M instructions are unknown to binutils 2.40, which then prints a comment only.
            name = "?" if found[3] == "@" else found[3]
            instruction = decode(int(found[1], 16), size, name, operands)
            instructions[instruction.address] = instruction
    shared = {name for name, count in Counter(functions.values()).items() if count > 1}
    for address, name in functions.items():
        if name in shared and local and address in local:
            functions[address] = f"{name} ({PurePosixPath(local[address]).name})"
    return Listing(instructions, functions)


def decode(address: int, size: int, name: str, operands: str) -> Instruction:
    """An instruction of objdump's mnemonic and operands; the width's and types' suffixes do not matter."""
    base = name.split(".")[0]
    kind = _kind(name, base)
    inside = re.search(r"\[([^\]]*)\]", operands)
    listed = re.search(r"\{([^}]*)\}", operands)
    address_of = _registers(inside[1]) if inside else frozenset()
    registers = _count(listed[1]) if listed else 0
    if kind is Kind.STORE and inside and len(address_of) > 1:
        kind = Kind.STORE_INDEXED
    named = [_NAMES.get(r, r) for r in _REGISTER.findall(operands)]
    if kind is Kind.LOAD and named and named[0] == "pc":
        kind = Kind.LOAD_PC
    elif kind is Kind.LOAD_MULTIPLE and listed and "pc" in _registers(listed[1]):
        kind = Kind.POP_PC
    elif kind is Kind.ALU and named and named[0] == "pc":
        kind = Kind.BRANCH_REGISTER
    reads, writes = _flow(kind, base, named, address_of, operands)
    return Instruction(address, size, name, operands, kind, registers, reads, writes, address_of)


def _kind(name: str, base: str) -> Kind:
    for pattern, kind in _PATTERNS:
        if pattern.fullmatch(base):
            return kind
    if not base.startswith("v"):
        return Kind.ALU
    # Everything else that begins so is the FPU's or, where a type or a q register says so, MVE's.
    return Kind.FLOAT if re.search(r"\.f(?:32|64)", name) or base.startswith("vmov") else Kind.VECTOR


def _registers(text: str) -> frozenset[str]:
    return frozenset(_NAMES.get(r, r) for r in _REGISTER.findall(text))


def _count(text: str) -> int:
    """Words that a list like `r4-r7, lr` or `d8-d9` moves."""
    total = 0
    for part in text.split(","):
        numbers = [int(n) for n in re.findall(r"[rsdq](\d+)", part)]
        words = 2 if part.strip().startswith("d") else 1
        total += words * (numbers[1] - numbers[0] + 1 if len(numbers) == 2 else 1)
    return total


def _flow(
    kind: Kind, base: str, named: list[str], address_of: frozenset[str], operands: str
) -> tuple[frozenset[str], frozenset[str]]:
    """Registers read, registers written; what cannot be told from the text is left out."""
    everything = frozenset(named)
    if kind in (Kind.STORE, Kind.STORE_INDEXED, Kind.STORE_DOUBLE):
        back = address_of if "!" in operands or re.search(r"\], ?#", operands) else frozenset()
        return everything, frozenset(back)
    if kind in (Kind.LOAD, Kind.LOAD_DOUBLE):
        count = 2 if kind is Kind.LOAD_DOUBLE else 1
        back = address_of if "!" in operands or re.search(r"\], ?#", operands) else frozenset()
        return address_of, frozenset(named[:count]) | back
    if kind in (Kind.LONG_MULTIPLY, Kind.LONG_MULTIPLY_ADD):
        add = frozenset(named[:2]) if kind is Kind.LONG_MULTIPLY_ADD else frozenset()
        return frozenset(named[2:]) | add, frozenset(named[:2])
    if kind in BRANCHES or kind in (Kind.IT, Kind.BARRIER) or _NO_RESULT.fullmatch(base):
        return everything, frozenset()
    two = len(named) == 2 or base.startswith(("movt", "bfi"))  # `add r1, r2` also reads r1
    reads = named if two and not base.startswith(("mov", "mvn", "sxt", "uxt", "vmov")) else named[1:]
    if kind is Kind.VECTOR and re.match(r"v(?:r?mla|mlal|fma)", base):
        reads = named
    return frozenset(reads), frozenset(named[:1])
