"""Boards: what they are (data files), how their firmware is built, how they are flashed, and how QEMU plays
them.

Nothing here knows what a round is: a board is started, flashed, and then is a serial port.
"""

from __future__ import annotations

from kilofed.boards.build import build
from kilofed.boards.catalogue import Board, Region, load, names
from kilofed.boards.emulator import Emulator
from kilofed.boards.fit import Fit, predict
from kilofed.boards.flash import flash
from kilofed.boards.image import Image
from kilofed.boards.settings import Identity

__all__ = [
    "Board",
    "Emulator",
    "Fit",
    "Identity",
    "Image",
    "Region",
    "build",
    "flash",
    "load",
    "names",
    "predict",
]
