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
    model_option,
    name_option,
    print_json,
    read_file,
    replace_option,
)


@click.command("flash")
@board_option("What it is, a name of `kilofed boards`.", required=True)
@click.option(
    "--target",
    required=True,
    help="Where it is: HOST:PORT of its GDB server, as `kilofed emulate` prints it.",
)
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
    board_name: str, target: str, name: str, replace: bool, insecure: bool, model: Path | None,
    fleet_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Load firmware, model and identity into a board and register it.

    Builds the image if that was not done, writes and verifies it, and gives the board a fresh identity and
    key in its settings page. The device is registered once the board holds it. Without --model it is the
    digits model.

    \b
    Example:
      kilofed flash --board microbit --target 127.0.0.1:43211 --name kitchen
    """
    from kilofed.boards import Identity, build, flash, load
    from kilofed.boards.fit import pool_bytes
    from kilofed.boards.flash import check_target
    from kilofed.errors import FleetError
    from kilofed.fleet import NO_KEY, Fleet, default_path, new_identity
    from kilofed.samples import digits_model_path

    board = load(board_name)
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
        written = flash(board, image, Identity(device.id, device.key, device.name), target)
        fleet.add(device, replace=replace)
    if as_json:
        print_json({"id": device.hex, "name": device.name, "board": board.name, "bytes": written})
    else:
        click.echo(f"{device.name} ({device.hex}): {written} bytes written to the {board.name} and verified")
