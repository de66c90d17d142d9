"""Runs a Python fuzz target: under atheris, or on files without it.

python -m tests.fuzz.python models -max_total_time=60 CORPUS SEEDS     fuzz; the options are libFuzzer's
python -m tests.fuzz.python --replay models FILE|FOLDER...             as a test, or under a debugger
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.fuzz.build import OUT, ROOT

TARGETS = ("models", "link", "blobs", "capture")
#: What is measured and steered by: our decoders, not numpy or click.
INSTRUMENTED = [
    "kilofed_tools", "kilofed.link", "kilofed.boards.placed", "kilofed.boards.settings", "kilofed.capture",
    "kilofed.enrol",
]  # fmt: skip


def target(name: str) -> Callable[[bytes], None]:
    """The function that runs one input; it raises when a promise is broken."""
    one_input: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.{name}").one_input
    return one_input


def replay(name: str, paths: Iterable[Path]) -> int:
    """Runs the files, and those in the folders, in order; returns how many. Says the file when one fails."""
    run = target(name)
    count = 0
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            try:
                run(file.read_bytes())
            except BaseException as error:
                error.add_note(f"repeat: python -m tests.fuzz.python --replay {name} {file}")
                raise
            count += 1
    return count


def _starter(name: str) -> Path:
    """A program that starts a target: what libFuzzer takes for argv[0], and starts anew when it merges."""
    path = OUT / "start" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m tests.fuzz.python {name} "$@"\n')
    path.chmod(0o755)
    return path


def fuzz(name: str, options: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    # What is imported inside is rewritten to count its branches; the rest is loaded before, as it is.
    with atheris.instrument_imports(include=INSTRUMENTED):
        run = target(name)
    atheris.Setup([str(_starter(name)), *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--replay"] and sys.argv[2:3] and sys.argv[2] in TARGETS:
        print(f"{replay(sys.argv[2], map(Path, sys.argv[3:]))} inputs")
    elif sys.argv[1:2] and sys.argv[1] in TARGETS:
        fuzz(sys.argv[1], sys.argv[2:])
    else:
        sys.exit(__doc__)
