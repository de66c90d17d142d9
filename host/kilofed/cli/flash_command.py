"""`kilofed flash`: kilofed.boards.build, kilofed.boards.flash and kilofed.fleet.Fleet."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from kilofed.cli.common import (
    board_option,
    common_options,
    fleet_option,
    json_option,
    link_option,
    model_option,
    name_option,
    print_json,
    read_file,
    replace_option,
)
from kilofed.cli.usage import WrongUsage


@click.command("flash")
@board_option("What it is, a name of `kilofed boards`.", required=True)
@click.option(
    "--target",
    required=True,
    help="Where it is: HOST:PORT of its GDB server, as `kilofed emulate` prints it.",
)
@link_option("How it is to reach its host.")
@click.option(
    "--host",
    metavar="IPV4:PORT",
    default=None,
    help="Where its host listens, for --link ethernet; 10.0.2.2 is this machine to an emulated board.",
)
@click.option("--address", metavar="IPV4/BITS", default=None, help="The board's own.  [default: by DHCP]")
@click.option("--gateway", metavar="IPV4", default=None, help="Between its network and the host's.")
@name_option("What to call the device.", required=True)
@replace_option
@click.option(
    "--insecure", is_flag=True, help="Give it no key: its sessions are in the clear, for the bench."
)
@model_option()
@fleet_option
@json_option
@common_options
def command(
    board_name: str, target: str, link: str, host: str | None, address: str | None, gateway: str | None,
    name: str, replace: bool, insecure: bool, model: Path | None, fleet_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Load firmware, model and identity into a board and register it.

    Builds the image if that was not done, writes and verifies it, and gives the board a fresh identity and
    key in its settings page. The device is registered once the board holds it. Without --model it is the
    digits model. A board whose flashing was interrupted says nothing on its line: run the command again.

    \b
    Example:
      kilofed flash --board microbit --target 127.0.0.1:43211 --name kitchen
      kilofed flash --board mps2-an386 --target 127.0.0.1:43211 --name a --link ethernet --host 10.0.2.2:7300
    """
    from kilofed.boards import Identity, build, flash, load
    from kilofed.boards.fit import pool_bytes
    from kilofed.boards.flash import check_target
    from kilofed.boards.network import parse
    from kilofed.errors import FleetError
    from kilofed.fleet import NO_KEY, Fleet, default_path, new_identity
    from kilofed.samples import digits_model_path

    if (host is None) != (link == "serial"):
        raise WrongUsage(
            "a board on Ethernet must be told where its host listens, and no other is",
            "give --link ethernet and --host together",
        )
    if host is None and (address, gateway) != (None, None):
        raise WrongUsage("--address and --gateway are of a board on Ethernet", "give --link ethernet too")
    board = load(board_name, link=link)
    network = None if host is None else parse(host, address=address, gateway=gateway)
    device = new_identity(name, board.name)
    if insecure:
        device = dataclasses.replace(device, key=NO_KEY)
        click.echo(
            f"WARNING: {name} gets no key: anybody on its line can read and change what it says, and"
            " `kilofed run` takes it with --insecure only",
            err=True,
        )
    with Fleet(fleet_path or default_path()) as fleet:
        if not replace and any(known.name == name for known in fleet.all()):
            raise FleetError(
                f"a device named {name} is registered already",
                "choose another --name, or give --replace",
                device=name,
            )
        path = model or digits_model_path()
        pool_bytes(board, read_file(path))  # a bad file is said first, then a bad target, then it takes time
        check_target(board, target)
        image = build(board, path, progress=lambda text: click.echo(text, err=True))
        written = flash(
            board,
            image,
            Identity(device.id, device.key, device.name),
            target,
            network=network,
            notice=lambda text: click.echo(f"note: {text}", err=True),
        )
        fleet.add(device, replace=replace)
    if as_json:
        print_json({"id": device.hex, "name": device.name, "board": board.name, "bytes": written})
    else:
        click.echo(f"{device.name} ({device.hex}): {written} bytes written to the {board.name} and verified")
