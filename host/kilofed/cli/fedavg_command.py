"""`kilofed fedavg`: kilofed.rounds.globalmodel.GlobalModel and kilofed_tools.strategies.FedAvg, on files."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import (
    FILE,
    NEW_FILE,
    common_options,
    json_option,
    model_option,
    print_json,
    read_file,
    write_file,
)


@click.command("fedavg")
@model_option(required=True)
@click.option(
    "--update",
    "updates",
    type=(FILE, int),
    multiple=True,
    required=True,
    metavar="FILE SAMPLES",
    help="What a device sent and the number of samples behind it, once for each device.",
)
@click.option(
    "--ring",
    type=click.IntRange(1, 65_535),
    default=None,
    help="Most samples a device can have; larger numbers are clamped to it.",
)
@click.option("--out", type=NEW_FILE, required=True, help="Where to write the new .tflite.")
@json_option
@common_options
def command(
    model: Path, updates: tuple[tuple[Path, int], ...], ring: int | None, out: Path, as_json: bool
) -> None:  # fmt: skip
    """Average update files into a model, without any device.

    A file is an update blob, a head blob, or a whole .tflite that began as --model: then what it changed is
    taken. The sums are exact integers: the order changes no bit. `kilofed export RUN --updates FOLDER` writes
    the updates of a round; a run averages them into a head finer than the int8 one of its file, so a few
    weights may differ by one step from that round's model.

    \b
    Example:
      kilofed fedavg --model base.tflite --update anna.update 64 --update bert.update 160 --out new.tflite
      kilofed fedavg --model base.tflite --update anna.tflite 64 --update bert.tflite 160 --out new.tflite
    """
    from kilofed.rounds.globalmodel import GlobalModel
    from kilofed_tools.contributions import read_contribution

    base = read_file(model)
    trained = GlobalModel(base)
    average = trained.average()
    for path, samples in updates:
        average.add(read_contribution(read_file(path), base, path.stem), samples, ring)
    trained.apply(average)
    write_file(out, trained.export())
    for note in average.notes:
        click.echo(note, err=True)
    if as_json:
        print_json(
            {
                "out": str(out),
                "updates": len(average.names),
                "samples": average.total_weight,
                "step": trained.head.step,
                "notes": average.notes,
            }
        )
    else:
        click.echo(f"{out}: {len(average.names)} updates from {average.total_weight} samples averaged")
