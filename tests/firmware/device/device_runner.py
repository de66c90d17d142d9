"""The device core as a child process with a clock of the test's own, and a world in which it meets a host.

`Runner` is the process of runner.c, `Device` the one device in it, `World` that device and a host endpoint
with a line between them that the test may cut, damage and delay.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
COVERAGE = ["--coverage", "-fprofile-update=atomic"] if os.environ.get("KILOFED_COVERAGE") else []
BUILD = ROOT / "build" / ("coverage" if COVERAGE else "tests") / "device"
DIGITS = ROOT / "models" / "digits" / "digits.tflite"
FIRMWARE = ROOT / "firmware"

for part in ("tools", "host", "."):
    if str(ROOT / part) not in sys.path:
        sys.path.insert(0, str(ROOT / part))

from tests.link_tap import Tap  # noqa: E402

from kilofed.link.events import Event, Stray  # noqa: E402
from kilofed.link.host import HostEndpoint  # noqa: E402
from kilofed.link.secure import NO_KEY  # noqa: E402

WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]
SANITIZE = [
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]
UNLIMITED = 0xFFFFFFFF

PARTS = (
    "receive", "send", "ring", "master", "work", "residual", "base", "incoming", "personal", "arena", "total",
)  # fmt: skip


def build(name: str, mains: Sequence[Path], *, flags: list[str], compiler: str = "gcc") -> Path:
    """Compile `mains` with the whole core into build/tests/device, unless it is newer than its sources."""
    deps = ROOT / "build" / "deps"
    subprocess.run([sys.executable, FIRMWARE / "cmake" / "fetch_sources.py", deps], check=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    target = BUILD / name
    core = [*sorted(FIRMWARE.glob("src/*/*.c")), *sorted(FIRMWARE.glob("src/nn/plain/*.c"))]
    headers = [
        *FIRMWARE.glob("include/kilofed/*.h"),
        *FIRMWARE.glob("src/*/*.h"),
        *mains[0].parent.glob("*.h"),
    ]
    watched = [*mains, *core, *headers]
    if target.exists() and target.stat().st_mtime > max(path.stat().st_mtime for path in watched):
        return target
    include = [
        f"-I{FIRMWARE / 'include'}",
        "-isystem",
        str(deps / "zcbor"),
        "-isystem",
        str(deps / "monocypher"),
    ]
    theirs = [*sorted((deps / "zcbor").glob("*.c")), *sorted((deps / "monocypher").glob("*.c"))]
    folder = BUILD / f"{name}.{os.getpid()}"
    folder.mkdir(exist_ok=True)
    made = []
    for source in [*mains, *core, *theirs]:
        # What is not ours is compiled as the firmware does it: without our warnings, and not instrumented.
        own = [*WARNINGS, *flags, *COVERAGE]
        if source in theirs:
            own = ["-std=c11", "-w", *(flag for flag in flags if not flag.startswith("-fsanitize"))]
        made.append(folder / f"{source.parent.name}_{source.stem}.o")
        command = [compiler, *own, "-DBLAKE2_NO_UNROLLING", *include, "-c", str(source), "-o", str(made[-1])]
        subprocess.run(command, check=True)
    command = [compiler, *flags, *COVERAGE, *map(str, made), "-o", str(folder / "linked")]
    subprocess.run(command, check=True)
    (folder / "linked").replace(target)
    if not COVERAGE:  # what is counted is told apart by what lies beside the objects
        shutil.rmtree(folder)
    return target


class Answer:
    """Reads an answer in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        assert len(part) == size
        self._at += size
        return part

    def number(self) -> int:
        return int(struct.unpack("<q", self.take(8))[0])

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    @property
    def left(self) -> int:
        return len(self._data) - self._at


class Runner:
    """The process. A crash shows as the sanitizer's report in the test's error."""

    def __init__(self, binary: Path) -> None:
        environment = os.environ | {"UBSAN_OPTIONS": "print_stacktrace=1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([binary], stdin=pipe, stdout=pipe, env=environment)

    def ask(self, what: str, *parts: bytes) -> Answer:
        """One request."""
        request = what.encode() + b"".join(parts)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(struct.pack("<I", len(request)) + request)
        self._process.stdin.flush()
        header = self._process.stdout.read(4)
        if len(header) < 4:
            raise AssertionError(f"the core died with status {self._process.wait()}; its report is on stderr")
        return Answer(self._process.stdout.read(struct.unpack("<I", header)[0]))

    def close(self) -> None:
        """End it, and see that nothing leaked."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(30) == 0


@dataclass(frozen=True)
class Config:
    """A kf_device_config_t; memory 0 gives exactly what the device asks for."""

    model: bytes = field(default_factory=DIGITS.read_bytes, repr=False)
    memory: int = 0
    max_frame: int = 128
    window: int = 256
    ring_slots: int = 80
    held_out_every: int = 5
    exact_updates: bool = False
    max_batch: int = 16
    entropy: bool = True
    seed: int = 1
    firmware: int = 0x000100
    id: bytes = b"device-1"
    key: bytes = bytes(range(32))  # all zero: none, its sessions are in the clear
    board: str = "posix"
    samples: bytes = b""


@dataclass(frozen=True)
class State:
    """What the device is, from inside."""

    state: int
    head_in_use: int
    count: int
    frames_in: int
    frames_out: int
    damaged: int
    locks: int
    unproven: int
    residual: bytes
    ring: bytes


class Device:
    """A device, and what kf_device_init() said of it."""

    def __init__(self, runner: Runner, config: Config, *, now_ms: int = 0) -> None:
        self.runner = runner
        self.config = config
        name = config.board.encode()
        answer = runner.ask(
            "I",
            struct.pack("<IIHHH", now_ms, config.memory, config.max_frame, config.window, config.ring_slots),
            struct.pack("<BBH", config.held_out_every, config.exact_updates, config.max_batch),
            struct.pack("<BII", config.entropy, config.seed, config.firmware),
            config.id, config.key, struct.pack("<B", len(name)), name,
            struct.pack("<I", len(config.model)), config.model,
            struct.pack("<I", len(config.samples)), config.samples,
        )  # fmt: skip
        self.status = answer.number()
        self.exact_bytes = answer.number()
        self.needed_bytes = answer.number()
        self.fault = answer.number()
        self.fault_detail = answer.number()
        self.struct_bytes = answer.number()
        self.parts = dict(zip(PARTS, struct.unpack("<11I", answer.rest()), strict=True))
        self.strays = b""
        self.polls = 0
        self.state = 0

    def receive(self, data: bytes, now_ms: int) -> None:
        assert self.runner.ask("R", struct.pack("<I", now_ms & 0xFFFFFFFF), data).number() == 0

    def poll(
        self, now_ms: int, *, max_macs: int = 2000, polls: int = 1_000_000, room: int = UNLIMITED
    ) -> tuple[int, bytes]:
        """Until it wants to wait, or so many times: (ms it wants to wait, bytes it wrote)."""
        answer = self.runner.ask("P", struct.pack("<IIII", now_ms & 0xFFFFFFFF, max_macs, polls, room))
        wait, made, self.state = answer.number(), answer.number(), answer.number()
        self.polls += made
        self.strays += answer.take(answer.number())
        return wait, answer.rest()

    def observe(self, sample: npt.NDArray[np.int8], label: int) -> int:
        return self.runner.ask("O", struct.pack("<H", label), sample.astype(np.int8).tobytes()).number()

    def observe_features(self, features: npt.NDArray[np.int8], label: int) -> int:
        return self.runner.ask("F", struct.pack("<H", label), features.astype(np.int8).tobytes()).number()

    def classify(self, sample: npt.NDArray[np.int8]) -> tuple[int, int, bytes]:
        answer = self.runner.ask("C", sample.astype(np.int8).tobytes())
        return answer.number(), answer.number(), answer.rest()

    def inside(self) -> State:
        answer = self.runner.ask("G")
        numbers = [answer.number() for _ in range(8)]
        residual = answer.take(answer.number())
        return State(*numbers, residual, answer.take(answer.number()))

    def busy(self, ms: int) -> None:
        self.runner.ask("B", struct.pack("<I", ms))

    def leave(self, reason: int) -> None:
        self.runner.ask("L", bytes([reason]))


Channel = Callable[[bytes], bytes]


def clean(data: bytes) -> bytes:
    """A line that does nothing to what it carries."""
    return data


class World:
    """A device and a host with a line between them, in a time of their own.

    up, down: what the line makes of the bytes; tests replace them at any time. Time moves to whatever is due
    next, so that a second costs nothing.
    """

    def __init__(
        self, device: Device, *, seed: int = 7, max_macs: int = 2000, now: float = 0.0, **host: object
    ) -> None:
        self.device = device
        self.rng = random.Random(seed)
        self.new_host(**host)
        self.up: Channel = clean
        self.down: Channel = clean
        self.now = now
        self.max_macs = max_macs
        self.events: list[Event] = []
        self.bytes_up = 0
        self.bytes_down = 0
        self.up_log = b""
        key = device.config.key
        self.tap = Tap(None if key == NO_KEY else key)
        self.log: list[tuple[str, object]] = []  # ("up" or "down", message) of all frames said

    def new_host(self, **options: Any) -> None:
        """A host that knows the device's key, if it has one."""
        key = self.device.config.key
        known = [key] if key != NO_KEY else []
        self.host = HostEndpoint(
            rng=self.rng.randbytes, **{"keys": lambda _: known, "insecure": not known, **options}
        )

    @property
    def now_ms(self) -> int:
        return int(self.now * 1000)

    def exchange(self) -> tuple[float, bool]:
        """Both sides do what is due now. Seconds until the next thing is due, and whether bytes moved."""
        moved = False
        self.host.poll(self.now)
        down = self.down(self.logged("down", self.host.data_to_send()))
        if down:
            moved = True
            self.bytes_down += len(down)
            self.device.receive(down, self.now_ms)
        wait, said = self.device.poll(self.now_ms, max_macs=self.max_macs)
        up = self.up(self.logged("up", said))
        if up:
            moved = True
            self.bytes_up += len(up)
            self.up_log += up
            self.host.receive(up, self.now)
        self.events += self.host.events()
        deadline = self.host.next_deadline()
        due = self.now + wait / 1000
        if deadline is not None:
            due = min(due, deadline)
        return max(due - self.now, 0.0), moved

    def logged(self, way: str, data: bytes) -> bytes:
        """The bytes, whole frames that are said now; what they say is in the log from here on."""
        self.log += [(way, message) for message in self.messages(data)]
        return data

    def messages(self, data: bytes) -> list[object]:
        """What is said in these bytes, which are whole frames that were not read before."""
        return [self.tap.read(piece) for piece in data.split(b"\0") if piece]

    def run(self, until: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Until something is so. AssertionError when it is not within so many seconds of the world's time."""
        end = self.now + seconds
        while not until():
            assert self.now < end, f"not within {seconds} s; events: {self.events[-20:]}"
            wait, moved = self.exchange()
            if not moved:
                self.now += max(wait, 0.001)

    def settle(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self.now < end:
            wait, moved = self.exchange()
            if not moved:
                self.now += min(max(wait, 0.001), max(end - self.now, 0.001))

    def wait_for(self, kind: type, *, seconds: float = 60.0) -> Event:
        """The next event of a kind; those before it are dropped."""
        self.run(lambda: any(isinstance(event, kind) for event in self.events), seconds=seconds)
        at = next(i for i, event in enumerate(self.events) if isinstance(event, kind))
        event = self.events[at]
        del self.events[: at + 1]
        return event

    def seen(self, kind: type) -> bool:
        return any(isinstance(event, kind) for event in self.events)

    @property
    def host_strays(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, Stray))
