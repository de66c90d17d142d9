"""Elements of HTML and SVG, written so that both an HTML and an XML parser read them the same.

    el("p", "a < b ", el("b", "no"), id="x")       <p id="x">a &lt; b <b>no</b></p>

Every text and every attribute is escaped when it is written, and there is no way to put markup in as text: a
device may be called anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

#: HTML elements that have no content and no end tag.
VOID = frozenset({"meta", "br", "hr", "col", "wbr"})

#: What XML cannot hold, not even escaped.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9:-]*")

Value: TypeAlias = str | int | float | None
Child: TypeAlias = "Element | str | int | None"


def text(value: str) -> str:
    """A text as it is written: escaped, characters that XML cannot hold replaced by U+FFFD."""
    clean = _UNWRITABLE.sub("\ufffd", value)
    for raw, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        clean = clean.replace(raw, written)
    return clean


def number(value: float) -> str:
    """A coordinate: at most two decimals, no exponent, no -0."""
    short = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if short in ("-0", "") else short


@dataclass(frozen=True)
class Element:
    """An element. Attributes whose value is None are left out."""

    name: str
    attributes: tuple[tuple[str, Value], ...]
    children: tuple[Child, ...]

    def __str__(self) -> str:
        return "".join(self._parts())

    def _parts(self) -> Iterator[str]:
        yield f"<{self.name}"
        for key, value in self.attributes:
            if value is not None:
                yield f' {key}="{text(value) if isinstance(value, str) else number(value)}"'
        if self.name in VOID:
            yield "/>"
            return
        yield ">"
        for child in self.children:
            if isinstance(child, Element):
                yield from child._parts()
            elif child is not None:
                yield text(str(child))
        yield f"</{self.name}>"


def el(name: str, /, *children: Child, **attributes: Value) -> Element:
    """An element. In names of attributes, a final "_" is dropped (class_) and others become "-".

    ValueError for what is no name.
    """
    pairs = tuple((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    for candidate in (name, *(key for key, _ in pairs)):
        if not _NAME.fullmatch(candidate):
            raise ValueError(f"{candidate!r} is no name of an element or attribute")
    if name in VOID and children:
        raise ValueError(f"<{name}> has no content")
    return Element(name, pairs, children)


def table(
    caption: str,
    header: tuple[str, ...],
    rows: list[tuple[Child, ...]],
    *,
    align: str = "",
    class_: str | None = None,
) -> Element:
    """A table whose first column heads its rows.

    align: a letter a column, "l" or "r"; by default the first column is left and the others right.
    """
    letters = align or "l" + "r" * (len(header) - 1)
    classes = [None if letter == "l" else "n" for letter in letters]
    head = el("tr", *(el("th", h, scope="col", class_=c) for h, c in zip(header, classes, strict=True)))
    body = []
    for row in rows:
        first, *rest = (
            el("td" if i else "th", cell, scope=None if i else "row", class_=c)
            for i, (cell, c) in enumerate(zip(row, classes, strict=True))
        )
        body.append(el("tr", first, *rest))
    whole = el("table", el("caption", caption), el("thead", head), el("tbody", *body), class_=class_)
    # A wide table scrolls by itself, and a person without a mouse can reach it.
    return el("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)
