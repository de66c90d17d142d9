"""`kilofed inspect`: kilofed.inspection.inspect."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import (
    FILE,
    NEW_FILE,
    board_option,
    common_options,
    json_option,
    print_json,
    print_table,
    read_file,
    shown,
    write_file,
)
from kilofed.cli.usage import WrongUsage


@click.command("inspect")
@click.argument("model", metavar="MODEL", type=FILE)
@board_option("Say whether it fits this board.  [default: all]", many=True)
@click.option("--plot", type=NEW_FILE, default=None, help="Draw its memory plan into this file, an SVG.")
@json_option
@common_options
def command(model: Path, boards: tuple[str, ...], plot: Path | None, as_json: bool) -> None:
    """Show what a model is, and which boards it fits.

    The flash and RAM figures are those of the linker map plus the reserved stack, to the byte. They need the
    bare firmware, which is built when it is not there; without a cross compiler they are left out. Exits with
    1 when a board named with --board is too small.

    The map is the memory plan: operators from left to right, bytes of the arena from the bottom up, a letter
    for each tensor. Below it is said where each lies and when, and what makes the peak.

    \b
    Example:
      kilofed inspect digits.tflite --board microbit
      kilofed inspect digits.tflite --plot build/plan.svg
    """
    from kilofed.inspection import inspect

    if plot is not None and plot.suffix.lower() not in ("", ".svg"):
        raise WrongUsage(
            f"{plot.name} is to be a drawing, and those are SVG", "give --plot a name that ends in .svg"
        )
    found = inspect(
        read_file(model), boards=list(boards) or None, progress=lambda text: click.echo(text, err=True)
    )
    if as_json:
        print_json(found.as_json())
    else:
        for name, value in found.summary():
            click.echo(f"{name:<10} {value}")
        if found.fits:
            click.echo()
            print_table(("board", "flash B", "of", "RAM B", "of", "verdict"), found.fit_rows())
        if found.arena is not None:
            click.echo()
            for line in found.arena.lines():
                click.echo(line)
        for note in found.notes:
            click.echo(note, err=True)
    if plot is not None and found.arena is not None:
        write_file(plot, found.arena.svg().encode())
        click.echo(f"drawn: {shown(plot)}", err=True)
    too_small = [fit for fit in found.fits if boards and not fit.fits]
    for fit in too_small:
        fit.check()
