"""Operators in turns: a schedule computes what the operators would alone, and what does not is refused.

The judge is a memory of rows that knows who wrote what. What the device makes of the same rules is tested
beside its code (tests/firmware/engine/test_plan_figures.py).
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kilofed_tools import planfile, streams
from kilofed_tools.errors import ModelContractError
from kilofed_tools.streams import Edge, Group, Rule
from kilofed_tools.work import Pace, Walk

SEEDS = 150


def random_run(seed: int) -> tuple[dict[int, Walk], list[Edge], set[int]]:
    """A run of operators as a chain with branches: (walks, edges, operators whose output others read too)."""
    rng = random.Random(seed)
    walks: dict[int, Walk] = {}
    edges = []
    rows = rng.choice([3, 5, 8, 13, 24])
    for k in range(rng.randint(2, 6)):
        if k > 1 and rng.random() < 0.3:  # an addition of the last output and an older one of as many rows
            older = [w for w in range(k - 1) if walks[w].out_rows == rows]
            walks[k] = Walk((0, 1), Pace.VALUES, rows, rows, 4, 4, 1, 0, 1)
            edges += [Edge(w, k) for w in {k - 1, *([rng.choice(older)] if older else [])}]
            continue
        window, stride = rng.choice([1, 2, 3, 5]), rng.choice([1, 1, 2, 3])
        reach = (window - 1) * rng.choice([1, 1, 2]) + 1
        if rng.random() < 0.4 and rows >= reach:
            out, pad = (rows - reach) // stride + 1, 0
        else:
            out = -(-rows // stride)
            pad = max((out - 1) * stride + reach - rows, 0) // 2
        walks[k] = Walk((0,), Pace.ROWS, rows, out, 4, 4, stride, pad, reach)
        if k:
            edges.append(Edge(k - 1, k))
        rows = out
    last = max(walks)
    return walks, edges, {k for k in walks if k == last or rng.random() < 0.1}


def computes(walks: dict[int, Walk], edges: list[Edge], whole: set[int], group: Group) -> bool:
    """Runs the group on a memory of rows: whether every row is there, unspoilt, when it is read."""
    rules = {group.first + i: rule for i, rule in enumerate(group.rules)}
    last = rules[group.last]
    if last.ring or len(rules) < 2 or (last.step == 0 and last.ahead < walks[group.last].out_rows):
        return False
    places: dict[int, dict[int, int]] = {k: {} for k in rules}
    done = dict.fromkeys(rules, 0)
    step = 0
    while done[group.last] < walks[group.last].out_rows:
        for k, rule in rules.items():
            for row in range(done[k], rule.rows(step, walks[k].out_rows)):
                for edge in (e for e in edges if e.reader == k):
                    start = row * walks[k].stride - walks[k].pad
                    for y in range(max(0, start), min(walks[k].in_rows, start + walks[k].reach)):
                        ring = rules[edge.writer].ring
                        if places[edge.writer].get(y % ring if ring else y) != y:
                            return False
                places[k][row % rule.ring if rule.ring else row] = row
                done[k] = row + 1
        step += 1
    return all(done[k] == walks[k].out_rows for k in rules if k in whole)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_schedules_compute(seed: int) -> None:
    walks, edges, whole = random_run(seed)
    for first in walks:
        for last in range(first + 1, max(walks) + 1):
            mine = [edge for edge in edges if first <= edge.writer and edge.reader <= last]
            read_later = {e.writer for e in edges if e.writer <= last < e.reader}
            for band in (1, 2, 5):
                group = streams.schedule(walks, mine, (whole | read_later) - {last}, first, last, band)
                if group is not None:
                    assert computes(walks, mine, whole | read_later, group), (group, band)


def whole_group(seed: int) -> Group | None:
    """All operators of a random run, in turns."""
    walks, edges, whole = random_run(seed)
    return streams.schedule(walks, edges, whole - {max(walks)}, 0, max(walks))


SCHEDULED = [seed for seed in range(SEEDS) if whole_group(seed) is not None]


def test_nearly_every_run_has_a_schedule() -> None:
    assert len(SCHEDULED) > 0.9 * SEEDS


def test_rings_are_small() -> None:
    """Two 3 x 3 convolutions and a pooling of 2 x 2: four rows and two, not 24."""
    conv = Walk((0,), Pace.ROWS, 24, 24, 4, 4, 1, 1, 3)
    pool = Walk((0,), Pace.ROWS, 24, 12, 4, 4, 2, 0, 2)
    group = streams.schedule({0: conv, 1: conv, 2: pool}, [Edge(0, 1), Edge(1, 2)], set(), 0, 2)
    assert group is not None
    assert [rule.ring for rule in group.rules] == [4, 2, 0]
    assert [(rule.step, rule.ahead) for rule in group.rules] == [(2, 3), (2, 2), (1, 1)]


@pytest.mark.parametrize("seed", SCHEDULED)
def test_check_refuses_what_does_not_compute(seed: int) -> None:
    """Numbers changed at random: what passes the check computes."""
    rng = random.Random(seed)
    walks, edges, whole = random_run(seed)
    first, last = 0, max(walks)
    group = whole_group(seed)
    assert group is not None
    refused = 0
    for _ in range(60):
        rules = list(group.rules)
        i = rng.randrange(len(rules))
        what = rng.choice(["step", "ahead", "ring"])
        value = max(0, getattr(rules[i], what) + rng.choice([-2, -1, 1, 2]))
        rules[i] = replace(rules[i], **{what: value})
        changed = Group(first, tuple(rules))
        if streams.check(walks, edges, whole - {last}, changed):
            assert computes(walks, edges, whole, changed), changed
        else:
            refused += 1
    assert refused


def test_check_bounds_a_group() -> None:
    """As many operators and steps as are judged in bounded time, and no more."""
    walks = {k: Walk((0,), Pace.ROWS, 8, 8, 4, 4, 1, 0, 1) for k in range(40)}
    edges = [Edge(k, k + 1) for k in range(39)]
    rules = (*[Rule(1, 1, 1)] * (streams.GROUP_MAX - 1), Rule(1, 1, 0))
    assert streams.check(walks, edges[: len(rules) - 1], set(), Group(0, rules))
    assert not streams.check(walks, edges[: len(rules)], set(), Group(0, (Rule(1, 1, 1), *rules)))
    assert not streams.check(walks, [], set(), Group(0, (Rule(1, 1, 0),)))
    assert not streams.check(walks, [], set(), Group(0, ()))
    assert not streams.check(walks, edges[:1], set(), Group(0, (Rule(1, 1, 1), Rule(0, 7, 0))))
    assert not streams.check(walks, edges[:1], set(), Group(0, (Rule(1, 1, 1), Rule(1, 1, 1))))


@pytest.mark.parametrize("seed", range(60))
def test_distance_is_exact(seed: int) -> None:
    """At the distance nothing is overwritten that is still to be read; one byte nearer, something is."""
    rng = random.Random(seed)
    window, stride, rows = rng.choice([1, 2, 3, 5]), rng.choice([1, 2, 3]), rng.choice([5, 9, 16])
    out = -(-rows // stride)
    pad = max((out - 1) * stride + window - rows, 0) // 2
    walk = Walk(
        (0,), Pace.ROWS, rows, out, rng.choice([3, 8, 20]), rng.choice([3, 8, 20]), stride, pad, window
    )
    distance = streams.distance({0: walk}, [0], Group(0, (Rule(1, 1, 0),)))

    def spoils(below: int) -> bool:
        """A row is written while the rows that it is made of are still being read."""
        for y in range(out):
            end = (y + 1) * walk.out_row - below  # relative to the input
            if end > max(0, y * stride - pad) * walk.in_row:
                return True
        return False

    assert not spoils(distance)
    assert spoils(distance - 1)


def test_plan_files_come_back() -> None:
    groups = (Group(1, (Rule(2, 3, 4), Rule(1, 1, 0))), Group(7, (Rule(1, 255, 0), Rule(0, 1, 9))))
    for offsets in ([0, -1, -1, 4, 8, -1, 262_136], [-1, -1, 12, -1], [1 << 20, -1, 3 << 20]):
        first = next(i for i, at in enumerate(offsets) if at >= 0)
        scratch = [0, 1 << 14, 0, 1 << 12]
        payload = planfile.encode(offsets, scratch, groups, input_tensor=first)

        def decoded(part: bytes, tensors: int = len(offsets), at: int = first) -> object:
            return planfile.decode(part, tensors=tensors, operators=4, input_tensor=at)

        assert decoded(payload) == (offsets, scratch, groups)
        group = 3 + 3 * 2  # bytes
        for cut in range(len(payload)):
            if cut in (len(payload) - group, len(payload) - 2 * group):
                assert decoded(payload[:cut]) != decoded(payload)  # a group less is a plan too
                continue
            with pytest.raises(ModelContractError, match="kilofed convert"):
                decoded(payload[:cut])
    with pytest.raises(ModelContractError, match="smaller model"):
        planfile.encode([4, 1 << 20], [], (), input_tensor=0)
