"""The parts all drawings share: the frame, texts, marks, tooltips.

Drawings carry no colour of their own: classes name what a thing is (c0..c3 a series, k0..k9 a kind, axis,
grid), and the page's style says how that looks in light, in dark and on paper. Lengths are CSS pixels at full
size.
"""

from __future__ import annotations

from kilofed.page.markup import Child, Element, el, number

XMLNS = "http://www.w3.org/2000/svg"
SERIES = 4  # classes c0 to c3, each with a colour, a mark and a way of dashing
KINDS = 10  # classes k0 to k9
CHAR = 6.6  # width of a character at 12 px, on the wide side


def drawing(width: float, height: float, description: str, *children: Child, least: int = 0) -> Element:
    """An SVG image. description: what it shows, in words, for those who do not see it. least: pixels of width
    below which it is scrolled rather than shrunk."""
    return el(
        "svg",
        *children,
        xmlns=XMLNS,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=description,
        style=f"max-width:{number(width)}px" + (f";min-width:{least}px" if least else ""),
    )


def label(
    x: float, y: float, content: str, *, anchor: str = "start", class_: str = "label", turn: float = 0
) -> Element:
    """A text whose middle line is at y. anchor: start, middle or end. turn: degrees about (x, y)."""
    transform = f"rotate({number(turn)} {number(x)} {number(y)})" if turn else None
    return el("text", content, x=x, y=y, dy="0.35em", text_anchor=anchor, class_=class_, transform=transform)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Element:
    """A straight line."""
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def box(
    x: float, y: float, width: float, height: float, class_: str, tip: str = "", opacity: float | None = None
) -> Element:
    """A rectangle with a tooltip."""
    inside = [el("title", tip)] if tip else []
    return el(
        "rect",
        *inside,
        x=x,
        y=y,
        width=max(0.0, width),
        height=max(0.0, height),
        class_=class_,
        fill_opacity=opacity,
    )


def mark(series: int, x: float, y: float, radius: float, tip: str = "") -> Element:
    """A point of a series, in its shape: circle, diamond, square, triangle."""
    inside = [el("title", tip)] if tip else []
    style = f"mark c{series % SERIES}"
    if series % SERIES == 0:
        return el("circle", *inside, cx=x, cy=y, r=radius, class_=style)
    r = radius * 1.25
    corners = {
        1: ((0, -r), (r, 0), (0, r), (-r, 0)),
        2: ((-radius, -radius), (radius, -radius), (radius, radius), (-radius, radius)),
        3: ((0, -r), (r, radius), (-r, radius)),
    }[series % SERIES]
    points = " ".join(f"{number(x + dx)},{number(y + dy)}" for dx, dy in corners)
    return el("polygon", *inside, points=points, class_=style)


def legend(x: float, y: float, names: list[tuple[str, Element]]) -> Element:
    """Names beside their signs, in one line from x; the signs are drawn about (0, 0)."""
    parts: list[Child] = []
    for name, sign in names:
        parts.append(el("g", sign, transform=f"translate({number(x + 5)} {number(y)})"))
        parts.append(label(x + 15, y, name))
        x += 15 + CHAR * len(name) + 16
    return el("g", *parts)
