"""Boards that show a volume to be flashed by: a Raspberry Pi Pico with BOOTSEL held.

What is copied onto it goes into flash as it comes, and when all of it has come the board starts and the
volume is gone. So there is nothing to read back: what the file's blocks say is all that the boot ROM checks,
and the proof is the device that says hello. Everything is in one file, the settings page in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kilofed.boards import uf2
from kilofed.boards.catalogue import Board
from kilofed.boards.elf import Segment
from kilofed.errors import FlashError

INFO = "INFO_UF2.TXT"
FILE = "kilofed.uf2"
MOUNTS = Path("/proc/mounts")
RESTART_SECONDS = 20.0
"""In which a board that has everything starts, and takes its volume away."""
STEP_BYTES = 16 * 1024

_IDS = {uf2.RP2040: "RPI-RP2"}


def found(mounts: Path = MOUNTS) -> list[Path]:
    """The volumes of such bootloaders that are mounted, in order of their names."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    places = (line.split(" ")[1].encode().decode("unicode_escape") for line in lines if line.count(" ") > 1)
    return sorted(Path(place) for place in places if (Path(place) / INFO).is_file())


def board_id(volume: Path) -> str:
    """What a volume says its board is ("RPI-RP2"). Raises FlashError when it is no bootloader's."""
    try:
        text = (volume / INFO).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FlashError(
            f"{volume} is no bootloader's volume (no {INFO})",
            "hold BOOTSEL while the board is plugged in, and name the volume that it shows",
        ) from error
    ids = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Board-ID:")]
    return ids[0] if ids else ""


def check_board(board: Board) -> None:
    """Raises FlashError for a board that takes no such files."""
    if not board.uf2_family:
        raise FlashError(
            f"a {board.name} shows no volume for UF2 files",
            f"flash it by {board.flash_method.name}: give the address as `kilofed flash --help` says",
            board=board.name,
        )


def check(board: Board, volume: Path) -> None:
    """The same, and for a volume that is another board's, or none."""
    check_board(board)
    here, wanted = board_id(volume), _IDS.get(board.uf2_family, "")
    if wanted and here != wanted:
        raise FlashError(
            f"{volume} is of a {here or 'board without a name'}, {board.name} shows {wanted}",
            "name the right board, or the right volume",
            board=board.name,
        )


def write(
    board: Board,
    segments: Sequence[Segment],
    volume: Path,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> int:
    """Copy `segments` onto the board that shows `volume`; the bytes of the file. Ends when the board starts.

    Interrupted, it leaves a board whose first sector is erased or not, and which shows its volume again in
    the first case; in the other BOOTSEL brings it back: flashing again repairs either.

    Raises FlashError: `check`'s, a volume that cannot be written or is full, or one that stays.
    """
    check(board, volume)
    data = uf2.encode(segments, board.uf2_family, whole=uf2.SECTOR_BYTES)
    tell = progress or (lambda *_: None)
    try:
        with (volume / FILE).open("wb", buffering=0) as file:
            for at in range(0, len(data), STEP_BYTES):
                file.write(data[at : at + STEP_BYTES])
                # The last bytes make the board restart, which may take the volume from under this very call.
                with (
                    contextlib.suppress(OSError) if at + STEP_BYTES >= len(data) else contextlib.nullcontext()
                ):
                    os.fsync(file.fileno())
                tell("write", min(at + STEP_BYTES, len(data)), len(data))
    except OSError as error:
        raise FlashError(
            f"{volume} cannot be written ({error.strerror})", _next(error), board=board.name
        ) from error
    until = time.monotonic() + RESTART_SECONDS
    while (volume / INFO).is_file():
        if time.monotonic() > until:
            raise FlashError(
                f"{volume} has all {len(data)} bytes, and the board has not started",
                "unplug it, hold BOOTSEL while it is plugged in, and flash it again",
                board=board.name,
            )
        time.sleep(0.05)
    return len(data)


def _next(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "mount it for your user, or run this as who mounted it"
    if error.errno == errno.EROFS:
        return "it is mounted read-only: unplug the board, and plug it in with BOOTSEL held"
    if error.errno == errno.ENOSPC:
        return "it holds another file: unplug the board, and plug it in with BOOTSEL held"
    return (
        "the board was unplugged, or its volume unmounted: plug it in with BOOTSEL held, and flash it again"
    )
