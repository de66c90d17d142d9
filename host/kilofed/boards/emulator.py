"""An emulated board: a process that plays it (see `players`), a serial port to it, a folder of flash.

    with Emulator(board, folder) as emulated:
        emulated.start()                       a blank board, waiting to be flashed
        emulated.flash(image, identity)        over the GDB protocol, as a real one
        serial.serial_for_url(emulated.url)    a host talks to it
        emulated.kill(); emulated.restart()    a power cut: flash is what it was, RAM is not

The folder holds `image.bin`, `settings.bin` and, on Ethernet, `network.bin` (what its flash holds, copied out
of the running board after it was flashed, by whoever), `samples.bin` (placed into its memory at every start,
never over the line) and `qemu.log`.

A board whose link is Ethernet is alone in a network that QEMU plays: it gets an address by DHCP, and this
machine, whose programs may listen on 127.0.0.1, is `HOST` there. Its serial port then shows what it says to
people.

The addresses of the serial port and of the GDB server stay the same through kills and restarts: this
process listens there and hands the listening sockets to each QEMU in turn. A host that connects while the
board is off simply waits, as at the end of a cable. QEMU is killed by the kernel when the thread that
started it dies, however that dies, so start boards from a thread that lives as long as they should.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType

from kilofed.boards import image as images
from kilofed.boards import placed, players
from kilofed.boards.catalogue import ETHERNET, Board
from kilofed.boards.elf import Segment
from kilofed.boards.flash import check_image, flash, program
from kilofed.boards.flash_methods import Progress
from kilofed.boards.image import Image
from kilofed.boards.network import NETWORK_BYTES, Network
from kilofed.boards.players import NET
from kilofed.boards.qmp import Qmp
from kilofed.boards.settings import SETTINGS_BYTES, Identity
from kilofed.errors import EmulatorError

STOP_SECONDS = 5.0
"""How long QEMU may take to end in good order before it is killed."""
LOG_LINES = 50
"""Of what QEMU printed, kept in an error: a crash prints every register."""
PAINT = b"\xc5" * 4
"""What startup.c writes into the stack before it is used."""

HOST = IPv4Address("10.0.2.2")
"""This machine, as an emulated board on Ethernet sees it: QEMU's user network."""

_PR_SET_PDEATHSIG = 1


class Emulator:
    """One emulated board. Not for use by two threads at once.

    board: from the catalogue. folder: made when missing; its content is the board's flash. EmulatorError for
    a board without an emulator, and for a folder that cannot be made.
    """

    def __init__(self, board: Board, folder: Path) -> None:
        self._player = players.player(board)
        self.board = board
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmulatorError(
                f"{folder} cannot be made ({error.strerror})",
                "name another folder for the board",
                board=board.name,
            ) from error
        self._serial = _listen()
        self._gdb = _listen()
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: Qmp | None = None

    # ---- addresses -----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The board's serial port, for pyserial."""
        return "socket://{}:{}".format(*self._serial.getsockname())

    @property
    def gdb(self) -> str:
        """HOST:PORT of its GDB server: the target of the flash method "gdb"."""
        return "{}:{}".format(*self._gdb.getsockname())

    @property
    def log(self) -> Path:
        """What QEMU printed since the last start."""
        return self.folder / "qemu.log"

    @property
    def flashed(self) -> bool:
        """Whether the folder holds an image, so that a start runs it."""
        return (self.folder / "image.bin").is_file()

    # ---- life ----------------------------------------------------------------------------------------

    def start(self, *, blank: bool = False) -> None:
        """Start the board, running what its flash holds. With nothing in it, or blank=True, it halts and
        waits to be flashed. Returns at once; `check` tells whether it lives.

        Raises ToolMissingError; EmulatorError when it runs already.
        """
        if self.running:
            raise EmulatorError(
                f"the {self.board.name} in {self.folder} runs already", "stop it first", board=self.board.name
            )
        self._reap()
        self._player.prepare(self.board)
        samples = self.folder / "samples.bin"
        ours, theirs = socket.socketpair()
        passed = [self._serial.fileno(), self._gdb.fileno(), theirs.fileno()]
        with theirs, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._player.command(self.board, samples if samples.is_file() else None, *passed),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=passed,
                # A Ctrl-C at the terminal is for us, who then stop the boards in good order.
                start_new_session=True,
                preexec_fn=_before_qemu(),
            )
        self._qmp = Qmp(ours)
        if self.flashed and not blank:
            self._restore()

    def kill(self) -> None:
        """Cut the power: SIGKILL. The folder, and with it the flash, stays. Never raises."""
        if self._process is not None:
            self._process.kill()
        self._reap()

    def restart(self) -> None:
        """Kill it if it runs, and start it again."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it in good order, or else by force. Never raises."""
        if self._process is not None and self._qmp is not None:
            try:
                self._qmp.execute("quit")
                self._process.wait(STOP_SECONDS)
            except (EmulatorError, subprocess.TimeoutExpired):
                pass
        self.kill()

    def close(self) -> None:
        """Stop it and give its addresses back. Never raises."""
        self.stop()
        self._serial.close()
        self._gdb.close()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """QEMU's process, 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether its process lives. A board that crashed does not: its fault handler ends QEMU."""
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Raises EmulatorError, with the last lines of its log, when it should run and does not."""
        if self._process is not None and self._process.poll() is not None:
            text = self.log.read_text(errors="replace").strip()
            crashed = self._process.returncode == -signal.SIGABRT
            how = "crashed" if crashed else "ended"
            raise EmulatorError(
                f"the {self.board.name} in {self.folder} {how} (status {self._process.returncode})",
                f"read {self.log}, and start it again",
                board=self.board.name,
                log="\n".join(text.splitlines()[-LOG_LINES:]),
            )

    def cable(self, *, plugged: bool) -> None:
        """Pull the cable of a running board on Ethernet, or put it in again. Raises EmulatorError."""
        if self._qmp is None or self.board.link != ETHERNET:
            raise EmulatorError(
                f"the {self.board.name} in {self.folder} has no cable now",
                "start a board whose link is ethernet",
                board=self.board.name,
            )
        self._qmp.execute("set_link", name=NET, up=plugged)

    # ---- flash and memory ----------------------------------------------------------------------------

    def place(self, samples: bytes) -> None:
        """Put a placed-samples file (kilofed.boards.placed) into the board's memory, from the next start on.

        Raises BoardError when it exceeds the board's room.
        """
        placed.check(self.board, samples)
        _write(self.folder / "samples.bin", samples)

    def flash(
        self,
        image: Image,
        identity: Identity,
        *,
        network: Network | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Flash the board over its GDB server, keep what was flashed in the folder, and let it run.

        A board that is off is started for it. Raises what kilofed.boards.flash.flash raises.
        """
        check_image(self.board, image)
        if not self.running:
            self.start(blank=True)
        flash(self.board, image, identity, self.gdb, network=network, progress=progress)
        self.save()

    def save(self) -> None:
        """Copy the flash of the running board into the folder; a board that holds no kilofed image leaves the
        folder as it is. Raises EmulatorError.
        """
        try:
            header = images.find_header(self.read, self.board.flash.origin)
        except ValueError:
            return
        origin = self.board.flash.origin
        image = self.read(origin, header.model_end - origin)
        _write(self.folder / "settings.bin", self.read(self.board.settings_address, SETTINGS_BYTES))
        if self.board.link == ETHERNET:
            _write(self.folder / "network.bin", self.read(self.board.network_address, NETWORK_BYTES))
        _write(self.folder / "image.bin", image)

    def watch(self) -> bool:
        """Save the flash if the board was resumed since the last call, which is what a flash tool does
        last. For whoever keeps boards for others to flash: call it now and then. Returns whether it saved.
        """
        if not self.running or self._qmp is None or "RESUME" not in self._qmp.events():
            return False
        self.save()
        return True

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the board's memory, while it runs. Raises EmulatorError."""
        if self._qmp is None:
            raise EmulatorError(
                f"the {self.board.name} in {self.folder} is off", "start it", board=self.board.name
            )
        part = self.folder / ".memory"
        if size <= 0:
            return b""
        self._qmp.execute("memsave", val=address, size=size, filename=str(part.resolve()))
        try:
            return part.read_bytes()
        finally:
            part.unlink()

    def stack_used(self) -> int:
        """The most stack bytes in use at any time since the board started; stack_bytes when all of it was."""
        stack = self.read(self.board.ram.end - self.board.stack_bytes, self.board.stack_bytes)
        unused = 0
        while stack[unused : unused + 4] == PAINT:
            unused += 4
        return len(stack) - unused

    # ---- inside --------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Bring the folder's flash into the halted board, as a flash tool would, and let it run.

        Not by QEMU's loader: it would write the old image again at the reset that ends a later flashing.
        """
        segments = [Segment(self.board.flash.origin, (self.folder / "image.bin").read_bytes())]
        for name, address in (
            ("settings.bin", self.board.settings_address),
            ("network.bin", self.board.network_address),
        ):
            page = self.folder / name
            if page.is_file():
                segments.append(Segment(address, page.read_bytes()))
        try:
            program(self.board, segments, self.gdb)
        except Exception:
            self.check()
            self.kill()
            raise

    def _reap(self) -> None:
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        if self._process is not None:
            self._process.wait()
            self._process = None


def _listen() -> socket.socket:
    """A listening socket on a free port of this machine, to be handed to QEMU."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    return listener


def _before_qemu() -> Callable[[], None]:
    """What a child runs before QEMU: write no core file when a board crashes (which takes seconds), and ask
    the kernel to kill it when the thread that forked it ends (Linux only).
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
    parent = os.getpid()

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request
            os._exit(1)

    return prepare


def _write(path: Path, data: bytes) -> None:
    """Replace a file whole or not at all."""
    part = path.with_name(f".{path.name}")
    part.write_bytes(data)
    part.replace(path)
