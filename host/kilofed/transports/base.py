"""What the link needs of a pipe: bytes in order, either way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable


class Transport(ABC):
    """A byte pipe: what serial lines, TCP and tests implement.

    Call order: read and write in any order and from two tasks, at most one of each at a time; close
    last, once or more often. All three methods are required.

    name: the port or address, for people and logs.
    """

    name: str

    @abstractmethod
    async def read(self) -> bytes:
        """The next bytes, at least one and at most READ_BYTES; waits for them.

        b"" when the pipe has ended in good order. Raises TransportClosed when it broke.
        """

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Hands `data` to the pipe; returns when all of it fits in the pipe's bounded buffer.
        TransportClosed: it broke.
        """

    @abstractmethod
    async def close(self) -> None:
        """Closes it; a read that waits ends with b"". Never raises."""


class Buffered(Transport):
    """A pipe that keeps what comes until it is taken: two calls without a wait, for many lines in one loop.

    on_change: called when `take` has something new to say; None for nobody.
    """

    on_change: Callable[[], None] | None = None

    @abstractmethod
    def take(self) -> bytes | None:
        """As `read`, of what is there already; None when that is nothing."""

    @abstractmethod
    def give(self, data: bytes) -> bool:
        """As `write`, without the wait: False when the buffer is full, and then `write` waits for room."""


READ_BYTES = 65536
