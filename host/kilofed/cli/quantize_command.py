"""`kilofed quantize`: kilofed_tools.quantize.quantize."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import (
    FILE,
    NEW_FILE,
    common_options,
    data_option,
    json_option,
    label_names,
    model_defaults_options,
    print_json,
    read_inputs_and_labels,
    write_file,
)


@click.command("quantize")
@click.argument("source", metavar="SOURCE", type=click.Path(exists=True, path_type=Path))
@data_option("Representative inputs [N, ...]: an .npy, or an .npz with `inputs`.", required=True)
@click.option(
    "--test",
    type=FILE,
    default=None,
    help="An .npz of `inputs` and `labels` to measure on.  [default: --data, if it has labels]",
)
@model_defaults_options
@click.option("--out", type=NEW_FILE, required=True, help="Where to write the device model.")
@json_option
@common_options
def command(
    source: Path, data: Path, test: Path | None, labels: str | None, lr: float | None, batch: int | None,
    epochs: int | None, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Quantize a float model, with the accuracy before and after.

    SOURCE is a .keras or .h5 file, a SavedModel folder, or a float .tflite. --data fixes the ranges of the
    activations: some hundred real inputs. What is written is a device model, as from `kilofed convert`. Needs
    TensorFlow, which runs in a process of its own (`pip install 'kilofed[convert]'`).

    \b
    Example:
      kilofed quantize gestures.keras --data train.npz --test test.npz --out gestures.tflite
    """
    from kilofed_tools.quantize import quantize

    inputs, classes = read_inputs_and_labels(data)
    rows, right = (inputs, classes) if test is None else read_inputs_and_labels(test)
    click.echo("quantizing with TensorFlow, this takes a moment", err=True)
    found = quantize(
        source,
        inputs,
        test=rows,
        test_labels=right,
        labels=label_names(labels),
        lr=lr,
        batch=batch,
        epochs=epochs,
    )
    write_file(out, found.model)
    if as_json:
        print_json(
            {
                "out": str(out),
                "bytes": len(found.model),
                "samples": found.samples,
                "before": found.before,
                "after": found.after,
                "agree": found.agree,
                "notes": list(found.notes),
            }
        )
        return
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if test is None:
        click.echo("note: measured on the representative inputs themselves; give --test for others", err=True)
    click.echo(f"{out}: {len(found.model)} bytes")
    if found.before is not None and found.after is not None:
        click.echo(f"accuracy  {_percent(found.before)} before, {_percent(found.after)} after")
    click.echo(f"the same class for {_percent(found.agree)} of {found.samples} samples")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
