"""A profile as one picture: a bar an operator, its parts the functions; and below it the RAM in use."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

from kilofed.page.bars import WIDTH, Part, grouped, stacked
from kilofed.page.markup import Element, el
from kilofed.page.scales import size
from kilofed.page.svg import CHAR, KINDS, box, label
from kilofed.profiling.profile import OperatorProfile, Profile

_ROW, _LINE = 14.0, 18.0


def svg(profile: Profile) -> str:
    """An SVG document with its own style, for browsers and for documents."""
    names = list(profile.functions)[: KINDS - 1]
    legend = _legend(names, more=len(profile.functions) > len(names))
    parts, y = [], 0.0
    for drawing, height in (_sized(_bars(profile, names)), legend, _sized(_ram(profile))):
        parts.append(el("g", drawing, transform=f"translate(0 {y:g})"))
        y += height
    style = resources.files("kilofed.page").joinpath("page.css").read_text(encoding="utf-8")
    document = el(
        "svg",
        el("style", f"{style}\nsvg svg {{ overflow: visible; }}"),
        el("rect", width=WIDTH, height=y, style="fill: var(--page)"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        width=WIDTH,
        height=y,
        viewBox=f"0 0 {WIDTH:g} {y:g}",
        role="img",
        aria_label=f"profile of a model on {profile.board}",
    )
    return f"{document}\n"


def _bars(profile: Profile, names: list[str]) -> Element:
    rows = []
    for operator in profile.operators:
        parts = []
        rest = 0
        for name, cost in operator.functions.items():
            if name in names:
                tip = f"{name}: {cost.instructions} instructions"
                parts.append(Part(names.index(name), cost.instructions, "", tip))
            else:
                rest += cost.instructions
        parts.append(Part(KINDS - 1, rest, "", f"other functions: {rest} instructions"))
        rows.append((_name(operator), parts))
    total = profile.cost
    title = f"{total.instructions:,} instructions on {profile.board}".replace(",", " ")
    return stacked(title, rows, _millions, "instructions of each operator, by function", unit="instructions")


def _legend(names: list[str], *, more: bool) -> tuple[Element, float]:
    """Names of the functions, in as many lines as they need; and its height."""
    x, y = 8.0, _ROW
    parts: list[Element] = []
    for kind, name in [*enumerate(names), *([(KINDS - 1, "others")] if more else [])]:
        width = 15 + CHAR * len(name) + 16
        if x + width > WIDTH and x > 8:
            x, y = 8.0, y + _LINE
        parts += [box(x, y - 5, 10, 10, f"part k{kind}"), label(x + 15, y, name, class_="label small")]
        x += width
    return el("g", *parts), y + 2 * _LINE


def _ram(profile: Profile) -> Element:
    rows: list[tuple[str, list[float | None]]] = [
        (_name(operator), [float(operator.ram)]) for operator in profile.operators
    ]
    title = f"RAM in use, {profile.arena} bytes of arena in all"
    return grouped(title, ["RAM"], rows, size, "bytes of the arena in use at each operator", unit="bytes")


def _name(operator: OperatorProfile) -> str:
    """Short, since there is little room: "1 depthwise conv"."""
    return f"{operator.index} {operator.name.removesuffix('_2D').replace('_', ' ').lower()}"


def _sized(drawing: Element) -> tuple[Element, float]:
    """A drawing of kilofed.page at its full size, as a part of another; and the height it takes."""
    attributes = dict(drawing.attributes)
    _, _, width, height = str(attributes["viewBox"]).split()
    attributes |= {"width": width, "height": height, "style": None}
    return replace(drawing, attributes=tuple(attributes.items())), float(height) + 8


def _millions(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 100_000 else f"{value / 1e3:.1f} k"
