"""`kilofed monitor`: kilofed.monitor's follow and converse, shown line by line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kilofed.cli.common import NEW_FILE, SECONDS, common_options, fleet_option, json_option
from kilofed.cli.usage import WrongUsage

if TYPE_CHECKING:
    from rich.table import Table

    from kilofed.link.tap import Figures
    from kilofed.monitor import Keys, Listener, Moment


@click.command("monitor")
@click.argument("target", metavar="PORT|RUN|FILE")
@click.option("--baud", type=click.IntRange(1200, 4_000_000), default=115200, show_default=True,
              help="Of a serial port.")  # fmt: skip
@click.option("--insecure/--encrypted", default=False,
              help="Open sessions in the clear with a device without a key: for the bench only.")  # fmt: skip
@click.option("--capture", type=NEW_FILE, default=None,
              help="Write every byte that crosses the port into this file.")  # fmt: skip
@click.option("--seconds", type=SECONDS, default=None, help="End after so long.  [default: at Ctrl-C]")
@fleet_option
@json_option
@common_options
def command(
    target: str, baud: int, insecure: bool, capture: Path | None, seconds: float | None,
    fleet_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show a device's link live: frames, round trips, boot text.

    With the folder of a run that was started with --capture, or a capture FILE, it listens only: the run does
    not notice. With a serial PORT (or socket://HOST:PORT) that nobody else has open it is a host itself: it
    opens a session with the device's key from the register, pings it, and gives no orders. On a terminal a
    table below the frames has each line's figures; they are printed at the end, too. With --json every frame
    is an object on a line of its own, and so are the figures.

    \b
    Example:
      kilofed monitor build/run
      kilofed monitor /dev/ttyACM0 --capture board.pcapng
    """
    from kilofed.fleet import Fleet, default_path
    from kilofed.monitor import Listener
    from kilofed.store import DATABASE

    path = Path(target)
    listens = path.is_file() or (path / DATABASE).is_file()
    if not listens and path.is_dir():
        raise WrongUsage(f"{target} holds no run", "name a run's folder, a capture, or a port")
    if listens and capture is not None:
        raise WrongUsage("there is a capture already", "give --capture with a port")
    own = path / "fleet.sqlite"
    register = fleet_path or (own if own.is_file() else default_path())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        keys: Keys = lambda device_id: ()  # noqa: E731
        if register.is_file() or fleet_path is not None:
            keys = stack.enter_context(Fleet(register)).keys
        listener = Listener(keys)
        with _screen(listener, as_json=as_json) as show, contextlib.suppress(KeyboardInterrupt):
            if listens:
                _follow(path, listener, show, seconds)
            else:
                _converse(target, listener, show, keys, seconds, baud, insecure, capture)
    for line, figures in listener.figures().items():
        if as_json:
            click.echo(json.dumps({"line": line, "figures": asdict(figures)}))
        else:
            click.echo(f"{line}: {_words(figures)}")


def _follow(path: Path, listener: Listener, show: Callable[[Moment], None], seconds: float | None) -> None:
    from kilofed.monitor import follow

    until = None if seconds is None else time.monotonic() + seconds
    for moment in follow(path, listener, ended=lambda: until is not None and time.monotonic() >= until):
        show(moment)


def _converse(
    url: str,
    listener: Listener,
    show: Callable[[Moment], None],
    keys: Keys,
    seconds: float | None,
    baud: int,
    insecure: bool,
    capture: Path | None,
) -> None:
    from kilofed.capture import CaptureWriter
    from kilofed.monitor import converse

    async def for_a_while() -> None:
        with contextlib.ExitStack() as stack:
            taken = None
            if capture is not None:
                taken = stack.enter_context(CaptureWriter(capture, on_trouble=_say))
            work = converse(
                url, listener, keys=keys, on_seen=show, insecure=insecure, baud=baud, capture=taken
            )
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(work, seconds)

    asyncio.run(for_a_while())


def _say(text: str) -> None:
    click.echo(text, err=True)


def _words(figures: Figures) -> str:
    rtt = "" if figures.rtt is None else f", round trip {1000 * figures.rtt:.0f} ms"
    return (
        f"{figures.frames_up} frames and {figures.bytes_up} bytes up, {figures.frames_down} and"
        f" {figures.bytes_down} down, {figures.sessions} sessions, {figures.retries} said again,"
        f" {figures.damaged} damaged or stray ({figures.bytes_stray} bytes){rtt}"
    )


@contextlib.contextmanager
def _screen(listener: Listener, *, as_json: bool) -> Iterator[Callable[[Moment], None]]:
    """What shows a moment: as a line, and on a terminal with a table of all figures below."""
    from kilofed.cli.decode_command import line_of, show

    if as_json or not sys.stdout.isatty():

        def plainly(moment: Moment) -> None:
            show(moment.line, moment.seen, as_json=as_json)
            sys.stdout.flush()

        yield plainly
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stdout)
    rates = _Rates()
    with Live(console=console, get_renderable=lambda: rates.table(listener.figures())) as live:
        yield lambda moment: live.console.print(
            line_of(moment.line, moment.seen), markup=False, highlight=False, soft_wrap=True
        )


class _Rates:
    """The table of a live display. Bytes a second are over the last second or more."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int, int]] = {}
        self._rates: dict[str, tuple[float, float]] = {}

    def table(self, lines: dict[str, Figures]) -> Table:
        """Now."""
        from rich.table import Table

        table = Table()
        for name in ("line", "device", "sessions", "frames up", "down", "B/s up", "down", "RTT ms",
                     "said again", "damaged"):  # fmt: skip
            table.add_column(name, justify="left" if name in ("line", "device") else "right")
        for line, figures in lines.items():
            up, down = self._rate(line, figures)
            rtt = "-" if figures.rtt is None else f"{1000 * figures.rtt:.0f}"
            cells = (figures.sessions, figures.frames_up, figures.frames_down, f"{up:.0f}", f"{down:.0f}")
            rest = (rtt, figures.retries, figures.damaged)
            device = f"{figures.board} {figures.device}".strip() or "-"
            table.add_row(line, device, *map(str, (*cells, *rest)))
        return table

    def _rate(self, line: str, figures: Figures) -> tuple[float, float]:
        now = time.monotonic()
        at, up, down = self._before.setdefault(line, (now, figures.bytes_up, figures.bytes_down))
        if now - at >= 1:
            self._rates[line] = (figures.bytes_up - up) / (now - at), (figures.bytes_down - down) / (now - at)
            self._before[line] = now, figures.bytes_up, figures.bytes_down
        return self._rates.get(line, (0.0, 0.0))
