"""What of an image belongs to whom: the bytes of each module's sections, from the linker's map.

A module is a folder of `firmware/src` ("nn", "link", ...), a library ("zcbor", "lwip", ...), "port" for what
is the board's, "compiler" for what the compiler's own libraries add, or "the model".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kilofed.boards import elf
from kilofed.boards.image import Image

MODEL = "the model"
PORT = "port"
COMPILER = "compiler"

_CORE = "kilofed"
_SECTION = re.compile(r"^ (\.\S+)(?:\n)?\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+(\S+)$", re.MULTILINE)
_MEMBER = re.compile(r"lib(\w+)\.a\((.+)\)$")
_OURS = (_CORE, "zcbor", "monocypher", "lwip")
_IN_FLASH = (".text", ".rodata", ".data", ".vectors", ".header", ".srodata", ".sdata")
_IN_RAM = (".data", ".bss", ".sdata", ".sbss")


@dataclass(frozen=True)
class Share:
    """Bytes of flash and of RAM, without what alignment adds. Initialised data takes both."""

    flash: int
    ram: int


def of_modules(image: Image) -> Mapping[str, Share]:
    """What each module takes of an image that was built here, by its name, the largest in flash first.

    The device core's memory block is no module's: `Image.pool_bytes`. Raises OSError when the build is not
    beside the image.
    """
    linker_map = Path(f"{image.elf}.map").read_text(encoding="utf-8", errors="replace")
    body = linker_map.partition("Linker script and memory map")[2]
    folders = _folders(image.elf.parent.parent)
    flash: defaultdict[str, int] = defaultdict(int)
    ram: defaultdict[str, int] = defaultdict(int)
    for section, size, owner in _SECTION.findall(body):
        module = _module(owner, section, folders)
        flash[module] += int(size, 16) if section.startswith(_IN_FLASH) else 0
        ram[module] += int(size, 16) if section.startswith(_IN_RAM) else 0
    flash[MODEL] += image.model_bytes
    names = sorted({*flash, *ram}, key=lambda name: (-flash[name], -ram[name], name))
    return {name: Share(flash[name], ram[name]) for name in names if flash[name] or ram[name]}


def _module(owner: str, section: str, folders: Mapping[tuple[str, str], str]) -> str:
    """Whose a section is. owner: the object file, or `archive(member)`, as the map names it."""
    found = _MEMBER.search(owner)
    if found is None:
        return PORT if owner.startswith("CMakeFiles/") else COMPILER
    library, member = found.groups()
    if library != _CORE:
        return library if library in _OURS else COMPILER
    return folders.get((member, section), PORT)


def _folders(build: Path) -> dict[tuple[str, str], str]:
    """(object, section) -> folder of `src`. An archive forgets the folders of its members, of which several
    have the same name in two; the names of their functions tell them apart.
    """
    root = build / "CMakeFiles" / f"{_CORE}.dir" / "src"
    return {
        (path.name, section.name): path.relative_to(root).parts[0]
        for path in sorted(root.rglob("*.obj"))
        for section in elf.read(path).sections
    }
