"""A board in a hostile network: Ethernet frames, most of them damaged, written by hand onto its cable."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from board_line import DIGITS, IDENTITY, placed

from kilofed.boards import Board, Emulator, build, load
from kilofed.boards.catalogue import ETHERNET
from kilofed.boards.network import parse
from kilofed.boards.players import NET, Qemu

MAC = bytes.fromhex("525400123456")  # QEMU's first, which the controller has as if from its EEPROM
OURS = bytes.fromhex("020000000001")
EVERYBODY = b"\xff" * 6
BOARD_IP, OUR_IP = bytes([10, 9, 0, 2]), bytes([10, 9, 0, 1])
FRAMES = 4000


class Wired(Qemu):
    """Plays a board whose cable ends in a UDP socket of ours: a datagram is a frame."""

    def __init__(self, ports: tuple[int, int]) -> None:
        self.ports = ports

    def command(self, board: Board, samples: Path | None, serial: int, gdb: int, control: int) -> list[str]:
        command = super().command(board, samples, serial, gdb, control)
        ends = [
            f"{end}.type=inet,{end}.host=127.0.0.1,{end}.port={port}"
            for end, port in zip(("local", "remote"), self.ports, strict=True)
        ]
        at = command.index("-nic")
        command[at : at + 2] = ["-net", f"nic,model=lan9118,netdev={NET}"]
        command += ["-netdev", f"dgram,id={NET},{','.join(ends)}"]
        return command


class Cable:
    """Our end of it."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.board = free.getsockname()

    def send(self, frame: bytes) -> None:
        self.socket.sendto(frame, self.board)

    def wait(self, matching: Callable[[bytes], bool], seconds: float) -> bytes | None:
        """The next frame of a kind; None when it does not come in time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                frame = self.socket.recv(2048)
            except TimeoutError:
                break
            if matching(frame):
                return frame
        return None

    def ask(self, question: bytes, matching: Callable[[bytes], bool]) -> bytes:
        """An answer, asked for again while frames are lost."""
        for _ in range(20):
            self.send(question)
            if (answer := self.wait(matching, 1.0)) is not None:
                return answer
        raise AssertionError("the board does not answer")


def ethernet(kind: int, payload: bytes, *, to: bytes = MAC) -> bytes:
    return to + OURS + struct.pack(">H", kind) + payload.ljust(46, b"\0")


def arp() -> bytes:
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + OURS + OUR_IP + bytes(6) + BOARD_IP
    return ethernet(0x0806, body, to=EVERYBODY)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(protocol: int, payload: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + OUR_IP + BOARD_IP
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return ethernet(0x0800, head + payload)


def ping(size: int) -> bytes:
    body = struct.pack(">BBHHH", 8, 0, 0, 7, 9) + bytes(range(256)) * 8
    body = body[: 8 + size]
    return ip(1, body[:2] + struct.pack(">H", checksum(body)) + body[4:])


def tcp(flags: int) -> bytes:
    head = struct.pack(">HHIIBBHHH", 7300, 49153, 1, 1, 0x50, flags, 4096, 0, 0)
    pseudo = OUR_IP + BOARD_IP + struct.pack(">BBH", 0, 6, len(head))
    return ip(6, head[:16] + struct.pack(">H", checksum(pseudo + head)) + head[18:])


def dhcp() -> bytes:
    body = bytes([2, 1, 6, 0]) + bytes(232) + b"\x63\x82\x53\x63\x35\x01\x02\x36\x04" + OUR_IP + b"\xff"
    return ip(17, struct.pack(">HHHH", 67, 68, 8 + len(body), 0) + body)


SOUND = [arp(), ping(64), ping(1400), tcp(0x02), tcp(0x12), tcp(0x10), tcp(0x04), dhcp()]


def is_arp_reply(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == BOARD_IP


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable()
    yield made
    made.socket.close()


@pytest.fixture
def board(tmp_path: Path, cable: Cable) -> Iterator[Emulator]:
    """A board with an address of its own, whose host answers nothing."""
    kind = load("mps2-an386", link=ETHERNET)
    with Emulator(kind, tmp_path / "board") as wired:
        wired._player = Wired((cable.board[1], cable.socket.getsockname()[1]))
        wired.place(placed(10))
        wired.flash(build(kind, DIGITS), IDENTITY, network=parse("10.9.0.1:7300", address="10.9.0.2/24"))
        yield wired


def test_it_answers_whom_it_must(board: Emulator, cable: Cable) -> None:
    reply = cable.ask(arp(), is_arp_reply)
    assert (reply[:6], reply[6:12], reply[22:28]) == (OURS, MAC, MAC)
    for size in (0, 1, 17, 1400, 1472):
        question = ping(size)
        answer = cable.ask(question, lambda f: f[12:14] == b"\x08\x00" and f[23] == 1 and f[34] == 0)
        assert answer[38 : 42 + size] == question[38 : 42 + size], size
    board.check()


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_frames_stop_nothing(board: Emulator, cable: Cable, seed: int) -> None:
    rng = random.Random(seed)
    cable.ask(arp(), is_arp_reply)
    for number in range(FRAMES):
        frame = bytearray(rng.choice(SOUND))
        for _ in range(rng.randrange(5)):
            frame[rng.randrange(12, len(frame))] = rng.choice((0, 0x7F, 0xFF, rng.randrange(256)))
        if rng.random() < 0.4:
            frame = frame[: rng.randrange(14, len(frame) + 1)]
        if rng.random() < 0.05:
            frame += rng.randbytes(rng.choice((1, 100, 1514, 2000)))
        cable.send(bytes(frame))
        if number % 16 == 0:
            time.sleep(0.002)  # it keeps up with some thousand frames a second; what it drops proves nothing
        if number % 500 == 499:
            board.check()
            cable.ask(arp(), is_arp_reply)
    stack = build(board.board, DIGITS).stack
    assert stack is not None
    assert board.stack_used() <= stack.bytes
