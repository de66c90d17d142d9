"""`kilofed flash`: kilofed.boards.build, kilofed.boards.flash and kilofed.fleet.Fleet."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    print_table,
    read_file,
    replace_option,
)
from kilofed.cli.usage import WrongUsage

if TYPE_CHECKING:
    from kilofed.boards.flash import Step


@click.command("flash")
@board_option("What it is, a name of `kilofed boards`.", required=True)
@click.option(
    "--target",
    default=None,
    help="Where it is: HOST:PORT of its GDB server, as `kilofed emulate` prints it, or the folder of the"
    " volume that it shows (a Pico with BOOTSEL held).",
)
@click.option("--plan", "only_plan", is_flag=True, help="Print the steps, and do none of them.")
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
    board_name: str, target: str | None, only_plan: bool, link: str, host: str | None, address: str | None,
    gateway: str | None, name: str, replace: bool, insecure: bool, model: Path | None,
    fleet_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Load firmware, model and identity into a board and register it.

    Builds the image if that was not done, writes and verifies it, and gives the board a fresh identity and
    key in its settings page. The device is registered once the board holds it. Without --model it is the
    digits model. A board whose flashing was interrupted says nothing on its line: run the command again.

    \b
    Example:
      kilofed flash --board microbit --target 127.0.0.1:43211 --name kitchen
      kilofed flash --board mps2-an386 --target 127.0.0.1:43211 --name a --link ethernet --host 10.0.2.2:7300
      kilofed flash --board microbit --name kitchen --plan
      kilofed flash --board pico --target /media/me/RPI-RP2 --name hall
    """
    from kilofed.boards import Identity, build, flash, load
    from kilofed.boards.fit import pool_bytes
    from kilofed.boards.flash import check_target, is_volume, plan
    from kilofed.boards.network import parse
    from kilofed.boards.volume import found
    from kilofed.errors import FleetError
    from kilofed.fleet import NO_KEY, Fleet, default_path, new_identity
    from kilofed.samples import digits_model_path

    if target is None and not only_plan and (volumes := found()):
        raise WrongUsage(
            "nothing says where the board is",
            f"give --target; a bootloader shows {', '.join(map(str, volumes))}",
        )
    if target is None and not only_plan:
        raise WrongUsage(
            "nothing says where the board is", "give --target, or --plan to see what would be done"
        )
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
    path = model or digits_model_path()
    if only_plan:
        image = build(board, path, progress=lambda text: click.echo(text, err=True))
        _show(
            plan(board, image, Identity(device.id, device.key, device.name), network, target=target or ""),
            as_json,
        )
        return
    assert target is not None
    with Fleet(fleet_path or default_path()) as fleet:
        if not replace and any(known.name == name for known in fleet.all()):
            raise FleetError(
                f"a device named {name} is registered already",
                "choose another --name, or give --replace",
                device=name,
            )
        pool_bytes(board, read_file(path))  # a bad file is said first, then a bad target, then it takes time
        check_target(board, target)
        image = build(board, path, progress=lambda text: click.echo(text, err=True))
        with _progress() as progress:
            written = flash(
                board,
                image,
                Identity(device.id, device.key, device.name),
                target,
                network=network,
                progress=progress,
                notice=lambda text: click.echo(f"note: {text}", err=True),
            )
        fleet.add(device, replace=replace)
    if as_json:
        print_json({"id": device.hex, "name": device.name, "board": board.name, "bytes": written})
    else:
        how = "copied to the volume of" if is_volume(target) else "written and verified on"
        click.echo(f"{device.name} ({device.hex}): {written} bytes {how} the {board.name}")


def _show(steps: Sequence[Step], as_json: bool) -> None:
    if as_json:
        print_json([dataclasses.asdict(step) for step in steps])
        return
    print_table(
        ("step", "do", "at", "bytes", "what"),
        [
            (
                number, step.action, "-" if step.address is None else f"{step.address:#010x}",
                "-" if step.bytes is None else step.bytes, step.what,
            )
            for number, step in enumerate(steps, 1)
        ],
    )  # fmt: skip


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar where this is a terminal: written and read back are the same bytes twice."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description:>6}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("write", total=None)
        yield lambda step, done, total: bars.update(task, description=step, completed=done, total=total)
