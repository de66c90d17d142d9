"""What this package wants to know of a 32-bit little-endian ELF file: segments, sections, symbols. Nothing
else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_PT_LOAD = 1
_SHT_SYMTAB = 2
_SHT_NOBITS = 8
_STT_FUNC = 2
_STT_FILE = 4
_STB_LOCAL = 0


@dataclass(frozen=True)
class Segment:
    """Bytes that belong at a load address."""

    address: int
    data: bytes


@dataclass(frozen=True)
class Section:
    """A section: its name, address in memory, bytes, and whether the file holds them."""

    name: str
    address: int
    size: int
    in_file: bool


@dataclass(frozen=True)
class Elf:
    """A parsed file.

    segments: loadable, by address. sections: in file order. symbols: name -> value, of names that several
    files use the last one. local: address of a file-local function -> the source file's name.
    """

    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    symbols: dict[str, int]
    local: dict[int, str]


def read(path: Path) -> Elf:
    """Parse the file at `path`. Raises OSError, and ValueError when it is no such ELF file."""
    data = path.read_bytes()
    try:
        if data[:6] != b"\x7fELF\x01\x01":
            raise ValueError("not a 32-bit little-endian ELF file")
        phoff, shoff = struct.unpack_from("<II", data, 28)
        phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from("<5H", data, 42)
        heads = [struct.unpack_from("<10I", data, shoff + i * shentsize) for i in range(shnum)]
        names = heads[shstrndx][4]
        return Elf(
            tuple(sorted(_segments(data, phoff, phentsize, phnum), key=lambda s: s.address)),
            tuple(Section(_text(data, names + h[0]), h[3], h[5], h[1] != _SHT_NOBITS) for h in heads),
            *_symbols(data, heads),
        )
    except (struct.error, IndexError) as error:
        raise ValueError("the ELF file is cut short") from error


def read_range(segments: tuple[Segment, ...], address: int, size: int) -> bytes:
    """`size` bytes at `address`. Raises ValueError when they do not lie in one segment."""
    for segment in segments:
        at = address - segment.address
        if at >= 0 and at + size <= len(segment.data):
            return segment.data[at : at + size]
    raise ValueError(f"nothing at {address:#x}")


def _segments(data: bytes, offset: int, size: int, count: int) -> list[Segment]:
    found = []
    for i in range(count):
        kind, at, _, physical, in_file, *_ = struct.unpack_from("<8I", data, offset + i * size)
        if kind == _PT_LOAD and in_file:
            if at + in_file > len(data):
                raise IndexError(at)
            found.append(Segment(physical, data[at : at + in_file]))
    return found


def _symbols(data: bytes, heads: list[tuple[int, ...]]) -> tuple[dict[str, int], dict[int, str]]:
    found: dict[str, int] = {}
    local: dict[int, str] = {}
    for head in heads:
        if head[1] != _SHT_SYMTAB:
            continue
        names = heads[head[6]][4]
        file = ""  # a file's symbol stands before those local to it
        for at in range(head[4], head[4] + head[5], 16):
            name, value, _, info = struct.unpack_from("<IIIB", data, at)
            kind, binding = info & 15, info >> 4
            if kind == _STT_FILE:
                file = _text(data, names + name)
            elif name:
                found[_text(data, names + name)] = value
                if kind == _STT_FUNC and binding == _STB_LOCAL:
                    local[value & ~1] = file
    return found, local


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("utf-8", "replace")
