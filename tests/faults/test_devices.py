"""Devices that die, hang, come back, or are slow: the real core as a process, and boards in QEMU."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.faults.devices import Victim
from tests.faults.proxy import Hook, Piece
from tests.faults.world import CONFIG, DEADLINES, NAMES, World, same_contributions, undisturbed, when

from kilofed.boards.build import TOOLS
from kilofed.boards.players import QEMU
from kilofed.link.messages import State, Status
from kilofed.rounds.records import Ending, RoundStarted

#: Updates in full: a power cut costs no residual, so that a run with power cuts can be compared to the bit.
EXACT = replace(CONFIG, codec="int32")
PATIENT = replace(EXACT, deadlines=replace(DEADLINES, rejoin=10.0))
#: So that a head and an update are several chunks.
SMALL = ("--max-frame", "128")


def training(piece: Piece) -> bool:
    return isinstance(piece.message, Status) and piece.message.state is State.TRAINING


#: Where in a round it happens: the first piece of round 2 that ...
STAGES: dict[str, Callable[[Piece], bool]] = {
    "download": lambda piece: piece.kind == "chunk" and not piece.up,
    "order": lambda piece: piece.kind == "train",
    "training": training,
    "upload": lambda piece: piece.kind == "chunk" and piece.up,
    "commit": lambda piece: piece.kind == "commit",
}


def at_stage(stage: str, world: World, act: Callable[[], None]) -> Hook:
    """Does `act` once, at this stage of round 2, and loses the piece."""
    done = False

    def hook(piece: Piece) -> bytes:
        nonlocal done
        begun = any(isinstance(e, RoundStarted) and e.number == 2 for e in world.events)
        if begun and not done and STAGES[stage](piece):
            done = True
            act()
            return b""
        return piece.data

    return hook


def later(seconds: float, act: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, act)


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_device_that_is_reset_in_mid_round_counts_as_if_nothing_had_been(
    tmp_path: Path, stage: str
) -> None:
    world = World(tmp_path, PATIENT)
    victim = world.natives(NAMES, *SMALL)[1]
    resets: list[int] = []

    def reset() -> None:
        resets.append(victim.pid)
        victim.kill()
        later(0.2, victim.start)

    victim.proxy.hook = at_stage(stage, world, reset)
    outcome = world.run()
    outcome.holds()
    assert len(resets) == 1, "the fault happened"
    assert not outcome.dropped()
    assert outcome.exported == undisturbed(PATIENT, NAMES, *SMALL).exported


@pytest.mark.parametrize("stage", ["download", "training", "upload"])
def test_a_device_that_dies_in_mid_round_costs_its_own_contribution(tmp_path: Path, stage: str) -> None:
    world = World(tmp_path, EXACT)
    victim = world.natives(NAMES, *SMALL)[1]
    victim.proxy.hook = at_stage(stage, world, victim.kill)
    outcome = world.run()
    outcome.holds()
    (((number, name), reason),) = outcome.dropped().items()
    assert (number, name) == (2, "bert")
    assert reason.startswith("lost its session (")
    assert reason.endswith("was not back within 1 s")
    assert [len(r.devices) for r in outcome.rounds] == [3, 3, 2], "the next round does not wait for it"
    whole = undisturbed(EXACT, NAMES, *SMALL)
    same_contributions(outcome, whole, NAMES, [1])
    same_contributions(outcome, whole, ["anna", "carl"], [2])


def test_a_device_that_hangs_for_a_while_counts(tmp_path: Path) -> None:
    world = World(tmp_path)
    victim = world.natives()[0]

    def hang() -> None:
        victim.pause()
        later(2.5, victim.resume)

    victim.proxy.hook = at_stage("training", world, hang)
    outcome = world.run()
    outcome.holds()
    assert not outcome.dropped()
    assert outcome.rounds[1].seconds > 2, "it hung"
    assert outcome.exported == undisturbed().exported


def test_a_device_that_hangs_for_good_is_named_and_left_behind(tmp_path: Path) -> None:
    world = World(tmp_path)
    victim = world.natives()[0]
    victim.proxy.hook = at_stage("training", world, victim.pause)
    outcome = world.run()
    outcome.holds()
    assert outcome.dropped() == {
        (2, "anna"): "lost its session (the device is silent) and was not back within 1 s"
    }
    same_contributions(outcome, undisturbed(), ["bert", "carl"], [1, 2])


def test_a_device_that_takes_no_head_is_left_behind(tmp_path: Path) -> None:
    world = World(tmp_path, replace(CONFIG, rounds=2, deadlines=replace(DEADLINES, head=1.5)))
    victim = world.natives()[2]
    victim.proxy.hook = lambda piece: b"" if piece.kind == "chunk" and not piece.up else piece.data
    outcome = world.run()
    outcome.holds()
    assert outcome.dropped() == {(number, "carl"): "did not take the head within 1.5 s" for number in (1, 2)}
    same_contributions(outcome, undisturbed(), ["anna", "bert"], [1])


@pytest.mark.parametrize("seed", [1, 2])
def test_resets_at_random_moments_change_no_byte(tmp_path: Path, seed: int) -> None:
    config = replace(PATIENT, rounds=12)
    world = World(tmp_path, config)
    victims = world.natives()
    chance = random.Random(seed)
    resets = 0

    def maybe(victim: Victim) -> Hook:
        def hook(piece: Piece) -> bytes:
            nonlocal resets
            if resets < 8 and victim.pid and chance.random() < 0.03:
                resets += 1
                victim.kill()
                later(chance.random() / 3, victim.start)
                return b""
            return piece.data

        return hook

    for victim in victims:
        victim.proxy.hook = maybe(victim)
    outcome = world.run()
    outcome.holds()
    assert resets >= 4, f"seed {seed} resets too seldom"
    assert not outcome.dropped()
    assert outcome.exported == undisturbed(config).exported


SLOWER = 20  # times, of a straggler
WINDOW = 0.003  # seconds it runs at once: a small part of a training, so that none fits a few of them


async def crawl(victim: Victim) -> None:
    """Lets a process run a twentieth of the time, however late this task is woken.

    The window blocks the loop: a loop that is busy would end it late, and a training may fit a late one.
    """
    clock = asyncio.get_running_loop().time
    try:
        while True:
            victim.resume()
            begun = clock()
            time.sleep(WINDOW)
            victim.pause()
            await asyncio.sleep((SLOWER - 1) * (clock() - begun))
    finally:
        victim.resume()


SLOW = replace(CONFIG, rounds=2, epochs=255, batch=1)
MANY = 110  # samples, for trainings of ten windows and more


def test_a_straggler_twenty_times_slower_is_waited_for_when_all_are_wanted(tmp_path: Path) -> None:
    world = World(tmp_path, SLOW, MANY)
    straggler = world.natives()[1]
    outcome = world.run(guests=[lambda port: crawl(straggler)])
    outcome.holds()
    assert not outcome.dropped()
    assert [r.ended for r in outcome.rounds] == [Ending.COMPLETE] * 2
    # By the fastest of the others: a loaded machine makes a straggler of any, but not of all.
    took: Counter[str] = Counter()
    for record in outcome.rounds:
        took.update({d.name: d.elapsed_ms for d in record.taken})
    assert took.pop("bert") >= 2 * min(took.values()), "it was one"
    assert outcome.exported == undisturbed(SLOW, samples=MANY).exported


def test_a_straggler_twenty_times_slower_does_not_hold_up_a_quorum(tmp_path: Path) -> None:
    """With half of the samples: were it not slow, it would be the first to answer."""
    config = replace(SLOW, rounds=3, quorum=0.6)
    world = World(tmp_path, config, MANY)
    straggler = world.natives()[1]
    straggler.samples = straggler.samples.take(np.arange(MANY // 2))
    outcome = world.run(guests=[lambda port: crawl(straggler)])
    outcome.holds()
    assert [r.ended for r in outcome.rounds] == [Ending.QUORUM] * 3
    assert outcome.dropped() == {
        (number, "bert"): "had not answered when the quorum was reached" for number in (1, 2, 3)
    }
    same_contributions(outcome, undisturbed(SLOW, samples=MANY), ["anna", "carl"], [1])


# ---- boards --------------------------------------------------------------------------------------

missing = [tool for tool in (*TOOLS, QEMU) if shutil.which(tool) is None]
boards = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@boards
@pytest.mark.emulated
def test_boards_that_are_reset_and_hang_and_die(tmp_path: Path) -> None:
    """Three boards, a fault each, in one run: reset in mid-upload, hung for a while, dead in mid-training."""
    config = replace(CONFIG, rounds=4, deadlines=replace(DEADLINES, gather=60, head=20, round=40, rejoin=5))
    world = World(tmp_path, config)
    reset = world.emulated("reset", "microbit")
    hung = world.emulated("hung", "mps2-an386")
    dead = world.emulated("dead", "mps2-an385")
    happened: list[str] = []

    def power_cycle() -> None:
        happened.append("reset")
        reset.restart()

    def hang() -> None:
        happened.append("hung")
        hung.pause()
        later(2.0, hung.resume)

    def die() -> None:
        happened.append("dead")
        dead.kill()

    reset.proxy.hook = at_stage("upload", world, power_cycle)
    hung.proxy.hook = at_stage("training", world, hang)
    dead.proxy.hook = at_stage("training", world, die)
    outcome = world.run(when(RoundStarted, 4, dead.start))
    outcome.holds()
    assert sorted(happened) == ["dead", "hung", "reset"]
    assert {key for key in outcome.dropped() if key[0] < 4} == {(2, "dead")}
    assert "was not back within 5 s" in outcome.dropped()[2, "dead"]
    assert {d.name for d in outcome.rounds[1].taken} == {"reset", "hung"}
