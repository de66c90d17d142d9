"""The programs that play boards: QEMU, and rp2040js for boards with an RP2040.

A player is started with three sockets (the board's serial port and its GDB server, both listening, and a
control line that speaks QEMU's machine protocol), halted. Everything else about an emulated board is the same
for all of them, and lies in `emulator`.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from kilofed.boards import catalogue
from kilofed.boards.catalogue import ETHERNET, Board
from kilofed.errors import EmulatorError, ToolMissingError

QEMU = "qemu-system-arm"
QEMU_PACKAGE = "qemu-system-arm"
NODE_TOOLS = {"node": "nodejs", "npm": "npm"}
"""The programs that rp2040js needs, and the Debian packages they come in."""

NET = "net"
"""QEMU's name of the network that a board on Ethernet is in."""


class Player(Protocol):
    """One program that plays boards. Call order: `prepare`, then `command`."""

    def prepare(self, board: Board) -> None:
        """See that everything needed is there, and bring what can be brought. Raises ToolMissingError;
        EmulatorError.
        """

    def command(self, board: Board, samples: Path | None, serial: int, gdb: int, control: int) -> list[str]:
        """What to run. samples: a file to place into the board's memory. The rest: inherited sockets."""


class Qemu:
    """`Player` of QEMU's machines."""

    def prepare(self, board: Board) -> None:
        """Look for QEMU."""
        _need(board, QEMU, QEMU_PACKAGE)

    def command(self, board: Board, samples: Path | None, serial: int, gdb: int, control: int) -> list[str]:
        """QEMU, its clock that of this machine."""
        command = [QEMU, "-machine", board.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-S"]
        for name, descriptor in (("serial", serial), ("gdb", gdb)):
            command += ["-chardev", f"socket,id={name},fd={descriptor},server=on,wait=off,nodelay=on"]
        command += ["-chardev", f"socket,id=qmp,fd={control}"]
        command += ["-serial", "chardev:serial", "-gdb", "chardev:gdb", "-mon", "chardev=qmp,mode=control"]
        if board.link == ETHERNET:
            assert board.ethernet is not None  # kilofed.boards.catalogue.load checks it
            command += ["-nic", f"user,id={NET},model={board.ethernet.controller}"]
        if samples is not None:
            escaped = str(samples.resolve()).replace(",", ",,")  # a comma is doubled inside an option
            address = f"{board.samples.origin:#x}"
            command += ["-device", f"loader,file={escaped},addr={address},force-raw=on"]
        return command


class Rp2040js:
    """`Player` of boards with an RP2040: rp2040js (npm) in Node, driven by `rp2040js/run.js` beside this.

    The library is fetched once, by npm, pinned by the hash in `package-lock.json`, into `build/rp2040js` of
    the checkout (of an installed wheel: `~/.cache/kilofed/rp2040js`).
    """

    files = Path(__file__).resolve().parent / "rp2040js"

    def __init__(self, folder: Path | None = None) -> None:
        """folder: where the library is kept, when not there."""
        root = catalogue.repository()
        default = root / "build" if root is not None else Path.home() / ".cache" / "kilofed"
        self.folder = folder or default / "rp2040js"

    @property
    def library(self) -> Path:
        """The folder of rp2040js, once fetched."""
        return self.folder / "node_modules" / "rp2040js"

    def prepare(self, board: Board) -> None:
        """Look for Node and npm, and fetch the library unless it is there."""
        for tool, package in NODE_TOOLS.items():
            _need(board, tool, package)
        lock = (self.files / "package-lock.json").read_bytes()
        fetched = self.folder / "fetched"  # by which lock file: written last
        if fetched.is_file() and fetched.read_bytes() == lock:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            if fetched.is_file() and fetched.read_bytes() == lock:
                return
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(self.files / name, self.folder / name)
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=self.folder,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0 or not (self.library / "package.json").is_file():
                raise EmulatorError(
                    f"npm could not fetch rp2040js into {self.folder}",
                    "see that this machine reaches the npm registry, and start the board again",
                    board=board.name,
                    log="\n".join((done.stdout + done.stderr).strip().splitlines()[-20:]),
                )
            fetched.write_bytes(lock)

    def command(self, board: Board, samples: Path | None, serial: int, gdb: int, control: int) -> list[str]:
        """Node, with the script of ours."""
        command = ["node", str(self.files / "run.js"), str(self.library), str(serial), str(gdb), str(control)]
        if samples is not None:
            command.append(f"{samples.resolve()}@{board.samples.origin:#x}")
        return command


def player(board: Board) -> Player:
    """The one that plays `board`. Raises EmulatorError for a board without an emulator."""
    if board.qemu:
        return Qemu()
    if board.rp2040js:
        return Rp2040js()
    raise EmulatorError(
        f"{board.name} has no emulator", "use a board whose data file names one", board=board.name
    )


def _need(board: Board, tool: str, package: str) -> None:
    if shutil.which(tool) is None:
        raise ToolMissingError(
            f"{tool} is not installed", f"install it: apt-get install {package}", board=board.name, tool=tool
        )
