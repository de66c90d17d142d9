"""Sessions: ids, numbers, and the clock work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.link_vectors import vectors

from kilofed.link.frames import Direction, FrameType, encode_frame, parse_frame
from kilofed.link.session import (
    LAST_NUMBER,
    LEAST_WAIT,
    LONGEST_WAIT,
    TICK,
    Repeater,
    RoundTrip,
    Session,
    round_trip,
    session_id,
)


def pair() -> tuple[Session, Session]:
    return (
        Session(77, role=Direction.FROM_HOST, max_frame=128),
        Session(77, role=Direction.FROM_DEVICE, max_frame=128),
    )


def opened(session: Session, wire: bytes) -> bytes | None:
    return session.open(parse_frame(wire.rstrip(b"\0")))


@pytest.mark.parametrize("case", vectors("session_ids"), ids=range(len(vectors("session_ids"))))
def test_session_ids(case):
    names = ("host_nonce", "device_nonce", "device_id")
    assert session_id(*(bytes.fromhex(case[name]) for name in names)) == case["id"]


@given(st.lists(st.sampled_from(["pass", "drop", "repeat"]), max_size=40))
def test_each_frame_is_opened_once_and_in_order(fates):
    host, device = pair()
    got = []
    for number, fate in enumerate(fates):
        wire = host.seal(b"message %d" % number)
        for _ in range({"pass": 1, "drop": 0, "repeat": 2}[fate]):
            got.append(opened(device, wire))
    wanted: list[bytes | None] = []
    for number, fate in enumerate(fates):
        wanted += [b"message %d" % number, None][: {"pass": 1, "drop": 0, "repeat": 2}[fate]]
    assert got == wanted


def test_directions_have_numbers_of_their_own():
    host, device = pair()
    for _ in range(5):
        host.seal(b"down")
    assert opened(host, device.seal(b"up")) == b"up"
    assert opened(device, host.seal(b"down")) == b"down"


def test_a_reflected_frame_is_not_opened():
    host, _ = pair()
    assert opened(host, host.seal(b"mine")) is None


def test_frames_of_other_sessions_and_clear_frames_are_not_opened():
    host, device = pair()
    other = Session(78, role=Direction.FROM_HOST, max_frame=128)
    assert opened(device, other.seal(b"x")) is None
    clear = encode_frame(b"x", direction=Direction.FROM_HOST, frame=FrameType.CLEAR)
    assert device.open(parse_frame(clear.strip(b"\0"))) is None
    assert not device.received_any
    assert opened(device, host.seal(b"x")) == b"x"
    assert device.received_any


def test_up_to_65535_lost_frames_are_a_gap():
    host, device = pair()
    host._sent = 65535
    assert opened(device, host.seal(b"number 65536")) == b"number 65536"
    host._sent += 65536
    assert opened(device, host.seal(b"one too far")) is None


def test_the_last_number_exhausts_a_session():
    host, device = pair()
    host._sent = device._accepted = LAST_NUMBER - 1
    assert not host.exhausted
    assert opened(device, host.seal(b"last")) == b"last"
    assert host.exhausted and device.exhausted


def test_round_trip_is_half_a_second_and_a_window():
    assert round_trip(11520) == pytest.approx(1.5)
    assert round_trip(64) == pytest.approx(0.5, abs=0.01)


def test_a_repeater_says_when():
    repeater = Repeater(0.5, tries=2)
    times = [now / 10 for now in range(30) if not repeater.exhausted(now / 10) and repeater.due(now / 10)]
    assert times == [0, 0.5, 1.5], "the second repeat has waited twice as long"
    assert not repeater.exhausted(3.4) and repeater.exhausted(3.5)


def test_progress_lets_a_repeater_begin_anew():
    repeater = Repeater(1.0, tries=1)
    assert repeater.due(0) and repeater.due(1) and not repeater.exhausted(1.5)
    repeater.progress(1.5)
    assert not repeater.due(2.4) and repeater.due(2.5) and not repeater.exhausted(4.4)
    assert repeater.exhausted(4.5)


def test_a_repeater_waits_no_longer_than_four_seconds_or_its_interval():
    for interval, waits in ((1.0, [1, 2, 4, 4]), (6.0, [6, 6, 6, 6])):
        repeater = Repeater(interval)
        now = 0.0
        for wait in waits:
            assert repeater.due(now) and repeater.deadline - now == wait
            now = repeater.deadline


def test_only_what_was_said_once_can_be_measured():
    repeater = Repeater(1.0)
    assert repeater.said is None
    assert repeater.due(3.0) and repeater.said == 3.0
    assert repeater.due(4.0) and repeater.said is None
    repeater.progress(4.5)
    assert repeater.said is None


# ---- how long an answer takes: the numbers of RFC 6298, section 2, by hand ----------------------------


def test_the_first_measure_and_the_second():
    trip = RoundTrip(0.9)
    assert trip.smoothed is None and trip.wait == 0.9
    trip.measure(0.4)
    assert trip.smoothed == 0.4 and trip.wait == pytest.approx(0.4 + 4 * 0.2)
    trip.measure(0.8)  # varies = 3/4 * 0.2 + 1/4 * 0.4, smoothed = 7/8 * 0.4 + 1/8 * 0.8
    assert trip.smoothed == pytest.approx(0.45) and trip.wait == pytest.approx(0.45 + 4 * 0.25)


@given(st.floats(0, 10), st.integers(1, 60), st.floats(0.5, 6))
def test_a_steady_line_is_waited_for_a_little_longer_than_it_takes(seconds, count, first):
    trip = RoundTrip(first)
    for _ in range(count):
        trip.measure(seconds)
    most = max(LONGEST_WAIT, first)
    assert LEAST_WAIT <= trip.wait <= most
    assert trip.wait >= min(seconds, most)
    if count > 40:
        assert trip.wait == pytest.approx(min(max(seconds + TICK, LEAST_WAIT), most), 0.01)
