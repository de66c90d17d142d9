"""Two ends of a pipe inside one process, and what can go wrong on one: for tests and experiments."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from kilofed.link.errors import TransportClosed
from kilofed.transports.base import Transport

_BUFFER_BYTES = 65536


@dataclass
class Faults:
    """Damages a byte stream, piece by piece (a piece ends with its 0x00).

    Each kind of damage has its own probability, 0..1. drop: the piece is lost. flip: one of its bits is.
    repeat: it comes twice. noise: up to 40 random bytes come before it. cut: it loses its end, delimiter
    included. The same seed damages the same stream in the same way.
    """

    seed: int = 0
    drop: float = 0.0
    flip: float = 0.0
    repeat: float = 0.0
    noise: float = 0.0
    cut: float = 0.0
    _random: random.Random = field(init=False, repr=False)
    _held: bytearray = field(init=False, repr=False, default_factory=bytearray)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def feed(self, data: bytes) -> bytes:
        """What arrives of what was sent. A piece without its delimiter is held back until that comes."""
        self._held += data
        out = bytearray()
        while (end := self._held.find(0)) >= 0:
            piece = self._held[: end + 1]
            del self._held[: end + 1]
            if self._hits(self.noise):
                out += self._random.randbytes(self._random.randrange(1, 41))
            if self._hits(self.drop):
                continue
            if self._hits(self.flip):
                piece[self._random.randrange(len(piece))] ^= 1 << self._random.randrange(8)
            if self._hits(self.cut):
                del piece[self._random.randrange(len(piece)) :]
            out += piece
            if self._hits(self.repeat):
                out += piece
        return bytes(out)

    def _hits(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability


class MemoryTransport(Transport):
    """One end; made by `pair`. Holds at most 64 KiB that the other end has not read: then writes wait."""

    def __init__(self, name: str, faults: Faults | None) -> None:
        self.name = name
        self._faults = faults  # on what this end sends
        self._arrived = bytearray()
        self._changed = asyncio.Event()
        self._ended = False
        self._peer: MemoryTransport | None = None

    async def read(self) -> bytes:
        while not self._arrived and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._arrived)
        self._arrived.clear()
        self._wake()
        return data

    async def write(self, data: bytes) -> None:
        if self._faults is not None:
            data = self._faults.feed(data)
        peer = self._peer
        while peer is not None and not self._ended and len(peer._arrived) >= _BUFFER_BYTES:
            self._changed.clear()
            await self._changed.wait()
        if peer is None or self._ended:
            raise TransportClosed(f"{self.name} is closed", "open it again", name=self.name)
        peer._arrived += data
        peer._changed.set()

    async def close(self) -> None:
        self._ended = True
        self._wake()
        if self._peer is not None:
            self._peer._ended = True
            self._peer._changed.set()

    def _wake(self) -> None:
        self._changed.set()
        if self._peer is not None:
            self._peer._changed.set()


def pair(
    *, a_to_b: Faults | None = None, b_to_a: Faults | None = None
) -> tuple[MemoryTransport, MemoryTransport]:
    """The two ends of a pipe, named "memory a" and "memory b". Closing either ends both."""
    a, b = MemoryTransport("memory a", a_to_b), MemoryTransport("memory b", b_to_a)
    a._peer, b._peer = b, a
    return a, b
