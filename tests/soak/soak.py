"""Twenty devices, a fault every second, and a watch over the host: no hang, no leak, no wrong aggregate.

The faults follow from the seed; when they meet a round depends on the machine. What must hold holds for all.
"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.devices import Emulated, Linux, Native, Victim
from tests.faults.liar import KEY, Liar, Lie, honest, make_liar
from tests.faults.proxy import Hook, Piece, untouched
from tests.faults.replay import Replay, replay
from tests.faults.test_liars import CASES
from tests.soak.host import DEADLINES

from kilofed.fleet import Device, Fleet
from kilofed.processes import Process
from kilofed.samples import deal, digits_pool
from kilofed.store import open_run

BOARDS = ("microbit", "mps2-an385", "mps2-an386")
LIARS = 3
LINUX = 1
DEVICES = 20
SAMPLES = 40
LOOK_SECONDS = 3.0
STILL_SECONDS = DEADLINES.round + DEADLINES.gather  # without a new round is a hang
SLACK = 3.0
GROWTH = 1.05
STEADY_SECONDS = 90.0  # a shorter run says nothing about memory
HOST_KILLS = 2  # with -9, in the first fifth: memory is judged after it


class SoakFailed(Exception):
    """Something did not hold; says what."""


@dataclass
class Summary:
    """What a soak saw. resident: of the host, bytes, each with its time."""

    seconds: float = 0.0
    rounds: int = 0
    taken: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    resident: list[tuple[float, int]] = field(default_factory=list)
    slowest: float = 0.0

    def growth(self) -> float | None:
        """Memory at the end over memory after the first third; None when the run was too short to say."""
        if not self.resident or self.resident[-1][0] < STEADY_SECONDS:
            return None
        end = self.resident[-1][0]
        early = [size for at, size in self.resident if end / 3 <= at < end / 2]
        late = [size for at, size in self.resident if at >= end * 5 / 6]
        return statistics.median(late) / statistics.median(early)

    def __str__(self) -> str:
        growth = self.growth()
        memory = f"{self.resident[-1][1] / 1e6:.0f} MB" if self.resident else "unknown"
        lines = [
            f"{self.rounds} rounds in {self.seconds:.0f} s, the slowest {self.slowest:.1f} s;"
            f" {self.taken} contributions counted, {self.dropped.total()} did not",
            f"host memory {memory}, " + ("too short to say" if growth is None else f"{growth:.3f} x"),
            "faults: " + ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())),
            "dropped: " + "; ".join(f"{count} x {why}" for why, count in self.dropped.most_common(8)),
        ]
        return "\n".join(lines)


class Soak:
    """One soak in `folder`. boards: QEMU plays some of the devices."""

    def __init__(self, folder: Path, *, seed: int, seconds: float, boards: bool, devices: int = DEVICES):
        self.folder = folder
        self.seconds = seconds
        self.summary = Summary()
        self._chance = random.Random(seed)
        names = list(BOARDS) if boards else []
        shards = deal(digits_pool(), [SAMPLES] * devices, seed=seed)
        self.victims: list[Victim] = []
        for name in names:
            self.victims.append(Emulated(folder / "devices", name, name, shards[len(self.victims)]))
        for number in range(devices - LIARS - len(names)):
            kind = Linux if number < LINUX else Native
            self.victims.append(kind(folder / "devices", f"dev-{number}", shards[len(self.victims)]))
        self.liars = [make_liar(id=bytes([0xE0 + n]) * 8) for n in range(LIARS)]
        self._port = _free_port()
        self._host: Process | None = None
        self._replay: Replay | None = None
        self._begun = 0.0
        self._last_round = 0.0
        self._busy: set[str] = set()

    async def run(self) -> Summary:
        """SoakFailed or AssertionError when something did not hold."""
        async with AsyncExitStack() as stack:
            fleet = self.folder / "fleet.sqlite"
            with Fleet(fleet) as register:
                for number, liar in enumerate(self.liars):
                    register.add(Device(liar.id, f"liar-{number}", "posix", KEY, 0.0), replace=True)
                for victim in self.victims:
                    victim.register(register)
            for victim in self.victims:
                stack.callback(victim.close)
                await stack.enter_async_context(victim.proxy)
                victim.proxy.target = ("127.0.0.1", self._port)
                victim.start()
            urls = [victim.url for victim in self.victims if isinstance(victim, Emulated)]
            command = [sys.executable, "-m", "tests.soak.host", str(self.folder / "run"), str(self._port)]
            self._host = Process(
                [*command, str(fleet), str(len(self.victims) // 2), *urls], log=self.folder / "host.log"
            )
            stack.callback(self._host.stop)
            self._host.start()
            visits = [asyncio.ensure_future(liar.visit(self._port)) for liar in self.liars]
            trouble = asyncio.ensure_future(self._trouble())
            try:
                await self._watch(trouble)
            finally:
                for task in [*visits, trouble]:
                    task.cancel()
                results = await asyncio.gather(*visits, trouble, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result
            self._host.stop()
        with open_run(self.folder / "run") as run:
            replay(run)
        growth = self.summary.growth()
        if growth is not None and growth > GROWTH:
            raise SoakFailed(f"the host's memory grew {growth:.3f} times")
        return self.summary

    # ---- the watch -------------------------------------------------------------------------------

    async def _watch(self, trouble: asyncio.Future[None]) -> None:
        self._begun = self._last_round = time.monotonic()
        kills = sorted(self._chance.uniform(0.05, 0.2) * self.seconds for _ in range(HOST_KILLS))
        assert self._host is not None
        while (now := time.monotonic()) < self._begun + self.seconds:
            await asyncio.wait({trouble}, timeout=min(LOOK_SECONDS, self.seconds / 5))
            if trouble.done():
                trouble.result()  # it ends by an error only
            self._host.check()
            self._look()
            for victim in self.victims:
                victim.check()
            size = _resident(self._host.pid)
            self.summary.resident.append((now - self._begun, size))
            if kills and now - self._begun > kills[0] and self.summary.rounds:
                kills.pop(0)
                self.summary.faults["host killed"] += 1
                self._host.kill()
                self._host.start()
        self.summary.seconds = time.monotonic() - self._begun

    def _look(self) -> None:
        if not (self.folder / "run" / "run.sqlite").is_file():
            return
        with open_run(self.folder / "run") as run:
            if self._replay is None:
                self._replay = Replay(run)
            self._replay.run = run
            for record in run.rounds(after=self._replay.done):
                self._replay.apply(record)
                self._last_round = time.monotonic()
                self.summary.rounds += 1
                self.summary.taken += len(record.taken)
                self.summary.dropped.update(part.reason[:60] for part in record.dropped)
                self.summary.slowest = max(self.summary.slowest, record.seconds)
                if record.seconds > DEADLINES.round + SLACK:
                    raise SoakFailed(f"round {record.number} took {record.seconds:.1f} s")
                if not all(part.reason for part in record.dropped):
                    raise SoakFailed(f"round {record.number} dropped a device and does not say why")
        still = time.monotonic() - self._last_round
        if still > STILL_SECONDS:
            raise SoakFailed(f"no round for {still:.0f} s")

    # ---- the faults ------------------------------------------------------------------------------

    async def _trouble(self) -> None:
        acts: list[tuple[str, Callable[[Victim], Awaitable[None]]]] = [
            ("reset", self._reset),
            ("hang", self._hang),
            ("cable pulled", self._pull),
            ("noise", lambda victim: self._bend(victim, self._noise)),
            ("flipped bits", lambda victim: self._bend(victim, self._flip)),
            ("lost frames", lambda victim: self._bend(victim, self._lose)),
            ("frames twice", lambda victim: self._bend(victim, lambda piece: piece.data * 2)),
        ]
        lies = [case.lie for case in CASES.values()]
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                await asyncio.sleep(self._chance.uniform(0.2, 1.5))
                for task in [task for task in running if task.done()]:
                    running.discard(task)
                    task.result()
                if self._chance.random() < 0.2:
                    self._tell(self._chance.choice(self.liars), self._chance.choice([honest, *lies]))
                    continue
                name, act = self._chance.choice(acts)
                victim = self._chance.choice(self.victims)
                if victim.name in self._busy:
                    continue
                self.summary.faults[name] += 1
                task = asyncio.ensure_future(self._one(victim, act))
                running.add(task)
        finally:
            for task in running:
                task.cancel()
            for result in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    async def _one(self, victim: Victim, act: Callable[[Victim], Awaitable[None]]) -> None:
        self._busy.add(victim.name)
        try:
            await act(victim)
        finally:
            self._busy.discard(victim.name)

    def _tell(self, liar: Liar, lie: Lie) -> None:
        self.summary.faults["lie"] += 1
        liar.endpoint.lie = lie
        liar.fault = self._chance.choice([None, *(case.fault for case in CASES.values())])

    async def _reset(self, victim: Victim) -> None:
        victim.kill()
        await asyncio.sleep(self._chance.uniform(0.0, 3.0))
        victim.start()

    async def _hang(self, victim: Victim) -> None:
        victim.pause()
        try:
            await asyncio.sleep(self._chance.uniform(0.2, 8.0))
        finally:
            victim.resume()

    async def _pull(self, victim: Victim) -> None:
        await victim.proxy.cut()

    async def _bend(self, victim: Victim, hook: Hook) -> None:
        victim.proxy.hook = hook
        try:
            await asyncio.sleep(self._chance.uniform(0.2, 3.0))
        finally:
            victim.proxy.hook = untouched

    def _noise(self, piece: Piece) -> bytes:
        return self._chance.randbytes(self._chance.randrange(60)) + b"\0" + piece.data

    def _flip(self, piece: Piece) -> bytes:
        if self._chance.random() < 0.8:
            return piece.data
        bent = bytearray(piece.data)
        bent[self._chance.randrange(len(bent))] ^= 1 << self._chance.randrange(8)
        return bytes(bent)

    def _lose(self, piece: Piece) -> bytes:
        return b"" if self._chance.random() < 0.2 else piece.data


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _resident(pid: int) -> int:
    """Resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
