"""Connections: endpoints over real transports, in real time."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from tests.link_world import HEAD, HOLDING, UPDATE, order

from kilofed.connection import Connection, Wake, run_endpoint
from kilofed.link import events as ev
from kilofed.link.device import DeviceEndpoint
from kilofed.link.errors import PortNotFound, SessionError, TransportClosed
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Reason, Train
from kilofed.transports import memory, tcp
from kilofed.transports.base import Transport
from kilofed.transports.memory import Faults
from kilofed.transports.serial import open_serial

SECONDS = 20.0


class Device:
    """A device whose training takes `seconds`, served over any transport."""

    def __init__(self, *, seconds: float = 0.05, max_frame: int = 128) -> None:
        self.endpoint = DeviceEndpoint(
            device_id=b"device 1",
            board="test",
            firmware=1,
            holding=HOLDING,
            rng=random.Random(5).randbytes,
            take_head=lambda blob: 0,
            max_frame=max_frame,
            window=512,
        )
        self.seconds = seconds
        self.events: list[ev.DeviceEvent] = []
        self.wake = Wake()

    async def serve(self, transport: Transport) -> None:
        try:
            await run_endpoint(self.endpoint, transport, wake=self.wake, deliver=self._deliver)
        except TransportClosed:
            pass
        finally:
            await transport.close()
            self.endpoint.disconnected()

    async def _deliver(self, events: list[ev.DeviceEvent]) -> None:
        self.events += events
        for event in events:
            if isinstance(event, ev.TrainAsked):
                asyncio.get_running_loop().call_later(self.seconds, self._finish, event.order)

    def _finish(self, asked: Train) -> None:
        self.endpoint.finish(
            asked, UPDATE, train=80, held_out=20, loss_q12=1, base_correct=1, own_correct=2, elapsed_ms=3
        )
        self.wake.set()


def host(**options: object) -> HostEndpoint:
    return HostEndpoint(rng=os.urandom, insecure=True, **options)  # type: ignore[arg-type]


async def eventually(predicate: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not predicate():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), SECONDS)


async def round_over(
    connection: Connection, number: int = 1, *, seen: Callable[[ev.Event], None] = lambda event: None
) -> list[ev.Event]:
    """Runs a round and returns its events; `seen` is told of each."""
    events = []
    if connection.endpoint.info is not None:
        connection.send_head(HEAD)
        connection.train(order(number))
    async for event in connection.events():
        events.append(event)
        seen(event)
        match event:
            case ev.Opened():
                connection.send_head(HEAD)
                connection.train(order(number))
            case ev.ResultReady(result, update):
                assert update == UPDATE
                connection.commit(result.round)
            case ev.Committed():
                return events
    raise AssertionError(f"it ended early: {events}")


@asynccontextmanager
async def served(device: Device, transport: Transport) -> AsyncIterator[None]:
    task = asyncio.create_task(device.serve(transport))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_round_in_memory_and_what_was_captured():
    near, far = memory.pair()
    device = Device()
    taken: list[tuple[bool, bytes]] = []
    async with served(device, far):
        capture = lambda up, data: taken.append((up, data))  # noqa: E731
        async with Connection(host(), near, capture=capture) as connection:
            assert connection.name == "memory a"
            await asyncio.wait_for(round_over(connection), SECONDS)
            counters = connection.endpoint.counters
        up, down = (b"".join(data for way, data in taken if way is wanted) for wanted in (True, False))
        assert len(up) == counters.bytes_up and len(down) == counters.bytes_down
        assert HEAD[20:60] in down and UPDATE[20:60] in up  # inside the first chunk
    assert ev.CommitAsked(1, 0) in device.events
    assert ev.Lost(Reason.SHUTTING_DOWN, "the host said bye") in device.events  # said on leaving the context


@pytest.mark.parametrize("way", ["up", "down", "both"])
async def test_rounds_in_memory_over_a_bad_line(way):
    rates = {"drop": 0.03, "flip": 0.03, "repeat": 0.03, "noise": 0.03, "cut": 0.02}
    bad = {
        "a_to_b": Faults(3, **rates) if way != "up" else None,
        "b_to_a": Faults(4, **rates) if way != "down" else None,
    }
    near, far = memory.pair(**bad)
    device = Device()
    async with served(device, far), Connection(host(heartbeat=0.5), near) as connection:
        await asyncio.wait_for(round_over(connection), 60)


async def test_a_round_over_tcp_and_the_end_of_the_connection():
    device = Device()
    seen: list[ev.Event] = []
    ended = asyncio.Event()

    async def serve(transport: Transport) -> None:
        async with Connection(host(), transport) as connection:
            seen.extend(await round_over(connection))
            async for event in connection.events():
                seen.append(event)
        ended.set()

    async with await tcp.listen("127.0.0.1", 0, serve) as listener:
        transport = await tcp.connect("127.0.0.1", listener.port)
        async with served(device, transport):
            await eventually(lambda: any(isinstance(e, ev.Committed) for e in seen))
            await transport.close()
            await asyncio.wait_for(ended.wait(), SECONDS)
    assert isinstance(seen[-1], ev.Lost) and "ended" in seen[-1].why


@asynccontextmanager
async def socket_device(device: Device) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A device behind a socket, as an emulated board is: its URL, and how to cut it off (it goes on)."""
    connections: list[Transport] = []

    async def serve(transport: Transport) -> None:
        connections.append(transport)
        await device.serve(transport)

    def cut() -> None:
        for transport in connections:
            transport.abort()  # type: ignore[attr-defined]
        connections.clear()

    async with await tcp.listen("127.0.0.1", 0, serve) as listener:
        yield f"socket://127.0.0.1:{listener.port}", cut
        cut()
        await asyncio.sleep(0.05)


async def test_a_serial_line_that_vanishes_is_opened_again():
    device = Device(seconds=0.3)
    kinds: list[type] = []
    async with socket_device(device) as (url, cut), Connection.serial(url, endpoint=host()) as connection:

        def seen(event: ev.Event) -> None:
            kinds.append(type(event))
            if isinstance(event, ev.Training) and kinds.count(ev.Training) == 1:
                cut()

        assert connection.name == url
        await asyncio.wait_for(round_over(connection, seen=seen), SECONDS)
        assert kinds.count(ev.Opened) == 2 and kinds.count(ev.Lost) == 1
        assert [type(e) for e in device.events].count(ev.TrainAsked) == 1  # the training went on meanwhile


async def test_a_serial_line_that_stays_away_says_why_and_comes_back():
    device = Device()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listening = await tcp.listen("127.0.0.1", port, device.serve)
    connection = Connection.serial(f"socket://127.0.0.1:{port}", endpoint=host())
    async with connection:
        await asyncio.wait_for(round_over(connection), SECONDS)
        await listening.close()
        device.endpoint.close()
        device.wake.set()
        await eventually(lambda: connection.trouble is not None)
        assert "check the address" in str(connection.trouble)
        another = Device()
        async with await tcp.listen("127.0.0.1", port, another.serve):
            assert [type(e) for e in await asyncio.wait_for(round_over(connection, 2), SECONDS)]
            assert connection.trouble is None


async def test_a_round_over_a_pty():
    master, slave = os.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    device = Device()
    os.set_blocking(master, False)
    async with Connection.serial(name, endpoint=host()) as connection:
        os.close(slave)
        far = await _fd_transport(master)
        async with served(device, far):
            await asyncio.wait_for(round_over(connection), SECONDS)


async def _fd_transport(fd: int) -> Transport:
    from kilofed.transports.serial import FdSerial

    class Port:
        def close(self) -> None:
            os.close(fd)

    return FdSerial("pty master", Port(), fd)


async def test_the_first_opening_fails_on_entry():
    with pytest.raises(PortNotFound):
        async with Connection.serial("/dev/ttyNOWHERE", endpoint=host()):
            pass


async def test_a_connection_needs_one_way_to_a_transport():
    near, _ = memory.pair()
    with pytest.raises(ValueError, match="not both"):
        Connection(host())
    with pytest.raises(ValueError, match="not both"):
        Connection(host(), near, reopen=lambda: open_serial("loop://"))


async def test_commands_without_a_session():
    near, _ = memory.pair()
    async with Connection(host(), near) as connection:
        with pytest.raises(SessionError):
            connection.cancel(1)


async def test_events_are_bounded_and_strays_go_first():
    near, far = memory.pair()
    device = Device()
    async with Connection(host(heartbeat=60), near, queue=4) as connection:
        for _ in range(50):  # nobody takes events: noise is dropped, and reading goes on
            await far.write(b"noise " * 20 + b"\0")
            await asyncio.sleep(0)
        async with served(device, far):
            await asyncio.wait_for(round_over(connection), SECONDS)
        assert connection.endpoint.counters.bytes_stray == 6000


async def test_a_consumer_that_sleeps_holds_the_line_and_loses_nothing():
    near, far = memory.pair()
    device = Device()
    async with served(device, far), Connection(host(), near, queue=1) as connection:
        await asyncio.sleep(0.5)
        assert len(connection._events) <= 1
        assert await asyncio.wait_for(round_over(connection), SECONDS)


async def test_close_says_bye_waits_for_no_deadline_and_ends_the_events(monkeypatch):
    monkeypatch.setattr("kilofed.connection.BYE_SECONDS", 3600.0)  # it ends when the bye has left, not then
    near, far = memory.pair()
    device = Device()
    async with served(device, far):
        connection = Connection(host(), near)
        async with connection:
            await asyncio.wait_for(round_over(connection), SECONDS)
            consumer = asyncio.create_task(_drain(connection))
            await asyncio.wait_for(connection.close(Reason.SHUTTING_DOWN), SECONDS)
            await asyncio.wait_for(connection.close(), SECONDS)
            assert await asyncio.wait_for(consumer, SECONDS)
        await eventually(lambda: ev.Lost(Reason.SHUTTING_DOWN, "the host said bye") in device.events)


async def _drain(connection: Connection) -> list[ev.Event]:
    return [event async for event in connection.events()]


async def test_a_pipe_that_takes_nothing_is_broken(monkeypatch):
    monkeypatch.setattr("kilofed.connection.WRITE_SECONDS", 0.2)

    class Stuck(memory.MemoryTransport):
        async def write(self, data: bytes) -> None:
            await asyncio.sleep(3600)

    async with Connection(host(), Stuck("stuck", None)) as connection:
        await asyncio.wait_for(_drain(connection), SECONDS)
        assert isinstance(connection.trouble, TransportClosed) and "takes no bytes" in str(connection.trouble)


async def test_a_connection_without_a_session_is_closed_and_one_with_is_kept(monkeypatch):
    monkeypatch.setattr("kilofed.connection.SESSION_SECONDS", 0.3)
    near, _ = memory.pair()
    async with Connection(host(), near) as connection:
        assert await asyncio.wait_for(_drain(connection), SECONDS) == []
    near, far = memory.pair()
    device = Device()
    async with served(device, far), Connection(host(), near) as connection:
        await asyncio.wait_for(round_over(connection), SECONDS)
        await asyncio.sleep(1.0)
        assert await asyncio.wait_for(round_over(connection, 2), SECONDS)


async def test_an_idle_connection_sleeps():
    near, far = memory.pair()
    device = Device()
    async with served(device, far), Connection(host(), near) as connection:
        await asyncio.wait_for(round_over(connection), SECONDS)
        polls = 0
        poll = connection.endpoint.poll

        def counted(now: float) -> None:
            nonlocal polls
            polls += 1
            poll(now)

        connection.endpoint.poll = counted  # type: ignore[method-assign]
        await asyncio.sleep(1.0)
        assert polls < 10


async def test_wake_before_and_during_a_wait():
    wake = Wake()
    wake.set()
    await asyncio.wait_for(wake.wait(None), SECONDS)
    asyncio.get_running_loop().call_later(0.01, wake.set)
    await asyncio.wait_for(wake.wait(None), SECONDS)
    began = time.monotonic()
    await wake.wait(0.05)
    assert time.monotonic() - began >= 0.04
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, done.set_result, None)
    await asyncio.wait_for(wake.wait(None, done), SECONDS)
