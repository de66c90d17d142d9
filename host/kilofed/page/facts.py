"""What is known of a run, gathered for its page: the report, and what lies behind its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kilofed.arena import ArenaMap, arena_of
from kilofed.boards import catalogue
from kilofed.errors import CatalogueError
from kilofed.report import Report, report_of
from kilofed.rounds.config import RunConfig
from kilofed.rounds.records import Kind, RoundRecord
from kilofed.store import Run, runner
from kilofed_tools import heads, memory
from kilofed_tools.errors import KilofedError


@dataclass(frozen=True)
class DeviceFacts:
    """A device's share. placed: [C] samples by class, None when nobody here knows. alone, federated,
    personal: accuracies on its own held-out samples. seconds: mean device time a round, from order to result.
    """

    name: str
    board: str
    firmware: str
    samples: int
    held_out: int
    placed: tuple[int, ...] | None
    alone: float | None
    federated: float | None
    personal: float | None
    taken: int
    dropped: int
    up: float | None
    down: float | None
    seconds: float | None


@dataclass(frozen=True)
class Lost:
    """A contribution that did not count. round: "7", or "personal"."""

    round: str
    device: str
    reason: str


@dataclass(frozen=True)
class LogLine:
    """A line of the run's log. at: Unix time."""

    at: float
    device: str
    text: str


@dataclass(frozen=True)
class MemoryFacts(ArenaMap):
    """The memory plan of a model, and blocks: a board each, the parts of its device's memory block in bytes,
    arena included. ram: bytes of RAM of each board."""

    blocks: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    ram: dict[str, int]


@dataclass(frozen=True)
class Facts:
    """Everything the page tells. confusion: [C][C] counts, rows the true class; None when there is no test
    set or the run goes on. memory: or why there is none. state: finished, going on, or stopped."""

    report: Report
    config: RunConfig
    name: str
    state: str
    labels: tuple[str, ...]
    rounds: tuple[RoundRecord, ...]
    personal: RoundRecord | None
    devices: tuple[DeviceFacts, ...]
    lost: tuple[Lost, ...]
    log: tuple[LogLine, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    memory: MemoryFacts | str
    model_bytes: int
    model_hash: str
    head_hash: str
    command: str
    version: str


def facts_of(run: Run) -> Facts:
    """Gathers them. Reads the run and its first model; changes nothing."""
    model = run.model_of(0)
    spec = heads.find_head(model)
    figures = run.figures()
    rounds = tuple(run.rounds())
    personal = run.rounds(Kind.PERSONAL)
    names = {row.device: row.name for row in run.devices()}
    report = report_of(run)
    return Facts(
        report=report,
        config=run.config,
        name=run.folder.resolve().name,
        state=_state(run, figures),
        labels=spec.labels,
        rounds=rounds,
        personal=personal[-1] if personal else None,
        devices=_devices(report, rounds, figures, spec.classes),
        lost=tuple(
            Lost("personal" if r.kind is Kind.PERSONAL else str(r.number), d.name, d.reason)
            for r in (*rounds, *personal)
            for d in r.dropped
        ),
        log=tuple(LogLine(n.at, names.get(n.device, n.device[:8]), n.text) for n in run.notes()),
        confusion=_confusion(figures.get("confusion"), spec.classes),
        memory=_memory(model, spec, sorted({row.board for row in run.devices()})),
        model_bytes=len(model),
        model_hash=run.model_hash,
        head_hash=rounds[-1].head if rounds else "",
        command=str(figures.get("command", "")),
        version=str(figures.get("version", "")),
    )


def _state(run: Run, figures: dict[str, Any]) -> str:
    if int(figures.get("finished", -1)) >= run.config.rounds:
        return "finished"
    return "going on" if runner(run.folder) is not None else "stopped"


def _devices(
    report: Report, rounds: tuple[RoundRecord, ...], figures: dict[str, Any], classes: int
) -> tuple[DeviceFacts, ...]:
    placed: dict[str, list[int]] = figures.get("placed") or {}
    each: dict[str, Any] = (figures.get("baselines") or {}).get("each") or {}
    found = []
    for row in report["device_table"]:
        times = [d.elapsed_ms / 1000 for r in rounds for d in r.taken if d.device == row["id"]]
        counts = placed.get(row["name"])
        found.append(
            DeviceFacts(
                name=row["name"],
                board=row["board"],
                firmware=row["firmware"],
                samples=row["samples"],
                held_out=row["held_out"],
                placed=tuple(counts) if counts is not None and len(counts) == classes else None,
                alone=(each.get(row["name"]) or {}).get("held_out"),
                federated=row["federated"],
                personal=row["personal"],
                taken=row["taken"],
                dropped=row["dropped"],
                up=row["up"],
                down=row["down"],
                seconds=sum(times) / len(times) if times else None,
            )
        )
    return tuple(found)


def _confusion(counts: list[list[int]] | None, classes: int) -> tuple[tuple[int, ...], ...] | None:
    if counts is None or len(counts) != classes:
        return None
    return tuple(tuple(row) for row in counts)


def _memory(model: bytes, spec: heads.HeadSpec, boards: list[str]) -> MemoryFacts | str:
    try:
        found = arena_of(model)
    except KilofedError as error:
        return f"{error.what}: {error.next_step}"
    blocks, ram = [], {}
    for name in boards:
        try:
            board = catalogue.load(name)
        except CatalogueError:
            continue  # a Linux device: it has memory enough
        parts = memory.device_parts(
            spec.classes,
            spec.features,
            found.arena_bytes,
            max_frame=board.max_frame,
            ring_slots=board.ring_slots,
            held_out_every=board.held_out_every,
            max_batch=board.max_batch,
            exact_updates=board.exact_updates,
        )
        blocks.append((name, tuple(parts.rows())))
        ram[name] = board.ram.size
    return MemoryFacts(
        operators=found.operators,
        areas=found.areas,
        groups=found.groups,
        arena_bytes=found.arena_bytes,
        bound_bytes=found.bound_bytes,
        from_file=found.from_file,
        blocks=tuple(blocks),
        ram=ram,
    )
