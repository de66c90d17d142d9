"""What the devices of a run are doing at this moment, beside the run's database, for `kilofed watch`.

The database holds what is safe: whole rounds. What happens inside a round is written to live.json, twice a
second at most, by renaming, without waiting for the disk: it is worth nothing after the moment, and a run
goes on when it cannot be written.

    {"round": {"number", "kind", "cohort"} or null, "expected": devices, "devices": [fields of DeviceView]}
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from kilofed.rounds.records import (
    DeviceChanged,
    DeviceView,
    Kind,
    Phase,
    RoundStarted,
    RunEnded,
    RunEvent,
    RunStarted,
)

FILE = "live.json"
FLUSH_ALWAYS = 500  # devices up to which every flush writes
FLUSH_SECONDS = 1e-3  # between two writes, for each device more


@dataclass(frozen=True)
class Moment:
    """A look at a run that is going on: the round that runs, devices expected, and those there are."""

    round: RoundStarted | None
    expected: int
    devices: tuple[DeviceView, ...]


class Live:
    """An observer of the engine that keeps `FILE` in the run's folder fresh; `flush` writes it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._round: RoundStarted | None = None
        self._expected = 0
        self._views: dict[str, DeviceView] = {}
        self._again_at = 0.0
        self._stale = True  # what an earlier process left there is not of now

    def __call__(self, event: RunEvent) -> None:
        match event:
            case RunStarted():
                self._expected = event.expected
            case RoundStarted():
                self._round = event
            case DeviceChanged(view):
                self._views[view.device] = view
            case RunEnded():
                self._round = None
            case _:
                return
        self._stale = True

    def flush(self) -> None:
        """Writes what changed since the last time; what cannot be written is left.

        With many devices, not at every call: a file of ten thousand takes some tenths of a second to make.
        """
        if not self._stale or time.monotonic() < self._again_at:
            return
        self._again_at = time.monotonic() + max(0, len(self._views) - FLUSH_ALWAYS) * FLUSH_SECONDS
        content = {
            "round": None if self._round is None else dataclasses.asdict(self._round),
            "expected": self._expected,
            "devices": [dataclasses.asdict(view) for view in self._views.values()],
        }
        draft = self._path.with_name(f"{FILE}.new")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(content))
            draft.rename(self._path)
            self._stale = False


def read_live(folder: Path) -> Moment | None:
    """What `Live` wrote last; None when there is nothing, or nothing this version understands."""
    try:
        content = json.loads((folder / FILE).read_text())
        at = content["round"]
        views = [DeviceView(**{**d, "phase": Phase(d["phase"])}) for d in content["devices"]]
        running = at and RoundStarted(int(at["number"]), Kind(at["kind"]), tuple(at["cohort"]))
        return Moment(running or None, int(content["expected"]), tuple(views))
    except (OSError, ValueError, TypeError, KeyError):
        return None
