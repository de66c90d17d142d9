"""Flashing that is killed: what it leaves is no device, is recognised, and is repaired by flashing again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
from board_line import DIGITS, IDENTITY, Line

from kilofed.boards import Board, Emulator, Image, build, flash, load, settings
from kilofed.boards.flash_methods.gdb import GdbRemote
from kilofed.errors import BoardError, EmulatorError
from kilofed.link.events import HelloSeen

Emulate = Callable[[Board], Emulator]
Connect = Callable[[Emulator], Line]

OLD = replace(IDENTITY, id=b"old one!", name="old")
POINTS = 20
"""Of both boards together."""
SEED = 8


def packets(board: Board, image: Image, target: str) -> int:
    """How many packets a flashing takes, by doing one."""
    count = 0
    whole = GdbRemote.command

    def counting(self: GdbRemote, text: str) -> bytes:
        nonlocal count
        count += 1
        return whole(self, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GdbRemote, "command", counting)
        flash(board, image, OLD, target)
    return count


def killed_flash(board: Board, image: Image, target: str, after: int) -> None:
    """Flash from a process of its own that gets SIGKILL before its packet number `after`, from 0."""

    def child() -> None:
        whole, left = GdbRemote.command, after

        def command(self: GdbRemote, text: str) -> bytes:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return whole(self, text)

        GdbRemote.command = command  # type: ignore[method-assign]
        flash(board, image, IDENTITY, target)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def holds(emulated: Emulator, image: Image) -> bool:
    """Whether the board's flash has every byte of the image."""
    return all(emulated.read(s.address, len(s.data)) == s.data for s in image.segments)


@pytest.mark.parametrize("name", ["microbit", "mps2-an385"])
def test_killed_anywhere_it_is_recognised_and_repaired(name: str, emulate: Emulate, connect: Connect) -> None:
    board = load(name)
    image, old = build(board, DIGITS), build(board)
    emulated = emulate(board)
    emulated.start()
    line = connect(emulated)
    total = packets(board, image, emulated.gdb)
    rng = random.Random(SEED)
    points = [*sorted(rng.sample(range(3, total), POINTS // 2 - 2)), 4, total - 1]
    for after in points:
        flash(board, old, OLD, emulated.gdb)
        killed_flash(board, image, emulated.gdb, after)
        page = emulated.read(board.settings_address, settings.SETTINGS_BYTES)
        try:
            found = settings.decode(page)
        except BoardError:
            found = None
        if found is not None:
            content = {OLD: old, IDENTITY: image}[found]
            assert holds(emulated, content), f"seed {SEED}, packet {after}: a device with half an image"
        notices: list[str] = []
        flash(board, image, IDENTITY, emulated.gdb, notice=notices.append)
        marked = settings.interrupted(page)
        assert len(notices) == (marked is not None), f"seed {SEED}, packet {after}"
        assert all("as kitchen was interrupted" in text for text in notices)
        assert holds(emulated, image)
        line.reconnect()
        assert line.event(HelloSeen).hello.device_id == IDENTITY.id


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_half_an_image_that_gets_to_run_is_no_device(
    share: float, emulate: Emulate, connect: Connect
) -> None:
    """Its power comes back before anybody repairs it. It may crash, or say what it lacks: not hello."""
    board = load("microbit")
    image = build(board, DIGITS)
    emulated = emulate(board)
    emulated.start()
    total = packets(board, image, emulated.gdb)
    killed_flash(board, image, emulated.gdb, int(share * total))
    line = connect(emulated)
    gdb = GdbRemote.connect(emulated.gdb)
    gdb.halt()
    gdb.command("qRcmd," + b"system_reset".hex())
    gdb.command("D")
    gdb.close()
    try:
        for _ in range(150):
            emulated.check()
            line.turn()
    except (EmulatorError, OSError):
        assert not emulated.running, "it crashed, which is as good as silence"
    assert not any(isinstance(event, HelloSeen) for event in line._waiting)
