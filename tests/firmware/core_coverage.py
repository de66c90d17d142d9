"""Which lines of the C core the tests have run: sums up what gcov counted under `make coverage`.

    KILOFED_COVERAGE=1 python -m pytest tests/firmware; python tests/firmware/core_coverage.py

With KILOFED_COVERAGE set, the test runners compile the core with gcc's counters into build/coverage. A line
counts once, in whichever of these programs it ran. Exits 1 when fewer than --fail-under percent did.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "firmware" / "src"
COUNTED = ROOT / "build" / "coverage"
BATCH = 40  # files a call of gcov

Lines = dict[Path, collections.Counter[int]]


def reports(counts: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """gcov's report of each .gcda file."""
    files = sorted(counts)
    for at in range(0, len(files), BATCH):
        command = ["gcov", "--json-format", "--stdout", *map(str, files[at : at + BATCH])]
        done = subprocess.run(command, cwd=COUNTED, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                yield json.loads(line)


def lines_run(found: Iterable[dict[str, Any]]) -> Lines:
    """File of the core -> line -> how often it ran; a line without code is not there."""
    lines: Lines = {}
    for report in found:
        for file in report["files"]:
            path = (Path(report["current_working_directory"]) / file["file"]).resolve()
            if CORE in path.parents:
                counter = lines.setdefault(path, collections.Counter())
                for line in file["lines"]:
                    counter[line["line_number"]] += line["count"]
    return lines


def ranges(numbers: list[int]) -> str:
    """3, 4, 5, 9 as "3-5, 9"."""
    out: list[list[int]] = []
    for number in numbers:
        if out and number == out[-1][1] + 1:
            out[-1][1] = number
        else:
            out.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fail-under", type=float, default=0.0, metavar="PERCENT")
    wanted = parser.parse_args().fail_under
    counts = list(COUNTED.rglob("*.gcda"))
    if not counts:
        print(f"nothing was counted in {COUNTED}: run `make coverage`", file=sys.stderr)
        return 1
    lines = lines_run(reports(counts))
    missing = [path for path in CORE.glob("*/*.c") if path not in lines]
    total = sum(len(counter) for counter in lines.values())
    run = sum(count > 0 for counter in lines.values() for count in counter.values())
    for path, counter in sorted(lines.items()):
        dead = sorted(number for number, count in counter.items() if not count)
        if dead:
            share = 100 * (1 - len(dead) / len(counter))
            print(f"{path.relative_to(CORE)!s:<28} {len(counter):>5} {share:6.1f} %  not run: {ranges(dead)}")
    for path in missing:
        print(f"{path.relative_to(CORE)!s:<28} was not compiled")
    print(f"C core: {run} of {total} lines, {100 * run / total:.2f} %, in {len(counts)} object files")
    return int(bool(missing) or 100 * run / total < wanted)


if __name__ == "__main__":
    sys.exit(main())
