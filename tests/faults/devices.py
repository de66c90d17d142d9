"""Devices to be mistreated: the real core as a process, or a board in QEMU, with a line between."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.faults.proxy import Hook, Proxy, untouched

from kilofed.boards import Emulator, Identity, build, catalogue, placed, settings
from kilofed.fleet import NO_KEY, Device, Fleet, new_identity
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
        self._powered = False  # started, and not killed since
        self._crash = ""

    def unlock(self) -> None:
        """Takes its key away, before its first start: its sessions are in the clear."""
        self.device = replace(self.device, key=NO_KEY)
        self.proxy = Proxy(self.proxy.hook, taken_by_host=self.emulated)

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

    @property
    @abstractmethod
    def log(self) -> Path:
        """What the process printed since its last start."""

    def start(self) -> None:
        """Power."""
        self._start()
        self._powered = True

    def kill(self) -> None:
        """No power. A crash before it is kept for `check`."""
        self._look()
        self._powered = False
        self._kill()

    def close(self) -> None:
        """No process is left."""
        self.kill()

    def check(self) -> None:
        """AssertionError when its process ever ended though nobody killed it: the device crashed."""
        self._look()
        assert not self._crash, self._crash

    def _look(self) -> None:
        if self._powered and not self.pid and not self._crash:
            said = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
            self._crash = f"{self.name} ended by itself: {' / '.join(said[-3:]) or 'it printed nothing'}"

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _kill(self) -> None: ...

    def restart(self) -> None:
        """A reset: what is in RAM is gone."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """It hangs: the line stays open, and nothing moves. Nothing for a device without power."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it hung."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # To process 0 would be to the caller's own group.
        if pid := self.pid:
            os.kill(pid, number)


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

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def _start(self) -> None:
        page, data = self.folder / "settings.bin", self.folder / "samples.bin"
        page.write_bytes(settings.encode(self.identity))
        data.write_bytes(placed.encode(self.samples.inputs, self.samples.labels))
        command = [
            *self.program(), "--connect", f"127.0.0.1:{self.proxy.port}",
            "--model", str(digits_model_path()), "--settings", str(page), "--samples", str(data),
            *self._options,
        ]  # fmt: skip
        self._process = Process(command, log=self.log)
        self._process.start()

    def program(self) -> list[str]:
        """What is run."""
        return [str(native_program())]

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()


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

    @property
    def log(self) -> Path:
        return self._board.log

    def _start(self) -> None:
        if self._board.flashed:
            self._board.start()
        else:
            self._board.flash(build(self.board, digits_model_path()), self.identity)
        host, port = self._board.url.removeprefix("socket://").split(":")
        self.proxy.target = (host, int(port))

    def _kill(self) -> None:
        self._board.kill()

    def close(self) -> None:
        super().close()
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
