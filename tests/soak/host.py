"""The host of a soak, a process so that its memory can be watched: FOLDER PORT FLEET EXPECTED URL..."""

from __future__ import annotations

import sys
from pathlib import Path

from kilofed.federation import resume_or_create, run_federation
from kilofed.fleet import Fleet
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.samples import digits_model_path

DEADLINES = Deadlines(gather=60.0, head=5.0, round=15.0, rejoin=2.0)
CONFIG = RunConfig(rounds=1_000_000, epochs=20, quorum=0.6, personal_epochs=0, deadlines=DEADLINES)


def main(folder: str, port: str, fleet: str, expected: str, *urls: str) -> None:
    """Runs until a signal comes, or an error, which goes to stderr."""
    run, _ = resume_or_create(Path(folder), config=CONFIG, model=digits_model_path().read_bytes())
    with run, Fleet(Path(fleet)) as register:
        address = ("127.0.0.1", int(port))
        run_federation(run, expected=int(expected), ports=urls, listen=address, fleet=register)


if __name__ == "__main__":
    main(*sys.argv[1:])
