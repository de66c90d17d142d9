"""Boards: what they are, how their firmware is built, how they are flashed, and how QEMU plays them.

    catalogue   the data files: `load(name)`, `all()`, class Board
    build       `build(board, model)`: an image;  image: what is in one;  stack: its worst-case stack
    fit         `predict(board, model)`: what a model takes of a board, before it is built
    flash       `flash(board, image, identity, target)`;  flash_methods: the ways to do it
    emulator    class Emulator: a board played by QEMU
    volume      boards that show a volume for such files: found, written
    uf2         the file format of bootloaders that show a volume: `encode`, `decode`
    settings    class Identity and the page it is written to;  network: where the host is, for Ethernet
    placed      samples placed in a board's memory

Nothing here knows what a round is: a board is started, flashed, and then is a serial port, or calls its host.
"""

from __future__ import annotations

from kilofed.boards.build import build
from kilofed.boards.catalogue import Board, Region, load, names
from kilofed.boards.emulator import Emulator
from kilofed.boards.fit import Fit, predict
from kilofed.boards.flash import flash
from kilofed.boards.image import Image
from kilofed.boards.network import Network
from kilofed.boards.settings import Identity
from kilofed.boards.stack import Stack

# The functions `build` and `flash` take the names of their modules here: import anything else of these two
# from the module, as in `from kilofed.boards.flash import program`.
__all__ = [
    "Board",
    "Emulator",
    "Fit",
    "Identity",
    "Image",
    "Network",
    "Region",
    "Stack",
    "build",
    "flash",
    "load",
    "names",
    "predict",
]
