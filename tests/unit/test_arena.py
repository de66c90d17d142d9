"""The memory plan, told: areas, map and drawing say what the plan says."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from kilofed.arena import arena_of
from kilofed.cli import cli, run
from kilofed.inspection import inspect
from kilofed_tools.metadata import PLANS, write_metadata
from kilofed_tools.plan import device_plan, with_plan
from kilofed_tools.tflite import read_model

MODEL = (Path(__file__).resolve().parents[2] / "models/digits/digits.tflite").read_bytes()
SVG = "{http://www.w3.org/2000/svg}"


def bare() -> bytes:
    """The model without a plan."""
    model = MODEL
    for name in PLANS:
        model = write_metadata(model, name, None)
    return model


@pytest.mark.parametrize("model", [bare(), with_plan(bare()), with_plan(bare(), standard=True)])
def test_areas_are_the_plan(model: bytes) -> None:
    plan, told = device_plan(model), arena_of(model)
    assert told.arena_bytes == plan.arena_bytes
    assert told.bound_bytes == plan.bound_bytes
    assert told.from_file == plan.from_file
    assert told.groups == tuple((group.first, group.last) for group in plan.groups)
    tensors = {area.tensor: area for area in told.areas if not area.scratch}
    assert tensors.keys() == plan.lifetimes.keys()
    for tensor, area in tensors.items():
        assert (area.offset, area.size) == (plan.offsets[tensor], plan.sizes[tensor])
        assert (area.first, area.last) == plan.lifetimes[tensor]
    scratch = [(area.offset, area.size) for area in told.areas if area.scratch]
    assert scratch == [place for place in plan.scratch if place[1]]


def test_what_shares_a_place_is_said() -> None:
    """Every two areas that meet in place and time are said to do so, and no others."""
    told = arena_of(with_plan(bare()))
    said = {(area.tensor, other) for area in told.areas for other in area.over}
    meet = set()
    for a in told.areas:
        for b in told.areas:
            together = a.first <= b.last and b.first <= a.last
            if a is not b and together and a.offset < b.offset + b.size and b.offset < a.offset + a.size:
                assert not a.scratch
                assert not b.scratch
                meet.add((a.tensor, b.tensor) if a.last > b.last else (b.tensor, a.tensor))
    assert said == meet
    assert said
    rings = [area for area in told.areas if area.rows]
    assert rings
    for area in rings:
        whole = read_model(MODEL).tensors[area.tensor]
        assert area.size * whole.shape[1] == whole.size_bytes * area.rows
        assert area.of_rows == whole.shape[1]


def test_the_map_shows_every_tensor_where_it_lies() -> None:
    told = arena_of(with_plan(bare()))
    lines = told.lines()
    rows = [line.split("|")[1] for line in lines if "|" in line]
    low = [int(line.split("|")[0]) for line in lines if "|" in line]
    assert low == sorted(low, reverse=True)
    assert low[-1] == 0
    for row in rows:
        assert len(row) == 3 * (len(told.operators) + 2)
    scale = lines[len(rows) + 1]
    assert scale.split() == ["in", *map(str, range(len(told.operators))), "out"]
    letters = dict(zip("ABCDEFGHIJ", (a for a in told.areas if not a.scratch), strict=False))
    seen = set()
    for at, row in zip(low, rows, strict=True):
        for column in range(len(told.operators) + 2):
            sign = row[3 * column + 2]
            if sign in letters:
                area = letters[sign]
                seen.add(sign)
                assert area.first <= column - 1 <= area.last
                assert area.offset < at + told.arena_bytes / len(rows) + 1
                assert area.offset + area.size > at
    assert len(seen) >= 4
    text = "\n".join(lines)
    assert "ring of" in text
    assert "over A" in text
    assert "in turns, row by row: operators 0 to 1 (CONV_2D, CONV_2D)" in text
    assert f"fullest while operators 0 to 1 run, {told.in_use(told.peak)} B" in text
    assert told.in_use(told.peak) <= told.arena_bytes


def test_the_drawing_has_a_box_an_area() -> None:
    told = arena_of(with_plan(bare()))
    tree = ElementTree.fromstring(told.svg())
    tips = [box.findtext(f"{SVG}title") for box in tree.iter(f"{SVG}rect")]
    for area in told.areas:
        assert any(tip and tip.startswith(area.name) for tip in tips), area
    assert tree.find(f"{SVG}style") is not None


def test_inspect_draws(tmp_path: Path) -> None:
    model, plot = tmp_path / "a.tflite", tmp_path / "plan.svg"
    model.write_bytes(with_plan(bare()))
    done = CliRunner().invoke(cli, ["inspect", str(model), "--board", "microbit", "--plot", str(plot)])
    assert done.exit_code == 0, done.output
    told = arena_of(model.read_bytes())
    for line in (told.summary(), *told.lines()):
        assert line in done.output
    assert plot.read_text(encoding="utf-8") == told.svg()


def test_a_drawing_is_not_called_what_it_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, plot = tmp_path / "a.tflite", tmp_path / "plan.png"
    model.write_bytes(with_plan(bare()))
    assert run(["inspect", str(model), "--plot", str(plot)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error 2: plan.png is to be a drawing, and those are SVG" in captured.err
    assert "next: give --plot a name that ends in .svg" in captured.err
    assert not plot.exists()


def test_a_model_without_a_plan_has_the_device_s_own() -> None:
    found = inspect(bare(), boards=[])
    assert found.arena is not None
    assert not found.arena.from_file
    assert found.as_json()["arena"]["arena_bytes"] == found.arena.arena_bytes
    assert found.as_json()["memory_plan"] is False
