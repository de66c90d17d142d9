"""`kilofed profile`: kilofed.profiling.profile.of, kilofed.profiling.drawing.svg."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from kilofed.profiling.profile import Profile

BAR = 24  # characters
LISTED = 10  # functions, and kinds of instructions; --json has all


@click.command("profile")
@click.argument("model", metavar="MODEL", type=FILE)
@board_option("Whose core runs it.", default="mps2-an386", show_default=True)
@click.option("--out", type=NEW_FILE, default=None, help="Draw it into this file too, an SVG.")
@json_option
@common_options
def command(model: Path, board_name: str, out: Path | None, as_json: bool) -> None:
    """Show where an inference spends its time and its RAM.

    The device's engine runs the model on the board's core, emulated, and every instruction is counted: by
    operator, and by function of the engine. Counts are exact. Cycles are modelled with the timings of the
    core's manual and memory without wait states; --json says which. MODEL is any int8 .tflite that the engine
    takes, a head or not, and need not fit the board. RAM is that of the memory plan.

    \b
    Example:
      kilofed profile models/digits/digits.tflite --board microbit
      kilofed profile models/digits/digits.tflite --out build/profile.svg
    """
    from kilofed.boards import load
    from kilofed.profiling import drawing, profile

    found = profile.of(read_file(model), load(board_name), progress=lambda text: click.echo(text, err=True))
    if as_json:
        print_json(found.as_json())
    else:
        _show(found)
    if found.note:
        click.echo(f"note: {found.note}", err=True)
    if out is not None:
        write_file(out, drawing.svg(found).encode())
        click.echo(f"drawn: {shown(out)}", err=True)


def _show(found: Profile) -> None:
    total = found.cost
    about = "estimated" if found.table.estimated else "modelled"
    click.echo(f"{found.board}, {found.table.core}")
    click.echo(f"instructions  {total.instructions}, {_each(total.instructions, found.macs)} a MAC")
    click.echo(f"cycles        {found.cycles(total)}, {about}: {found.table.source}")
    click.echo(f"arena         {found.arena} B, fullest at operator {found.peak.index}")
    click.echo()
    most = max(operator.cost.instructions for operator in found.operators)
    print_table(
        ("op", "operator", "output", "MACs", "instructions", "a MAC", "cycles", "RAM B", "most of it in", ""),
        [
            (
                operator.index, operator.name, "x".join(map(str, operator.shape)), operator.macs or "-",
                operator.cost.instructions, _each(operator.cost.instructions, operator.macs),
                found.cycles(operator.cost), operator.ram, next(iter(operator.functions), "-"),
                "#" * round(BAR * operator.cost.instructions / max(1, most)),
            )
            for operator in found.operators
        ],
    )  # fmt: skip
    click.echo()
    functions = [(name, cost.instructions, found.cycles(cost)) for name, cost in found.functions.items()]
    if len(functions) > LISTED:
        rest = functions[LISTED:]
        others = (f"{len(rest)} others", sum(row[1] for row in rest), sum(row[2] for row in rest))
        functions = [*functions[:LISTED], others]
    print_table(
        ("function", "instructions", "share", "cycles"),
        [(name, count, _share(count, total.instructions), cycles) for name, count, cycles in functions],
    )
    click.echo()
    print_table(
        ("kind of instruction", "instructions", "share"),
        [
            (kind, count, _share(count, total.instructions))
            for kind, count in list(found.kinds.items())[:LISTED]
        ],
    )


def _each(instructions: int, macs: int) -> str:
    return f"{instructions / macs:.2f}" if macs else "-"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"
