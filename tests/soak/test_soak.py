"""The soak itself, for a few seconds; `make soak` runs it for half an hour."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.soak.soak import Soak, SoakFailed, Summary

from kilofed.store import open_run


@pytest.mark.slow
def test_a_short_soak_holds_and_counts_what_it_did(tmp_path: Path) -> None:
    summary = asyncio.run(Soak(tmp_path, seed=4, seconds=9.0, boards=False, devices=9).run())
    assert summary.rounds >= 1
    assert summary.taken >= summary.rounds
    assert summary.faults.total() >= 3
    with open_run(tmp_path / "run") as run:
        assert run.last_round >= summary.rounds


@pytest.mark.parametrize("hidden", [False, True])
def test_a_device_that_ends_by_itself_ends_the_soak(tmp_path: Path, hidden: bool) -> None:
    """hidden: a reset follows before anybody looks."""
    soak = Soak(tmp_path, seed=6, seconds=20.0, boards=False, devices=7)
    victim = soak.victims[-1]

    async def crashed() -> None:
        soaking = asyncio.ensure_future(soak.run())
        while not victim.pid:
            await asyncio.sleep(0.01)
        os.kill(victim.pid, signal.SIGSEGV)
        while victim.pid:
            await asyncio.sleep(0.01)
        victim.pause()  # by chance, just then: stops nobody else
        if hidden:
            victim.restart()
        await soaking

    with pytest.raises(AssertionError, match=f"{victim.name} ended by itself"):
        asyncio.run(crashed())


def test_growing_memory_is_seen_and_flat_memory_is_not() -> None:
    flat = Summary(resident=[(float(at), 50_000_000 + at) for at in range(300)])
    leaking = Summary(resident=[(float(at), 50_000_000 + 50_000 * at) for at in range(300)])
    assert flat.growth() == pytest.approx(1.0, abs=0.001)
    assert (leaking.growth() or 0) > 1.05
    assert Summary(resident=[(1.0, 1)]).growth() is None


def test_a_wrong_aggregate_is_seen(tmp_path: Path) -> None:
    """A stored update that is not the one that was counted."""
    soak = Soak(tmp_path, seed=5, seconds=3.0, boards=False, devices=7)
    asyncio.run(soak.run())
    with open_run(tmp_path / "run", write=True) as run:
        part = run.rounds()[0].taken[0]
        assert part.update is not None
        bent = bytearray(part.update)
        bent[16:80] = bytes([127]) * 64
        run._db.execute(
            "UPDATE round_devices SET update_blob = ? WHERE number = 1 AND device = ?",
            (bytes(bent), part.device),
        )
    soak._replay = None
    with pytest.raises((SoakFailed, AssertionError), match="the model after round 1 is another"):
        soak._look()
