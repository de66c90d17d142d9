"""`kilofed decode`: kilofed.capture.read_capture, and a kilofed.link.tap.Tap for each line."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kilofed.cli.common import FILE, common_options, json_option

if TYPE_CHECKING:
    from kilofed.link.tap import Seen


@click.command("decode")
@click.argument("file", type=FILE)
@click.option(
    "--fleet",
    "fleet_path",
    type=FILE,
    default=None,
    help="A register with the devices' keys: encrypted frames are read with them.",
)
@json_option
@common_options
def command(file: Path, fleet_path: Path | None, as_json: bool) -> None:
    """Show what a capture holds, frame by frame.

    FILE is what --capture wrote: each line of the output is a frame with its number, message and fields, or
    stray bytes with the reason why they are none. A capture that was cut, or is still written, is read to its
    last whole block. With --json each is an object on a line of its own; firmware/PROTOCOL.md has the words.

    \b
    Example:
      kilofed decode build/one.pcapng
      kilofed decode build/one.pcapng --fleet build/one/fleet.sqlite
    """
    from kilofed.capture import read_capture
    from kilofed.fleet import Fleet
    from kilofed.link.tap import Tap

    with contextlib.ExitStack() as stack:
        fleet = None if fleet_path is None else stack.enter_context(Fleet(fleet_path))
        taps: dict[str, Tap] = {}
        at = 0.0
        cut: list[int] = []
        for packet in read_capture(file, on_cut=cut.append):
            at = packet.at
            tap = taps.get(packet.line)
            if tap is None:
                tap = taps[packet.line] = Tap() if fleet is None else Tap(fleet.keys)
            for seen in tap.feed(packet.at, packet.up, packet.data):
                show(packet.line, seen, as_json=as_json)
        for line, tap in taps.items():
            for seen in tap.rest(at):
                show(line, seen, as_json=as_json)
    if cut:
        click.echo(f"the last block is cut: {cut[0]} bytes of it were left out", err=True)


def show(line: str, seen: Seen, *, as_json: bool) -> None:
    """One frame, or stray bytes, on a line of its own."""
    click.echo(json.dumps({"line": line, **seen.as_json()}) if as_json else line_of(line, seen))


def line_of(line: str, seen: Seen) -> str:
    """A frame as people read it: time, line, direction, what it is."""
    whole, part = divmod(round(seen.at * 1e6), 1_000_000)
    clock = time.strftime("%H:%M:%S", time.localtime(whole % (1 << 36)))
    return f"{clock}.{part:06d} {line} {'up  ' if seen.up else 'down'} {seen.text}"
