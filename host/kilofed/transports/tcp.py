"""TCP: devices on a network connect to the host; a host or an agent connects to an address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType

from kilofed.link.errors import ConnectError, TransportClosed
from kilofed.transports.base import READ_BYTES, Transport

CONNECT_SECONDS = 5.0
BACKLOG = 4096  # of connections that the kernel keeps until they are taken, at most its own somaxconn
ACCEPTED = 16  # in one go: then those that are open have their turn, so that a fleet does not swamp the host
FILES_BESIDES = 64  # files of this process that are no connection
EVERYWHERE = ("", "*")
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


class TcpTransport(Transport):
    """One connection. name: address and port of the other end, as `shown` writes them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername") or ("?", 0)
        self.name = shown(peer[0], peer[1])
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(high=READ_BYTES)
        connection = writer.get_extra_info("socket")
        if (
            connection is not None
        ):  # frames are small and answered: waiting to fill a packet costs a round trip each
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def read(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES)
        except OSError as error:
            if self._writer.is_closing():
                return b""
            raise self._broke(error) from error

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise self._broke(error) from error

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _broke(self, error: OSError) -> TransportClosed:
        return TransportClosed(
            f"the connection to {self.name} broke ({error})", "connect again", name=self.name
        )


async def connect(host: str, port: int, *, timeout: float = CONNECT_SECONDS) -> TcpTransport:
    """Connects. Raises ConnectError when nobody answers within `timeout` seconds."""
    address = shown(host, port)
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(host, port, limit=READ_BYTES), timeout
        )
    except asyncio.TimeoutError as error:
        what = f"{address} did not answer within {timeout:g} s"
        raise ConnectError(what, "check that it is on and reachable", name=address) from error
    except OSError as error:
        what = f"no connection to {address} ({error})"
        raise ConnectError(what, "check the address, and that a host listens there", name=address) from error
    return TcpTransport(reader, writer)


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
    open_now = 0
    limit = files_allowed() - FILES_BESIDES if most is None else most
    told = False

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, told
        if open_now >= limit:
            writer.close()
            if not told:
                told = True
                on_full(limit)
            return
        open_now += 1
        transport = TcpTransport(reader, writer)
        try:
            await on_connect(transport)
        finally:
            open_now -= 1
            await transport.close()

    try:
        if host in EVERYWHERE:
            server = await asyncio.start_server(
                accept, sock=_everywhere(port), limit=READ_BYTES, backlog=ACCEPTED
            )
        else:
            server = await asyncio.start_server(accept, host, port, limit=READ_BYTES, backlog=ACCEPTED)
        for listening in server.sockets:
            # asyncio has one number for both: what the kernel keeps, and what is taken in one go.
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(BACKLOG)
    except OSError as error:
        address = shown(host or "*", port)
        what = f"{address} cannot be listened on ({error})"
        raise ConnectError(
            what, "choose another port, or end the program that has it", name=address
        ) from error
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
