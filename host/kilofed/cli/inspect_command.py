"""`kilofed inspect`: kilofed.inspection.inspect."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import (
    FILE,
    board_option,
    common_options,
    json_option,
    print_json,
    print_table,
    read_file,
)


@click.command("inspect")
@click.argument("model", metavar="MODEL", type=FILE)
@board_option("Say whether it fits this board.  [default: all]", many=True)
@json_option
@common_options
def command(model: Path, boards: tuple[str, ...], as_json: bool) -> None:
    """Show what a model is, and which boards it fits.

    The flash and RAM figures are those of the linker map plus the reserved stack, to the byte. They need the
    bare firmware, which is built when it is not there; without a cross compiler they are left out. Exits with
    1 when a board named with --board is too small.

    \b
    Example:
      kilofed inspect digits.tflite --board microbit
    """
    from kilofed.inspection import inspect

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
        for note in found.notes:
            click.echo(note, err=True)
    too_small = [fit for fit in found.fits if boards and not fit.fits]
    for fit in too_small:
        fit.check()
