"""`kilofed report`: kilofed.report.report and kilofed.display.show_report."""

from __future__ import annotations

from pathlib import Path

import click

from kilofed.cli.common import NEW_FOLDER, common_options, json_option, print_json


@click.command("report")
@click.argument("run_folder", metavar="RUN", type=NEW_FOLDER)
@json_option
@common_options
def command(run_folder: Path, as_json: bool) -> None:
    """Print the figures of a run.

    RUN is its folder; the run may still be going on. Accuracies are fractions in JSON, and sizes are bytes on
    the wire.

    \b
    Example:
      kilofed report build/demo --json
    """
    from kilofed.display import show_report
    from kilofed.report import report

    figures = report(run_folder)
    if as_json:
        print_json(figures)
    else:
        show_report(figures)
