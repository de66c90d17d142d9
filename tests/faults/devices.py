"""Devices to be mistreated: the real core as a process, or a board in QEMU, with a line between."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.proxy import Hook, Proxy, untouched

from kilofed.boards import Emulator, Identity, build, catalogue, placed, settings
from kilofed.fleet import Device, Fleet, new_identity
from kilofed.native import build_native
from kilofed.processes import Process
from kilofed.samples import Samples, digits_model_path


class Victim(ABC):
    """A device behind a proxy. `act` on it with kill, start, pause and resume, from any hook."""

    emulated = False

    def __init__(self, folder: Path, name: str, board: str, samples: Samples, hook: Hook = untouched) -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.board = board
        self.samples = samples
        # The id decides how a device shuffles: the same in every run of a name.
        device_id = hashlib.blake2b(f"fault {name}".encode(), digest_size=8).digest()
        self.device = new_identity(name, board, device_id=device_id)
        self.proxy = Proxy(hook, taken_by_host=self.emulated, key=self.device.key)

    def register(self, fleet: Fleet) -> None:
        """Makes it known to a run."""
        fleet.add(self.device, replace=True)

    @property
    def identity(self) -> Identity:
        """What its settings page says."""
        return identity_of(self.device)

    @property
    @abstractmethod
    def pid(self) -> int:
        """The process that plays it, 0 for none."""

    @abstractmethod
    def start(self) -> None:
        """Power."""

    @abstractmethod
    def kill(self) -> None:
        """No power."""

    @abstractmethod
    def close(self) -> None:
        """No process is left."""

    def restart(self) -> None:
        """A reset: what is in RAM is gone."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """It hangs: the line stays open, and nothing moves."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it hung."""
        if self.pid:
            os.kill(self.pid, signal.SIGCONT)


class Native(Victim):
    """kilofed-posix with one device, which connects to its proxy. options: of the program."""

    def __init__(
        self,
        folder: Path,
        name: str,
        samples: Samples,
        hook: Hook = untouched,
        *,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, name, "posix", samples, hook)
        self._options = list(options)
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None and self._process.running else 0

    def start(self) -> None:
        page, data = self.folder / "settings.bin", self.folder / "samples.bin"
        page.write_bytes(settings.encode(self.identity))
        data.write_bytes(placed.encode(self.samples.inputs, self.samples.labels))
        command = [
            *self.program(), "--connect", f"127.0.0.1:{self.proxy.port}",
            "--model", str(digits_model_path()), "--settings", str(page), "--samples", str(data),
            *self._options,
        ]  # fmt: skip
        self._process = Process(command, log=self.folder / "log")
        self._process.start()

    def program(self) -> list[str]:
        """What is run."""
        return [str(native_program())]

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        self.kill()


class Linux(Native):
    """kilofed-pi."""

    def program(self) -> list[str]:
        return [sys.executable, "-m", "kilofed_pi"]


class Emulated(Victim):
    """A board of the catalogue in QEMU; the host connects to its proxy as to a serial port."""

    emulated = True

    def __init__(self, folder: Path, name: str, board: str, samples: Samples, hook: Hook = untouched) -> None:
        super().__init__(folder, name, board, samples, hook)
        self._board = Emulator(catalogue.load(board), self.folder)
        self._board.place(placed.encode(samples.inputs, samples.labels))

    @property
    def url(self) -> str:
        """What the host opens."""
        return f"socket://127.0.0.1:{self.proxy.port}"

    @property
    def pid(self) -> int:
        return self._board.pid if self._board.running else 0

    def start(self) -> None:
        if self._board.flashed:
            self._board.start()
        else:
            self._board.flash(build(self.board, digits_model_path()), self.identity)
        host, port = self._board.url.removeprefix("socket://").split(":")
        self.proxy.target = (host, int(port))

    def kill(self) -> None:
        self._board.kill()

    def close(self) -> None:
        self._board.close()


def identity_of(device: Device) -> Identity:
    """The settings page's content for a registration."""
    return Identity(device.id, device.key, device.name)


_native: list[Path] = []


def native_program(build_it: Callable[[], Path] = build_native) -> Path:
    """kilofed-posix, built once a process."""
    if not _native:
        _native.append(build_it())
    return _native[0]
