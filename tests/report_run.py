"""A finished run as a store holds it, made up to the last figure: for tests of what is told of runs.

Nothing in it is round or regular: rounds with every ending, a device that was dropped, one that came late,
and one whose name is an attack on whoever prints it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tests.memory_fleet import model_bytes

from kilofed.rounds.config import RunConfig
from kilofed.rounds.records import DeviceRound, DeviceRow, Ending, Kind, RoundRecord
from kilofed.store import create_run
from kilofed_tools import heads

HOSTILE = "</svg></title><script>alert(1)</script>&amp;\"'../evil"
NAMES = ("anna", "bert", HOSTILE)
BOARDS = ("microbit", "mps2-an386", "<b>none</b>")
BASELINES: dict[str, Any] = {
    "alone": {"test": 0.4125, "held_out": 0.9},
    "each": {
        "anna": {"test": 0.31, "held_out": 0.875},
        "bert": {"test": 0.515, "held_out": 0.8},
        HOSTILE: {"test": 0.4, "held_out": 1.0},
    },
    "central": {"test": 0.9375, "held_out": 0.95},
}
COMMAND = "kilofed run --emulate 3 --out 'a & b'"


def device_id(index: int) -> str:
    return f"{index + 1:02x}" * 8


def made_record(number: int, kind: Kind = Kind.TRAIN) -> RoundRecord:
    """Round `number`, 1 or above; every third ends by quorum without bert."""
    parts = []
    for index, name in enumerate(NAMES):
        if index == 1 and number % 3 == 0:
            reason = "had not answered when the quorum <was> reached"
            parts.append(DeviceRound(device_id(index), name, False, reason, bytes_up=17, bytes_down=396))
            continue
        if index == 2 and number == 1:
            continue  # it came late
        held = 16 + index
        parts.append(
            DeviceRound(
                device=device_id(index),
                name=name,
                taken=True,
                samples=64 + 10 * index,
                held_out=held,
                loss=1.5 / number + 0.01 * index,
                base_correct=min(held, 5 + number),
                own_correct=min(held, 11 + index + number // 2),
                elapsed_ms=37 * (index + 1) + number,
                bytes_up=400 + 3 * index + number,
                bytes_down=500 + 7 * index,
                retries=index,
                update=b"\x01\x02" + bytes(344) if kind is Kind.TRAIN else None,
            )
        )
    parts.sort(key=lambda part: part.name)
    return RoundRecord(
        number=number,
        kind=kind,
        ended=Ending.QUORUM if number % 3 == 0 else Ending.COMPLETE,
        started=1_700_000_000.0 + 2 * number + (1 if kind is Kind.PERSONAL else 0),
        seconds=0.25 + number / 100,
        head="00112233aabbccdd",
        devices=tuple(parts),
        accuracy=0.5 + 0.4 * (1 - 0.7**number) if kind is Kind.TRAIN else None,
    )


def made_confusion() -> list[list[int]]:
    """[10, 10] counts of 1000, mostly right; the digit 9 is never named."""
    rng = np.random.Generator(np.random.PCG64(7))
    counts = np.eye(10, dtype=np.int64) * 90 + rng.multinomial(100, np.full(100, 0.01)).reshape(10, 10)
    counts[9, 4] += counts[9, 9]
    counts[:, 4] += counts[:, 9] * (np.arange(10) != 9)
    counts[:, 9] = 0
    return [[int(n) for n in row] for row in counts]


def make_run(
    folder: Path,
    *,
    rounds: int = 7,
    laboratory: bool = True,
    finished: bool = True,
    model: bytes | None = None,
) -> Path:
    """Writes the run into `folder` and returns it.

    laboratory: whether samples, test set and baselines are known. finished: with its personal round.
    """
    content = model or model_bytes()
    config = RunConfig(rounds=max(1, rounds), seed=11)
    digest = heads.file_hash(content).hex()
    with create_run(folder, config=config, model=content, model_hash=digest) as run:
        for index, (name, board) in enumerate(zip(NAMES, BOARDS, strict=True)):
            if not rounds:
                break
            run.put_device(DeviceRow(device_id(index), name, board, "0.1.0", 80 + index, 64 + index, 16, 1e9))
        run.note("boot <garbage> & noise", device=device_id(0))
        run.note("turned away 1234 (x), it is not registered")
        for number in range(1, rounds + 1):
            entry = made_record(number)
            if not laboratory:
                entry = RoundRecord(**{**vars(entry), "accuracy": None})
            run.commit(entry, master=b"master", model=content)
        if finished and rounds:
            run.commit(made_record(rounds, Kind.PERSONAL))
        figures: dict[str, Any] = {"version": "0.1.0", "command": COMMAND}
        if laboratory:
            counts = made_confusion()
            figures |= {
                "placed": {name: [3 * index, *range(8), 40 + index] for index, name in enumerate(NAMES)},
                "baselines": BASELINES,
            }
            if finished:
                figures |= {
                    "confusion": counts,
                    "exported": sum(counts[i][i] for i in range(10)) / sum(map(sum, counts)),
                    "test_samples": sum(map(sum, counts)),
                }
        if finished:
            figures["finished"] = rounds
        run.put_figures(figures)
    return folder
