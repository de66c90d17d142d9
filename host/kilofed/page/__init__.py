"""The report as one web page: everything about a run, in a file that needs nothing else.

facts.py gathers what is known, sections.py says it, charts.py, bars.py and grids.py draw, markup.py writes
elements. There is no script in the page and nothing is fetched: it opens from a disk, an archive or a mail.
"""

from __future__ import annotations

from pathlib import Path

from kilofed.errors import RunFolderError
from kilofed.page.facts import facts_of
from kilofed.page.sections import page
from kilofed.store import Run, open_run, write_atomically

FILE = "report.html"


def render(run: Run) -> str:
    """The page of an open run, which may be going on."""
    return page(facts_of(run))


def write_page(folder: Path, out: Path | None = None) -> Path:
    """Writes the page of the run in `folder` to `out` (`FILE` in the folder by default); returns where.

    RunFolderError when it is no run folder, or when the file cannot be written.
    """
    path = folder / FILE if out is None else out
    with open_run(folder) as run:
        content = render(run).encode()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror})", "name another file with --out", path=str(path)
        ) from error
    return path
