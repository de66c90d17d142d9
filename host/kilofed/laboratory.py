"""Fleets on this machine: emulated boards, native processes of the same core, and kilofed-pi.

    with Laboratory(folder, places, model=path, fleet=fleet, seed=1, say=print) as laboratory:
        laboratory.prepare()                           builds, flashes, starts boards, registers; gives ports
        run_federation(..., ports=laboratory.ports, listen=("127.0.0.1", 0),
                       on_listening=laboratory.start_callers, watch=laboratory.check)

Each device gets its samples placed into its memory (a board's by the emulator, a process's from a file that
it alone reads); nothing of them crosses a line. Devices keep their identity and their flash in `folder`, so a
run that is resumed meets the same devices.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kilofed import linux
from kilofed.boards import Emulator, Identity, Image, build, catalogue, placed, settings
from kilofed.boards.catalogue import SERIAL
from kilofed.boards.emulator import HOST
from kilofed.boards.network import Network
from kilofed.errors import BoardError, EmulatorError
from kilofed.fleet import ID_BYTES, Device, Fleet, new_identity
from kilofed.native import build_native
from kilofed.processes import Process
from kilofed.samples import Samples
from kilofed_tools.trainer import HOLDOUT_DEFAULT

NATIVE = "posix"
PI = "pi"
NATIVE_RING = 400  # samples a native device keeps, at least
PI_RING = 1000
MOST_RESTARTS = 10  # of one device in a run
BEGIN_SECONDS = 5.0  # within which a program that ends by itself was never well


@dataclass(frozen=True, eq=False)
class Place:
    """One device to be.

    Its name, its board (of the catalogue, or "posix" for a native process of the same core, or "pi" for a
    Linux device), the samples it is to have, and how a board reaches its host.
    """

    name: str
    board: str
    samples: Samples
    link: str = SERIAL

    @property
    def emulated(self) -> bool:
        """Whether QEMU plays it."""
        return self.board not in (NATIVE, PI)

    @property
    def calls(self) -> bool:
        """Whether it connects to the host over TCP, rather than being at the end of a line."""
        return not self.emulated or self.link != SERIAL


class Laboratory:
    """Starts and stops the devices of `places`. A context manager; leaving it leaves no process.

    folder: what the devices keep. model: the .tflite they hold. fleet: where they are registered. seed: what
    their ids are made of. say: told what is being done. Use it from the main thread.
    """

    def __init__(
        self,
        folder: Path,
        places: Sequence[Place],
        *,
        model: Path,
        fleet: Fleet,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.places = tuple(places)
        self._model = model
        self._fleet = fleet
        self._seed = seed
        self._say = say
        self._stack = contextlib.ExitStack()
        self.boards: dict[str, Emulator] = {}
        self.processes: dict[str, Process] = {}
        self._native: Path | None = None
        self._images: dict[tuple[str, str], Image] = {}
        self._restarts: dict[str, int] = {}

    def __enter__(self) -> Laboratory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def ports(self) -> list[str]:
        """Serial ports of the emulated boards at the end of a line, as URLs for pyserial."""
        return [board.url for board in self.boards.values() if board.board.link == SERIAL]

    @property
    def has_callers(self) -> bool:
        """Whether some devices connect to the host over TCP: processes, and boards on Ethernet."""
        return any(place.calls for place in self.places)

    def prepare(self) -> None:
        """Builds what devices need, flashes boards that do not hold their image, and starts all boards.

        Boards on Ethernet are left halted: where their host listens is not known yet.
        """
        if any(place.board == NATIVE for place in self.places):
            self._native = build_native(progress=self._say)
        for place in self.places:
            if place.emulated and (place.board, place.link) not in self._images:
                kind = catalogue.load(place.board, link=place.link)
                self._images[place.board, place.link] = build(kind, self._model, progress=self._say)
        for place in self.places:
            if not place.emulated:
                continue
            kind = catalogue.load(place.board, link=place.link)
            board = self._stack.enter_context(Emulator(kind, self.folder / place.name))
            board.place(placed.encode(place.samples.inputs, place.samples.labels))
            self.boards[place.name] = board
            if place.calls:
                board.start(blank=True)
                continue
            device = self._device(place)
            image = self._images[place.board, place.link]
            if _holds(board, image, _identity(device)):
                self._say(f"starting {place.name}, a {place.board} that was flashed before")
                board.start()
            else:
                self._say(f"flashing {place.name}, a {place.board}: {image.flash_bytes} bytes")
                board.flash(image, _identity(device))

    def start_callers(self, port: int) -> None:
        """Starts the devices that connect to this TCP port of this machine, boards flashed with its number
        first.
        """
        for place in self.places:
            if place.emulated and place.calls:
                image = self._images[place.board, place.link]
                self._say(
                    f"flashing {place.name}, a {place.board} on {place.link}: {image.flash_bytes} bytes"
                )
                self.boards[place.name].flash(
                    image, _identity(self._device(place)), network=Network(HOST, port)
                )
        native = [place for place in self.places if place.board == NATIVE]
        if native:
            options = ["--count", str(len(native)), "--board", NATIVE, "--ring", _ring(native, NATIVE_RING)]
            self._start(native, [str(self._native), *options], port)
        for place in self.places:
            if place.board == PI:
                options = ["--ring", _ring([place], PI_RING)]
                self._start([place], [sys.executable, "-m", "kilofed_pi", *options], port)

    def _start(self, places: Sequence[Place], command: list[str], port: int) -> None:
        """One process that is all of `places`."""
        command = [*command, "--connect", f"127.0.0.1:{port}", "--model", str(self._model)]
        for place in places:
            folder = self.folder / place.name
            page = linux.write_settings(folder, self._device(place))
            data = linux.write_samples(folder, place.samples)
            command += ["--settings", str(page), "--samples", str(data)]
        first = places[0].name
        self._say(f"starting {first}" + (f" and {len(places) - 1} more in one process" if places[1:] else ""))
        process = self._stack.enter_context(Process(command, log=self.folder / first / "log"))
        process.start()
        self.processes[first] = process

    def check(self) -> None:
        """Starts again what ended by itself, as a power cut would; says so. Call it now and then.

        BoardError when a program could not even begin its work, or when the same device ends again and again.
        """
        for name, board in self.boards.items():
            try:
                board.check()
            except EmulatorError as error:
                self._start_again(name, error, board.restart)
        for name, process in self.processes.items():
            status = process.status
            if status is None:
                continue
            try:
                process.check()
            except BoardError as error:
                if status >= 0 and process.age < BEGIN_SECONDS:
                    raise
                self._start_again(name, error, process.start)

    def _start_again(self, name: str, error: BoardError, start: Callable[[], None]) -> None:
        self._restarts[name] = self._restarts.get(name, 0) + 1
        if self._restarts[name] > MOST_RESTARTS:
            raise error
        self._say(f"{name} is started again: {error.what}")
        start()

    def _device(self, place: Place) -> Device:
        """The device's registration, made when it is the first time.

        Its id follows from seed and name (a device shuffles by its id), so that the same run gives the same
        bytes anywhere.
        """
        for known in self._fleet.all():
            if known.name == place.name and known.board == place.board:
                return known
        text = f"kilofed laboratory {self._seed} {place.name}".encode()
        device_id = hashlib.blake2b(text, digest_size=ID_BYTES).digest()
        device = new_identity(place.name, place.board, device_id=device_id)
        self._fleet.add(device, replace=True)
        return device


def _ring(places: Sequence[Place], least: int) -> str:
    """Slots for the largest of `places`; a ring is a multiple of the held-out rule's period."""
    slots = max([least, *(len(place.samples) for place in places)])
    return str(-(-slots // HOLDOUT_DEFAULT) * HOLDOUT_DEFAULT)


def _holds(board: Emulator, image: Image, identity: Identity) -> bool:
    """Whether the board's flash is what flashing would make it."""
    if not board.flashed:
        return False
    flash = (board.folder / "image.bin").read_bytes()
    page = board.folder / "settings.bin"
    origin = board.board.flash.origin
    return (
        page.is_file()
        and page.read_bytes() == settings.encode(identity)
        and all(
            flash[s.address - origin : s.address - origin + len(s.data)] == s.data for s in image.segments
        )
    )


def _identity(device: Device) -> Identity:
    return Identity(device.id, device.key, device.name)
