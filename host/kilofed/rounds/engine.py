"""The round engine: who is asked, what comes back, when a round is over, and what it leaves.

    engine = Engine(config, model, run, fleet=fleet)
    async with Connection.serial(url, endpoint=engine.endpoint()) as line:
        engine.attach(line)
        await engine.run(expected=1)

A round sends the head to its cohort, orders training, adds up what comes, and ends

    complete   when everybody asked has answered or was dropped for a reason of its own,
    quorum     when enough have answered,
    deadline   when time is up.

A device that vanishes, lies or stays silent costs its own contribution and nothing else. The round is in the
ledger before any device is told that its update was taken: a host killed in between costs those devices one
residual, and never counts an update twice.

One event loop, no threads; nothing here prints.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from kilofed.errors import FleetMissingError, RoundsFailedError
from kilofed.fleet import REFUSED_UNKNOWN, WELCOME, Fleet, again
from kilofed.link.events import HelloSeen, InfoChanged, Malformed, Opened, Stray, Unproven
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import FLAG_NO_ENTROPY, PROTOCOL_VERSION, Hello, Info, Reason
from kilofed.rounds.answers import Checked, check_figures, take_update
from kilofed.rounds.config import RunConfig, cohort_order
from kilofed.rounds.globalmodel import GlobalModel, round_on_wire
from kilofed.rounds.member import Assignment, Line, Member, Traffic
from kilofed.rounds.records import (
    DeviceChanged,
    DeviceDropped,
    DeviceRound,
    DeviceRow,
    Ending,
    Kind,
    Note,
    RoundEnded,
    RoundRecord,
    RoundStarted,
    RunEnded,
    RunEvent,
    RunStarted,
)
from kilofed_tools import heads
from kilofed_tools.errors import KilofedError
from kilofed_tools.strategies import FedAvg

STRAY_NOTES = 20  # a line may write so many notes of boot text, noise and nonsense
PEER_NOTES = 60  # of a kind, and all lines together: whoever connects again begins a new line
STRAY_BYTES = 120  # of each
SILENT_SECONDS = 5.0  # of gathering, after which it is said who is still silent
TOLD_AT_ONCE = 256  # devices that head and order are on their way to, and commits said in one go
LOOK_SECONDS = (
    50e-6  # a device: looking at all of them takes a fiftieth of it each, and may not fill the time
)
PINGS_A_SECOND = 500  # of all devices together, while nothing happens
HEARTBEAT = (2.0, 30.0)  # shortest and longest, seconds
KEEP_UPDATES = 65_536  # parameters up to which a round's update blobs are kept in the ledger


class Ledger(Protocol):
    """Where rounds are kept.

    Kilofed.store.Run, or a list in a test. `commit` returns when the round is safe. state: of the strategy.
    """

    def commit(
        self, record: RoundRecord, *, master: bytes | None, model: bytes | None, state: bytes = b""
    ) -> None: ...

    def put_device(self, row: DeviceRow) -> None: ...

    def note(self, text: str, *, device: str = "") -> None: ...


class Engine:
    """Runs the rounds of one run over the lines attached to it.

    config: the settings. model: the head to start from; changed by every training round. ledger: where rounds
    go. done, tag: of the ledger's run: rounds that are committed, and the run's number on the wire. settled:
    hex ids of the devices whose answer was in the last committed round (they may still wait to hear of it).
    fleet: who is let in, and whose keys are known; None lets everybody in, in the clear. anybody: let devices
    in that are not registered. insecure: let sessions be in the clear, for the bench. measure: accuracy of
    the model on a test set of the laboratory. observers: called with every RunEvent, in order; they must not
    block.
    """

    def __init__(
        self,
        config: RunConfig,
        model: GlobalModel,
        ledger: Ledger,
        *,
        done: int = 0,
        tag: int = 0,
        settled: Sequence[str] = (),
        fleet: Fleet | None = None,
        anybody: bool = False,
        insecure: bool = False,
        measure: Callable[[GlobalModel], float] | None = None,
        observers: Sequence[Callable[[RunEvent], None]] = (),
    ) -> None:
        self.config = config
        self.model = model
        self.done = done
        self._ledger = ledger
        self._tag = tag
        self._settled = frozenset(settled)
        self._fleet = fleet
        self._anybody = anybody or fleet is None
        self._insecure = insecure or fleet is None
        self._measure = measure
        self._observers = tuple(observers)
        self._members: dict[bytes, Member] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._touched: dict[Member, None] = {}  # who said something since the round looked, in that order
        self._expected = 0
        self._failure: BaseException | None = None
        self._marks: dict[bytes, Traffic] = {}
        self._turned_away: dict[int, set[bytes]] = {}  # for each reason, who was told
        self._doubted: set[bytes] = set()  # devices that do not take the key we have
        self._warned: set[tuple[bytes, str]] = set()  # what was said of how a device speaks
        self._unheard: set[Line] = set()  # lines on which no device has answered
        self._peer_notes: Counter[str] = Counter()  # of each kind
        self._gone: set[Member] = set()  # whom rounds do not wait for until they come back
        self._remembered: dict[bytes, DeviceRow] = {}  # what the ledger was last told of a device

    # ---- lines -----------------------------------------------------------------------------------

    def endpoint(self) -> HostEndpoint:
        """A protocol endpoint for a new line, which asks this engine whom to let in."""
        endpoint = HostEndpoint(
            rng=os.urandom,
            admit=lambda hello: self.admit(hello, endpoint),
            keys=lambda device_id: () if self._fleet is None else self._fleet.keys(device_id),
            insecure=self._insecure,
            heartbeat=self.heartbeat,
        )
        return endpoint

    @property
    def heartbeat(self) -> float:
        """Of a session that begins now, seconds: longer for a large fleet, so that idling costs little."""
        devices = max(self._expected, len(self._members))
        return min(max(HEARTBEAT[0], devices / PINGS_A_SECOND), HEARTBEAT[1])

    def admit(self, hello: Hello, endpoint: HostEndpoint | None = None) -> int:
        """0 for a device that may take part, else the reason it is refused for.

        endpoint: of the line that said hello. An id that has a session on another line is refused: who came
        first keeps the name, until its line falls silent.
        """
        refused = WELCOME if self._fleet is None else self._fleet.admit(hello)
        if refused and self._anybody and self._fleet is not None and not self._fleet.get(hello.device_id):
            refused = WELCOME
        return refused or (Reason.TWIN if self._is_twin(hello.device_id, endpoint) else WELCOME)

    def _is_twin(self, device_id: bytes, endpoint: HostEndpoint | None) -> bool:
        member = self._members.get(device_id)
        if endpoint is None or member is None or not member.open or member.line is None:
            return False
        return member.line.endpoint is not endpoint

    def attach(self, line: Line) -> None:
        """Serves a line in a task, until it ends or the engine is closed.

        The caller opened it and closes it. What the task dies of, `run` raises.
        """
        task = asyncio.get_running_loop().create_task(self.serve(line), name=f"line {line.name}")
        self._tasks.add(task)
        task.add_done_callback(self._line_done)

    def fail(self, error: BaseException) -> None:
        """Ends `run` with this error: of a line that is served by somebody else's task."""
        self._failure = self._failure or error
        self._changed.set()

    def remark(self, text: str) -> None:
        """Notes something about the lines, for the run's notes and whoever watches."""
        self._peer_note("remarks", text)

    @property
    def members(self) -> list[Member]:
        """Every device seen so far, by name."""
        return sorted(self._members.values(), key=lambda m: (m.name, m.id))

    async def close(self) -> None:
        """Stops serving the lines; they stay open."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- the run ---------------------------------------------------------------------------------

    async def run(self, *, expected: int, at_least: int = 1) -> None:
        """Gathers the fleet, then runs every round that is left, and the personal one.

        expected: devices waited for within the gather deadline. at_least: of them must come.
        Raises FleetMissingError, RoundsFailedError, StrategyError when a strategy of one's own fails, and
        whatever the ledger raises.
        """
        begun = self._now()
        self._expected = expected
        self._emit(RunStarted(self.config, self.done, expected, self.model.classes, self.model.features))
        await self._gather(expected, at_least)
        failed = 0
        while self.done < self.config.rounds:
            record = await self._round(self.done + 1, Kind.TRAIN)
            if record is not None:
                self.done, failed = record.number, 0
                record = None  # it has everybody's update: no need to keep it until the next is there
                continue
            failed += 1
            if failed >= self.config.patience:
                reasons = {m.name: m.dropped or m.lost_why for m in self.members}
                worst = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:3] if why)
                raise RoundsFailedError(
                    f"{failed} rounds in a row brought no usable update ({worst})",
                    "look at the devices, then start the same command again: it goes on from the last round",
                    round=self.done + 1,
                    reasons=reasons,
                )
        if self.config.personal_epochs:
            await self._round(self.done, Kind.PERSONAL)
        await self._settle_all()
        self._emit(RunEnded(self.done, self._now() - begun))

    async def _gather(self, expected: int, at_least: int) -> None:
        deadline = self._now() + self.config.deadlines.gather
        patience = min(deadline, self._now() + SILENT_SECONDS)

        def missing() -> int:
            return expected - sum(m.available or bool(m.excluded) for m in self._members.values())

        while missing() > 0 and self._now() < deadline:
            await self._wait(patience, pause=expected * LOOK_SECONDS)
            if missing() > 0 and self._now() >= patience < deadline:
                patience = deadline
                left = f"{deadline - self._now():.0f} s more"
                for line in sorted(self._unheard, key=lambda line: line.name)[:STRAY_NOTES]:
                    self._note(f"{line.name}: nothing answers yet; waiting {left} (a blank board? flash it)")
                if not self._unheard:
                    self._note(f"{expected - missing()} of {expected} devices are ready; waiting {left}")
        present = [m for m in self.members if m.available]
        if missing() > 0:
            for line in sorted(self._unheard, key=lambda line: line.name)[:STRAY_NOTES]:
                self._note(f"{line.name}: no device has answered: check its power, cable and firmware")
        if len(present) < at_least:
            raise FleetMissingError(
                f"{len(present)} of {expected} devices came within {self.config.deadlines.gather:g} s",
                "check that they have power, samples and this run's model, then start again",
                present=len(present),
                wanted=expected,
            )
        if missing() > 0:
            self._note(f"{missing()} of {expected} devices did not come; the run begins without them")
        self._marks = {m.id: m.traffic for m in self._members.values()}

    # ---- a round ---------------------------------------------------------------------------------

    async def _round(self, number: int, kind: Kind) -> RoundRecord | None:
        """One round; None when nobody's answer counted, and then nothing has changed."""
        cohort = await self._choose(number)
        head = self.model.head_blob()
        digest = heads.head_hash(head)
        average = self.model.average() if kind is Kind.TRAIN else None
        begun, started = self._now(), time.time()
        self._emit(RoundStarted(number, kind, tuple(m.name for m in cohort)))
        for member in cohort:
            order = self.model.order(self.config, number, kind, member.id, tag=self._tag, head_hash=digest)
            member.assign(Assignment(order, head, begun), hold=True)
            self._show(member)
        taken: dict[bytes, Checked] = {}
        ended = await self._collect(cohort, average, taken, begun)
        for member in cohort:
            if member.pending:
                member.drop(_late(member, ended, self._now() - begun))
        for member in cohort:
            if member.dropped:
                self._emit(DeviceDropped(number, member.name, member.dropped))
        record = None
        if taken:
            if average is not None:
                self.model.apply(average)
            record = RoundRecord(
                number=number,
                kind=kind,
                ended=ended,
                started=started,
                seconds=self._now() - begun,
                head=digest.hex(),
                devices=self._entries(cohort, taken),
                accuracy=self._measure(self.model) if self._measure and average is not None else None,
            )
            if average is not None:
                self._ledger.commit(
                    record,
                    master=self.model.master_blob(),
                    model=self.model.export(),
                    state=self.model.strategy_state,
                )
            else:
                self._ledger.commit(record, master=None, model=None)
            for begin in range(0, len(cohort), TOLD_AT_ONCE):
                for member in cohort[begin : begin + TOLD_AT_ONCE]:
                    member.settle()
                await asyncio.sleep(0)  # so that answers are taken as they come
        else:
            reasons = "; ".join(f"{m.name}: {m.dropped}" for m in cohort[:STRAY_NOTES])
            self._note(f"round {number} brought no usable update and is done again ({reasons})")
        for member in cohort:
            member.leave()
            self._show(member)
        if record is not None:
            self._emit(RoundEnded(record))
        return record

    async def _choose(self, number: int) -> list[Member]:
        """The cohort: of the devices here, or gone so briefly that they may be back, the round's fraction."""
        deadline = self._now() + self.config.deadlines.gather
        while True:
            grace = self._now() - self.config.deadlines.rejoin
            here = {
                m.id: m
                for m in self._members.values()
                if m.available or (not m.open and not m.excluded and m.absent_since > grace)
            }
            if any(m.available for m in here.values()):
                self._tell_gone(number, here)
                size = max(1, math.ceil(self.config.fraction * len(here)))
                chosen = cohort_order(self.config.seed, number, list(here))[:size]
                return sorted((here[i] for i in chosen), key=lambda m: (m.name, m.id))
            if self._now() >= deadline:
                raise FleetMissingError(
                    f"no device has been there for {self.config.deadlines.gather:g} s",
                    "check the devices, then start the same command again: it goes on from the last round",
                    present=0,
                    wanted=len(self._members),
                )
            await self._wait(deadline)

    def _tell_gone(self, number: int, here: Mapping[bytes, Member]) -> None:
        """Notes who is not waited for from this round on, and who is back. here: who may be asked."""
        for member in self._members.values():
            if member.id in here and member in self._gone:
                self._gone.discard(member)
                self._peer_note("returns", f"is back, and takes part from round {number} on", member)
            elif not (member.open or member.excluded or member.id in here or member in self._gone):
                self._gone.add(member)
                why = f"lost its session ({member.lost_why}) and stays away"
                self._peer_note("absences", f"{why}: rounds from {number} on do not wait for it", member)

    async def _collect(
        self, cohort: list[Member], average: FedAvg | None, taken: dict[bytes, Checked], begun: float
    ) -> Ending:
        """Takes answers as they come until the round is over; says why it is."""
        limits = self.config.deadlines
        enough = math.ceil(self.config.quorum * len(cohort))
        deadline = begun + limits.round
        waiting, telling = deque(cohort), list[Member]()
        pending = dict.fromkeys(cohort)
        wake = begun  # when to look at everybody; else only at those who said something
        while True:
            now = self._now()
            telling = [m for m in telling if m.being_told]
            while waiting and len(telling) < TOLD_AT_ONCE:
                member = waiting.popleft()
                member.release(now)
                self._touched[member] = None
                telling.append(member)
            looked, self._touched = self._touched, {}
            soonest = now
            if now >= wake:
                looked, wake = dict(pending), deadline
                soonest += len(pending) * LOOK_SECONDS
            for member in looked:
                if member not in pending:
                    continue
                if member.answer is not None and not member.dropped:
                    self._take(member, average, taken)
                if member.pending:
                    wake = min(wake, max(self._watch(member, now), soonest))
                else:
                    del pending[member]
            if not pending:
                return Ending.COMPLETE
            if len(taken) >= enough:
                return Ending.QUORUM
            if now >= deadline:
                return Ending.DEADLINE
            await self._wait(wake)

    def _watch(self, member: Member, now: float) -> float:
        """Drops a member whose own deadline has passed; returns when to look at it again."""
        limits = self.config.deadlines
        assert member.assignment is not None
        if not member.open:
            until = member.absent_since + limits.rejoin
            if now >= until:
                member.drop(
                    f"lost its session ({member.lost_why}) and was not back within {limits.rejoin:g} s"
                )
            return until
        if not member.delivered and member.available:
            until = member.waiting_since + limits.head
            if now >= until:
                member.drop(f"did not take the head within {limits.head:g} s")
            return until
        return math.inf

    def _take(self, member: Member, average: FedAvg | None, taken: dict[bytes, Checked]) -> None:
        assert member.answer is not None and member.info is not None
        result, capacity = member.answer.result, member.info.capacity
        try:
            if average is None:
                checked = check_figures(member.name, result, capacity=capacity)
            else:
                checked = take_update(
                    member.name,
                    result,
                    member.answer.update,
                    average,
                    shape=(self.model.classes, self.model.features),
                    capacity=capacity,
                    codec=self.config.codec_number,
                )
        except KilofedError as error:
            member.drop(error.what)
            return
        taken[member.id] = checked
        if checked.note:
            self._note(checked.note, member)

    def _entries(self, cohort: list[Member], taken: dict[bytes, Checked]) -> tuple[DeviceRound, ...]:
        keep = self.model.classes * self.model.features <= KEEP_UPDATES
        entries = []
        for member in cohort:
            traffic = member.traffic
            since = traffic - self._marks.get(member.id, Traffic())
            self._marks[member.id] = traffic
            checked, answer = taken.get(member.id), member.answer
            if checked is None or answer is None:
                entries.append(
                    DeviceRound(
                        member.hex, member.name, False, member.dropped,
                        bytes_up=since.up, bytes_down=since.down, retries=since.retries,
                    )
                )  # fmt: skip
                continue
            entries.append(
                DeviceRound(
                    device=member.hex,
                    name=member.name,
                    taken=True,
                    samples=checked.samples,
                    held_out=checked.held_out,
                    loss=answer.result.loss_q12 / 4096,
                    base_correct=checked.base_correct,
                    own_correct=checked.own_correct,
                    elapsed_ms=answer.result.elapsed_ms,
                    bytes_up=since.up,
                    bytes_down=since.down,
                    retries=since.retries,
                    update=answer.update if keep else None,
                )
            )
        return tuple(entries)

    async def _settle_all(self) -> None:
        """Gives the last commits time to arrive."""
        deadline = self._now() + self.config.deadlines.goodbye
        while any(m.open and m.settling for m in self._members.values()) and self._now() < deadline:
            await self._wait(deadline, pause=len(self._members) * LOOK_SECONDS)

    # ---- what the lines say ----------------------------------------------------------------------

    async def serve(self, line: Line) -> None:
        """Takes what a line says, until it ends."""
        member: Member | None = None
        strange = 0
        self._unheard.add(line)
        try:
            async for event in line.events():
                match event:
                    case Opened(hello, info):
                        self._unheard.discard(line)
                        if self._is_twin(hello.device_id, line.endpoint):
                            self._hello(hello, Reason.TWIN)
                            line.endpoint.close(Reason.TWIN)
                            continue
                        member = self._opened(line, hello, info, event)
                    case HelloSeen(hello, refused):
                        self._hello(hello, refused)
                        if refused:
                            self._unheard.discard(line)
                    case Unproven(device_id):
                        self._unproven(device_id)
                        self._unheard.discard(line)
                    case Stray() | Malformed() if strange >= STRAY_NOTES:
                        pass
                    case Stray(data, version):
                        strange += 1
                        self._peer_note("stray bytes", f"{line.name}: {_readable(data, version)}", member)
                    case Malformed(why):
                        strange += 1
                        self._peer_note(
                            "malformed messages", f"{line.name}: a malformed message ({why})", member
                        )
                    case _:
                        pass
                if member is not None and member.line is line and not isinstance(event, (Opened, Stray)):
                    member.handle(event, self._now())
                    if isinstance(event, InfoChanged):
                        self._check_model(member, event.info)
                        self._remember(member)
                    self._show(member)
                if member is not None:
                    self._touched[member] = None
                self._changed.set()
        finally:
            if member is not None and member.line is line:
                member.lost("the line ended", self._now())
                self._touched[member] = None
                self._show(member)
            self._unheard.discard(line)
            self._changed.set()

    def _opened(self, line: Line, hello: Hello, info: Info, event: Opened) -> Member:
        member = self._members.get(hello.device_id)
        if member is None:
            known = self._fleet.get(hello.device_id) if self._fleet is not None else None
            member = Member(hello.device_id, known.name if known else hello.device_id.hex())
            self._members[member.id] = member
            if member.hex in self._settled:
                member.expect_settled(round_on_wire(self._tag, self.done, Kind.TRAIN))
        key = line.endpoint.key  # None, too, when the session is lost already
        if self._fleet is not None:
            self._fleet.seen(member.id, encrypted=hello.encrypted)
            if key is not None and self._fleet.used(member.id, key):
                self._note("uses its new key from here on; the old one is void", member)
            elif key is not None and line.endpoint.enrolled is not None:
                self._fleet.enrolled(member.id, key, line.endpoint.enrolled)
        if not hello.encrypted:
            why = "its session is in the clear: anybody on the line can read and change what is said"
            self._warn(member, why)
        elif hello.flags & FLAG_NO_ENTROPY:
            self._warn(member, "has no randomness: after a reset, recorded orders can be replayed to it")
        self._check_model(member, info)
        member.opened(line, event, self._now())
        self._remember(member)
        self._show(member)
        return member

    def _warn(self, member: Member, text: str) -> None:
        if (member.id, text) not in self._warned:
            self._warned.add((member.id, text))
            self._note(text, member)

    def _unproven(self, device_id: bytes) -> None:
        if device_id in self._doubted or len(self._doubted) > PEER_NOTES:
            return
        self._doubted.add(device_id)
        known = self._fleet.get(device_id) if self._fleet is not None else None
        name = known.name if known else device_id.hex()
        self._peer_note(
            "wrong keys",
            f"{name} does not take the key this host has for it: flash it again, or look who it is",
        )

    def _check_model(self, member: Member, info: Info) -> None:
        reason = ""
        if info.model != self.model.hash:
            reason = f"it holds model {info.model.hex()}, this run trains {self.model.hash.hex()}"
        elif (info.classes, info.features) != (self.model.classes, self.model.features):
            reason = f"its head is {info.classes} x {info.features}"
        elif info.labels != self.model.labels_hash:
            reason = "its labels are not this run's"
        if reason and not member.excluded:
            self._note(f"left out, {reason}: flash it with this run's model", member)
        member.excluded = reason

    def _hello(self, hello: Hello, refused: int) -> None:
        if not refused:
            return
        told = self._turned_away.setdefault(refused, set())
        # One more than is noted: the last says that there are more, and whoever makes ids up fills no memory.
        if hello.device_id not in told and len(told) <= PEER_NOTES:
            told.add(hello.device_id)
            what = f"turned away {hello.device_id.hex()} ({hello.board})"
            kind = f"devices turned away for reason {refused}"
            known = self._fleet.get(hello.device_id) if self._fleet is not None else None
            if known is not None and known.revoked is not None:
                why = f"{known.name} is revoked: {again(known)} lets it in again, with a new identity"
            else:
                why = _why_refused(hello, refused)
            self._peer_note(kind, f"{what}, {why}")

    def _remember(self, member: Member) -> None:
        assert member.hello is not None and member.info is not None
        row = DeviceRow(
            device=member.hex,
            name=member.name,
            board=member.hello.board,
            firmware=member.hello.firmware_text,
            capacity=member.info.capacity,
            samples=member.info.train,
            held_out=member.info.held_out,
            seen=time.time(),
        )
        # Each write waits for the disk, and a device can say the same as often as it likes.
        known = self._remembered.get(member.id)
        if known is None or replace(known, seen=row.seen) != row:
            self._ledger.put_device(row)
            self._remembered[member.id] = row

    # ---- small things ----------------------------------------------------------------------------

    def _line_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.fail(task.exception() or asyncio.CancelledError())

    async def _wait(self, until: float, *, pause: float = 0.0) -> None:
        """Until something changed and `pause` seconds have passed, at most until then.

        Raises what a line's task died of.
        """
        if self._failure is not None:
            raise self._failure
        self._changed.clear()
        delay = until - self._now()
        if delay > 0:
            # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes with the event.
            waiter = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait({waiter}, timeout=delay)
                if pause:
                    await asyncio.sleep(min(pause, max(0.0, until - self._now())))
            finally:
                waiter.cancel()
        if self._failure is not None:
            raise self._failure

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _emit(self, event: RunEvent) -> None:
        for observer in self._observers:
            observer(event)

    def _show(self, member: Member) -> None:
        self._emit(DeviceChanged(member.view()))

    def _peer_note(self, kind: str, text: str, member: Member | None = None) -> None:
        """A note that somebody at the other end of a line causes: there is an end to them.

        kind: in the plural. Each has an end of its own, so that noise does not hide who was turned away.
        """
        self._peer_notes[kind] += 1
        if self._peer_notes[kind] <= PEER_NOTES:
            self._note(text, member)
        elif self._peer_notes[kind] == PEER_NOTES + 1:
            self._note(f"more {kind} are not noted: look at what is connected to the lines named above")

    def _note(self, text: str, member: Member | None = None) -> None:
        self._ledger.note(text, device=member.hex if member else "")
        self._emit(Note(text, member.name if member else ""))


def _late(member: Member, ended: Ending, seconds: float) -> str:
    """Reasons in whole words: host/GUIDE.md explains them, and a test looks for them here."""
    quorum = ended is Ending.QUORUM
    if not member.open:
        when = "when the quorum was reached" if quorum else f"after {seconds:.0f} s"
        return f"lost its session ({member.lost_why}) and was not back {when}"
    if quorum:
        return "had not answered when the quorum was reached"
    return f"had not answered after {seconds:.0f} s"


def _why_refused(hello: Hello, refused: int) -> str:
    if refused == REFUSED_UNKNOWN:
        return "it is not registered: `kilofed flash` registers a board"
    if refused == Reason.VERSION:
        return _other_version(hello.version)
    if refused == Reason.TWIN:
        return "another line has a session with this id: flash one of the two with an id of its own"
    if refused == Reason.INSECURE:
        return "it has no key, and this run takes encrypted sessions only: flash it, or give --insecure"
    if refused == Reason.WRONG_KEY:
        return "this host has no key for it: flash it from here"
    return f"reason {refused}: use host and firmware of one version"


def _other_version(version: int) -> str:
    older = "the device's firmware" if version < PROTOCOL_VERSION else "this program"
    return f"it speaks protocol version {version}, this host speaks {PROTOCOL_VERSION}: update {older}"


def _readable(data: bytes, version: int | None = None) -> str:
    if version is not None:
        return _other_version(version)
    text = "".join(chr(b) if 32 <= b < 127 else "." for b in data[:STRAY_BYTES])
    return text if len(data) <= STRAY_BYTES else f"{text} ({len(data)} bytes)"
