"""The search for a small arena: which operators run in turns, and where everything lies.

Two choices, made one after the other. *Which groups*: a partition of the operators into stages, such that the
stage that needs most needs as little as it can; several partitions are tried, since what a stage needs is a
lower bound. *Where*: activations and scratch are placed one after another, each as low as it may lie, and the
order is what is searched. Both are deterministic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kilofed_tools import streams
from kilofed_tools.layout import Graph, Layout, Plan
from kilofed_tools.streams import Group
from kilofed_tools.work import round_up

_ROUNDS = 4000  # placements tried at most; the search ends early when the lower bound is met
_FIRST_ROUNDS = 200  # of each partition, before the best is searched further
_COST = 1 << 21  # and fewer when there are many activations: rounds * n^2
_PARTITIONS = 12  # tried at most
_LONGEST = 12  # operators of a group that is considered
_BANDS = (2, 3, 4, 6, 8, 12, 16)  # rows a step that are tried: larger ones cost less time


# -- where ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """What is placed as one: activations that take over each other's place exactly, or a stage's scratch.

    tensors: empty for scratch. parts: (tensor or -1, time from, time to, bytes) each, all at one offset.
    """

    tensors: tuple[int, ...]
    parts: tuple[tuple[int, int, int, int], ...]

    @property
    def size(self) -> int:
        return max(size for _, _, _, size in self.parts)

    @property
    def first(self) -> int:
        return min(start for _, start, _, _ in self.parts)

    @property
    def span(self) -> int:
        return max(to for _, _, to, _ in self.parts) - self.first + 1


def _blocks(layout: Layout, heir_of: dict[int, int]) -> list[_Block]:
    """heir_of: output -> the input whose place it takes."""
    chains: dict[int, list[int]] = {}
    root: dict[int, int] = {}
    for tensor in layout.graph.activations:
        root[tensor] = root[heir_of[tensor]] if tensor in heir_of else tensor
        chains.setdefault(root[tensor], []).append(tensor)
    blocks = [
        _Block(tuple(chain), tuple((t, *layout.lifetimes[t], layout.sizes[t]) for t in chain))
        for chain in chains.values()
    ]
    for first, last in layout.stages:
        size = layout.stage_scratch(first, last)
        if size:
            blocks.append(_Block((), ((-1, first, last, size),)))
    return blocks


def _clearances(layout: Layout, blocks: Sequence[_Block]) -> list[list[list[tuple[int, int]]]]:
    """[i][j]: pairs (below, above): block i, placed at o, is in the way of block j at p when
    p - below < o < p + above."""
    below: dict[tuple[int, int], int] = {}  # (output, tensor): the output begins so far below it at least
    for tensor in layout.graph.activations:
        for dying, distance, _ in layout.overlaps(tensor):
            if distance is not None:
                below[tensor, dying] = min(distance, layout.sizes[tensor])
    table: list[list[list[tuple[int, int]]]] = [[[] for _ in blocks] for _ in blocks]
    for i, a in enumerate(blocks):
        for j, b in enumerate(blocks):
            if i != j:
                pairs = {
                    (below.get((t, u), size_a), below.get((u, t), size_b))
                    for t, from_a, to_a, size_a in a.parts
                    for u, from_b, to_b, size_b in b.parts
                    if from_a <= to_b and from_b <= to_a
                }
                table[i][j] = sorted(pairs)
    return table


def _place(order: Sequence[int], table: list[list[list[tuple[int, int]]]]) -> list[int]:
    """Each block of `order` at the lowest offset that the ones before it leave free."""
    offsets = [-1] * len(table)
    done: list[int] = []
    for i in order:
        barred = sorted(
            (offsets[j] - below, offsets[j] + above) for j in done for below, above in table[i][j]
        )
        place = 0
        for low, high in barred:
            if low >= place:
                break
            if place < high:
                place = round_up(high)
        offsets[i] = place
        done.append(i)
    return offsets


def _orders(blocks: Sequence[_Block], table: list[list[list[tuple[int, int]]]]) -> list[list[int]]:
    """Telling orders to start from."""
    sizes = [block.size for block in blocks]
    everyone = range(len(blocks))
    # The memory that is alive with a block: those under the highest pressure go first.
    pressure = [
        sizes[i] + sum(max((b for _, b in table[i][j]), default=0) for j in everyone) for i in everyone
    ]
    return [
        sorted(everyone, key=lambda i: (-sizes[i], blocks[i].first)),
        sorted(everyone, key=lambda i: (-blocks[i].span, -sizes[i], blocks[i].first)),
        sorted(everyone, key=lambda i: (-blocks[i].span * sizes[i], blocks[i].first)),
        sorted(everyone, key=lambda i: (-pressure[i], -sizes[i], blocks[i].first)),
        sorted(everyone, key=lambda i: (blocks[i].first, -sizes[i])),
        # Backwards: an output lies below the input that it overlaps. Scratch fills gaps.
        sorted(everyone, key=lambda i: (-blocks[i].first, -sizes[i])),
        sorted(everyone, key=lambda i: (not blocks[i].tensors, -blocks[i].first, -sizes[i])),
    ]


def _search(layout: Layout, blocks: Sequence[_Block], bound: int, rounds: int) -> dict[int, int]:
    """Tensor -> offset, of the best placement found. Starts from telling orders, then moves blocks about."""
    table = _clearances(layout, blocks)
    sizes = [block.size for block in blocks]
    everyone = range(len(blocks))
    rng = random.Random(0)

    def height(offsets: list[int]) -> int:
        return round_up(max(offsets[i] + sizes[i] for i in everyone))

    tried = []
    for order in _orders(blocks, table):
        offsets = _place(order, table)
        tried.append((height(offsets), order, offsets))
    best, order, offsets = min(tried, key=lambda entry: entry[0])
    for _ in range(min(rounds, _COST // (len(blocks) ** 2))):
        if best <= bound or len(blocks) < 2:
            break
        candidate = list(order)
        if rng.random() < 0.5:
            a, b = rng.sample(range(len(candidate)), 2)
            candidate[a], candidate[b] = candidate[b], candidate[a]
        else:
            # Forward, to the front part: what sticks out at the top must go earlier.
            top = max(everyone, key=lambda i: offsets[i] + sizes[i])
            candidate.remove(top)
            candidate.insert(rng.randrange(len(order)), top)
        found = _place(candidate, table)
        if height(found) <= best:
            best, order, offsets = height(found), candidate, found
    return {t: offsets[i] for i, block in enumerate(blocks) for t in block.tensors}


def _heir_choices(layout: Layout) -> list[dict[int, int]]:
    """Ways of using operators that work in place exactly: the larger input, the smaller one, and none."""
    choices: list[dict[int, int]] = []
    exact = {
        output: [t for t, distance, same in layout.overlaps(output) if same and distance is None]
        for output in layout.graph.activations
    }
    for prefer in (max, min):
        heir_of = {
            output: prefer(tensors, key=lambda t: (layout.sizes[t], t))
            for output, tensors in exact.items()
            if tensors
        }
        if heir_of not in choices:
            choices.append(heir_of)
    if choices[0]:
        choices.append({})
    return choices


def place(layout: Layout, bound: int, rounds: int = _ROUNDS) -> Plan:
    """The best plan found for a layout; bound: arena bytes that it cannot go below."""
    best: Plan | None = None
    for heir_of in _heir_choices(layout):
        offsets = _search(layout, _blocks(layout, heir_of), bound, rounds)
        plan = layout.finish(offsets, table_bytes=0, from_file=True)
        if best is None or plan.arena_bytes < best.arena_bytes:
            best = plan
        if best.arena_bytes <= bound:
            break
    assert best is not None
    return best


# -- which groups --------------------------------------------------------------------------------------------


def _group(graph: Graph, first: int, last: int, band: int = 1) -> Group | None:
    """Operators first .. last in turns, None when they cannot be."""
    if not all(graph.streams(k) for k in range(first, last + 1)):
        return None
    ways = graph.ways(first, last)
    return streams.schedule(ways, graph.edges(first, last), graph.whole(first, last), first, last, band)


@dataclass(frozen=True)
class _Stage:
    """Operators that run in turns, or one that runs alone. bytes: what is alive then, at least. turns: how
    often an operator is taken up anew, which costs time; 0 for one that runs alone."""

    first: int
    last: int
    group: Group | None
    bytes: int
    turns: int


def _stages(graph: Graph) -> list[_Stage]:
    """Every stage that a partition may have."""
    alone = Layout(graph)
    found = []
    for first in range(len(graph.model.operators)):
        found.append(_Stage(first, first, None, alone.stage_bytes(first, first), 0))
        for last in range(first + 1, min(first + _LONGEST, len(graph.model.operators))):
            if not graph.streams(last) or not graph.streams(first):
                break
            group = _group(graph, first, last)
            if group is not None:
                needs = Layout(graph, [group]).stage_bytes(first, last)
                turns = len(group.rules) * streams.steps(group.rules[-1], _rows(graph, last))
                found.append(_Stage(first, last, group, needs, turns))
    return found


def _rows(graph: Graph, op: int) -> int:
    way = graph.walks[op]
    return way.out_rows if way is not None else 0


def _cheapest(stages: Sequence[_Stage], ops: int, limit: int) -> list[Group] | None:
    """The groups of the partition with the fewest turns of those in which no stage needs more than `limit`
    bytes; None when there is none."""
    ways: list[tuple[int, list[Group]] | None] = [(0, []), *([None] * ops)]
    for stage in stages:  # in the order of their first operators
        before = ways[stage.first]
        if before is None or stage.bytes > limit:
            continue
        turns = before[0] + stage.turns
        known = ways[stage.last + 1]
        if known is None or turns < known[0]:
            ways[stage.last + 1] = (turns, [*before[1], *([stage.group] if stage.group else [])])
    end = ways[ops]
    return None if end is None else end[1]


def _limits(stages: Sequence[_Stage], ops: int) -> Iterator[int]:
    """What the largest stage of a partition may need, from the least that is possible on."""
    for limit in sorted({stage.bytes for stage in stages}):
        if _cheapest(stages, ops, limit) is not None:
            yield limit


def bound(graph: Graph) -> int:
    """Bytes that no plan can go below: every operator is in some stage, and the largest needs as much."""
    return next(_limits(_stages(graph), len(graph.model.operators)))


def _widen(graph: Graph, plan: Plan, floor: int) -> Plan:
    """The same arena with more rows a step, where they fit: an operator is taken up less often."""
    for i, group in enumerate(plan.groups):
        for band in reversed(_BANDS):
            wider = _group(graph, group.first, group.last, band)
            if wider is None:
                continue
            groups = [*plan.groups[:i], wider, *plan.groups[i + 1 :]]
            layout = Layout(graph, groups)
            if layout.stage_bytes(group.first, group.last) > plan.arena_bytes:
                continue
            found = place(layout, plan.arena_bytes, _FIRST_ROUNDS)
            if found.arena_bytes <= plan.arena_bytes:
                plan = found
                break
    return replace(plan, bound_bytes=floor)


def best_plan(graph: Graph, *, group: bool = True) -> Plan:
    """The smallest plan found. group: whether operators may run in turns."""
    ops = len(graph.model.operators)
    stages = [stage for stage in _stages(graph) if group or stage.group is None]
    limits = list(_limits(stages, ops))
    best: Plan | None = None
    for limit in limits[:_PARTITIONS]:
        if best is not None and limit >= best.arena_bytes:
            break
        groups = _cheapest(stages, ops, limit)
        assert groups is not None
        found = place(Layout(graph, groups), limits[0], _FIRST_ROUNDS)
        if best is None or found.arena_bytes < best.arena_bytes:
            best = found
    assert best is not None
    if best.arena_bytes > limits[0]:
        further = place(Layout(graph, best.groups), limits[0])
        best = min(best, further, key=lambda plan: plan.arena_bytes)
    return _widen(graph, best, limits[0])
