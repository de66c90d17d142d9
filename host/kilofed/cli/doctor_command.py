"""`kilofed doctor`: kilofed.doctor.examine."""

from __future__ import annotations

import click

from kilofed.cli.common import common_options, json_option, print_json

_MARKS = {"ok": "ok", "optional": "-", "broken": "BROKEN"}


@click.command("doctor")
@json_option
@common_options
def command(as_json: bool) -> None:
    """Say what is missing on this machine, and how to get it.

    Looks at Python and its packages, the TFLite runtime, compilers, QEMU, serial ports and their permissions,
    USB drivers, the disk and the register of devices. Changes nothing. Each problem comes with one next step;
    the exit status is 1 when something is broken.

    \b
    Example:
      kilofed doctor
    """
    from kilofed.doctor import examine

    findings = examine()
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
