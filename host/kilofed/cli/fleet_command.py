"""`kilofed fleet`: kilofed.fleet.Fleet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kilofed.cli.common import (
    NEW_FOLDER,
    common_options,
    fleet_option,
    json_option,
    print_json,
    print_table,
)
from kilofed.cli.devices_command import ago, link_of

if TYPE_CHECKING:
    from kilofed.fleet import Device, Fleet

NAMES = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group("fleet", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Name, group and revoke devices, and replace their keys.

    NAME is a device's name or id. Keys are never shown; the register that holds them is readable by its owner
    alone.

    \b
    Example:
      kilofed fleet list
      kilofed fleet rotate kitchen --target 127.0.0.1:43211
      kilofed fleet revoke attic
    """


def _open(path: Path | None) -> Fleet:
    from kilofed.fleet import Fleet, default_path

    fleet = Fleet(path or default_path())
    if fleet.warning:
        click.echo(f"warning: {fleet.warning}", err=True)
    return fleet


def _facts(device: Device) -> dict[str, Any]:
    """What may be shown of a device: everything but its keys."""
    return {
        "id": device.hex,
        "name": device.name,
        "board": device.board,
        "group": device.group,
        "link": link_of(device),
        "created": device.created,
        "last_seen": device.last_seen,
        "revoked": device.revoked,
        "new_key_waits": device.next_key is not None,
    }


def _each(
    names: tuple[str, ...],
    path: Path | None,
    as_json: bool,
    change: Callable[[Fleet, str], Device],
    said: str,
) -> None:
    """Changes each device named, all or none of them known, and says so."""
    with _open(path) as fleet:
        for name in names:
            fleet.find(name)
        changed = [change(fleet, name) for name in names]
    if as_json:
        print_json([_facts(device) for device in changed])
        return
    for device in changed:
        click.echo(f"{device.name} ({device.hex}): {said}")


@command.command("list")
@click.option("--group", default=None, help="Only the devices of this group.")
@fleet_option
@json_option
@common_options
def list_(group: str | None, fleet_path: Path | None, as_json: bool) -> None:
    """List the devices, their groups, and how they speak with this host.

    \b
    Example:
      kilofed fleet list --group kitchen
    """
    with _open(fleet_path) as fleet:
        devices = [d for d in fleet.all() if group is None or d.group == group]
    if as_json:
        print_json([_facts(device) for device in devices])
        return
    if not devices:
        click.echo(
            "no such devices: `kilofed flash` registers a board, `kilofed pi` a Linux device", err=True
        )
        return
    print_table(
        ("name", "group", "board", "id", "link", "last seen"),
        [(d.name, d.group or "-", d.board, d.hex, link_of(d), ago(d.last_seen)) for d in devices],
    )


@command.command("enroll")
@click.argument("name", metavar="NAME")
@click.option("--board", default="pi", show_default=True, help="What it is, for the list.")
@click.option("--replace", is_flag=True, help="Give the name to it if another device has it.")
@fleet_option
@json_option
@common_options
def enroll(name: str, board: str, replace: bool, fleet_path: Path | None, as_json: bool) -> None:
    """Show a one-time code by which a Linux device joins.

    Give it to kilofed-pi within an hour: it makes id and key of it, and in its first session a key that
    nobody has seen, which it keeps in its settings page. The code is void once that key was used. Boards are
    flashed instead.

    \b
    Example:
      kilofed fleet enroll attic
    """
    import dataclasses

    from kilofed.enrol import identity_of, new_code
    from kilofed.fleet import ENROL_SECONDS, new_identity

    code = new_code()
    device_id, key = identity_of(code)
    device = dataclasses.replace(new_identity(name, board, device_id=device_id), key=key, enrolling=True)
    with _open(fleet_path) as fleet:
        fleet.add(device, replace=replace)
    if as_json:
        print_json({**_facts(device), "code": code})
        return
    click.echo(code)
    click.echo(
        f"good for {ENROL_SECONDS / 60:.0f} minutes and one device:"
        " kilofed-pi --enroll CODE --settings FILE ...",
        err=True,
    )


@command.command("rotate")
@click.argument("name", metavar="NAME")
@click.option("--target", default=None, help="Write it into the board at this HOST:PORT of a GDB server.")
@click.option("--out", type=NEW_FOLDER, default=None, help="Write it into the folder of a Linux device.")
@fleet_option
@json_option
@common_options
def rotate(name: str, target: str | None, out: Path | None, fleet_path: Path | None, as_json: bool) -> None:
    """Replace the key of a device.

    The new key is written into the board's settings page (--target; nothing else of the board changes) or
    into a Linux device's folder (--out, to be copied to the device; start kilofed-pi again with it). The old
    key stays good until the device has used the new one; then it is void. Boards take a key over their
    programmer only, never over the line.

    \b
    Example:
      kilofed fleet rotate kitchen --target 127.0.0.1:43211
      kilofed fleet rotate attic --out attic
    """
    from kilofed import linux
    from kilofed.boards import Identity, load, settings
    from kilofed.boards.elf import Segment
    from kilofed.boards.flash import program
    from kilofed.cli.usage import WrongUsage

    if (target is None) == (out is None):
        raise WrongUsage(
            "the new key has to be brought to the device",
            "give --target for a board, --out for a Linux device",
        )
    with _open(fleet_path) as fleet:
        device = fleet.rotate(name)
        key = device.next_key
        assert key is not None
        page = settings.encode(Identity(device.id, key, device.name))
        if target is not None:
            board = load(device.board)
            program(board, [Segment(board.settings_address, page)], target)
        else:
            assert out is not None
            linux.write_page(out, page)
    if as_json:
        print_json(_facts(device))
    else:
        click.echo(
            f"{device.name} ({device.hex}): its new key is written; the old one is void once it was used"
        )


@command.command("revoke")
@NAMES
@fleet_option
@json_option
@common_options
def revoke(names: tuple[str, ...], fleet_path: Path | None, as_json: bool) -> None:
    """Let devices in no more, and forget their keys.

    A run that is going on turns them away at their next session. `kilofed devices --remove` forgets a device
    altogether; flashing it again gives it a new identity.

    \b
    Example:
      kilofed fleet revoke attic
    """
    _each(names, fleet_path, as_json, lambda fleet, name: fleet.revoke(name), "revoked; its key is forgotten")


@command.command("rename")
@click.argument("name", metavar="NAME")
@click.argument("new", metavar="NEW")
@fleet_option
@json_option
@common_options
def rename(name: str, new: str, fleet_path: Path | None, as_json: bool) -> None:
    """Call a device otherwise, on this host.

    The name in the device's own settings page stays until it is flashed or rotated.

    \b
    Example:
      kilofed fleet rename kitchen pantry
    """
    _each((name,), fleet_path, as_json, lambda fleet, known: fleet.rename(known, new), f"was {name}")


@command.command("group")
@NAMES
@click.option("--to", "group", required=True, help='The group; "" takes devices out of theirs.')
@fleet_option
@json_option
@common_options
def group_(names: tuple[str, ...], group: str, fleet_path: Path | None, as_json: bool) -> None:
    """Put devices into a group of your making.

    \b
    Example:
      kilofed fleet group kitchen pantry --to "ground floor"
    """
    said = f"in {group}" if group else "in no group"
    _each(names, fleet_path, as_json, lambda fleet, name: fleet.group(name, group), said)
