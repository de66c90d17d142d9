"""The worst-case stack of an image, from its code: nothing is run.

The calls come from the disassembly of the linked image, where inlining, clones and library code are what
they are. The frame of each function comes from GCC (`-fcallgraph-info=su`), and for code that was not
compiled here (libgcc, newlib) from the instructions that move the stack pointer. Calls through pointers are
the one thing that code does not say: `firmware/cmake/indirect_calls.json` lists for each function that
makes one what it may reach. One that is not listed, and every recursion, is reported in `Stack.unresolved`,
since the figure then is only a lower bound.

On top of the deepest chain from reset lies one interrupt: what the core stacks on entry and the deepest
handler. The ports give all interrupts one priority, so that they do not nest. Faults are not counted: they
do not return.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from kilofed.boards import elf

ENTRY_BYTES = 32 + 4
"""What a core stacks on an interrupt: eight words, and four bytes to align them (Armv7-M ARM B1.5.6)."""
ENTRY_FPU_BYTES = 104 + 4
"""The same with the FPU's registers, for code that may use it (lazily stacked, but reserved)."""

_FUNCTION = re.compile(r"^([0-9a-f]{8}) <([^>]+)>:$")
_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\t(\S+)(?:\t(.*))?$")
_TARGET = re.compile(r"^(?:r\d+, )?([0-9a-f]+) <[^>]+>")
_NODE = re.compile(r'^node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \((\w+)[^)]*\)')
_BRANCH = re.compile(r"^(?:b(?:eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?(?:\.[nw])?|cbn?z)$")
_TABLE = "table "
_IF_LINKED = " if linked"  # behind a name that some images have and others have not


@dataclass(frozen=True)
class Stack:
    """bytes: the worst case found. chain: the functions of it, outermost first, each with its frame in bytes.

    interrupt: bytes of the deepest interrupt, part of `bytes`. unresolved: why `bytes` is only a lower
    bound, empty when it is not.
    """

    bytes: int
    chain: tuple[tuple[str, int], ...]
    interrupt: int
    unresolved: tuple[str, ...]


@dataclass
class _Function:
    name: str
    frame: int = 0
    targets: set[int] = field(default_factory=set)  # of branches, with link or without
    indirect: bool = False
    unknown: bool = False  # it moves the stack pointer by a register


def analyse(
    image: Path,
    call_graphs: Iterable[Path],
    indirect: Mapping[str, list[str]],
    *,
    objdump: str = "arm-none-eabi-objdump",
    roots: tuple[str, ...] = ("kf_reset",),
    interrupts: tuple[str, ...] = ("*_irq",),
    fpu: bool = False,
) -> Stack:
    """The worst-case stack of the ELF file `image`.

    call_graphs: GCC's .ci files of its objects. indirect: pattern of callers -> what their calls through
    pointers may reach: a pattern of function names, with ` if linked` behind it when not all images have it;
    or `table SYMBOLS WORD`, the functions whose addresses stand in that word of each object so called. roots,
    interrupts: patterns of where execution starts.

    Raises OSError and subprocess.CalledProcessError when `objdump` cannot be run, ValueError for no ELF file.
    """
    listing = subprocess.run(
        [objdump, "--disassemble", "--no-show-raw-insn", "--section=.text", str(image)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    parsed = elf.read(image)
    functions = _parse(listing)
    frames = _frames(call_graphs)
    for address, function in functions.items():
        file = PurePosixPath(parsed.local.get(address, "")).name
        frame = frames.get((file, function.name), frames.get(("", function.name)))
        if frame is not None:
            function.frame, function.unknown = frame, False
    reach = {caller: _resolve(patterns, functions, parsed) for caller, patterns in indirect.items()}
    return _Search(functions, reach).worst(roots, interrupts, ENTRY_FPU_BYTES if fpu else ENTRY_BYTES)


def load_indirect(path: Path) -> dict[str, list[str]]:
    """The file of indirect calls: {"caller": {"reaches": [...], "why": "..."}}, as `analyse` takes it."""
    return {caller: list(entry["reaches"]) for caller, entry in json.loads(path.read_text()).items()}


def _frames(call_graphs: Iterable[Path]) -> dict[tuple[str, str], int]:
    """(source file's name, "" if global; function) -> frame in bytes, the largest if there are more."""
    frames: dict[tuple[str, str], int] = {}
    for path in call_graphs:
        for line in path.read_text().splitlines():
            match = _NODE.match(line)
            if match and match[3] == "static":  # GCC's word for a frame of constant size
                file, _, name = match[1].rpartition(":")
                key = (PurePosixPath(file).name, name)
                frames[key] = max(frames.get(key, 0), int(match[2]))
    return frames


def _parse(listing: str) -> dict[int, _Function]:
    """Address -> function, from objdump's listing."""
    functions: dict[int, _Function] = {}
    current = _Function("")
    for line in listing.splitlines():
        start = _FUNCTION.match(line)
        if start:
            current = functions.setdefault(int(start[1], 16), _Function(start[2]))
        elif instruction := _INSTRUCTION.match(line):
            operands = (instruction[2] or "").split(";")[0].split("@")[0].strip()
            _instruction(current, instruction[1], operands)
    return functions


def _instruction(function: _Function, name: str, operands: str) -> None:
    target = _TARGET.match(operands)
    if target and (name in ("bl", "blx") or _BRANCH.match(name)):
        function.targets.add(int(target[1], 16))
    elif (
        name == "blx" or (name == "bx" and operands != "lr") or (name == "mov" and operands.startswith("pc,"))
    ):
        function.indirect = True
    elif name.startswith(("push", "vpush")) or (name.startswith("stmdb") and operands.startswith("sp!")):
        function.frame += _pushed(operands)
    elif name.startswith("sub") and operands.startswith("sp,"):
        number = re.search(r"#(\d+)$", operands)
        if number:
            function.frame += int(number[1])
        else:
            function.unknown = True
    elif re.match(r"(add|mov)", name) and re.match(r"sp, (sp, )?r\d", operands):
        function.unknown = True  # unless GCC says otherwise: it also sets sp back from a frame pointer


def _pushed(operands: str) -> int:
    """Bytes that a push of `{r4, r5-r7, lr}` or `{d8-d9}` moves."""
    total = 0
    for part in operands[operands.index("{") + 1 : operands.index("}")].split(","):
        ends = [int(number) for number in re.findall(r"[rsd](\d+)", part)]
        count = ends[1] - ends[0] + 1 if len(ends) == 2 else 1
        total += count * (8 if part.strip().startswith("d") else 4)
    return total


def _resolve(patterns: list[str], functions: dict[int, _Function], parsed: elf.Elf) -> set[int] | None:
    """The addresses of the functions that `patterns` (see `analyse`) mean.

    None when one means nothing that must mean something, or when all mean nothing.
    """
    found: set[int] = set()
    for pattern in patterns:
        if pattern.startswith(_TABLE):
            symbols, word = pattern[len(_TABLE) :].split()
            tables = [at for symbol, at in parsed.symbols.items() if fnmatchcase(symbol, symbols)]
            entries = [elf.read_range(parsed.segments, at + 4 * int(word), 4) for at in tables]
            meant = {struct.unpack("<I", entry)[0] & ~1 for entry in entries} & functions.keys()
        else:
            name = pattern.removesuffix(_IF_LINKED)
            meant = {at for at, function in functions.items() if fnmatchcase(function.name, name)}
        if not meant and not pattern.endswith(_IF_LINKED):
            return None
        found |= meant
    return found if found or not patterns else None


class _Search:
    """The deepest chain through a graph of functions."""

    def __init__(self, functions: dict[int, _Function], reach: Mapping[str, set[int] | None]) -> None:
        self._functions = functions
        self._starts = sorted(functions)
        self._reach = reach
        self._depths: dict[int, tuple[int, int | None]] = {}
        self._unresolved: set[str] = set()

    def worst(self, roots: tuple[str, ...], interrupts: tuple[str, ...], entry_bytes: int) -> Stack:
        interrupt = self._deepest(interrupts)[0] + entry_bytes
        total, at = self._deepest(roots)
        chain: dict[int, tuple[str, int]] = {}
        while at is not None and at not in chain:
            chain[at] = (self._functions[at].name, self._functions[at].frame)
            at = self._depths[at][1]
        return Stack(total + interrupt, tuple(chain.values()), interrupt, tuple(sorted(self._unresolved)))

    def _deepest(self, patterns: tuple[str, ...]) -> tuple[int, int | None]:
        starts = [a for a, f in self._functions.items() if any(fnmatchcase(f.name, p) for p in patterns)]
        return max(((self._depth(start, ()), start) for start in starts), default=(0, None))

    def _depth(self, at: int, above: tuple[int, ...]) -> int:
        """Bytes from the entry of the function `at` on; `above`: who called, outermost first."""
        function = self._functions[at]
        if at in above:
            round_trip = [self._functions[a].name for a in above[above.index(at) :]]
            self._unresolved.add(f"recursion: {' -> '.join([*round_trip, function.name])}")
            return 0
        if at not in self._depths:
            if function.unknown:
                self._unresolved.add(f"{function.name} has a frame of unknown size")
            below = [
                (self._depth(callee, (*above, at)), callee) for callee in sorted(self._callees(function))
            ]
            bytes_below, deepest = max(below, default=(0, None))
            self._depths[at] = (function.frame + bytes_below, deepest)
        return self._depths[at][0]

    def _callees(self, function: _Function) -> set[int]:
        # A branch to another function is a call or a tail call; library code in assembly branches into the
        # middle of its neighbours. A branch inside a function is a jump, which on Armv6-M may be a BL where
        # another does not reach; to its very start it may be a recursion.
        calls = set()
        for target in function.targets:
            start = self._starts[bisect_right(self._starts, target) - 1]
            if self._functions[start] is not function or target == start:
                calls.add(start)
        if not function.indirect:
            return calls
        known = [reached for caller, reached in self._reach.items() if fnmatchcase(function.name, caller)]
        if not known:
            self._unresolved.add(f"{function.name} calls through a pointer")
        if any(reached is None for reached in known):
            self._unresolved.add(f"{function.name} reaches nothing of what is listed for it")
        return calls.union(*(reached for reached in known if reached))
