"""What drawings are made of: elements, scales, places of names."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilofed.page.bars import Part, grouped, points, stacked
from kilofed.page.charts import Curve, Reference, accuracy_curves, spread
from kilofed.page.markup import Element, el, number, table, text
from kilofed.page.scales import Scale, percent, seconds, short, size, step_of, ticks, whole_ticks
from kilofed.page.svg import SERIES, XMLNS, drawing, mark

SVG = f"{{{XMLNS}}}"


def parsed(element: Element | None) -> ElementTree.Element:
    assert element is not None
    return ElementTree.fromstring(str(element))


# ---- elements ------------------------------------------------------------------------------------


def _writable(c: str) -> bool:
    """Whether XML 1.0 can hold a character (section 2.2)."""
    return c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff"


@given(st.text(), st.text())
def test_any_text_comes_back_from_a_parser(content: str, attribute: str) -> None:
    tree = parsed(el("p", content, title=attribute))
    clean = ["".join(c if _writable(c) else "\ufffd" for c in raw) for raw in (content, attribute)]
    # A parser makes line ends "\n", and spaces of any in attributes.
    lines = [c.replace("\r\n", "\n").replace("\r", "\n") for c in clean]
    assert (tree.text or "") == lines[0]
    assert tree.get("title") == lines[1].replace("\n", " ").replace("\t", " ")


def test_elements_are_written_for_both_parsers() -> None:
    assert str(el("p", "a < b ", el("b", "no"), None, 7, id="x", class_="y")) == (
        '<p id="x" class="y">a &lt; b <b>no</b>7</p>'
    )
    assert str(el("meta", charset="utf-8", name=None)) == '<meta charset="utf-8"/>'
    assert str(el("td")) == "<td></td>"
    assert str(el("rect", stroke_width=1.5, x=-0.001)) == '<rect stroke-width="1.5" x="0"></rect>'


@pytest.mark.parametrize("name", ["", "a b", "a>", "1a", "on click="])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        el(name)
    with pytest.raises(ValueError, match="no name"):
        el("p", **{name: "x"})
    with pytest.raises(ValueError, match="no content"):
        el("br", "x")


def test_text_is_escaped_once() -> None:
    assert text("&lt;'\"") == "&amp;lt;&#39;&quot;"
    assert [number(v) for v in (1.0, 2.345, -0.0, 1e-9, 1e6, -1.5)] == [
        "1",
        "2.35",
        "0",
        "0",
        "1000000",
        "-1.5",
    ]


def test_a_table_needs_a_cell_for_every_column() -> None:
    rows = list(parsed(table("x", ("a", "b"), [("1", 2)])).iter("tr"))
    assert [cell.tag for cell in rows[1]] == ["th", "td"]
    assert [cell.get("class") for cell in rows[1]] == [None, "n"]
    with pytest.raises(ValueError, match="zip"):
        table("x", ("a", "b"), [("1",)])


# ---- scales --------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e9), st.integers(1, 20))
def test_steps_are_round_and_few(span: float, count: int) -> None:
    step = step_of(span, count)
    assert span / step <= count * (1 + 1e-6)
    digits = f"{step:.3e}".split("e")[0]
    assert digits in ("1.000", "2.000", "5.000")


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_enclose_what_is_drawn(low: float, span: float, count: int) -> None:
    found = ticks(low, low + span, count)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= low + span - 1e-6 * step
    assert len(found) <= count + 2
    assert all(b > a for a, b in zip(found, found[1:]))  # noqa: B905, RUF007


def test_ticks_of_nothing_are_still_an_axis() -> None:
    assert ticks(0.0, 0.0, 5)[0] == 0
    assert len(ticks(3.0, 3.0, 5)) > 1


@given(st.integers(0, 500), st.integers(0, 10_000))
def test_rounds_are_whole_and_both_ends_are_named(low: int, span: int) -> None:
    found = whole_ticks(low, low + span, 8)
    assert (found[0], found[-1]) == (low, low + span)
    assert len(found) <= 10
    assert found == sorted(set(found))


def test_a_scale_is_a_line() -> None:
    scale = Scale(2, 4, 100, 20)
    assert [scale(v) for v in (2, 3, 4)] == [100, 60, 20]


def test_figures_in_short() -> None:
    assert [percent(v) for v in (None, 0.94117, 1.0)] == ["–", "94.1 %", "100.0 %"]
    assert [size(v) for v in (None, 0, 9999, 10_000, 2_340_000)] == [
        "–",
        "0 B",
        "9999 B",
        "10.0 kB",
        "2.3 MB",
    ]
    assert [seconds(v) for v in (None, 0.0381, 1.25, 75.04)] == ["–", "38 ms", "1.25 s", "75.0 s"]
    assert [short(v, 4) for v in ("", "abcd", "abcde")] == ["", "abcd", "abc…"]


# ---- drawings ------------------------------------------------------------------------------------


@given(st.lists(st.floats(30, 258), max_size=8))
def test_names_keep_apart_in_their_order(wanted: list[float]) -> None:
    places = spread(wanted, 16, 30, 258)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    assert all(places[b] - places[a] >= 16 - 1e-9 for a, b in zip(order, order[1:]))  # noqa: B905, RUF007
    assert all(30 - 1e-9 <= place <= 258 + 1e-9 for place in places)


def test_more_names_than_fit_do_not_fail() -> None:
    assert len(spread([100.0] * 30, 16, 30, 258)) == 30


def test_a_gap_in_a_curve_is_not_bridged() -> None:
    curve = Curve("global", 0, ((1, 0.1), (2, 0.2), (3, None), (4, 0.4), (5, 0.5)))
    lines = [
        p
        for p in parsed(accuracy_curves("t", [curve], [])).iter(f"{SVG}polyline")
        if p.get("class") == "curve c0"
    ]
    assert [len((p.get("points") or "").split()) for p in lines] == [2, 2]


def test_one_round_and_equal_figures_can_be_drawn() -> None:
    one = accuracy_curves("t", [Curve("global", 0, ((1, 0.5),))], [Reference("alone", 3, 0.5)])
    assert "global from 50.0 % in round 1" in (parsed(one).get("aria-label") or "")
    flat = accuracy_curves("t", [Curve("a", 0, ((1, 1.0), (2, 1.0)))], [])
    heights = {float(c.get("cy") or -1) for c in parsed(flat).iter(f"{SVG}circle")}
    assert all(0 <= h <= 300 for h in heights)
    assert accuracy_curves("t", [Curve("a", 0, ((1, None),))], [Reference("x", 1, 0.5)]) is None
    assert accuracy_curves("t", [], []) is None


def test_long_runs_have_no_marks_that_run_together() -> None:
    curve = Curve("a", 0, tuple((i, i / 1000) for i in range(1, 1001)))
    assert len(list(parsed(accuracy_curves("t", [curve], [])).iter(f"{SVG}circle"))) == 1  # that of its name


def test_series_differ_in_shape_too() -> None:
    shapes = {str(mark(i, 0, 0, 4)).replace(f"c{i}", "") for i in range(SERIES)}
    assert len(shapes) == SERIES


def test_nothing_leaves_the_frame() -> None:
    rows = [
        (f"device {i} with a long name", [Part(k, 10.0**k, f"class {k}", "tip") for k in range(6)])
        for i in range(3)
    ]
    pairs: list[tuple[str, list[float | None]]] = [("a", [1e6, None]), ("b", [0.0, 3.0])]
    shares: list[tuple[str, list[float | None]]] = [("a", [0.0, 1.0]), ("b", [None, 0.5])]
    for made in (
        stacked("t", rows, lambda v: f"{v:.0f}", "words", unit="u"),
        grouped("t", ["up", "down"], pairs, size, "words", unit="u"),
        points("t", [("x", 0), ("y", 1)], shares, "words", unit="u"),
        stacked("t", [("empty", [])], lambda v: f"{v:.0f}", "words", unit="u"),
    ):
        tree = parsed(made)
        _, _, width, height = map(float, (tree.get("viewBox") or "").split())
        for box in tree.iter(f"{SVG}rect"):
            x, y, w, h = (float(box.get(k) or 0) for k in ("x", "y", "width", "height"))
            if box.get("x") == "-5":
                continue  # a sign of the legend, moved into place
            assert 0 <= x <= x + w <= width + 0.01
            assert 0 <= y <= y + h <= height + 0.01
        for label in tree.iter(f"{SVG}text"):
            assert 0 <= float(label.get("x") or 0) <= width
            assert 0 <= float(label.get("y") or 0) <= height


def test_a_drawing_may_have_a_least_width() -> None:
    assert parsed(drawing(10, 20, "words", least=5)).get("style") == "max-width:10px;min-width:5px"
    assert parsed(drawing(10, 20, "words")).get("style") == "max-width:10px"
