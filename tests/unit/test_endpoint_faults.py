"""Endpoint against endpoint: over pipes that lose, damage, repeat and cut; against hostile peers."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.link_world import HEAD, STATES, UPDATE, Round, World, finished, until

from kilofed.link import events as ev
from kilofed.link.errors import StatusCode
from kilofed.link.frames import Direction, FrameType, encode_frame
from kilofed.link.messages import (
    Accept,
    Chunk,
    Error,
    Hello,
    Offer,
    Result,
    State,
    Verdict,
    encode,
)
from kilofed.transports.memory import Faults

# ---- a line that fails -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rates=st.tuples(*[st.sampled_from([0.0, 0.0, 0.02, 0.05, 0.1])] * 5),
    max_frame=st.sampled_from([72, 128, 300, 1024]),
    window=st.sampled_from([64, 200, 512, 4096]),
)
def test_a_lossy_line_delays_a_round_and_changes_nothing_else(seed, rates, max_frame, window):
    drop, flip, repeat, noise, cut = rates
    faults = [Faults(seed + way, drop, flip, repeat, noise, cut) for way in (0, 1)]
    world = World(up=faults[0], down=faults[1], max_frame=max_frame, window=window, seed=seed)
    jobs = []
    for round in (1, 2, 3):
        head = random.Random(seed + round).randbytes(len(HEAD))
        jobs.append(Round(world, round, head))
        world.run(lambda: jobs[-1].done, seconds=3000)
    for job in jobs:
        assert job.result is not None and job.result.update == UPDATE
        assert job.head in world.heads
    # Never a double count: what the host took was committed at most once, and nothing else was.
    assert len(world.committed) == len(set(world.committed)) and set(world.committed) <= {1, 2, 3}


def test_ten_percent_of_each_fault_costs_seconds_not_minutes():
    rates = (0.1, 0.1, 0.1, 0.1, 0.1)
    world = World(up=Faults(1, *rates), down=Faults(2, *rates))
    finished(world)
    assert world.now - 1000 < 60


def _cut_run(way: str, after: int) -> World | None:
    """A round with the line cut once, `after` bytes into one direction. None when fewer bytes were sent."""
    world = World(train_seconds=0.5)
    world.cut_after = {way: after}
    cuts = []

    def cut() -> None:
        cuts.append(world.now)
        world.connected = False

    world.on_cut = cut
    job = Round(world)

    def done() -> bool:
        if cuts and not world.connected:
            world.connected = True
            world.disconnect()
        return job.done

    world.run(done)
    assert job.result is not None and job.result.update == UPDATE
    assert world.device.state is State.IDLE
    return world if cuts else None


@pytest.mark.parametrize("way", ["up", "down"])
def test_cut_at_every_byte_a_blob_resumes_where_it_was_accepted(way):
    lengths = 0
    for after in range(0, 2000, 1):
        world = _cut_run(way, after)
        if world is None:
            break
        lengths = after
        assert world.host.counters.sessions + world.device.counters.sessions >= 2
        for direction, blob in (("down", HEAD), ("up", UPDATE)):
            chunks = [chunk for to, chunk in world.chunks if to == direction]
            sent = sum(len(chunk.data) for chunk in chunks)
            # Sent again at most what was under way and not accepted: a window of chunks.
            assert len(blob) <= sent <= len(blob) + 4 * 110
    assert lengths > 500


def _resets(world: World, seed: int) -> Callable[[], None]:
    """Resets a side, or both, at random moments."""
    chance = random.Random(seed)

    def maybe() -> None:
        if chance.random() < 0.02:
            what = chance.choice(["host", "device", "line"])
            if what == "host":
                world.new_host()
            elif what == "device":
                world.new_device()
            else:
                world.disconnect()

    return maybe


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_resets_of_either_side_in_any_state_never_hang_a_round(seed):
    world = World(seed=seed, train_seconds=1.0)
    job = Round(world)
    reset = _resets(world, seed)
    for _ in range(1500):
        world.step()
        reset()
        if job.done:
            break
    world.run(lambda: job.done)
    assert job.result is not None and job.result.update == UPDATE
    assert len(world.committed) <= 1


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("side", ["host", "device", "both", "line"])
def test_a_reset_in_each_state(state, side):
    world = World()
    job = Round(world)
    world.run(until(world, state))
    if side in ("host", "both"):
        world.new_host()
    if side in ("device", "both"):
        world.new_device()
    if side == "line":
        world.disconnect()
    began = world.now
    world.run(lambda: job.done)
    assert job.result is not None and job.result.update == UPDATE
    assert world.now - began < 30
    assert world.committed in ([1], [])  # empty: the commit's device was reset, which costs one residual


def test_a_host_that_was_killed_takes_over_within_one_exchange():
    world = World()
    world.open()
    began = world.now
    world.new_host()
    world.host_events.clear()
    world.open()
    assert world.now - began < 0.1


# ---- hostile peers -----------------------------------------------------------------------------------


def _session_frame(world: World, side: str, message: bytes) -> bytes:
    """A sound frame from `side` with any message: what a peer that holds the session can send."""
    session = world.device._session if side == "device" else world.host._session
    assert session is not None
    return session.seal(message)


ANY_MESSAGE = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.builds(
        lambda m: encode(m),
        st.one_of(
            st.builds(Accept, st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.sampled_from(Verdict)),
            st.builds(
                Chunk, st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=40)
            ),
            st.builds(
                Offer, st.sampled_from([1, 2]), st.binary(min_size=8, max_size=8), st.integers(1, 1 << 20)
            ),
            st.builds(Error, st.integers(0, 255), st.integers(0, 2**32 - 1)),
            st.builds(
                Result,
                st.integers(0, 3),
                st.binary(min_size=8, max_size=8),
                st.integers(1, 1 << 20),
                *[st.integers(0, 9)] * 6,
            ),
        ),
    ),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), state=st.sampled_from(STATES[1:]), side=st.sampled_from(["host", "device"]))
def test_nothing_a_peer_says_does_more_than_end_the_session(data, state, side):
    world = World()
    job = Round(world)
    world.run(until(world, state))
    for _ in range(data.draw(st.integers(1, 6))):
        message = data.draw(ANY_MESSAGE)
        if (world.host if side == "device" else world.device)._session is None:
            break
        if side == "device" and world.device._session is not None:
            world.host.receive(_session_frame(world, side, message), world.now)
        elif side == "host" and world.host._session is not None:
            world.device.receive(_session_frame(world, side, message), world.now)
    assert len(world.host.data_to_send()) < 10_000 and len(world.device.data_to_send()) < 10_000
    world.flush()
    world.disconnect()
    job = Round(world, 9)
    world.run(lambda: job.done)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_are_stray_and_the_next_round_works(pieces):
    world = World()
    world.open()
    for piece in pieces:
        world.host.receive(piece, world.now)
        world.device.receive(piece, world.now)
    finished(world)
    assert world.host.counters.bytes_stray <= sum(map(len, pieces)) + 1100


def test_errors_about_errors_are_not_answered():
    world = World()
    world.open()
    world.flush()
    world.pipe.clear()
    for message in (b"\x82\x0e\x00", b"\x81\x0e"):
        world.host.receive(_session_frame(world, "device", message), world.now)
        world.device.receive(_session_frame(world, "host", message), world.now)
    assert world.device.data_to_send() == b""
    sent = [world.tap.read(p) for p in world.host.data_to_send().split(b"\0") if p]
    assert not any(isinstance(message, Error) for message in sent)


def test_unknown_messages_are_answered_with_unsupported_and_ignored():
    world = World()
    world.open()
    world.flush()
    world.host.receive(_session_frame(world, "device", b"\x82\x18\x40\x00"), world.now)
    world.device.receive(_session_frame(world, "host", b"\x82\x14\x00"), world.now)
    for end, kind in ((world.host, 0), (world.device, 20)):  # a type of two bytes is not told
        pieces = [piece for piece in end.data_to_send().split(b"\0") if piece]
        assert Error(StatusCode.UNSUPPORTED, kind) in [world.tap.read(piece) for piece in pieces]
    finished(world)


def test_the_hello_of_a_later_version_is_still_read():
    world = World()
    hello = Hello(9, b"device 2", b"nonce  2", "pi", 1, 128, 512)
    longer = bytes([0x80 | 10]) + encode(hello)[1:] + b"\xf5"
    world.host.receive(encode_frame(longer, direction=Direction.FROM_DEVICE), world.now)
    assert [type(e) for e in world.host.events()] == [ev.HelloSeen]
    assert FrameType.CLEAR == 0
