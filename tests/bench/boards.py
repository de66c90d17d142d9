"""`board.<name>.*`: what the firmware with the digits model takes of each board."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kilofed.boards import build, catalogue

from .figure import BenchError, Figure

COMMAND = "python -m tests.bench --only boards"


def figures(root: Path) -> Iterator[Figure]:
    """Flash, RAM with the reserved stack, and the worst chain of calls found in the code, of every board."""
    model = root / "models" / "digits" / "digits.tflite"
    for board in catalogue.all():
        image = build(board, model)
        if image.stack is None:
            raise BenchError(f"the stack of {board.name} was not analysed; `make clean` and try again")
        yield Figure(f"board.{board.name}.flash", image.flash_bytes, "B", COMMAND)
        yield Figure(f"board.{board.name}.ram", image.ram_bytes, "B", COMMAND)
        yield Figure(f"board.{board.name}.stack", image.stack.bytes, "B", COMMAND)
