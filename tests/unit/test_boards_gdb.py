"""Flashing over the GDB protocol against a server of our own that can misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from kilofed.boards import catalogue
from kilofed.boards.elf import Segment
from kilofed.boards.flash import program
from kilofed.boards.flash_methods import gdb
from kilofed.errors import FlashError

MICROBIT = catalogue.load("microbit")
CPUID_M0 = bytes.fromhex("00c20c41")
SEGMENTS = [Segment(0, bytes(range(256)) * 9 + b"end"), Segment(0x3FC00, b"settings")]


@dataclass
class Server:
    """A GDB server with 256 KB of memory. Each field but the first three is a way to misbehave."""

    memory: bytearray = field(default_factory=lambda: bytearray(0x40000))
    cpuid: bytes = CPUID_M0
    said: list[str] = field(default_factory=list)
    refuse_first: int = 0  # packets answered with "-"
    damage_first: int = 0  # answers sent with a wrong checksum first
    unasked: bool = False  # announces a halt before the first answer
    deaf: int = 0  # packets that get lost on the way
    worn_out: int = -1  # address whose byte keeps bit 0
    protected: int = -1  # address that cannot be written
    dies_after: int = -1  # closes the connection after so many packets
    knows_reset: bool = True

    def answer(self, packet: str) -> str:
        self.said.append(packet)
        if packet == "?":
            return "S05"
        if packet[0] == "m":
            at, size = (int(part, 16) for part in packet[1:].split(","))
            if at == gdb.CPUID:
                return self.cpuid.hex()
            return "E14" if at + size > len(self.memory) else self.memory[at : at + size].hex()
        if packet[0] == "M":
            where, data = packet[1:].split(":")
            at = int(where.split(",")[0], 16)
            block = bytes.fromhex(data)
            if at <= self.protected < at + len(block) or at + len(block) > len(self.memory):
                return "E14"
            self.memory[at : at + len(block)] = block
            if at <= self.worn_out < at + len(block):
                self.memory[self.worn_out] ^= 1
            return "OK"
        if packet.startswith("qRcmd"):
            return "OK" if self.knows_reset else ""
        return "OK"

    def serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        buffer = b""
        with connection:
            if self.unasked:
                connection.sendall(b"$T02thread:01;#3b")
            while True:
                while not (start := buffer.find(b"$")) >= 0 or buffer.find(b"#", start) + 3 > len(buffer):
                    data = connection.recv(65536)
                    if not data:
                        return
                    buffer += data
                end = buffer.index(b"#", start)
                body, buffer = buffer[start + 1 : end], buffer[end + 3 :]
                if self.deaf > 0:
                    self.deaf -= 1
                    continue
                if self.refuse_first > 0:
                    self.refuse_first -= 1
                    connection.sendall(b"-")
                    continue
                if len(self.said) == self.dies_after:
                    return
                reply = self.answer(body.decode()).encode()
                frame = b"$%s#%02x" % (reply, sum(reply) & 255)
                connection.sendall(b"+")
                if self.damage_first > 0:
                    self.damage_first -= 1
                    connection.sendall(b"$%s#%02x" % (reply, (sum(reply) + 1) & 255))
                connection.sendall(frame)


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """Its address, while it serves one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.serve, args=(listener,))
        thread.start()
        yield "{}:{}".format(*listener.getsockname())
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "server",
    [
        Server(),
        Server(refuse_first=2),
        Server(damage_first=3),
        Server(unasked=True),
        Server(deaf=1),
        Server(cpuid=b"\0\0\0\0"),
    ],
    ids=["well", "refuses", "damages", "unasked", "deaf", "no-cpuid"],
)
def test_what_is_flashed_is_there_and_runs(server: Server) -> None:
    steps: list[tuple[str, int, int]] = []
    with serving(server) as target:
        written = program(MICROBIT, SEGMENTS, target, progress=lambda *step: steps.append(step))
    total = 9 * 256 + 3 + 8
    assert written == total
    for segment in SEGMENTS:
        assert server.memory[segment.address : segment.address + len(segment.data)] == segment.data
    assert server.said[-2:] == ["qRcmd," + b"system_reset".hex(), "D"]
    assert [step for step in steps if step[1] == total] == [("write", total, total), ("verify", total, total)]
    assert [step[1] for step in steps if step[0] == "write"] == [1024, 2048, 2307, 2315]


def test_another_core_is_refused_before_anything_is_written() -> None:
    server = Server(cpuid=bytes.fromhex("31c22f41"))
    with (
        serving(server) as target,
        pytest.raises(FlashError, match="is a cortex-m3, microbit has a cortex-m0") as error,
    ):
        program(MICROBIT, SEGMENTS, target)
    assert error.value.board == "microbit"
    assert not any(packet.startswith("M") for packet in server.said)


@pytest.mark.parametrize(
    ("server", "message", "address"),
    [
        (Server(protected=0x3FC02), "cannot write 8 bytes at 0x0003fc00", 0x3FC00),
        (Server(worn_out=1500), "at 0x00000400 reads back differently", 0x400),
        (Server(dies_after=3), "stopped answering", -1),
        (Server(refuse_first=99), "refuses every packet", -1),
        (Server(knows_reset=False), "does not know its command 'system_reset'", -1),
    ],
    ids=["protected", "worn-out", "dies", "refuses", "no-reset"],
)
def test_a_failed_flashing_says_where(server: Server, message: str, address: int) -> None:
    with serving(server) as target, pytest.raises(FlashError, match=message) as error:
        program(MICROBIT, SEGMENTS, target)
    assert error.value.address == address
    assert error.value.board == "microbit"
    assert error.value.next_step


def test_outside_its_memory_a_board_cannot_be_written() -> None:
    with serving(Server()) as target, pytest.raises(FlashError, match="cannot write 1 bytes at 0x10000000"):
        program(MICROBIT, [Segment(0x10000000, b"x")], target)


@pytest.mark.parametrize("target", ["127.0.0.1:1", "127.0.0.1:port", "nowhere"])
def test_nobody_there_is_an_error_of_its_own(target: str) -> None:
    with pytest.raises(FlashError, match=f"no GDB server at {target}"):
        program(MICROBIT, SEGMENTS, target)


def test_a_server_that_is_none_is_noticed() -> None:
    class Stranger(Server):
        def answer(self, packet: str) -> str:
            return "HTTP/1.1 400 Bad Request"

    with serving(Stranger()) as target, pytest.raises(FlashError, match="and not as a halted core"):
        program(MICROBIT, SEGMENTS, target)


def test_an_unknown_method_is_refused() -> None:
    other = replace(MICROBIT, flash_method=catalogue.FlashMethod("floppy", {}))
    with pytest.raises(FlashError, match=r"flashed by 'floppy'.*gdb"):
        program(other, SEGMENTS, "127.0.0.1:1")
