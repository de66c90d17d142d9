"""Emulated boards from reset to a session: what they say, what they keep, how they end."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from board_line import DIGITS, IDENTITY, Line, placed

from kilofed.boards import Board, Emulator, Image, build, fit, load
from kilofed.boards.build import link
from kilofed.boards.elf import Segment
from kilofed.boards.flash import program
from kilofed.boards.settings import SETTINGS_BYTES, Identity, encode
from kilofed.errors import EmulatorError
from kilofed.link.events import DeviceError, HelloSeen, InfoChanged, Opened, Progress
from kilofed.link.messages import State
from kilofed_tools.heads import file_hash

Emulate = Callable[[Board], Emulator]
Connect = Callable[[Emulator], Line]


def test_a_board_without_settings_says_so_and_waits(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    emulated = emulate(board)
    emulated.start()
    line = connect(emulated)
    program(board, image.segments, emulated.gdb)
    line.text(b"on " + board.name.encode())
    line.text(b"no settings page: flash this board with `kilofed flash`\r\n")
    line.send(random.Random(3).randbytes(3000))  # must neither stop nor wake it for good
    line.received.clear()
    line.text(b"no settings page")
    emulated.check()


def test_settings_that_are_damaged_count_as_none(
    image: Image, board: Board, emulate: Emulate, connect: Connect
) -> None:
    page = bytearray(encode(IDENTITY))
    page[20] ^= 1
    emulated = emulate(board)
    emulated.start()
    line = connect(emulated)
    program(board, [*image.segments, Segment(board.settings_address, bytes(page))], emulated.gdb)
    line.text(b"no settings page")


def test_an_image_without_a_model_says_so(board: Board, emulate: Emulate, connect: Connect) -> None:
    emulated = emulate(board)
    emulated.flash(build(board), IDENTITY)
    connect(emulated).text(b"no model in this image: build one with `kilofed build --model MODEL.tflite`\r\n")


def test_a_session_opens_and_samples_are_counted(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    emulated = emulate(board)
    emulated.place(placed(43))
    emulated.flash(image, IDENTITY)
    line = connect(emulated)
    opened = line.event(Opened)
    assert (opened.hello.device_id, opened.hello.board) == (IDENTITY.id, board.name)
    assert opened.hello.firmware == image.header.firmware
    assert opened.info.model == file_hash(DIGITS.read_bytes())
    info = opened.info
    if info.state == State.COLLECTING:
        info = line.event(InfoChanged, lambda event: event.info.state == State.IDLE).info
    assert (info.classes, info.features, info.capacity) == (10, 32, board.ring_slots)
    held_out = 43 // board.held_out_every
    assert (info.train, info.held_out) == (43 - held_out, held_out)


def test_a_second_is_a_second(board: Board, image: Image, emulate: Emulate, connect: Connect) -> None:
    """A device says hello every second, up to 25 % later. A tick of a wrong clock_hz shows here; elsewhere
    only as sessions that end too soon.
    """
    emulated = emulate(board)
    emulated.flash(image, IDENTITY)
    line = connect(emulated)
    at: list[float] = []
    while len(at) < 4:
        before = len(line.received)
        line.turn(quiet=True)
        if b"\0" in line.received[before:] and (not at or time.monotonic() - at[-1] > 0.05):
            at.append(time.monotonic())
        assert not at or time.monotonic() - at[-1] < 10
    gaps = [later - sooner for sooner, later in pairwise(at[1:])]
    assert all(0.9 < gap < 3 for gap in gaps), gaps


def test_a_power_cut_leaves_flash_as_it_was(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    emulated = emulate(board)
    emulated.place(placed(10))
    emulated.flash(image, IDENTITY)
    line = connect(emulated)
    first = line.event(Opened)
    url = emulated.url
    for _ in range(3):
        os.kill(emulated.pid, signal.SIGKILL)
        emulated.restart()
        assert emulated.url == url
        line.reconnect()
        again = line.event(Opened)
        assert again.hello.device_id == IDENTITY.id
        assert again.info.model == first.info.model
        info = again.info
        if info.state == State.COLLECTING:
            info = line.event(InfoChanged, lambda event: event.info.state == State.IDLE).info
        assert (info.train, info.held_out) == (8, 2)


def test_a_host_may_wait_at_the_end_of_a_dead_line(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    emulated = emulate(board)
    emulated.flash(image, IDENTITY)
    emulated.kill()
    line = connect(emulated)
    for _ in range(20):
        line.turn()
    emulated.start()
    assert line.event(Opened).hello.device_id == IDENTITY.id


def test_noise_faster_than_the_line_costs_nothing_but_itself(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    """20 kB of everything but frames, as fast as QEMU takes them, while samples are worked on."""
    emulated = emulate(board)
    emulated.place(placed(40))
    emulated.flash(image, IDENTITY)
    line = connect(emulated)
    line.event(Opened)
    line.send(random.Random(7).randbytes(20000))
    line.send(b"\0")
    info = line.endpoint.info
    assert info is not None
    if info.state == State.COLLECTING:
        info = line.event(InfoChanged, lambda event: event.info.state == State.IDLE).info
    assert info.train + info.held_out == 40
    emulated.check()


def test_a_pool_too_small_is_refused_by_the_device_with_the_number(
    board: Board, emulate: Emulate, connect: Connect
) -> None:
    """Whoever builds by hand and gets KF_POOL_BYTES wrong hears it from the board itself."""
    needed = fit.pool_bytes(board, DIGITS.read_bytes())
    emulated = emulate(board)
    emulated.flash(link(board, DIGITS.read_bytes(), pool_bytes=needed - 4), IDENTITY)
    line = connect(emulated)
    assert line.event(Opened).info.state == State.FAILED
    error = line.event(DeviceError)
    assert (error.code, error.detail) == (2, needed)


def test_no_stack_is_deeper_than_the_code_says(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    """What a session and a few samples took; and the analysis is no wild guess."""
    emulated = emulate(board)
    emulated.place(placed(20))
    emulated.flash(image, IDENTITY)
    line = connect(emulated)
    line.event(Opened)
    line.event(Progress)
    used = emulated.stack_used()
    assert image.stack is not None
    assert image.stack.unresolved == ()
    assert image.stack.bytes / 2 < used <= image.stack.bytes <= board.stack_bytes


def test_a_crash_ends_the_emulator_and_is_told(
    board: Board, image: Image, emulate: Emulate, connect: Connect
) -> None:
    emulated = emulate(board)
    emulated.start()
    line = connect(emulated)
    broken = bytearray(image.segments[0].data)
    at = len(broken) - 4
    broken[at : at + 2] = b"\x00\xde"  # UDF, the permanently undefined instruction: where reset now leads
    vectors = 256 if board.name == "pico" else 0  # behind the second stage of its start
    struct.pack_into("<I", broken, vectors + 4, (image.segments[0].address + at) | 1)
    program(board, [Segment(image.segments[0].address, bytes(broken)), *image.segments[1:]], emulated.gdb)
    deadline = time.monotonic() + 10
    with pytest.raises(EmulatorError, match="crashed") as error:
        while time.monotonic() < deadline:
            emulated.check()
            time.sleep(0.01)
    assert "Lockup" in error.value.log
    assert str(emulated.log) in error.value.next_step
    assert not emulated.running
    last_words = b"kilofed: fault on " + board.name.encode() + b" at pc "
    deadline = time.monotonic() + 5
    while last_words not in line.received and time.monotonic() < deadline:
        line.turn(quiet=True)
    assert last_words in line.received


def test_a_pico_runs_no_image_whose_second_stage_is_damaged(emulate: Emulate, connect: Connect) -> None:
    """The boot ROM's check, which a wrong CRC of the build would fail on hardware as well."""
    board = load("pico")
    image = build(board, DIGITS)
    emulated = emulate(board)
    emulated.start()
    line = connect(emulated)
    pages = [*image.segments[1:], Segment(board.settings_address, encode(IDENTITY))]
    whole = image.segments[0]
    broken = bytearray(whole.data)
    broken[251] ^= 1
    program(board, [Segment(whole.address, bytes(broken)), *pages], emulated.gdb)
    for _ in range(500):  # a second
        line.turn(quiet=True)
    assert bytes(line.received) == b""
    program(board, [whole, *pages], emulated.gdb)
    assert line.event(HelloSeen).hello.device_id == IDENTITY.id


def test_thirty_two_boards_at_once(emulate: Emulate, connect: Connect) -> None:
    board = load("microbit")
    image = build(board, DIGITS)
    boards = [emulate(board) for _ in range(32)]
    for number, emulated in enumerate(boards):
        emulated.place(placed(5, seed=number))
        emulated.flash(image, Identity(struct.pack("<Q", number), IDENTITY.key, f"board {number}"))
    lines = [connect(emulated) for emulated in boards]
    ids = [line.event(HelloSeen, seconds=60).hello.device_id for line in lines]
    assert ids == [struct.pack("<Q", number) for number in range(32)]
    assert len({emulated.url for emulated in boards}) == 32
    pids = [emulated.pid for emulated in boards]
    for emulated in boards:
        emulated.close()
    assert not any(_lives(pid) for pid in pids)


PARENT = """
import sys, time
from pathlib import Path
from kilofed.boards import Emulator, load
emulated = Emulator(load("microbit"), Path(sys.argv[1]))
emulated.start()
print(emulated.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux kills children with their parent"
)
def test_no_board_outlives_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert _lives(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while _lives(pid):
        assert time.monotonic() < deadline, "QEMU goes on without its parent"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_what_is_off_cannot_be_read(emulate: Emulate) -> None:
    emulated = emulate(load("microbit"))
    with pytest.raises(EmulatorError, match="is off: start it"):
        emulated.read(0, SETTINGS_BYTES)


def test_a_board_runs_once(emulate: Emulate) -> None:
    emulated = emulate(load("microbit"))
    emulated.start()
    with pytest.raises(EmulatorError, match="runs already"):
        emulated.start()
