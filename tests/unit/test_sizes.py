"""The sizes agreed on: growth is told, refused, and agreed on with a reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from kilofed.boards import build, sizes
from kilofed.boards.build import TOOLS
from kilofed.boards.sizes import Growth, Size
from kilofed.cli import cli
from kilofed.errors import BuildError

ROOT = Path(__file__).resolve().parents[2]
AGREED = Size(50_000, 10_000, "12.2.1", "it began")
compiled = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="no compiler for the boards"
)


@pytest.mark.parametrize(
    ("flash", "ram", "refused"),
    [
        (50_000, 10_000, False),
        (51_000, 10_200, False),
        (51_001, 10_000, True),
        (50_000, 10_201, True),
        (1, 1, False),
    ],
)
def test_two_in_a_hundred_are_tolerated(flash: int, ram: int, refused: bool) -> None:
    (growth,) = sizes.compare({"b": AGREED}, {"b": replace(AGREED, flash=flash, ram=ram)})
    assert growth.tolerated is not refused
    if refused:
        with pytest.raises(
            BuildError, match=rf"the image of b grew: flash 50000 to {flash} bytes"
        ) as refusal:
            sizes.check([growth])
        assert "--record WHY" in str(refusal.value)
    else:
        sizes.check([growth])


def test_another_compilers_images_are_not_compared() -> None:
    other = replace(AGREED, flash=90_000, compiler="14.1.0")
    (growth,) = sizes.compare({"b": AGREED}, {"b": other})
    assert not growth.comparable
    sizes.check([growth])
    assert not Growth("c", AGREED, None).comparable


def test_a_reason_goes_to_what_grew_and_stays_with_the_others(tmp_path: Path) -> None:
    ledger = tmp_path / "sizes.json"
    first = {"a": AGREED, "b": AGREED}
    sizes.record(ledger, sizes.compare({}, first), "it began")
    assert sizes.load(ledger) == first
    now = {"a": replace(AGREED, flash=60_000), "b": replace(AGREED, flash=50_100)}
    sizes.record(ledger, sizes.compare(sizes.load(ledger), now), "encryption")
    later = sizes.load(ledger)
    assert (later["a"].flash, later["a"].why) == (60_000, "encryption")
    assert (later["b"].flash, later["b"].why) == (50_100, "it began")
    sizes.record(ledger, sizes.compare(later, {"c": AGREED}), "a third board")
    assert set(sizes.load(ledger)) == {"a", "b", "c"}, "those that were not built stay"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}', '{"a": {"flash": 1}}'])
def test_a_damaged_ledger_is_named(text: str, tmp_path: Path) -> None:
    ledger = tmp_path / "sizes.json"
    ledger.write_text(text)
    with pytest.raises(BuildError, match="is damaged"):
        sizes.load(ledger)


@compiled
def test_the_command_refuses_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    image = build("microbit", ROOT / "models" / "digits" / "digits.tflite")
    now = sizes.measure(image)
    assert (now.flash, now.ram) == (image.flash_bytes, image.ram_bytes)
    run = CliRunner()
    agreed = {"microbit": replace(now, flash=now.flash - 1)}
    monkeypatch.setattr(sizes, "load", lambda path: agreed)
    done = run.invoke(cli, ["build", "--board", "microbit", "--check"])
    assert done.exit_code == 0, done.output
    agreed["microbit"] = replace(now, flash=int(now.flash / 1.03))
    refused = run.invoke(cli, ["build", "--board", "microbit", "--check", "--json"])
    assert isinstance(refused.exception, BuildError) or refused.exit_code != 0
    assert run.invoke(cli, ["build", "--board", "microbit"]).exit_code == 0, (
        "growth is refused when asked only"
    )


@compiled
def test_the_modules_of_a_board_are_shown() -> None:
    shown = CliRunner().invoke(cli, ["build", "--board", "microbit", "--modules"])
    assert "bytes of flash, by module" in shown.output
    told = CliRunner().invoke(cli, ["build", "--board", "microbit", "--json"])
    (row,) = json.loads(told.stdout)
    assert row["modules"]["the model"]["flash"] == row["model_bytes"]


@pytest.mark.parametrize(
    "more", [["--check", "--all-operators"], ["--record", " "], ["--record", "x", "--model", "m.tflite"]]
)
def test_only_the_agreed_model_is_compared(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.tflite").write_bytes(b"")
    assert CliRunner().invoke(cli, ["build", "--board", "microbit", *more]).exit_code == 2
