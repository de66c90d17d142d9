"""Watching a device's link live: what crosses it, frame by frame, from a capture that grows or a port.

    for moment in follow(Path("build/run"), Listener(fleet.keys)): ...    a run that another process runs
    await converse("/dev/ttyACM0", Listener(fleet.keys), keys=fleet.keys, on_seen=print)    a device alone

A run is watched by its capture (`kilofed run --capture`): the run does not notice, and nothing is sent. On a
port of its own a monitor is a host: it opens a session with the device's key, answers it and pings, and gives
no orders.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from kilofed.capture import follow_capture
from kilofed.connection import Connection
from kilofed.errors import StoreError
from kilofed.federation import Capture
from kilofed.link.errors import TransportError
from kilofed.link.host import HostEndpoint
from kilofed.link.tap import Figures, Seen, Tap
from kilofed.store import DATABASE, open_run, runner
from kilofed.transports.serial import BAUD

POLL_SECONDS = 0.1
QUIET_SECONDS = 0.5  # bytes that nothing has ended for so long are no frame: boot text, or a cut

Keys: TypeAlias = Callable[[bytes], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Moment:
    """What was seen of a line, and its figures since the monitor began."""

    line: str
    seen: Seen
    figures: Figures


class Listener:
    """A tap for each line, told of bytes as they cross."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._taps: dict[str, Tap] = {}
        self._fed: dict[tuple[str, bool], float] = {}  # when the latest bytes came

    def feed(self, line: str, at: float, up: bool, data: bytes) -> list[Moment]:
        """What ended in `data`."""
        tap = self._taps.get(line)
        if tap is None:
            tap = self._taps[line] = Tap(self._keys)
        self._fed[line, up] = at
        return [Moment(line, seen, tap.figures) for seen in tap.feed(at, up, data)]

    def quiet(self, now: float) -> list[Moment]:
        """What has begun and is no frame: nothing came behind it for QUIET_SECONDS. now: as `at` of feed."""
        found = []
        for (line, up), at in list(self._fed.items()):
            if now - at >= QUIET_SECONDS:
                del self._fed[line, up]
                tap = self._taps[line]
                found += [Moment(line, seen, tap.figures) for seen in tap.rest(at, up)]
        return found

    def figures(self) -> dict[str, Figures]:
        """A line's name -> its figures."""
        return {line: tap.figures for line, tap in self._taps.items()}


def capture_of(run_folder: Path) -> Path:
    """The capture that the run in a folder writes. StoreError when it writes none, else as open_run."""
    with open_run(run_folder) as run:
        named = run.figures().get("capture")
    if not named:
        raise StoreError(
            f"the run in {run_folder} writes no capture",
            "stop it and start it again with --capture FILE: it goes on from its last round",
            path=str(run_folder),
        )
    return Path(str(named))


def follow(
    path: Path,
    listener: Listener,
    *,
    ended: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Moment]:
    """What crosses the lines of a run (its folder) or of a capture (a file), from the file's beginning.

    ended: asked where the file ends for now. Ends when it says so, and with a run when nobody runs it
    and all was told. StoreError as `capture_of` and kilofed.capture.read_capture.
    """
    folder = path if (path / DATABASE).is_file() else None
    file = path if folder is None else capture_of(path)
    over = False

    def wait() -> bool:
        # Whether it is over is asked before the file is read once more: nothing falls between the two.
        nonlocal over
        if over or ended():
            return False
        over = folder is not None and runner(folder) is None
        if not over:
            sleep(POLL_SECONDS)
        return True

    for packet in follow_capture(file, wait=wait):
        yield from listener.quiet(packet.at)
        yield from listener.feed(packet.line, packet.at, packet.up, packet.data)
    yield from listener.quiet(math.inf)


async def converse(
    url: str,
    listener: Listener,
    *,
    keys: Keys,
    on_seen: Callable[[Moment], None],
    insecure: bool = False,
    baud: int = BAUD,
    capture: Capture | None = None,
) -> None:
    """Opens a port, then a session with the device there, and tells what crosses; until it is cancelled.

    A port that goes away is opened again. keys: that a device may hold; one without a key is refused unless
    insecure. capture: told every byte. TransportError when the port cannot be opened at first.
    """

    def crossed(up: bool, data: bytes) -> None:
        if capture is not None:
            capture(url, up, data)
        for moment in listener.feed(url, time.time(), up, data):
            on_seen(moment)

    endpoint = HostEndpoint(rng=os.urandom, keys=keys, insecure=insecure)
    async with Connection.serial(url, endpoint=endpoint, baud=baud, capture=crossed) as line:

        async def drain() -> None:
            async for _ in line.events():
                pass  # what they tell was seen on the line

        draining = asyncio.ensure_future(drain())
        told: TransportError | None = None
        try:
            while True:
                await asyncio.sleep(POLL_SECONDS)
                for moment in listener.quiet(time.time()):
                    on_seen(moment)
                if line.trouble is not told:
                    told = line.trouble
                    if told is not None:
                        seen = Seen(time.time(), True, 0, "stray", why=told.what)
                        on_seen(Moment(url, seen, listener.figures().get(url, Figures())))
        finally:
            draining.cancel()
