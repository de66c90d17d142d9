"""Frames: what carries one message over a pipe (firmware/PROTOCOL.md, "Frames").

    message -> header | message | check -> COBS -> 0x00
               1+2      n         4, or 16 when it is encrypted

Sans-IO and without state but for `Splitter`, which cuts a byte stream at 0x00 and never holds more than one
frame. Decoders raise FrameError and nothing else, whatever the bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from kilofed.link.errors import FrameError
from kilofed.link.messages import MAX_FRAME, PROTOCOL_VERSION

HEADER_BYTES = 3
CHECK_BYTES = 4
TAG_BYTES = 16  # in place of the check, in an encrypted session
_GROUP = 254  # most data bytes of one COBS group
_PSEUDO = struct.Struct("<II")
_HINT = "nothing to do once; look at the cable and the baud rate when it goes on"


class Direction(IntEnum):
    """Who sent a frame: bit 3 of its first byte."""

    FROM_DEVICE = 0
    FROM_HOST = 1


class FrameType(IntEnum):
    """Bits 2-0 of its first byte.

    CLEAR: outside a session. SESSION, ENCRYPTED: of a session, with a checksum or an authentication tag.
    """

    CLEAR = 0
    SESSION = 1
    ENCRYPTED = 2


def cobs_encode(data: bytes) -> bytes:
    """Consistent overhead byte stuffing (Cheshire & Baker 1999), without the delimiter: no byte of it is 0.

    One byte longer than `data` up to 254 bytes, one more for each further 254 bytes without a zero.
    """
    out = bytearray()
    parts = data.split(b"\0")
    for part in parts:
        start = 0
        while len(part) - start >= _GROUP:
            out.append(255)
            out += part[start : start + _GROUP]
            start += _GROUP
        out.append(len(part) - start + 1)
        out += part[start:]
    if len(parts[-1]) and len(parts[-1]) % _GROUP == 0:
        out.pop()  # a full group at the very end needs no empty one after it
    return bytes(out)


def cobs_decode(data: bytes) -> bytes:
    """The inverse. FrameError: a group runs past the end, or there is a 0. An empty last group is fine."""
    out = bytearray()
    position, end = 0, len(data)
    while position < end:
        code = data[position]
        following = position + code
        if code == 0 or following > end:
            raise FrameError("broken COBS", _HINT)
        out += data[position + 1 : following]
        if code != 255 and following < end:
            out.append(0)
        position = following
    if b"\0" in data:
        raise FrameError("broken COBS", _HINT)
    return bytes(out)


def wire_bound(message_bytes: int, check: int = CHECK_BYTES) -> int:
    """Most bytes on the wire that a session frame with a message of that size can take.

    check: bytes of its check, CHECK_BYTES or TAG_BYTES.
    """
    raw = HEADER_BYTES + message_bytes + check
    return raw + 1 + raw // _GROUP + 1


def message_bound(max_frame: int, check: int = CHECK_BYTES) -> int:
    """Largest message that surely fits a session frame of `max_frame` bytes on the wire. check: as above."""
    size = max_frame - HEADER_BYTES - check - 2
    while wire_bound(size, check) > max_frame:
        size -= 1
    return size


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame whose form is right and whose check has not been looked at.

    number: the low 16 bits of its number. message: of an encrypted frame the ciphertext. covered: the bytes
    the check covers besides session and number. check: as a number, little endian; of an encrypted frame the
    tag is in `tag`.
    """

    type: FrameType
    direction: Direction
    number: int
    message: bytes
    covered: bytes
    check: int
    tag: bytes = b""

    @property
    def header(self) -> bytes:
        """Its first three bytes."""
        return self.covered[:HEADER_BYTES]

    def matches(self, session: int, number: int) -> bool:
        """Whether the check is right for this session id (u32) and whole number (u32)."""
        return _check(session, number, self.covered) == self.check


def encode_frame(
    message: bytes,
    *,
    direction: Direction,
    frame: FrameType = FrameType.CLEAR,
    session: int = 0,
    number: int = 0,
) -> bytes:
    """The frame as it goes on the wire, delimiter included (a clear frame has one before it as well).

    Clear frames have session 0 and number 0; a session's frames are numbered from 1 in each direction.
    """
    covered = frame_header(direction, frame, number) + message
    check = _check(session, number, covered)
    stuffed = cobs_encode(covered + check.to_bytes(4, "little")) + b"\0"
    return b"\0" + stuffed if frame is FrameType.CLEAR else stuffed


def frame_header(direction: Direction, frame: FrameType, number: int) -> bytes:
    """The first three bytes of a frame."""
    return bytes((PROTOCOL_VERSION << 4 | direction << 3 | frame, number & 0xFF, number >> 8 & 0xFF))


def encode_encrypted(header: bytes, sealed: bytes) -> bytes:
    """An encrypted frame on the wire. sealed: ciphertext and tag, as an AEAD gives them."""
    return cobs_encode(header + sealed) + b"\0"


def parse_frame(piece: bytes) -> RawFrame:
    """The frame in the bytes between two delimiters. FrameError: COBS, length, version or type are wrong."""
    raw = cobs_decode(piece)
    encrypted = bool(raw) and raw[0] & 7 == FrameType.ENCRYPTED
    check = TAG_BYTES if encrypted else CHECK_BYTES
    if len(raw) < HEADER_BYTES + 1 + check:
        raise FrameError(f"{len(raw)} bytes are too short for a frame", _HINT)
    first = raw[0]
    if first >> 4 != PROTOCOL_VERSION:
        raise FrameError(f"protocol version {first >> 4}", _HINT)
    if first & 7 > FrameType.ENCRYPTED:
        raise FrameError(f"frame type {first & 7}", _HINT)
    covered, tail = raw[:-check], raw[-check:]
    return RawFrame(
        FrameType(first & 7),
        Direction(first >> 3 & 1),
        raw[1] | raw[2] << 8,
        covered[HEADER_BYTES:],
        covered,
        0 if encrypted else int.from_bytes(tail, "little"),
        tail if encrypted else b"",
    )


def foreign_version(piece: bytes) -> int | None:
    """The protocol version of a clear frame that is sound but of another version than ours; else None.

    Clear frames keep their form in every version, so that either side can be told to update the other.
    """
    try:
        raw = cobs_decode(piece)
    except FrameError:
        return None
    if len(raw) < HEADER_BYTES + 1 + CHECK_BYTES:
        return None
    if raw[0] >> 4 == PROTOCOL_VERSION or raw[0] & 7 != FrameType.CLEAR:
        return None
    check = int.from_bytes(raw[-CHECK_BYTES:], "little")
    return raw[0] >> 4 if _check(0, 0, raw[:-CHECK_BYTES]) == check else None


def _check(session: int, number: int, covered: bytes) -> int:
    return zlib.crc32(covered, zlib.crc32(_PSEUDO.pack(session, number)))


class Splitter:
    """Cuts what arrives at 0x00. Holds at most `max_frame` - 1 bytes, whatever comes.

    max_frame: of this side, in bytes on the wire, delimiter included.
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._limit = max_frame - 1
        self._held = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Pieces that ended in `data`, without their delimiter, and whether each may be a frame.

        A piece that is too long comes in parts, each marked False; empty pieces do not come.
        """
        start = 0
        while True:
            end = data.find(0, start)
            stop = len(data) if end < 0 else end
            while start < stop:
                room = self._limit - len(self._held)
                if room == 0:  # no frame is this long: it is noise, and so is the rest of it
                    yield bytes(self._held), False
                    self._held.clear()
                    self._skipping = True
                    room = self._limit
                taken = min(room, stop - start)
                self._held += data[start : start + taken]
                start += taken
            if end < 0:
                return
            if self._held:
                piece, whole = bytes(self._held), not self._skipping
                self._held.clear()
                self._skipping = False
                yield piece, whole
            self._skipping = False
            start = end + 1

    def reset(self) -> bytes:
        """Forgets a piece that has begun, and returns it: the pipe was replaced by another."""
        held = bytes(self._held)
        self._held.clear()
        self._skipping = False
        return held
