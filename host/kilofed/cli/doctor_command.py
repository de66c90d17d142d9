"""`kilofed doctor`: kilofed.doctor.examine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kilofed.cli.common import common_options, fleet_option, json_option, print_json

if TYPE_CHECKING:
    from kilofed.doctor import Finding

_MARKS = {"ok": "ok", "optional": "-", "broken": "BROKEN"}


@click.command("doctor")
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="URL",
    help="Look at this port and its board only; it is opened, which resets some boards.",
)
@click.option(
    "--baud", type=click.IntRange(1200, 4_000_000), default=115200, show_default=True, help="Of --port."
)
@fleet_option
@json_option
@common_options
def command(ports: tuple[str, ...], baud: int, fleet_path: Path | None, as_json: bool) -> None:
    """Say what is missing on this machine, and how to get it.

    Looks at Python and its packages, the TFLite runtime, compilers, QEMU, serial ports and their permissions,
    USB drivers, the disk and the register of devices. Changes nothing. Each problem comes with one next step;
    the exit status is 1 when something is broken.

    With --port it says why a board does not join: no port, no right to it, another program on it, another
    baud rate, no firmware or another one, no settings page, another key.

    \b
    Example:
      kilofed doctor
      kilofed doctor --port /dev/ttyACM0
    """
    from kilofed.doctor import examine

    findings = _ports(ports, baud, fleet_path) if ports else examine()
    broken = sum(finding.state == "broken" for finding in findings)
    if as_json:
        print_json({"broken": broken, "findings": [finding.as_json() for finding in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark = _MARKS[finding.state]
            click.echo(f"{mark:<6}  {finding.name:<{width}}  {finding.found}")
            if finding.next_step:
                reason = f" (for {finding.needed_for})" if finding.needed_for else ""
                click.echo(f"{'':<6}  {'':<{width}}  next: {finding.next_step}{reason}")
        click.echo(f"{broken} broken" if broken else "nothing is broken", err=True)
    if broken:
        raise click.exceptions.Exit(1)


def _ports(ports: tuple[str, ...], baud: int, fleet_path: Path | None) -> list[Finding]:
    from kilofed.diagnosis import diagnose, meddlers
    from kilofed.fleet import Fleet, default_path

    register = fleet_path or default_path()
    found = []
    if register.is_file():
        with Fleet(register) as fleet:
            found = [diagnose(port, keys=fleet.keys, baud=baud) for port in ports]
    else:
        found = [diagnose(port, baud=baud) for port in ports]
    return [*found, *meddlers()]
