"""`kilofed cut`: kilofed_tools.cut."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import NEW_FILE, common_options, json_option, print_json, read_file, write_file
from kilofed.cli.usage import WrongUsage

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("cut")
@click.argument("model", metavar="MODEL", type=FILE)
@click.option("--backbone", type=NEW_FILE, help="Write what comes before the head: int8 features out.")
@click.option("--head", type=NEW_FILE, help="Write the head as a device model: features in.")
@click.option("--join", "trained", type=FILE, help="A head that was cut from MODEL and trained: put it back.")
@click.option("--out", type=NEW_FILE, help="Where --join writes the whole model.")
@json_option
@common_options
def command(
    model: Path, backbone: Path | None, head: Path | None, trained: Path | None, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Part a model for a device whose backbone another engine runs.

    That engine computes the features from the backbone's file; kilofed has the head's, which is what is
    flashed and what a run is given. --join puts the head of a finished run back into the whole model.

    \b
    Example:
      kilofed cut digits.tflite --backbone backbone.tflite --head head.tflite
      kilofed cut digits.tflite --join run/model.tflite --out trained.tflite
    """
    from kilofed_tools import cut

    if backbone is None and head is None and trained is None:
        raise WrongUsage("nothing to write", "give --backbone, --head or both, or --join")
    if (trained is None) != (out is None):
        raise WrongUsage("--join and --out belong together", "give both or neither")
    data = read_file(model)
    made = {}
    if backbone is not None:
        made[backbone] = ("the backbone", cut.backbone(data))
    if head is not None:
        made[head] = ("the head", cut.head(data))
    if trained is not None and out is not None:
        made[out] = (f"{model.name} with the head of {trained.name}", cut.join(data, read_file(trained)))
    for path, (_, part) in made.items():
        write_file(path, part)
    if as_json:
        print_json(
            [{"out": str(path), "what": what, "bytes": len(part)} for path, (what, part) in made.items()]
        )
        return
    for path, (what, part) in made.items():
        click.echo(f"{path}: {what}, {len(part)} bytes")
