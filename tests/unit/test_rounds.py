"""The round engine against devices in memory: what counts, what does not, and what a round leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.memory_fleet import Fault, MemoryDevice, make_devices, model_bytes, pipe, serve

from kilofed.connection import Connection
from kilofed.errors import FleetMissingError, RoundsFailedError
from kilofed.fleet import REFUSED_UNKNOWN, Device, Fleet
from kilofed.link.messages import Reason
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.rounds.engine import PEER_NOTES, Engine, Ledger
from kilofed.rounds.globalmodel import GlobalModel, round_on_wire
from kilofed.rounds.records import (
    DeviceChanged,
    DeviceDropped,
    DeviceRow,
    Ending,
    Kind,
    Note,
    Phase,
    RoundEnded,
    RoundRecord,
    RoundStarted,
    RunEnded,
    RunEvent,
    RunStarted,
)
from kilofed.store import create_run, open_run
from kilofed_tools import heads
from kilofed_tools.updates import decode_update

QUICK = Deadlines(gather=3.0, head=2.0, round=20.0, rejoin=1.0, goodbye=1.0)
CONFIG = RunConfig(rounds=2, epochs=2, personal_epochs=0, deadlines=QUICK)


@dataclass
class MemoryLedger:
    """A ledger in lists; `before_commit` is called with each record before it is taken."""

    records: list[RoundRecord] = field(default_factory=list)
    masters: list[bytes | None] = field(default_factory=list)
    models: list[bytes | None] = field(default_factory=list)
    devices: dict[str, DeviceRow] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    before_commit: Callable[[RoundRecord], None] = lambda record: None

    def commit(
        self, record: RoundRecord, *, master: bytes | None, model: bytes | None, state: bytes = b""
    ) -> None:
        self.before_commit(record)
        self.records.append(record)
        self.masters.append(master)
        self.models.append(model)

    def put_device(self, row: DeviceRow) -> None:
        self.devices[row.device] = row

    def note(self, text: str, *, device: str = "") -> None:
        self.notes.append(text)


@dataclass
class Outcome:
    """What a run left."""

    engine: Engine
    ledger: Any
    events: list[RunEvent]

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of one class."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def master(self) -> bytes:
        return self.engine.model.master_blob()


@contextlib.asynccontextmanager
async def served(engine: Engine, devices: Sequence[MemoryDevice]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(serve(engine, device)) for device in devices]
    try:
        yield
    finally:
        await engine.close()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def federate(
    devices: Sequence[MemoryDevice],
    config: RunConfig = CONFIG,
    *,
    ledger: Ledger | None = None,
    expected: int | None = None,
    model: GlobalModel | None = None,
    **options: Any,
) -> Outcome:
    ledger = ledger or MemoryLedger()
    events: list[RunEvent] = []
    engine = Engine(config, model or GlobalModel(model_bytes()), ledger, observers=[events.append], **options)
    async with served(engine, devices):
        await asyncio.wait_for(
            engine.run(expected=len(devices) if expected is None else expected), timeout=60
        )
    return Outcome(engine, ledger, events)


def by_hand(devices: Sequence[MemoryDevice], rounds: int) -> bytes:
    """The master after averaging, round by round, what the devices say they sent."""
    model = GlobalModel(model_bytes())
    for number in range(rounds):
        average = model.average()
        for device in devices:
            blob = device.sent[number]
            update = decode_update(blob, model.classes, model.features, device.id.hex())
            average.add(update, device.holding.train)
        model.apply(average)
    return model.master_blob()


# ---- rounds that go well -------------------------------------------------------------------------


async def test_rounds_average_what_devices_sent_to_the_bit() -> None:
    devices = make_devices(4)
    outcome = await federate(devices)
    assert outcome.master == by_hand(devices, 2) == outcome.ledger.masters[-1]
    assert outcome.master != GlobalModel(model_bytes()).master_blob()
    assert [(r.number, r.kind, r.ended) for r in outcome.ledger.records] == [
        (1, Kind.TRAIN, Ending.COMPLETE),
        (2, Kind.TRAIN, Ending.COMPLETE),
    ]
    assert all(len(r.taken) == 4 and not r.dropped for r in outcome.ledger.records)
    exported = outcome.ledger.models[-1]
    assert exported is not None
    assert heads.encode_head(heads.read_head(exported)) == outcome.engine.model.head_blob()
    assert heads.backbone_hash(exported) == heads.backbone_hash(model_bytes())


async def test_devices_learn() -> None:
    outcome = await federate(make_devices(4, samples=100), replace(CONFIG, rounds=6, epochs=4))
    first, last = outcome.ledger.records[0], outcome.ledger.records[-1]
    assert first.base_accuracy is not None
    assert last.base_accuracy is not None
    assert last.base_accuracy > 0.9 > first.base_accuracy


async def test_the_order_of_arrival_changes_no_bit() -> None:
    masters = []
    for delays in ([0.0, 0.05, 0.1, 0.15], [0.15, 0.1, 0.05, 0.0]):
        devices = make_devices(4)
        for device, delay in zip(devices, delays, strict=True):
            device.delay = delay
        masters.append((await federate(devices)).master)
    assert masters[0] == masters[1]


async def test_a_record_has_every_devices_figures() -> None:
    devices = make_devices(3)
    outcome = await federate(devices)
    for record in outcome.ledger.records:
        for part in record.devices:
            device = next(d for d in devices if d.id.hex() == part.device)
            assert (part.samples, part.held_out) == (32, 8)
            assert part.update == device.sent[record.number - 1]
            assert part.elapsed_ms == 7
            assert part.loss is not None
            assert part.loss > 0
            # an int8 update and head of 10 x 32 are 346 and 376 bytes; frames and messages come on top
            assert 346 < part.bytes_up < 800
            assert 376 < part.bytes_down < 900
            assert part.retries == 0


async def test_what_a_device_is_told_depends_on_seed_round_and_device() -> None:
    devices = make_devices(2)
    await federate(devices, replace(CONFIG, seed=9, prox=0.125, codec="int4"), tag=1000)
    first, second = devices[0].orders, devices[1].orders
    assert [o.round for o in first] == [1001, 1002]
    assert len({o.seed for o in first + second}) == 4
    assert {(o.epochs, o.batch, o.codec, o.flags) for o in first} == {(2, 16, 2, 0)}
    assert first[0].prox.value == pytest.approx(0.1 * 0.125, rel=1e-4)
    assert first[0].lr_bias.value == pytest.approx(0.1 * 32, rel=1e-4)


async def test_a_device_hears_of_its_acceptance_after_the_ledger_has_it() -> None:
    devices = make_devices(3)
    seen: list[int] = []

    def before_commit(record: RoundRecord) -> None:
        seen.append(sum(len(d.committed) for d in devices))

    await federate(devices, ledger=MemoryLedger(before_commit=before_commit))
    assert seen == [0, 3]
    assert all([verdict for _, verdict in d.committed] == [0, 0] for d in devices)


async def test_no_commit_leaves_for_a_device_before_the_ledger_has_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of the host's own steps, which devices that hear of them later cannot tell."""
    steps: list[tuple[str, int]] = []
    say = Connection.commit

    def said(line: Connection, round: int, verdict: int = 0) -> None:
        steps.append(("told", round))
        say(line, round, verdict)

    class Stepping(MemoryLedger):
        def commit(self, record: RoundRecord, **parts: Any) -> None:
            super().commit(record, **parts)
            steps.append(("kept", record.number))

    monkeypatch.setattr(Connection, "commit", said)
    await federate(make_devices(3), ledger=Stepping())
    assert steps == [(what, n) for n in (1, 2) for what in ("kept", "told", "told", "told")]


async def test_a_personal_round_changes_no_master() -> None:
    devices = make_devices(3)
    outcome = await federate(devices, replace(CONFIG, personal_epochs=7))
    assert outcome.master == by_hand(devices, 2)
    last = outcome.ledger.records[-1]
    assert (last.kind, last.number, outcome.ledger.masters[-1]) == (Kind.PERSONAL, 2, None)
    assert all(p.update is None and p.taken for p in last.devices)
    assert {(o.epochs, o.flags, o.round) for d in devices for o in d.orders[2:]} == {
        (7, 1, round_on_wire(0, 2, Kind.PERSONAL))
    }
    assert last.own_accuracy is not None


async def test_a_fraction_asks_some_and_not_always_the_same() -> None:
    devices = make_devices(5)
    outcome = await federate(devices, replace(CONFIG, rounds=6, fraction=0.4))
    cohorts = [{p.name for p in r.devices} for r in outcome.ledger.records]
    assert all(len(c) == 2 for c in cohorts)
    assert len(set().union(*cohorts)) > 2


async def test_events_tell_the_whole_story() -> None:
    outcome = await federate(make_devices(2))
    assert isinstance(outcome.events[0], RunStarted)
    assert len(outcome.of(RunEnded)) == 1
    assert [e.record.number for e in outcome.of(RoundEnded)] == [1, 2]
    phases = [e.view.phase for e in outcome.of(DeviceChanged)]
    assert {Phase.RECEIVING, Phase.TRAINING, Phase.DONE} <= set(phases)


async def test_the_test_set_is_measured_once_a_round() -> None:
    values = iter([0.25, 0.75])
    outcome = await federate(make_devices(2), measure=lambda model: next(values))
    assert [r.accuracy for r in outcome.ledger.records] == [0.25, 0.75]


async def test_a_device_that_still_collects_is_waited_for() -> None:
    devices = make_devices(2)
    slow = make_devices(3)[2]
    slow = MemoryDevice(slow.id, slow.x, slow.y, slow.model, collecting=True)
    asyncio.get_running_loop().call_later(0.3, slow.finish_collecting)
    outcome = await federate([*devices, slow])
    assert [len(r.taken) for r in outcome.ledger.records] == [3, 3]


# ---- devices that do not do their part -----------------------------------------------------------


async def test_a_silent_device_costs_its_own_contribution_only() -> None:
    devices = make_devices(3)
    devices[1].fault = Fault(frozenset({1}), silent=True)
    outcome = await federate(devices, replace(CONFIG, deadlines=replace(QUICK, round=0.6)))
    first, second = outcome.ledger.records
    assert (first.ended, second.ended) == (Ending.DEADLINE, Ending.COMPLETE)
    assert [(d.device, d.reason) for d in first.dropped] == [
        (devices[1].id.hex(), "had not answered after 1 s")
    ]
    assert devices[1].cancelled == [1]
    assert len(second.taken) == 3
    assert [(e.number, e.name) for e in outcome.of(DeviceDropped)] == [(1, devices[1].id.hex())]


async def test_a_quorum_ends_the_round_and_names_who_was_late() -> None:
    devices = make_devices(4)
    devices[3].fault = Fault(silent=True)
    outcome = await federate(devices, replace(CONFIG, quorum=0.75))
    for record in outcome.ledger.records:
        assert record.ended is Ending.QUORUM
        assert [d.reason for d in record.dropped] == ["had not answered when the quorum was reached"]
    assert outcome.master == by_hand(devices[:3], 2)


@pytest.mark.parametrize(
    ("config", "ended", "when"),
    [
        (replace(CONFIG, rounds=1, quorum=0.75), Ending.QUORUM, "when the quorum was reached"),
        (replace(CONFIG, rounds=1, deadlines=replace(QUICK, round=1.0)), Ending.DEADLINE, "after 1 s"),
    ],
)
async def test_who_lost_its_session_is_not_called_late(config: RunConfig, ended: Ending, when: str) -> None:
    """Though its time to come back is not over, and it could."""
    devices = make_devices(4)
    devices[3].fault = Fault(vanish=True, stay_away=True)
    for device in devices[:3]:
        device.delay = 0.3
    outcome = await federate(devices, replace(config, deadlines=replace(config.deadlines, rejoin=10.0)))
    (record,) = outcome.ledger.records
    assert record.ended is ended
    (dropped,) = record.dropped
    assert dropped.reason.startswith("lost its session (")
    assert dropped.reason.endswith(f") and was not back {when}")


async def test_a_device_that_comes_back_in_time_counts() -> None:
    devices = make_devices(3)
    devices[0].fault = Fault(frozenset({1}), vanish=True)
    outcome = await federate(devices)
    assert [len(r.taken) for r in outcome.ledger.records] == [3, 3]
    assert len(devices[0].orders) in (2, 3)


@pytest.mark.parametrize("moment", [RoundStarted, RoundEnded])
async def test_a_session_that_ends_just_before_a_command_ends_no_run(moment: type[RunEvent]) -> None:
    """The link knows of the end and the round does not yet: `Lost` waits behind what is being handled."""
    devices = make_devices(3)
    ledger = MemoryLedger()
    config = replace(CONFIG, deadlines=replace(QUICK, head=10, rejoin=10))
    engine = Engine(config, GlobalModel(model_bytes()), ledger, observers=[lambda event: cut(event)])
    cuts: list[str] = []

    def lose() -> None:
        line = engine.members[0].line
        assert line is not None
        line.endpoint.disconnected("cut")
        cuts.append(engine.members[0].name)

    def cut(event: RunEvent) -> None:
        if moment is RoundStarted and isinstance(event, RoundStarted) and event.number == 2:
            lose()

    def before_commit(record: RoundRecord) -> None:
        if moment is RoundEnded and record.number == 1:
            lose()

    ledger.before_commit = before_commit
    async with served(engine, devices):
        await asyncio.wait_for(engine.run(expected=3), timeout=60)
    assert cuts == [devices[0].id.hex()]
    assert [len(r.taken) for r in ledger.records] == [3, 3]
    assert ledger.masters[-1] == by_hand(devices, 2)


async def test_a_device_that_stays_away_is_waited_for_once() -> None:
    devices = make_devices(3)
    devices[0].fault = Fault(vanish=True, stay_away=True)
    outcome = await federate(devices, replace(CONFIG, deadlines=replace(QUICK, rejoin=0.4)))
    first, second = outcome.ledger.records
    assert first.ended is Ending.COMPLETE
    assert [d.device for d in first.dropped] == [devices[0].id.hex()]
    assert first.dropped[0].reason.startswith("lost its session (")
    assert first.dropped[0].reason.endswith("was not back within 0.4 s")
    assert 0.3 < first.seconds < 3
    assert len(second.devices) == 2
    assert second.seconds < 0.4


async def test_who_leaves_for_good_and_who_returns_is_noted_once() -> None:
    devices = make_devices(3)
    devices[0].fault = Fault(vanish=True, stay_away=True)
    for device in devices[1:]:
        device.delay = 0.1
    config = replace(CONFIG, rounds=8, deadlines=replace(QUICK, rejoin=0.2))
    ledger = MemoryLedger()
    engine = Engine(config, GlobalModel(model_bytes()), ledger)
    again: list[asyncio.Future[None]] = []

    def come_back(record: RoundRecord) -> None:
        if record.number == 3:
            devices[0].fault = None
            again.append(asyncio.ensure_future(serve(engine, devices[0])))

    ledger.before_commit = come_back
    async with served(engine, devices):
        await asyncio.wait_for(engine.run(expected=3), timeout=60)
        again[0].cancel()
    first = next(r.number for r in ledger.records[3:] if len(r.devices) == 3)
    assert [note for note in ledger.notes if "rounds from 2 on do not wait for it" in note]
    assert [note for note in ledger.notes if note == f"is back, and takes part from round {first} on"]
    assert len([note for note in ledger.notes if "stays away" in note or "is back" in note]) == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(train=0), "trained on no samples"),
        (Fault(held_out=2000), "claims 2000 held-out samples in a ring of 1000"),
        (Fault(own_correct=9), "claims 9 right answers of 8"),
        (Fault(no_update=True), "sent no update"),
        (Fault(codec=0), "an update of 1336 bytes"),
        (Fault(update=b"\x01\x02" + bytes(344)), "codec|head of|steps"),
        (Fault(update=bytes(346)), "blob version 0"),
        (Fault(error=2), "too little memory"),
    ],
)
async def test_a_device_that_lies_is_named_and_left_out(fault: Fault, reason: str) -> None:
    devices = make_devices(3)
    devices[2].fault = fault
    outcome = await federate(devices, replace(CONFIG, rounds=1))
    (record,) = outcome.ledger.records
    assert record.ended is Ending.COMPLETE
    assert [d.device for d in record.dropped] == [devices[2].id.hex()]
    assert any(part in record.dropped[0].reason for part in reason.split("|")), record.dropped[0].reason
    assert outcome.master == by_hand(devices[:2], 1)
    assert all(verdict != 0 for _, verdict in devices[2].committed)


async def test_a_sample_count_is_clamped_to_the_ring() -> None:
    honest, liar = make_devices(2)
    small = MemoryDevice(liar.id, liar.x, liar.y, liar.model, fault=Fault(train=60_000), capacity=50)
    outcome = await federate([honest, small], replace(CONFIG, rounds=1))
    part = next(p for p in outcome.ledger.records[0].devices if p.device == small.id.hex())
    assert part.samples == 50
    assert any("claims 60000 samples, clamped to its ring of 50" in note for note in outcome.ledger.notes)


async def test_a_device_with_another_model_takes_no_part() -> None:
    devices = make_devices(3)
    other = bytearray(model_bytes())
    spec = heads.find_head(bytes(other))
    other[spec.places["weights"][0]] ^= 1
    stranger = MemoryDevice(devices[2].id, devices[2].x, devices[2].y, bytes(other))
    outcome = await federate([*devices[:2], stranger])
    assert [len(r.devices) for r in outcome.ledger.records] == [2, 2]
    assert not stranger.orders
    assert any("flash it with this run's model" in note for note in outcome.ledger.notes)
    excluded = [e.view for e in outcome.of(DeviceChanged) if e.view.device == stranger.id.hex()]
    assert excluded[-1].phase is Phase.EXCLUDED


KEY = bytes(range(5, 37))


@pytest.mark.parametrize(
    ("held", "insecure", "said"),
    [
        (None, False, "it has no key, and this run takes encrypted sessions only"),
        (None, True, "its session is in the clear: anybody on the line can read"),
        (bytes(range(32)), False, "anna does not take the key this host has for it"),
        (KEY, False, ""),
    ],
)
async def test_who_does_not_hold_the_key_is_let_in_with_insecure_only(
    tmp_path: Path, held: bytes | None, insecure: bool, said: str
) -> None:
    first, second = make_devices(2)
    anna = MemoryDevice(first.id, first.x, first.y, first.model, key=held)
    bert = MemoryDevice(second.id, second.x, second.y, second.model, key=KEY)
    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        fleet.add(Device(anna.id, "anna", "memory", KEY, 0.0))
        fleet.add(Device(bert.id, "bert", "memory", KEY, 0.0))
        config = replace(CONFIG, deadlines=replace(QUICK, gather=6.0))
        outcome = await federate([anna, bert], config, fleet=fleet, insecure=insecure)
        assert fleet.find("bert").encrypted is True
    notes = [n.text for n in outcome.of(Note)]
    if said:
        assert sum(said in note for note in notes) == 1, notes
    comes = insecure or held == KEY
    wanted = [["anna", "bert"] if comes else ["bert"]] * len(outcome.ledger.records)
    assert [[p.name for p in r.devices] for r in outcome.ledger.records] == wanted
    assert bool(anna.orders) == comes
    assert not any(KEY.hex() in note or repr(KEY) in note for note in notes)


async def test_a_new_key_makes_the_old_one_void_once_it_was_used(tmp_path: Path) -> None:
    first, second = make_devices(2)
    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        for device in (first, second):
            fleet.add(Device(device.id, device.id.hex()[:12], "memory", KEY, 0.0))
        new = fleet.rotate(first.id.hex()).next_key
        assert new is not None and new != KEY and fleet.keys(first.id) == (new, KEY)
        old = MemoryDevice(second.id, second.x, second.y, second.model, key=KEY)
        fresh = MemoryDevice(first.id, first.x, first.y, first.model, key=new)
        outcome = await federate([fresh, old], CONFIG, fleet=fleet)
        assert fleet.keys(first.id) == (new,)
    assert any("uses its new key" in n.text for n in outcome.of(Note))


async def test_strangers_are_turned_away_once_and_named(tmp_path: Path) -> None:
    known, stranger = make_devices(2)
    known = MemoryDevice(known.id, known.x, known.y, known.model, key=KEY)
    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        fleet.add(Device(known.id, "anna", "memory", KEY, 0.0))
        outcome = await federate(
            [known, stranger],
            replace(CONFIG, deadlines=replace(QUICK, gather=0.5)),
            fleet=fleet,
        )
        assert fleet.find("anna").last_seen is not None
        assert fleet.find("anna").encrypted is True
    assert [[p.name for p in r.devices] for r in outcome.ledger.records] == [["anna"], ["anna"]]
    turned_away = [n.text for n in outcome.of(Note) if "turned away" in n.text]
    assert len(turned_away) == 1
    assert stranger.id.hex() in turned_away[0]
    assert not stranger.orders


async def test_a_revoked_device_is_turned_away_as_one(tmp_path: Path) -> None:
    known, gone = (MemoryDevice(d.id, d.x, d.y, d.model, key=KEY) for d in make_devices(2))
    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        fleet.add(Device(known.id, "anna", "memory", KEY, 0.0))
        fleet.add(Device(gone.id, "bert", "pi", KEY, 0.0))
        fleet.revoke("bert")
        outcome = await federate(
            [known, gone], replace(CONFIG, deadlines=replace(QUICK, gather=0.5)), fleet=fleet
        )
    (said,) = [n.text for n in outcome.of(Note) if "turned away" in n.text]
    assert gone.id.hex() in said
    assert "bert is revoked: `kilofed pi --name bert --replace` lets it in again" in said


async def test_rounds_without_any_update_end_the_run_with_reasons() -> None:
    devices = make_devices(2)
    for device in devices:
        device.fault = Fault(no_update=True)
    ledger = MemoryLedger()
    with pytest.raises(RoundsFailedError, match="3 rounds in a row brought no usable update") as caught:
        await federate(devices, ledger=ledger)
    assert ledger.records == []
    assert set(caught.value.reasons) == {d.id.hex() for d in devices}
    assert "sent no update" in str(caught.value)


async def test_no_device_at_all_is_an_error_after_the_gather_deadline() -> None:
    with pytest.raises(FleetMissingError, match="0 of 2 devices came") as caught:
        await federate([], replace(CONFIG, deadlines=replace(QUICK, gather=0.2)), expected=2)
    assert (caught.value.present, caught.value.wanted) == (0, 2)


async def test_a_silent_line_is_named_long_before_the_gather_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kilofed.rounds.engine.SILENT_SECONDS", 0.05)
    ledger = MemoryLedger()
    engine = Engine(replace(CONFIG, deadlines=QUICK), GlobalModel(model_bytes()), ledger)
    near, _far = pipe("a blank board")
    async with served(engine, make_devices(1)), Connection(engine.endpoint(), near) as silent:
        engine.attach(silent)
        running = asyncio.ensure_future(engine.run(expected=2))
        while not any("a blank board: nothing answers yet; waiting" in note for note in ledger.notes):
            assert not running.done(), "it was to be said while the run still waits"
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_a_device_repeats_is_stored_once() -> None:
    ledger = MemoryLedger()
    told: list[DeviceRow] = []
    put = ledger.put_device

    def count(row: DeviceRow) -> None:
        told.append(row)
        put(row)

    ledger.put_device = count  # type: ignore[method-assign]
    device = make_devices(1)[0]
    engine = Engine(replace(CONFIG, rounds=1), GlobalModel(model_bytes()), ledger)
    async with served(engine, [device]):
        await engine.run(expected=1)
        member = engine.members[0]
        for _ in range(5):
            engine._remember(member)
        assert len(told) == 1
        assert member.info is not None
        member.info = replace(member.info, train=member.info.train + 1)
        engine._remember(member)
    assert [row.samples for row in told] == [told[0].samples, told[0].samples + 1]


async def test_missing_devices_are_noted_and_may_join_later() -> None:
    devices = make_devices(3)
    ledger = MemoryLedger()
    config = replace(CONFIG, rounds=4, deadlines=replace(QUICK, gather=0.3))
    engine = Engine(config, GlobalModel(model_bytes()), ledger)
    async with served(engine, devices[:2]):
        late = asyncio.ensure_future(asyncio.sleep(0))

        def join(record: RoundRecord) -> None:
            nonlocal late
            if record.number == 1:
                late = asyncio.ensure_future(serve(engine, devices[2]))

        ledger.before_commit = join
        for device in devices[:2]:
            device.delay = 0.1
        await engine.run(expected=3)
        late.cancel()
    assert any("1 of 3 devices did not come" in note for note in ledger.notes)
    assert len(ledger.records[0].devices) == 2
    assert len(ledger.records[-1].taken) == 3


# ---- stopping and going on -----------------------------------------------------------------------


async def test_a_resumed_run_ends_like_one_that_was_never_stopped(tmp_path: Path) -> None:
    config = replace(CONFIG, rounds=4, codec="ternary")
    straight = await federate(make_devices(3), config, tag=77)

    devices = make_devices(3)
    run = create_run(tmp_path / "run", config=config, model=model_bytes(), model_hash="")
    with run:
        run._put_meta({"tag": "77"})
        engine = Engine(config, GlobalModel(model_bytes()), run, tag=77)
        stop = asyncio.Event()

        def watch(event: RunEvent) -> None:
            if isinstance(event, RoundEnded) and event.record.number == 2:
                stop.set()

        engine._observers = (watch,)
        async with served(engine, devices):
            running = asyncio.ensure_future(engine.run(expected=3))
            await asyncio.wait_for(stop.wait(), 30)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    with open_run(tmp_path / "run", write=True) as run:
        state = run.master()
        assert state is not None
        assert state[0] == run.last_round == 2
        settled = [d.device for d in run.rounds()[-1].taken]
        engine = Engine(
            config, GlobalModel(model_bytes(), state[1]), run, done=2, tag=run.tag, settled=settled
        )
        async with served(engine, devices):
            await engine.run(expected=3)
        assert [r.number for r in run.rounds()] == [1, 2, 3, 4]
        assert engine.model.master_blob() == straight.master
        model = run.model_path.read_bytes()
        assert heads.encode_head(heads.read_head(model)) == straight.engine.model.head_blob()


async def test_a_host_killed_before_it_could_say_so_still_settles_the_round() -> None:
    devices = make_devices(2)
    first = MemoryLedger()
    config = replace(CONFIG, rounds=1)
    engine = Engine(config, GlobalModel(model_bytes()), first, tag=50)

    class Killed(Exception):
        pass

    def die(record: RoundRecord) -> None:
        first.records.append(record)
        first.masters.append(engine.model.master_blob())
        raise Killed

    first.before_commit = die
    async with served(engine, devices):
        with pytest.raises(Killed):
            await engine.run(expected=2)
    assert all(d.committed == [] for d in devices)

    config = replace(CONFIG, rounds=2)
    master = first.masters[0]
    assert master is not None
    outcome = await federate(
        devices,
        config,
        model=GlobalModel(model_bytes(), master),
        done=1,
        tag=50,
        settled=[p.device for p in first.records[0].taken],
    )
    assert [d.committed for d in devices] == [[(51, 0), (52, 0)]] * 2
    assert outcome.master == by_hand(devices, 2)


async def test_a_killed_host_fetches_results_that_wait_instead_of_training_again() -> None:
    devices = make_devices(2)
    config = replace(CONFIG, rounds=1)
    engine = Engine(config, GlobalModel(model_bytes()), MemoryLedger(), tag=9)
    async with served(engine, devices):
        running = asyncio.ensure_future(engine.run(expected=2))
        while not all(d.sent for d in devices):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    outcome = await federate(devices, config, tag=9)
    assert [len(d.sent) for d in devices] == [1, 1], "each trained once"
    assert outcome.master == by_hand(devices, 1)


async def test_a_result_left_over_from_another_run_is_not_taken() -> None:
    devices = make_devices(2)
    config = replace(CONFIG, rounds=1)
    engine = Engine(config, GlobalModel(model_bytes()), MemoryLedger(), tag=9)
    async with served(engine, devices):
        running = asyncio.ensure_future(engine.run(expected=2))
        while not all(d.sent for d in devices):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    outcome = await federate(devices, replace(config, seed=2), tag=40_000)
    assert [len(d.sent) for d in devices] == [2, 2]
    assert {p.update for p in outcome.ledger.records[0].devices} == {d.sent[1] for d in devices}


async def test_bytes_before_the_first_frame_are_noted_and_harmless() -> None:
    devices = make_devices(2)
    devices[0].endpoint._out += b"boot 0.1.0\r\n\x00\xff\xfe noise\x00"
    outcome = await federate(devices)
    assert [len(r.taken) for r in outcome.ledger.records] == [2, 2]
    assert any("boot 0.1.0" in note for note in outcome.ledger.notes)


async def test_noise_and_strangers_hide_no_other_kind_of_note() -> None:
    """Each kind has an end of its own, and says when it is reached."""
    ledger = MemoryLedger()
    engine = Engine(CONFIG, GlobalModel(model_bytes()), ledger)
    devices = make_devices(1)
    async with served(engine, devices):
        while not engine.members:
            await asyncio.sleep(0)
        hello = engine.members[0].hello
        assert hello is not None
        for number in range(200):
            engine.remark(f"remark {number}")
            engine._peer_note("stray bytes", f"noise {number}")
            made_up = replace(hello, device_id=number.to_bytes(8, "big"))
            engine._hello(made_up, REFUSED_UNKNOWN)
        engine._hello(hello, Reason.TWIN)
        engine._unproven(hello.device_id)
        engine._tell_gone(7, {})
        engine.members[0].open = False
        engine._tell_gone(8, {})
    for kind in ("remark ", "noise ", "it is not registered"):
        assert sum(kind in note for note in ledger.notes) == PEER_NOTES
    assert sum("are not noted" in note for note in ledger.notes) == 3
    assert sum(map(len, engine._turned_away.values())) <= PEER_NOTES + 2, "memory has an end, too"
    for kind in ("another line has a session", "does not take the key", "rounds from 8 on do not wait"):
        assert sum(kind in note for note in ledger.notes) == 1


def test_wire_numbers_of_runs_and_kinds_do_not_meet() -> None:
    assert round_on_wire(65_535, 1, Kind.TRAIN) == 0
    train = {round_on_wire(123, n, Kind.TRAIN) for n in range(1, 10_001)}
    personal = {round_on_wire(123, n, Kind.PERSONAL) for n in range(1, 10_001)}
    assert len(train) == len(personal) == 10_000
    assert not train & personal


def test_a_model_without_calibration_is_refused() -> None:
    from kilofed_tools.errors import ModelContractError
    from kilofed_tools.metadata import HEAD, write_metadata

    with pytest.raises(ModelContractError, match="kilofed convert"):
        GlobalModel(write_metadata(model_bytes(), HEAD, None))


def test_a_master_blob_brings_back_the_same_model() -> None:
    model = GlobalModel(model_bytes())
    rng = np.random.default_rng(5)
    model._weights = rng.integers(-(1 << 22), 1 << 22, model._weights.shape).astype(np.int32)
    model._bias = rng.integers(-(1 << 28), 1 << 28, model._bias.shape).astype(np.int32)
    again = GlobalModel(model_bytes(), model.master_blob())
    assert np.array_equal(again.master()[0], model._weights)
    assert np.array_equal(again.master()[1], model._bias)


@pytest.mark.parametrize(("devices", "seconds"), [(6, 2.0), (1000, 2.0), (5000, 10.0), (100_000, 30.0)])
async def test_a_large_fleet_has_a_longer_heartbeat(devices: int, seconds: float) -> None:
    config = RunConfig(rounds=1, personal_epochs=0, deadlines=Deadlines(gather=0.01))
    engine = Engine(config, GlobalModel(model_bytes()), MemoryLedger())
    with pytest.raises(FleetMissingError):
        await engine.run(expected=devices)
    assert engine.heartbeat == seconds
