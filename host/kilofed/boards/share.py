"""What of an image is a library's: the bytes of its sections, from the linker's map."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kilofed.boards.image import Image

_SECTION = re.compile(r"^ (\.\S+)(?:\n)?\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+\S*lib(\w+)\.a\(", re.MULTILINE)
_IN_FLASH = (".text", ".rodata", ".data")
_IN_RAM = (".data", ".bss")


@dataclass(frozen=True)
class Share:
    """Bytes of flash and of RAM, without what alignment adds. Initialised data takes both."""

    flash: int
    ram: int


def of_library(image: Image, library: str) -> Share:
    """What the static library `lib<library>.a` takes of an image that was built here; zeros: it is not in it.

    Raises OSError when the linker's map is not beside the image.
    """
    linker_map = Path(f"{image.elf}.map").read_text(encoding="utf-8", errors="replace")
    body = linker_map.partition("Linker script and memory map")[2]
    flash = ram = 0
    for section, size, owner in _SECTION.findall(body):
        if owner == library:
            flash += int(size, 16) if section.startswith(_IN_FLASH) else 0
            ram += int(size, 16) if section.startswith(_IN_RAM) else 0
    return Share(flash, ram)
