"""UF2: the file that a bootloader takes when it is copied onto the volume that a board shows.

A file is blocks of 512 bytes, each with up to 476 bytes of payload and the address it goes to, so that a
bootloader needs neither order nor memory (github.com/microsoft/uf2, "File format"). Little endian:

    0 u32 magic 0x0A324655 | 4 u32 magic 0x9E5D5157 | 8 u32 flags | 12 u32 address | 16 u32 payload bytes
    20 u32 number of this block | 24 u32 blocks in all | 28 u32 family | 32 payload, padded with zeros
    508 u32 magic 0x0AB16F30

Written here: 256 bytes of payload a block, each at a multiple of 256, which is what the boot ROM of an RP2040
demands (datasheet, 2.8.4.2.1), and what others take as well.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from kilofed.boards.elf import Segment

RP2040 = 0xE48BFF56
"""The family of RP2040 (datasheet, 2.8.4.2.1)."""

BLOCK_BYTES = 512
PAYLOAD_BYTES = 256
"""Of each block written: a page of flash."""
SECTOR_BYTES = 4096
"""What an RP2040's flash erases at a time. Its boot ROM counts blocks to know which sector to erase, not
addresses (pico-bootrom, virtual_disk.c): sixteen blocks in a row must be one sector, all of it."""
MAX_PAYLOAD_BYTES = 476
"""Of a block read."""

_MAGIC_0 = 0x0A324655
_MAGIC_1 = 0x9E5D5157
_MAGIC_END = 0x0AB16F30
_NOT_MAIN_FLASH = 1 << 0
_HAS_FAMILY = 1 << 13
_HEAD = struct.Struct("<8I")
_END = struct.Struct("<I")


def encode(
    segments: Iterable[Segment], family: int, *, fill: int = 0xFF, whole: int = PAYLOAD_BYTES
) -> bytes:
    """The file that writes `segments`, for boards of `family`.

    Pieces of `whole` bytes (a multiple of 256) that a segment touches are written whole, `fill` where no
    segment has a byte: SECTOR_BYTES for what flash erases at a time. Raises
    ValueError: nothing to write, segments that overlap, or an address that 32 bits do not hold.
    """
    pages: dict[int, bytearray] = {}
    end = 0
    for segment in sorted((s for s in segments if s.data), key=lambda s: s.address):
        if segment.address < end:
            raise ValueError(f"two segments want the bytes at {segment.address:#x}")
        end = segment.address + len(segment.data)
        if segment.address < 0 or end > 1 << 32:
            raise ValueError(f"the segment at {segment.address:#x} leaves 32 bits")
        at = segment.address
        while at < end:
            piece = at - at % whole
            for other in range(piece, min(piece + whole, 1 << 32), PAYLOAD_BYTES):
                pages.setdefault(other, bytearray([fill]) * PAYLOAD_BYTES)
            page = at - at % PAYLOAD_BYTES
            until = min(end, page + PAYLOAD_BYTES)
            data = segment.data[at - segment.address : until - segment.address]
            pages[page][at - page : until - page] = data
            at = until
    if not pages:
        raise ValueError("there is nothing to write")
    blocks = []
    for number, (address, payload) in enumerate(sorted(pages.items())):
        head = (_MAGIC_0, _MAGIC_1, _HAS_FAMILY, address, PAYLOAD_BYTES, number, len(pages), family)
        blocks.append(
            _HEAD.pack(*head)
            + bytes(payload).ljust(BLOCK_BYTES - _HEAD.size - _END.size, b"\0")
            + _END.pack(_MAGIC_END)
        )
    return b"".join(blocks)


def decode(data: bytes, *, family: int | None = None) -> tuple[Segment, ...]:
    """What a file writes to flash: segments by address, neighbours joined.

    family: take only its blocks, as a bootloader does; None: the blocks of any, or of none. Blocks that are
    not for main flash are passed by. Raises ValueError: no whole blocks, wrong magic numbers, a payload of
    more than 476 bytes or beyond 32 bits, a block that is missing or there twice, blocks that overlap, or
    none for the family.
    """
    if not data or len(data) % BLOCK_BYTES:
        raise ValueError(f"{len(data)} bytes are no UF2 file: its blocks have {BLOCK_BYTES}")
    parts: list[Segment] = []
    seen: dict[int, set[int]] = {}  # numbers of blocks, by family (-1: none told)
    totals: dict[int, int] = {}
    for at in range(0, len(data), BLOCK_BYTES):
        magic_0, magic_1, flags, address, size, number, total, its = _HEAD.unpack_from(data, at)
        (magic_end,) = _END.unpack_from(data, at + BLOCK_BYTES - _END.size)
        where = f"block {at // BLOCK_BYTES}"
        if (magic_0, magic_1, magic_end) != (_MAGIC_0, _MAGIC_1, _MAGIC_END):
            raise ValueError(f"{where} is no UF2 block")
        if flags & _NOT_MAIN_FLASH:
            continue
        if not flags & _HAS_FAMILY:
            its = -1
        if family is not None and its != family:
            continue
        if size > MAX_PAYLOAD_BYTES or address + size > 1 << 32:
            raise ValueError(f"{where} has {size} bytes for {address:#x}")
        numbers = seen.setdefault(its, set())
        if number >= total or totals.setdefault(its, total) != total or number in numbers:
            raise ValueError(f"{where} is number {number} of {total}, which does not fit the others")
        numbers.add(number)
        if size:
            parts.append(Segment(address, data[at + _HEAD.size : at + _HEAD.size + size]))
    for its, numbers in seen.items():
        if len(numbers) != totals[its]:
            raise ValueError(f"{len(numbers)} of {totals[its]} blocks are there")
    if not parts:
        raise ValueError("no block is for this board's flash")
    return _joined(parts)


def _joined(parts: Iterable[Segment]) -> tuple[Segment, ...]:
    """Neighbours made one. Raises ValueError where two overlap."""
    runs: list[tuple[int, bytearray]] = []
    for part in sorted(parts, key=lambda p: p.address):
        end = runs[-1][0] + len(runs[-1][1]) if runs else -1
        if part.address < end:
            raise ValueError(f"two blocks want the bytes at {part.address:#x}")
        if part.address == end:
            runs[-1][1].extend(part.data)
        else:
            runs.append((part.address, bytearray(part.data)))
    return tuple(Segment(address, bytes(run)) for address, run in runs)
