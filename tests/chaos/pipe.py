"""One direction of a line, sans-IO: bytes and time in, bytes and a deadline out.

    pipe = Pipe(Medium(baud=115200, flip=1e-4, drop=0.01), seed=3)
    pipe.send(data, now)
    data = pipe.take(now)          what has arrived by now
    pipe.due                       when the next bytes arrive; None: nothing is under way

Time is the caller's, in seconds. The same seed does the same to the same bytes sent at the same times.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

BITS_A_BYTE = 10  # of a UART: start, eight, stop


@dataclass(frozen=True)
class Medium:
    """What a direction does to what it carries.

    baud: bits a second, 0: any number at once. delay: seconds on the way. tick: what has arrived is handed on
    at multiples of it only, as a USB serial adapter's latency timer does, seconds.

    To pieces, which end with a 0x00, each with its own probability: drop (lost), repeat (comes twice), cut
    (loses its end, delimiter included), noise (up to 40 random bytes before it), reorder (comes after the
    next one: no UART and no TCP does, a broker may). To each bit: flip.
    """

    baud: int = 0
    delay: float = 0.002
    tick: float = 0.0
    drop: float = 0.0
    repeat: float = 0.0
    cut: float = 0.0
    noise: float = 0.0
    reorder: float = 0.0
    flip: float = 0.0


class Pipe:
    """A direction in use.

    sent: bytes that went in. busy: seconds that the line was sending. silent: nothing that goes in arrives
    any more, and the sender is not told: half of a half-open line. cut_after: bytes until the cable is
    pulled; the byte it falls on is lost, and `broken` is set: whoever runs the line ends both directions.
    """

    def __init__(self, medium: Medium, *, seed: int = 0) -> None:
        self.medium = medium
        self.sent = 0
        self.busy = 0.0
        self.silent = False
        self.broken = False
        self.cut_after: int | None = None
        self._random = random.Random(seed)
        self._free = float("-inf")  # when the line has sent what it was given
        self._held = bytearray()  # a piece without its end
        self._late = b""  # a piece that comes after the next one
        self._way: deque[tuple[float, bytes]] = deque()

    def send(self, data: bytes, now: float) -> None:
        """The sender has written this."""
        self.sent += len(data)
        if self.cut_after is not None:
            left, self.cut_after = self.cut_after, self.cut_after - len(data)
            if self.cut_after < 0:
                data, self.cut_after, self.broken = data[:left], None, True
        if self.silent:
            return
        self._held += data
        while (end := self._held.find(0)) >= 0:
            piece = bytes(self._held[: end + 1])
            del self._held[: end + 1]
            self._carry(piece, now)
        if self.broken and self._held:
            self._put(bytes(self._held), now)
            self._held.clear()

    @property
    def free(self) -> float:
        """When the line has sent all it was given."""
        return self._free

    @property
    def due(self) -> float | None:
        """When the next bytes arrive."""
        return self._way[0][0] if self._way else None

    def take(self, now: float) -> bytes:
        """What has arrived."""
        out = bytearray()
        while self._way and self._way[0][0] <= now:
            out += self._way.popleft()[1]
        return bytes(out)

    def clear(self) -> None:
        """The cable is in again: what was under way is lost, and the line is whole."""
        self._way.clear()
        self._held.clear()
        self._late = b""
        self._free = float("-inf")
        self.broken = self.silent = False

    def _carry(self, piece: bytes, now: float) -> None:
        medium = self.medium
        if self._hits(medium.noise):
            self._put(self._random.randbytes(self._random.randrange(1, 41)), now)
        if self._hits(medium.drop):
            self._pass(len(piece), now)
            return
        if medium.flip:
            piece = self._flipped(piece)
        if self._hits(medium.cut):
            piece = piece[: self._random.randrange(len(piece))]
        copies = 2 if self._hits(medium.repeat) else 1
        if medium.reorder and not self._late and self._hits(medium.reorder):
            self._late = piece * copies
            return
        for _ in range(copies):
            self._put(piece, now)
        if self._late:
            late, self._late = self._late, b""
            self._put(late, now)

    def _flipped(self, piece: bytes) -> bytes:
        """Each bit with the probability `flip`: the distances between hits are geometric."""
        bits = 8 * len(piece)
        bent = bytearray(piece)
        scale = math.log1p(-self.medium.flip)
        at = int(math.log(1.0 - self._random.random()) / scale)
        while at < bits:
            bent[at // 8] ^= 1 << at % 8
            at += 1 + int(math.log(1.0 - self._random.random()) / scale)
        return bytes(bent)

    def _pass(self, size: int, now: float) -> float:
        """The line sends so many bytes; when the last has left it."""
        begins = max(now, self._free)
        takes = size * BITS_A_BYTE / self.medium.baud if self.medium.baud else 0.0
        self.busy += takes
        self._free = begins + takes
        return self._free

    def _put(self, data: bytes, now: float) -> None:
        if not data:
            return
        arrives = self._pass(len(data), now) + self.medium.delay
        tick = self.medium.tick
        if tick:
            arrives = math.ceil(arrives / tick) * tick
        self._way.append((arrives, data))

    def _hits(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability
