"""Transports over real file descriptors: pseudo terminals, sockets, TCP; and their errors."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import serial

from kilofed.link.errors import (
    ConnectError,
    PortBusy,
    PortDenied,
    PortNotFound,
    TransportClosed,
    TransportError,
)
from kilofed.transports import memory, tcp
from kilofed.transports.base import READ_BYTES, Transport
from kilofed.transports.serial import FdSerial, ThreadedSerial, open_serial, opening_failed

SECONDS = 10.0


class Far:
    """The other end of a serial line: a blocking file descriptor used from threads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    async def read(self, size: int) -> bytes:
        pieces = []
        while size:
            pieces.append(await asyncio.to_thread(os.read, self.fd, size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    async def write(self, data: bytes) -> None:
        while data:
            data = data[await asyncio.to_thread(os.write, self.fd, data) :]


@asynccontextmanager
async def pty() -> AsyncIterator[tuple[Transport, Far]]:
    master, slave = os.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    transport = await open_serial(name)
    os.close(slave)
    try:
        yield transport, Far(master)
    finally:
        await transport.close()
        with suppress(OSError):
            os.close(master)


@asynccontextmanager
async def socket_url() -> AsyncIterator[tuple[Transport, Far]]:
    listener = socket.create_server(("127.0.0.1", 0))
    transport = await open_serial(f"socket://127.0.0.1:{listener.getsockname()[1]}")
    far, _ = listener.accept()
    listener.close()
    try:
        yield transport, Far(far.fileno())
    finally:
        await transport.close()
        far.close()


LINES = pytest.mark.parametrize("line", [pty, socket_url], ids=["pty", "socket"])


@LINES
async def test_bytes_go_both_ways(line):
    async with line() as (transport, far):
        assert isinstance(transport, FdSerial)
        await far.write(b"boot\0\xff")
        assert await asyncio.wait_for(transport.read(), SECONDS) == b"boot\0\xff"
        await transport.write(b"\0probe\0")
        assert await asyncio.wait_for(far.read(7), SECONDS) == b"\0probe\0"


@LINES
async def test_more_than_the_buffers_hold_is_written_as_it_is_taken(line):
    data = bytes(range(256)) * (64_000 if line is socket_url else 2_000)
    async with line() as (transport, far):  # (the kernel holds megabytes for a socket)
        writing = asyncio.create_task(transport.write(data))
        await asyncio.sleep(0.05)
        assert not writing.done()  # nobody reads: the line is full, and nothing is buffered without bound
        received = await asyncio.wait_for(far.read(len(data)), SECONDS)
        await writing
        assert received == data


@LINES
async def test_reads_wait_and_come_in_bounded_pieces(line):
    async with line() as (transport, far):
        reading = asyncio.create_task(transport.read())
        await asyncio.sleep(0.05)
        assert not reading.done()
        data = os.urandom(200_000)
        writing = asyncio.create_task(far.write(data))
        got = await asyncio.wait_for(reading, SECONDS)
        while len(got) < len(data):
            piece = await asyncio.wait_for(transport.read(), SECONDS)
            assert 0 < len(piece) <= READ_BYTES
            got += piece
        await writing
        assert got == data


@LINES
async def test_close_ends_a_waiting_read_and_is_fine_twice(line):
    async with line() as (transport, _):
        reading = asyncio.create_task(transport.read())
        await asyncio.sleep(0.02)
        await transport.close()
        await transport.close()
        assert await asyncio.wait_for(reading, SECONDS) == b""
        assert await transport.read() == b""
        with pytest.raises(TransportClosed):
            await transport.write(b"x")


async def test_a_pty_whose_other_end_goes_away_is_closed():
    async with pty() as (transport, far):
        os.close(far.fd)
        with pytest.raises(TransportClosed, match="went away") as caught:
            while await asyncio.wait_for(transport.read(), SECONDS):
                pass
            raise TransportClosed("went away in good order", "nothing", name=transport.name)
        assert caught.value.name == transport.name


async def test_a_socket_that_ends_reads_nothing():
    listener = socket.create_server(("127.0.0.1", 0))
    transport = await open_serial(f"socket://127.0.0.1:{listener.getsockname()[1]}")
    far, _ = listener.accept()
    far.sendall(b"last words")
    far.close()
    listener.close()
    assert await asyncio.wait_for(transport.read(), SECONDS) == b"last words"
    assert await asyncio.wait_for(transport.read(), SECONDS) == b""
    await transport.close()


async def test_a_line_without_a_file_descriptor_is_read_by_a_thread():
    transport = await open_serial("loop://")
    assert isinstance(transport, ThreadedSerial)
    reading = asyncio.create_task(transport.read())
    await asyncio.sleep(0.02)
    await transport.write(b"round and back")
    got = await asyncio.wait_for(reading, SECONDS)
    while len(got) < 14:
        got += await asyncio.wait_for(transport.read(), SECONDS)
    assert got == b"round and back"
    waiting = asyncio.create_task(transport.read())
    await asyncio.sleep(0.02)
    await transport.close()
    await transport.close()
    assert await asyncio.wait_for(waiting, SECONDS) == b""
    with pytest.raises(TransportClosed):
        await transport.write(b"x")


# ---- what is said when a port cannot be opened -------------------------------------------------------


async def test_a_port_that_is_not_there():
    with pytest.raises(PortNotFound, match=r"there is no port /dev/ttyNOWHERE.*plug the board in") as caught:
        await open_serial("/dev/ttyNOWHERE")
    assert caught.value.name == "/dev/ttyNOWHERE" and isinstance(
        caught.value.__cause__, serial.SerialException
    )


async def test_a_port_that_another_program_has_open():
    async with pty() as (transport, _):
        with pytest.raises(PortBusy, match="close the program"):
            await open_serial(transport.name)


def test_a_port_that_this_user_may_not_open(tmp_path, monkeypatch):
    port = tmp_path / "ttyUSB0"
    port.touch()

    class Group:
        gr_name = "dialout"

    monkeypatch.setattr("grp.getgrgid", lambda gid: Group)
    error = opening_failed(str(port), serial.SerialException(errno.EACCES, "denied"))
    assert isinstance(error, PortDenied) and "usermod -aG dialout" in str(error)
    Group.gr_name = "root"
    assert "udev" in str(opening_failed(str(port), serial.SerialException(errno.EACCES, "denied")))
    assert "dialout" in str(opening_failed("/dev/gone", serial.SerialException(errno.EACCES, "denied")))


async def test_a_url_that_is_none():
    with pytest.raises(PortNotFound, match="socket://HOST:PORT"):
        await open_serial("carrier-pigeon://coop")


async def test_a_url_where_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectError, match="check the address"):
        await open_serial(f"socket://127.0.0.1:{port}")


async def test_a_file_that_is_no_terminal(tmp_path):
    plain = tmp_path / "file"
    plain.touch()
    with pytest.raises(TransportError, match="cannot be opened"):
        await open_serial(str(plain))


# ---- TCP ---------------------------------------------------------------------------------------------


async def test_tcp_both_ways():
    done = asyncio.Event()

    async def echo(transport: Transport) -> None:
        while data := await transport.read():
            await transport.write(data.upper())
        done.set()

    async with await tcp.listen("127.0.0.1", 0, echo) as listener:
        transport = await tcp.connect("127.0.0.1", listener.port)
        assert transport.name == f"127.0.0.1:{listener.port}"
        await transport.write(b"hello")
        assert await asyncio.wait_for(transport.read(), SECONDS) == b"HELLO"
        await transport.close()
        await transport.close()
        await asyncio.wait_for(done.wait(), SECONDS)
        with pytest.raises(TransportClosed):
            for _ in range(3):
                await transport.write(b"x")
                await asyncio.sleep(0.01)


async def test_tcp_writes_wait_for_a_slow_reader():
    release = asyncio.Event()

    async def slow(transport: Transport) -> None:
        await release.wait()
        while await transport.read():
            pass

    async with await tcp.listen("127.0.0.1", 0, slow) as listener:
        transport = await tcp.connect("127.0.0.1", listener.port)
        writing = asyncio.create_task(transport.write(bytes(50_000_000)))
        await asyncio.sleep(0.1)
        assert not writing.done()
        release.set()
        await asyncio.wait_for(writing, SECONDS)
        await transport.close()


async def test_tcp_takes_no_more_connections_than_it_was_told():
    hold = asyncio.Event()

    async def keep(transport: Transport) -> None:
        await hold.wait()

    told: list[int] = []
    async with await tcp.listen("127.0.0.1", 0, keep, most=1, on_full=told.append) as listener:
        first = await tcp.connect("127.0.0.1", listener.port)
        second = await tcp.connect("127.0.0.1", listener.port)
        assert await asyncio.wait_for(second.read(), SECONDS) == b""
        third = await tcp.connect("127.0.0.1", listener.port)
        assert await asyncio.wait_for(third.read(), SECONDS) == b""
        assert told == [1]  # once, how many there may be
        hold.set()
        assert await asyncio.wait_for(first.read(), SECONDS) == b""
        await first.close()
        await second.close()
        await third.close()


async def test_tcp_errors_end_in_the_next_step():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def nobody(transport: Transport) -> None:
            raise AssertionError

        with pytest.raises(ConnectError, match="choose another port"):
            await tcp.listen("127.0.0.1", port, nobody)
    with pytest.raises(ConnectError, match="that a host listens there") as caught:
        await tcp.connect("127.0.0.1", port)
    assert isinstance(caught.value.__cause__, OSError)


async def test_tcp_connect_gives_up_in_time():
    # A listener whose queue is full answers no further connection.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(address)
        with pytest.raises(ConnectError, match=r"did not answer within 0.3 s"):
            await tcp.connect(*address, timeout=0.3)
        for one in fill:
            one.close()


# ---- memory ------------------------------------------------------------------------------------------


async def test_memory_both_ways_and_closing():
    a, b = memory.pair()
    await a.write(b"down")
    assert await b.read() == b"down"
    reading = asyncio.create_task(a.read())
    await asyncio.sleep(0)
    await b.write(b"up")
    assert await reading == b"up"
    await a.write(b"last")
    await a.close()
    assert await b.read() == b"last"
    assert await b.read() == b""
    with pytest.raises(TransportClosed):
        await b.write(b"x")


async def test_memory_is_bounded():
    a, b = memory.pair()
    await a.write(bytes(70_000))
    waiting = asyncio.create_task(a.write(b"more"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert len(await b.read()) == 70_000
    await waiting
    assert await b.read() == b"more"


def test_faults_are_the_same_for_the_same_seed_and_none_by_default():
    data = b"".join(bytes([1 + i % 250]) * 20 + b"\0" for i in range(200))
    rates = {"drop": 0.1, "flip": 0.1, "repeat": 0.1, "noise": 0.1, "cut": 0.1}
    assert memory.Faults().feed(data) == data
    once = memory.Faults(3, **rates).feed(data)
    assert once == memory.Faults(3, **rates).feed(data) != memory.Faults(4, **rates).feed(data)
    by_pieces = memory.Faults(3, **rates)
    assert b"".join(by_pieces.feed(data[i : i + 13]) for i in range(0, len(data), 13)) == once
    for name in rates:
        assert memory.Faults(1, **{name: 1.0}).feed(data) != data


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.168.1.10:7300", ("192.168.1.10", 7300)),
        ("[::1]:7300", ("::1", 7300)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("*:0", ("*", 0)),
        (":7300", ("", 7300)),
        ("gateway:65535", ("gateway", 65535)),
    ],
)
def test_addresses_are_read(text, address):
    assert tcp.parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "gateway", "gateway:", "gateway:65536", "::1:7300", "::1", "a:-1", "a:\u0663"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        tcp.parse_address(text)


@pytest.mark.parametrize("host", [*tcp.EVERYWHERE, "127.0.0.1"])
async def test_an_ipv4_peer_is_called_as_people_write_it(host):
    names = []

    async def connected(transport):
        names.append(transport.name)

    async with await tcp.listen(host, 0, connected) as listener:
        transport = await tcp.connect("127.0.0.1", listener.port)
        assert await asyncio.wait_for(transport.read(), SECONDS) == b""
        await transport.close()
    assert names[0].startswith("127.0.0.1:")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", [*tcp.EVERYWHERE, "::1", "::"])
async def test_ipv6_peers_come_too(host):
    names = []

    async def connected(transport):
        names.append(transport.name)

    async with await tcp.listen(host, 0, connected) as listener:
        try:
            transport = await tcp.connect("::1", listener.port)
        except ConnectError as error:
            pytest.skip(f"no IPv6 on the loopback: {error}")
        assert transport.name == f"[::1]:{listener.port}"
        assert await asyncio.wait_for(transport.read(), SECONDS) == b""
        await transport.close()
    assert names[0].startswith("[::1]:")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-name.invalid"])  # of no machine: RFC 5737, RFC 6761
async def test_an_address_of_another_machine_is_named(host):
    async def connected(transport):
        pass

    with pytest.raises(ConnectError, match="cannot be listened on") as caught:
        await tcp.listen(host, 7300, connected)
    assert caught.value.next_step == "listen on an address of this machine, or on * for all it has"


async def test_a_taken_port_is_named():
    async def connected(transport):
        pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{port} cannot be listened on"):
            await tcp.listen("127.0.0.1", port, connected)
