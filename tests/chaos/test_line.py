"""Host and device over a line of the pipe's: Python's device and the C core, encrypted."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chaos import cuts
from tests.chaos.line import Job, Line
from tests.chaos.pipe import Medium
from tests.chaos.rounds import (
    SMALL,
    WIDE,
    Maker,
    Runner,
    any_medium,
    core_device,
    head,
    order,
    play,
    python_device,
    serial,
)

from kilofed.link import events as ev
from kilofed.link.messages import Busy, Hello

Device = Callable[..., Maker]


@pytest.mark.parametrize(
    ("baud", "frame", "window", "least"),
    [(115200, 128, 512, 0.90), (115200, 1024, 4096, 0.95), (921600, 1024, 4096, 0.95)],
)
def test_a_serial_line_is_full_in_spite_of_a_slow_turn_around(
    device: Device, baud: int, frame: int, window: int, least: float
) -> None:
    """50 kB each way, with 16 ms of USB adapter behind every byte that comes up."""
    line = play(device(WIDE, max_frame=frame, window=window), *serial(baud), size=WIDE)
    assert line.flows["down"].utilisation >= least and line.flows["up"].utilisation >= least
    assert line.flows["down"].with_its_offer >= least
    assert line.host.counters.retries == 0
    assert sum(len(chunk.data) for chunk in line.chunks("down")) == len(head(WIDE))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("frame", "window"), [(128, 512), (1024, 4096)])
def test_a_bit_in_ten_thousand_and_a_frame_in_a_hundred(
    device: Device, frame: int, window: int, seed: int
) -> None:
    """Of frames of 1024 bytes more than half is lost. Every round is completed."""
    bad = serial(115200, flip=1e-4, drop=0.01)
    for size, rounds in ((SMALL, 5), (WIDE, 1)):
        line = play(device(size, max_frame=frame, window=window), *bad, size=size, rounds=rounds, seed=seed)
        assert line.host.counters.damaged > 0 or size == SMALL


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_line_delays_a_round_and_changes_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    frame = chance.choice([72, 128, 300, 1024])
    maker = python_device(SMALL, max_frame=frame, window=chance.choice([128, 512, 4096]), seed=seed)
    play(maker, any_medium(chance), any_medium(chance), size=SMALL, rounds=2, seed=seed, seconds=5000)


@pytest.mark.parametrize("seed", range(40))
def test_any_line_does_as_little_to_the_c_core(runner: Runner, seed: int) -> None:
    chance = random.Random(seed)
    frame = chance.choice([72, 128, 300, 1024])
    maker = core_device(runner, SMALL, max_frame=frame, window=chance.choice([128, 512, 4096]))
    play(maker, any_medium(chance), any_medium(chance), size=SMALL, rounds=2, seed=seed, seconds=5000)


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_cable_pulled_at_a_byte_sends_nothing_again_that_was_accepted(device: Device, way: str) -> None:
    """Some of the thousand offsets of `python -m tests.chaos.cuts`."""
    maker = device(WIDE)
    for after in cuts.offsets(maker, way, 12, random.Random(way)):
        cuts.cut(maker, way, after)


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_line_that_is_half_open_ends_the_session_and_the_round_goes_on(device: Device, way: str) -> None:
    """One direction is dead for 20 s, in the middle of the head, and nobody is told."""
    far, update = device(WIDE)()
    line = Line(far, *serial(115200))
    job = Job(line, head(WIDE), order(WIDE))
    line.run(lambda: len(line.chunks("down")) > 20)
    line.pipes[way].silent = True
    silent = line.now
    line.run(lambda: line.now > silent + 20)
    assert any(isinstance(event, ev.Lost) for event in line.events), "within three heartbeats"
    assert not job.done
    line.pipes[way].silent = False
    line.run(lambda: job.done, seconds=60)
    assert job.result is not None and job.result.update == update
    assert line.sent_again("down") == 0


def test_a_host_that_is_killed_is_followed_by_one_that_goes_on(device: Device) -> None:
    far, update = device(WIDE)()
    line = Line(far, *serial(115200))
    for amount in (5, 20, 35):
        Job(line, head(WIDE), order(WIDE))
        line.run(lambda amount=amount: len(line.chunks("down")) > amount)
        line.kill_host()
    assert line.round(head(WIDE), order(WIDE)) == update
    assert line.sent_again("down") == 0


def test_a_slow_line_is_learnt(device: Device) -> None:
    """At 38400 baud half a window takes 0.53 s and a whole one 1.07 s: longer than is waited at first."""
    line = play(device(WIDE), *serial(38400), size=WIDE)
    again = sum(len(chunk.data) for chunk in line.chunks("down")) - len(head(WIDE))
    assert again <= 2 * 4096, "the first windows at most"
    assert line.host.counters.sessions == 1


def test_a_device_that_sleeps_is_left_alone_and_goes_on(device: Device) -> None:
    """For half a minute, five times as long as a session lasts without a word."""
    far, update = device(WIDE)()
    line = Line(far, *serial(115200))
    job = Job(line, head(WIDE), order(WIDE))
    line.run(lambda: len(line.chunks("down")) > 20)
    far.busy(30_000)
    line.run(lambda: any(isinstance(said.message, Busy) for said in line.said))
    asleep = line.now
    line.run(lambda: line.now > asleep + 0.2)  # what was under way arrives
    line.pipes["down"].silent = line.pipes["up"].silent = True
    line.run(lambda: line.now > asleep + 29)
    late = [said for said in line.said if asleep + 0.05 < said.at < asleep + 29]
    assert not any(said.way == "down" for said in late), "nothing is asked of it"
    assert not any(isinstance(said.message, Hello) for said in late), "it keeps its session"
    line.pipes["down"].silent = line.pipes["up"].silent = False
    line.run(lambda: job.done, seconds=60)
    assert job.result is not None and job.result.update == update
    assert line.host.counters.sessions == 1 and line.sent_again("down") == 0


def test_what_a_broker_may_reorder_is_put_right(device: Device) -> None:
    line = play(device(WIDE), Medium(reorder=0.1), Medium(reorder=0.1), size=WIDE)
    assert line.host.counters.damaged > 0, "a number that is not above the last one is of no frame"
