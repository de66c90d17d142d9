"""The sizes that were agreed on: what each board's image with the digits model takes, and why it last grew.

They stand in `firmware/sizes.json`, so that a change which makes an image grow changes that file too, in
the same commit, with a reason. Only images of the compiler that was recorded are compared: another one
makes other code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kilofed.boards.image import Image
from kilofed.errors import BuildError

TOLERATED = 50
"""Growth of flash or RAM by one part in so many needs no reason: 2 %."""

FILE = "sizes.json"

_VERSION = re.compile(r'set\(CMAKE_C_COMPILER_VERSION "([^"]+)"\)')


@dataclass(frozen=True)
class Size:
    """What an image takes, in bytes, stack included in RAM; the compiler's version; why it last grew."""

    flash: int
    ram: int
    compiler: str
    why: str = ""


@dataclass(frozen=True)
class Growth:
    """An image of today against the agreed one, None when none is recorded."""

    variant: str
    now: Size
    agreed: Size | None

    @property
    def comparable(self) -> bool:
        """Whether there is an agreed size, by the same compiler."""
        return self.agreed is not None and self.agreed.compiler == self.now.compiler

    @property
    def flash(self) -> float:
        """Growth of flash as a part of the agreed size; 0 when they cannot be compared."""
        return self.now.flash / self.agreed.flash - 1 if self.agreed and self.comparable else 0.0

    @property
    def ram(self) -> float:
        """The same of RAM."""
        return self.now.ram / self.agreed.ram - 1 if self.agreed and self.comparable else 0.0

    @property
    def tolerated(self) -> bool:
        """Whether neither grew by more than may pass without a reason."""
        if self.agreed is None or not self.comparable:
            return True
        pairs = ((self.now.flash, self.agreed.flash), (self.now.ram, self.agreed.ram))
        return all((now - agreed) * TOLERATED <= agreed for now, agreed in pairs)


def measure(image: Image) -> Size:
    """The size of an image that was built here. Raises BuildError when its build is not beside it."""
    folder = image.elf.parent.parent / "CMakeFiles"
    for path in sorted(folder.glob("*/CMakeCCompiler.cmake")):
        found = _VERSION.search(path.read_text(encoding="utf-8"))
        if found:
            return Size(image.flash_bytes, image.ram_bytes, found[1])
    raise BuildError(
        f"{folder} does not tell which compiler made the image", "build it anew", board=image.board
    )


def load(path: Path) -> dict[str, Size]:
    """The agreed sizes in the file at `path`, by variant of board; none when there is no such file.

    Raises BuildError for a file that is not one of ours.
    """
    if not path.is_file():
        return {}
    try:
        return {name: Size(**entry) for name, entry in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BuildError(
            f"{path} is damaged ({error})", "get it back from git, or record it anew with --record WHY"
        ) from error


def compare(agreed: dict[str, Size], now: dict[str, Size]) -> list[Growth]:
    """Each image of `now` against the agreed one, in the order of `now`."""
    return [Growth(variant, size, agreed.get(variant)) for variant, size in now.items()]


def record(path: Path, grown: Sequence[Growth], why: str) -> None:
    """Agree on the sizes of today. `why` goes to those that are new or grew beyond what is tolerated; others
    keep their reason.
    """
    sizes = load(path)
    for one in grown:
        keeps = one.agreed is not None and one.comparable and one.tolerated
        reason = one.agreed.why if one.agreed is not None and keeps else why
        sizes[one.variant] = Size(one.now.flash, one.now.ram, one.now.compiler, reason)
    lines = [f"  {json.dumps(name)}: {json.dumps(vars(sizes[name]))}" for name in sorted(sizes)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def check(grown: Sequence[Growth]) -> None:
    """Raises BuildError, with the numbers, when an image grew beyond what is tolerated."""
    for one in grown:
        if not one.tolerated and one.agreed is not None:
            raise BuildError(
                f"the image of {one.variant} grew: flash {one.agreed.flash} to {one.now.flash} bytes "
                f"({one.flash:+.1%}), RAM {one.agreed.ram} to {one.now.ram} ({one.ram:+.1%})",
                "make it smaller, or agree: kilofed build --all --record WHY changes firmware/sizes.json, "
                "which belongs into the same commit",
                board=one.variant,
            )
