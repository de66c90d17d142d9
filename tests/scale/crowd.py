"""A crowd of devices of the real core, their register, the host that serves them, and what it says it took.

with Crowd(folder, devices=200, vanishing=20) as crowd:
    figures = crowd.run(rounds=2)
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.scale import model

from kilofed.boards import placed
from kilofed.fleet import Device, Fleet
from kilofed.native import build_native

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 10  # of a device: training is short
STAYING, VANISHING = "stay", "vanish"  # --id-seed of the two processes


class CrowdFailed(Exception):
    """The measurement did not come to its end; says why."""


@dataclass(frozen=True)
class Round:
    """How a round went. cpu: host seconds until the next one begins. up, down: bytes on the wire."""

    number: int
    how: str
    asked: int
    taken: int
    dropped: int
    cpu: float
    up: int
    down: int
    retries: int


@dataclass
class Figures:
    """What a run said. gather_cpu: host seconds until the first round. rss: the host's most memory, bytes."""

    gather_cpu: float = 0.0
    rss: int = 0
    rounds: list[Round] = field(default_factory=list)


def identity(seed: str, number: int) -> tuple[bytes, bytes]:
    """Id and key that kilofed-posix makes of --id-seed for a device."""
    made = hashlib.blake2b(
        b"kilofed posix 1" + number.to_bytes(4, "little") + seed.encode(), digest_size=40
    ).digest()
    return made[:8], made[8:]


def register(path: Path, seed: str, count: int) -> None:
    """Writes `count` devices of a seed into the register at `path`."""
    made = (identity(seed, number) for number in range(count))
    with Fleet(path) as fleet:
        fleet.add_all(Device(id, f"{seed}-{n}", "posix", key, 0.0) for n, (id, key) in enumerate(made))


class Crowd:
    """devices: in all. vanishing: of them fall silent in mid-round. folder: for everything, new."""

    def __init__(
        self, folder: Path, *, devices: int, vanishing: int = 0, program: Path | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.devices = devices
        self.vanishing = vanishing
        self._program = program or build_native()
        self._stack = ExitStack()
        self._model = folder / "model.tflite"
        self._samples = folder / "samples.kfs"

    def __enter__(self) -> Crowd:
        self._model.write_bytes(model.make_model())
        self._samples.write_bytes(placed.encode(*model.samples(SAMPLES)))
        register(self.folder / "fleet.sqlite", STAYING, self.devices - self.vanishing)
        register(self.folder / "fleet.sqlite", VANISHING, self.vanishing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(
        self, *, rounds: int, quorum: float = 1.0, deadline: float = 300.0, gather: float = 300.0
    ) -> Figures:
        """One run from its beginning to its end; those that vanish do so once the last round has begun."""
        settings = {
            "folder": str(self.folder / "run"), "model": str(self._model),
            "fleet": str(self.folder / "fleet.sqlite"), "devices": self.devices, "rounds": rounds,
            "quorum": quorum, "deadline": deadline, "gather": gather,
        }  # fmt: skip
        with (self.folder / "host.err").open("wb") as trouble:
            host = self._started([sys.executable, "-m", "tests.scale.host", json.dumps(settings)], trouble)
        assert host.stdout is not None
        figures, fleeting = Figures(), None
        marks: list[dict[str, Any]] = []  # beginnings of rounds, and the end of the run
        ends: list[dict[str, Any]] = []
        for text in host.stdout:
            line = json.loads(text)
            if "port" in line:
                self._devices(line["port"], STAYING, self.devices - self.vanishing)
                if self.vanishing:
                    fleeting = self._devices(line["port"], VANISHING, self.vanishing)
                continue
            figures.rss = max(figures.rss, line["rss"])
            match line["at"]:
                case "begun":
                    figures.gather_cpu = -line["cpu"]
                case "round":
                    figures.gather_cpu += 0.0 if marks else line["cpu"]
                    marks.append(line)
                    if line["number"] == rounds and fleeting is not None:
                        fleeting.send_signal(signal.SIGSTOP)  # their lines stay open, and nothing comes
                case "ended":
                    ends.append(line)
                case "done":
                    marks.append(line)
        figures.rounds = [
            Round(
                end["number"], end["how"], begin["asked"], end["taken"], end["dropped"],
                after["cpu"] - begin["cpu"], end["up"], end["down"], end["retries"],
            )
            for end, begin, after in zip(ends, marks, marks[1:], strict=False)
        ]  # fmt: skip
        if host.wait() != 0 or len(figures.rounds) != rounds:
            raise CrowdFailed(
                f"the host ended with {host.returncode}: {(self.folder / 'host.err').read_text()[-2000:]}"
            )
        return figures

    def _devices(self, port: int, seed: str, count: int) -> subprocess.Popen[bytes]:
        command = [
            str(self._program), "--connect", f"127.0.0.1:{port}", "--count", str(count), "--id-seed", seed,
            "--model", str(self._model), "--all-samples", str(self._samples), "--ring", str(SAMPLES),
            "--max-batch", "8",
        ]  # fmt: skip
        with (self.folder / f"{seed}.err").open("wb") as trouble:
            return self._started(command, trouble)

    def _started(self, command: list[str], trouble: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=trouble, cwd=ROOT, env=environment)
        self._stack.callback(_end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
