"""`kilofed bench`: kilofed.profiling.figures.measure."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import FILE, common_options, json_option, print_json, print_table, read_file

CORES = ("m0", "m3", "m4f", "m7", "m33", "m55")  # kilofed.profiling.engine.CORES, which takes long to load


@click.command("bench")
@click.argument("model", metavar="MODEL", type=FILE)
@click.option(
    "--core",
    "cores",
    type=click.Choice(CORES),
    multiple=True,
    help="A Cortex-M core; may be given more than once.  [default: all]",
)
@json_option
@common_options
def command(model: Path, cores: tuple[str, ...], as_json: bool) -> None:
    """Measure what one inference takes on each core.

    The figures are those of `make bench`: exact instructions, modelled cycles, RAM (arena, the engine's
    state, and stack beyond 1 KB), and flash of the engine without the model. Outputs are compared with TFLite
    Micro's, byte for byte, where its wheel is installed. MODEL is any int8 .tflite that the engine takes.
    With --json, one core is an object, several are a list.

    \b
    Example:
      kilofed bench models/digits/digits.tflite --core m4f --json
    """
    from kilofed.profiling import engine, figures

    content = read_file(model)
    found = [
        figures.measure(content, engine.core(name), progress=lambda text: click.echo(text, err=True))
        for name in cores or CORES
    ]
    if as_json:
        rows = [measured.as_json() for measured in found]
        print_json(rows[0] if len(cores) == 1 else rows)
        return
    print_table(
        ("core", "instructions", "a MAC", "cycles", "RAM B", "stack B", "flash B"),
        [
            (
                measured.core.name,
                measured.run.instructions,
                f"{measured.run.instructions / max(1, measured.run.macs):.2f}",
                measured.cycles,
                measured.run.arena,
                measured.run.stack,
                measured.run.flash,
            )
            for measured in found
        ],
    )
    for note in dict.fromkeys(measured.note or "outputs equal TFLite Micro's" for measured in found):
        click.echo(note, err=True)
