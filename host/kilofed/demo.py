"""The demonstration: six devices of three kinds learn handwritten digits that none of them has all of.

Four Cortex-M4F boards and a 16 KB Cortex-M0 board, both emulated and running the real firmware, and one Linux
process with a TFLite runtime. Their samples come from MNIST, dealt so that most devices lack some of the ten
digits.

The run lies in a folder; the same call goes on where the last one was stopped or killed, and starts anew when
it had finished (the old run is moved aside, to FOLDER-1, -2, ...).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kilofed.boards.build import TOOLS
from kilofed.boards.players import QEMU, QEMU_PACKAGE
from kilofed.errors import RunFolderError
from kilofed.experiment import run_experiment
from kilofed.laboratory import NATIVE, PI, Place
from kilofed.native import TOOLS as NATIVE_TOOLS
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.rounds.records import RunEvent
from kilofed.samples import Samples, deal, digits_model_path, digits_pool, digits_test
from kilofed.store import DATABASE, open_run
from kilofed_tools.errors import DataError

#: name, board, samples. The micro:bit's ring holds 80; a fifth of everybody's samples is held out.
FLEET = (
    ("m4f-1", "mps2-an386", 200),
    ("m4f-2", "mps2-an386", 200),
    ("m4f-3", "mps2-an386", 200),
    ("m4f-4", "mps2-an386", 200),
    ("microbit", "microbit", 80),
    ("pi", PI, 250),
)

ALPHA = 0.3  # of the Dirichlet distribution that mixes each device's digits

CONFIG = RunConfig(
    rounds=20,
    epochs=5,
    batch=16,
    lr=0.1,
    personal_epochs=5,
    deadlines=Deadlines(gather=90.0, round=120.0, rejoin=15.0),
)


@dataclass(frozen=True)
class Missing:
    """A program that emulation needs and that is not installed, and the Debian package that has it."""

    program: str
    package: str


def missing_tools(*, native: bool = False) -> list[Missing]:
    """What emulated boards need and this machine does not have; what native processes need, if `native`."""
    wanted = NATIVE_TOOLS if native else {**TOOLS, QEMU: QEMU_PACKAGE}
    return [Missing(program, package) for program, package in wanted.items() if shutil.which(program) is None]


def make_fleet(
    pool: Samples, *, native: bool, seed: int, fleet: Sequence[tuple[str, str, int]] = FLEET
) -> list[Place]:
    """The demo's devices with their samples.

    native: every board a native process of the same core instead; a Linux device, where no compiler is there
    either.
    """
    shards = deal(pool, [size for _, _, size in fleet], alpha=ALPHA, seed=seed)
    instead = PI if missing_tools(native=True) else NATIVE
    return [
        Place(name, instead if native and board != PI else board, shard)
        for (name, board, _), shard in zip(fleet, shards, strict=True)
    ]


def make_room(folder: Path) -> Path | None:
    """Moves a finished run in `folder` aside; returns where to. An unfinished one stays, to be gone on with.

    RunLockedError when another process is running it.
    """
    if not (folder / DATABASE).is_file():
        return None
    with open_run(folder, write=True) as run:
        if "finished" not in run.figures():
            return None
    return move_aside(folder)


def move_aside(folder: Path) -> Path:
    """Renames `folder` to the first FOLDER-<n> that is free; returns it."""
    number = 1
    while (target := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    try:
        folder.rename(target)
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be moved to {target} ({error})", "move it away yourself", path=str(folder)
        ) from error
    return target


def check_parts() -> None:
    """DataError where the demo's model is not: in an installation without the repository."""
    try:
        digits_model_path()
    except DataError as error:
        raise DataError(
            "the demo's model is part of the repository, and this installation has none of it",
            "run `make demo` in a clone of the repository",
        ) from error


def run_demo(
    folder: Path,
    *,
    config: RunConfig = CONFIG,
    native: bool = False,
    command: str = "",
    observers: Sequence[Callable[[RunEvent], None]] = (),
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Runs the demo in `folder` to its end (True), or until a signal stops it (False).

    native: no emulator, every board a native process of the same core. command: as run_experiment.
    Raises what building, flashing, running and storing raise. Call it from the main thread.
    """
    check_parts()
    pool, test = digits_pool(), digits_test()
    aside = make_room(folder)
    if aside is not None:
        say(f"the finished run that was in {folder} is now {aside}")
    return run_experiment(
        folder,
        make_fleet(pool, native=native, seed=config.seed),
        model=digits_model_path(),
        config=config,
        test=test,
        command=command,
        observers=observers,
        say=say,
    )
