"""A host, a device and a line between them in simulated time, and an owner who wants rounds done.

line = Line(PythonDevice(KEY), Medium(baud=115200), Medium(baud=115200, tick=0.016), key=KEY)
line.round(head, order)        until its result was committed
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.chaos.pipe import Medium, Pipe
from tests.link_tap import Tap

from kilofed.link import events as ev
from kilofed.link.blobs import update_bytes
from kilofed.link.device import DeviceEndpoint, Holding
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Accept, Chunk, Hello, Message, Offer, Train

KEY = bytes(range(32))
AGAIN = 0.05  # a cable that was pulled is in again after so long, seconds


class Far(Protocol):
    """A device, whichever language it is in."""

    due: float  # when it wants to be polled

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the line."""

    def poll(self, now: float) -> bytes:
        """Does what is due; what it writes."""

    def busy(self, ms: int) -> None:
        """Says that it will not answer for so long."""


class PythonDevice:
    """kilofed-pi's end, whose training takes no time and gives `update`.

    heads: those that were taken, whole.
    """

    def __init__(
        self,
        key: bytes | None,
        classes: int,
        features: int,
        *,
        max_frame: int = 1024,
        window: int = 4096,
        seed: int = 0,
    ) -> None:
        self._random = random.Random(seed)
        self.heads: list[bytes] = []
        self.update = self._random.randbytes(update_bytes(1, classes, features))
        self.due = float("-inf")
        self.endpoint = DeviceEndpoint(
            device_id=b"device-1",
            board="pi",
            firmware=0x000100,
            holding=Holding(
                model=b"m" * 8, classes=classes, features=features, capacity=10, train=8, held_out=2
            ),
            rng=self._random.randbytes,
            take_head=self._take_head,
            key=key,
            max_frame=max_frame,
            window=window,
        )

    def _take_head(self, blob: bytes) -> int:
        self.heads.append(blob)
        return 0

    def receive(self, data: bytes, now: float) -> None:
        self.endpoint.receive(data, now)
        self._act()

    def poll(self, now: float) -> bytes:
        self.endpoint.poll(now)
        self._act()
        self.endpoint.poll(now)
        due = self.endpoint.next_deadline()
        self.due = now + 1.0 if due is None else due
        return self.endpoint.data_to_send()

    def busy(self, ms: int) -> None:
        self.endpoint.busy(ms)

    def _act(self) -> None:
        for event in self.endpoint.events():
            if isinstance(event, ev.TrainAsked):
                self.endpoint.finish(
                    event.order, self.update, train=8, held_out=2, loss_q12=9, base_correct=1, own_correct=2,
                    elapsed_ms=1,
                )  # fmt: skip


class CoreDevice:
    """The C core in its runner: `device` is a `device_runner.Device`."""

    def __init__(self, device: Any, *, max_macs: int = 200_000) -> None:
        self._device = device
        self._max_macs = max_macs
        self.due = float("-inf")

    def receive(self, data: bytes, now: float) -> None:
        self._device.receive(data, int(now * 1000))

    def poll(self, now: float) -> bytes:
        wait, data = self._device.poll(int(now * 1000), max_macs=self._max_macs)
        self.due = now + max(wait, 1) / 1000
        return bytes(data)

    def busy(self, ms: int) -> None:
        self._device.busy(ms)


@dataclass
class Said:
    """A message as it went in, and when."""

    way: str
    at: float
    message: Message


@dataclass
class Flow:
    """A blob's way over one direction. Seconds and bytes on the wire, of all frames of that direction.

    asked: when it was offered. began: when the first chunk was written. ended: when the last had left.
    """

    asked: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    before: float = 0.0
    busy: float = 0.0

    @property
    def utilisation(self) -> float:
        """Wire bytes over capacity, 0..1, from the first chunk to the end of the last."""
        return (self.busy - self.before) / (self.ended - self.began)

    @property
    def with_its_offer(self) -> float:
        """The same from the offer on: with the round trip in which the receiver says where to begin."""
        return (self.busy - self.before) / (self.ended - self.asked)


@dataclass
class Line:
    """See the module. key: of the device, None for a line in the clear. options: of the HostEndpoint."""

    far: Far
    down: Medium
    up: Medium
    key: bytes | None = KEY
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.pipes = {"down": Pipe(self.down, seed=self.seed), "up": Pipe(self.up, seed=self.seed + 1)}
        self.tap = Tap(self.key)
        self.said: list[Said] = []
        self.events: list[ev.Event] = []
        self.cuts = 0
        self.flows = {"down": Flow(), "up": Flow()}
        self.owner: Callable[[ev.Event], None] = lambda event: None
        self.host = self._new_host()

    def _new_host(self) -> HostEndpoint:
        known = [self.key] if self.key is not None else []
        return HostEndpoint(
            rng=self.random.randbytes,
            **{"keys": lambda _: known, "insecure": not known, **self.options},
        )

    def kill_host(self) -> None:
        """Another process takes over the port."""
        self.host = self._new_host()
        self.pipes["down"].clear()

    # ---- time ------------------------------------------------------------------------------------

    def step(self) -> None:
        """To the next moment at which anything is due."""
        times = [pipe.due for pipe in self.pipes.values()]
        times += [self.host.next_deadline(), self.far.due]
        self.now = max(self.now, min(time for time in times if time is not None)) + 1e-6
        if data := self.pipes["down"].take(self.now):
            self.far.receive(data, self.now)
        if data := self.pipes["up"].take(self.now):
            self.host.receive(data, self.now)
        else:
            self.host.poll(self.now)
        self._serve()
        self._send("up", self.far.poll(self.now))
        self._send("down", self.host.data_to_send())
        if any(pipe.broken for pipe in self.pipes.values()):
            self._replug()
        self._serve()

    def run(self, until: Callable[[], bool], *, seconds: float = 600.0) -> None:
        """AssertionError when it is not so within so many simulated seconds."""
        end = self.now + seconds
        while not until():
            assert self.now < end, f"not within {seconds} s: {self.events[-8:]}"
            self.step()

    def _serve(self) -> None:
        for event in self.host.events():
            self.events.append(event)
            self.owner(event)

    def _send(self, way: str, data: bytes) -> None:
        if not data:
            return
        pipe = self.pipes[way]
        messages = [self.tap.read(piece) for piece in data.split(b"\0") if piece]
        for message in messages:
            self._note(way, message)
        pipe.send(data, self.now)
        if any(isinstance(message, Chunk) for message in messages):
            flow = self.flows[way]
            flow.busy, flow.ended = pipe.busy, pipe.free

    def _note(self, way: str, message: Message) -> None:
        self.said.append(Said(way, self.now, message))
        flow = self.flows[way]
        if isinstance(message, Offer):
            flow.asked = self.now
        elif isinstance(message, Chunk) and not flow.began:
            flow.began, flow.before = self.now, self.pipes[way].busy

    def _replug(self) -> None:
        """A cable was pulled: what had left before arrives, nothing else. It is in again soon."""
        self.cuts += 1
        while due := [pipe.due for pipe in self.pipes.values() if pipe.due is not None]:
            self.now = max(self.now, min(due))
            if data := self.pipes["down"].take(self.now):
                self.far.receive(data, self.now)
            if data := self.pipes["up"].take(self.now):
                self.host.receive(data, self.now)
            self._serve()
        for pipe in self.pipes.values():
            pipe.clear()
        self.host.data_to_send()
        self.host.disconnected("the cable was pulled")
        self._serve()
        self.now += AGAIN

    # ---- rounds ----------------------------------------------------------------------------------

    def round(self, head: bytes, order: Train, *, seconds: float = 600.0) -> bytes | None:
        """Has a round done, whatever happens to sessions. Its update."""
        job = Job(self, head, order)
        self.run(lambda: job.done, seconds=seconds)
        assert job.result is not None
        return job.result.update

    # ---- what was said ---------------------------------------------------------------------------

    def chunks(self, way: str) -> list[Chunk]:
        """All that were written, repeats and what was lost included."""
        return [said.message for said in self.said if said.way == way and isinstance(said.message, Chunk)]

    def sent_again(self, way: str) -> int:
        """Bytes of chunks in sessions before which the receiver had said that it has them."""
        accepted: dict[int, int] = {}
        held: dict[int, int] = {}
        again = 0
        for said in self.said:
            message = said.message
            if isinstance(message, Hello):
                held = dict(accepted)
            elif isinstance(message, Accept) and said.way != way:
                accepted[message.id] = max(accepted.get(message.id, 0), message.offset)
            elif isinstance(message, Chunk) and said.way == way:
                again += max(0, min(held.get(message.id, 0) - message.offset, len(message.data)))
        return again


class Job:
    """The owner on the host's side: after every loss he says again what he wants."""

    def __init__(self, line: Line, head: bytes, order: Train) -> None:
        self._line = line
        self._head = head
        self._order = order
        self.result: ev.ResultReady | None = None
        self.done = False
        line.owner = self._event
        if line.host.info is not None:
            self._want()

    def _want(self) -> None:
        if self.result is None:
            self._line.host.send_head(self._head)
            self._line.host.train(self._order)
        elif not self.done:
            self._line.host.commit(self._order.round)

    def _event(self, event: ev.Event) -> None:
        match event:
            case ev.Opened():
                self._want()
            case ev.ResultReady(result):
                if result.round == self._order.round:
                    self.result = event
                    self._line.host.commit(self._order.round)
            case ev.Committed(round):
                self.done = self.done or round == self._order.round
