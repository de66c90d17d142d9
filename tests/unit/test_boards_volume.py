"""Flashing by a volume, against a twin of the boot ROM that shows one: it takes blocks as they are copied,
erases what it thinks it must, and takes its volume away when it has them all.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilofed.boards import Identity, build, flash, load, uf2, volume
from kilofed.boards import image as images
from kilofed.boards.build import TOOLS
from kilofed.boards.elf import Segment
from kilofed.boards.settings import decode
from kilofed.errors import FlashError

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits" / "digits.tflite"
ROOT = Path(__file__).resolve().parents[2]
IDENTITY = Identity(b"kitchen1", bytes(range(32)), "kitchen")
ORIGIN, SIZE = 0x10000000, 0x200000
SECTOR = 4096


class BootRom:
    """Of an RP2040, as far as a file on its volume goes. It erases a sector before the first of sixteen
    blocks in a row, by their numbers: so a file that skips addresses may find flash that was not erased.
    """

    def __init__(self, folder: Path, flash: bytearray) -> None:
        self.folder, self.flash = folder, flash
        folder.mkdir(exist_ok=True)
        (folder / volume.INFO).write_text("UF2 Bootloader v3.0\nModel: Raspberry Pi RP2\nBoard-ID: RPI-RP2\n")
        self.done: set[int] = set()
        self.erased: set[int] = set()
        self.started = False
        self._read = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        path = self.folder / volume.FILE
        while not self._stop.is_set() and not self.started:
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(self._read)
                    while len(block := file.read(512)) == 512:
                        self._read += 512
                        self._take(block)
            time.sleep(0.005)
        if self.started:
            shutil.rmtree(self.folder)

    def _take(self, block: bytes) -> None:
        magic, _, _, address, size, number, total, family = struct.unpack_from("<8I", block)
        if (
            magic != 0x0A324655
            or family != uf2.RP2040
            or size != 256
            or not ORIGIN <= address < ORIGIN + SIZE
        ):
            return
        at = address - ORIGIN
        if number // 16 not in self.erased:
            self.erased.add(number // 16)
            start = at - at % SECTOR
            self.flash[start : start + SECTOR] = b"\xff" * SECTOR
        page = bytes(a & b for a, b in zip(self.flash[at : at + 256], block[32:288], strict=True))
        self.flash[at : at + 256] = page
        self.done.add(number)
        self.started = len(self.done) == total

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[BootRom]:
    rom = BootRom(tmp_path / "RPI-RP2", bytearray(random.Random(1).randbytes(SIZE)))
    yield rom
    rom.stop()


def content(flashed: bytearray, segment: Segment) -> bytes:
    at = segment.address - ORIGIN
    return bytes(flashed[at : at + len(segment.data)])


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason="no compiler for the boards")
def test_a_pico_gets_image_and_settings(board: BootRom) -> None:
    pico = load("pico")
    image = build(pico, DIGITS)
    told = []
    flash(pico, image, IDENTITY, str(board.folder), progress=lambda *step: told.append(step))
    assert board.started
    for segment in image.segments:
        assert content(board.flash, segment) == segment.data
    at = pico.settings_address - ORIGIN
    assert decode(bytes(board.flash[at : at + 64])) == IDENTITY
    header = images.find_header(lambda a, n: bytes(board.flash[a - ORIGIN : a - ORIGIN + n]), ORIGIN)
    assert header.board == "pico"
    assert told[-1][1] == told[-1][2]
    assert told == sorted(told)


def test_gaps_leave_no_flash_that_was_not_erased(board: BootRom) -> None:
    rng = random.Random(2)
    segments = [
        Segment(ORIGIN + at, rng.randbytes(n)) for at, n in ((0x1080, 5000), (0x9F00, 300), (0x1FF000, 64))
    ]
    volume.write(load("pico"), segments, board.folder)
    assert all(content(board.flash, segment) == segment.data for segment in segments)


def test_the_twin_minds_files_of_loose_pages(board: BootRom) -> None:
    segments = [Segment(ORIGIN, b"\xa5" * 256), Segment(ORIGIN + 0x5000, b"\x5a" * 256)]
    (board.folder / volume.FILE).write_bytes(uf2.encode(segments, uf2.RP2040))
    for _ in range(400):
        if board.started:
            break
        time.sleep(0.01)
    assert board.started
    assert content(board.flash, segments[0]) == segments[0].data
    assert content(board.flash, segments[1]) != segments[1].data, "its sector was never erased"


def test_killed_anywhere_the_same_command_repairs_it(tmp_path: Path) -> None:
    rng = random.Random(3)
    segments = [Segment(ORIGIN, rng.randbytes(60_000)), Segment(ORIGIN + 0x1FF000, rng.randbytes(64))]
    whole = uf2.encode(segments, uf2.RP2040, whole=uf2.SECTOR_BYTES)
    flashed = bytearray(rng.randbytes(SIZE))
    for _ in range(20):
        rom = BootRom(tmp_path / "RPI-RP2", flashed)
        code = (
            "import os, sys; out = open(sys.argv[1], 'wb', 0); data = sys.stdin.buffer.read();"
            "out.write(data[: int(sys.argv[2])]); os.fsync(out.fileno()); os.kill(os.getpid(), 9)"
        )
        cut = rng.randrange(len(whole))
        killed = subprocess.run(
            [sys.executable, "-c", code, str(rom.folder / volume.FILE), str(cut)], input=whole, check=False
        )
        assert killed.returncode == -9
        rom.stop()
        assert not rom.started, "half a file starts nothing"
        shutil.rmtree(rom.folder)
        again = BootRom(tmp_path / "RPI-RP2", flashed)
        volume.write(load("pico"), segments, again.folder)
        again.stop()
        assert all(content(flashed, segment) == segment.data for segment in segments)


@pytest.mark.parametrize(
    ("name", "info", "words"),
    [
        ("pico", None, "hold BOOTSEL"),
        ("pico", "Board-ID: SAMD21G18A", "name the right board"),
        ("microbit", "Board-ID: RPI-RP2", "flash it by gdb"),
    ],
)
def test_a_wrong_volume_has_its_next_step(name: str, info: str | None, words: str, tmp_path: Path) -> None:
    if info is not None:
        (tmp_path / volume.INFO).write_text(f"UF2 Bootloader v1\n{info}\n")
    with pytest.raises(FlashError) as refusal:
        volume.write(load(name), [Segment(ORIGIN, b"x")], tmp_path)
    assert words in str(refusal.value)
    assert not (tmp_path / volume.FILE).exists()


def test_a_volume_that_cannot_be_written_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / volume.INFO).write_text("Board-ID: RPI-RP2\n")
    (tmp_path / volume.FILE).mkdir()
    with pytest.raises(FlashError, match="cannot be written"):
        volume.write(load("pico"), [Segment(ORIGIN, b"x")], tmp_path)
    (tmp_path / volume.FILE).rmdir()
    (tmp_path / volume.FILE).symlink_to("/dev/full")
    with pytest.raises(FlashError, match="it holds another file"):
        volume.write(load("pico"), [Segment(ORIGIN, b"x")], tmp_path)
    (tmp_path / volume.FILE).unlink()
    monkeypatch.setattr(volume, "RESTART_SECONDS", 0.2)
    with pytest.raises(FlashError, match="has not started"):
        volume.write(load("pico"), [Segment(ORIGIN, b"x")], tmp_path)


def test_volumes_are_found_among_what_is_mounted(tmp_path: Path) -> None:
    place = tmp_path / "RPI RP2"
    place.mkdir()
    (place / volume.INFO).write_text("Board-ID: RPI-RP2\n")
    mounts = tmp_path / "mounts"
    named = str(place).replace(" ", "\\040")
    mounts.write_text(f"proc /proc proc rw 0 0\n/dev/sda1 {named} vfat rw 0 0\nbroken\n")
    assert volume.found(mounts) == [place]
    assert volume.found(tmp_path / "none") == []
