"""Following a run from outside: what another process commits, as the events that it shows itself.

    for event in follow(Path("build/demo")):
        display(event)

The run's database is read only, and no lock is taken: the run does not notice. What happens inside a round is
read from live.json (kilofed.live); a run of an older version, or one that is over, has none, and each
device's row is then made of the rounds it took part in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kilofed.federation import is_finished
from kilofed.live import Moment, read_live
from kilofed.rounds.records import (
    DeviceChanged,
    DeviceDropped,
    DeviceRound,
    DeviceRow,
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
from kilofed.store import Run, open_run, runner
from kilofed_tools import heads

POLL_SECONDS = 0.25


def follow(
    folder: Path, *, every: float = POLL_SECONDS, sleep: Callable[[float], None] = time.sleep
) -> Iterator[RunEvent]:
    """The events of the run in `folder`: those that have been at once, the others as they come.

    Ends with RunEnded when the run is finished, or with a Note when nobody runs it and it is not. every:
    seconds between two looks. RunFolderError when it is no run folder.
    """
    with open_run(folder) as run:
        spec = heads.find_head(run.model_of(0))
        moment = read_live(folder) if runner(folder) else None
        expected = moment.expected if moment else len(run.devices())
        yield RunStarted(run.config, 0, expected, spec.classes, spec.features)
        watcher = _Watcher(run)
        while True:
            # The question comes before the look, so that nothing falls between the last look and the end.
            running, finished = runner(folder) is not None, _has_figures(run)
            yield from watcher.look(read_live(folder) if running else None)
            if finished or (not running and is_finished(run)):
                yield RunEnded(run.last_round, watcher.seconds)
                return
            if not running:
                yield Note(
                    f"stopped after round {run.last_round} of {run.config.rounds};"
                    " the command that started it goes on from there"
                )
                return
            sleep(every)


def _has_figures(run: Run) -> bool:
    """Whether the run is done to its last figure."""
    return int(run.figures().get("finished", 0)) >= run.config.rounds


class _Watcher:
    """Remembers what was told of a run, and finds what is new."""

    def __init__(self, run: Run) -> None:
        self.seconds = 0.0
        self._run = run
        self._last_round = 0
        self._personal: RoundRecord | None = None
        self._notes = 0
        self._round: RoundStarted | None = None
        self._views: dict[str, DeviceView] = {}
        self._ended: set[tuple[Kind, int]] = set()  # live.json may still speak of a round that is over
        self._traffic: dict[str, tuple[int, int]] = {}  # device -> bytes up, down over the rounds told
        self._parts: dict[str, DeviceRound] = {}  # device -> its part in the newest round

    def look(self, moment: Moment | None) -> Iterator[RunEvent]:
        """What is new: notes and rounds in the order in which they came, then the devices, then the round
        that runs now."""
        yield from self._told()
        views = self._of_store(self._run.devices()) if moment is None else list(moment.devices)
        for view in views:
            if self._views.get(view.device) != view:
                self._views[view.device] = view
                yield DeviceChanged(view)
        now = None if moment is None else moment.round
        if now is not None and now != self._round and (now.kind, now.number) not in self._ended:
            self._round = now
            yield now

    def _told(self) -> Iterator[RunEvent]:
        names = {row.device: row.name for row in self._run.devices()}
        notes = self._run.notes(skip=self._notes)
        self._notes += len(notes)
        records = self._run.rounds(after=self._last_round)
        if records:
            self._last_round = records[-1].number
        personal = self._run.rounds(Kind.PERSONAL)[-1:]
        if personal and personal[0] != self._personal:
            self._personal = personal[0]
            records = [*records, personal[0]]
        story: list[tuple[float, Note | RoundRecord]] = [
            *((note.at, Note(note.text, names.get(note.device, note.device[:8]))) for note in notes),
            *((record.started + record.seconds, record) for record in records),
        ]
        for _, entry in sorted(story, key=lambda pair: pair[0]):
            if isinstance(entry, Note):
                yield entry
                continue
            self._count(entry)
            for part in entry.dropped:
                yield DeviceDropped(entry.number, part.name, part.reason)
            yield RoundEnded(entry)

    def _count(self, record: RoundRecord) -> None:
        self.seconds += record.seconds
        self._ended.add((record.kind, record.number))
        for part in record.devices:
            up, down = self._traffic.get(part.device, (0, 0))
            self._traffic[part.device] = (up + part.bytes_up, down + part.bytes_down)
        self._parts = {part.device: part for part in record.devices}

    def _of_store(self, rows: list[DeviceRow]) -> list[DeviceView]:
        """Rows of devices as the newest round left them."""
        views = []
        for row in rows:
            part = self._parts.get(row.device)
            phase = Phase.ABSENT if part is None else Phase.DONE if part.taken else Phase.DROPPED
            up, down = self._traffic.get(row.device, (0, 0))
            views.append(
                DeviceView(
                    device=row.device,
                    name=row.name,
                    board=row.board,
                    phase=phase,
                    samples=row.samples,
                    held_out=row.held_out,
                    capacity=row.capacity,
                    progress=1.0 if phase is Phase.DONE else 0.0,
                    loss=part.loss if part else None,
                    bytes_up=up,
                    bytes_down=down,
                    reason=part.reason if part else "",
                )
            )
        return views
