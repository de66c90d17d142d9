"""The watch over the arithmetic sees a host that counts wrongly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.faults.replay import changes, mean
from tests.faults.world import CONFIG, World

from kilofed_tools import strategies
from kilofed_tools.strategies import FedAvg, Update


def test_a_mean_by_hand() -> None:
    assert mean([([1, -3, 7], 1), ([4, -3, 0], 3)]) == [3, -3, 2]
    assert mean([([1, -1, 2], 1), ([2, -2, -1], 1)]) == [2, -1, 1], "halves up"
    int8 = bytes([1, 2, 1, 0, 2, 0, 1, 0, 3, 0, 0, 0, 5, 0, 0, 0, 0x7F, 0x81, 2, 0xFE])
    assert changes(int8, 2, 1) == [381, -381, 10, -10]


Add = Callable[..., int]


def heavier(add: Add) -> Add:
    @functools.wraps(add)
    def bent(self: FedAvg, update: Update, weight: int, ring: int | None = None) -> int:
        used = add(self, update, weight, ring)
        if update.name == "bert":
            self._W += update.W
            self._b += update.b
            self._total += 1
        return used

    return bent


@pytest.mark.parametrize("codec", ["int32", "int8"])
def test_a_host_that_weighs_one_device_by_one_sample_too_many_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    monkeypatch.setattr(FedAvg, "add", heavier(FedAvg.add))
    world = World(tmp_path, replace(CONFIG, rounds=2, codec=codec))
    world.natives()
    with pytest.raises(AssertionError, match="the model after round 1 is another"):
        world.run()


def test_a_host_that_rounds_halves_down_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the master alone: no int8 head needs to show it."""
    monkeypatch.setattr(strategies, "_divide_rounded", lambda v, d: -((-2 * v + d) // (2 * d)))
    world = World(tmp_path, replace(CONFIG, rounds=2, codec="int32"))
    world.natives(("anna", "bert"))
    with pytest.raises(AssertionError, match="is another"):
        world.run()
