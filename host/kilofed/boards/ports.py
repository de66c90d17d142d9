"""The serial ports of this machine: which are there, what is plugged in behind them, and why one cannot be
opened.

Nothing here opens a port: opening one resets some boards. `refusal` judges beforehand, `explain` afterwards
from the error that opening gave; both say the same of the same trouble.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MISSING = "missing"
DENIED = "denied"
BUSY = "busy"
FAILED = "failed"
"""Kinds of a refusal; FAILED is whatever the other three are not."""


@dataclass(frozen=True)
class Port:
    """One serial port.

    path: what pyserial opens. vid, pid: of its USB device, 0 when it has none. serial: the USB device's
    serial number, "" when unknown; product: what it calls itself; location: its place on the bus ("1-1.4"),
    the same after it was unplugged and plugged in again.
    """

    path: str
    vid: int = 0
    pid: int = 0
    serial: str = ""
    product: str = ""
    location: str = ""

    @property
    def usb(self) -> str:
        """The USB id as "0d28:0204", "" for a port of another bus."""
        return f"{self.vid:04x}:{self.pid:04x}" if self.vid else ""


@dataclass(frozen=True)
class Refusal:
    """Why a port cannot be opened: kind is one of MISSING, DENIED, BUSY, FAILED."""

    kind: str
    what: str
    next_step: str


def attached(comports: Callable[[], Iterable[Any]] | None = None) -> list[Port]:
    """The serial ports of USB devices, by path. comports: as pyserial's, for tests."""
    if comports is None:
        from serial.tools import list_ports

        comports = list_ports.comports
    return sorted(
        (
            Port(
                p.device, p.vid, p.pid or 0, p.serial_number or "", p.product or "", _place(p.location or "")
            )
            for p in comports()
            if p.vid is not None
        ),
        key=lambda port: port.path,
    )


def _place(location: str) -> str:
    """Of "1-1.4:1.0" the device's part: what follows the colon counts its interfaces."""
    return location.partition(":")[0]


def refusal(path: str, *, proc: Path = Path("/proc")) -> Refusal | None:
    """Why `path` could not be opened now, None when nothing speaks against it. proc: where the kernel lists
    processes; of those of other users nothing can be seen.
    """
    from kilofed.transports.serial import denied_step

    if not Path(path).exists():
        return Refusal(MISSING, f"there is no port {path}", "plug the board in, or name another port")
    if not os.access(path, os.R_OK | os.W_OK):
        return Refusal(DENIED, f"{path} may not be opened by this user", denied_step(path))
    holders = [f"{name} (process {pid})" for pid, name in who_holds(path, proc=proc)]
    if holders:
        return Refusal(BUSY, f"{path} is in use by {', '.join(holders)}", "close that program")
    return None


def who_holds(path: str, *, proc: Path = Path("/proc")) -> list[tuple[int, str]]:
    """Processes that have `path` open, this one left out: their ids and names, as far as this user may see
    them.
    """
    real = str(Path(path).resolve())
    found = []
    for process in sorted(proc.glob("[0-9]*"), key=lambda p: int(p.name)):
        if int(process.name) == os.getpid():
            continue
        try:
            if any(str(fd.readlink()) == real for fd in (process / "fd").iterdir()):
                found.append((int(process.name), (process / "comm").read_text().strip()))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


def explain(path: str, error: Exception) -> Refusal:
    """Why opening `path` failed with `error`, of pyserial or of the operating system."""
    from kilofed.link.errors import PortBusy, PortDenied, PortNotFound
    from kilofed.transports.serial import opening_failed

    known = opening_failed(path, error)
    kinds = {PortNotFound: MISSING, PortDenied: DENIED, PortBusy: BUSY}
    kind = next((kind for error_type, kind in kinds.items() if isinstance(known, error_type)), FAILED)
    if kind == BUSY and (seen := refusal(path)) is not None and seen.kind == BUSY:
        return seen  # it can name the program
    return Refusal(kind, known.what, known.next_step)
