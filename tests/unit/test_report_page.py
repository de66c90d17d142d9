"""The report as a page: well formed, free of scripts, true to the store, and safe from names.

The page is read by an XML parser (which takes nothing that is not well formed) and by an HTML parser (which
is what a browser has); both must see the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.report_run import COMMAND, HOSTILE, NAMES, made_confusion, make_run

from kilofed.cli import run as kilofed
from kilofed.errors import RunFolderError
from kilofed.page import render, write_page
from kilofed.page.facts import Facts, facts_of
from kilofed.page.grids import confusion_matrix
from kilofed.page.markup import VOID
from kilofed.page.scales import percent, size
from kilofed.page.sections import page
from kilofed.report import report
from kilofed.store import open_run

XHTML, SVG = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture(scope="module")
def facts(folder: Path) -> Facts:
    with open_run(folder) as run:
        return facts_of(run)


@pytest.fixture(scope="module")
def text(facts: Facts) -> str:
    return page(facts)


@pytest.fixture(scope="module")
def tree(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))


class Tags(HTMLParser):
    """What a browser's parser makes of a page: start and end tags, and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID, f"<{tag}/> has no meaning in HTML"
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def tables(tree: ElementTree.Element) -> dict[str, list[list[str]]]:
    """First sentence of a table's caption -> its rows, the header first."""
    found = {}
    for table in tree.iter(f"{XHTML}table"):
        caption = "".join(table.find(f"{XHTML}caption").itertext())  # type: ignore[union-attr]
        rows = [["".join(cell.itertext()) for cell in row] for row in table.iter(f"{XHTML}tr")]
        found[re.split(r"[.:]", caption)[0]] = rows
    return found


# ---- form ----------------------------------------------------------------------------------------


def test_a_browser_and_an_xml_parser_see_the_same(text: str, tree: ElementTree.Element) -> None:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    assert tags.names == [element.tag.split("}")[1].lower() for element in tree.iter()]
    assert "".join(tags.texts).strip() == "".join(tree.itertext()).strip()


def test_nothing_runs_and_nothing_is_fetched(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "foreignobject", "use"} & set(
        tags.names
    )
    for name, value in tags.attributes:
        assert not name.startswith("on"), name
        assert name not in ("href", "src", "action", "data"), name
        assert "url(" not in (value or "")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in dict(tags.attributes).values() or "default-src" in text
    addresses = set(re.findall(r"https?://[^\"&<\s]+", text))
    assert addresses <= {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}


def test_a_hostile_name_is_text_and_nothing_else(text: str, tree: ElementTree.Element) -> None:
    assert "<script" not in text
    assert HOSTILE not in text
    devices = tables(tree)["Devices"]
    assert [row[0] for row in devices[1:]] == sorted(NAMES)
    assert devices[1][:2] == [HOSTILE, "<b>none</b>"]
    tips = ["".join(t.itertext()) for t in tree.iter(f"{SVG}title")]
    assert any(HOSTILE in tip for tip in tips)


@pytest.mark.parametrize(
    "hostile", ["\0\x1b[2J", "\ud800", "]]>", "<!--", "&#0;", "\u202e", "'\"", "x" * 5000]
)
def test_any_name_leaves_the_page_well_formed(facts: Facts, hostile: str) -> None:
    device = dataclasses.replace(facts.devices[0], name=hostile, board=hostile)
    labels = (hostile, *facts.labels[1:])
    lost = (dataclasses.replace(facts.lost[0], device=hostile, reason=hostile),)
    content = page(
        dataclasses.replace(
            facts, devices=(device,), labels=labels, lost=lost, name=hostile, command=hostile, version=hostile
        )
    )
    content.encode()
    ElementTree.fromstring(content.removeprefix("<!DOCTYPE html>"))


def test_it_says_in_words_what_it_draws(tree: ElementTree.Element) -> None:
    drawings = list(tree.iter(f"{SVG}svg"))
    assert len(drawings) == 9
    for drawing in drawings:
        assert drawing.get("role") == "img"
        assert len(drawing.get("aria-label") or "") > 40
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for element in tree.iter():
        if element.get("aria-labelledby"):
            assert element.get("aria-labelledby") in ids
    assert tree.get("lang") == "en"
    levels = [int(e.tag[-1]) for e in tree.iter() if re.fullmatch(XHTML + "h[1-6]", e.tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    for table in tree.iter(f"{XHTML}table"):
        rows = [list(row) for row in table.iter(f"{XHTML}tr")]
        assert all(cell.get("scope") == "col" for cell in rows[0])
        assert all(row[0].get("scope") == "row" for row in rows[1:])
        assert {len(row) for row in rows} == {len(rows[0])}


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_what_is_written_can_be_read_in_light_and_in_dark(text: str) -> None:
    """WCAG 2: 4.5 for text, 3 for what is drawn."""
    style = text[text.index("<style>") : text.index("</style>")]
    blocks = re.findall(r":root\s*\{(.*?)\}", style, re.S)
    assert len(blocks) == 3
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[0]))
    kinds = re.findall(r"\.k\d \{ fill: (#[0-9a-f]{6})", style)
    assert len(kinds) == 10
    for block in blocks:
        colours = {**light, **dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))}
        for ground in ("page", "raised"):
            for ink in ("ink", "soft", "link"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
            for drawn in ("c0", "c1", "c2", "c3"):
                assert _contrast(colours[drawn], colours[ground]) >= 3, (drawn, ground)
        assert _contrast(colours["on-right"], colours["good"]) >= 4.5
        assert _contrast(colours["on-wrong"], colours["bad"]) >= 4.5
        for kind in kinds:
            assert _contrast(colours["on-part"], kind) >= 4.5, kind


# ---- figures -------------------------------------------------------------------------------------


def test_the_figures_are_the_stores(folder: Path, tree: ElementTree.Element) -> None:
    figures = report(folder)
    found = tables(tree)
    rounds = found["Rounds"][1:]
    assert len(rounds) == figures["rounds"] + 1
    for row, entry in zip(rounds, figures["round_table"], strict=False):
        assert row == [
            str(entry["round"]), percent(entry["accuracy"]), percent(entry["held_out"]),
            percent(entry["own"]),
            f"{entry['loss']:.3f}", f"{entry['taken']}/{entry['cohort']}", str(entry["samples"]),
            f"{entry['seconds']:.2f}", size(entry["up"]), size(entry["down"]), entry["ended"],
        ]  # fmt: skip
    devices = found["Devices"][1:]
    for row, device in zip(devices, figures["device_table"], strict=True):
        assert row[3:6] == [
            str(device["samples"]),
            str(device["held_out"]),
            f"{device['taken']}/{device['taken'] + device['dropped']}",
        ]
        assert row[7:11] == [
            percent(device["federated"]),
            percent(device["personal"]),
            size(device["up"]),
            size(device["down"]),
        ]
    tiles = [e.text for e in tree.iter(f"{XHTML}dd")]
    accuracy = figures["accuracy"]
    assert tiles[:4] == [percent(accuracy[k]) for k in ("federated", "alone", "central", "personal")]  # type: ignore[literal-required]


def test_each_point_of_a_curve_says_its_figure(folder: Path, tree: ElementTree.Element) -> None:
    tips = {"".join(t.itertext()) for t in tree.iter(f"{SVG}title")}
    for entry in report(folder)["round_table"]:
        assert f"global, round {entry['round']}: {percent(entry['accuracy'])}" in tips
        assert f"personal, round {entry['round']}: {percent(entry['own'])}" in tips
        if entry["round"] > 1:
            assert f"global, round {entry['round'] - 1}: {percent(entry['held_out'])}" in tips
    assert "alone: 41.2 %" in tips
    assert "central: 93.8 %" in tips


def test_points_lie_where_their_figures_put_them(folder: Path, tree: ElementTree.Element) -> None:
    drawing = next(iter(tree.iter(f"{SVG}svg")))
    points = {
        int(found[1]): (float(c.get("cx") or 0), float(c.get("cy") or 0))
        for c in drawing.iter(f"{SVG}circle")
        if (found := re.match(r"global, round (\d+):", "".join(c.itertext())))
    }
    rows = {r["round"]: r["accuracy"] or 0.0 for r in report(folder)["round_table"]}
    assert set(points) == set(rows)
    (x1, y1), (x7, y7) = points[1], points[7]
    for number, (x, y) in points.items():
        assert x == pytest.approx(x1 + (x7 - x1) * (number - 1) / 6, abs=0.02)
        assert y == pytest.approx(y1 + (y7 - y1) * (rows[number] - rows[1]) / (rows[7] - rows[1]), abs=0.02)
    assert y7 < y1
    polyline = next(p for p in drawing.iter(f"{SVG}polyline") if p.get("class") == "curve c0")
    drawn = [tuple(map(float, pair.split(","))) for pair in (polyline.get("points") or "").split()]
    assert drawn == [points[n] for n in sorted(points)]


def test_bars_are_as_long_as_their_figures(folder: Path, tree: ElementTree.Element) -> None:
    bars = {
        "".join(r.itertext()): float(r.get("width") or 0)
        for r in tree.iter(f"{SVG}rect")
        if (r.get("class") or "").startswith("bar") and len(r)
    }
    lengths = []
    for device in report(folder)["device_table"]:
        for which in ("up", "down"):
            amount = device[which]  # type: ignore[literal-required]
            lengths.append((amount, bars[f"{device['name']}, {which}: {size(amount)}"]))
    for amount, length in lengths:
        assert length / amount == pytest.approx(lengths[0][1] / lengths[0][0], rel=1e-3)


def test_the_confusion_matrix_is_the_stored_one(tree: ElementTree.Element) -> None:
    counts = made_confusion()
    found = tables(tree)
    assert [[int(n) for n in row[1:]] for row in found["Counts"][1:]] == counts
    assert found["Counts"][0] == ["is \\ says", *(str(i) for i in range(10))]
    nine = found["Classes"][-1]
    assert nine[2:] == ["0", "0.0 %", "–", f"4 ({counts[9][4]})"], "a class that is never named has no share"
    tips = {"".join(t.itertext()) for t in tree.iter(f"{SVG}title")}
    assert (
        f"9 taken for 4: {counts[9][4]} of {sum(counts[9])} ({percent(counts[9][4] / sum(counts[9]))})"
        in tips
    )


def test_what_was_dropped_is_told_with_its_reason(folder: Path, tree: ElementTree.Element) -> None:
    rows = tables(tree)["Round, device and reason of each"][1:]
    wanted = [
        [str(r["round"]), d["device"], d["reason"]]
        for r in report(folder)["round_table"]
        for d in r["dropped"]
    ]
    assert wanted
    assert rows == wanted
    log = tables(tree)["The run's log, times in UTC"][1:]
    assert [row[1:] for row in log] == [
        ["anna", "boot <garbage> & noise"],
        ["–", "turned away 1234 (x), it is not registered"],
    ]


def test_the_memory_plan_is_the_files(facts: Facts, folder: Path, tree: ElementTree.Element) -> None:
    from kilofed_tools.plan import device_plan

    plan = device_plan((folder / "base.tflite").read_bytes())
    rows = tables(tree)["Areas of the arena, in bytes; written by, read last by"][1:]
    known = [(int(row[2]), int(row[3])) for row in rows]
    wanted = [(plan.offsets[t], plan.sizes[t]) for t in plan.lifetimes]
    assert known == wanted + [scratch for scratch in plan.scratch if scratch[1]]
    assert max(at + bytes_ for at, bytes_ in known) <= plan.arena_bytes
    assert f"an arena of {plan.arena_bytes} bytes" in "".join(tree.itertext())
    assert not isinstance(facts.memory, str)
    blocks = dict(facts.memory.blocks)
    assert set(blocks) == {"microbit", "mps2-an386"}, "a board that nobody knows has no block"
    assert dict(blocks["microbit"])["arena"] == plan.arena_bytes


def test_it_says_how_to_have_the_same_again(tree: ElementTree.Element) -> None:
    commands = next("".join(e.itertext()) for e in tree.iter(f"{XHTML}pre")).splitlines()
    assert commands[0] == COMMAND
    assert ["seed", "11"] in tables(tree)["Settings"]
    assert "comes from seed 11" in "".join(tree.itertext())


# ---- runs that have less -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"laboratory": False}, "There is no test set"),
        ({"laboratory": False}, "Of which class they are is known to the device alone"),
        ({"laboratory": False}, "This run has no test set to measure it on"),
        ({"finished": False}, "Stopped after 7 of 7 rounds"),
        ({"finished": False}, "It is measured when the run is finished"),
        ({"rounds": 0, "finished": False}, "No round has ended yet"),
        ({"rounds": 1}, "Nothing was dropped"),
    ],
)
def test_what_is_not_known_is_said(tmp_path: Path, options: dict[str, bool], words: str) -> None:
    with open_run(make_run(tmp_path / "run", **options)) as run:  # type: ignore[arg-type]
        content = render(run)
    tree = ElementTree.fromstring(content.removeprefix("<!DOCTYPE html>"))
    assert words in "".join(tree.itertext())


def test_many_classes_have_a_table_in_place_of_cells(facts: Facts) -> None:
    counts = tuple(tuple(int(r == c) for c in range(41)) for r in range(41))
    labels = tuple(f"class number {i}" for i in range(41))
    assert confusion_matrix(counts, labels) is None
    matrix = confusion_matrix(tuple(row[:40] for row in counts[:40]), labels[:40])
    assert matrix is not None
    edge = {"".join(t.itertext()) for t in ElementTree.fromstring(str(matrix)).iter(f"{SVG}text")}
    assert {"class number 0", "class number 39"} <= edge, "labels that begin alike are not cut where they do"
    devices = tuple(dataclasses.replace(d, placed=None) for d in facts.devices)
    content = page(dataclasses.replace(facts, confusion=counts, labels=labels, devices=devices))
    assert "every count as a table" in content


# ---- files and commands --------------------------------------------------------------------------


def test_report_prints_its_tables_and_where_the_page_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "run")
    assert kilofed(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "federated, then personalised" in out
    last = out.splitlines()[-1]
    assert last.startswith("page:   ")
    assert (folder / "report.html").samefile(last.split()[1])
    assert ElementTree.parse(folder / "report.html").getroot().tag == XHTML + "html"


def test_for_programs_there_are_figures_and_a_page_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "run")
    assert kilofed(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report(folder)))
    assert not (folder / "report.html").exists()
    page, events = tmp_path / "deep" / "page.html", tmp_path / "events"
    arguments = ["report", str(folder), "--json", "--out", str(page), "--tensorboard", str(events)]
    assert kilofed(arguments) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rounds"] == 7
    assert "tensorboard --logdir" in captured.err
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert list(events.rglob("*tfevents*"))


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match="cannot be written") as caught:
        write_page(folder, tmp_path / "file" / "page.html")
    assert "--out" in caught.value.next_step


# A child that is not root, where we are: root may write anywhere. What it imports it imports as root, because
# nobody may not read every Python.
_AS_NOBODY = """
import json, os, pathlib, sys
from kilofed.report import report
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(json.dumps(report(pathlib.Path(sys.argv[1]))))
"""


def test_a_run_that_may_not_be_written_to_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are for its user only
        folder = make_run(Path(name) / "run")
        wanted = report(folder)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        Path(name).chmod(0o555)
        before = sorted(p.name for p in folder.iterdir())
        done = subprocess.run([sys.executable, "-c", _AS_NOBODY, str(folder)], capture_output=True, text=True)
        after = sorted(p.name for p in folder.iterdir())
        for path in [Path(name), folder, folder / "checkpoints"]:
            path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(wanted))
    assert before == after


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_real_browser_builds_the_same_page(tmp_path: Path, text: str, tree: ElementTree.Element) -> None:
    path = tmp_path / "page.html"
    path.write_text(text)
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    built = Tags()
    built.feed(done.stdout)
    assert built.names == [element.tag.split("}")[1].lower() for element in tree.iter()]
    assert HOSTILE in "".join(built.texts)
