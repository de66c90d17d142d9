"""`kilofed convert`: kilofed_tools.convert.convert and kilofed_tools.adapt.adapt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kilofed.cli.common import (
    FILE,
    NEW_FILE,
    common_options,
    json_option,
    print_json,
    read_file,
    write_file,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@click.command("convert")
@click.argument("source", metavar="SOURCE", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--data",
    type=FILE,
    default=None,
    help="Representative inputs [N, ...]: an .npy, or an .npz with `inputs`; Keras needs them.",
)
@click.option("--labels", default=None, help="Names of the classes, separated by commas.")
@click.option("--lr", type=float, default=None, help="Learning rate the model is to carry.")
@click.option("--batch", type=click.IntRange(1, 256), default=None, help="Samples a training step.")
@click.option("--epochs", type=click.IntRange(1, 255), default=None, help="Local epochs a round.")
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
    names = [label.strip() for label in labels.split(",")] if labels else None
    inputs = None if data is None else _inputs(data)
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
        from kilofed_tools.convert import convert

        if inputs is None:
            raise click.UsageError(
                "--data is needed: some hundred real inputs fix the ranges of the activations"
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


def _inputs(path: Path) -> NDArray[Any]:
    import numpy as np

    from kilofed_tools.errors import DataError

    form = "give an .npy of inputs [N, ...], or an .npz with `inputs`"
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as arrays:
            if "inputs" not in arrays.files:
                raise DataError(f"{path.name} has no `inputs`", form)
            found: NDArray[Any] = arrays["inputs"]
            return found
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read ({error})", form) from error


def _quantized(model: bytes, inputs: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    from kilofed_tools.convert import quantize_input

    return inputs if inputs.dtype == np.int8 else quantize_input(model, inputs)
