"""An endpoint running over a transport: one task a line.

    async with Connection.serial("/dev/ttyACM0", endpoint=endpoint) as connection:
        async for event in connection.events():
            match event:
                case Opened(hello, info): connection.send_head(blob); connection.train(order)
                case ResultReady(result, update): connection.commit(result.round)

A serial line that vanishes is opened again with back-off for as long as the connection lives (`Lost`, later
`Opened`). A TCP connection that ends, or has had no session for half a minute to a minute, ends the
connection: `Lost` if a session was open, then events() is exhausted.

`Wake` and `run_endpoint` are the loop inside, for either role: kilofed-pi runs the device's side with them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

from kilofed.link.endpoint import Endpoint
from kilofed.link.errors import TransportClosed, TransportError
from kilofed.link.events import Event, Stray
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Reason, TrainOrder
from kilofed.transports.base import Buffered, Transport
from kilofed.transports.serial import BAUD, open_serial

WRITE_SECONDS = 10.0  # a pipe that takes nothing for so long is broken
BYE_SECONDS = 1.0
SESSION_SECONDS = 30.0  # a connection nobody opens a session on for so long makes room for another
MOST_WAITING = 256  # connections without a session; one more, and who has waited longest goes
REOPEN_SECONDS = (0.2, 5.0)  # first and longest wait before a line is opened again

EventT = TypeVar("EventT")


class Wake:
    """Ends the wait of a loop. Set while nobody waits, it ends the next wait. Not for other threads."""

    __slots__ = ("_set", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wakes."""
        self._set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def sleep(self) -> None:
        """Until set."""
        if not self._set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._set = False

    async def wait(self, timeout: float | None, other: asyncio.Future[Any] | None = None) -> None:
        """Until set, `timeout` seconds have passed, or `other` is done."""
        if not self._set:
            self._waiter = asyncio.get_running_loop().create_future()
            waited = [self._waiter] if other is None else [self._waiter, other]
            try:
                await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._waiter.cancel()
                self._waiter = None
        self._set = False


class _Alarm:
    """Sets a wake at a time that is often moved: one timer, which is left where it is when moved on."""

    __slots__ = ("_loop", "_timer", "_wake", "_when")

    def __init__(self, wake: Wake) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._when = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def at(self, when: float) -> None:
        """At this time of the loop's clock, and no other."""
        self._when = when
        if self._timer is None or when < self._timer.when():
            self.cancel()
            self._timer = self._loop.call_at(when, self._ring)

    def cancel(self) -> None:
        """Not at all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._loop.time() < self._when:
            self.at(self._when)
        else:
            self._wake.set()


async def run_endpoint(
    endpoint: Endpoint[EventT],
    transport: Transport,
    *,
    wake: Wake,
    deliver: Callable[[list[EventT | Stray]], Awaitable[None]],
    capture: Callable[[bool, bytes], None] | None = None,
) -> None:
    """Moves bytes between the two.

    Returns when the pipe ends or the endpoint is closed; raises TransportClosed when the pipe breaks.
    deliver: gets events in order; while it waits, the line is read no further. wake: set it after using the
    endpoint directly. capture: told of all bytes, (True, what was received) and (False, what is sent).
    """
    if isinstance(transport, Buffered):
        await _run_buffered(endpoint, transport, wake, deliver, capture)
        return
    clock = asyncio.get_running_loop().time
    read = asyncio.ensure_future(transport.read())
    try:
        while True:
            endpoint.poll(clock())
            while True:
                data, events = endpoint.data_to_send(), endpoint.events()
                if data:
                    if capture is not None:
                        capture(False, data)
                    await _write(transport, data)
                if events:
                    await deliver(events)
                if not data and not events:
                    break
            deadline = endpoint.next_deadline()
            if deadline is None:
                return
            await wake.wait(max(0.0, deadline - clock()), read)
            if read.done():
                received = read.result()
                if not received:
                    return
                if capture is not None:
                    capture(True, received)
                endpoint.receive(received, clock())
                read = asyncio.ensure_future(transport.read())
    finally:
        read.cancel()
        with contextlib.suppress(asyncio.CancelledError, TransportError):
            await read


async def _run_buffered(
    endpoint: Endpoint[EventT],
    transport: Buffered,
    wake: Wake,
    deliver: Callable[[list[EventT | Stray]], Awaitable[None]],
    capture: Callable[[bool, bytes], None] | None,
) -> None:
    """The same without a task for reading and a timer for each wait: what costs most with many lines."""
    clock = asyncio.get_running_loop().time
    alarm = _Alarm(wake)
    transport.on_change = wake.set
    try:
        received: bytes | None = None
        wake.set()  # for what came before on_change
        while True:
            if received is None:
                endpoint.poll(clock())
            elif not received:
                return
            else:
                if capture is not None:
                    capture(True, received)
                endpoint.receive(received, clock())
            while True:
                data, events = endpoint.data_to_send(), endpoint.events()
                if data:
                    if capture is not None:
                        capture(False, data)
                    if not transport.give(data):
                        await _write(transport, b"")  # somebody reads slowly: that costs this line only
                if events:
                    await deliver(events)
                if not data and not events:
                    break
            deadline = endpoint.next_deadline()
            if deadline is None:
                return
            alarm.at(deadline)
            await wake.sleep()
            received = transport.take()
    finally:
        alarm.cancel()
        transport.on_change = None


async def _write(transport: Transport, data: bytes) -> None:
    try:
        await asyncio.wait_for(transport.write(data), WRITE_SECONDS)
    except asyncio.TimeoutError as error:
        what = f"{transport.name} takes no bytes"
        raise TransportClosed(what, "restart what is behind it", name=transport.name) from error


class Lobby:
    """Bounds the connections from outside on which no session is open.

    Whoever connects may be a stranger, and only a session says that it is not. So strangers cost `most`
    connections and no more, and push out each other: a device needs one round trip to be safe from them.
    on_full: called the first time that one is pushed out.
    """

    def __init__(self, most: int = MOST_WAITING, *, on_full: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._on_full = on_full
        self._waiting: list[Connection] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.pushed_out = 0

    def enter(self, line: Connection) -> None:
        """Takes a new connection; it leaves by itself once a session is open on it, or when it ends."""
        self._waiting = [waits for waits in self._waiting if waits.waits]
        if len(self._waiting) >= self._most:
            task = asyncio.get_running_loop().create_task(self._waiting.pop(0).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self.pushed_out += 1
            if self.pushed_out == 1:
                self._on_full()
        self._waiting.append(line)


class Connection:
    """Runs `endpoint` over `transport`, or over what `reopen` gives whenever there is none.

    Exactly one of transport and reopen is needed. name: for logs; the transport's by default. Commands are
    the endpoint's, may be called from any coroutine of the loop, and never block. Events queue up to
    `queue` of them, then the line is read no further until some are taken (stray bytes are dropped first).
    capture: see `run_endpoint`.
    """

    def __init__(
        self,
        endpoint: HostEndpoint,
        transport: Transport | None = None,
        *,
        reopen: Callable[[], Awaitable[Transport]] | None = None,
        name: str = "",
        queue: int = 256,
        capture: Callable[[bool, bytes], None] | None = None,
    ) -> None:
        if (transport is None) == (reopen is None):
            raise ValueError("a connection needs a transport or a way to open one, and not both")
        self.endpoint = endpoint
        self.trouble: TransportError | None = None  # why there is no line now
        self._transport = transport
        self._reopen = reopen
        self._name = name or (transport.name if transport is not None else "")
        self._capture = capture
        self._most = queue
        self._events: list[Event] = []
        self._arrived = Wake()
        self._taken = Wake()
        self._wake = Wake()
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._sessions = 0  # that were opened when it was looked at last
        self._closing: asyncio.Task[None] | None = None
        self._ended = False

    @classmethod
    def serial(
        cls,
        url: str,
        *,
        endpoint: HostEndpoint,
        baud: int = BAUD,
        queue: int = 256,
        capture: Callable[[bool, bytes], None] | None = None,
    ) -> Connection:
        """Over a serial port or any URL pyserial knows; opened on entry, and again whenever it went away."""
        return cls(endpoint, reopen=lambda: open_serial(url, baud), name=url, queue=queue, capture=capture)

    async def __aenter__(self) -> Connection:
        """Starts the task. With `reopen`, the first opening happens here and its error is raised here."""
        if self._transport is None and self._reopen is not None:
            self._transport = await self._reopen()
            self._name = self._name or self._transport.name
        self._task = asyncio.create_task(self._run(), name=f"kilofed line {self._name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """The port or address."""
        return self._name

    @property
    def waits(self) -> bool:
        """Whether it is there and no session is open on it."""
        return not self._ended and self.endpoint.hello is None

    async def events(self) -> AsyncIterator[Event]:
        """Events in order until the connection is closed or, over TCP, has ended. One consumer at a time."""
        while True:
            while self._events:
                event = self._events.pop(0)
                self._taken.set()
                yield event
            if self._ended:
                return
            await self._arrived.sleep()

    def send_head(self, blob: bytes) -> None:
        """See HostEndpoint.send_head."""
        self.endpoint.send_head(blob)
        self._wake.set()

    def train(self, order: TrainOrder) -> None:
        """See HostEndpoint.train."""
        self.endpoint.train(order)
        self._wake.set()

    def commit(self, round: int, verdict: int = 0) -> None:
        """See HostEndpoint.commit."""
        self.endpoint.commit(round, verdict)
        self._wake.set()

    def cancel(self, round: int) -> None:
        """See HostEndpoint.cancel."""
        self.endpoint.cancel(round)
        self._wake.set()

    def watch(self, seconds: float) -> None:
        """See HostEndpoint.watch."""
        self.endpoint.watch(seconds)
        self._wake.set()

    def label(self, number: int, label: int) -> None:
        """See HostEndpoint.label."""
        self.endpoint.label(number, label)
        self._wake.set()

    async def close(self, reason: Reason = Reason.SHUTTING_DOWN) -> None:
        """Says bye, waits at most a second for it to leave, closes the transport. Twice does nothing."""
        self.endpoint.close(reason)
        self._wake.set()
        self._taken.set()
        task, self._task = self._task, None  # two may close it at once: its owner, and a full lobby
        if task is not None:
            await asyncio.wait([task], timeout=BYE_SECONDS)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._drop_transport()
        self._end()

    # ---- inside ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            wait = REOPEN_SECONDS[0]
            while True:
                if self._transport is not None:
                    opened = self.endpoint.counters.sessions
                    await self._run_transport(self._transport)
                    if self.endpoint.counters.sessions > opened:
                        wait = REOPEN_SECONDS[0]
                if self._reopen is None or self.endpoint.next_deadline() is None:
                    return
                await self._wake.wait(wait)
                if self.endpoint.next_deadline() is None:
                    return
                wait = min(2 * wait, REOPEN_SECONDS[1])
                try:
                    self._transport = await self._reopen()
                    self.trouble = None
                except TransportError as error:
                    self.trouble = error
        finally:
            await self._drop_transport()
            self._end()

    async def _run_transport(self, transport: Transport) -> None:
        why = f"{transport.name} ended"
        loop = asyncio.get_running_loop()
        if self._reopen is None:
            self._watch = loop.call_later(SESSION_SECONDS, self._look, transport)
        try:
            await run_endpoint(
                self.endpoint, transport, wake=self._wake, deliver=self._deliver, capture=self._capture
            )
        except TransportError as error:
            self.trouble = error
            why = error.what
        finally:
            if self._watch is not None:
                self._watch.cancel()
        await self._drop_transport()
        self.endpoint.disconnected(why)
        await self._deliver(self.endpoint.events())

    def _look(self, transport: Transport) -> None:
        """Closes a connection from outside without a session for SESSION_SECONDS, twice that at most."""
        loop = asyncio.get_running_loop()
        if self.endpoint.hello is not None or self.endpoint.counters.sessions != self._sessions:
            self._sessions = self.endpoint.counters.sessions
            self._watch = loop.call_later(SESSION_SECONDS, self._look, transport)
        else:
            self._closing = loop.create_task(transport.close())

    async def _deliver(self, events: list[Event]) -> None:
        for event in events:
            while len(self._events) >= self._most and self.endpoint.next_deadline() is not None:
                if isinstance(event, Stray):
                    break
                await self._taken.sleep()
            else:
                self._events.append(event)
                self._arrived.set()

    async def _drop_transport(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()
