"""A model's memory plan, told: which tensor lives where and when, what shares its place, and what makes the
peak. As areas, as text, as an SVG.

The plan is that of the device: the file's when it has one that holds, else the device's own
(`kilofed_tools.plan.device_plan`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from kilofed_tools.layout import Plan
from kilofed_tools.plan import device_plan
from kilofed_tools.tflite import TFLiteModel, op_name, read_model, type_name

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_OTHER, _SCRATCH, _FREE = "+", "#", "."
_LINES = 20  # of the map
_WIDE = 26  # operators up to which a column of the map has three characters


@dataclass(frozen=True)
class Area:
    """What lies where in the arena, and when: bytes offset..offset+size, operators first..last.

    first: the operator that writes it, or the first of those that run in turns with it; -1 for the input.
    scratch: an operator's own, not a tensor. tensor: index in the model, -1 for scratch. rows: those that its
    place has when it is a ring, else 0; of as many as `of_rows`. over: tensors whose place it takes, in full
    or in part, while they are read for the last time.
    """

    name: str
    tensor: int
    kind: str
    offset: int
    size: int
    first: int
    last: int
    scratch: bool = False
    rows: int = 0
    of_rows: int = 0
    over: tuple[int, ...] = ()

    def note(self, names: Mapping[int, str]) -> str:
        """How its place is saved, in words; names: of tensors."""
        if self.rows:
            return f"ring of {self.rows} of {self.of_rows} rows"
        return "over " + ", ".join(names[tensor] for tensor in self.over) if self.over else ""


@dataclass(frozen=True)
class ArenaMap:
    """The memory plan of a model. operators: their names in order. groups: (first, last) operators that run
    in turns. from_file: whether it is the file's. bound_bytes: what no plan for this model can go below."""

    operators: tuple[str, ...]
    areas: tuple[Area, ...]
    groups: tuple[tuple[int, int], ...]
    arena_bytes: int
    bound_bytes: int
    from_file: bool

    @property
    def names(self) -> dict[int, str]:
        """Tensor -> its short name."""
        return {area.tensor: _short(area) for area in self.areas if not area.scratch}

    def alive(self, operator: int) -> list[Area]:
        """What is in use while an operator runs, the lowest first."""
        return sorted(
            (area for area in self.areas if area.first <= operator <= area.last), key=lambda a: a.offset
        )

    def in_use(self, operator: int) -> int:
        """Bytes in use while an operator runs, places that are shared counted once."""
        total = end = 0
        for area in self.alive(operator):
            total += max(0, area.offset + area.size - max(end, area.offset))
            end = max(end, area.offset + area.size)
        return total

    @property
    def peak(self) -> int:
        """The operator that needs most; of several, the first."""
        return max(range(len(self.operators)), key=self.in_use)

    def stage(self, operator: int) -> tuple[int, int]:
        """The operators that run in turns with this one, first and last; itself when it runs alone."""
        found = [group for group in self.groups if group[0] <= operator <= group[1]]
        return found[0] if found else (operator, operator)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "arena_bytes": self.arena_bytes,
            "bound_bytes": self.bound_bytes,
            "from_file": self.from_file,
            "operators": [
                {"name": name, "in_use_bytes": self.in_use(k)} for k, name in enumerate(self.operators)
            ],
            "groups": [list(group) for group in self.groups],
            "peak": self.peak,
            "areas": [asdict(area) for area in self.areas],
        }

    def lines(self) -> list[str]:
        """The plan as text: the map, what its letters stand for, and what makes the peak."""
        tensors = [area for area in self.areas if not area.scratch]
        letters = {a.tensor: (_LETTERS[i] if i < len(_LETTERS) else _OTHER) for i, a in enumerate(tensors)}
        wide = 3 if len(self.operators) <= _WIDE else 1
        times = range(-1, len(self.operators) + 1)
        margin = len(str(self.arena_bytes))
        out = []
        for row in reversed(range(_LINES)):
            low = self.arena_bytes * row // _LINES
            high = max(low + 1, self.arena_bytes * (row + 1) // _LINES)
            cells = "".join(self._cell(time, low, high, letters).rjust(wide) for time in times)
            out.append(f"{low:>{margin}} |{cells}")
        out.append(f"{'':>{margin}} +{'-' * (wide * len(times))}")
        ticks = ["in", *map(str, range(len(self.operators))), "out"]
        if wide == 1:
            ticks = [tick if tick.isdigit() and int(tick) % 5 == 0 else "" for tick in ticks]
            scale = ""
            for column, tick in enumerate(ticks):
                scale = scale.ljust(column) + tick if len(scale) <= column else scale
        else:
            # "out" fills its column: without the blank it would grow together with the last number.
            scale = "".join(tick.rjust(wide) for tick in ticks[:-1]) + f" {ticks[-1]}"
        out.append(f"{'':>{margin}}  {scale}")
        out += self._legend(tensors, letters)
        return out

    def _cell(self, time: int, low: int, high: int, letters: dict[int, str]) -> str:
        """What covers most of bytes low..high at one time; of two that cover the same, what is written
        last."""
        best, sign = 0, _FREE
        for area in self.areas:
            if area.first <= time <= area.last:
                covered = min(high, area.offset + area.size) - max(low, area.offset)
                if covered > 0 and covered >= best:
                    best, sign = covered, _SCRATCH if area.scratch else letters[area.tensor]
        return sign

    def _legend(self, tensors: list[Area], letters: dict[int, str]) -> Iterable[str]:
        longest = max(len(_short(area)) for area in tensors)
        for area in tensors:
            when = f"{_when(area.first, self)} to {_when(area.last, self)}"
            where = f"{area.size:>7} B at {area.offset:<7}"
            note = area.note(letters)
            yield f"  {letters[area.tensor]}  {_short(area):<{longest}} {where} {when:<12} {note}".rstrip()
        if any(area.scratch for area in self.areas):
            yield f"  {_SCRATCH}  scratch of operators"
        for first, last in self.groups:
            names = ", ".join(self.operators[first : last + 1])
            yield f"in turns, row by row: operators {first} to {last} ({names})"
        first, last = self.stage(self.peak)
        runs = f"operator {first} {self.operators[first]} runs"
        if last > first:
            runs = f"operators {first} to {last} run"
        parts = sorted(self.alive(self.peak), key=lambda a: -a.size)
        named = ", ".join(
            f"{area.size} {area.name if area.scratch else letters[area.tensor]}" for area in parts[:5]
        )
        more = f", and {len(parts) - 5} smaller" if len(parts) > 5 else ""
        yield f"fullest while {runs}, {self.in_use(self.peak)} B: {named}{more}"

    def summary(self) -> str:
        """One line: how large, whose plan, how far from the bound."""
        gap = self.arena_bytes - self.bound_bytes
        bound = "the least there is" if gap == 0 else f"{gap} more than no plan can go below"
        whose = "in the file" if self.from_file else "none in the file, so the device's own"
        return f"{whose}: an arena of {self.arena_bytes} B, {bound}"

    def svg(self) -> str:
        """The plan as an SVG document with its own style."""
        from kilofed.page.grids import memory_map
        from kilofed.page.markup import el

        drawn = memory_map(self)
        _, _, width, height = str(dict(drawn.attributes)["viewBox"]).split()
        style = resources.files("kilofed.page").joinpath("page.css").read_text(encoding="utf-8")
        document = el(
            "svg",
            el("style", style),
            el("rect", width=float(width), height=float(height), style="fill: var(--page)"),
            *drawn.children,
            xmlns="http://www.w3.org/2000/svg",
            width=float(width),
            height=float(height),
            viewBox=f"0 0 {width} {height}",
            role="img",
            aria_label=str(dict(drawn.attributes)["aria-label"]),
        )
        return f"{document}\n"


def _when(time: int, plan: ArenaMap) -> str:
    if time < 0:
        return "input"
    return "output" if time >= len(plan.operators) else str(time)


def _short(area: Area) -> str:
    """A tensor's name without the path that converters put before it, and not too long."""
    parts = [part for part in area.name.split(";")[0].split("/") if part]
    name = parts[-1] if parts else f"tensor {area.tensor}"
    return name if len(name) <= 28 else f"{name[:27]}~"


def arena_of(model: bytes | TFLiteModel) -> ArenaMap:
    """The plan that a device makes of this file. ModelContractError: it has too many activations for a device
    without a plan in the file, or several inputs or outputs."""
    parsed = read_model(model) if isinstance(model, bytes) else model
    plan = device_plan(parsed)
    operators = tuple(op_name(op.code) for op in parsed.operators)
    areas = []
    for t, (first, last) in plan.lifetimes.items():
        tensor = parsed.tensors[t]
        areas.append(
            Area(
                name=tensor.name,
                tensor=t,
                kind=f"{type_name(tensor.type)} {' x '.join(map(str, tensor.shape))}",
                offset=plan.offsets[t],
                size=plan.sizes[t],
                first=first,
                last=last,
                **_saved(parsed, plan, t),
            )
        )
    for index, (offset, size) in enumerate(plan.scratch):
        if size:
            name = f"scratch of {operators[index]}"
            ends = [(g.first, g.last) for g in plan.groups if g.first <= index <= g.last]
            first, last = ends[0] if ends else (index, index)
            areas.append(Area(name, -1, "multipliers", offset, size, first, last, scratch=True))
    return ArenaMap(
        operators=operators,
        areas=tuple(areas),
        groups=tuple((group.first, group.last) for group in plan.groups),
        arena_bytes=plan.arena_bytes,
        bound_bytes=plan.bound_bytes,
        from_file=plan.from_file,
    )


def _saved(model: TFLiteModel, plan: Plan, tensor: int) -> dict[str, Any]:
    """How the place of a tensor is saved: the last fields of its area."""
    whole = model.tensors[tensor]
    if plan.sizes[tensor] < whole.size_bytes:
        rows = plan.sizes[tensor] * whole.shape[1] // whole.size_bytes
        return {"rows": rows, "of_rows": whole.shape[1]}
    writer = model.producer(tensor)
    at, end = plan.offsets[tensor], plan.offsets[tensor] + plan.sizes[tensor]
    first, last = plan.lifetimes[tensor]
    over = [
        other
        for other, (written, dies) in plan.lifetimes.items()
        if writer is not None
        and written < first <= dies <= last
        and plan.offsets[other] < end
        and at < plan.offsets[other] + plan.sizes[other]
    ]
    return {"over": tuple(over)}
