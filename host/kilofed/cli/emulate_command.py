"""`kilofed emulate`: kilofed.boards.emulator.Emulator."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import click

from kilofed.cli.common import NEW_FOLDER, common_options, json_option, print_json, print_table

WATCH_SECONDS = 0.2


@click.command("emulate")
@click.option("--board", "board_name", required=True, help="Which board, a name of `kilofed boards`.")
@click.option("--count", type=click.IntRange(1, 64), default=1, show_default=True, help="How many.")
@click.option(
    "--folder",
    type=NEW_FOLDER,
    default=Path("build/emulated"),
    show_default=True,
    help="Where their flash is kept from one start to the next.",
)
@click.option("--blank", is_flag=True, help="Start them halted and empty, whatever their flash holds.")
@json_option
@common_options
def command(board_name: str, count: int, folder: Path, blank: bool, as_json: bool) -> None:  # fmt: skip
    """Start emulated boards and print their ports, until Ctrl-C.

    A board without firmware waits to be flashed at its GDB server; a flashed one runs and speaks on its
    serial port.

    \b
    Example:
      kilofed emulate --board mps2-an386 --count 2
    """
    from kilofed.boards import Emulator, load

    board = load(board_name)
    with contextlib.ExitStack() as stack:
        boards = [
            stack.enter_context(Emulator(board, folder / f"{board.name}-{number}"))
            for number in range(1, count + 1)
        ]
        for emulated in boards:
            emulated.start(blank=blank)
        rows = [
            (b.folder.name, "flashed" if b.flashed and not blank else "blank", b.url, b.gdb) for b in boards
        ]
        if as_json:
            print_json([dict(zip(("name", "state", "port", "target"), row, strict=True)) for row in rows])
        else:
            print_table(("board", "state", "--port", "--target"), rows)
        click.echo("running until Ctrl-C", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(WATCH_SECONDS)
                for emulated in boards:
                    emulated.check()
                    if emulated.watch():
                        click.echo(f"{emulated.folder.name} was flashed", err=True)
