"""The documents, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: What a newcomer reads, and where every command line is run.
GUIDES = (
    "README.md",
    "models/GUIDE.md",
    "firmware/port/boards/README.md",
    "tools/GUIDE.md",
    "host/GUIDE.md",
)

PROGRAMS = ("kilofed", "kilofed-pi", "python", "pip", "make", "git", "cd", ".")


@dataclass(frozen=True)
class Line:
    """A command line of a document. number: of its line, from 1. text: without its comment."""

    document: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.number}"


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    hidden = {"build", ".git", "node_modules"}
    return sorted(p for p in ROOT.rglob("*.md") if not hidden & set(p.relative_to(ROOT).parts))


def blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """(line number, language, line) of each line in a code block: fenced, or indented, of language ""."""
    language: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"```\s*(\w*)", line)
        if fence:
            language = fence[1] if language is None else None
        elif language is not None:
            yield number, language, line
        elif line.startswith("    "):
            yield number, "", line[4:]


def command_lines(document: str) -> list[Line]:
    """The command lines of a document: in code blocks, those that begin with a program; all of ```sh."""
    found = []
    for number, language, line in blocks((ROOT / document).read_text(encoding="utf-8")):
        if language not in ("", "sh"):
            continue
        text = re.sub(r"\s+#\s.*$", "", line).strip()
        if language == "" and not text.removeprefix("build/venv/bin/").startswith(
            tuple(f"{p} " for p in PROGRAMS)
        ):
            continue
        for part in text.split(" && "):
            words = shlex.split(part)
            program = words[0].removeprefix("build/venv/bin/") if words else ""
            if language == "sh" and words:
                assert program in PROGRAMS, f"{document}:{number}: what is {program}?"
            if program in PROGRAMS and (language == "sh" or not line.startswith(" ")):
                found.append(Line(document, number, part.strip()))
    return found


def inline_commands(document: str) -> list[Line]:
    """What stands in a document as `kilofed ...` in running text."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("    "):
            continue
        found += [Line(document, number, code) for code in re.findall(r"`(kilofed [^`]+)`", line)]
    return found
