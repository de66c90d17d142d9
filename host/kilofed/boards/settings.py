"""The settings page: who a device is, written beside its firmware when it is flashed.

64 bytes, little endian; `firmware/include/kilofed/settings.h` is the other reader:

    0 u32 magic "KFI1" | 4 u16 version 1 | 6 u16 size 64 | 8 id[8] | 16 key[32] | 48 name[12]
    60 u32 CRC-32 of 0..59

While a board is being flashed its page holds a mark instead: the same layout with magic "KFIU" and the
image's SHA-256 in the place of the key. Firmware takes that for no settings page, so what an interrupted
flashing leaves does not say hello.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from kilofed.errors import BoardError

MAGIC = b"KFI1"
MARK = b"KFIU"
VERSION = 1
SETTINGS_BYTES = 64
NO_KEY = bytes(32)  # the device's sessions are in the clear, for the bench
_LAYOUT = struct.Struct("<4sHH8s32s12s")


@dataclass(frozen=True)
class Identity:
    """What makes a device that one: id (8 bytes), key (32 bytes, secret; NO_KEY: none) and name (at
    most 12 bytes of UTF-8).
    """

    id: bytes
    key: bytes = field(repr=False)
    name: str

    def __post_init__(self) -> None:
        named = self.name.encode()
        if len(self.id) != 8 or len(self.key) != 32:
            raise BoardError(
                "an identity has an id of 8 and a key of 32 bytes", "make one with kilofed.fleet.new_identity"
            )
        if not 1 <= len(named) <= 12 or b"\0" in named:
            raise BoardError(
                f"{self.name!r} is no name for a device", "choose 1 to 12 bytes of UTF-8 without NUL"
            )


def encode(identity: Identity) -> bytes:
    """The page of `identity`, 64 bytes."""
    head = _LAYOUT.pack(MAGIC, VERSION, SETTINGS_BYTES, identity.id, identity.key, identity.name.encode())
    return head + struct.pack("<I", zlib.crc32(head))


def encode_mark(identity: Identity, digest: bytes) -> bytes:
    """The mark that `identity` is being flashed with an image of SHA-256 `digest`, 64 bytes."""
    head = _LAYOUT.pack(MARK, VERSION, SETTINGS_BYTES, identity.id, digest, identity.name.encode())
    return head + struct.pack("<I", zlib.crc32(head))


def interrupted(page: bytes) -> str | None:
    """The name of the device whose flashing did not end, by the mark on a page; None when there is no mark.

    A mark that was cut short itself still begins with its magic: its name is "".
    """
    if page[:4] != MARK:
        return None
    whole = len(page) >= SETTINGS_BYTES and (
        zlib.crc32(page[: SETTINGS_BYTES - 4]) == struct.unpack_from("<I", page, SETTINGS_BYTES - 4)[0]
    )
    return page[48:60].rstrip(b"\0").decode("utf-8", "replace") if whole else ""


def decode(page: bytes) -> Identity:
    """The identity on a page (64 bytes or more). Raises BoardError for an erased or damaged one."""
    problem = ""
    if page[:4] == MARK:
        problem = "flashing this board was interrupted"
    elif len(page) < SETTINGS_BYTES or page[:4] != MAGIC:
        problem = "there is no settings page"
    elif zlib.crc32(page[: SETTINGS_BYTES - 4]) != struct.unpack_from("<I", page, SETTINGS_BYTES - 4)[0]:
        problem = "the settings page is damaged"
    else:
        _, version, size, id_, key, name = _LAYOUT.unpack_from(page)
        if (version, size) == (VERSION, SETTINGS_BYTES):
            return Identity(id_, key, name.rstrip(b"\0").decode("utf-8", "replace"))
        problem = (
            f"the settings page has version {version} and {size} bytes, not {VERSION} and {SETTINGS_BYTES}"
        )
    raise BoardError(problem, "flash the board again: `kilofed flash` writes the page")
