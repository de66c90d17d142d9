"""`kilofed emulate`: kilofed.boards.emulator.Emulator."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path

import click

from kilofed.cli.common import (
    NEW_FOLDER,
    board_option,
    common_options,
    data_option,
    json_option,
    link_option,
    model_option,
    print_json,
    print_table,
    read_file,
    samples_option,
    seed_option,
)

WATCH_SECONDS = 0.2


@click.command("emulate")
@board_option("Which board, a name of `kilofed boards`.", required=True)
@link_option("How they reach their host; on Ethernet this machine is 10.0.2.2 to them.")
@click.option("--count", type=click.IntRange(1, 64), default=1, show_default=True, help="How many.")
@click.option(
    "--folder",
    type=NEW_FOLDER,
    default=Path("build/emulated"),
    show_default=True,
    help="Where their flash is kept from one start to the next.",
)
@click.option("--blank", is_flag=True, help="Start them halted and empty, whatever their flash holds.")
@data_option("Samples to place into their memory, an .npz for --model.  [default: digits]")
@samples_option("Samples a board gets.  [default: as many as there are, up to 200]")
@seed_option("Of the samples' dealing.")
@model_option()
@json_option
@common_options
def command(
    board_name: str, link: str, count: int, folder: Path, blank: bool, data: Path | None,
    samples: int | None, seed: int, model: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Start emulated boards and print their ports, until Ctrl-C.

    A board without firmware waits to be flashed at its GDB server; a flashed one runs and speaks on its
    serial port, or connects to its host where its link is Ethernet. Samples are placed into the boards'
    memory, as a sensor would have left them there.

    \b
    Example:
      kilofed emulate --board mps2-an386 --count 2
      kilofed emulate --board mps2-an386 --link ethernet
    """
    from kilofed.boards import Emulator, load
    from kilofed.boards.placed import encode
    from kilofed.experiment import make_places
    from kilofed.samples import digits_model_path, digits_pool, load_samples

    board = load(board_name, link=link)
    pool = digits_pool() if data is None else load_samples(data, read_file(model or digits_model_path()))
    places = make_places(pool, [board.name] * count, samples=samples, seed=seed)
    # An orderly end by SIGTERM too: boards are stopped, and their flash is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        boards = []
        for place in places:
            emulated = stack.enter_context(Emulator(board, folder / place.name))
            emulated.place(encode(place.samples.inputs, place.samples.labels))
            emulated.start(blank=blank)
            boards.append(emulated)
        rows = [
            (b.folder.name, "flashed" if b.flashed and not blank else "blank", b.url, b.gdb) for b in boards
        ]
        if as_json:
            print_json([dict(zip(("name", "state", "port", "target"), row, strict=True)) for row in rows])
        else:
            print_table(("board", "state", "--port", "--target"), rows)
        sys.stdout.flush()
        click.echo("running until Ctrl-C", err=True)
        while True:
            time.sleep(WATCH_SECONDS)
            for emulated in boards:
                emulated.check()
                if emulated.watch():
                    click.echo(f"{emulated.folder.name} was flashed", err=True)
