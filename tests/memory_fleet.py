"""Devices in memory, for tests of the host: the real far end of the link, the real trainer, no process.

A `MemoryDevice` is what kilofed-pi is, less its backbone: it starts with features. `Fault` makes it
misbehave.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilofed.connection import Connection
from kilofed.link.device import DeviceEndpoint, Holding
from kilofed.link.events import CancelAsked, CommitAsked, TrainAsked
from kilofed.link.messages import PERSONALISE, Train
from kilofed.rounds.engine import Engine
from kilofed.rounds.globalmodel import GlobalModel
from kilofed.transports.base import Transport
from kilofed_tools import heads, trainer, updates

MODEL = Path(__file__).resolve().parents[1] / "models" / "digits" / "digits.tflite"
HOLDOUT = 5


def model_bytes() -> bytes:
    """The committed digits model, whose head is zero."""
    return MODEL.read_bytes()


class Pipe(Transport):
    """One end of a pipe in memory."""

    def __init__(self, name: str, inward: asyncio.Queue[bytes], outward: asyncio.Queue[bytes]) -> None:
        self.name = name
        self._in, self._out = inward, outward
        self._closed = False

    async def read(self) -> bytes:
        if self._closed:
            return b""
        data = await self._in.get()
        if not data:
            self._closed = True
        return data

    async def write(self, data: bytes) -> None:
        if data and not self._closed:
            self._out.put_nowait(data)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._in.put_nowait(b"")
        self._out.put_nowait(b"")


def pipe(name: str) -> tuple[Pipe, Pipe]:
    """Both ends."""
    up: asyncio.Queue[bytes] = asyncio.Queue()
    down: asyncio.Queue[bytes] = asyncio.Queue()
    return Pipe(name, up, down), Pipe(name, down, up)


@dataclass
class Fault:
    """How a device misbehaves. rounds: at which of its trainings (1, 2, ...); every one when empty.

    silent: it trains for ever. vanish: its line ends in the middle. stay_away: and it does not come back.
    error: it answers train with this number. Others replace what it says in its result.
    """

    rounds: frozenset[int] = frozenset()
    silent: bool = False
    vanish: bool = False
    stay_away: bool = False
    error: int = 0
    train: int | None = None
    held_out: int | None = None
    own_correct: int | None = None
    update: bytes | None = None
    codec: int | None = None
    no_update: bool = False


@dataclass
class MemoryDevice:
    """A device. x: int features [n, F] less their zero point; y: labels; id: 8 bytes.

    What happened to it is in the lists at the end.
    """

    id: bytes
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    model: bytes = field(repr=False)
    fault: Fault | None = None
    key: bytes | None = None
    delay: float = 0.0
    capacity: int = 1000
    collecting: bool = False
    orders: list[Train] = field(default_factory=list)
    committed: list[tuple[int, int]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    residual: updates.Residual | None = None

    def __post_init__(self) -> None:
        self.global_model = GlobalModel(self.model)
        self._next: updates.Residual | None = None
        self._head: heads.Head | None = None
        self._training: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        rng = random.Random(self.id)
        train, held = trainer.split(len(self.y), HOLDOUT)
        self.holding = Holding(
            model=self.global_model.hash,
            classes=self.global_model.classes,
            features=self.global_model.features,
            capacity=self.capacity,
            train=len(train),
            held_out=len(held),
            labels=self.global_model.labels_hash,
            collecting=self.collecting,
        )
        self.endpoint = DeviceEndpoint(
            device_id=self.id,
            board="memory",
            firmware=0x000100,
            holding=self.holding,
            rng=rng.randbytes,
            take_head=self._take_head,
            key=self.key,
        )

    def finish_collecting(self) -> None:
        """All samples are features now."""
        self.holding = replace(self.holding, collecting=False)
        self.endpoint.update(self.holding)
        self._wake.set()

    async def run(self, transport: Transport) -> None:
        """Speaks over the transport until it ends."""
        loop = asyncio.get_running_loop()
        reading = asyncio.ensure_future(transport.read())
        try:
            while True:
                self.endpoint.poll(loop.time())
                await self._events(transport)
                await transport.write(self.endpoint.data_to_send())
                due = self.endpoint.next_deadline()
                waking = asyncio.ensure_future(self._wake.wait())
                delay = None if due is None else max(0.0, due - loop.time())
                await asyncio.wait({reading, waking}, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self._wake.clear()
                if reading.done():
                    data = reading.result()
                    if not data:
                        break
                    self.endpoint.receive(data, loop.time())
                    reading = asyncio.ensure_future(transport.read())
        finally:
            reading.cancel()
            self.endpoint.disconnected()

    async def _events(self, transport: Transport) -> None:
        for event in self.endpoint.events():
            match event:
                case TrainAsked(order):
                    self.orders.append(order)
                    fault = self._fault()
                    if fault and fault.vanish:
                        await transport.close()
                    self._training = asyncio.ensure_future(self._train(order, fault))
                case CancelAsked(number):
                    self.cancelled.append(number)
                    if self._training:
                        self._training.cancel()
                case CommitAsked(number, verdict):
                    self.committed.append((number, verdict))
                    if verdict == 0 and self._next is not None:
                        self.residual = self._next
                case _:
                    pass

    def _fault(self) -> Fault | None:
        if self.fault is None or (self.fault.rounds and len(self.orders) not in self.fault.rounds):
            return None
        return self.fault

    def _take_head(self, blob: bytes) -> int:
        self._head = heads.decode_head(blob)
        return 0

    async def _train(self, order: Train, fault: Fault | None) -> None:
        assert self._head is not None
        await asyncio.sleep(self.delay)
        if fault and fault.silent:
            await asyncio.sleep(3600)
        if fault and fault.error:
            self.endpoint.fail(order, fault.error)
            self._wake.set()
            return
        base_W, base_b = heads.master(self._head)
        slots, held = trainer.split(len(self.y), HOLDOUT)
        settings = trainer.TrainConfig(
            epochs=order.epochs,
            batch=order.batch,
            lr_w=trainer.Rate(order.lr_weights.mantissa, order.lr_weights.shift),
            lr_b=trainer.Rate(order.lr_bias.mantissa, order.lr_bias.shift),
            prox=trainer.Rate(order.prox.mantissa, order.prox.shift),
            seed=order.seed,
        )
        result = trainer.train(base_W, base_b, self.x[slots], self.y[slots], settings, base=(base_W, base_b))
        blob: bytes | None = None
        if not order.flags & PERSONALISE:
            codec = updates.Codec(order.codec if not fault or fault.codec is None else fault.codec)
            blob, self._next = updates.encode_update(result.W, result.b, base_W, base_b, codec, self.residual)
        if fault and fault.update is not None:
            blob = fault.update
        if fault and fault.no_update:
            blob = None
        if blob is not None:
            self.sent.append(blob)
        own = trainer.evaluate(result.W, result.b, self.x[held], self.y[held])
        self.endpoint.finish(
            order,
            blob,
            train=len(slots) if not fault or fault.train is None else fault.train,
            held_out=len(held) if not fault or fault.held_out is None else fault.held_out,
            loss_q12=result.loss_q12,
            base_correct=trainer.evaluate(base_W, base_b, self.x[held], self.y[held]),
            own_correct=own if not fault or fault.own_correct is None else fault.own_correct,
            elapsed_ms=7,
        )
        self._wake.set()


def make_devices(count: int, *, samples: int = 40, seed: int = 3) -> list[MemoryDevice]:
    """Devices whose features cluster by class; each has five classes, two of them its neighbour's too."""
    rng = np.random.default_rng(seed)
    model = model_bytes()
    spec = GlobalModel(model)
    centres = rng.integers(0, 200, (spec.classes, spec.features))
    devices = []
    for number in range(count):
        classes = [(3 * number + k) % spec.classes for k in range(5)]
        y = rng.choice(classes, samples).astype(np.int64)
        x = np.clip(centres[y] + rng.integers(-60, 60, (samples, spec.features)), 0, 255).astype(np.int64)
        devices.append(MemoryDevice(bytes([0xA0 + number]) * 8, x, y, model))
    return devices


async def serve(engine: Engine, device: MemoryDevice) -> None:
    """Connects a device to an engine, and again whenever its line has ended, until cancelled."""
    while True:
        near, far = pipe(device.id.hex()[:4])
        async with Connection(engine.endpoint(), near) as connection:
            engine.attach(connection)
            await device.run(far)
            await near.close()
        fault = device.fault
        if fault and fault.stay_away:
            await asyncio.sleep(3600)
        await asyncio.sleep(0.02)
