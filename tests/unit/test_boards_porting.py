"""PORTING.md says what is: its tables name every entry and every gap, its C compiles, its links lead on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kilofed.boards import catalogue

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
OPTIONAL = {"ethernet", "header_align", "storage", "uf2"}
TEXT = (FIRMWARE / "PORTING.md").read_text()


def table(header: str) -> list[list[str]]:
    """The cells of the table whose header line starts with `header`, a list a row."""
    lines = TEXT.split(f"\n{header}")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_entry_of_a_data_file_is_explained() -> None:
    explained = {name for row in table("| entry |") for name in re.findall(r"`(\w+)`", row[0])}
    for path in catalogue.boards_dir().glob("*.json"):
        entries = set(json.loads(path.read_text()))
        assert entries | OPTIONAL == explained, path.name


def test_every_gap_of_the_template_is_explained() -> None:
    marked = re.findall(r"GAP (\d+):", (FIRMWARE / "port" / "template" / "chip.c").read_text())
    explained = [row[0].strip("| ") for row in table("| gap |")]
    assert marked == explained == [str(number) for number in range(1, 13)]


def test_every_link_leads_to_a_file() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(targets) > 6
    for target in targets:
        assert (FIRMWARE / target).exists(), target


def test_every_path_named_exists() -> None:
    for path in re.findall(r"`((?:src|port|cmake|include)/[\w./-]+)`", TEXT):
        if "NAME" not in path and "FAMILY" not in path and path != "src/nn/abs.c":
            assert (FIRMWARE / path).exists(), path
    for path in re.findall(r"`((?:tools|tests|host)/[\w./-]+)`", TEXT):
        assert (FIRMWARE.parent / path).exists(), path


@pytest.mark.skipif(shutil.which("gcc") is None, reason="not installed: gcc")
def test_the_operator_compiles_as_the_rest_does(tmp_path: Path) -> None:
    code = re.search(r"```c\n(.*?)```", TEXT, re.DOTALL)
    assert code is not None
    (tmp_path / "abs.c").write_text(code[1])
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]
    subprocess.run(
        ["gcc", *flags, f"-I{FIRMWARE / 'src' / 'nn'}", f"-I{FIRMWARE / 'include'}", "-c", "abs.c"],
        cwd=tmp_path,
        check=True,
    )
