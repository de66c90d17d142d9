"""kilofed-posix as a process: over its stdin and stdout, over TCP, many at once, and its ends."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from device_runner import DIGITS, FIRMWARE, SANITIZE, build
from fleet_of_one import make_head, make_order
from test_collect import place

from kilofed.link.events import Committed, DeviceError, Event, HeadDelivered, Lost, Opened, ResultReady
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Reason, State
from kilofed_tools import heads


@pytest.fixture(scope="session")
def program() -> Path:
    """The port under the sanitizers."""
    port = FIRMWARE / "port" / "posix"
    return build(
        "kilofed-posix",
        [port / f"{name}.c" for name in ("main", "loop", "mdns", "options", "unit")],
        flags=SANITIZE,
    )


PAGE_KEY = bytes(range(36, 68))


def identity_of(seed: str, number: int) -> bytes:
    """Id and key that --id-seed makes for a device: unit.c's formula."""
    made = b"kilofed posix 1" + number.to_bytes(4, "little") + seed.encode()
    return hashlib.blake2b(made, digest_size=40).digest()


SEEDED = [identity_of(seed, number) for seed in ("x", "s", "a", "b", "m") for number in range(200)]
KEYS = {made[:8]: made[8:] for made in SEEDED} | {b"settings": PAGE_KEY}


def host_endpoint() -> HostEndpoint:
    """A host that knows those keys, and takes devices without one: their ids are by chance."""
    known = lambda id: [KEYS[id]] if id in KEYS else []  # noqa: E731
    return HostEndpoint(rng=os.urandom, keys=known, insecure=True)


@dataclass
class Line:
    """One device's end at the host: a socket or a pair of pipes, and an endpoint."""

    read_fd: int
    write: Callable[[bytes], object]
    endpoint: HostEndpoint = field(default_factory=host_endpoint)
    events: list[Event] = field(default_factory=list)
    ended: bool = False

    def turn(self, readable: bool) -> None:
        now = time.monotonic()
        if readable and not self.ended:
            data = os.read(self.read_fd, 65536)
            if data:
                self.endpoint.receive(data, now)
            else:
                self.ended = True
        self.endpoint.poll(now)
        out = self.endpoint.data_to_send()
        if out and not self.ended:
            self.write(out)
        self.events += self.endpoint.events()

    def seen(self, kind: type) -> bool:
        return any(isinstance(event, kind) for event in self.events)

    def take(self, kind: type) -> Event:
        at = next(i for i, event in enumerate(self.events) if isinstance(event, kind))
        event = self.events[at]
        del self.events[: at + 1]
        return event


def run(lines: Sequence[Line], until: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """All lines, until something is so."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, [line.events[-5:] for line in lines][:5]
        open_ = [line for line in lines if not line.ended]
        ready, _, _ = select.select([line.read_fd for line in open_], [], [], 0.02)
        for line in open_:
            line.turn(line.read_fd in ready)


def wait(line: Line, kind: type, *, seconds: float = 60.0) -> Event:
    run([line], lambda: line.seen(kind), seconds=seconds)
    return line.take(kind)


class Server:
    """Listens; makes a line of whoever connects."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.sockets: list[socket.socket] = []
        self.lines: list[Line] = []

    def accept(self, count: int, *, seconds: float = 30.0) -> list[Line]:
        end = time.monotonic() + seconds
        made: list[Line] = []
        while len(made) < count:
            assert time.monotonic() < end, f"{len(made)} of {count} connected"
            try:
                connection, _ = self.socket.accept()
            except BlockingIOError:
                time.sleep(0.005)
                continue
            self.sockets.append(connection)
            made.append(Line(connection.fileno(), connection.sendall))
        self.lines += made
        return made

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()
        self.socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def spawn(program: Path, *arguments: object, **pipes: int) -> subprocess.Popen[bytes]:
    command = [os.fspath(program), "--model", os.fspath(DIGITS), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **pipes)  # type: ignore[call-overload, no-any-return]


def end(process: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> str:
    """Stop it; it must end by itself, clean also for the leak checker."""
    process.send_signal(how)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said.decode()
    return said.decode()


def placed(tmp_path: Path, count: int, samples: int = 15) -> list[object]:
    """--samples of so many devices."""
    out: list[object] = []
    for i in range(count):
        rng = np.random.default_rng(i)
        inputs = rng.integers(-128, 128, (samples, 784)).astype(np.int8)
        path = tmp_path / f"samples{i}.bin"
        path.write_bytes(place(inputs, rng.integers(0, 10, samples)))
        out += ["--samples", path]
    return out


def play(lines: Sequence[Line], number: int = 1) -> list[bytes | None]:
    """A whole round with each of them."""
    blob = heads.encode_head(make_head(3))
    for line in lines:
        line.events.clear()
        line.endpoint.send_head(blob)
        line.endpoint.train(make_order(blob, round=number))
    run(lines, lambda: all(line.seen(ResultReady) for line in lines))
    updates = []
    for line in lines:
        ready = line.take(ResultReady)
        assert isinstance(ready, ResultReady)
        updates.append(ready.update)
        line.endpoint.commit(number)
    run(lines, lambda: all(line.seen(Committed) for line in lines))
    return updates


def test_stdio_plays_a_round_and_ends_with_its_input(program: Path, tmp_path: Path) -> None:
    process = spawn(
        program,
        "--stdio",
        "--id-seed",
        "x",
        *placed(tmp_path, 1),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    to = process.stdin.fileno()
    line = Line(process.stdout.fileno(), lambda data: os.write(to, data))
    opened = wait(line, Opened)
    assert isinstance(opened, Opened)
    assert opened.hello.board == "posix" and opened.info.capacity == 400
    run([line], lambda: line.endpoint.info is not None and line.endpoint.info.state is State.IDLE)
    (update,) = play([line])
    assert update is not None and len(update) == 346
    process.stdin.close()
    process.stdin = None
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said.decode()


def test_several_devices_each_with_its_samples(program: Path, server: Server, tmp_path: Path) -> None:
    count = 5
    where = f"127.0.0.1:{server.port}"
    process = spawn(
        program, "--connect", where, "--count", count, "--id-seed", "s", *placed(tmp_path, count - 1)
    )
    lines = server.accept(count)
    run(lines, lambda: all(line.seen(Opened) for line in lines))
    opened = [line.take(Opened) for line in lines]
    ids = {event.hello.device_id for event in opened if isinstance(event, Opened)}
    assert len(ids) == count

    def done() -> bool:
        infos = [line.endpoint.info for line in lines]
        return sum(info is not None and info.train + info.held_out == 15 for info in infos) == count - 1

    run(lines, done)
    full = [line for line in lines if line.endpoint.info is not None and line.endpoint.info.train]
    updates = play(full)
    assert len(set(updates)) == count - 1
    # The host goes away without a word, and comes back: the same devices, and they still hold the head.
    for connection in server.sockets:
        connection.close()
    server.lines.clear()
    lines = server.accept(count)
    run(lines, lambda: all(line.seen(Opened) for line in lines))
    again = [line.take(Opened) for line in lines]
    assert {event.hello.device_id for event in again if isinstance(event, Opened)} == ids
    assert sum(event.info.head is not None for event in again if isinstance(event, Opened)) == count - 1
    process.send_signal(signal.SIGINT)
    run(lines, lambda: all(line.seen(Lost) for line in lines))
    lost = [line.take(Lost) for line in lines]
    assert all(isinstance(event, Lost) and event.reason == Reason.SHUTTING_DOWN for event in lost)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said.decode()


def test_ids_come_from_the_seed_the_settings_or_chance(program: Path, server: Server, tmp_path: Path) -> None:
    body = b"KFI1" + struct.pack("<HH", 1, 64) + b"settings" + PAGE_KEY + bytes(12)
    page = tmp_path / "settings.bin"
    page.write_bytes(body + struct.pack("<I", zlib.crc32(body)))

    def id_of(*arguments: object) -> bytes:
        process = spawn(program, "--connect", f"127.0.0.1:{server.port}", *arguments)
        (line,) = server.accept(1)
        opened = wait(line, Opened)
        assert isinstance(opened, Opened)
        end(process)
        assert opened.hello.encrypted == (line.endpoint.key is not None) == (opened.hello.device_id in KEYS)
        return opened.hello.device_id

    assert id_of("--id-seed", "a") == id_of("--id-seed", "a") != id_of("--id-seed", "b")
    assert id_of("--settings", page) == b"settings"
    assert id_of() != id_of()


def test_insecure_devices_have_no_key(program: Path, server: Server) -> None:
    where = f"127.0.0.1:{server.port}"
    process = spawn(program, "--connect", where, "--id-seed", "a", "--insecure", "--max-frame", 64)
    (line,) = server.accept(1)
    opened = wait(line, Opened)
    assert isinstance(opened, Opened)
    assert opened.hello.device_id in KEYS and not opened.hello.encrypted and line.endpoint.key is None
    end(process)


def test_a_count_of_boots_stands_in_for_randomness(program: Path, server: Server, tmp_path: Path) -> None:
    """No two nonces are the same, and each is what key, boot and draw say: nobody else can foresee it."""
    boots = tmp_path / "boots"
    seen = []
    for boot in (1, 2, 3):
        where = f"127.0.0.1:{server.port}"
        process = spawn(program, "--connect", where, "--id-seed", "a", "--boots", boots)
        (line,) = server.accept(1)
        opened = wait(line, Opened)
        assert isinstance(opened, Opened)
        end(process)
        assert opened.hello.flags == 2, "it is protected, and says so"
        text = b"kilofed entropy 1" + struct.pack("<I", boot)
        key = identity_of("a", 0)[8:]
        drawn = [
            hashlib.blake2b(text + struct.pack("<I", draw), key=key, digest_size=8).digest()
            for draw in range(8)
        ]
        assert opened.hello.device_nonce in drawn
        seen += drawn
        assert boots.read_text() == f"{boot}\n"
    assert len(set(seen)) == len(seen)


def test_a_count_of_boots_that_cannot_be_kept_stops_the_program(program: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("no number")
    for path, words in ((bad, b"not a count of starts"), (tmp_path / "no" / "folder", b"can be written")):
        done = subprocess.run(
            [program, "--stdio", "--model", DIGITS, "--id-seed", "a", "--boots", path], capture_output=True
        )
        assert done.returncode == 1 and words in done.stderr


def test_keys_need_frames_that_carry_them(program: Path) -> None:
    done = subprocess.run(
        [program, "--stdio", "--model", DIGITS, "--id-seed", "a", "--max-frame", "71"], capture_output=True
    )
    assert done.returncode == 2 and b"give 72 or more, or --insecure" in done.stderr


def test_a_host_that_comes_later_is_found(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = spawn(program, "--connect", f"127.0.0.1:{port}", "--verbose")
    time.sleep(0.8)
    with socket.create_server(("127.0.0.1", port)) as late:
        late.settimeout(10)
        connection, _ = late.accept()
        line = Line(connection.fileno(), connection.sendall)
        wait(line, Opened)
        said = end(process)
        connection.close()
    assert "1 devices" in said and "connected" in said


def test_too_little_memory_is_told_to_the_host_with_the_number(program: Path, server: Server) -> None:
    process = spawn(program, "--connect", f"127.0.0.1:{server.port}", "--memory", 5000)
    (line,) = server.accept(1)
    opened = wait(line, Opened)
    assert isinstance(opened, Opened) and opened.info.state is State.FAILED
    error = wait(line, DeviceError)
    assert isinstance(error, DeviceError) and error.code == 2
    said = end(process)
    assert f"detail {error.detail} " in said
    process = spawn(program, "--connect", f"127.0.0.1:{server.port}", "--memory", error.detail)
    (line,) = server.accept(1)
    opened = wait(line, Opened)
    assert isinstance(opened, Opened) and opened.info.state is State.IDLE
    line.endpoint.send_head(heads.encode_head(make_head()))
    wait(line, HeadDelivered)
    assert end(process) == ""


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "--connect"), (["--connect", "nowhere"], "HOST:PORT"),
        (["--connect", "h:1", "--stdio"], "either"), (["--stdio", "x"], "option"),
        (["--stdio", "--count", "2"], "--count"), (["--stdio", "--ring", "7"], "multiple"),
        (["--stdio", "--max-frame", "63"], "64 to 1024"), (["--stdio", "--count", "-1"], "number"),
        (["--stdio", "--samples", "a", "--samples", "b"], "--count"), (["--stdio", "--nonsense"], "--help"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_says_what_to_do(program: Path, arguments: list[str], word: str) -> None:
    process = spawn(program, *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert word in said.decode()


def test_a_missing_file_says_what_to_do(program: Path) -> None:
    process = spawn(program, "--stdio", "--samples", "/does/not/exist", stdin=subprocess.DEVNULL)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "/does/not/exist" in said.decode() and "readable" in said.decode()


def state(pid: int) -> str:
    """What the process does just now: S, it waits for something."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def waits(pid: int) -> int:
    """How often the process has waited so far."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.slow
def test_hundreds_of_devices_idle_at_almost_no_cost(program: Path, server: Server) -> None:
    """Two hundred in open sessions: but for their heartbeats the process sleeps."""
    count = 200
    process = spawn(program, "--connect", f"127.0.0.1:{server.port}", "--count", count, "--id-seed", "m")
    lines = server.accept(count)
    run(lines, lambda: all(line.seen(Opened) for line in lines))
    before, at = waits(process.pid), time.monotonic()
    states: list[str] = []

    def over() -> bool:
        states.append(state(process.pid))
        return time.monotonic() > at + 4

    run(lines, over)
    assert not any(line.seen(Lost) for line in lines)
    assert states.count("S") > len(states) / 2, "awake more often than not"
    assert waits(process.pid) - before < 4 * count, "more than a heartbeat or two a device"
    end(process)
