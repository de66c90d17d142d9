"""`kilofed label`: kilofed.labelling over a line of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kilofed.cli.common import common_options, fleet_option, json_option, model_option, read_file
from kilofed.cli.run_command import ADDRESS
from kilofed.cli.usage import WrongUsage

if TYPE_CHECKING:
    from kilofed.connection import Connection
    from kilofed.fleet import Fleet
    from kilofed.labelling import Event


@click.command("label")
@model_option()
@click.option("--port", metavar="URL", help="The device's serial port, or any URL pyserial knows.")
@click.option("--listen", type=ADDRESS, metavar="HOST:PORT", help="Wait for the device here, over TCP.")
@click.option(
    "--anybody/--registered", default=False, help="Let a device in that is not registered, or do not."
)
@click.option(
    "--insecure/--encrypted", default=False, help="Take a session in the clear: for the bench only."
)
@fleet_option
@json_option
@common_options
def command(
    model: Path | None, port: str | None, listen: tuple[str, int] | None, anybody: bool, insecure: bool,
    fleet_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show what a device sees, and put labels on it.

    The device tells what it takes its newest window for. Type the right label, or its number, or nothing
    where it is right, and Enter: the window becomes a sample of the device, which keeps it. Nothing but the
    class, its score and the label crosses the line. It ends with Ctrl-D. With --json each event is an object
    on a line of its own.

    \b
    Example:
      kilofed label --model gestures.tflite --port /dev/ttyACM0
      kilofed label --model digits.tflite --listen 127.0.0.1:7600
    """
    from kilofed.fleet import Fleet, default_path
    from kilofed.samples import digits_model_path
    from kilofed_tools.heads import find_head

    if (port is None) == (listen is None):
        raise WrongUsage("a device is at a port or calls", "give --port or --listen")
    if anybody and not insecure:
        raise WrongUsage("who is not registered has no key", "give --insecure with --anybody, for the bench")
    labels = find_head(read_file(model or digits_model_path())).labels
    if not as_json:
        numbered = "  ".join(f"{number} {label}" for number, label in enumerate(labels))
        click.echo(f"labels: {numbered}\nEnter alone: it is right. Ctrl-D: done.", err=True)
    with Fleet(fleet_path or default_path()) as fleet, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_label(labels, port, listen, fleet, anybody, insecure, _Display(as_json)))


class _Display:
    """Events as lines: predictions on one that is written over where this is a terminal."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._terminal = sys.stdout.isatty()
        self._taken = 0

    def __call__(self, event: Event) -> None:
        from kilofed import labelling

        if self._json:
            kind = {"event": type(event).__name__.lower()}
            click.echo(json.dumps(kind | dataclasses.asdict(event)))
            return
        match event:
            case labelling.Joined():
                text = f"{event.device}: {event.samples} samples so far"
            case labelling.Prediction():
                bar = "#" * round(20 * event.score)
                text = f"{event.number:6}  {event.label:<16} {event.score:4.0%} {bar:<20}"
                if self._terminal:
                    click.echo(f"\r{text}", nl=False)
                    return
            case labelling.Answer():
                self._taken += event.taken
                text = f"  {event.label}: " + (f"kept, {self._taken} by now" if event.taken else event.why)
            case labelling.Trouble():
                text = f"  {event.text}"
        click.echo(f"\r{text}" if self._terminal else text)


async def _label(
    labels: tuple[str, ...], port: str | None, listen: tuple[str, int] | None, fleet: Fleet, anybody: bool,
    insecure: bool, show: _Display,
) -> None:  # fmt: skip
    from kilofed.labelling import Labelling

    answers: asyncio.Queue[str | None] = asyncio.Queue()
    _type_into(answers)
    async with _line(port, listen, fleet, anybody, insecure) as line:
        async for event in Labelling(line, labels).run(answers):
            show(event)


def _type_into(answers: asyncio.Queue[str | None]) -> None:
    """Lines of standard input, from a thread of their own: a file or a terminal, both may block."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for more
            for text in sys.stdin:
                loop.call_soon_threadsafe(answers.put_nowait, text)
            loop.call_soon_threadsafe(answers.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()


@contextlib.asynccontextmanager
async def _line(
    port: str | None, listen: tuple[str, int] | None, fleet: Fleet, anybody: bool, insecure: bool
) -> AsyncIterator[Connection]:
    """The connection to the one device: its port, or the first that calls."""
    from kilofed.connection import Connection
    from kilofed.link.host import HostEndpoint
    from kilofed.link.messages import Hello
    from kilofed.transports import tcp
    from kilofed.transports.base import Transport

    def admit(hello: Hello) -> int:
        known = fleet.get(hello.device_id) is not None
        return 0 if anybody and not known else fleet.admit(hello)

    endpoint = HostEndpoint(rng=os.urandom, admit=admit, keys=fleet.keys, insecure=insecure)
    if port is not None:
        async with Connection.serial(port, endpoint=endpoint) as line:
            yield line
        return
    assert listen is not None
    first: asyncio.Future[Transport] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def connected(transport: Transport) -> None:
        if first.done():  # one device is labelled at a time
            await transport.close()
            return
        first.set_result(transport)
        await done.wait()

    async with await tcp.listen(*listen, connected):
        try:
            async with Connection(endpoint, await first) as line:
                yield line
        finally:
            done.set()
