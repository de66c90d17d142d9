"""Frames and messages of the C core, asked of the device's runner."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from device_runner import Runner

from kilofed.link.frames import Direction, FrameType, encode_frame

READY, STRAY, TOO_LONG, DAMAGED = 1, 2, 3, 4
SESSION = 0x1234ABCD


@dataclass(frozen=True)
class Got:
    """One outcome of kf_frame_feed()."""

    outcome: int
    type: int
    number: int
    wire: int
    data: bytes


def feed(
    runner: Runner,
    data: bytes,
    *,
    buffer: int = 128,
    last: int = 0,
    open: bool = True,
    sender: Direction = Direction.FROM_HOST,
    cut: int = 0,
    session: int = SESSION,
    key: bytes | None = None,
) -> list[Got]:
    """Through a decoder of so many bytes, so many bytes at a time. key: of the numbers `last` belongs to."""
    channel = _channel(session, last, open, sender, key)
    answer = runner.ask("D", struct.pack("<H", buffer), channel, struct.pack("<H", cut), data)
    out = []
    while answer.left:
        outcome, type, number, wire, size = (answer.number() for _ in range(5))
        out.append(Got(outcome, type, number, wire, answer.take(size)))
    return out


def seal(
    runner: Runner,
    message: bytes,
    *,
    max_frame: int = 128,
    type: int = 1,
    sender: int = 0,
    session: int = SESSION,
    number: int = 1,
    key: bytes | None = None,
) -> tuple[int, bytes]:
    """(longest message a frame takes, the frame). key: of the numbers that number - 1 belongs to."""
    channel = _channel(session, max(number - 1, 0), True, sender, key)
    answer = runner.ask("E", struct.pack("<HB", max_frame, type), channel, message)
    return answer.number(), answer.rest()


def _channel(session: int, last: int, open: bool, sender: int, key: bytes | None) -> bytes:
    return struct.pack("<IIBBB", session, last, open, sender, key is not None) + (key or b"")


def frame(
    message: bytes, number: int, *, session: int = SESSION, direction: Direction = Direction.FROM_HOST
) -> bytes:
    return encode_frame(message, direction=direction, frame=FrameType.SESSION, session=session, number=number)


def decode(runner: Runner, batch: Sequence[bytes]) -> list[tuple[int, int, bytes]]:
    """(status, type, encoded again) of each."""
    answer = runner.ask("M", *(struct.pack("<H", len(data)) + data for data in batch))
    out = []
    for _ in batch:
        status, type = answer.number(), answer.number()
        out.append((status, type, answer.take(answer.number())))
    assert answer.left == 0
    return out
