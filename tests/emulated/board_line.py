"""A host at the end of an emulated board's line, and what to place into its memory."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from kilofed.boards import Emulator, Identity
from kilofed.boards.placed import encode
from kilofed.link.events import Event
from kilofed.link.host import HostEndpoint

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits" / "digits.tflite"
BOARDS = [
    "microbit",
    "mps2-an385",
    "mps2-an386",
    "mps2-an500",
    "mps2-an505",
    "mps3-an547",
    "pico",
    "stm32f405",
]
IDENTITY = Identity(b"\x01\x02\x03\x04\x05\x06\x07\x08", bytes(range(32)), "kitchen")

EventT = TypeVar("EventT", bound=Event)


class Line:
    """A host at the end of a board's serial line, driven by hand: no tasks, no threads."""

    def __init__(self, connect: Callable[[], socket.socket], check: Callable[[], None]) -> None:
        """connect: opens the line, again for `reconnect`. check: raises when the other end has died."""
        self.received = bytearray()
        self.endpoint = HostEndpoint(rng=secrets.token_bytes, keys=lambda _: [IDENTITY.key])
        self._connect, self._check = connect, check
        self._socket = connect()
        self._socket.setblocking(False)
        self._waiting: list[Event] = []

    @classmethod
    def to(cls, emulated: Emulator) -> Line:
        """The line to an emulated board."""
        host, port = emulated.url.removeprefix("socket://").split(":")
        return cls(lambda: socket.create_connection((host, int(port))), emulated.check)

    def reconnect(self) -> None:
        """As after a board's power came back: a new connection, and a host that has forgotten everything."""
        self._socket.close()
        self._socket = self._connect()
        self._socket.setblocking(False)
        self.endpoint = HostEndpoint(rng=secrets.token_bytes, keys=lambda _: [IDENTITY.key])
        self._waiting.clear()

    def send(self, data: bytes) -> None:
        """Raw bytes onto the line, all of them."""
        self._socket.setblocking(True)
        self._socket.sendall(data)
        self._socket.setblocking(False)

    def turn(self, *, quiet: bool = False) -> None:
        """Take what has come; unless quiet, let the host answer."""
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            data = b""
            time.sleep(0.002)
        self.received += data
        if quiet:
            return
        now = time.monotonic()
        self.endpoint.receive(data, now)
        self.endpoint.poll(now)
        if out := self.endpoint.data_to_send():
            self.send(out)
        self._waiting += self.endpoint.events()

    def text(self, wanted: bytes, *, seconds: float = 10) -> None:
        """Wait until `wanted` was among the bytes received, sending nothing."""
        deadline = time.monotonic() + seconds
        while wanted not in self.received:
            self._check()
            assert time.monotonic() < deadline, (
                f"{wanted!r} did not come, but {bytes(self.received[-300:])!r}"
            )
            self.turn(quiet=True)

    def event(
        self,
        kind: type[EventT],
        matching: Callable[[EventT], bool] = lambda event: True,
        *,
        seconds: float = 20,
    ) -> EventT:
        """Wait for the next event of a kind; events before it are dropped."""
        deadline = time.monotonic() + seconds
        seen: list[Event] = []
        while True:
            while self._waiting:
                event = self._waiting.pop(0)
                seen.append(event)
                if isinstance(event, kind) and matching(event):
                    return event
            self._check()
            assert time.monotonic() < deadline, f"no {kind.__name__} in {seconds} s, but {seen}"
            self.turn()

    def close(self) -> None:
        self._socket.close()


def placed(count: int, *, seed: int = 1, classes: int = 10) -> bytes:
    """A placed file of `count` random digits-sized samples."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(-128, 128, (count, 28 * 28), np.int8)
    return encode(inputs, rng.integers(0, classes, count))
