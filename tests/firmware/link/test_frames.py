"""Frames of the C core against the Python ones: whole, in pieces, damaged, and among noise."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from device_runner import Runner
from link_runner import DAMAGED, READY, SESSION, STRAY, TOO_LONG, Got, feed, frame, seal

from kilofed.link.frames import Direction, cobs_encode, encode_frame


def contents(rng: random.Random, size: int) -> bytes:
    """Bytes with runs of zeros, runs without, and everything between."""
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(size)
    if kind == 1:
        return bytes(rng.randrange(1, 256) for _ in range(size))
    return bytes(rng.choice((0, 0, 1, 255, rng.randrange(256))) for _ in range(size))


@pytest.mark.parametrize("max_frame", [64, 128, 255, 256, 257, 264, 511, 512, 766, 1023, 1024])
def test_every_length_is_python_s_frame_and_comes_back(runner: Runner, max_frame: int) -> None:
    rng = random.Random(max_frame)
    longest, _ = seal(runner, b"", max_frame=max_frame)
    for size in range(1, longest + 1):
        message = contents(rng, size)
        number = rng.choice((1, 77, 65535, 65536, 2**32 - 1))
        _, sealed = seal(runner, message, max_frame=max_frame, sender=1, number=number)
        assert sealed == frame(message, number)
        assert len(sealed) <= max_frame
        (got,) = feed(runner, sealed, buffer=max_frame, last=number - 1)
        assert got == Got(READY, 1, number, len(sealed), message)
    # The longest is the longest: a byte more does not fit when no byte is zero.
    raw = b"\x19\x01\x01" + b"\x01" * (longest + 1) + b"\x01" * 4
    assert len(cobs_encode(raw)) + 1 > max_frame


def test_clear_frames(runner: Runner) -> None:
    _, sealed = seal(runner, b"\x82\x00\x01", type=0, sender=0, session=0, number=0)
    assert sealed == encode_frame(b"\x82\x00\x01", direction=Direction.FROM_DEVICE)
    assert sealed[0] == 0
    for open in (False, True):
        (got,) = feed(runner, sealed, sender=Direction.FROM_DEVICE, open=open, last=5)
        assert (got.outcome, got.type, got.number, got.data) == (READY, 0, 0, b"\x82\x00\x01")


def test_a_session_frame_needs_the_session_the_number_and_the_sender(runner: Runner) -> None:
    sealed = frame(b"\x81\x0d", 9)
    assert feed(runner, sealed, last=8)[0].outcome == READY
    assert feed(runner, sealed, last=0)[0].number == 9
    for changes in (
        {"open": False},
        {"last": 9},
        {"session": SESSION + 1},
        {"sender": Direction.FROM_DEVICE},
    ):
        (got,) = feed(runner, sealed, **changes)  # type: ignore[arg-type]
        assert got.outcome == DAMAGED and got.data == sealed[:-1]


@pytest.mark.parametrize(
    "last, number",
    [(0, 1), (0, 65535), (0, 65536), (65535, 65536), (65535, 131071), (70000, 70001), (2**32 - 2, 2**32 - 1)],
)
def test_numbers_are_the_smallest_above_the_last(runner: Runner, last: int, number: int) -> None:
    (got,) = feed(runner, frame(b"\x81\x0d", number), last=last)
    assert (got.outcome, got.number) == (READY, number)


@pytest.mark.parametrize(
    "last, number", [(0, 65537), (65535, 131072), (2**32 - 1, 2**32 - 1), (2**32 - 1, 5)]
)
def test_numbers_out_of_reach_fail(runner: Runner, last: int, number: int) -> None:
    assert feed(runner, frame(b"\x81\x0d", number), last=last)[0].outcome == DAMAGED


def by_hand(header: bytes, message: bytes, *, session: int = SESSION, number: int = 1) -> bytes:
    """A frame with any header and a right check."""
    body = header + message
    check = zlib.crc32(struct.pack("<II", session, number) + body)
    return cobs_encode(body + struct.pack("<I", check)) + b"\0"


def test_headers_that_are_not_ours(runner: Runner) -> None:
    good = by_hand(b"\x19\x01\x00", b"\x81\x0d")
    assert feed(runner, good)[0].outcome == READY
    for first in range(256):
        (got,) = feed(runner, by_hand(bytes([first, 1, 0]), b"\x81\x0d"))
        assert (got.outcome == READY) == (first == 0x19), first
    for header in (b"\x18\x00\x00", b"\x18\x01\x00", b"\x18\x00\x01"):
        (got,) = feed(runner, by_hand(header, b"\x82\x00\x01", session=0, number=0))
        assert (got.outcome == READY) == (header == b"\x18\x00\x00"), "clear frames carry number 0"
    assert feed(runner, by_hand(b"\x19\x01\x00", b""))[0].outcome == DAMAGED, "a message has a byte at least"


def test_short_pieces(runner: Runner) -> None:
    for size in range(1, 9):
        (got,) = feed(runner, bytes([size]) + b"\x19" * (size - 1) + b"\0")
        assert got.outcome == DAMAGED
        (got,) = feed(runner, bytes([size + 1]) + b"\x19" * (size - 1) + b"\0")
        assert got.outcome == DAMAGED, "a block that leaves the piece"


def test_whole_equals_pieces_and_no_byte_is_lost(runner: Runner) -> None:
    """Frames, noise and overlong pieces, cut anywhere: the same outcomes, and all bytes come back."""
    for seed in range(40):
        rng = random.Random(seed)
        stream = bytearray()
        frames = []
        number = 0
        for _ in range(rng.randrange(1, 12)):
            kind = rng.randrange(5)
            if kind <= 1:
                number += rng.choice((1, 1, 3))
                message = contents(rng, rng.randrange(1, 119))
                frames.append((number, message))
                stream += frame(message, number)
            elif kind == 2:
                stream += bytes(rng.randrange(1, 256) for _ in range(rng.randrange(0, 700))) + b"\0"
            elif kind == 3:
                stream += b"Booting kilofed 0.1\r\n" + b"\0" * rng.randrange(1, 4)
            else:
                broken = bytearray(frame(contents(rng, 40), number + 1))
                broken[rng.randrange(len(broken) - 1)] ^= 1 << rng.randrange(8)
                stream += broken if 0 not in broken[:-1] else b"\0"
        whole = feed(runner, bytes(stream), last=0)
        assert [(g.number, g.data) for g in whole if g.outcome == READY] == frames
        back = b"".join(g.data for g in whole if g.outcome != READY)
        kept = b"".join(
            piece
            for piece in bytes(stream).split(b"\0")[:-1]
            if not any(piece + b"\0" == frame(m, n) for n, m in frames)
        )
        assert back == kept
        for cut in (1, 2, 7, 129):
            assert feed(runner, bytes(stream), cut=cut) == whole


def test_a_full_buffer_skips_to_the_next_delimiter(runner: Runner) -> None:
    good = frame(b"\x81\x0d", 1)
    for size in range(60, 200):
        got = feed(runner, b"z" * size + b"\0" + good, buffer=64)
        assert got[-1].outcome == READY
        strays = [g.outcome for g in got[:-1]]
        assert b"".join(g.data for g in got[:-1]) == b"z" * size
        assert strays == ([DAMAGED] if size <= 63 else [STRAY] * ((size - 1) // 63) + [TOO_LONG])


def test_a_frame_of_exactly_the_buffer_s_size_fits(runner: Runner) -> None:
    message = b"\x01" * (64 - 9)
    sealed = frame(message, 1)
    assert len(sealed) == 64
    assert feed(runner, sealed, buffer=64)[0].outcome == READY
    assert [g.outcome for g in feed(runner, frame(message + b"\x01", 1), buffer=64)] == [STRAY, TOO_LONG]


def test_a_single_changed_bit_never_passes(runner: Runner) -> None:
    sealed = frame(bytes(range(30)), 5)
    for at in range(len(sealed) - 1):
        for bit in range(8):
            broken = bytearray(sealed)
            broken[at] ^= 1 << bit
            assert all(g.outcome != READY for g in feed(runner, bytes(broken), last=4))


def test_random_bytes_are_stray(runner: Runner) -> None:
    rng = random.Random(9)
    for _ in range(50):
        noise = rng.randbytes(2000)
        got = feed(runner, noise + b"\0", cut=rng.randrange(0, 50))
        assert all(g.outcome != READY for g in got)
        assert b"".join(g.data for g in got) == noise.replace(b"\0", b"")
