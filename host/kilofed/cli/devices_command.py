"""`kilofed devices`: kilofed.fleet.Fleet."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kilofed.cli.common import common_options, fleet_option, json_option, print_json, print_table

if TYPE_CHECKING:
    from kilofed.fleet import Device

CLEAR = "in the clear"


@click.command("devices")
@click.option(
    "--remove", metavar="NAME", multiple=True, help="Forget this device and its key; a name or an id."
)
@click.option("--ports", is_flag=True, help="List the serial ports of this machine instead.")
@fleet_option
@json_option
@common_options
def command(remove: tuple[str, ...], ports: bool, fleet_path: Path | None, as_json: bool) -> None:
    """List the devices this host knows, or forget one.

    Devices are registered by `kilofed flash`, Linux devices by `kilofed pi`. Keys are never shown; `kilofed
    fleet` replaces and revokes them.

    \b
    Example:
      kilofed devices --remove kitchen
    """
    if ports:
        _show_ports(as_json)
        return
    from kilofed.fleet import Fleet, default_path

    with Fleet(fleet_path or default_path()) as fleet:
        for name in remove:
            gone = fleet.remove(name)
            click.echo(f"forgot {gone.name} ({gone.hex})", err=True)
        devices = fleet.all()
        if fleet.warning:
            click.echo(f"warning: {fleet.warning}", err=True)
    if as_json:
        print_json(
            [
                {
                    "id": d.hex,
                    "name": d.name,
                    "board": d.board,
                    "created": d.created,
                    "last_seen": d.last_seen,
                    "encrypted": d.encrypted,
                    "revoked": d.revoked,
                    "group": d.group,
                }
                for d in devices
            ]
        )
        return
    if not devices:
        click.echo("no devices yet: `kilofed flash` registers a board, `kilofed pi` a Linux device", err=True)
        return
    print_table(
        ("name", "board", "id", "link", "last seen"),
        [(d.name, d.board, d.hex, link_of(d), ago(d.last_seen)) for d in devices],
    )
    if any(link_of(d) == CLEAR for d in devices):
        click.echo(
            f"WARNING: {CLEAR} means that anybody on the line can read and change what is said", err=True
        )


def _show_ports(as_json: bool) -> None:
    from serial.tools import list_ports

    found = sorted((p.device, p.description or "", p.manufacturer or "") for p in list_ports.comports())
    if as_json:
        print_json([dict(zip(("port", "description", "maker"), row, strict=True)) for row in found])
    elif found:
        print_table(("port", "description", "maker"), found)
    else:
        click.echo("no serial ports: plug a board in", err=True)


def link_of(device: Device) -> str:
    """How a device speaks with this host, in a word or two."""
    if device.revoked is not None:
        return "revoked"
    if device.enrolling and not device.keys:
        return "code expired"
    if not device.keys or device.encrypted is False:
        return CLEAR
    if device.enrolling:
        return "code waits"
    return "new key waits" if device.next_key is not None else "encrypted"


def ago(then: float | None) -> str:
    """How long ago a Unix time was, in its largest unit; "never" for None."""
    if then is None:
        return "never"
    seconds = max(0.0, time.time() - then)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
