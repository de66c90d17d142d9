"""`kilofed init`: kilofed.runfile.template, with the options of `kilofed run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kilofed.cli.common import NEW_FILE, common_options, model_option, read_file, shown, write_file


@click.command("init")
@click.option(
    "--out", type=NEW_FILE, default=Path("run.toml"), show_default=True, help="Where to write the settings."
)
@click.option("--replace", is_flag=True, help="Write over a file that is there.")
@model_option()
@common_options
def command(out: Path, replace: bool, model: Path | None) -> None:
    """Write a settings file for `kilofed run`, all defaults in it.

    Each setting stands under a comment that says what it means; its name is that of the option. With --model,
    the file names that model and holds its own training defaults. Paths in it count from its folder, so
    the run comes to lie beside it: that of run.toml in the folder run.

    \b
    Example:
      kilofed init --model digits.tflite
      kilofed run --config run.toml --rounds 5
    """
    from kilofed.cli.run_command import command as run
    from kilofed.cli.settings import template_of
    from kilofed.errors import ConfigError
    from kilofed.rounds.globalmodel import defaults_of

    if out.exists() and not replace:
        raise ConfigError(f"{shown(out)} is there already", "choose another --out, or give --replace")
    # The run lies beside its settings, under their name; what has no ending cannot lend its name.
    values: dict[str, Any] = {"out": out.stem if out.suffix else f"{out.name}-run"}
    if model is not None:
        values |= {"model": _from_folder_of(out, model), **defaults_of(read_file(model))}
    title = [
        f"Settings of a federated run: kilofed run --config {out.name}",
        "",
        "An option given on the command line comes before its setting here. Behind a # stands what has no",
        "value of its own; take the # away to set it. Paths count from this file's folder.",
    ]
    write_file(out, template_of(run, values, title=title).encode())
    click.echo(f"{shown(out)}: settings for `kilofed run --config {shown(out)}`")


def _from_folder_of(file: Path, path: Path) -> str:
    """`path` as the file's reader will find it: relative below the file's folder, else absolute."""
    folder, target = file.resolve().parent, path.resolve()
    return str(target.relative_to(folder)) if target.is_relative_to(folder) else str(target)
