"""`kilofed report`: kilofed.report.report, kilofed.display.show_report, kilofed.page.write_page."""

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
    shown,
)


@click.command("report")
@run_argument
@click.option(
    "--out", type=NEW_FILE, default=None, help="Where to write the page.  [default: RUN/report.html]"
)
@click.option(
    "--tensorboard",
    type=NEW_FOLDER,
    default=None,
    metavar="DIR",
    help="Write the run's curves as TensorBoard event files too, below this folder.",
)
@json_option
@common_options
def command(run_folder: Path, out: Path | None, tensorboard: Path | None, as_json: bool) -> None:
    """Print the figures of a run, and write them as a page.

    RUN is its folder; the run may still be going on. The page is one HTML file with every plot in it: curves,
    devices, what is confused, what was dropped and why, memory. With --json, figures go to stdout (accuracies
    are fractions, sizes are bytes on the wire) and a page is written only when --out asks for it.

    \b
    Example:
      kilofed report build/demo
      kilofed report build/demo --json
    """
    from kilofed.display import show_report
    from kilofed.page import write_page
    from kilofed.report import report
    from kilofed.store import open_run
    from kilofed.tensorboard import write_events

    figures = report(run_folder)
    if as_json:
        print_json(figures)
    else:
        show_report(figures)
    if tensorboard is not None:
        with open_run(run_folder) as run:
            write_events(run, tensorboard)
        click.echo(f"events: tensorboard --logdir {shown(tensorboard)}", err=as_json)
    if out is not None or not as_json:
        click.echo(f"page:   {shown(write_page(run_folder, out))}", err=as_json)
