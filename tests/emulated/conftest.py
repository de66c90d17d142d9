"""Boards in QEMU, and a line to each: what the emulated tests share. Skipped, with the reason, without the
tools.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from board_line import BOARDS, DIGITS, Line

from kilofed.boards import Board, Emulator, Image, build, load, names
from kilofed.boards.build import TOOLS
from kilofed.boards.players import NODE_TOOLS, QEMU


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is in this folder, and skips it where boards cannot be built or played."""
    missing = [tool for tool in (*TOOLS, QEMU) if shutil.which(tool) is None]
    no_node = [tool for tool in NODE_TOOLS if shutil.which(tool) is None]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.emulated)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))
            elif no_node and "pico" in item.name:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(no_node)}"))


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest) -> Board:
    """Each board in turn."""
    return load(request.param)


@pytest.fixture(scope="session")
def every_board() -> None:
    """BOARDS is the whole catalogue: a new board joins these tests."""
    assert names() == BOARDS


@pytest.fixture
def image(board: Board) -> Image:
    """The board's firmware with the digits model."""
    return build(board, DIGITS)


@pytest.fixture
def emulate(tmp_path: Path) -> Iterator[Callable[[Board], Emulator]]:
    """Makes emulated boards, blank and off, each with a folder of its own; they end with the test."""
    with ExitStack() as stack:
        made: list[Emulator] = []

        def make(board: Board) -> Emulator:
            made.append(stack.enter_context(Emulator(board, tmp_path / f"board-{len(made)}")))
            return made[-1]

        yield make


@pytest.fixture
def connect() -> Iterator[Callable[[Emulator], Line]]:
    """Opens lines to emulated boards; they are closed with the test."""
    with ExitStack() as stack:

        def open_line(emulated: Emulator) -> Line:
            line = Line.to(emulated)
            stack.callback(line.close)
            return line

        yield open_line
