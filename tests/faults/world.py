"""A run over devices that are mistreated, and what every case of the matrix is held to.

world = World(tmp_path, config)
anna = world.native("anna")
anna.proxy.hook = ...                        what happens to its line
outcome = world.run(when(RoundStarted, 2, anna.kill))
outcome.holds()                              the four sentences of this folder
"""

from __future__ import annotations

import asyncio
import functools
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.devices import Emulated, Native, Victim
from tests.faults.replay import replay, updates

from kilofed.cli import run as kilofed
from kilofed.federation import federate, resume_or_create
from kilofed.fleet import Device, Fleet
from kilofed.report import Report, report
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.rounds.records import DeviceDropped, Note, RoundEnded, RoundRecord, RoundStarted, RunEvent
from kilofed.samples import Samples, deal, digits_model_path, digits_pool
from kilofed.store import open_run

DEADLINES = Deadlines(gather=30.0, head=4.0, round=12.0, rejoin=1.0, goodbye=2.0)
CONFIG = RunConfig(rounds=3, epochs=2, personal_epochs=0, deadlines=DEADLINES)
SAMPLES = 60
NAMES = ("anna", "bert", "carl")
SLACK = 2.0  # seconds in which a loaded machine may notice that a deadline has passed
HANG = 100.0  # seconds after which a whole run is given up

Act = Callable[[RunEvent], None]
Guest = Callable[[int], Awaitable[None]]


@functools.cache
def shards(count: int, samples: int) -> tuple[Samples, ...]:
    """What devices hold, in the order they were made."""
    return tuple(deal(digits_pool(), [samples] * count, seed=5))


@dataclass
class World:
    """A folder, a configuration, and devices; `native` and `emulated` add one.

    clear: processes have no key, and the host takes sessions in the clear.
    """

    folder: Path
    config: RunConfig = CONFIG
    samples: int = SAMPLES
    guests_known: Sequence[Device] = ()
    clear: bool = False
    victims: list[Victim] = field(default_factory=list)
    events: list[RunEvent] = field(default_factory=list)

    @property
    def run_folder(self) -> Path:
        """Where the run lies."""
        return self.folder / "run"

    def _shard(self) -> Samples:
        return shards(16, self.samples)[len(self.victims)]

    def native(self, name: str, *options: str) -> Native:
        """Adds a process."""
        victim = Native(self.folder / "devices", name, self._shard(), options=options)
        if self.clear:
            victim.unlock()
        self.victims.append(victim)
        return victim

    def natives(self, names: Sequence[str] = NAMES, *options: str) -> list[Native]:
        """Adds several."""
        return [self.native(name, *options) for name in names]

    def emulated(self, name: str, board: str) -> Emulated:
        """Adds a board."""
        victim = Emulated(self.folder / "devices", name, board, self._shard())
        self.victims.append(victim)
        return victim

    def run(self, *acts: Act, expected: int | None = None, guests: Sequence[Guest] = ()) -> Outcome:
        """Runs to the end. acts: see every event. guests: further devices, called with the host's port.

        TimeoutError when it hangs, AssertionError when a device crashed. What the run raises is raised; the
        folder can be looked at afterwards.
        """
        asyncio.run(asyncio.wait_for(self._run(acts, expected, guests), HANG))
        return self.outcome()

    def outcome(self) -> Outcome:
        """What the folder says now."""
        with open_run(self.run_folder) as run:
            rounds = run.rounds()
            notes = [note.text for note in run.notes()]
            exported = replay(run)
            sent = {(number, name): update for number, name, update in updates(run)}
        return Outcome(self.config, rounds, notes, exported, sent, self.events, report(self.run_folder))

    async def _run(self, acts: Sequence[Act], expected: int | None, guests: Sequence[Guest]) -> None:
        run, _ = resume_or_create(self.run_folder, config=self.config, model=digits_model_path().read_bytes())
        helpers: list[asyncio.Future[None]] = []

        def observe(event: RunEvent) -> None:
            self.events.append(event)
            for act in acts:
                act(event)

        def listening(port: int) -> None:
            for victim in self.victims:
                if not victim.emulated:
                    victim.proxy.target = ("127.0.0.1", port)
                    victim.start()
            helpers.extend(asyncio.ensure_future(visit(port)) for visit in guests)

        async with AsyncExitStack() as stack:
            stack.enter_context(run)
            fleet = stack.enter_context(Fleet(self.folder / "fleet.sqlite"))
            for guest in self.guests_known:
                fleet.add(guest, replace=True)
            for victim in self.victims:
                victim.register(fleet)
                stack.callback(victim.close)
                await stack.enter_async_context(victim.proxy)
                if victim.emulated:
                    victim.start()
            try:
                await federate(
                    run,
                    expected=len(self.victims) if expected is None else expected,
                    ports=[victim.url for victim in self.victims if isinstance(victim, Emulated)],
                    listen=("127.0.0.1", 0),
                    on_listening=listening,
                    fleet=fleet,
                    insecure=self.clear,
                    observers=[observe],
                )
            finally:
                for helper in helpers:
                    helper.cancel()
                problems = await asyncio.gather(*helpers, return_exceptions=True)
                for victim in self.victims:
                    victim.check()
        for problem in problems:
            if isinstance(problem, Exception):
                raise problem


@dataclass(frozen=True)
class Outcome:
    """What a run left. sent: (round, device) -> the update that counted. exported: the model after each."""

    config: RunConfig
    rounds: list[RoundRecord]
    notes: list[str]
    exported: list[bytes]
    sent: dict[tuple[int, str], bytes]
    events: list[RunEvent]
    report: Report

    def dropped(self) -> dict[tuple[int, str], str]:
        """(round, device) -> why it did not count, from the store."""
        return {(r.number, d.name): d.reason for r in self.rounds for d in r.dropped}

    def holds(self) -> None:
        """What must hold whatever happened. (That each aggregate follows from its updates, `replay` saw.)"""
        assert [r.number for r in self.rounds] == list(range(1, self.config.rounds + 1))
        ended = [e.record.number for e in self.events if isinstance(e, RoundEnded)]
        assert ended == [r.number for r in self.rounds]
        for record in self.rounds:
            assert record.seconds < self.config.deadlines.round + SLACK, f"round {record.number} hung"
            assert record.taken
        told = {(e.number, e.name): e.reason for e in self.events if isinstance(e, DeviceDropped)}
        shown = {
            (row["round"], dropped["device"]): dropped["reason"]
            for row in self.report["round_table"]
            for dropped in row["dropped"]
        }
        assert self.dropped() == told == shown, "the store, the log and the report name the same"
        assert all(self.dropped().values()), "and say why"

    def note(self, *words: str) -> str:
        """The one kind of note that holds all these words; AssertionError when there is none."""
        found = [note for note in self.notes if all(word in note for word in words)]
        assert found, f"no note with {words} among {self.notes}"
        assert any(isinstance(e, Note) and e.text == found[0] for e in self.events), "displays see it too"
        assert any(found[0] in line for line in self.report["notes"]), "and the report has it"
        return found[0]


def when(kind: type[RoundStarted] | type[RoundEnded], number: int, act: Callable[[], None]) -> Act:
    """Does `act` once, when round `number` starts or ends."""

    def look(event: RunEvent) -> None:
        if isinstance(event, kind):
            at = event.record.number if isinstance(event, RoundEnded) else event.number
            if at == number:
                act()

    return look


@functools.cache
def undisturbed(
    config: RunConfig = CONFIG, names: tuple[str, ...] = NAMES, *options: str, samples: int = SAMPLES
) -> Outcome:
    """The run of these devices when nothing happens to them."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), config, samples)
        world.natives(names, *options)
        outcome = world.run()
    outcome.holds()
    assert not outcome.dropped()
    return outcome


def same_contributions(outcome: Outcome, other: Outcome, names: Sequence[str], rounds: Sequence[int]) -> None:
    """These devices sent the same bytes in these rounds of both runs."""
    for number in rounds:
        for name in names:
            assert outcome.sent[number, name] == other.sent[number, name], f"{name} in round {number}"


def report_json(folder: Path, capture: Callable[[], str]) -> Report:
    """What `kilofed report --json` prints."""
    assert kilofed(["report", str(folder), "--json"]) == 0
    printed: Report = json.loads(capture())
    return printed
