"""A Pico in rp2040js and an STM32F405 in whole runs, alone and beside others, their power cut in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kilofed.experiment import make_places
from kilofed.federation import federate, resume_or_create
from kilofed.fleet import Fleet
from kilofed.laboratory import Laboratory
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.rounds.records import RoundEnded, RoundStarted, RunEvent
from kilofed.samples import digits_model_path, digits_pool

CONFIG = RunConfig(rounds=3, epochs=2, personal_epochs=0, deadlines=Deadlines(gather=30, round=60, rejoin=20))


@pytest.mark.parametrize(
    "boards",
    [["pico"], ["pico", "microbit", "mps2-an386"], ["stm32f405"], ["stm32f405", "microbit", "mps2-an386"]],
    ids=["pico", "pico-and-qemu", "stm32f405", "stm32f405-and-others"],
)
def test_the_first_board_completes_every_round(tmp_path: Path, boards: list[str]) -> None:
    model = digits_model_path()
    places = make_places(digits_pool(), boards, samples=60)
    first = next(place.name for place in places if place.board == boards[0])
    run, _ = resume_or_create(tmp_path, config=CONFIG, model=model.read_bytes())
    with (
        run,
        Fleet(tmp_path / "fleet.sqlite") as fleet,
        Laboratory(
            tmp_path / "devices", places, model=model, fleet=fleet, seed=1, say=lambda text: None
        ) as laboratory,
    ):
        laboratory.prepare()
        ended: list[RoundEnded] = []

        def watch(event: RunEvent) -> None:
            if isinstance(event, RoundEnded):
                ended.append(event)
            elif isinstance(event, RoundStarted) and len(ended) == 1:
                laboratory.boards[first].restart()

        asyncio.run(
            federate(run, expected=len(places), ports=laboratory.ports, fleet=fleet, observers=[watch])
        )
        rounds = run.rounds()
        assert [len(record.taken) for record in rounds] == [len(places)] * CONFIG.rounds
        assert run.model_of(CONFIG.rounds) != model.read_bytes()
