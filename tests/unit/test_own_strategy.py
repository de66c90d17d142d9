"""A strategy of one's own: what it is given, what it may return, how it is named, what a run keeps of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.memory_fleet import MODEL, MemoryDevice, make_devices, model_bytes, serve

import kilofed
from kilofed.cli import run as command_line
from kilofed.errors import ConfigError, RunMismatchError
from kilofed.federation import engine_of, resume_or_create
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.rounds.globalmodel import GlobalModel
from kilofed.rounds.records import Ending, Kind, RoundRecord
from kilofed.rounds.strategy import load_strategy
from kilofed.store import Run, open_run
from kilofed_tools.errors import StrategyError
from kilofed_tools.strategies import (
    Contribution,
    FedAvg,
    FedAvgM,
    Gathered,
    Mean,
    ServerMomentum,
    Strategy,
    checked,
)
from kilofed_tools.trainer import BIAS_MAX, WEIGHT_MAX
from kilofed_tools.updates import Update, decode_update

ROOT = Path(__file__).resolve().parents[2]
CONFIG = RunConfig(
    rounds=4, epochs=2, personal_epochs=0, deadlines=Deadlines(gather=5.0, round=30.0, goodbye=1.0)
)
MOMENTUM = "kilofed_tools.strategies:FedAvgM"


def update(name: str, seed: int, classes: int = 3, features: int = 5) -> Update:
    rng = np.random.default_rng(seed)
    W = rng.integers(-9000, 9000, (classes, features), dtype=np.int32)
    return Update(name, W, rng.integers(-9000, 9000, classes, dtype=np.int32))


COHORT = [(update(f"dev-{n}", n), 10 + 7 * n) for n in range(4)]


class Weighted:
    """FedAvg again, as a strategy; notes what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[list[str], list[int], bytes]] = []

    def combine(self, contributions: Sequence[Contribution], state: bytes) -> tuple[Mean, bytes]:
        self.given.append(
            ([part.update.name for part in contributions], [part.samples for part in contributions], state)
        )
        average = FedAvg(*contributions[0].update.W.shape)
        for part in contributions:
            average.add(part.update, part.samples)
        return average.mean(), state + b"+"


def gathered(
    strategy: Strategy, cohort: Sequence[tuple[Update, int]] = COHORT, state: bytes = b""
) -> Gathered:
    average = Gathered(3, 5, strategy, "mine", state)
    for one, samples in cohort:
        average.add(one, samples)
    return average


# ---- what it is given, and what becomes of what it returns ------------------------------------------


def test_a_strategy_sees_all_updates_by_name_whatever_their_order() -> None:
    plain = FedAvg(3, 5)
    for one, samples in COHORT:
        plain.add(one, samples)
    for cohort in (COHORT, COHORT[::-1]):
        mine = Weighted()
        average = gathered(mine, cohort, b"s")
        mean = average.mean()
        assert mine.given == [(["dev-0", "dev-1", "dev-2", "dev-3"], [10, 17, 24, 31], b"s")]
        assert average.state == b"s+"
        assert (mean.W == plain.mean().W).all()
        assert (mean.b == plain.mean().b).all()
    left, right = gathered(Weighted(), COHORT[:1]), gathered(Weighted(), COHORT[1:])
    left.merge(right)
    assert (left.mean().W == plain.mean().W).all()
    with pytest.raises(StrategyError, match="has lost the updates"):
        left.merge(FedAvg(3, 5))


def test_what_fedavg_refuses_never_reaches_a_strategy() -> None:
    mine = Weighted()
    average = gathered(mine, COHORT[:1])
    with pytest.raises(StrategyError, match="contributed already"):
        average.add(*COHORT[0])
    with pytest.raises(StrategyError, match="weight 0"):
        average.add(COHORT[1][0], 0)
    assert average.add(COHORT[2][0], 5000, ring=80) == 80
    average.mean()
    assert mine.given[0][:2] == (["dev-0", "dev-2"], [10, 80])
    with pytest.raises(StrategyError, match="average of no updates"):
        Gathered(3, 5, mine, "mine", b"").mean()


class Returns:
    """Returns the same, or raises it."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def combine(self, contributions: Sequence[Contribution], state: bytes) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


def change(W: Any = None, b: Any = None) -> Mean:
    return Mean(
        np.zeros((3, 5), np.int64) if W is None else W, np.zeros(3, np.int64) if b is None else b
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (None, "the strategy mine returned NoneType: return (Mean, bytes)"),
        (change(), "the strategy mine returned Mean"),
        ((change(), "text"), "the strategy mine returned tuple"),
        ((None, b""), r"the strategy mine returned a change of (), ()"),
        ((change(W=np.zeros((5, 3), np.int64)), b""), "a change of (5, 3), (3,)"),
        ((change(b=np.zeros(5, np.int64)), b""), "a change of (3, 5), (5,)"),
        ((change(W=np.zeros((3, 5))), b""), "a change of float64, int64"),
        ((change(b=np.zeros(3, np.uint64)), b""), "a change of int64, uint64"),
        (ValueError("no\nmedian"), "the strategy mine failed (ValueError: no median): correct it"),
        (StrategyError("too few devices", "wait for more"), "too few devices: wait for more"),
    ],
)
def test_what_is_no_change_is_refused_and_nothing_moves(made: Any, words: str) -> None:
    average = gathered(Returns(made), state=b"before")
    with pytest.raises(StrategyError) as refused:
        average.mean()
    assert words in str(refused.value)
    assert average.state == b"before"


def test_any_integers_are_a_change_and_the_master_is_saturated() -> None:
    far = change(W=np.full((3, 5), 2**63 - 1, np.int64), b=np.full(3, -(2**63), np.int64))
    W, b = gathered(Returns((far, b""))).finish(np.zeros((3, 5), np.int32), np.zeros(3, np.int32))
    assert set(W.flat) == {WEIGHT_MAX}
    assert set(b.flat) == {-BIAS_MAX}
    small = change(W=np.full((3, 5), -3, np.int8), b=np.full(3, 200, np.uint8))
    W, b = gathered(Returns((small, b""))).finish(np.zeros((3, 5), np.int32), np.zeros(3, np.int32))
    assert (W == -3).all()
    assert (b == 200).all()


def test_momentum_is_server_momentum_carried_in_its_state() -> None:
    by_hand, state = ServerMomentum(0.7), b""
    for number in range(3):
        cohort = [(update(f"dev-{n}", 10 * number + n), 5 + n) for n in range(3)]
        plain = FedAvg(3, 5)
        for one, samples in cohort:
            plain.add(one, samples)
        average = gathered(FedAvgM(), cohort, state)
        got, expected = average.mean(), by_hand.step(plain.mean())
        assert (got.W == expected.W).all()
        assert (got.b == expected.b).all()
        state = average.state
        assert len(state) == 8 * 3 * 6
    with pytest.raises(StrategyError, match="a velocity of 143 bytes"):
        checked(FedAvgM(), "mine", [Contribution(*COHORT[0])], state[:-1])
    with pytest.raises(StrategyError, match=r"momentum of 1\.5"):
        FedAvgM(1.5)


# ---- by name ----------------------------------------------------------------------------------------

SOURCE = """
import numpy as np
from kilofed_tools.strategies import Mean

class First:
    def combine(self, contributions, state):
        one = contributions[0].update
        return Mean(one.W.astype(np.int64), one.b.astype(np.int64)), state

class Needy(First):
    def __init__(self, beta):
        pass

class Floats:
    def combine(self, contributions, state):
        return Mean(np.mean([c.update.W for c in contributions], axis=0), np.zeros(10, int)), state

class Pairs(First):
    def combine(self, contributions, state):
        contributions[1]
        return super().combine(contributions, state)

class Empty:
    pass

class Box:
    Inner = First

number = 7
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with own.py and broken.py in it."""
    (tmp_path / "own.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    path = sys.path[:]
    yield tmp_path
    assert sys.path == path, "loading left something on the path"
    for name in ("own", "broken"):
        sys.modules.pop(name, None)


def test_a_name_is_a_module_of_the_current_folder_or_an_installed_one(here: Path) -> None:
    assert load_strategy("fedavg", classes=10, features=32) is None
    for name in ("own:First", "own:Box.Inner"):
        assert type(load_strategy(name, classes=10, features=32)).__name__ == "First"
    assert isinstance(load_strategy(MOMENTUM, classes=10, features=32), FedAvgM)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("median", "strategy is 'median': give fedavg, or MODULE:FACTORY"),
        ("own.py:First!", "strategy is 'own.py:First!'"),
        ("../own:First", "strategy is '../own:First'"),
        ("", "strategy is ''"),
        (7, "strategy is 7"),
        ("absent:First", "absent cannot be imported (ModuleNotFoundError"),
        ("broken:First", "broken cannot be imported (ModuleNotFoundError: No module named 'no_such_module"),
        ("own:Last", "there is no Last in it"),
        ("own:number", "number cannot be called"),
        ("own:Needy", "cannot be made (TypeError"),
        ("own:Empty", "Empty has no combine(contributions, state)"),
        ("own:Floats", "tried with 1 devices: the strategy own:Floats returned a change of float64, int64"),
        ("own:Pairs", "tried with 1 devices: the strategy own:Pairs failed (IndexError"),
    ],
)
def test_what_cannot_be_used_is_said_before_a_run_begins(
    name: Any, words: str, here: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        resume_or_create(tmp_path / "run", config=RunConfig(strategy=name), model=model_bytes())
    assert words in str(refused.value)
    assert refused.value.setting == "strategy"
    assert not (tmp_path / "run").exists()


def test_the_command_line_and_a_settings_file_name_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run.toml").write_text('strategy = "own:Last"\n')
    for given in (["--strategy", "own:Last"], ["--config", "run.toml"]):
        status = command_line(["run", "--model", str(MODEL), "--port", "socket://127.0.0.1:9", *given])
        assert status == 1
        assert "error 510: the strategy own:Last: there is no Last in it" in capsys.readouterr().err


# ---- in a run ---------------------------------------------------------------------------------------


async def rounds(run: Run, devices: Sequence[MemoryDevice], until: int) -> GlobalModel:
    """Runs a run to round `until`, as federation.federate does but with devices in memory."""
    engine = engine_of(run)
    engine.config = replace(engine.config, rounds=until)
    tasks = [asyncio.ensure_future(serve(engine, device)) for device in devices]
    try:
        await asyncio.wait_for(engine.run(expected=len(devices)), 60)
    finally:
        await engine.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return engine.model


def by_hand(devices: Sequence[MemoryDevice], step: Callable[[Mean], Mean]) -> bytes:
    """The master after the rounds whose updates the devices sent, FedAvg's change going through `step`."""
    model = GlobalModel(model_bytes())
    for number in range(len(devices[0].sent)):
        average = FedAvg(model.classes, model.features)
        for device in devices:
            blob = device.sent[number]
            average.add(
                decode_update(blob, model.classes, model.features, device.id.hex()), device.holding.train
            )
        moved = step(average.mean())
        model.use(Returns((moved, b"")), "by hand")
        last = model.average()
        last.add(update("any", 1, model.classes, model.features), 1)
        model.apply(last)
    return model.master_blob()


async def test_a_run_with_a_strategy_goes_on_with_its_state_after_a_stop(tmp_path: Path) -> None:
    config = replace(CONFIG, strategy=MOMENTUM)
    devices = make_devices(3)
    states = []
    for until in (1, 3, 4):  # three processes, one after the other
        run, resumed = resume_or_create(tmp_path / "run", config=config, model=model_bytes())
        assert resumed == (until > 1)
        with run:
            model = await rounds(run, devices, until)
            states.append(run.strategy_state())
        assert model.strategy_state == states[-1]
    assert len(set(states)) == 3
    assert model.master_blob() == by_hand(devices, ServerMomentum(0.7).step)
    assert model.master_blob() != by_hand(devices, lambda mean: mean)
    with open_run(tmp_path / "run") as run:
        assert run.config.strategy == MOMENTUM


async def test_a_strategy_that_fails_ends_the_run_and_no_round_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(FedAvgM):
        def combine(self, contributions: Sequence[Contribution], state: bytes) -> tuple[Mean, bytes]:
            if contributions[0].update.name != "trial-0" and len(state) > 0:
                raise ZeroDivisionError("second round")
            return super().combine(contributions, state)

    monkeypatch.setattr(sys.modules[__name__], "Fails", Fails, raising=False)
    devices = make_devices(2)
    run, _ = resume_or_create(
        tmp_path / "run", config=replace(CONFIG, strategy=f"{__name__}:Fails"), model=model_bytes()
    )
    with run:
        with pytest.raises(StrategyError, match=r"Fails failed \(ZeroDivisionError: second round\)"):
            await rounds(run, devices, 4)
        assert run.last_round == 1
        state = run.strategy_state()
        # Mended, the run goes on from there.
        monkeypatch.setattr(sys.modules[__name__], "Fails", FedAvgM)
        model = await rounds(run, devices, 2)
        assert run.last_round == 2
        assert run.strategy_state() not in (b"", state)
    # Round 2 was trained once: what the devices had sent in vain was asked for again, not made again.
    assert [len(device.sent) for device in devices] == [2, 2]
    assert model.master_blob() == by_hand(devices, ServerMomentum(0.7).step)


def test_another_strategy_is_another_run(tmp_path: Path) -> None:
    with contextlib.closing(resume_or_create(tmp_path, config=CONFIG, model=model_bytes())[0]) as run:
        assert run.strategy_state() == b""
        record = RoundRecord(1, Kind.TRAIN, Ending.COMPLETE, 0.0, 0.0, "", ())
        run.commit(record, master=b"m", model=model_bytes())
    with pytest.raises(RunMismatchError, match="has strategy = fedavg, not kilofed_tools"):
        resume_or_create(tmp_path, config=replace(CONFIG, strategy=MOMENTUM), model=model_bytes())


def test_a_script_names_its_own_class_and_the_example_is_a_median(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kilofed.Strategy is Strategy
    monkeypatch.setattr(sys.modules["__main__"], "Weighted", Weighted, raising=False)
    assert isinstance(load_strategy("__main__:Weighted", classes=3, features=5), Weighted)
    monkeypatch.chdir(ROOT)
    found = load_strategy("tools.examples.median:Median", classes=3, features=5)
    assert found is not None
    got, _ = checked(found, "median", [Contribution(one, n) for one, n in COHORT], b"")
    for name in ("W", "b"):
        stack = np.sort(np.stack([getattr(one, name) for one, _ in COHORT]).astype(np.int64), axis=0)
        assert (getattr(got, name) == (stack[1] + stack[2] + 1) // 2).all(), "four devices: the middle of two"
