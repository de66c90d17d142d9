"""`kilofed eval`: kilofed_tools.evaluate.accuracy on the digits' test set or on samples of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import (
    FILE,
    common_options,
    data_option,
    json_option,
    print_json,
    read_file,
)


@click.command("eval")
@click.argument("model", metavar="MODEL", type=FILE)
@data_option("An .npz with `inputs` [N, ...] and `labels` [N].  [default: 1000 held-out digits]")
@click.option("--fast", is_flag=True, help="The runtime's fast kernels, not the boards' bytes.")
@json_option
@common_options
def command(model: Path, data: Path | None, fast: bool, as_json: bool) -> None:  # fmt: skip
    """Measure a model's accuracy.

    The whole .tflite runs under the TFLite runtime, so the figure is that of the file. Inputs may be int8, as
    the model takes them, or floats, which are quantized first.

    \b
    Example:
      kilofed eval build/demo/model.tflite
    """
    from kilofed.samples import check_digits, digits_test, load_samples
    from kilofed_tools import evaluate

    content = read_file(model)
    if data is None:
        check_digits(content)
    samples = digits_test() if data is None else load_samples(data, content)
    accuracy = evaluate.accuracy(content, samples.inputs, samples.labels, fast=fast)
    right = round(accuracy * len(samples))
    if as_json:
        print_json({"accuracy": accuracy, "right": right, "samples": len(samples)})
    else:
        click.echo(f"{100 * accuracy:.1f} % ({right} of {len(samples)})")
