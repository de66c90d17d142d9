"""One device as the host sees it: a small state machine between the link's events and the round's wishes.

The engine gives a member an `Assignment` (this head, this order) and the member sees it through whatever the
link does: it sends what the device does not hold, orders the training, takes the result, and starts over when
a session was lost and another opened. It ends *answered* or *dropped* with a reason in words. It sends
nothing by itself afterwards.

    ABSENT -Opened-> COLLECTING / IDLE -assign-> RECEIVING -> TRAINING -> SENDING -> DONE -settle-> IDLE
                          any of them -Lost-> ABSENT (the assignment stays)        -drop-> DROPPED

No I/O of its own, no clock: time is a parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from kilofed.link.errors import SessionError, StatusCode, explain
from kilofed.link.events import (
    Committed,
    DeviceError,
    Event,
    HeadDelivered,
    InfoChanged,
    Lost,
    Malformed,
    Opened,
    Progress,
    ResultReady,
    Training,
)
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Hello, Info, Result, State, Status, TrainOrder
from kilofed.rounds.records import DeviceView, Phase


class Line(Protocol):
    """What a member needs of kilofed.connection.Connection.

    Commands raise SessionError when the session is over already and its `Lost` still waits to be handled.
    """

    @property
    def name(self) -> str: ...

    @property
    def endpoint(self) -> HostEndpoint: ...

    def events(self) -> AsyncIterator[Event]: ...

    def send_head(self, blob: bytes) -> None: ...

    def train(self, order: TrainOrder) -> None: ...

    def commit(self, round: int, verdict: int = 0) -> None: ...

    def cancel(self, round: int) -> None: ...


@dataclass(frozen=True)
class Assignment:
    """What a round wants of a device: train `order` from `head` (the blob order.head is the hash of)."""

    order: TrainOrder
    head: bytes = field(repr=False)
    since: float  # when it was given, of the engine's clock


@dataclass(frozen=True)
class Answer:
    """What came back, unchecked but for its hash."""

    result: Result
    update: bytes | None


@dataclass(frozen=True)
class Traffic:
    """Bytes on the wire and frames said again."""

    up: int = 0
    down: int = 0
    retries: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.up + other.up, self.down + other.down, self.retries + other.retries)

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.up - other.up, self.down - other.down, self.retries - other.retries)


class Member:
    """A device of the run.

    The engine makes one at the first `Opened` of each device id and keeps it to the end.
    """

    def __init__(self, device_id: bytes, name: str) -> None:
        self.id = device_id
        self.name = name
        self.hello: Hello | None = None
        self.info: Info | None = None
        self.line: Line | None = None
        self.open = False  # a session is open
        self.excluded = ""  # from the run, and why
        self.opened_at = 0.0
        self.absent_since = 0.0
        self.lost_why = ""
        self.assignment: Assignment | None = None
        self.answer: Answer | None = None
        self.dropped = ""  # from the current round, and why
        self.progress = 0.0
        self.loss: float | None = None
        self._status: Status | None = None
        self._held = False  # it is not its turn yet
        self._released_at = 0.0
        self._delivered = False
        self._ordered = False
        self._settling: int | None = None  # the round whose commit is on its way
        self._unsettled: int | None = (
            None  # a taken round whose commit has not been sent for want of a session
        )
        self._past = Traffic()  # over lines that were replaced

    # ---- what the engine asks --------------------------------------------------------------------

    @property
    def hex(self) -> str:
        """The device's id, 16 hex digits."""
        return self.id.hex()

    @property
    def available(self) -> bool:
        """It could be asked to train now."""
        return (
            self.open and not self.excluded and self.info is not None and self.info.state != State.COLLECTING
        )

    @property
    def pending(self) -> bool:
        """The round still waits for it."""
        return self.assignment is not None and self.answer is None and not self.dropped

    @property
    def delivered(self) -> bool:
        """The device holds the head of its assignment."""
        return self._delivered

    @property
    def waiting_since(self) -> float:
        """When the round began to wait for it in this session."""
        return max(self.opened_at, self._released_at)

    @property
    def being_told(self) -> bool:
        """Head and order are on their way to it."""
        return self.pending and self.open and not self._held and not self._delivered

    @property
    def settling(self) -> bool:
        """A commit is on its way to it."""
        return self._settling is not None

    @property
    def traffic(self) -> Traffic:
        """Over all lines the device has had in this run."""
        return self._past if self.line is None else self._past + _traffic(self.line)

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        if self.excluded:
            return Phase.EXCLUDED
        if self.dropped:
            return Phase.DROPPED
        if not self.open or self.info is None:
            return Phase.ABSENT
        if self.answer is not None:
            return Phase.DONE
        if self.assignment is None or self.info.state == State.COLLECTING:
            return Phase.COLLECTING if self.info.state == State.COLLECTING else Phase.IDLE
        if not self._delivered:
            return Phase.RECEIVING
        uploading = self._status is not None and self._status.state == State.UPLOADING
        return Phase.SENDING if uploading else Phase.TRAINING

    def view(self) -> DeviceView:
        """A row for a display."""
        info, traffic = self.info, self.traffic
        return DeviceView(
            device=self.hex,
            name=self.name,
            board=self.hello.board if self.hello else "",
            phase=self.phase,
            samples=info.train if info else 0,
            held_out=info.held_out if info else 0,
            capacity=info.capacity if info else 0,
            progress=self.progress,
            loss=self.loss,
            bytes_up=traffic.up,
            bytes_down=traffic.down,
            reason=self.excluded or self.dropped,
        )

    # ---- what the engine says --------------------------------------------------------------------

    def assign(self, assignment: Assignment, *, hold: bool = False) -> None:
        """Begins a round for this device. hold: it is told nothing of it before `release`."""
        self.assignment = assignment
        self._held = hold
        self._released_at = assignment.since
        self.answer = None
        self.dropped = ""
        self.progress = 0.0
        self._delivered = self._ordered = False
        self._status = None
        self._drive()

    def release(self, now: float) -> None:
        """It is this device's turn to be told of its assignment."""
        self._held = False
        self._released_at = now
        self._drive()

    def drop(self, reason: str) -> None:
        """Ends the round for this device without its contribution, and tells the device if it can be told."""
        if self.assignment is None or self.dropped:
            return
        self.dropped = reason
        if self.open and self.line is not None:
            if self.answer is not None:
                self._settle(self.assignment.order.round, int(StatusCode.BLOB))
            elif self._ordered:
                with _unless_lost():
                    self.line.cancel(self.assignment.order.round)

    def settle(self) -> None:
        """The answer has been taken and is in the store.

        Lets the device move its residual and leave the round.
        """
        if self.assignment is None or self.answer is None or self.dropped:
            return
        round_on_wire = self.assignment.order.round
        if self.open:
            self._settle(round_on_wire, 0)
        else:
            self._unsettled = round_on_wire

    def expect_settled(self, round_on_wire: int) -> None:
        """A round that an earlier process took and stored: settled should the device still wait for that."""
        self._unsettled = round_on_wire

    def leave(self) -> None:
        """Ends the round for this device; called for every member when the round is over."""
        self.assignment = None
        self.answer = None
        self._status = None

    # ---- what the link says ----------------------------------------------------------------------

    def opened(self, line: Line, event: Opened, now: float) -> None:
        """A session is open, on a line that may be another than before."""
        if self.line is not None and self.line is not line:
            self._past = self._past + _traffic(self.line)
        self.line = line
        self.open = True
        self.opened_at = now
        self.hello, self.info = event.hello, event.info
        self._forget_session()
        waiting = event.info.round if event.info.state == State.UPLOADING else None
        if self._unsettled is not None and waiting == self._unsettled:
            self._settle(self._unsettled, 0)
        self._unsettled = None
        self._drive()

    def handle(self, event: Event, now: float) -> None:
        """Any other event of this device's session."""
        match event:
            case InfoChanged(info):
                self.info = info
                self._drive()
            case HeadDelivered(digest):
                if self.assignment is not None and digest == self.assignment.order.head:
                    self._delivered = True
            case Training(status) | Progress(status):
                self._on_status(status)
            case ResultReady(result, update):
                self._on_result(Answer(result, update))
            case Committed(round_on_wire):
                if round_on_wire == self._settling:
                    self._settling = None
            case DeviceError(code, detail, text):
                # What may be asked again, the link has asked again.
                if self.pending and self._ordered:
                    self.drop(explain(code, detail, text))
            case Malformed(why):
                if self.pending and self._ordered:
                    self.drop(f"sent a malformed message ({why})")
            case Lost(_, why):
                self.lost(why, now)
            case _:
                pass

    def lost(self, why: str, now: float) -> None:
        """The session ended, or the line with it."""
        if not self.open:
            return
        self.open = False
        self.absent_since = now
        self.lost_why = why or "the session ended"
        # A commit that was on its way may not have arrived: it is said again if the device still waits.
        self._unsettled = self._settling if self._settling is not None else self._unsettled
        self._forget_session()

    # ---- inside ----------------------------------------------------------------------------------

    def _forget_session(self) -> None:
        self._delivered = False
        self._ordered = False
        self._settling = None
        self._status = None

    def _drive(self) -> None:
        """Says what the assignment wants, once a session; the link sees to the order of head and training."""
        if not self.pending or not self.available or self._ordered or self._held:
            return
        assert self.assignment is not None and self.line is not None
        with _unless_lost():
            self.line.send_head(self.assignment.head)
            self.line.train(self.assignment.order)
            self._ordered = True

    def _settle(self, round_on_wire: int, verdict: int) -> None:
        assert self.line is not None
        self._settling = round_on_wire if verdict == 0 else None  # also when it is lost: see lost()
        with _unless_lost():
            self.line.commit(round_on_wire, verdict)

    def _on_status(self, status: Status) -> None:
        if self.assignment is None or status.round != self.assignment.order.round:
            return
        self._status = status
        self._delivered = True
        self.progress = status.progress / 1000
        if status.loss_q12:
            self.loss = status.loss
        if status.state == State.FAILED:
            self.drop("the device could not finish its training")

    def _on_result(self, answer: Answer) -> None:
        if not self.pending or self.assignment is None or answer.result.round != self.assignment.order.round:
            return
        self.answer = answer
        self.progress = 1.0
        if answer.result.train:
            self.loss = answer.result.loss_q12 / 4096


def _unless_lost() -> contextlib.AbstractContextManager[None]:
    """A command to a session that is over is not said: `Lost` is on its way, the next `Opened` makes up."""
    return contextlib.suppress(SessionError)


def _traffic(line: Line) -> Traffic:
    counters = line.endpoint.counters
    return Traffic(counters.bytes_up, counters.bytes_down, counters.retries)
