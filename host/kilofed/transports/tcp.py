"""TCP: devices on a network connect to the host; a host or an agent connects to an address."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType

from kilofed.link.errors import ConnectError, TransportClosed
from kilofed.transports.base import READ_BYTES, Buffered

CONNECT_SECONDS = 5.0
BACKLOG = 4096  # of connections that the kernel keeps until they are taken, at most its own somaxconn
ACCEPTED = 16  # in one go: then those that are open have their turn, so that a fleet does not swamp the host
FILES_BESIDES = 64  # files of this process that are no connection
EVERYWHERE = ("", "*")
_PORT_TAKEN = "choose another port, or end the program that has it"
_FOREIGN = "listen on an address of this machine, or on * for all it has"
_NEXT = {
    errno.EADDRNOTAVAIL: _FOREIGN,
    socket.EAI_NONAME: _FOREIGN,
    socket.EAI_AGAIN: _FOREIGN,
    errno.EACCES: "choose a port from 1024 up",
}  # errno of listening, or of looking the name up -> what to do
"""In place of an address to listen on: every one of this machine, IPv4 and IPv6."""


def shown(host: str, port: int) -> str:
    """Address and port as people write them: "192.168.1.10:7300", "[fe80::1]:7300"."""
    host = host.removeprefix("::ffff:") if "." in host else host  # an IPv4 peer of an IPv6 socket
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> tuple[str, int]:
    """ "HOST:PORT" or "[IPV6]:PORT" as host, which may be empty, and port. Raises ValueError for others."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    if ":" in host and not bracketed:
        raise ValueError(f"{text!r} is not HOST:PORT: an IPv6 address stands in brackets, [{host}]:{port}")
    return (host[1:-1] if bracketed else host), int(port)


class TcpTransport(Buffered, asyncio.BufferedProtocol):
    """One connection. name: address and port of the other end, as `shown` writes them.

    buffer: of READ_BYTES, which connections of one event loop share: what is in it is copied at once.
    on_connect: called once it is open.
    """

    def __init__(
        self, buffer: bytearray, on_connect: Callable[[TcpTransport], None] = lambda made: None
    ) -> None:
        self.name = "?"
        self._buffer = buffer
        self._on_connect = on_connect
        self._line: asyncio.Transport | None = None
        self._data = b""  # came and was not taken
        self._paused = False  # nothing more is read until it was
        self._ended = False  # nothing more comes
        self._lost = False
        self._error: Exception | None = None
        self._full = False
        self._waiters: list[asyncio.Future[None]] = []  # of read, write and close

    # ---- what the event loop says ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername") or ("?", 0)
        self.name = shown(peer[0], peer[1])
        self._line = transport
        transport.set_write_buffer_limits(high=READ_BYTES)
        connection = transport.get_extra_info("socket")
        # Frames are small and answered: waiting to fill a packet costs a round trip each.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._on_connect(self)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where what comes is put."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Something came."""
        self._data += bytes(memoryview(self._buffer)[:nbytes])
        if len(self._data) >= READ_BYTES and not self._paused and self._line is not None:
            self._paused = True
            self._line.pause_reading()
        self._changed()

    def eof_received(self) -> bool:
        """The other end says no more. True: it may still be spoken to."""
        self._ended = True
        self._changed()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, or broke."""
        self._ended = self._lost = True
        self._error = exc
        self._changed()

    def pause_writing(self) -> None:
        """The buffer is full."""
        self._full = True

    def resume_writing(self) -> None:
        """It has room."""
        self._full = False
        self._changed()

    # ---- what its owner says ---------------------------------------------------------------------

    def take(self) -> bytes | None:
        if self._data:
            data, self._data = self._data[:READ_BYTES], self._data[READ_BYTES:]
            if self._paused and not self._data and self._line is not None:
                self._paused = False
                self._line.resume_reading()
            return data
        if self._error is not None:
            raise self._broke(self._error)
        return b"" if self._ended else None

    async def read(self) -> bytes:
        while (data := self.take()) is None:
            await self._change()
        return data

    def give(self, data: bytes) -> bool:
        if self._lost or self._line is None or self._line.is_closing():
            raise self._broke(self._error or ConnectionResetError("closed"))
        self._line.write(data)
        return not self._full

    async def write(self, data: bytes) -> None:
        self.give(data)
        while self._full:
            if self._lost:
                raise self._broke(self._error or ConnectionResetError("closed"))
            await self._change()

    async def close(self) -> None:
        if self._line is not None:
            self._line.close()
            while not self._lost:
                await self._change()

    def abort(self) -> None:
        """Closes it and waits for nothing, what was written included."""
        if self._line is not None:
            self._line.abort()

    def _changed(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self.on_change is not None:
            self.on_change()

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    def _broke(self, error: Exception) -> TransportClosed:
        return TransportClosed(
            f"the connection to {self.name} broke ({error})", "connect again", name=self.name
        )


async def connect(host: str, port: int, *, timeout: float = CONNECT_SECONDS) -> TcpTransport:
    """Connects. Raises ConnectError when nobody answers within `timeout` seconds."""
    address = shown(host, port)
    try:
        loop = asyncio.get_running_loop()
        buffer = bytearray(READ_BYTES)
        _, made = await asyncio.wait_for(
            loop.create_connection(lambda: TcpTransport(buffer), host, port), timeout
        )
    except asyncio.TimeoutError as error:
        what = f"{address} did not answer within {timeout:g} s"
        raise ConnectError(what, "check that it is on and reachable", name=address) from error
    except OSError as error:
        what = f"no connection to {address} ({error})"
        raise ConnectError(what, "check the address, and that a host listens there", name=address) from error
    return made


class Listener:
    """Takes connections until it is closed; they outlive it. An async context manager.

    Made by `listen`.
    """

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    @property
    def port(self) -> int:
        """The port it listens on, also when 0 was asked for."""
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Takes no more connections."""
        self._server.close()

    async def __aenter__(self) -> Listener:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def listen(
    host: str,
    port: int,
    on_connect: Callable[[TcpTransport], Awaitable[None]],
    *,
    most: int | None = None,
    on_full: Callable[[int], None] = lambda most: None,
) -> Listener:
    """Listens on an address (port 0: any that is free), or on all of this machine for one of EVERYWHERE.

    on_connect runs in a task of its own for each connection and owns the transport; it is closed when that
    returns. most: connections at a time, by default as many as the system allows this process files; one more
    is closed at once, and on_full told how many there are when that happens first. Raises ConnectError when
    the address cannot be had.
    """
    limit = files_allowed() - FILES_BESIDES if most is None else most
    told = False

    loop = asyncio.get_running_loop()
    buffer = bytearray(READ_BYTES)
    tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps none of them alive

    async def serve(transport: TcpTransport) -> None:
        try:
            await on_connect(transport)
        finally:
            await transport.close()

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            loop.call_exception_handler({"message": "a connection's owner failed", "exception": error})

    def accept(transport: TcpTransport) -> None:
        nonlocal told
        if len(tasks) >= limit:
            transport.abort()
            if not told:
                told = True
                on_full(limit)
            return
        task = loop.create_task(serve(transport))
        tasks.add(task)
        task.add_done_callback(ended)

    try:
        if host in EVERYWHERE:
            server = await loop.create_server(
                lambda: TcpTransport(buffer, accept), sock=_everywhere(port), backlog=ACCEPTED
            )
        else:
            server = await loop.create_server(
                lambda: TcpTransport(buffer, accept), host, port, backlog=ACCEPTED
            )
        for listening in server.sockets:
            # asyncio has one number for both: what the kernel keeps, and what is taken in one go.
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(BACKLOG)
    except OSError as error:
        address = shown(host or "*", port)
        what = f"{address} cannot be listened on ({error})"
        raise ConnectError(what, _NEXT.get(error.errno or 0, _PORT_TAKEN), name=address) from error
    return Listener(server)


def files_allowed() -> int:
    """How many files this process may have open, once that was raised as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def _everywhere(port: int) -> socket.socket:
    """One listening socket for both families, so that they have one port; IPv4's where there is no IPv6."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 is compiled in and switched off
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
    return socket.create_server(("", port), backlog=BACKLOG)
