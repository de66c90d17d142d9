"""The host of a scale measurement, a process of its own so that what it costs can be read: JSON of settings.

Writes JSON lines on stdout: {"port"}, then at each moment {"at", "cpu", "rss"}: CPU seconds of this process
until then and the most memory it ever had, bytes. At the end of a round also its number, how it ended, how
many devices were taken and dropped, and their bytes on the wire.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from kilofed.federation import resume_or_create, run_federation
from kilofed.fleet import Fleet
from kilofed.live import Live
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.rounds.records import RoundEnded, RoundStarted, RunEnded, RunEvent, RunStarted


def say(**values: Any) -> None:
    """A line for whoever measures."""
    print(json.dumps(values), flush=True)


def peak_bytes() -> int:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_seconds() -> float:
    """Of this process, in user and kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def mark(event: RunEvent) -> None:
    """Says what a moment of the run has cost so far."""
    known: dict[str, Any] = {"cpu": cpu_seconds(), "rss": peak_bytes()}
    match event:
        case RunStarted():
            say(at="begun", **known)
        case RoundStarted(number, _, cohort):
            say(at="round", number=number, asked=len(cohort), **known)
        case RoundEnded(record):
            say(
                at="ended",
                number=record.number,
                how=record.ended.value,
                taken=len(record.taken),
                dropped=len(record.dropped),
                up=sum(d.bytes_up for d in record.devices),
                down=sum(d.bytes_down for d in record.devices),
                retries=sum(d.retries for d in record.devices),
                **known,
            )
        case RunEnded():
            say(at="done", **known)
        case _:
            pass


def main(settings: str) -> None:
    """Runs the run to its end."""
    wanted = json.loads(settings)
    deadlines = Deadlines(
        gather=wanted["gather"], round=wanted["deadline"], rejoin=wanted["deadline"], goodbye=30.0
    )
    config = RunConfig(
        rounds=wanted["rounds"],
        epochs=1,
        batch=8,
        quorum=wanted["quorum"],
        personal_epochs=0,
        deadlines=deadlines,
    )
    folder = Path(wanted["folder"])
    run, _ = resume_or_create(folder, config=config, model=Path(wanted["model"]).read_bytes())
    live = Live(folder)
    with run, Fleet(Path(wanted["fleet"])) as register:
        run_federation(
            run,
            expected=wanted["devices"],
            listen=("127.0.0.1", 0),
            on_listening=lambda port: say(port=port),
            fleet=register,
            observers=[mark, live],
            watch=live.flush,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
