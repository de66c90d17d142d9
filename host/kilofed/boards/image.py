"""A firmware image: the bytes that go into a board's flash, and the header in it that says which board's.

The header (`firmware/port/bare/header.h`) is found through vector 8, reserved on every Cortex-M, so that
the same few lines read an ELF file, a raw image and the flash of a board. Little endian:

    0 u32 magic "KFH1" | 4 u16 version 1 | 6 u16 size 56 | 8 board[24] | 32 u32 firmware
    36 u32 model start, end | 44 u32 pool start, end | 52 u32 settings address
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kilofed.boards import elf
from kilofed.boards.catalogue import Board
from kilofed.boards.elf import Segment
from kilofed.boards.stack import Stack
from kilofed.errors import FlashError

MAGIC = b"KFH1"
VERSION = 1
HEADER_BYTES = 56
VECTOR = 8 * 4
"""Where, behind the origin of flash, the header's address stands."""
_LAYOUT = struct.Struct("<4sHH24s6I")


@dataclass(frozen=True)
class Header:
    """What an image says of itself. Addresses as the core sees them; firmware: major << 16 | minor << 8 |
    patch.
    """

    board: str
    firmware: int
    model_start: int
    model_end: int
    pool_start: int
    pool_end: int
    settings_address: int


@dataclass(frozen=True)
class Image:
    """A linked image of `board`.

    segments: what goes into flash, by address. flash_bytes: from the start of flash to the last byte used.
    ram_bytes: .data, .bss, the pool and the reserved stack. model_bytes, pool_bytes: parts of these.
    stack: the worst chain of calls found in the code, None for an image read from a file without its build.
    """

    board: str
    elf: Path
    segments: tuple[Segment, ...] = field(repr=False)
    header: Header
    flash_bytes: int
    ram_bytes: int
    stack_bytes: int
    model_bytes: int
    pool_bytes: int
    stack: Stack | None = None

    @property
    def model(self) -> bytes:
        """The .tflite inside, b"" when there is none."""
        if not self.model_bytes:
            return b""  # its place may lie behind the last byte
        return elf.read_range(self.segments, self.header.model_start, self.model_bytes)


def decode_header(data: bytes) -> Header:
    """The header in `data`. Raises ValueError when it is none, or of another version."""
    magic, version, size, board, *numbers = _LAYOUT.unpack_from(data)
    if magic != MAGIC or version != VERSION or size != HEADER_BYTES:
        raise ValueError("no image header")
    return Header(board.rstrip(b"\0").decode("ascii", "replace"), *numbers)


def find_header(read: Callable[[int, int], bytes], origin: int) -> Header:
    """The header of the image at `origin`; `read(address, size)` gives its bytes. Raises ValueError: there
    is none.
    """
    (at,) = struct.unpack("<I", read(origin + VECTOR, 4))
    return decode_header(read(at, HEADER_BYTES))


def load(path: Path, board: Board, *, stack: Stack | None = None) -> Image:
    """The image in the ELF file at `path`, for `board`.

    Raises FlashError: no such file, no kilofed image, or one built for another board.
    """
    try:
        parsed = elf.read(path)
        header = find_header(lambda a, n: elf.read_range(parsed.segments, a, n), parsed.segments[0].address)
    except (OSError, ValueError, IndexError) as error:
        raise FlashError(
            f"{path} is no kilofed image ({error})",
            f"build one: kilofed build --board {board.name} --model MODEL.tflite",
            board=board.name,
        ) from error
    check_board(header, board)
    flash_end = max(segment.address + len(segment.data) for segment in parsed.segments)
    return Image(
        board=board.name,
        elf=path,
        segments=parsed.segments,
        header=header,
        flash_bytes=flash_end - board.flash.origin,
        ram_bytes=header.pool_end - board.ram.origin + board.stack_bytes,
        stack_bytes=board.stack_bytes,
        model_bytes=header.model_end - header.model_start,
        pool_bytes=header.pool_end - header.pool_start,
        stack=stack,
    )


def check_board(header: Header, board: Board) -> None:
    """Raises FlashError when an image with `header` was built for another board, or for other settings."""
    if header.board != board.name:
        raise FlashError(
            f"the image was built for {header.board}, the board is a {board.name}",
            f"build one for it: kilofed build --board {board.name} --model MODEL.tflite",
            board=board.name,
        )
    if header.settings_address != board.settings_address:
        raise FlashError(
            f"the image looks for its settings at {header.settings_address:#x}, the data file says "
            f"{board.settings_address:#x}",
            "build the image again",
            board=board.name,
        )
