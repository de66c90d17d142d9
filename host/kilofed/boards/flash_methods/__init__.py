"""The ways to bring bytes into a board's flash, by the name that a board's data file uses.

A new way is one file here with a class of the shape of `FlashMethod`, and a line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from kilofed.boards.elf import Segment
from kilofed.boards.flash_methods.gdb import GdbMethod

Progress = Callable[[str, int, int], None]
"""Told "write" or "verify", bytes done and bytes in all."""


class FlashMethod(Protocol):
    """One way of flashing. Call order: `connect`, then the others any number of times, `run` last, `close`
    always.

    Every method raises FlashError: nobody answers, an address cannot be written, what was read back differs.
    """

    def connect(self, target: str, options: Mapping[str, str]) -> None:
        """Reach and halt the board at `target` (the method says what that is). options: the data file's, as
        it is.
        """

    def core(self) -> str:
        """GCC's name of the core found ("cortex-m0"), "" when the method cannot tell."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of memory."""

    def program(self, segments: Sequence[Segment], progress: Progress) -> None:
        """Write the segments, erasing what that needs, and read them back."""

    def run(self) -> None:
        """Reset the board and let it go."""

    def close(self) -> None:
        """Let go of the connection. Never raises."""


METHODS: Mapping[str, Callable[[], FlashMethod]] = {"gdb": GdbMethod}
