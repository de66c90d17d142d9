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
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

ENTRY_BYTES = 32 + 4
"""What a core without FPU stacks on an interrupt: eight words, and four bytes to align them (Armv7-M ARM
B1.5.6).
"""
ENTRY_FPU_BYTES = 104 + 4
"""The same with the FPU's registers, for code that may use it (lazily stacked, but reserved)."""

_FUNCTION = re.compile(r"^([0-9a-f]{8}) <([^>]+)>:$")
_INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\t(\S+)(?:\t(.*))?$")
_TARGET = re.compile(r"<([^>+]+)>")
_CI_NODE = re.compile(r'^node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \((\w+)[^)]*\)')
_BRANCH = re.compile(r"^b(?:eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?(?:\.[nw])?$")


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
    frame: int = 0
    calls: set[str] = field(default_factory=set)
    indirect: bool = False
    moves_by_register: bool = False


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

    call_graphs: GCC's .ci files of its objects. indirect: caller -> patterns of what its calls through
    pointers may reach. roots, interrupts: patterns of where execution starts. Raises OSError and
    subprocess.CalledProcessError when `objdump` cannot be run.
    """
    listing = subprocess.run(
        [objdump, "--disassemble", "--no-show-raw-insn", "--section=.text", str(image)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    functions = _parse(listing)
    for name, frame in _frames(call_graphs).items():
        if name in functions:
            functions[name].frame = frame
            functions[name].moves_by_register = False
    return _worst(functions, indirect, roots, interrupts, ENTRY_FPU_BYTES if fpu else ENTRY_BYTES)


def load_indirect(path: Path) -> dict[str, list[str]]:
    """The file of indirect calls: {"caller": {"reaches": [pattern, ...], "why": "..."}}."""
    return {caller: list(entry["reaches"]) for caller, entry in json.loads(path.read_text()).items()}


def _frames(call_graphs: Iterable[Path]) -> dict[str, int]:
    """Function -> frame in bytes; of functions that share a name, the largest."""
    frames: dict[str, int] = {}
    for path in call_graphs:
        for line in path.read_text().splitlines():
            match = _CI_NODE.match(line)
            if match and match[3] == "static":
                name = match[1].rsplit(":", 1)[-1]
                frames[name] = max(frames.get(name, 0), int(match[2]))
    return frames


def _parse(listing: str) -> dict[str, _Function]:
    functions: dict[str, _Function] = {}
    current = _Function()
    here = ""
    for line in listing.splitlines():
        start = _FUNCTION.match(line)
        if start:
            here = start[2]
            current = functions.setdefault(here, _Function())
            continue
        match = _INSTRUCTION.match(line)
        if match:
            _instruction(
                current, here, match[1], (match[2] or "").split(";")[0].split("@")[0].strip(), match[2] or ""
            )
    return functions


def _instruction(function: _Function, here: str, name: str, operands: str, whole: str) -> None:
    target = _TARGET.search(whole)
    if name in ("bl", "blx") and target:
        function.calls.add(target[1])
    elif (
        name == "blx" or (name == "bx" and operands != "lr") or (name == "mov" and operands.startswith("pc,"))
    ):
        function.indirect = True
    elif _BRANCH.match(name) and target and target[1] != here:
        function.calls.add(target[1])  # a tail call
    elif name.startswith(("push", "vpush", "stmdb")) and (
        name.startswith(("push", "vpush")) or operands.startswith("sp!")
    ):
        function.frame += _registers(operands)
    elif name.startswith("sub") and operands.startswith("sp,"):
        number = re.search(r"#(\d+)$", operands)
        if number:
            function.frame += int(number[1])
        else:
            function.moves_by_register = True
    elif name.startswith("add") and re.match(r"sp, (sp, )?r\d", operands):
        function.moves_by_register = True


def _registers(operands: str) -> int:
    """Bytes that a push of `{r4, r5-r7, lr}` or `{d8-d9}` moves."""
    total = 0
    for part in operands[operands.index("{") + 1 : operands.index("}")].split(","):
        ends = [int(n) for n in re.findall(r"[rsd](\d+)", part)]
        count = ends[1] - ends[0] + 1 if len(ends) == 2 else 1
        total += count * (8 if part.strip().startswith("d") else 4)
    return total


def _worst(
    functions: dict[str, _Function],
    indirect: Mapping[str, list[str]],
    roots: tuple[str, ...],
    interrupts: tuple[str, ...],
    entry_bytes: int,
) -> Stack:
    unresolved: set[str] = set()
    depths: dict[str, tuple[int, str]] = {}

    def callees(name: str) -> set[str]:
        function = functions[name]
        found = set(function.calls)
        if function.indirect:
            patterns = next((p for caller, p in indirect.items() if fnmatchcase(name, caller)), None)
            if patterns is None:
                unresolved.add(f"{name} calls through a pointer")
                patterns = []
            found |= {f for f in functions if any(fnmatchcase(f, pattern) for pattern in patterns)}
        return found

    def depth(name: str, above: tuple[str, ...]) -> int:
        if name not in functions:
            unresolved.add(f"{name} is not in the image's code")
            return 0
        if name in above:
            unresolved.add(
                f"{name} calls itself through {' -> '.join(above[above.index(name) + 1 :]) or 'itself'}"
            )
            return 0
        if name not in depths:
            if functions[name].moves_by_register:
                unresolved.add(f"{name} has a frame of unknown size")
            below = [(depth(callee, (*above, name)), callee) for callee in sorted(callees(name))]
            deepest = max(below, default=(0, ""))
            depths[name] = (functions[name].frame + deepest[0], deepest[1])
        return depths[name][0]

    def deepest_of(patterns: tuple[str, ...]) -> tuple[int, str]:
        starts = [f for f in sorted(functions) if any(fnmatchcase(f, pattern) for pattern in patterns)]
        return max(((depth(start, ()), start) for start in starts), default=(0, ""))

    interrupt = deepest_of(interrupts)[0] + entry_bytes
    total, name = deepest_of(roots)
    chain = []
    while name:
        chain.append((name, functions[name].frame))
        name = depths[name][1]
    return Stack(total + interrupt, tuple(chain), interrupt, tuple(sorted(unresolved)))
