"""A host, a device and a pipe between them in virtual time: what the tests of the endpoints stand on."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.link_tap import Tap

from kilofed.link import events as ev
from kilofed.link.blobs import blob_hash, head_bytes, update_bytes
from kilofed.link.device import DeviceEndpoint, Holding
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import (
    Chunk,
    Message,
    Multiplier,
    State,
    Train,
)
from kilofed.transports.memory import Faults

C, F = 10, 32
KEY = random.Random(3).randbytes(32)
HEAD = random.Random(1).randbytes(head_bytes(1, C, F))
UPDATE = random.Random(2).randbytes(update_bytes(1, C, F))
HOLDING = Holding(model=b"m" * 8, classes=C, features=F, capacity=100, train=80, held_out=20)


def order(round: int = 1, head: bytes = HEAD, **fields: object) -> Train:
    made = Train(
        round, blob_hash(head), 7, 3, 16, Multiplier.nearest(0.05), Multiplier.nearest(3.2), Multiplier()
    )
    return replace(made, **fields)  # type: ignore[arg-type]


@dataclass
class World:
    """A host, a device, the pipe between them, and a clock that jumps from deadline to deadline.

    The device's owner here trains for `train_seconds` and answers with `update(order)`. key: of the device;
    None: the line is in the clear.
    """

    key: bytes | None = KEY
    up: Faults | None = None
    down: Faults | None = None
    latency: float = 0.002
    train_seconds: float = 3.0
    max_frame: int = 128
    window: int = 512
    seed: int = 0
    heartbeat: float = 2.0
    holding: Holding = HOLDING
    update: Callable[[Train], bytes | None] = lambda order: UPDATE if order.wants_update else None

    now: float = 1000.0
    host_events: list[ev.Event] = field(default_factory=list)
    device_events: list[ev.DeviceEvent] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    head_verdict: int = 0
    trained: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    chunks: list[tuple[str, Chunk]] = field(default_factory=list)
    messages: list[tuple[str, Message]] = field(default_factory=list)
    captured: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.tap = Tap(self.key)
        self.pipe: list[tuple[float, int, str, bytes]] = []
        self.sent = 0
        self.connected = True
        self.training: tuple[Train, float, float] | None = None
        self.bytes = {"up": 0, "down": 0}
        self.owner: Callable[[ev.Event], None] = lambda event: None
        self.cut_after: dict[str, int] = {}
        self.on_cut: Callable[[], None] = lambda: None
        self.new_host()
        self.new_device()

    def new_host(self, **options: Any) -> None:
        known = [self.key] if self.key is not None else []
        self.host = HostEndpoint(
            rng=self.random.randbytes,
            **{"keys": lambda _: known, "insecure": not known, "heartbeat": self.heartbeat, **options},
        )

    def new_device(self) -> None:
        """A device that was reset: its memory is gone, head included."""
        self.training = None
        self.device = DeviceEndpoint(
            device_id=b"device 1",
            board="pi",
            firmware=0x000100,
            holding=self.holding,
            rng=self.random.randbytes,
            take_head=self._take_head,
            key=self.key,
            max_frame=self.max_frame,
            window=self.window,
        )

    def _take_head(self, blob: bytes) -> int:
        if self.head_verdict == 0:
            self.heads.append(blob)
        return self.head_verdict

    def flush(self) -> None:
        """Takes what both ends say, and what happened."""
        while True:
            up = self.device.data_to_send()
            down = self.host.data_to_send()
            device_events, host_events = self.device.events(), self.host.events()
            if not (up or down or device_events or host_events):
                return
            self._put("up", up)
            self._put("down", down)
            for device_event in device_events:
                self._device_event(device_event)
            for event in host_events:
                self.host_events.append(event)
                self.owner(event)

    def _put(self, way: str, data: bytes) -> None:
        if not data or not self.connected:
            return
        self.bytes[way] += len(data)
        self.captured += data
        for piece in data.split(b"\0"):
            if piece:
                message = self.tap.read(piece)
                self.messages.append((way, message))
                if isinstance(message, Chunk):
                    self.chunks.append((way, message))
        if way in self.cut_after:
            left = self.cut_after[way]
            if len(data) > left:
                data = data[:left]
                del self.cut_after[way]
                if data:
                    self._arrive(way, data)
                self.on_cut()
                return
            self.cut_after[way] = left - len(data)
        faults = self.up if way == "up" else self.down
        data = faults.feed(data) if faults else data
        if data:
            self._arrive(way, data)

    def _arrive(self, way: str, data: bytes) -> None:
        self.sent += 1
        self.pipe.append((self.now + self.latency, self.sent, way, data))

    def _device_event(self, event: ev.DeviceEvent) -> None:
        self.device_events.append(event)
        match event:
            case ev.TrainAsked(order, head):
                assert blob_hash(head) == order.head
                self.training = (order, self.now, self.now + self.train_seconds)
                self.trained.append(order.round)
            case ev.CancelAsked():
                self.training = None
            case ev.CommitAsked(round, 0):
                self.committed.append(round)

    def _train(self) -> None:
        if self.training is None:
            return
        order, began, ends = self.training
        if self.now >= ends:
            self.training = None
            self.device.finish(
                order,
                self.update(order), train=80, held_out=20, loss_q12=900, base_correct=9, own_correct=15,
                elapsed_ms=int((ends - began) * 1000),
            )  # fmt: skip
        else:
            self.device.progress(order, int(1000 * (self.now - began) / (ends - began)), 5000)

    def step(self) -> None:
        """To the next moment at which anything is due."""
        self.flush()
        times = [t for t in (self.host.next_deadline(), self.device.next_deadline()) if t is not None]
        times += [self.pipe[0][0]] if self.pipe else []
        times += [min(self.training[2], self.now + 0.1)] if self.training else []
        self.now = max(self.now, min(times)) + 1e-6
        arrived = [item for item in self.pipe if item[0] <= self.now]
        self.pipe = [item for item in self.pipe if item[0] > self.now]
        for _, _, way, data in arrived:
            (self.host if way == "up" else self.device).receive(data, self.now)
        self._train()
        self.host.poll(self.now)
        self.device.poll(self.now)
        self.flush()

    def run(self, until: Callable[[], bool], *, seconds: float = 600) -> None:
        """Steps until it is so; fails after so many virtual seconds or too many steps."""
        end = self.now + seconds
        spins, mark = 0, self.now
        while not until():
            assert self.now < end, f"not after {seconds} s: {self.host_events[-8:]} {self.device_events[-8:]}"
            self.step()
            spins = spins + 1 if self.now < mark + 0.01 else 0
            mark = mark if spins else self.now
            assert spins < 500, "an endpoint makes its owner spin"

    def disconnect(self) -> None:
        self.pipe.clear()
        self.host.disconnected("unplugged")
        self.device.disconnected()
        self.flush()

    def said(self, kind: type) -> int:
        """How many messages of a kind were sent, either way."""
        return sum(isinstance(message, kind) for _, message in self.messages)

    def seen(self, kind: type) -> list[ev.Event]:
        return [event for event in self.host_events if isinstance(event, kind)]

    def kinds(self) -> list[type]:
        return [
            type(event)
            for event in self.host_events
            if not isinstance(event, ev.HelloSeen | ev.Progress | ev.Stray)
        ]

    def open(self) -> None:
        self.run(lambda: bool(self.seen(ev.Opened)))


class Round:
    """The owner on the host's side: wants one round done, whatever happens to sessions."""

    def __init__(self, world: World, round: int = 1, head: bytes = HEAD, **fields: object) -> None:
        self.world = world
        self.order = order(round, head, **fields)
        self.head = head
        self.result: ev.ResultReady | None = None
        self.done = False
        world.owner = self.event
        if world.host.info is not None:
            self.assign()

    def assign(self) -> None:
        if self.result is None:
            self.world.host.send_head(self.head)
            self.world.host.train(self.order)
        elif not self.done:
            self.world.host.commit(self.order.round, 0)

    def event(self, event: ev.Event) -> None:
        match event:
            case ev.Opened():
                self.assign()
            case ev.ResultReady(result):
                assert result.round == self.order.round
                assert self.result is None or self.result == event
                self.result = event
                self.world.host.commit(self.order.round, 0)
            case ev.Committed(round):
                assert round == self.order.round
                self.done = True


def finished(world: World, round: int = 1) -> Round:
    """Runs a whole round."""
    job = Round(world, round)
    world.run(lambda: job.done)
    return job


def until(world: World, what: str) -> Callable[[], bool]:
    state = {
        "welcomed": lambda: world.device.in_session,
        "open": lambda: world.host.info is not None,
        "head on its way": lambda: any(way == "down" for way, _ in world.chunks),
        "head there": lambda: world.device.head is not None,
        "training": lambda: world.device.state is State.TRAINING,
        "uploading": lambda: world.device.state is State.UPLOADING,
        "update on its way": lambda: any(way == "up" for way, _ in world.chunks),
        "result there": lambda: bool(world.seen(ev.ResultReady)),
    }
    return state[what]


STATES = [
    "welcomed", "open", "head on its way", "head there", "training", "uploading", "update on its way",
    "result there",
]  # fmt: skip
