"""Fuzz target: a capture file, and a line that is listened to.

    u8 what & 1: 0 a file | 1 bytes of a line, both ways; what & 2: the listener has the device's key

Of a line: u8 (bit 7: up, else down; size below that), then so many bytes, and again. Promised, and checked:
StoreError and nothing else; a file read in one go and byte by byte gives the same packets; a listener raises
nothing, remembers no more than it says, and tells of every byte; what it says is one printable line.
"""

from __future__ import annotations

import json

from tests.fuzz.link import KEY

from kilofed.capture import MOST_BLOCK, CaptureReader, Packet
from kilofed.errors import StoreError
from kilofed.link.tap import MOST_BLOBS, MOST_HELLOS, MOST_SESSIONS, Seen, Tap


def one_input(data: bytes) -> None:
    """One run."""
    if not data:
        return
    what, rest = data[0], data[1:]
    tap = Tap(keys=lambda _: [bytes(32), KEY] if what & 2 else [])
    if what & 1:
        _line(tap, rest)
    else:
        _file(tap, rest)


def _file(tap: Tap, data: bytes) -> None:
    whole = _read(data, len(data) or 1)
    assert whole == _read(data, 7)
    for packet in whole[0]:
        assert packet.line.isprintable()
        _look(tap.feed(packet.at, packet.up, packet.data))
    _look(tap.rest(0.0))


def _read(data: bytes, step: int) -> tuple[list[Packet], int, bool]:
    reader = CaptureReader()
    packets: list[Packet] = []
    try:
        for at in range(0, len(data), step):
            for packet in reader.feed(data[at : at + step]):
                packets.append(packet)
            assert reader.cut < MOST_BLOCK
    except StoreError:
        return packets, reader.whole, False
    assert reader.whole + reader.cut == len(data)
    return packets, reader.whole, True


def _line(tap: Tap, data: bytes) -> None:
    at, fed, told = 0, 0, 0
    while at < len(data):
        size = data[at] & 127
        part = data[at + 1 : at + 1 + size]
        seen = tap.feed(at / 64, bool(data[at] & 128), part)
        _look(seen)
        fed += len(part)
        told += sum(one.wire for one in seen)
        at += 1 + size
    seen = tap.rest(0.0)
    _look(seen)
    # Delimiters that end nothing are bytes that nobody tells of; a piece too long has its parts' alone.
    assert told + sum(one.wire for one in seen) <= fed
    figures = tap.figures
    assert figures.bytes_up + figures.bytes_down == fed
    assert figures.bytes_stray <= fed
    assert len(tap._hellos) <= MOST_HELLOS
    assert len(tap._talks) <= MOST_SESSIONS
    assert len(tap._blobs) <= MOST_BLOBS
    assert all(len(blob.got) <= blob.size for blob in tap._blobs.values())


def _look(seen: list[Seen]) -> None:
    for one in seen:
        assert one.text.isprintable()
        json.dumps(one.as_json())
