"""`kilofed watch`: kilofed.watch.follow, shown by a kilofed.display."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kilofed.cli.common import NEW_FOLDER, common_options, json_option


@click.command("watch")
@click.argument("run_folder", metavar="RUN", type=NEW_FOLDER)
@json_option
@common_options
def command(run_folder: Path, as_json: bool) -> None:
    """Follow a run that another process runs.

    RUN is its folder. First come the rounds there have been, then the others as they end, with a table of
    what each device is doing when this is a terminal; it ends with the run. With --json every event is an
    object on a line of its own. The run does not notice that it is watched.

    \b
    Example:
      kilofed watch build/demo
    """
    from kilofed.display import make_display
    from kilofed.watch import follow

    with make_display(sys.stdout, json_lines=as_json) as display:
        for event in follow(run_folder):
            display(event)
