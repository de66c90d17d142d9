"""Build a board's firmware: drive CMake and Ninja, and read what came out.

One folder a board, `build/firmware/<board>`, compiled once for all models: a model is only linked in, last
in flash. So building for another model takes a fraction of a second, and nothing at all when nothing
changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from kilofed.boards import catalogue, fit, stack
from kilofed.boards import image as images
from kilofed.boards.catalogue import Board
from kilofed.boards.image import Image
from kilofed.boards.stack import Stack
from kilofed.errors import BuildError, ToolMissingError

Progress = Callable[[str], None]
"""Told in a few words what is being done now."""

_ERROR = re.compile(r"error:|Error:|undefined reference|will not fit|overflowed|CMake Error")

TOOLS = {"arm-none-eabi-gcc": "gcc-arm-none-eabi", "cmake": "cmake", "ninja": "ninja-build"}
"""The programs a build needs, and the Debian packages they come in."""


def build(
    board: Board | str,
    model: Path | None = None,
    *,
    out_dir: Path | None = None,
    progress: Progress | None = None,
) -> Image:
    """Build the firmware of `board` with the .tflite `model` inside, or the bare image when None.

    out_dir: where to build; by default `build/firmware/<board>` of the checkout. The image's ELF file and
    its linker map (`.elf.map`) stay in its `images/`, under a name made of the model's hash, until the same
    model is built again. Raises FitError before anything is linked when the model does not fit;
    ToolMissingError; BuildError; what reading the model raises.
    """
    if isinstance(board, str):
        board = catalogue.load(board)
    folder = out_dir or build_dir(board)
    say = progress or (lambda _: None)
    if model is None:
        return _make(board, folder, None, b"", 0, say)
    data = _read_model(model)
    bare = _make(board, folder, None, b"", 0, say)
    fitting = fit.from_bare(board, bare, data)
    fitting.check()
    return _make(board, folder, model, data, fitting.pool_bytes, say)


def build_dir(board: Board) -> Path:
    """Where the firmware of `board` is built by default. Raises BuildError outside a checkout."""
    root = catalogue.repository()
    if root is None:
        raise BuildError(
            "this installation has no firmware sources",
            "clone the repository and run kilofed from there",
            board=board.name,
        )
    return root / "build" / "firmware" / board.name


def _read_model(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}", "name an existing .tflite file") from error


def _make(
    board: Board, folder: Path, model: Path | None, data: bytes, pool_bytes: int, say: Progress
) -> Image:
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise ToolMissingError(
                f"{tool} is not installed",
                f"install it: apt-get install {package}",
                board=board.name,
                tool=tool,
            )
    root = catalogue.repository()
    if root is None:
        build_dir(board)
        raise AssertionError("unreachable: build_dir raises outside a checkout")
    source = root / "firmware"
    target = "bare" if model is None else "image"
    name = "bare" if model is None else hashlib.blake2b(data, digest_size=8).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _configure(board, source, folder, model, pool_bytes, say)
        say(
            f"compiling the firmware of {board.name}"
            if model is None
            else f"linking {model.name} into {board.name}"
        )
        _run(board, ["cmake", "--build", str(folder), "--target", target], source)
        made = folder / f"{target}.elf"
        kept = folder / "images" / f"{name}.elf"
        if not kept.exists() or kept.stat().st_mtime_ns != made.stat().st_mtime_ns:
            kept.parent.mkdir(exist_ok=True)
            for suffix in ("", ".map"):
                part = kept.with_name(f".{name}{suffix}")
                shutil.copy2(f"{made}{suffix}", part)
                part.replace(f"{kept}{suffix}")
        return images.load(kept, board, stack=_stack(board, source, folder, kept))


def _configure(
    board: Board, source: Path, folder: Path, model: Path | None, pool_bytes: int, say: Progress
) -> None:
    """Run CMake's first step when its arguments are not those of the last time."""
    arguments = [f"-DKF_BOARD={board.name}", f"-DPython3_EXECUTABLE={sys.executable}"]
    if model is not None:
        arguments += [f"-DKF_MODEL={model.resolve()}", f"-DKF_POOL_BYTES={pool_bytes}"]
    stamp = folder / "configured.json"
    wanted = {"source": str(source), "arguments": arguments}
    if stamp.is_file() and (folder / "build.ninja").is_file():
        before = json.loads(stamp.read_text())
        # The bare image needs no model, and is made in a folder that knows one just as well.
        if before == wanted or (
            model is None and before["source"] == str(source) and before["arguments"][:2] == arguments
        ):
            return
    stamp.unlink(missing_ok=True)
    say(f"configuring the firmware of {board.name}")
    toolchain = source / "cmake" / "arm-none-eabi.cmake"
    _run(
        board,
        [
            "cmake",
            "-G",
            "Ninja",
            "-S",
            str(source),
            "-B",
            str(folder),
            f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
            *arguments,
        ],
        source,
    )
    stamp.write_text(json.dumps(wanted))


def _run(board: Board, command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        log = (done.stdout + done.stderr).strip()
        last = "\n".join(log.splitlines()[-30:])
        raise BuildError(
            f"the firmware of {board.name} does not build: {_first_error(log)}",
            f"read the whole of it: {' '.join(command)}",
            board=board.name,
            log=last,
        )


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines()]
    return next((line for line in lines if _ERROR.search(line)), lines[-1] if lines else "it printed nothing")


def _stack(board: Board, source: Path, folder: Path, elf: Path) -> Stack:
    """The image's worst-case stack, remembered beside it until the image or what analyses it changes."""
    indirect = source / "cmake" / "indirect_calls.json"
    key = hashlib.sha256(
        elf.read_bytes() + indirect.read_bytes() + Path(stack.__file__).read_bytes()
    ).hexdigest()
    memo = elf.with_suffix(".stack.json")
    if memo.is_file():
        known = json.loads(memo.read_text())
        if known["key"] == key:
            return Stack(
                known["bytes"],
                tuple((n, f) for n, f in known["chain"]),
                known["interrupt"],
                tuple(known["unresolved"]),
            )
    graphs = (path for path in folder.rglob("*.ci") if "template.dir" not in path.parts)
    fpu = any(flag.startswith("-mfloat-abi=hard") for flag in board.flags)
    result = stack.analyse(elf, graphs, stack.load_indirect(indirect), fpu=fpu)
    memo.write_text(json.dumps({"key": key, **asdict(result)}))
    return result


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time in a folder, across processes."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
