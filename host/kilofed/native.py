"""The posix port: the device core as a program of this machine, built with its own compiler."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from kilofed.boards.catalogue import repository
from kilofed.errors import BuildError, ToolMissingError

PROGRAM = "kilofed-posix"
TOOLS = {"cmake": "cmake", "ninja": "ninja-build", "cc": "gcc"}
"""What building it needs, and the Debian packages they come in."""


def build_native(*, progress: Callable[[str], None] = lambda text: None) -> Path:
    """Builds the posix port in build/firmware/posix of the checkout; returns the program.

    Quick when nothing changed. ToolMissingError, or BuildError with the compiler's words.
    """
    root = repository()
    if root is None:
        raise BuildError("this installation has no firmware sources", "run from a clone of the repository")
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise ToolMissingError(
                f"{tool} is not installed", f"install it: apt-get install {package}", tool=tool
            )
    folder = root / "build" / "firmware" / "posix"
    source = root / "firmware"
    progress("building the device core for this machine")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be made ({error.strerror})", "get the right to write there"
        ) from error
    # One at a time: two builds in one folder write the same files.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "build.ninja").is_file():
            _run(["cmake", "--preset", "posix"], source)
        _run(["cmake", "--build", str(folder), "--target", PROGRAM], source)
    found = next((path for path in sorted(folder.rglob(PROGRAM)) if path.is_file()), None)
    if found is None:
        raise BuildError(f"the build made no {PROGRAM}", f"remove {folder} and try again")
    return found


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        wrong = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no output")
        raise BuildError(
            f"the device core does not build here: {wrong}",
            f"read the whole of it: {' '.join(command)}",
            log="\n".join(lines[-30:]),
        )
