"""A bar a device: stacked by kind, side by side, or as points on a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kilofed.page.markup import Child, Element, el
from kilofed.page.scales import Scale, percent, short, ticks
from kilofed.page.svg import CHAR, KINDS, box, drawing, label, legend, line, mark

WIDTH = 560.0
_NAME = 132.0  # for the names at the left
_TOP, _BOTTOM = 28.0, 40.0
_NAME_CHARS = 16


@dataclass(frozen=True)
class Part:
    """A part of a bar: an amount of some kind. label: what is written into it if there is room."""

    kind: int
    amount: float
    label: str
    tip: str


def _frame(
    title: str, names: list[str], pitch: float, scale: Scale, marks: list[float], said: Callable[[float], str]
) -> list[Child]:
    """Title, names, grid and the axis under all rows."""
    bottom = _TOP + pitch * len(names)
    parts: list[Child] = [label(8, 11, title, class_="label title")]
    for tick in marks:
        parts.append(line(scale(tick), _TOP, scale(tick), bottom, "grid"))
        parts.append(label(scale(tick), bottom + 13, said(tick), anchor="middle"))
    for row, name in enumerate(names):
        middle = _TOP + pitch * (row + 0.5)
        shown = label(_NAME - 8, middle, short(name, _NAME_CHARS), anchor="end")
        parts.append(el("g", el("title", name), shown))
    return parts


def stacked(
    title: str,
    rows: list[tuple[str, list[Part]]],
    said: Callable[[float], str],
    description: str,
    *,
    unit: str,
) -> Element:
    """A bar a row, made of parts; its sum is written behind it. said: writes an amount. unit: of the axis."""
    pitch, thick = 26.0, 18.0
    sums = [sum(part.amount for part in parts) for _, parts in rows]
    marks = ticks(0, max([*sums, 1e-9]), 5)
    right = WIDTH - 22 - CHAR * max(len(said(total)) for total in sums) if sums else WIDTH - 22
    scale = Scale(0, marks[-1], _NAME, right)
    drawn = _frame(title, [name for name, _ in rows], pitch, scale, marks, said)
    for row, (_, parts) in enumerate(rows):
        top = _TOP + pitch * row + (pitch - thick) / 2
        at = 0.0
        for part in parts:
            if part.amount <= 0:
                continue
            x, width = scale(at), scale(at + part.amount) - scale(at)
            drawn.append(box(x, top, width, thick, f"part k{part.kind % KINDS}", part.tip))
            if CHAR * len(part.label) + 3 <= width:
                drawn.append(
                    label(x + width / 2, top + thick / 2, part.label, anchor="middle", class_="on-part")
                )
            at += part.amount
        drawn.append(label(scale(at) + 6, top + thick / 2, said(sums[row])))
    bottom = _TOP + pitch * len(rows)
    drawn.append(line(_NAME, _TOP, _NAME, bottom, "axis"))
    drawn.append(label((_NAME + right) / 2, bottom + 29, unit, anchor="middle"))
    return drawing(WIDTH, bottom + _BOTTOM, description, *drawn, least=420)


def grouped(
    title: str,
    series: list[str],
    rows: list[tuple[str, list[float | None]]],
    said: Callable[[float | None], str],
    description: str,
    *,
    unit: str,
) -> Element:
    """Bars side by side, one a series in each row; None has no bar, and a dash in its place."""
    thick = 11.0 if len(series) > 1 else 16.0
    pitch = thick * len(series) + 10
    values = [value for _, row in rows for value in row if value is not None]
    marks = ticks(0, max([*values, 1e-9]), 5)
    right = WIDTH - 22 - CHAR * max([len(said(value)) for value in values], default=1)
    scale = Scale(0, marks[-1], _NAME, right)
    drawn = _frame(title, [name for name, _ in rows], pitch, scale, marks, said)
    if len(series) > 1:
        signs = [(name, box(-5, -5, 10, 10, f"bar c{i}")) for i, name in enumerate(series)]
        drawn.append(legend(WIDTH - sum(CHAR * len(n) + 31 for n in series), 11, signs))
    for row, (name, row_values) in enumerate(rows):
        for i, value in enumerate(row_values):
            top = _TOP + pitch * row + 5 + thick * i
            tip = f"{name}, {series[i]}: {said(value)}"
            if value is not None:
                drawn.append(box(_NAME, top + 0.5, scale(value) - _NAME, thick - 1, f"bar c{i}", tip))
            end = _NAME if value is None else scale(value)
            drawn.append(label(end + 6, top + thick / 2, said(value), class_="label small"))
    bottom = _TOP + pitch * len(rows)
    drawn.append(line(_NAME, _TOP, _NAME, bottom, "axis"))
    drawn.append(label((_NAME + right) / 2, bottom + 29, unit, anchor="middle"))
    return drawing(WIDTH, bottom + _BOTTOM, description, *drawn, least=420)


def points(
    title: str,
    series: list[tuple[str, int]],
    rows: list[tuple[str, list[float | None]]],
    description: str,
    *,
    unit: str,
) -> Element:
    """Accuracies as points, one a series in each row, a little apart so that equal ones are all seen.

    series: (name, look 0 to 3).
    """
    pitch, apart = 32.0, 8.5
    values = [value for _, row in rows for value in row if value is not None]
    low = max(0.0, min(values, default=0.0) - 0.03)
    marks = [t for t in ticks(low, 1.0, 6) if -1e-9 <= t <= 1 + 1e-9]
    scale = Scale(marks[0], 1.0, _NAME + 8, WIDTH - 26)
    drawn = _frame(title, [n for n, _ in rows], pitch, scale, marks, lambda v: percent(v, 0))
    signs = [(name, mark(look, 0, 0, 4)) for name, look in series]
    drawn.append(legend(WIDTH - sum(CHAR * len(n) + 31 for n, _ in series), 11, signs))
    for row, (name, row_values) in enumerate(rows):
        middle = _TOP + pitch * (row + 0.5)
        if row:
            drawn.append(line(8, middle - pitch / 2, WIDTH - 26, middle - pitch / 2, "grid"))
        for i, value in enumerate(row_values):
            if value is None:
                continue
            y = middle + apart * (i - (len(series) - 1) / 2)
            drawn.append(mark(series[i][1], scale(value), y, 4, f"{name}, {series[i][0]}: {percent(value)}"))
    bottom = _TOP + pitch * len(rows)
    drawn.append(line(_NAME, bottom, WIDTH - 18, bottom, "axis"))
    drawn.append(label((_NAME + WIDTH - 26) / 2, bottom + 29, unit, anchor="middle"))
    return drawing(WIDTH, bottom + _BOTTOM, description, *drawn, least=420)
