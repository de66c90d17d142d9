"""A run's arithmetic done again from what it stored: every aggregate must come out the same, to the bit.

The mean is the tests' own: whole numbers of Python, the blobs read with struct, nothing of the host's
aggregation. What makes the int8 head and the file of a master is the host's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from kilofed.rounds.globalmodel import GlobalModel
from kilofed.rounds.records import RoundRecord
from kilofed.store import Run
from kilofed_tools import heads

HEAD = struct.Struct("<BBBbHHIf")  # a head blob's start, as in firmware/include/kilofed/params.h
UPDATE = struct.Struct("<BBBBHHII")  # an update blob's
WEIGHT_BOUND, BIAS_BOUND = (1 << 23) - 129, 1 << 30  # what a master saturates at: firmware/TRAINING.md


def changes(blob: bytes, classes: int, features: int) -> list[int]:
    """All numbers of an int32 or int8 update, weights then biases, in the trainer's units."""
    version, kind, codec, zero, c, f, step, bias_step = UPDATE.unpack_from(blob)
    assert (version, kind, zero, c, f) == (1, 2, 0, classes, features)
    letter = {0: "i", 1: "b"}[codec]
    numbers = struct.unpack(f"<{c * f + c}{letter}", blob[UPDATE.size :])
    return [number * (step if at < c * f else bias_step) for at, number in enumerate(numbers)]


def mean(parts: Sequence[tuple[list[int], int]]) -> list[int]:
    """The weighted mean of whole numbers, halves rounded up. parts: (numbers, weight) of each device."""
    total = sum(weight for _, weight in parts)
    weighted = [[number * weight for number in numbers] for numbers, weight in parts]
    sums = map(sum, zip(*weighted, strict=True))
    return [(2 * value + total) // (2 * total) for value in sums]


class Replay:
    """Goes through the rounds of a run; may be called again while the run goes on."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model = GlobalModel(run.model_of(0))
        self.done = 0
        self.classes, self.features = self.model.classes, self.model.features
        self.numbers = list(struct.unpack_from(f"<{self._count}i", self.model.master_blob(), HEAD.size))

    @property
    def _count(self) -> int:
        return self.classes * (self.features + 1)

    @property
    def master(self) -> bytes:
        """The master as the store keeps it."""
        start = HEAD.pack(1, 1, 0, 0, self.classes, self.features, 1, 1.0)
        return start + struct.pack(f"<{self._count}i", *self.numbers)

    def apply(self, record: RoundRecord) -> None:
        """One round more. AssertionError when the stored round does not follow from the one before."""
        number = record.number
        assert number == self.done + 1, f"round {number} follows round {self.done}"
        assert heads.head_hash(self.model.head_blob()).hex() == record.head, (
            f"round {number} sent another head"
        )
        parts = []
        for part in record.taken:
            assert part.update is not None, f"round {number}: no update of {part.name} is stored"
            parts.append((changes(part.update, self.classes, self.features), part.samples))
        bounds = [WEIGHT_BOUND] * (self.classes * self.features) + [BIAS_BOUND] * self.classes
        moved = map(sum, zip(self.numbers, mean(parts), strict=True))
        self.numbers = [max(-bound, min(bound, n)) for n, bound in zip(moved, bounds, strict=True)]
        self.model = GlobalModel(self.run.model_of(0), self.master)
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
        assert state == (again.done, again.master), "the master in the store is another"
    assert run.model_path.read_bytes() == again.model.export()
    return exported


def updates(run: Run) -> Iterator[tuple[int, str, bytes]]:
    """(round, device, update) of all that counted."""
    for record in run.rounds():
        for part in record.taken:
            assert part.update is not None
            yield record.number, part.name, part.update
