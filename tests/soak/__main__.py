"""python -m tests.soak [--minutes 30] [--seed 1] [--no-boards] [--folder build/soak]"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

from tests.soak.soak import DEVICES, Soak, SoakFailed

from kilofed_tools.errors import KilofedError


def main() -> int:
    """Exit status 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    parser.add_argument("--no-boards", action="store_true", help="processes only, no QEMU")
    parser.add_argument("--folder", type=Path, default=Path("build/soak"), help="made anew")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    soak = Soak(
        options.folder.resolve(),
        seed=options.seed,
        seconds=60 * options.minutes,
        boards=not options.no_boards,
    )
    print(f"{DEVICES} devices, {options.minutes:g} minutes, seed {options.seed}", flush=True)
    try:
        summary = asyncio.run(soak.run())
    except (SoakFailed, AssertionError, KilofedError) as error:
        print(soak.summary)
        print(f"FAILED: {error}", file=sys.stderr)
        print(
            f"repeat: python -m tests.soak --minutes {options.minutes:g} --seed {options.seed}",
            file=sys.stderr,
        )
        return 1
    print(summary)
    print("every aggregate equals the replay of its updates")
    return 0


if __name__ == "__main__":
    sys.exit(main())
