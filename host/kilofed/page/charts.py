"""Curves over rounds, with reference lines, each named at its end."""

from __future__ import annotations

from dataclasses import dataclass

from kilofed.page.markup import Child, Element, el, number
from kilofed.page.scales import Scale, percent, ticks, whole_ticks
from kilofed.page.svg import drawing, label, line, mark

WIDTH, HEIGHT = 560.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 132.0, 30.0, 42.0
_MARKS_UP_TO = 80  # points of a curve that get marks; more would run together
_GAP = 16.0  # between two names at the right edge


@dataclass(frozen=True)
class Curve:
    """A series over rounds: (round, accuracy 0..1 or None for a gap). series: its look, 0 to 3."""

    name: str
    series: int
    points: tuple[tuple[int, float | None], ...]

    @property
    def known(self) -> list[tuple[int, float]]:
        """The points without the gaps."""
        return [(x, y) for x, y in self.points if y is not None]


@dataclass(frozen=True)
class Reference:
    """A figure that does not depend on rounds, as a line across."""

    name: str
    series: int
    value: float


def accuracy_curves(title: str, curves: list[Curve], references: list[Reference]) -> Element | None:
    """Curves of accuracy by round. title: what is measured on what. None when there is nothing to draw."""
    curves = [c for c in curves if c.known]
    values = [y for c in curves for _, y in c.known] + [r.value for r in references]
    if not curves:
        return None
    rounds = [x for c in curves for x, _ in c.known]
    first, last = min(rounds), max(rounds)
    marks = [t for t in ticks(max(0.0, min(values) - 0.02), max(values), 6) if -1e-9 <= t <= 1 + 1e-9]
    low, high = marks[0], max(marks[-1], max(values))
    y = Scale(low, high, HEIGHT - _BOTTOM, _TOP)
    x = Scale(first - 0.5, last + 0.5, _LEFT, WIDTH - _RIGHT)
    right = WIDTH - _RIGHT
    parts: list[Child] = [label(8, 11, title, class_="label title")]
    for tick in marks:
        parts.append(line(_LEFT, y(tick), right, y(tick), "grid"))
        # Steps below one per cent need their decimal.
        digits = 0 if abs(tick * 100 - round(tick * 100)) < 1e-6 else 1
        parts.append(label(_LEFT - 7, y(tick), percent(tick, digits), anchor="end"))
    for tick in whole_ticks(first, last, 8):
        parts.append(line(x(tick), HEIGHT - _BOTTOM, x(tick), HEIGHT - _BOTTOM + 4, "axis"))
        parts.append(label(x(tick), HEIGHT - _BOTTOM + 14, str(tick), anchor="middle"))
    parts.append(line(_LEFT, HEIGHT - _BOTTOM, right, HEIGHT - _BOTTOM, "axis"))
    parts.append(label((_LEFT + right) / 2, HEIGHT - 9, "round", anchor="middle"))
    ends: list[tuple[float, int, str]] = []
    for reference in references:
        at = y(reference.value)
        tip = el("title", f"{reference.name}: {percent(reference.value)}")
        parts.append(el("g", tip, line(_LEFT, at, right, at, f"curve reference c{reference.series}")))
        ends.append((at, reference.series, f"{reference.name} {percent(reference.value)}"))
    for curve in curves:
        for piece in _pieces(curve):
            path = " ".join(f"{number(x(a))},{number(y(b))}" for a, b in piece)
            parts.append(el("polyline", points=path, class_=f"curve c{curve.series}"))
        if len(curve.known) <= _MARKS_UP_TO:
            parts += [
                mark(curve.series, x(a), y(b), 2.8, f"{curve.name}, round {a}: {percent(b)}")
                for a, b in curve.known
            ]
        ends.append((y(curve.known[-1][1]), curve.series, f"{curve.name} {percent(curve.known[-1][1])}"))
    places = spread([at for at, _, _ in ends], _GAP, _TOP, HEIGHT - _BOTTOM)
    for (at, series, name), place in zip(ends, places, strict=True):
        parts.append(
            el(
                "polyline",
                points=f"{number(right + 2)},{number(at)} {number(right + 9)},{number(place)}",
                class_=f"leader c{series}",
            )
        )
        parts.append(mark(series, right + 14, place, 3.6))
        parts.append(label(right + 22, place, name))
    return drawing(WIDTH, HEIGHT, _in_words(title, curves, references), *parts, least=420)


def _pieces(curve: Curve) -> list[list[tuple[int, float]]]:
    """The stretches of a curve between its gaps."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for round_, value in curve.points:
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((round_, value))
    return [piece for piece in pieces if len(piece) > 1]


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Places near those wanted, at least `gap` apart and in the same order; within low..high if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    at = low
    for i in order:
        places[i] = at = max(at, wanted[i])
        at += gap
    at = high
    for i in reversed(order):
        if places[i] <= at:
            break
        places[i] = at
        at -= gap
    return places


def _in_words(title: str, curves: list[Curve], references: list[Reference]) -> str:
    said = [
        f"{c.name} from {percent(c.known[0][1])} in round {c.known[0][0]}"
        f" to {percent(c.known[-1][1])} in round {c.known[-1][0]}"
        for c in curves
    ]
    return f"{title}: {'; '.join([*said, *(f'{r.name} {percent(r.value)}' for r in references)])}."
