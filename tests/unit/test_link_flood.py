"""Strangers at the host's open port: a flood of them, the slow, and a device that comes through."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tests.link_world import HOLDING, KEY

from kilofed import connection as connections
from kilofed.connection import Connection, Lobby, Wake, run_endpoint
from kilofed.link import events as ev
from kilofed.link.device import DeviceEndpoint
from kilofed.link.host import HostEndpoint
from kilofed.transports import tcp


class Host:
    """Listens, with a lobby; keeps what is open, and the devices that opened a session."""

    def __init__(self, most: int) -> None:
        self.full = 0
        self.lobby = Lobby(most, on_full=self._is_full)
        self.lines: set[Connection] = set()
        self.most_lines = 0
        self.opened: list[bytes] = []

    def _is_full(self) -> None:
        self.full += 1

    async def serve(self, transport: tcp.TcpTransport) -> None:
        endpoint = HostEndpoint(rng=os.urandom, keys=lambda id: [KEY] if id == b"device 1" else [])
        async with Connection(endpoint, transport) as line:
            self.lines.add(line)
            self.lobby.enter(line)
            self.most_lines = max(self.most_lines, len(self.lines))
            async for event in line.events():
                if isinstance(event, ev.Opened):
                    self.opened.append(event.hello.device_id)
            self.lines.discard(line)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Host, int]]:
    host = Host(16)
    async with await tcp.listen("127.0.0.1", 0, host.serve) as listener:
        yield host, listener.port
        for line in list(host.lines):
            await line.close()


async def device(port: int) -> None:
    """A device that holds the key, until cancelled."""
    endpoint = DeviceEndpoint(
        device_id=b"device 1", board="pi", firmware=1, holding=HOLDING, rng=os.urandom, take_head=lambda _: 0,
        key=KEY,
    )  # fmt: skip

    async def deliver(events: object) -> None:
        pass

    transport = await tcp.connect("127.0.0.1", port)
    try:
        await run_endpoint(endpoint, transport, wake=Wake(), deliver=deliver)
    finally:
        await transport.close()


async def eventually(so: Callable[[], bool]) -> None:
    while not so():
        await asyncio.sleep(0.01)


Stranger = Callable[[int], Awaitable[asyncio.StreamWriter]]


async def silent(port: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    return writer


async def noisy(port: int) -> asyncio.StreamWriter:
    writer = await silent(port)
    writer.write(random.Random(port).randbytes(3000))
    return writer


async def half_open(port: int) -> asyncio.StreamWriter:
    """A hello in the name of the device, and not a word more."""
    writer = await silent(port)
    endpoint = DeviceEndpoint(
        device_id=b"device 1", board="pi", firmware=1, holding=HOLDING, rng=os.urandom, take_head=lambda _: 0,
        key=bytes(range(32)),
    )  # fmt: skip
    endpoint.poll(0.0)
    writer.write(endpoint.data_to_send())
    return writer


@pytest.mark.parametrize("stranger", [silent, noisy, half_open])
async def test_a_flood_costs_so_many_connections_and_a_device_comes_through(stranger: Stranger) -> None:
    async with listening() as (there, port), AsyncExitStack() as stack:
        early = asyncio.create_task(device(port))
        await asyncio.wait_for(eventually(lambda: len(there.opened) == 1), 10)
        for _ in range(80):
            stack.callback((await stranger(port)).close)
        await asyncio.wait_for(eventually(lambda: there.lobby.pushed_out >= 64), 10)
        await asyncio.wait_for(eventually(lambda: len(there.lines) <= 17), 10)
        late = asyncio.create_task(device(port))
        await asyncio.wait_for(eventually(lambda: len(there.opened) == 2), 10)
        assert there.full == 1, "it is said once"
        assert not early.done() and not late.done(), "who has a session is left alone"
        for task in (early, late):
            task.cancel()
        await asyncio.gather(early, late, return_exceptions=True)


async def test_who_drips_bytes_is_closed_like_who_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SESSION_SECONDS", 0.5)
    async with listening() as (there, port):
        await drips(there, port)


async def drips(there: Host, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def drip() -> None:
        while True:
            writer.write(b"\x01")  # never a delimiter: a frame that does not end
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    with contextlib.suppress(ConnectionResetError):  # what drips into a closed connection comes back as this
        while await asyncio.wait_for(reader.read(1 << 20), 10):
            pass  # its probes
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    writer.close()
    await asyncio.wait_for(eventually(lambda: not there.lines), 10)
    assert there.opened == []
