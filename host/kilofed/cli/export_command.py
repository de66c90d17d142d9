"""`kilofed export`: checkpoints and update blobs of kilofed.store.Run."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import (
    NEW_FILE,
    NEW_FOLDER,
    common_options,
    json_option,
    print_json,
    run_argument,
    write_file,
)
from kilofed.cli.usage import WrongUsage


@click.command("export")
@run_argument
@click.option(
    "--round",
    "number",
    type=click.IntRange(0),
    default=None,
    help="The model after this round; 0 is the model before the first.  [default: the newest]",
)
@click.option("--out", type=NEW_FILE, default=None, help="Where to write the .tflite.")
@click.option("--updates", type=NEW_FOLDER, default=None, help="Where to write the round's update blobs.")
@json_option
@common_options
def command(
    run_folder: Path, number: int | None, out: Path | None, updates: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Take the model of a round out of a run folder.

    \b
    Example:
      kilofed export build/demo --round 5 --out early.tflite
    """
    from kilofed.store import open_run

    if out is None and updates is None:
        raise WrongUsage("nothing to write", "give --out, --updates or both")
    with open_run(run_folder) as run:
        wanted = run.last_round if number is None else number
        model = run.model_of(wanted)
        blobs = {d.name: d for r in run.rounds() if r.number == wanted for d in r.taken if d.update}
    written = []
    if out is not None:
        write_file(out, model)
    if updates is not None:
        for name, part in blobs.items():
            assert part.update is not None
            path = updates / f"{name}.update"
            write_file(path, part.update)
            written.append({"device": name, "samples": part.samples, "out": str(path)})
    if as_json:
        print_json({"round": wanted, "bytes": len(model), "out": out and str(out), "updates": written})
        return
    if out is not None:
        click.echo(f"{out}: the model after round {wanted}, {len(model)} bytes")
    for row in written:
        click.echo(f"{row['out']}: the update of {row['device']}, from {row['samples']} samples")
    if updates is not None and not written:
        click.echo(f"no updates of round {wanted} were kept", err=True)
