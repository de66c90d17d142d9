"""Emulated boards whose serial lines have a seeded pipe in them."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.chaos.pipe import Medium, Pipe
from tests.faults.proxy import Hook, Piece
from tests.faults.world import CONFIG, DEADLINES, World

from kilofed.boards.build import TOOLS
from kilofed.boards.players import QEMU

BOARDS = ("microbit", "mps2-an386")
missing = [tool for tool in (*TOOLS, QEMU) if shutil.which(tool) is None]


class Through:
    """A proxy's hook that sends each direction through a pipe. Time is the real line's: only faults count."""

    def __init__(self, medium: Medium, seed: int) -> None:
        self._pipes = {up: Pipe(medium, seed=seed + up) for up in (False, True)}
        self.harmed = 0

    def __call__(self, piece: Piece) -> bytes:
        pipe = self._pipes[piece.up]
        pipe.send(piece.data, 0.0)
        arrived = pipe.take(math.inf)
        self.harmed += arrived != piece.data
        return arrived


@pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
@pytest.mark.emulated
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_of_boards_on_bad_lines_is_that_of_boards_on_good_ones(tmp_path: Path, seed: int) -> None:
    """A bit in ten thousand flips, a frame in fifty is lost, one comes twice: no byte of the run changes."""
    config = replace(CONFIG, deadlines=replace(DEADLINES, gather=60, head=20, round=40, rejoin=20))
    exported = []
    for medium in (Medium(), Medium(flip=1e-4, drop=0.02, repeat=0.02, noise=0.02)):
        world = World(tmp_path / str(len(exported)), config)
        hooks: list[Through] = []
        for number, board in enumerate(BOARDS):
            hooks.append(Through(medium, 10 * seed + 2 * number))
            hook: Hook = hooks[-1]
            world.emulated(board, board).proxy.hook = hook
        outcome = world.run()
        outcome.holds()
        assert not outcome.dropped()
        assert (sum(hook.harmed for hook in hooks) > 0) == (medium != Medium())
        exported.append(outcome.exported)
    assert exported[0] == exported[1]
