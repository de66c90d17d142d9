"""Drawings on a grid: the confusion matrix, and what lies where in a device's arena when."""

from __future__ import annotations

from kilofed.arena import Area, ArenaMap
from kilofed.page.markup import Child, Element
from kilofed.page.scales import Scale, percent, short, size, ticks
from kilofed.page.svg import CHAR, KINDS, box, drawing, label, line

MATRIX_UP_TO = 40  # classes; the cells of more would be too small to read
_NUMBERS_UP_TO = 20  # classes whose cells have room for a count
_LABEL_CHARS = (10, 16, 24)  # the first of these lengths at which all labels differ is taken
_OPERATOR_NAMES_UP_TO = 16
_LEAST = 2.5  # height of a box, so that ten bytes are seen beside a thousand


def confusion_matrix(counts: tuple[tuple[int, ...], ...], labels: tuple[str, ...]) -> Element | None:
    """[C][C] counts, rows the true class. Right answers and mistakes have a colour each, the deeper the
    larger a row's share. None for more than MATRIX_UP_TO classes."""
    classes = len(counts)
    if classes > MATRIX_UP_TO:
        return None
    names = _short_names(labels)
    widest = CHAR * max(len(name) for name in names)
    cell = max(14.0, min(40.0, 430.0 / classes))
    left, top = widest + 40, 24 + (widest if widest > cell else 14) + 6
    side = cell * classes
    width, height = left + side + 12, top + side + 34
    sums = [max(1, sum(row)) for row in counts]
    worst = max([counts[r][c] / sums[r] for r in range(classes) for c in range(classes) if r != c] + [1e-9])
    drawn: list[Child] = [
        label(left + side / 2, 10, "what the model says", anchor="middle"),
        label(12, top + side / 2, "what it is", anchor="middle", turn=-90),
    ]
    for i, name in enumerate(names):
        drawn.append(label(left - 8, top + cell * (i + 0.5), name, anchor="end"))
        turned = widest > cell
        x = left + cell * (i + 0.5)
        drawn.append(
            label(x, top - 8, name, turn=-90) if turned else label(x, top - 10, name, anchor="middle")
        )
    for r, row in enumerate(counts):
        for c, count in enumerate(row):
            share = count / sums[r]
            depth = share if r == c else (0.12 + 0.88 * share / worst if count else 0.0)
            tip = f"{labels[r]} taken for {labels[c]}: {count} of {sums[r]} ({percent(share)})"
            x, y = left + cell * c, top + cell * r
            drawn.append(box(x, y, cell, cell, "cell", tip))
            if count:
                drawn.append(
                    box(
                        x + 1, y + 1, cell - 2, cell - 2, "right" if r == c else "wrong", tip, round(depth, 3)
                    )
                )
                if classes <= _NUMBERS_UP_TO:
                    style = "on-cell" if depth <= 0.55 else "on-right" if r == c else "on-wrong"
                    drawn.append(label(x + cell / 2, y + cell / 2, str(count), anchor="middle", class_=style))
    scale_note = "right (blue) and wrong (orange), deeper for a larger share of the row"
    drawn.append(label(left + side / 2, top + side + 18, scale_note, anchor="middle", class_="label small"))
    total = sum(map(sum, counts))
    right = sum(counts[i][i] for i in range(classes))
    said = f"Confusion matrix of {classes} classes: {right} of {total} right. A table of every class follows."
    return drawing(width, height, said, *drawn, least=round(min(width, 420)))


def _short_names(labels: tuple[str, ...]) -> list[str]:
    """Labels short enough for the edge of a matrix; their numbers where shortening makes some alike."""
    for length in _LABEL_CHARS:
        names = [short(name, length) for name in labels]
        if len(set(names)) == len(set(labels)):
            return names
    return [str(i) for i in range(len(labels))]


def memory_map(memory: ArenaMap) -> Element:
    """The arena over time: operators from left to right, bytes from the bottom up."""
    count = len(memory.operators)
    named = count <= _OPERATOR_NAMES_UP_TO
    width, left, right, top = 760.0, 66.0, 12.0, 14.0
    tall = 280.0
    bottom = top + tall
    # Names are turned by 40 degrees: 0.64 of their length goes down.
    longest = max(len(name) for name in (*memory.operators, "output"))
    below = 22 + 0.64 * CHAR * longest + 22 if named else 48.0
    marks = ticks(0, memory.arena_bytes, 6)
    y = Scale(0, max(marks[-1], memory.arena_bytes), bottom, top)
    # Time -1 writes the input, time `count` reads the output.
    x = Scale(-1, count + 1, left, width - right)
    drawn: list[Child] = []
    for tick in marks:
        drawn.append(line(left, y(tick), width - right, y(tick), "grid"))
        drawn.append(label(left - 6, y(tick), f"{tick:.0f}", anchor="end"))
    for time in range(-1, count + 1):
        name = "input" if time < 0 else "output" if time == count else memory.operators[time]
        middle = x(time + 0.5)
        if named:
            drawn.append(
                label(middle + 3, bottom + 10, name.lower(), anchor="end", turn=-40, class_="label small")
            )
        elif time >= 0 and (time % max(1, count // 12) == 0):
            drawn.append(label(middle, bottom + 13, str(time), anchor="middle", class_="label small"))
        if time > -1:
            drawn.append(line(x(time), top, x(time), bottom, "grid"))
    kinds = {a: i % KINDS for i, a in enumerate(memory.areas)}
    for area in memory.areas:
        first, last = _stretch(area, memory.areas)
        x0, x1 = x(first) + 1, x(last) - 1
        y1 = y(area.offset)
        y0 = min(y(area.offset + area.size), y1 - _LEAST)
        look = "scratch" if area.scratch else f"part k{kinds[area]}"
        drawn.append(box(x0, y0, x1 - x0, y1 - y0, look, area_in_words(area, memory)))
        text = short(area.name.rsplit("/", 1)[-1] or f"tensor {area.tensor}", 24)
        named_size = f"{text} · {area.size} B"
        for written in (named_size, f"{area.size} B"):
            if CHAR * len(written) + 4 <= x1 - x0 and y1 - y0 >= 13:
                drawn.append(label((x0 + x1) / 2, (y0 + y1) / 2, written, anchor="middle", class_="on-part"))
                break
    drawn.append(line(left, bottom, width - right, bottom, "axis"))
    drawn.append(label(14, top + tall / 2, "bytes of the arena", anchor="middle", turn=-90))
    axis = "operators, in the order in which they run"
    drawn.append(label((left + width - right) / 2, bottom + below - 10, axis, anchor="middle"))
    said = (
        f"Memory plan: {len(memory.areas)} areas share {memory.arena_bytes} bytes over {count} operators."
        " A table of them follows."
    )
    return drawing(width, bottom + below, said, *drawn, least=560)


def _stretch(area: Area, areas: tuple[Area, ...]) -> tuple[float, float]:
    """From when to when an area is drawn. A tensor that takes another's place does so while one operator
    runs, or some in turns: half of these columns is left to each."""
    first, last = float(area.first), area.last + 1.0
    for other in areas:
        if other.tensor in area.over:
            first = max(first, (area.first + other.last + 1) / 2)
        if area.tensor in other.over:
            last = min(last, (other.first + area.last + 1) / 2)
    return first, last


def area_in_words(area: Area, memory: ArenaMap) -> str:
    """Where an area lies and when, as a sentence."""
    where = f"bytes {area.offset} to {area.offset + area.size - 1}"
    first, last = operator_name(area.first, memory), operator_name(area.last, memory)
    when = f"while {first} runs" if area.scratch else f"from {first} to {last}"
    saved = area.note(memory.names)
    note = f"; {saved}" if saved else ""
    return f"{area.name} ({area.kind}, {size(area.size)}): {where}, {when}{note}"


def operator_name(time: int, memory: ArenaMap) -> str:
    """A point of the plan's time: "input", "3 CONV_2D" or "the end"."""
    if time < 0:
        return "input"
    return "the end" if time >= len(memory.operators) else f"{time} {memory.operators[time]}"
