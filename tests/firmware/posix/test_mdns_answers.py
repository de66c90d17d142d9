"""What kilofed-posix reads out of mDNS answers, and that no answer makes it read anything else."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PORT = ROOT / "firmware" / "port" / "posix"
FLAGS = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="not installed: gcc")

SERVICE = "_kilofed._tcp.local"
A, PTR, TXT, SRV = 1, 12, 16, 33
Reader = Callable[[list[bytes]], list[str]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """What it makes of each packet: "ADDRESS:PORT", or "-"."""
    program = tmp_path_factory.mktemp("mdns") / "reader"
    sources = [PORT / "mdns.c", Path(__file__).with_name("mdns_reader.c")]
    subprocess.run(["gcc", *FLAGS, *SANITIZE, f"-I{PORT}", "-o", program, *sources], check=True)

    def run(packets: list[bytes]) -> list[str]:
        data = b"".join(struct.pack("<H", len(packet)) + packet for packet in packets)
        done = subprocess.run([program], input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()[:2000]
        return done.stdout.decode().split()

    return run


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".")) + b"\0"


def record(owner: bytes, kind: int, content: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, 120, len(content)) + content


def answer(*records: bytes, questions: bytes = b"", asked: int = 0, flags: int = 0x8400) -> bytes:
    counts = struct.pack(">6H", 0, flags, asked, 1, 0, len(records) - 1)
    return counts + questions + b"".join(records)


def srv(target: bytes, port: int = 7300) -> bytes:
    return struct.pack(">3H", 0, 0, port) + target


POINTER = record(name(SERVICE), PTR, name(f"attic.{SERVICE}"))
PLACE = record(name(f"attic.{SERVICE}"), SRV, srv(name("attic.local")))
ADDRESS = record(name("attic.local"), A, bytes([10, 77, 0, 1]))
WHOLE = answer(POINTER, PLACE, record(name("x.local"), TXT, b"\0"), ADDRESS)
#: The same with names that point back: at 12 the service, at 12 + 9 the rest of it.
SHORT = answer(
    record(name(SERVICE), PTR, b"\5attic\xc0\x0c"),
    record(b"\5attic\xc0\x0c", SRV, srv(b"\5ATTIC\xc0\x1a")),
    record(b"\5attic\xc0\x1a", A, bytes([10, 77, 0, 1])),
)
ASKED = answer(POINTER, PLACE, ADDRESS, questions=name(SERVICE) + b"\0\x0c\0\1", asked=1)


@pytest.mark.parametrize("packet", [WHOLE, SHORT, ASKED, answer(ADDRESS, PLACE)])
def test_a_whole_answer_is_understood(read: Reader, packet: bytes) -> None:
    assert read([packet]) == ["10.77.0.1:7300"]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        answer(POINTER, PLACE, ADDRESS, flags=0),  # a question, not an answer
        answer(POINTER, PLACE),
        answer(POINTER, ADDRESS),
        answer(POINTER, PLACE, record(name("cellar.local"), A, bytes([10, 77, 0, 1]))),
        answer(POINTER, PLACE, record(name("attic.local"), A, bytes(16))),
        answer(POINTER, record(name("attic._http._tcp.local"), SRV, srv(name("attic.local"))), ADDRESS),
        answer(POINTER, record(name(f"attic.{SERVICE}"), SRV, srv(name("attic.local"), 0)), ADDRESS),
        answer(record(b"\xc0\x0c", PTR, b"\xc0\x0c"), PLACE, ADDRESS),  # a name that is itself
        answer(POINTER, record(b"\xc0\xff", SRV, b"")),
    ],
)
def test_what_is_no_whole_answer_is_none(read: Reader, packet: bytes) -> None:
    assert read([packet]) == ["-"]


def test_every_cut_of_an_answer_is_none(read: Reader) -> None:
    cuts = [packet[:end] for packet in (WHOLE, SHORT, ASKED) for end in range(len(packet))]
    assert set(read(cuts)) == {"-"}


def test_damaged_answers_are_read_no_further_than_they_go(read: Reader) -> None:
    """20,000 of them under the sanitizers; what is understood has at least the form of an address."""
    rng = random.Random(1)
    packets = []
    for _ in range(20_000):
        packet = bytearray(rng.choice((WHOLE, SHORT, ASKED)))
        for _ in range(rng.randrange(1, 6)):
            packet[rng.randrange(len(packet))] = rng.choice((0, 0x3F, 0x40, 0xC0, 0xFF, rng.randrange(256)))
        packets.append(bytes(packet[: rng.choice((len(packet), rng.randrange(len(packet) + 1)))]))
    found = read(packets)
    assert len(found) == len(packets)
    assert all(text == "-" or text.count(".") == 3 for text in found)
    assert 0 < sum(text == "-" for text in found) < len(found)
