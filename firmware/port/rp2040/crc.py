"""Pad the second stage of an RP2040's start to 252 bytes and put its CRC behind it, for the boot ROM.

    crc.py RAW OUT

RP2040 datasheet, 2.8.1.3.1: CRC-32 with the polynomial 0x04c11db7, from 0xffffffff, no bits reflected,
nothing inverted at the end; its four bytes little endian. Exits with a message when the code is too long.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

CODE_BYTES = 252


def crc32(data: bytes) -> int:
    """The boot ROM's CRC of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7) & 0xFFFFFFFF if crc & 1 << 31 else crc << 1
    return crc


def sealed(code: bytes) -> bytes:
    """256 bytes: the code, zeros, and the CRC of both. Raises ValueError for more than 252 bytes."""
    if len(code) > CODE_BYTES:
        raise ValueError(f"the second stage has {len(code)} bytes, and room for {CODE_BYTES}")
    padded = code.ljust(CODE_BYTES, b"\0")
    return padded + struct.pack("<I", crc32(padded))


if __name__ == "__main__":
    try:
        Path(sys.argv[2]).write_bytes(sealed(Path(sys.argv[1]).read_bytes()))
    except ValueError as error:
        sys.exit(str(error))
