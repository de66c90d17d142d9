"""Groups of operators that run row by row, in turns, so that the tensors between them never exist whole.

A group is a run of operators that go through images by rows. It runs in steps. In each, its operators run in
their order, each up to a number of rows that a `Rule` gives: after step r operator k has written
min(rows, r * step + ahead) rows of its output. The last one's output is whole; an output that only the group
reads may be a *ring*: row y lies at place y modulo `ring`, over a row that nobody reads any more.

A rule is data, made by the host's planner (`schedule`) and written into the plan. Whoever reads a plan checks
it (`check`): no row is read before it is written or after it is overwritten, whatever the numbers are. The
device does the same (firmware/src/model/stream.c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kilofed_tools.work import NO_DISTANCE, Walk

ROWS_MAX = 1024  # of an output in a group or one that overlaps its input: KF_PLAN_ROWS_MAX, bounds a check
RULE_MAX = 255  # of each number of a rule: a byte in the file
GROUP_MAX = 32  # operators: KF_PLAN_GROUP_MAX
GROUPS_MAX = 32  # of a plan: KF_PLAN_GROUPS_MAX


@dataclass(frozen=True)
class Rule:
    """How far an operator of a group goes in each step. ring: rows that its output's place has; 0: all."""

    step: int
    ahead: int
    ring: int

    def rows(self, r: int, limit: int) -> int:
        """Output rows written after step r, -1 before the first; `limit`: all there are."""
        return 0 if r < 0 else min(limit, r * self.step + self.ahead)


@dataclass(frozen=True)
class Group:
    """Operators first .. first + len(rules) - 1, in turns."""

    first: int
    rules: tuple[Rule, ...]

    @property
    def last(self) -> int:
        """Its last operator."""
        return self.first + len(self.rules) - 1


@dataclass(frozen=True)
class Edge:
    """Operator `reader` of a group reads what `writer` of the same group writes."""

    writer: int
    reader: int


def steps(rule: Rule, rows: int) -> int:
    """Steps of a group whose last operator has this rule and as many output rows. rule.step 0: never ready
    unless in the first step."""
    if rows <= rule.ahead:
        return 1
    return 1 + -(-(rows - rule.ahead) // rule.step) if rule.step else 0


def _lag(walks: Mapping[int, Walk], edge: Edge, rules: Mapping[int, Rule], count: int) -> int | None:
    """Rows between the oldest that `reader` needs and the newest of `writer`, the most over all steps; None
    when the reader reads what is not written."""
    writer, reader = rules[edge.writer], rules[edge.reader]
    w, r = walks[edge.writer], walks[edge.reader]
    most = 0
    for i in range(count):
        written = writer.rows(i, w.out_rows)
        before, after = reader.rows(i - 1, r.out_rows), reader.rows(i, r.out_rows)
        if r.need(after) > written:
            return None
        if before < r.out_rows:
            most = max(most, written - r.low(before))
    return most


def schedule(
    walks: Mapping[int, Walk], edges: Sequence[Edge], whole: set[int], first: int, last: int, band: int = 1
) -> Group | None:
    """Rules by which operators first .. last run in turns, `band` rows of the last one's output a step.

    walks: of each of them. edges: all between them. whole: operators whose output others read too. None when
    a number does not fit, or there is nothing to connect them.
    """
    rules: dict[int, Rule] = {}
    count = steps(Rule(band, band, 0), walks[last].out_rows)
    for k in range(last, first - 1, -1):
        mine = [edge for edge in edges if edge.writer == k]
        if k == last:
            rules[k] = Rule(band, min(band, walks[k].out_rows), 0)
            continue
        if not mine:
            return None
        step = max(rules[e.reader].step * walks[e.reader].stride for e in mine)
        ahead = max(walks[e.reader].need(rules[e.reader].rows(0, walks[e.reader].out_rows)) for e in mine)
        rules[k] = Rule(step, ahead, 0)
        ring = 0
        if k not in whole:
            lags = [_lag(walks, e, rules, count) for e in mine]
            ring = max((lag or 0) for lag in lags)
            if ring >= walks[k].out_rows:
                ring = 0
        if max(step, ahead, ring) > RULE_MAX:
            return None
        rules[k] = Rule(step, ahead, ring)
    group = Group(first, tuple(rules[k] for k in range(first, last + 1)))
    return group if check(walks, edges, whole, group) else None


def check(walks: Mapping[int, Walk], edges: Sequence[Edge], whole: set[int], group: Group) -> bool:
    """Whether a group computes what its operators would one after another. Arguments as of `schedule`."""
    if not 2 <= len(group.rules) <= GROUP_MAX:
        return False
    rules = {group.first + i: rule for i, rule in enumerate(group.rules)}
    rows = walks[group.last].out_rows
    count = steps(rules[group.last], rows)
    if rules[group.last].ring or not 1 <= count <= ROWS_MAX:
        return False
    for k, rule in rules.items():
        all_rows = walks[k].out_rows
        if rule.ring == 0 and rule.rows(count - 1, all_rows) != all_rows:
            return False
        if rule.ring and (k in whole or rule.ring >= all_rows):
            return False
    for edge in edges:
        lag = _lag(walks, edge, rules, count)
        if lag is None or (rules[edge.writer].ring and lag > rules[edge.writer].ring):
            return False
    return True


def distance(walks: Mapping[int, Walk], readers: Sequence[int], group: Group) -> int:
    """How far below a tensor, that dies in a group, the output of the group's last operator must begin at
    least, in bytes, to overlap it. readers: the operators of the group that read the tensor. Of a group with
    one operator as well."""
    last = walks[group.last]
    count = steps(group.rules[-1], last.out_rows)
    most = NO_DISTANCE
    for k in readers:
        if k == group.last:
            most = max(most, last.distance())
            continue
        w, rule = walks[k], group.rules[k - group.first]
        for i in range(count):
            done = rule.rows(i, w.out_rows)
            if done < w.out_rows:
                written = group.rules[-1].rows(i, last.out_rows) * last.out_row
                most = max(most, written - w.low(done) * w.in_row)
    return most
