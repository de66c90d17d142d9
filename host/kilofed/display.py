"""How a run looks: a live table on a terminal, plain lines in a pipe, JSON lines for programs; its report.

A display is an observer of the engine (it is called with RunEvents) and a place for steps before the first
round. Progress goes to the stream it is given, stderr by default; results are `show_report`'s, for stdout.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import sys
import time
from abc import ABC, abstractmethod
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from kilofed.rounds.config import RunConfig
from kilofed.rounds.records import (
    DeviceChanged,
    DeviceDropped,
    DeviceView,
    Kind,
    Note,
    Phase,
    RoundEnded,
    RoundRecord,
    RoundStarted,
    RunEnded,
    RunEvent,
    RunStarted,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kilofed.report import Report, RoundRow


class Display(ABC):
    """Shows a run. Use as a context manager; call it with every RunEvent and `step` before there are any."""

    @abstractmethod
    def __call__(self, event: RunEvent) -> None:
        """Shows an event. Does not block for long."""

    @abstractmethod
    def step(self, text: str) -> None:
        """Says what is being done before the first round, or after the last."""

    def close(self) -> None:  # noqa: B027 - most displays have nothing to put back
        """Leaves the terminal as it was. May be called twice."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_display(stream: TextIO | None = None, *, json_lines: bool = False) -> Display:
    """The display that suits `stream` (stderr by default): live on a terminal, plain lines elsewhere."""
    stream = sys.stderr if stream is None else stream
    if json_lines:
        return JsonDisplay(stream)
    if stream.isatty():
        return LiveDisplay(stream)
    return PlainDisplay(stream)


class PlainDisplay(Display):
    """One line an event that matters: steps, rounds, what was dropped, notes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rounds = 0

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, RunStarted):
            self._rounds = event.config.rounds
        line = plain_line(event, self._rounds)
        if line:
            self._write(line)

    def step(self, text: str) -> None:
        self._write(text)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class JsonDisplay(Display):
    """Every event as one JSON object a line.

    {"event": its class, ...its fields}. Update blobs are left out.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: RunEvent) -> None:
        self._write({"event": type(event).__name__, **_jsonable(event)})

    def step(self, text: str) -> None:
        self._write({"event": "Step", "text": text})

    def _write(self, values: dict[str, Any]) -> None:
        self._stream.write(json.dumps(values) + "\n")
        self._stream.flush()


class LiveDisplay(Display):
    """A table that follows the run, a row a device; rounds and steps scroll past above it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console: Console = Console(file=stream, highlight=False)
        self._views: dict[str, DeviceView] = {}
        self._config: RunConfig | None = None
        self._round: RoundStarted | None = None
        self._begun = time.monotonic()
        self._live: Live | None = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=4, transient=False
        )
        self._running = False
        self._over = False

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, RunStarted):
            self._config = event.config
            self._begun = time.monotonic()
            if self._live is not None and not self._running:
                self._live.start()
                self._running = True
        elif isinstance(event, DeviceChanged):
            if not self._over:
                self._views[event.view.device] = event.view
        elif isinstance(event, RoundStarted):
            self._round = event
        elif isinstance(event, RunEnded):
            self._over = True  # that devices leave now is no news
        if not isinstance(event, (DeviceChanged, RoundStarted, RunStarted, RunEnded)):
            line = plain_line(event, self._config.rounds if self._config else 0)
            if line:
                if len(line) > self._console.width and isinstance(event, RoundEnded):
                    line = round_line(event.record, self._config.rounds if self._config else 0, short=True)
                self._console.print(line, markup=False, style=_style(event), soft_wrap=True)

    def step(self, text: str) -> None:
        self._console.print(text, markup=False, style="dim", soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            if self._running:
                self._live.stop()
            self._live = None

    def _render(self) -> Table:
        total = self._config.rounds if self._config else 0
        if self._round is None:
            title = "waiting for devices"
        elif self._round.kind is Kind.PERSONAL:
            title = "each device trains a head of its own"
        else:
            title = f"round {self._round.number} of {total}"
        table = _table(f"{title} · {time.monotonic() - self._begun:.0f} s")
        for name, right in (
            ("device", False), ("board", False), ("samples", True), ("state", False), ("progress", False),
            ("loss", True), ("up", True), ("down", True),
        ):  # fmt: skip
            table.add_column(name, justify="right" if right else "left", no_wrap=True)
        for view in sorted(self._views.values(), key=lambda v: v.name):
            table.add_row(
                view.name,
                view.board,
                f"{view.samples}+{view.held_out}",
                view.phase.value,
                _bar(view.progress),
                "" if view.loss is None else f"{view.loss:.3f}",
                size(view.bytes_up),
                size(view.bytes_down),
                style=_PHASE_STYLES.get(view.phase, ""),
            )
        return table


_PHASE_STYLES = {
    Phase.ABSENT: "red",
    Phase.DROPPED: "red",
    Phase.EXCLUDED: "red",
    Phase.TRAINING: "yellow",
    Phase.DONE: "green",
}


def plain_line(event: RunEvent, rounds: int = 0) -> str:
    """An event as one line of text, "" for those that say nothing in a log.

    rounds: of the run, for "3/20".
    """
    match event:
        case RunStarted(config, done, expected):
            where = f"going on after round {done}" if done else "starting"
            return f"{where}: {config.rounds} rounds, {expected} devices"
        case RoundEnded(record):
            return round_line(record, rounds)
        case DeviceDropped(number, name, reason):
            return f"  {name} does not count in round {number}: {reason}"
        case Note(text, device):
            return f"  {device}: {text}" if device else f"  {text}"
        case RunEnded(done, seconds):
            return f"{done} rounds done, {duration(seconds)}"
        case _:
            return ""


def round_line(record: RoundRecord, rounds: int = 0, *, short: bool = False) -> str:
    """A round as one line; short: within 80 columns for up to 10 000 rounds of a few dozen devices."""
    cohort = f"{len(record.taken)} of {len(record.devices)} devices"
    ended = "" if record.ended.value == "complete" else f", ended by {record.ended.value}"
    tail = f"{cohort}{ended}, {duration(record.seconds)}"
    if record.kind is Kind.PERSONAL:
        return (
            f"personal heads: {percent(record.own_accuracy)} of their own held-out samples"
            f" (global head {percent(record.base_accuracy)}), {tail}"
        )
    number = f"{record.number}/{rounds}" if rounds else str(record.number)
    accuracy = "" if record.accuracy is None else f"global {percent(record.accuracy)} on the test set, "
    loss = "" if record.loss is None else f", loss {record.loss:.3f}"
    if short:
        test = "" if record.accuracy is None else f"global {percent(record.accuracy)}, "
        by = "" if record.ended.value == "complete" else f" by {record.ended.value}"
        count = f"{len(record.taken)}/{len(record.devices)}{by}"
        own = percent(record.own_accuracy)
        return f"round {number:>5}: {test}own {own}{loss}, {count}, {duration(record.seconds)}"
    return f"round {number:>5}: {accuracy}personal {percent(record.own_accuracy)} held out{loss}, {tail}"


def percent(value: float | None) -> str:
    """0.9412 as "94.1 %", None as "-"."""
    return "-" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Seconds with as many digits as say something: "0.08 s", "12.4 s"."""
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def size(value: float | None) -> str:
    """Bytes, shortened: "812 B", "12.4 kB"."""
    if value is None:
        return "-"
    return f"{value:.0f} B" if value < 10_000 else f"{value / 1000:.1f} kB"


def show_report(report: Report, stream: TextIO | None = None) -> None:
    """Prints a report for people: what was learnt, side by side; rounds; devices; where the files are."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    width = None if stream.isatty() else 118
    console = Console(file=stream, highlight=False, width=width)
    for table in (_rounds_table(report), _devices_table(report), _side_by_side(report)):
        if table.row_count:
            console.print(table)
            console.print()
    show_files(report, console)


def show_summary(report: Report, stream: TextIO | None = None) -> None:
    """The end of a run: the side by side, the traffic, the files."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else 118)
    console.print()
    console.print(_side_by_side(report))
    console.print()
    show_files(report, console)


def show_files(report: Report, console: Console) -> None:
    """Where things are, and what a round cost."""
    traffic = report["bytes_per_device_round"]
    if traffic["up"] is not None:
        text = f"a device and round: {size(traffic['up'])} up, {size(traffic['down'])} down"
        console.print(f"{text}, everything on the wire included", markup=False)
    exported = report["accuracy"]["exported"]
    checked = "" if exported is None else f" ({percent(exported)} under a TFLite runtime)"
    console.print(f"model:  {report['model']}{checked}", markup=False, soft_wrap=True)
    console.print(f"run:    {report['run']}", markup=False, soft_wrap=True)
    console.print(f"more:   {program()} report {report['run']} --json", markup=False, soft_wrap=True)


def program() -> str:
    """`kilofed` as this machine's shell finds it: by its name when that is on the path, else by its place.

    Started as `build/venv/bin/kilofed`, it is not on the path, and a line to be typed again has to work.
    """
    here = Path(sys.executable).with_name("kilofed")
    found = shutil.which("kilofed")
    if not here.is_file() or (found is not None and Path(found).resolve() == here.resolve()):
        return "kilofed"
    relative = os.path.relpath(here)
    return shlex.quote(relative if len(relative) < len(str(here)) else str(here))


def _side_by_side(report: Report) -> Table:
    on_test, held_out = report["accuracy"], report["held_out"]
    table = _table("what was learnt")
    table.add_column("")
    table.add_column("test set", justify="right")
    table.add_column("devices' held-out samples", justify="right")
    for name, test, own in (
        ("each device alone", on_test["alone"], held_out["alone"]),
        ("federated", on_test["federated"], held_out["federated"]),
        ("federated, then personalised", None, held_out["personal"]),
        ("all data in one place", on_test["central"], held_out["central"]),
    ):
        if test is not None or own is not None:
            table.add_row(name, percent(test), percent(own))
    return table


def _rounds_table(report: Report) -> Table:
    table = _table(
        "rounds (received, trained: the head before and after training, on devices' held-out samples)"
    )
    # A device measures the head it received, so what it holds out tells of the round before.
    for name in ("round", "test set", "received", "trained", "loss", "taken", "s", "up", "down"):
        table.add_column(name, justify="right")
    remarks = [_remark(row) for row in report["round_table"]]
    if any(remarks):
        table.add_column("remarks")
    for row, remark in zip(report["round_table"], remarks, strict=True):
        cells = (
            str(row["round"]),
            percent(row["accuracy"]),
            percent(row["held_out"]),
            percent(row["own"]),
            "-" if row["loss"] is None else f"{row['loss']:.3f}",
            f"{row['taken']}/{row['cohort']}",
            f"{row['seconds']:.2f}",
            size(row["up"]),
            size(row["down"]),
        )
        table.add_row(*cells, *([remark] if any(remarks) else []))
    return table


def _remark(row: RoundRow) -> str:
    ended = [] if row["ended"] == "complete" else [f"ended by {row['ended']}"]
    return "; ".join([*ended, *(f"{d['device']}: {d['reason']}" for d in row["dropped"])])


def _devices_table(report: Report) -> Table:
    table = _table("devices")
    for name in ("device", "board", "samples", "rounds", "up", "down", "alone", "global", "personal"):
        table.add_column(name, justify="left" if name in ("device", "board") else "right")
    for row in report["device_table"]:
        table.add_row(
            row["name"],
            row["board"],
            f"{row['samples']}+{row['held_out']}",
            f"{row['taken']}/{row['taken'] + row['dropped']}",
            size(row["up"]),
            size(row["down"]),
            percent(row["alone"]),
            percent(row["federated"]),
            percent(row["personal"]),
        )
    return table


def _table(title: str) -> Table:
    """Narrow enough for 80 columns: rules and single spaces, no boxes."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _bar(progress: float, width: int = 10) -> str:
    full = round(progress * width)
    return "━" * full + "╌" * (width - full)


def _style(event: RunEvent) -> str:
    if isinstance(event, DeviceDropped):
        return "yellow"
    return "dim" if isinstance(event, Note) else ""


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _jsonable(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "update"
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
