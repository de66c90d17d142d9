"""A HostEndpoint running over a transport: one task a line.

    async with Connection.serial("/dev/ttyACM0", endpoint=endpoint) as connection:
        async for event in connection.events():
            match event:
                case Opened(hello, info): connection.send_head(blob); connection.train(order)
                case ResultReady(result, update): connection.commit(result.round)

A serial line that vanishes is opened again with back-off for as long as the connection lives (`Lost`, later `Opened`). A
TCP connection that ends ends the connection: `Lost` if a session was open, then events() is exhausted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType

from kilofed.link.events import Event
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Reason, TrainOrder
from kilofed.transports.base import Transport


class Connection:
    """Runs `endpoint` over `transport`, or over what `reopen` gives whenever there is none.

    Exactly one of transport and reopen is needed to begin with. name: for logs; the transport's by default. Commands are
    the endpoint's, may be called from any coroutine of the loop, and never block. Events queue up to `queue` of them,
    then the line is read no further until some are taken (stray bytes are dropped first).
    """

    def __init__(
        self,
        endpoint: HostEndpoint,
        transport: Transport | None = None,
        *,
        reopen: Callable[[], Awaitable[Transport]] | None = None,
        name: str = "",
        queue: int = 256,
    ) -> None:
        self.endpoint = endpoint
        raise NotImplementedError

    @classmethod
    def serial(cls, url: str, *, endpoint: HostEndpoint, baud: int = 115200) -> Connection:
        """Over a serial port or any URL pyserial knows; opened on entry, and again whenever it went away."""
        raise NotImplementedError

    async def __aenter__(self) -> Connection:
        """Starts the task. With `reopen`, the first opening happens here and its error is raised here."""
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says bye, waits at most a second for it to leave, closes the transport."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        raise NotImplementedError

    def events(self) -> AsyncIterator[Event]:
        """Events in order until the connection is closed or, over TCP, has ended. One consumer at a time."""
        raise NotImplementedError

    def send_head(self, blob: bytes) -> None: ...

    def train(self, order: TrainOrder) -> None: ...

    def commit(self, round: int, verdict: int = 0) -> None: ...

    def cancel(self, round: int) -> None: ...

    async def close(self, reason: Reason = Reason.SHUTTING_DOWN) -> None:
        """As leaving the context."""
        raise NotImplementedError
