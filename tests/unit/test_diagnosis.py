"""What `kilofed doctor --port` says of a port: each kind of trouble, on pseudo terminals."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.captured import ID
from tests.link_world import KEY

from kilofed import diagnosis
from kilofed.cli import run as kilofed
from kilofed.doctor import Finding
from kilofed.fleet import Device, Fleet
from kilofed.link.device import DeviceEndpoint, Holding
from kilofed.link.frames import Direction, cobs_decode, cobs_encode, encode_frame
from kilofed.link.messages import Hello, encode

RATES = {9600: termios.B9600, 57600: termios.B57600, 115200: termios.B115200}


@contextmanager
def board(answer: Callable[[int, bytes], bytes]) -> Iterator[str]:
    """A port and what is behind it: told of the line's rate and of what came, each 50 ms."""
    master, slave = pty.openpty()
    stop = threading.Event()

    def play() -> None:
        while not stop.is_set():
            ready, _, _ = select.select([master], [], [], 0.05)
            data = os.read(master, 4096) if ready else b""
            if said := answer(termios.tcgetattr(slave)[5], data):
                os.write(master, said)

    playing = threading.Thread(target=play)
    playing.start()
    try:
        yield os.ttyname(slave)
    finally:
        stop.set()
        playing.join()
        os.close(master)
        os.close(slave)


def device(key: bytes | None) -> Callable[[int, bytes], bytes]:
    """A device of ours on the line."""
    endpoint = DeviceEndpoint(
        rng=os.urandom, device_id=ID, board="posix", firmware=256, take_head=lambda blob: 0, key=key,
        holding=Holding(model=b"m" * 8, classes=3, features=4, capacity=20, train=16, held_out=4),
    )  # fmt: skip

    def answer(rate: int, data: bytes) -> bytes:
        endpoint.receive(data, time.monotonic())
        endpoint.poll(time.monotonic())
        return endpoint.data_to_send()

    return answer


def at(rate: int, text: bytes) -> Callable[[int, bytes], bytes]:
    """Text that is one only at this rate; at another, what its bits look like there."""
    return lambda now, data: text if now == RATES[rate] else bytes(b ^ 0xE5 | 0x80 for b in text)


def look(url: str) -> Finding:
    return diagnosis.diagnose(url, listen=1.2, other=0.3)


@pytest.mark.parametrize(
    ("behind", "keys", "state", "found", "step"),
    [
        (device(KEY), [KEY], "ok", "posix 0102030405060708, firmware 0.1.0, at 115200 baud, encrypted", ""),
        (device(None), [], "ok", "in the clear", ""),
        (device(KEY), [], "broken", "this host has no key for it", "--fleet"),
        (device(KEY), [bytes(31) + b"x"], "broken", "no session of the key", "kilofed flash"),
        (lambda r, d: b"", [], "broken", "nothing comes", "reset button"),
        (lambda r, d: b"login: ", [], "broken", "another program's text: login: ", "kilofed flash"),
        (lambda r, d: b"no settings page: flash\r\n", [], "broken", "settings page", "kilofed flash"),
        (lambda r, d: b"no model in this image\r\n", [], "broken", "without a model", "--model"),
        (at(57600, b"kilofed on some board\r\n"), [], "broken", "text at 57600", "--baud 57600"),
        (lambda r, d: b"\x91\xf3\xe0\x80\xfe\xc7", [], "broken", "every other usual rate", "wiring"),
    ],
    ids=["fine", "clear", "no-key", "other-key", "silent", "text", "settings", "model", "baud", "noise"],
)
def test_each_trouble_is_told_apart(
    behind: Callable[[int, bytes], bytes], keys: list[bytes], state: str, found: str, step: str
) -> None:
    with board(behind) as port:
        finding = diagnosis.diagnose(
            port, keys=lambda _: keys, listen=6.0 if "key" in found else 1.2, other=0.3
        )
    assert (finding.state, finding.name) == (state, f"port {port}")
    assert found in finding.found
    assert step in finding.next_step and bool(finding.next_step) == (state != "ok")


def test_another_protocol_version_is_named() -> None:
    hello = bytearray(b"\x00")
    frame = encode_frame(encode(Hello(1, ID, ID, "old", 1, 128, 512)), direction=Direction.FROM_DEVICE)
    raw = bytearray(cobs_decode(frame.strip(b"\0")))
    raw[0] = 2 << 4 | raw[0] & 15
    raw[-4:] = zlib.crc32(raw[:-4], zlib.crc32(bytes(8))).to_bytes(4, "little")
    hello += cobs_encode(bytes(raw)) + b"\0"
    with board(lambda rate, data: bytes(hello)) as port:
        assert "protocol version 2" in look(port).found


def test_a_port_that_is_missing_or_in_use(tmp_path: Path) -> None:
    gone = look(str(tmp_path / "ttyACM7"))
    assert gone.state == "broken" and "power only" in gone.next_step
    with board(lambda rate, data: b"") as port:
        program = "import sys, time; f = open(sys.argv[1]); print('open', flush=True); time.sleep(60)"
        other = subprocess.Popen([sys.executable, "-c", program, port], stdout=subprocess.PIPE)
        try:
            assert other.stdout is not None and other.stdout.readline() == b"open\n"
            found = look(port)
        finally:
            other.kill()
            other.wait()
            other.stdout.close()
    assert f"(process {other.pid}) has it open" in found.found
    assert f"kill {other.pid}" in found.next_step


def test_programs_that_take_every_port_are_named(tmp_path: Path) -> None:
    port = tmp_path / "ttyUSB0"
    port.touch()
    process = tmp_path / "proc" / "712"
    (process / "fd").mkdir(parents=True)
    (process / "fd" / "5").symlink_to(port)
    (process / "comm").write_text("ModemManager\n")
    found = diagnosis.diagnose(str(port), proc=tmp_path / "proc")
    assert found.found == "ModemManager (process 712) has it open"
    assert "systemctl disable --now ModemManager" in found.next_step
    (service,) = diagnosis.meddlers(tmp_path / "proc")
    assert (service.name, service.state) == ("ModemManager", "optional")


def test_the_command_uses_the_register(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register = tmp_path / "fleet.sqlite"
    with Fleet(register) as fleet:
        fleet.add(Device(ID, "kitchen", "posix", KEY, 0.0))
    with board(device(KEY)) as port:
        assert kilofed(["doctor", "--port", port, "--fleet", str(register)]) == 0
        assert "encrypted; 20 samples, idle" in capsys.readouterr().out
        assert kilofed(["doctor", "--port", port, "--fleet", str(tmp_path / "none")]) == 1
        assert "no key for it" in capsys.readouterr().out
