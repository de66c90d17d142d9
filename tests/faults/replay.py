"""A run's arithmetic done again from what it stored: every aggregate must come out the same, to the bit."""

from __future__ import annotations

from collections.abc import Iterator

from kilofed.rounds.globalmodel import GlobalModel
from kilofed.rounds.records import RoundRecord
from kilofed.store import Run
from kilofed_tools.updates import decode_update


class Replay:
    """Goes through the rounds of a run; may be called again while the run goes on."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model = GlobalModel(run.model_of(0))
        self.done = 0

    def apply(self, record: RoundRecord) -> None:
        """One round more. AssertionError when the stored round does not follow from the one before."""
        number = record.number
        assert number == self.done + 1, f"round {number} follows round {self.done}"
        from kilofed_tools import heads

        assert heads.head_hash(self.model.head_blob()).hex() == record.head, (
            f"round {number} sent another head"
        )
        average = self.model.average()
        for part in record.taken:
            assert part.update is not None, f"round {number}: no update of {part.name} is stored"
            update = decode_update(part.update, self.model.classes, self.model.features, part.name)
            average.add(update, part.samples)
        self.model.apply(average)
        assert self.model.export() == self.run.model_of(number), f"the model after round {number} is another"
        self.done = number


def replay(run: Run) -> list[bytes]:
    """The exported model after each round, compared with its checkpoint, and the last master compared."""
    again = Replay(run)
    exported: list[bytes] = []
    for record in run.rounds():
        again.apply(record)
        exported.append(again.model.export())
    state = run.master()
    if state is not None:
        assert state == (again.done, again.model.master_blob()), "the master in the store is another"
    assert run.model_path.read_bytes() == again.model.export()
    return exported


def updates(run: Run) -> Iterator[tuple[int, str, bytes]]:
    """(round, device, update) of all that counted."""
    for record in run.rounds():
        for part in record.taken:
            assert part.update is not None
            yield record.number, part.name, part.update
