"""From figures to places: linear scales with round ticks, and short forms of figures."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Figures low..high, low < high, drawn at start..end (in the drawing's units; end may be the smaller)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def step_of(span: float, count: int) -> float:
    """The round step (1, 2 or 5 times a power of ten) that divides `span` > 0 into at most `count` parts."""
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5, 10):
        if factor * power >= raw * (1 - 1e-9):
            return factor * power
    return 10 * power


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round figures from the last at or below `low` to the first at or above `high`: about `count`."""
    if not high > low:
        high = low + 1
    step = step_of(high - low, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def whole_ticks(low: int, high: int, count: int) -> list[int]:
    """Whole figures within low..high, both ends included, about `count` of them."""
    if high <= low:
        return [low]
    step = max(1, round(step_of(high - low, count)))
    inner = [i for i in range((low // step + 1) * step, high, step) if min(i - low, high - i) >= step * 0.6]
    return [low, *inner, high]


def percent(value: float | None, digits: int = 1) -> str:
    """0.9412 as "94.1 %", None as "–"."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def size(value: float | None) -> str:
    """Bytes: "812 B", "12.4 kB", "3.1 MB", None as "–"."""
    if value is None:
        return "–"
    if value < 10_000:
        return f"{value:.0f} B"
    return f"{value / 1000:.1f} kB" if value < 1_000_000 else f"{value / 1_000_000:.1f} MB"


def seconds(value: float | None) -> str:
    """Seconds with as many digits as say something: "38 ms", "1.25 s", "75.0 s", None as "–"."""
    if value is None:
        return "–"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def short(value: str, length: int) -> str:
    """A text of at most `length` characters, "…" in the place of what is left out."""
    return value if len(value) <= length else value[: length - 1] + "…"
