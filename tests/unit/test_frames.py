"""Frames against the vectors, and against bytes of any kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.link_vectors import names, vectors

from kilofed.link.errors import FrameError
from kilofed.link.frames import (
    Direction,
    FrameType,
    Splitter,
    cobs_decode,
    cobs_encode,
    encode_frame,
    message_bound,
    parse_frame,
    wire_bound,
)
from kilofed.link.session import Session

FROM = {"host": Direction.FROM_HOST, "device": Direction.FROM_DEVICE}
OTHER = {"host": Direction.FROM_DEVICE, "device": Direction.FROM_HOST}


@pytest.mark.parametrize("case", vectors("cobs"), ids=range(len(vectors("cobs"))))
def test_cobs_vectors(case):
    raw, stuffed = bytes.fromhex(case["raw"]), bytes.fromhex(case["stuffed"])
    assert cobs_encode(raw) == stuffed
    assert cobs_decode(stuffed) == raw


def test_cobs_takes_an_empty_last_group():
    full = bytes([255]) + b"\1" * 254
    assert cobs_decode(full) == cobs_decode(full + b"\1") == b"\1" * 254


@given(st.binary(max_size=1100))
def test_cobs_gives_back_what_went_in(data):
    stuffed = cobs_encode(data)
    assert 0 not in stuffed and len(stuffed) <= len(data) + 1 + len(data) // 254
    assert cobs_decode(stuffed) == data


@given(st.binary(max_size=300))
def test_cobs_decodes_anything_or_says_so(data):
    try:
        assert len(cobs_decode(data)) <= len(data)
    except FrameError as error:
        assert error.next_step


@pytest.mark.parametrize("case", vectors("frames"), ids=names("frames"))
def test_frame_vectors(case):
    message, wire = bytes.fromhex(case["message"]), bytes.fromhex(case["wire"])
    kind = FrameType(case["type"])
    assert wire == encode_frame(
        message, direction=FROM[case["from"]], frame=kind, session=case["session"], number=case["number"]
    )
    frame = parse_frame(wire.strip(b"\0"))
    assert (frame.type, frame.direction, frame.message) == (kind, FROM[case["from"]], message)
    assert frame.number == case["number"] & 0xFFFF
    assert frame.matches(case["session"], case["number"])
    assert not frame.matches(case["session"] ^ 1, case["number"])
    assert not frame.matches(case["session"], case["number"] ^ 0x10000)
    if kind is FrameType.SESSION:
        assert len(wire) <= wire_bound(len(message))


def _events(case: dict[str, Any], pieces: list[bytes]) -> list[list[Any]]:
    """What a receiver makes of bytes that arrive in these pieces, as the vectors write it."""
    session = Session(case["session"], role=OTHER[case["from"]], max_frame=case["max_frame"])
    session._accepted = case["after"]
    splitter = Splitter(case["max_frame"])
    events: list[list[Any]] = []
    parts = bytearray()
    for data in pieces:
        for piece, whole in splitter.feed(data):
            assert len(piece) < case["max_frame"]
            if not whole:
                parts += piece
                continue
            try:
                frame = parse_frame(piece)
            except FrameError:
                events.append(["stray", piece.hex()])
                continue
            if (
                frame.type is FrameType.CLEAR
                and frame.direction is FROM[case["from"]]
                and frame.matches(0, 0)
            ):
                events.append(["clear", frame.message.hex()])
                continue
            message = session.open(frame)
            if message is None:
                events.append(["stray", piece.hex()])
            else:
                events.append(["frame", session._accepted, message.hex()])
    if parts:  # one piece, longer than a frame, in as many parts as it took
        events.insert(1, ["stray", parts.hex()])
    return events


@pytest.mark.parametrize("case", vectors("streams"), ids=names("streams"))
def test_stream_vectors(case):
    data = bytes.fromhex(case["bytes"])
    assert _events(case, [data]) == case["events"]
    assert _events(case, [data[i : i + 1] for i in range(len(data))]) == case["events"]
    assert _events(case, [data[i : i + 7] for i in range(0, len(data), 7)]) == case["events"]


@given(st.binary(max_size=80))
def test_any_bytes_are_a_frame_or_a_frame_error(data):
    try:
        frame = parse_frame(data)
    except FrameError as error:
        assert str(error) and error.next_step
    else:
        assert frame.message and frame.type in (0, 1)


@given(st.data())
def test_a_flipped_bit_never_passes_the_check(data):
    case = data.draw(st.sampled_from(vectors("frames")))
    wire = bytearray(bytes.fromhex(case["wire"]).strip(b"\0"))
    bit = data.draw(st.integers(0, 8 * len(wire) - 1))
    wire[bit // 8] ^= 1 << bit % 8
    try:
        frame = parse_frame(bytes(wire))
    except FrameError:
        return
    assert not frame.matches(case["session"], case["number"])


@given(st.lists(st.binary(max_size=400), max_size=8), st.integers(64, 300))
def test_a_splitter_loses_no_byte_and_holds_no_more_than_a_frame(chunks, max_frame):
    splitter = Splitter(max_frame)
    seen = bytearray()
    for chunk in chunks:
        for piece, _ in splitter.feed(chunk):
            assert piece and 0 not in piece and len(piece) < max_frame
            seen += piece
        assert len(splitter._held) < max_frame
    seen += splitter.reset()
    assert bytes(seen) == b"".join(chunks).replace(b"\0", b"")


def test_a_good_frame_after_noise_of_any_length_is_found():
    good = cobs_encode(b"good frame")
    for length in range(300):
        splitter = Splitter(64)
        pieces = list(splitter.feed(b"n" * length + b"\0" + good + b"\0"))
        assert pieces[-1] == (good, True)
        assert all(whole is (length < 64) for _, whole in pieces[:-1])


@pytest.mark.parametrize("max_frame", [64, 65, 128, 254, 260, 261, 262, 263, 264, 511, 516, 517, 1000, 1024])
def test_the_largest_message_fits_and_one_more_byte_may_not(max_frame):
    size = message_bound(max_frame)
    for fill in (b"\1", b"\0", b"\xff"):
        wire = encode_frame(
            fill * size, direction=Direction.FROM_HOST, frame=FrameType.SESSION, session=1, number=0x01010101
        )
        assert len(wire) <= wire_bound(size) <= max_frame
    assert wire_bound(size + 1) > max_frame
