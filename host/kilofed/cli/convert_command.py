"""`kilofed convert`: kilofed_tools.convert.convert and kilofed_tools.adapt.adapt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kilofed.cli.common import (
    NEW_FILE,
    common_options,
    data_option,
    json_option,
    label_names,
    model_defaults_options,
    print_json,
    read_file,
    read_inputs,
    write_file,
)
from kilofed.cli.usage import WrongUsage

if TYPE_CHECKING:
    from numpy.typing import NDArray


@click.command("convert")
@click.argument("source", metavar="SOURCE", type=click.Path(exists=True, path_type=Path))
@data_option("Representative inputs [N, ...]: an .npy, or an .npz with `inputs`; Keras needs them.")
@model_defaults_options
@click.option("--out", type=NEW_FILE, required=True, help="Where to write the device model.")
@json_option
@common_options
def command(
    source: Path, data: Path | None, labels: str | None, lr: float | None, batch: int | None,
    epochs: int | None, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Make a device model from Keras, a SavedModel or an int8 .tflite.

    SOURCE is a .keras or .h5 file, a SavedModel folder, or somebody's int8 .tflite. Keras needs TensorFlow,
    which runs in a process of its own (`pip install 'kilofed[convert]'`).

    \b
    Example:
      kilofed convert gestures.keras --data inputs.npy --labels wave,circle,none --out gestures.tflite
    """
    names = label_names(labels)
    inputs = None if data is None else read_inputs(data)
    if source.suffix == ".tflite":
        from kilofed_tools.adapt import adapt

        model = read_file(source)
        adapted = adapt(
            model,
            samples=None if inputs is None else _quantized(model, inputs),
            labels=names,
            lr=lr,
            batch=batch,
            epochs=epochs,
        )
    else:
        from kilofed_tools.convert import convert, source_kind

        source_kind(source)
        if inputs is None:
            raise WrongUsage(
                "a float model is quantized, and nothing says for which inputs",
                "give --data, some hundred real inputs that fix the ranges of the activations",
            )
        click.echo("converting with TensorFlow, this takes a moment", err=True)
        adapted = convert(source, inputs, labels=names, lr=lr, batch=batch, epochs=epochs)
    write_file(out, adapted.model)
    if as_json:
        print_json({"out": str(out), "bytes": len(adapted.model), "notes": list(adapted.notes)})
        return
    for note in adapted.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{out}: {len(adapted.model)} bytes")


def _quantized(model: bytes, inputs: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    from kilofed_tools.convert import quantize_input

    return inputs if inputs.dtype == np.int8 else quantize_input(model, inputs)
