"""Build a board's firmware: drive CMake and Ninja, and read what came out.

One folder a board and link, `build/firmware/<board>` or `build/firmware/<board>-ethernet`, compiled once for
all models: a model is only linked in, last in flash, with the operators it uses. So building for another
model takes a fraction of a second.
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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from kilofed.boards import catalogue, fit, stack, uf2
from kilofed.boards import image as images
from kilofed.boards.catalogue import Board
from kilofed.boards.image import Image
from kilofed.boards.stack import Stack
from kilofed.errors import BuildError, ToolMissingError
from kilofed_tools.tflite import op_name, read_file, read_model

Progress = Callable[[str], None]
"""Told in a few words what is being done now."""

MODEL = "model.tflite"
"""The copy of the model, in the build folder: wherever the original lies, CMake sees one path."""

OPS = "ops.def"
"""The operators of the image, in the build folder: those lines of the firmware's table that it needs."""

LINKED = ("kilofed", "lwip", "monocypher", "port", "zcbor")
"""CMake's targets that an image consists of; lwip is one only where the link is Ethernet."""

_ERROR = re.compile(r"error:|Error:|undefined reference|will not fit|overflowed|CMake Error")

TOOLS = {"arm-none-eabi-gcc": "gcc-arm-none-eabi", "cmake": "cmake", "ninja": "ninja-build"}
"""The programs a build needs, and the Debian packages they come in."""


def build(
    board: Board | str,
    model: Path | None = None,
    *,
    all_operators: bool = False,
    out_dir: Path | None = None,
    progress: Progress | None = None,
) -> Image:
    """Build the firmware of `board` with the .tflite `model` inside, or the bare image when None.

    all_operators: link every operator there is, instead of those that the model uses. The bare image has all.
    out_dir: where to build; by default `build/firmware/<board>` of the checkout (with `-ethernet` behind it
    for a board of that link). The image's ELF file and its linker map (`.elf.map`) stay in its `images/`,
    under a name made of the model's hash.

    Raises FitError before anything is linked when the model does not fit; ToolMissingError; BuildError;
    ModelError for a file that is no device model or cannot be read.
    """
    if isinstance(board, str):
        board = catalogue.load(board)
    data = None if model is None else read_file(model)
    operators = None if data is None or all_operators else operators_of(data)
    bare = link(board, None, operators=operators, out_dir=out_dir, progress=progress)
    if data is None:
        return bare
    fitting = fit.from_bare(board, bare, data)
    fitting.check()
    pool = fitting.pool_bytes
    return link(board, data, operators=operators, pool_bytes=pool, out_dir=out_dir, progress=progress)


def operators_of(model: bytes) -> frozenset[str]:
    """The schema's names of the operators that a model uses. Raises ModelError."""
    return frozenset(op_name(op.code) for op in read_model(model).operators)


def link(
    board: Board,
    model: bytes | None,
    *,
    operators: Collection[str] | None = None,
    pool_bytes: int = 0,
    out_dir: Path | None = None,
    progress: Progress | None = None,
) -> Image:
    """The same with the bytes of a model and a memory block of `pool_bytes`, both taken unchecked.

    operators: names of those that the image computes (of others it says that it does not); None: all. `build`
    works them out. Raises ToolMissingError and BuildError.
    """
    source = sources(board)
    folder = out_dir or source.parent / "build" / "firmware" / board.variant
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise ToolMissingError(
                f"{tool} is not installed",
                f"install it: apt-get install {package}",
                board=board.name,
                tool=tool,
            )
    say = progress or (lambda _: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be made ({error.strerror})",
            "get the right to write there, or build in another folder",
            board=board.name,
        ) from error
    with _locked(folder):
        table = operator_table(source, operators)
        replace_file(folder / OPS, table)
        part = "" if operators is None else f"-{hashlib.blake2b(table, digest_size=4).hexdigest()}"
        if model is None:
            target, name = "bare", f"bare{part}"
        else:
            target, name = "image", f"{hashlib.blake2b(model, digest_size=8).hexdigest()}-{pool_bytes}{part}"
            replace_file(folder / MODEL, model)
        _configure(board, source, folder, pool_bytes if model is not None else None, say)
        say(f"{'compiling' if model is None else 'linking a model into'} the firmware of {board.variant}")
        _run(board, ["cmake", "--build", str(folder), "--target", target], source)
        elf = folder / "images" / f"{name}.elf"
        elf.parent.mkdir(exist_ok=True)
        for suffix in ("", ".map"):
            replace_file(elf.with_name(elf.name + suffix), (folder / f"{target}.elf{suffix}").read_bytes())
        image = images.load(elf, board, stack=_stack(board, source, folder, elf))
        if board.uf2_family:
            replace_file(
                elf.with_suffix(".uf2"), uf2.encode(image.segments, board.uf2_family, whole=uf2.SECTOR_BYTES)
            )
        return image


def operator_table(source: Path, operators: Collection[str] | None) -> bytes:
    """The lines of the firmware's table of operators that have these names, or all. source: its folder."""
    lines = (source / "src" / "nn" / "ops.def").read_text().splitlines(keepends=True)
    named = [(re.match(r"KF_OP\((\w+),", line), line) for line in lines]
    return "".join(
        line for found, line in named if found and (operators is None or found[1] in operators)
    ).encode()


def sources(board: Board | None = None) -> Path:
    """The folder of the firmware's sources. board: for whom, told with the error. Raises BuildError outside a
    checkout.
    """
    root = catalogue.repository()
    if root is None:
        raise BuildError(
            "this installation has no firmware sources",
            "clone the repository and run kilofed from there",
            board=board.name if board else "",
        )
    return root / "firmware"


def replace_file(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, whole or not at all; untouched when it does, so that nothing is made anew."""
    if path.is_file() and path.read_bytes() == data:
        return
    part = path.with_name(f".{path.name}")
    part.write_bytes(data)
    part.replace(path)


def _configure(board: Board, source: Path, folder: Path, pool_bytes: int | None, say: Progress) -> None:
    """Run CMake's first step when its arguments are not the last time's. pool_bytes None: any will do."""
    arguments = [
        f"-DKF_BOARD={board.name}",
        f"-DKF_LINK={board.link}",
        f"-DKF_OPS={folder.resolve() / OPS}",
        f"-DPython3_EXECUTABLE={sys.executable}",
    ]
    with_model = [f"-DKF_MODEL={folder.resolve() / MODEL}", f"-DKF_POOL_BYTES={pool_bytes}"]
    wanted = [str(source), *arguments, *(with_model if pool_bytes is not None else ())]
    stamp = folder / "configured-with.json"
    if stamp.is_file() and (folder / "build.ninja").is_file():
        before = json.loads(stamp.read_text())
        if (before[: len(wanted)] if pool_bytes is None else before) == wanted:
            return
    stamp.unlink(missing_ok=True)
    say(f"configuring the firmware of {board.variant}")
    toolchain = source / "cmake" / "arm-none-eabi.cmake"
    command = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(folder)]
    _run(board, [*command, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", *wanted[1:]], source)
    stamp.write_text(json.dumps(wanted))


def _run(board: Board, command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        log = (done.stdout + done.stderr).strip()
        last = "\n".join(log.splitlines()[-30:])
        raise BuildError(
            f"the firmware of {board.variant} does not build: {first_error(log)}",
            f"read the whole of it: {' '.join(command)}",
            board=board.name,
            log=last,
        )


def first_error(log: str) -> str:
    """The line of a build's log that says what is wrong, as far as one can tell."""
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
    graphs = (path for target in LINKED for path in (folder / "CMakeFiles" / f"{target}.dir").rglob("*.ci"))
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
