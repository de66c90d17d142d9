"""Flashing emulated boards over their GDB servers, as real ones are flashed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from board_line import BOARDS, DIGITS, IDENTITY, Line, placed

from kilofed.boards import Board, Emulator, Image, build, flash, load, settings
from kilofed.boards import image as images
from kilofed.boards.elf import Segment
from kilofed.boards.flash import program
from kilofed.errors import BoardError, EmulatorError, FitError, FlashError
from kilofed.link.events import HelloSeen

Emulate = Callable[[Board], Emulator]
Connect = Callable[[Emulator], Line]


def test_every_board_of_the_catalogue_is_tested_here(every_board: None) -> None:
    """The fixture says it."""


def test_a_board_is_flashed_verified_and_runs(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    emulated = emulate(board)
    emulated.start()
    line = connect(emulated)
    for _ in range(20):
        line.turn(quiet=True)
    assert not emulated.flashed
    assert bytes(line.received) == b"", "a blank board waits"

    steps: list[tuple[str, int, int]] = []
    emulated.flash(image, IDENTITY, progress=lambda *step: steps.append(step))

    total = sum(len(segment.data) for segment in image.segments) + settings.SETTINGS_BYTES
    assert [step for step in steps if step[1] == total] == [("write", total, total), ("verify", total, total)]
    hello = line.event(HelloSeen).hello
    assert (hello.device_id, hello.board) == (IDENTITY.id, board.name)
    assert (hello.max_frame, hello.window) == (board.max_frame, board.rx_ring)
    for segment in image.segments:
        assert emulated.read(segment.address, len(segment.data)) == segment.data
    assert settings.decode(emulated.read(board.settings_address, 64)) == IDENTITY
    assert emulated.flashed


def test_the_flash_of_a_board_says_what_it_holds(board: Board, image: Image, emulate: Emulate) -> None:
    emulated = emulate(board)
    emulated.flash(image, IDENTITY)
    header = images.find_header(emulated.read, board.flash.origin)
    assert header == image.header
    assert header.board == board.name
    assert emulated.read(header.model_start, image.model_bytes) == DIGITS.read_bytes() == image.model


def test_it_can_be_flashed_again_while_it_runs(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    emulated = emulate(board)
    emulated.flash(build(board), IDENTITY)
    line = connect(emulated)
    line.text(b"no model in this image")
    emulated.flash(image, IDENTITY)
    assert line.event(HelloSeen).hello.device_id == IDENTITY.id

    # By another program, which knows nothing of this emulator; whoever runs the board keeps what was flashed.
    emulated.watch()
    other = replace(IDENTITY, id=b"another!", name="other")
    flash(board, image, other, emulated.gdb)
    assert line.event(HelloSeen, lambda e: e.hello.device_id == other.id)
    assert emulated.watch()
    assert not emulated.watch()
    emulated.kill()
    emulated.start()
    line.reconnect()
    assert line.event(HelloSeen).hello.device_id == other.id


def test_a_gdb_flashes_it_too(emulate: Emulate, connect: Connect, tmp_path: Path) -> None:
    """What stands at the GDB server is a GDB server, not something that only our own client understands."""
    import shutil

    if shutil.which("gdb-multiarch") is None:
        pytest.skip("not installed: gdb-multiarch")
    board = load("microbit")
    image = build(board, DIGITS)
    emulated = emulate(board)
    emulated.start()
    page = tmp_path / "settings.bin"
    page.write_bytes(settings.encode(IDENTITY))
    commands = [
        f"target remote {emulated.gdb}",
        "load",
        f"restore {page} binary {board.settings_address}",
        "compare-sections",
        "monitor system_reset",
        "detach",
    ]
    arguments = [part for command in commands for part in ("-ex", command)]
    done = subprocess.run(
        ["gdb-multiarch", "--batch", "-nx", *arguments, str(image.elf)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "MIS-MATCHED" not in done.stdout, done.stdout
    assert connect(emulated).event(HelloSeen).hello.device_id == IDENTITY.id


@pytest.mark.parametrize("name", [name for name in BOARDS if name != "mps2-an386"])
def test_an_image_of_another_board_is_refused(name: str, emulate: Emulate) -> None:
    board = load("mps2-an386")
    emulated = emulate(board)
    emulated.start()
    with pytest.raises(FlashError, match=f"built for {name}, the board is a mps2-an386"):
        emulated.flash(build(load(name)), IDENTITY)
    assert emulated.read(0, 64) == bytes(64), "nothing was written"
    assert not emulated.flashed


def test_a_board_of_another_core_is_refused(emulate: Emulate) -> None:
    emulated = emulate(load("mps2-an385"))
    emulated.start()
    with pytest.raises(FlashError, match="is a cortex-m3, microbit has a cortex-m0"):
        flash(load("microbit"), build("microbit"), IDENTITY, emulated.gdb)
    assert emulated.read(0, 64) == bytes(64), "nothing was written"


def test_a_model_too_big_is_refused_with_the_numbers(emulate: Emulate) -> None:
    """The image itself is checked again at the board: by data file, whatever built it."""
    board = load("microbit")
    image = build(board, DIGITS)
    half = replace(board, ram=replace(board.ram, size=8192))
    emulated = emulate(half)
    emulated.start()
    with pytest.raises(FitError, match=f"needs {image.ram_bytes} bytes of RAM, microbit has 8192") as error:
        emulated.flash(image, IDENTITY)
    assert (error.value.needed, error.value.available) == (image.ram_bytes, 8192)
    assert emulated.read(0, 64) == bytes(64), "nothing was written"


def test_memory_that_is_not_there_cannot_be_flashed(emulate: Emulate) -> None:
    board = load("microbit")
    emulated = emulate(board)
    emulated.start()
    with pytest.raises(FlashError, match="0x30000000") as error:
        program(board, [Segment(0x30000000, b"nothing here")], emulated.gdb)
    assert error.value.address == 0x30000000


def test_a_board_that_dies_under_the_programmer_is_noticed(emulate: Emulate) -> None:
    board = load("mps2-an385")
    emulated = emulate(board)
    emulated.start()

    def cut(phase: str, done: int, total: int) -> None:
        if phase == "verify":
            emulated.kill()

    with pytest.raises((FlashError, EmulatorError)):
        flash(board, build(board), IDENTITY, emulated.gdb, progress=cut)
    assert not emulated.flashed


def test_samples_beyond_the_room_are_refused(emulate: Emulate) -> None:
    with pytest.raises(BoardError, match="place at most 82"):
        emulate(load("microbit")).place(placed(83))
