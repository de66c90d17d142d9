"""`python -m tests.bench`: measure, print a table, write `build/bench.json`.

Nothing here is a time, but for `scale`. Instructions are exact counts under emulation, sizes come from linked
images, bytes from counters on the wire: the same command gives the same figure on any machine, however
loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kilofed_tools.errors import KilofedError

from . import markdown
from .figure import BenchError, Figure

ROOT = Path(__file__).resolve().parents[2]
TOPICS = ("boards", "infer", "train", "link", "learning", "scale")


def measure(topics: Sequence[str]) -> Iterator[Figure]:
    """Each topic is a module beside this one with a function `figures(root) -> Iterator[Figure]`.

    BenchError when two figures have one name.
    """
    names: set[str] = set()
    for topic in topics:
        print(f"bench: {topic}", file=sys.stderr)
        module = importlib.import_module(f".{topic}", __package__)
        for figure in module.figures(ROOT):
            if figure.name in names:
                raise BenchError(
                    f"two figures are called {figure.name}; rename one in tests/bench/{topic}.py"
                )
            names.add(figure.name)
            yield figure


def read(path: Path) -> list[Figure]:
    """The figures that `path` holds. BenchError when it holds none."""
    try:
        return [Figure(**row) for row in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise BenchError(f"{path} has no figures ({error}); write them: make bench") from error


def print_table(figures: Sequence[Figure]) -> None:
    """On stdout, a line a figure, whatever the width of the terminal."""
    table = Table("figure", "value", "unit", "command", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:,}".replace(",", " ")
        table.add_row(figure.name, value, figure.unit, figure.command)
    Console(width=200).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 when a figure could not be had; then nothing is written."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=TOPICS, help="a topic (repeatable); default: all")
    where = "default: build/bench.json for all topics, nowhere for some"
    parser.add_argument("--out", type=Path, help=f"file to write; {where}")
    parser.add_argument("--markdown", action="store_true", help="print the tables of README.md instead")
    parser.add_argument("--read", type=Path, metavar="FILE", help="print what was written, measure nothing")
    options = parser.parse_args(arguments)
    try:
        figures = read(options.read) if options.read else list(measure(options.only or TOPICS))
    except (BenchError, KilofedError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.markdown:
        print("\n\n".join(markdown.tables(figures)))
    else:
        print_table(figures)
    nowhere = options.only or options.read
    out = options.out or (None if nowhere else ROOT / "build" / "bench.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps([dataclasses.asdict(figure) for figure in figures], indent=1) + "\n")
        print(f"bench: {len(figures)} figures written to {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
