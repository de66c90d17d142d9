"""Devices that lie: the real far end of the link over TCP, whose words somebody bends before they leave.

Real firmware cannot be made to say these things, so the link's Python device says them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from tests.memory_fleet import MemoryDevice, make_devices, model_bytes

from kilofed.fleet import NO_KEY, Device
from kilofed.link.device import DeviceEndpoint
from kilofed.link.errors import LinkError
from kilofed.link.messages import Hello, Message, Welcome
from kilofed.link.session import Session
from kilofed.transports import tcp

KEY = bytes(range(32))

Said: TypeAlias = Sequence[Message | bytes]
Lie: TypeAlias = Callable[[Message], Said]


def honest(message: Message) -> Said:
    """Says what it has to say."""
    return [message]


class LyingEndpoint(DeviceEndpoint):
    """Passes what it says in a session through `lie`. Bytes go into a sound frame as they are."""

    lie: Lie = staticmethod(honest)
    greet: Callable[[Hello], Hello] = staticmethod(lambda hello: hello)

    def _say(self, message: Message) -> None:
        for said in self.lie(message):
            if not isinstance(said, bytes):
                super()._say(said)
            elif self._session is not None:
                self._out += self._session.seal(said)

    def _say_clear(self, message: Message) -> None:
        super()._say_clear(self.greet(message) if isinstance(message, Hello) else message)

    def _session_of(self, welcome: Welcome, raw: bytes) -> Session | None:
        """The hello is part of the keys: a lie in it is stuck to."""
        sound, self._hello = self._hello, self.greet(self._hello)
        try:
            return super()._session_of(welcome, raw)
        finally:
            self._hello = sound


class Liar(MemoryDevice):
    """A device of tests.memory_fleet with a lying endpoint. `device`: what registers it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.connections = 0
        self.lock(KEY)

    def lock(self, key: bytes | None) -> None:
        """Gives it this key, None: its sessions are in the clear. Before its lie, and before it visits."""
        self.key = key
        self.endpoint: LyingEndpoint = LyingEndpoint(
            device_id=self.id,
            board="memory",
            firmware=0x000100,
            holding=self.holding,
            rng=random.Random(self.id).randbytes,
            take_head=self._take_head,
            key=key,
        )

    @property
    def device(self) -> Device:
        """Its registration."""
        return Device(
            self.id,
            "liar" if self.id[0] == 0xEE else f"liar-{self.id[0]:x}",
            "posix",
            self.key or NO_KEY,
            0.0,
        )

    def hold(self, **fields: object) -> None:
        """Other figures in its info, from the start."""
        self.holding = replace(self.holding, **fields)  # type: ignore[arg-type]
        self.endpoint._holding = self.holding

    async def visit(self, port: int) -> None:
        """Connects, and again whenever it was cut off, until cancelled."""
        while True:
            with contextlib.suppress(LinkError):
                transport = await tcp.connect("127.0.0.1", port)
                self.connections += 1
                try:
                    await self.run(transport)
                finally:
                    await transport.close()
            await asyncio.sleep(0.05)


def make_liar(lie: Lie = honest, *, id: bytes = b"\xee" * 8, **fields: object) -> Liar:
    """A liar with samples of its own. fields: of MemoryDevice."""
    sound = make_devices(1, seed=9)[0]
    liar = Liar(id, sound.x, sound.y, model_bytes(), **fields)  # type: ignore[arg-type]
    liar.endpoint.lie = lie
    return liar
