"""Fuzz target: the Python link: messages, frames, and both endpoints against whoever speaks to them.

    u8 what & 3: 0 one message | 1 bytes of a line | 2 a host endpoint | 3 a device endpoint, and steps
    what & 4: the endpoint holds a key, and its peer knows it

A step is u8 step and what it takes (see `Scene.step`); frames are sealed here with the session's real id, key
and numbers. Promised, and checked: decode() raises MessageError only; what decodes encodes to what decodes
the same; how a line is cut changes nothing; receive() and poll() never raise; what an endpoint says is sound;
it holds no more than a frame of what it is sent; and afterwards a new peer is heard.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kilofed.link import events as ev
from kilofed.link.blobs import head_bytes, update_bytes
from kilofed.link.device import DeviceEndpoint, Holding
from kilofed.link.errors import FrameError, LinkError, MessageError
from kilofed.link.frames import (
    Direction,
    FrameType,
    RawFrame,
    Splitter,
    encode_encrypted,
    encode_frame,
    frame_header,
    parse_frame,
)
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import (
    FLAG_ENCRYPTED,
    Hello,
    Multiplier,
    Probe,
    State,
    Train,
    Welcome,
    before_proof,
    decode,
    encode,
)
from kilofed.link.secure import EncryptedSession, derive

C, F = 3, 4
HOLDING = Holding(model=b"m" * 8, classes=C, features=F, capacity=20, train=16, held_out=4)
HEAD = random.Random(1).randbytes(head_bytes(1, C, F))
UPDATE = random.Random(2).randbytes(update_bytes(1, C, F))
KEY = random.Random(4).randbytes(32)
STEPS_MOST = 200
OUT_MOST = 1 << 16  # bytes an endpoint may say in one step


def one_input(data: bytes) -> None:
    """One run."""
    if not data:
        return
    what, rest = data[0] & 3, data[1:]
    if what == 0:
        _message(rest)
    elif what == 1:
        _line(rest)
    else:
        (HostScene if what == 2 else DeviceScene)(rest, KEY if data[0] & 4 else None).play()


def _message(data: bytes) -> None:
    try:
        message = decode(data)
    except MessageError:
        return
    encoded = encode(message)
    assert len(encoded) <= len(data)  # shortest form both, and what came may have more elements
    assert decode(encoded) == message


def _line(data: bytes) -> None:
    if not data:
        return
    step, line = data[0] + 1, data[1:]
    whole = list(Splitter(64).feed(line))
    splitter = Splitter(64)
    pieces = [piece for at in range(0, len(line), step) for piece in splitter.feed(line[at : at + step])]
    assert [p for p in whole if p[1]] == [p for p in pieces if p[1]]
    assert b"".join(p[0] for p in whole) == b"".join(p[0] for p in pieces)
    for piece, sound in whole:
        assert piece
        assert len(piece) < 64
        if sound:
            try:
                frame = parse_frame(piece)
            except FrameError:
                continue
            assert frame.covered[3:] == frame.message
            assert len(frame.tag) in (0, 16)
            _message(frame.message)


class Scene(ABC):
    """An endpoint and the program that plays its peer and its owner."""

    peer: Direction
    endpoint: Any

    def __init__(self, data: bytes, key: bytes | None) -> None:
        self.data = data
        self.key = key
        self.at = 0
        self.now = 1000.0
        self.random = random.Random(3)
        self.session: Any = None
        self.sent = 0

    def take(self, size: int) -> bytes:
        """The next bytes of the program; fewer at its end."""
        part = self.data[self.at : self.at + size]
        self.at += size
        return part

    def number(self) -> int:
        """The next byte, 0 at the end."""
        return int.from_bytes(self.take(1), "little")

    def play(self) -> None:
        """Runs the program, then lets a new peer come."""
        for _ in range(STEPS_MOST):
            if self.at >= len(self.data):
                break
            self.step(self.number())
            self.look()
        self.end()

    def step(self, what: int) -> None:
        """0 bytes | 1 session frame | 2 time | 3 clear frame | 4 sound opening | 5.. the owner's calls."""
        kind = what & 7
        if kind == 0:
            self.receive(self.take(self.number()))
        elif kind in (1, 3):
            message = self.take(self.number())
            clear = encode_frame(message, direction=self.peer)
            self.receive(clear if kind == 3 else self.sealed(message, old=bool(what & 8)))
        elif kind == 2:
            self.now += self.number() / 16 if what & 8 else self.number() * 4
            self.endpoint.poll(self.now)
        elif kind == 4:
            self.open()
        else:
            try:
                self.own(kind - 5 + (what >> 3 & 3) * 3)
            except LinkError as error:
                assert error.next_step

    def receive(self, data: bytes) -> None:
        self.now += 0.01
        self.endpoint.receive(data, self.now)

    def sealed(self, message: bytes, *, old: bool = False) -> bytes:
        """A frame that the newest session (or the one it is to replace) takes for the peer's next."""
        session = self.endpoint._session
        pending = getattr(self.endpoint, "_pending", None)
        if pending is not None and not (old and session is not None):
            session = pending.session
        if session is None or not message:
            return b""
        number = session._accepted + 1
        if isinstance(session, EncryptedSession):
            way = session._opening if number >> 16 == session._opening.epoch else session._opening.next()
            header = frame_header(self.peer, FrameType.ENCRYPTED, number)
            return encode_encrypted(header, way.seal(number, header, message))
        return encode_frame(
            message, direction=self.peer, frame=FrameType.SESSION, session=session.id, number=number
        )

    def look(self) -> None:
        """What the endpoint says and tells must be sound."""
        out = self.endpoint.data_to_send()
        assert len(out) < OUT_MOST
        for piece, sound in Splitter(1024).feed(out):
            assert sound
            frame = parse_frame(piece)
            assert frame.direction is not self.peer
            if frame.type is FrameType.ENCRYPTED:
                self.look_inside(frame)
            else:
                decode(frame.message)
        assert out[-1:] in (b"", b"\0")
        for event in self.endpoint.events():
            assert not isinstance(event, ev.Stray) or event.data
            self.told(event)
        deadline = self.endpoint.next_deadline()
        assert deadline is None or deadline == deadline

    def look_inside(self, frame: RawFrame) -> None:
        """A frame that the endpoint has sealed, unless in a session that is over already."""
        assert self.key is not None
        session = self.endpoint._session
        if isinstance(session, EncryptedSession):
            number = session._sent - (session._sent - frame.number & 0xFFFF)
            if number > 0:
                message = session._sealing.open(number, frame.header, frame.message + frame.tag)
                assert message is None or decode(message)

    @abstractmethod
    def told(self, event: Any) -> None:
        """An event."""

    @abstractmethod
    def open(self) -> None:
        """The sound beginning of a session, by the peer."""

    @abstractmethod
    def own(self, what: int) -> None:
        """A call of the endpoint's owner."""

    @abstractmethod
    def end(self) -> None:
        """A new peer comes."""

    def order(self) -> Train:
        """A training order of the program's."""
        rate = Multiplier(0x4000 | self.number(), 18)
        return Train(
            self.number() % 4, self.random.randbytes(8), 1, self.number() % 3, 3, rate, rate, Multiplier()
        )


class HostScene(Scene):
    """A host endpoint against a device."""

    peer = Direction.FROM_DEVICE

    def __init__(self, data: bytes, key: bytes | None) -> None:
        super().__init__(data, key)
        known = [key] if key is not None else []
        self.endpoint = HostEndpoint(
            rng=self.random.randbytes, keys=lambda _: known, insecure=not known, max_frame=256, window=512
        )
        self.opened = 0

    def told(self, event: Any) -> None:
        if isinstance(event, ev.Opened):
            self.opened += 1
        if isinstance(event, ev.ResultReady):
            assert (event.update is None) == (event.result.update is None)

    def hello(self) -> Hello:
        flags = 0 if self.key is None else FLAG_ENCRYPTED
        return Hello(1, b"devicei\0", self.random.randbytes(8), "fuzz", 1, 128, 256, flags)

    def info(self) -> bytes:
        from kilofed.link.messages import Info

        return encode(Info(b"m" * 8, b"l" * 8, C, F, 20, 16, 4, None, State.IDLE, 0))

    def open(self) -> None:
        self.receive(encode_frame(encode(self.hello()), direction=self.peer))
        self.receive(self.sealed(self.info()))

    def own(self, what: int) -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: self.endpoint.send_head(HEAD + self.take(1)),
            lambda: self.endpoint.train(self.order()),
            lambda: self.endpoint.commit(self.number() % 4),
            lambda: self.endpoint.cancel(self.number() % 4),
            lambda: self.endpoint.disconnected("pulled out"),
            lambda: self.endpoint.poll(self.now),
        )
        calls[what % len(calls)]()

    def end(self) -> None:
        opened = self.opened
        self.receive(b"\0")
        self.now += 100
        self.open()
        self.look()
        assert self.opened > opened
        assert self.endpoint.info is not None


class DeviceScene(Scene):
    """A device endpoint against a host."""

    peer = Direction.FROM_HOST

    def __init__(self, data: bytes, key: bytes | None) -> None:
        super().__init__(data, key)
        self.asked: Train | None = None
        self.endpoint = DeviceEndpoint(
            device_id=b"devicei\0", board="fuzz", firmware=1, holding=HOLDING, rng=self.random.randbytes,
            take_head=lambda blob: len(blob) % 7 if blob != HEAD else 0, key=key, max_frame=128, window=256,
        )  # fmt: skip

    def told(self, event: Any) -> None:
        if isinstance(event, ev.TrainAsked):
            self.asked = event.order

    def open(self) -> None:
        hello = self.endpoint._hello
        welcome = Welcome(1, hello.device_nonce, self.random.randbytes(8), 72 + self.number(), 2000)
        if self.key is not None:
            sized = before_proof(encode(replace(welcome, proof=bytes(16))))
            welcome = replace(welcome, proof=derive(self.key, encode(hello), sized).proof)
        self.receive(encode_frame(encode(welcome), direction=self.peer))

    def own(self, what: int) -> None:
        order = self.asked or self.order()
        number = self.number()
        calls: tuple[Callable[[], object], ...] = (
            lambda: self.endpoint.progress(order, number * 5, number),
            lambda: self.endpoint.finish(
                order, UPDATE if order.wants_update else None, train=16, held_out=4, loss_q12=number,
                base_correct=1, own_correct=2, elapsed_ms=number,
            ),
            lambda: self.endpoint.fail(order, 2, number),
            lambda: self.endpoint.busy(number),
            lambda: self.endpoint.disconnected(),
            lambda: self.endpoint.update(Holding(b"m" * 8, C, F, 20, number % 17, 4, collecting=number > 99)),
        )  # fmt: skip
        calls[what % len(calls)]()

    def end(self) -> None:
        self.receive(b"\0")
        self.receive(encode_frame(encode(Probe(1)), direction=self.peer))
        self.open()
        self.look()
        assert self.endpoint.in_session
