"""`kilofed compare`: kilofed_tools.compare.compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kilofed.cli.common import (
    FILE,
    common_options,
    data_option,
    json_option,
    print_json,
    print_table,
    read_file,
    read_inputs,
    seed_option,
)

if TYPE_CHECKING:
    from kilofed_tools.compare import Comparison, Difference, Layer


@click.command("compare")
@click.argument("first", metavar="FIRST", type=FILE)
@click.argument("second", metavar="SECOND", type=FILE)
@data_option("Inputs [N, ...] to run, an .npy, or an .npz with `inputs`.  [default: noise]")
@click.option(
    "--samples",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Samples of noise, or at most so many of --data.",
)
@seed_option("Of the noise.")
@json_option
@common_options
def command(first: Path, second: Path, data: Path | None, samples: int, seed: int, as_json: bool) -> None:
    """Say whether two models give the same outputs, and where not.

    Runs both .tflite on the same inputs and lays them side by side, layer by layer: weights, and what comes
    out of each operator. A float model and its int8 version can be compared; differences are then counted
    in steps of the quantization. The exit status is 1 when the outputs differ.

    \b
    Example:
      kilofed compare digits.tflite build/demo/model.tflite
    """
    from kilofed_tools.compare import compare

    inputs = None if data is None else read_inputs(data)[:samples]
    found = compare(read_file(first), read_file(second), inputs, count=samples, seed=seed)
    if as_json:
        print_json(found.as_json())
    else:
        _show(found)
    if not found.same:
        raise click.exceptions.Exit(1)


def _show(found: Comparison) -> None:
    of = f"{found.samples} samples{' of noise' if found.noise else ''}"
    if found.same_file:
        click.echo("the same file, byte for byte")
    elif found.same:
        click.echo(f"the same outputs for {of}")
    else:
        click.echo(f"different outputs for {found.differing} of {of}: {_said(found.output)}")
        if found.disagreeing:
            more = ", ..." if found.disagreeing > len(found.named) else ""
            named = ", ".join(map(str, found.named)) + more
            click.echo(f"another class for {found.disagreeing} of them: sample {named}")
        else:
            click.echo("the class is the same for all of them")
    if found.first is None:
        return
    click.echo()
    rows = [
        (_number(layer.a), _number(layer.b), layer.name, "x".join(map(str, layer.shape)),
         {None: "-", True: "same", False: "differ"}[layer.constants], _output(layer))
        for layer in found.layers
    ]  # fmt: skip
    print_table(("first", "second", "operator", "output", "constants", "outputs"), rows)
    click.echo()
    click.echo(f"they part at {found.first.name}, {_where(found.first)}")


def _number(index: int | None) -> str:
    return "-" if index is None else str(index)


def _where(layer: Layer) -> str:
    if layer.b is None:
        return f"operator {layer.a} of the first, which the second has not"
    if layer.a is None:
        return f"operator {layer.b} of the second, which the first has not"
    return f"operator {layer.a} of the first"


def _output(layer: Layer) -> str:
    if layer.output is None:
        return "-"
    return "same" if layer.output.same else _said(layer.output)


def _said(difference: Difference) -> str:
    steps = difference.steps
    by = f"{difference.largest:.3g}" if steps is None else f"{steps:.3g} {'step' if steps == 1 else 'steps'}"
    return f"{100 * difference.share:.3g} % of the values, by {by} at most"
