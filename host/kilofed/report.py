"""A run's figures, read back from its folder: a dict for programs, the same for people in kilofed.display.

Accuracies are fractions, sizes bytes on the wire, times seconds. A figure that the run does not have is None:
a real host has no test set, and no samples to train baselines on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from kilofed.rounds.records import Kind, RoundRecord
from kilofed.store import Run, open_run


class Accuracy(TypedDict):
    """On the test set: alone (mean of the devices), federated, central, exported (the file itself).

    personal: of each device's personal head on its own held-out samples, pooled.
    """

    alone: float | None
    federated: float | None
    central: float | None
    personal: float | None
    exported: float | None


class HeldOut(TypedDict):
    """The same heads on the devices' own held-out samples, pooled."""

    alone: float | None
    federated: float | None
    central: float | None
    personal: float | None


class Bytes(TypedDict):
    """Mean bytes a device and training round, everything on the wire included.

    None before the first round.
    """

    up: float | None
    down: float | None


class Dropped(TypedDict):
    """A contribution that did not count."""

    device: str
    reason: str


class RoundRow(TypedDict):
    """One training round.

    accuracy: on the test set; held_out: of the head sent out; own: of the trained heads.
    """

    round: int
    ended: str
    seconds: float
    cohort: int
    taken: int
    samples: int
    loss: float | None
    accuracy: float | None
    held_out: float | None
    own: float | None
    up: float | None
    down: float | None
    dropped: list[Dropped]


class DeviceFigures(TypedDict):
    """One device over the run.

    personal: its personal head on its held-out samples; federated: the global head there.
    """

    id: str
    name: str
    board: str
    firmware: str
    samples: int
    held_out: int
    capacity: int
    taken: int
    dropped: int
    up: float | None
    down: float | None
    alone: float | None
    personal: float | None
    federated: float | None


class Report(TypedDict):
    """Everything `kilofed report --json` prints."""

    run: str
    model: str
    created: float
    seconds: float
    config: dict[str, Any]
    rounds: int
    devices: int
    accuracy: Accuracy
    held_out: HeldOut
    bytes_per_device_round: Bytes
    round_table: list[RoundRow]
    device_table: list[DeviceFigures]
    notes: list[str]


def report(folder: Path) -> Report:
    """The figures of the run in `folder`, which may be going on. RunFolderError when it is no run folder."""
    with open_run(folder) as run, run.snapshot():
        return report_of(run)


def report_of(run: Run) -> Report:
    """The figures of an open run."""
    rounds = run.rounds()
    personal = run.rounds(Kind.PERSONAL)
    last_personal = personal[-1] if personal else None
    figures = run.figures()
    baselines = figures.get("baselines") or {}
    alone, central = baselines.get("alone") or {}, baselines.get("central") or {}
    up, down = _bytes(rounds)
    return Report(
        run=str(run.folder),
        model=str(run.model_path),
        created=run.created,
        seconds=sum(r.seconds for r in rounds + personal),
        config=run.config.as_json(),
        rounds=len(rounds),
        devices=len(run.devices()),
        accuracy=Accuracy(
            alone=alone.get("test"),
            federated=rounds[-1].accuracy if rounds else None,
            central=central.get("test"),
            personal=last_personal.own_accuracy if last_personal else None,
            exported=figures.get("exported"),
        ),
        held_out=HeldOut(
            alone=alone.get("held_out"),
            federated=last_personal.base_accuracy if last_personal else None,
            central=central.get("held_out"),
            personal=last_personal.own_accuracy if last_personal else None,
        ),
        bytes_per_device_round=Bytes(up=up, down=down),
        round_table=[_round_row(r) for r in rounds],
        device_table=_devices(run, rounds, last_personal, baselines.get("each") or {}),
        notes=[f"{note.device[:8]} {note.text}".strip() for note in run.notes()],
    )


def _bytes(rounds: list[RoundRecord]) -> tuple[float | None, float | None]:
    parts = [d for r in rounds for d in r.taken]
    if not parts:
        return None, None
    return sum(d.bytes_up for d in parts) / len(parts), sum(d.bytes_down for d in parts) / len(parts)


def _round_row(record: RoundRecord) -> RoundRow:
    up, down = _bytes([record])
    return RoundRow(
        round=record.number,
        ended=record.ended.value,
        seconds=record.seconds,
        cohort=len(record.devices),
        taken=len(record.taken),
        samples=sum(d.samples for d in record.taken),
        loss=record.loss,
        accuracy=record.accuracy,
        held_out=record.base_accuracy,
        own=record.own_accuracy,
        up=up,
        down=down,
        dropped=[Dropped(device=d.name, reason=d.reason) for d in record.dropped],
    )


def _devices(
    run: Run, rounds: list[RoundRecord], personal: RoundRecord | None, each: dict[str, Any]
) -> list[DeviceFigures]:
    rows = []
    for device in run.devices():
        parts = [d for r in rounds for d in r.devices if d.device == device.device]
        taken = [d for d in parts if d.taken]
        own = next((d for d in personal.taken if d.device == device.device), None) if personal else None
        rows.append(
            DeviceFigures(
                id=device.device,
                name=device.name,
                board=device.board,
                firmware=device.firmware,
                samples=device.samples,
                held_out=device.held_out,
                capacity=device.capacity,
                taken=len(taken),
                dropped=len(parts) - len(taken),
                up=sum(d.bytes_up for d in taken) / len(taken) if taken else None,
                down=sum(d.bytes_down for d in taken) / len(taken) if taken else None,
                alone=(each.get(device.name) or {}).get("test"),
                personal=own.own_correct / own.held_out if own and own.held_out else None,
                federated=own.base_correct / own.held_out if own and own.held_out else None,
            )
        )
    return rows
