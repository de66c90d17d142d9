"""What a memory plan is made of: the activations of a model, when they live, and what may lie over what.

Time runs over operators; operator k reads and writes at time k, the model's input is written at time -1. An
activation is alive from its writing to its last reading, the model's output to the end, and what an operator
keeps between inferences always. Operators of a group (`kilofed_tools.streams`) share their time: what is
alive while one of them runs is alive while all run. Two activations that are alive together must not
overlap, but for the first output of an operator, or of a group's last one, and an input that dies there:

* exactly at the place of the input, where the operator works in place (`work.in_place_inputs`);
* so far below it that nothing is overwritten that is still to be read (`streams.distance`).

Scratch of an operator, or of all of a group, one behind the other, lies where nothing is alive while it runs;
without a word of the plan, in the lowest gap. Offsets are multiples of 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kilofed_tools import streams
from kilofed_tools.errors import ModelContractError
from kilofed_tools.streams import Edge, Group, Rule
from kilofed_tools.tflite import Op, Operator, TFLiteModel
from kilofed_tools.work import Pace, Walk, in_place_inputs, round_up, scratch_bytes, walk

OFFSET_MAX = 1 << 24  # of an activation and of scratch: KF_MODEL_TENSOR_BYTES_MAX

_STATES = {Op.SVDF: 4}  # operators that keep an input between inferences: its position
_ALONE = (Rule(1, 1, 0),)


@dataclass(frozen=True)
class Plan:
    """A model's arena. Sizes and offsets are in bytes.

    offsets: one a tensor of the graph, -1 for a tensor that is not in the arena. lifetimes: tensor -> (time
    it is written, time it is read last), those of a group's operators together. sizes: tensor -> bytes of
    its place, of a ring less than of the tensor. scratch: one an operator, (offset, bytes). groups: of
    operators that run row by row. arena_bytes: what the device needs, a multiple of 4. tensor_bytes: of
    these, activations and scratch; the rest is the table of the device's own plan. from_file: whether the
    file's plan holds. bound_bytes: what no plan for this model can go below, whatever it groups.
    """

    offsets: tuple[int, ...]
    lifetimes: dict[int, tuple[int, int]]
    sizes: dict[int, int]
    scratch: tuple[tuple[int, int], ...]
    groups: tuple[Group, ...]
    arena_bytes: int
    tensor_bytes: int
    from_file: bool
    bound_bytes: int


def state_of(op: Operator) -> int:
    """The tensor that an operator keeps from one inference to the next, -1 for none."""
    place = _STATES.get(op.code, -1)  # type: ignore[call-overload]
    return op.inputs[place] if 0 <= place < len(op.inputs) else -1


@dataclass(frozen=True)
class Graph:
    """What planning needs of a model. `activations` is in the order of the device's table: the input, then an
    operator's outputs and its state, operator by operator."""

    model: TFLiteModel
    activations: tuple[int, ...]
    sizes: dict[int, int]
    lifetimes: dict[int, tuple[int, int]]
    scratch: tuple[int, ...]
    heirs: dict[int, tuple[int, ...]]  # an operator's first output -> inputs whose place it may take exactly
    walks: tuple[Walk | None, ...]

    @cached_property
    def readers(self) -> dict[int, tuple[int, ...]]:
        """Activation -> operators that read it."""
        found: dict[int, list[int]] = {tensor: [] for tensor in self.activations}
        for op in self.model.operators:
            for tensor in {*op.inputs} & found.keys():
                found[tensor].append(op.index)
        return {tensor: tuple(ops) for tensor, ops in found.items()}

    def first_output(self, op: int) -> int:
        """The tensor that an operator writes first."""
        return self.model.operators[op].outputs[0]

    def walked(self, op: int, tensor: int) -> bool:
        """Whether an operator goes through this input of it from the first byte to the last, and reads it in
        no other way."""
        way = self.walks[op]
        inputs = self.model.operators[op].inputs
        return way is not None and all(i in way.inputs for i, t in enumerate(inputs) if t == tensor)

    def streams(self, op: int) -> bool:
        """Whether an operator may be in a group: it goes by rows, writes one tensor, and reads activations in
        no other way."""
        way, one = self.walks[op], self.model.operators[op]
        return (
            way is not None
            and way.reach > 0
            and max(way.in_rows, way.out_rows) <= streams.ROWS_MAX
            and len(one.outputs) == 1
            and all(self.walked(op, tensor) for tensor in one.inputs if tensor in self.lifetimes)
        )

    def edges(self, first: int, last: int) -> list[Edge]:
        """What operators first .. last read of each other."""
        return [
            Edge(k, reader)
            for k in range(first, last + 1)
            for reader in self.readers[self.first_output(k)]
            if reader <= last
        ]

    def whole(self, first: int, last: int) -> set[int]:
        """Those of operators first .. last whose output is read behind them."""
        return {k for k in range(first, last + 1) if self.lifetimes[self.first_output(k)][1] > last}

    def ways(self, first: int, last: int) -> dict[int, Walk]:
        """The walks of operators first .. last."""
        return {k: way for k in range(first, last + 1) if (way := self.walks[k]) is not None}

    def overlap(self, tensor: int, group: Group) -> tuple[int | None, bool]:
        """How the first output of a group's last operator may overlap a tensor that dies in the group: (so
        many bytes below it at least, None for never; whether exactly at its place). A group of one operator
        too."""
        readers = [k for k in self.readers[tensor] if k >= group.first]
        exact = group.first == group.last and tensor in self.heirs[self.first_output(group.last)]
        way = self.walks[group.last]
        if not readers or way is None or not all(self.walked(k, tensor) for k in readers):
            return None, exact
        if group.first == group.last and way.pace == Pace.ROWS and way.out_rows > streams.ROWS_MAX:
            return None, exact
        return streams.distance(self.ways(group.first, group.last), readers, group), exact


def graph_of(model: TFLiteModel) -> Graph:
    """The graph of a model. ModelContractError: it has several inputs or outputs."""
    operators = model.operators
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelContractError(
            "the memory plan takes models of one input, one output",
            "split the model, or convert it again with `kilofed convert`",
        )
    reads = {tensor: op.index for op in operators for tensor in op.inputs}  # the last one
    lifetimes = {model.inputs[0]: (-1, reads.get(model.inputs[0], -1))}
    for op in operators:
        for tensor in op.outputs:
            last = len(operators) if tensor in model.outputs else reads.get(tensor, op.index)
            lifetimes[tensor] = (op.index, last)
        if state_of(op) >= 0:
            lifetimes[state_of(op)] = (-1, len(operators))
    activations = tuple(lifetimes)
    heirs = {}
    for op in operators:
        allowed = in_place_inputs(model, op)
        inputs = [i for i in allowed if op.inputs[i] in lifetimes and lifetimes[op.inputs[i]][1] == op.index]
        # An input that is read twice must be allowed both times.
        barred = {tensor for i, tensor in enumerate(op.inputs) if i not in allowed}
        heirs[op.outputs[0]] = tuple(
            dict.fromkeys(op.inputs[i] for i in inputs if op.inputs[i] not in barred)
        )
    sizes = {tensor: model.tensors[tensor].size_bytes for tensor in activations}
    scratch = tuple(scratch_bytes(model, op) for op in operators)
    walks = tuple(walk(model, op) for op in operators)
    return Graph(model, activations, sizes, lifetimes, scratch, heirs, walks)


def lowest(taken: Iterable[tuple[int, int]], size: int) -> int:
    """The lowest multiple of 4 with `size` free bytes beside `taken`, (offset, bytes) each."""
    place = 0
    for offset, length in sorted(taken):
        if place + size <= offset:
            break
        place = max(place, round_up(offset + length))
    return place


class Layout:
    """A graph with its operators grouped: what is alive when, how large its place is, and what may overlap.

    groups: in order, not overlapping, each one that holds (`streams.check`). sizes, lifetimes: as of `Plan`.
    stages: (first, last) operator of each group, and of each operator that is in none.
    """

    def __init__(self, graph: Graph, groups: Iterable[Group] = ()) -> None:
        self.graph = graph
        self.groups = tuple(groups)
        count = len(graph.model.operators)
        whose = {k: group for group in self.groups for k in range(group.first, group.last + 1)}
        self._group_of = [whose.get(k, Group(k, _ALONE)) for k in range(count)]
        self.stages = list(dict.fromkeys((g.first, g.last) for g in self._group_of))
        self.sizes = dict(graph.sizes)
        self.lifetimes = {}
        for tensor, (start, end) in graph.lifetimes.items():
            self.lifetimes[tensor] = (
                self._group_of[start].first if start >= 0 else start,
                self._group_of[end].last if 0 <= end < count else end,
            )
        for group in self.groups:
            for k, rule in enumerate(group.rules, start=group.first):
                way = graph.walks[k]
                if rule.ring and way is not None:
                    self.sizes[graph.first_output(k)] = rule.ring * way.out_row
        self.scratch = [round_up(size) for size in graph.scratch]
        self._overlaps: dict[int, list[tuple[int, int | None, bool]]] = {}

    def apart(self, a: int, b: int) -> bool:
        """Whether two activations are never alive together."""
        (from_a, to_a), (from_b, to_b) = self.lifetimes[a], self.lifetimes[b]
        return to_a < from_b or to_b < from_a

    def stage_scratch(self, first: int, last: int) -> int:
        """Bytes of the scratch of all operators of a stage."""
        return sum(self.scratch[first : last + 1])

    def alive(self, first: int, last: int) -> list[int]:
        """Activations that are alive while a stage runs."""
        return [
            t
            for t in self.graph.activations
            if self.lifetimes[t][0] <= last and first <= self.lifetimes[t][1]
        ]

    def overlaps(self, output: int) -> list[tuple[int, int | None, bool]]:
        """(a tensor, as of `Graph.overlap`) for each that this activation may overlap when the tensor dies.
        Empty for what is no first output of a stage's last operator."""
        if output not in self._overlaps:
            self._overlaps[output] = self._find_overlaps(output)
        return self._overlaps[output]

    def _find_overlaps(self, output: int) -> list[tuple[int, int | None, bool]]:
        writer = self.graph.lifetimes[output][0]
        if writer < 0 or self.graph.first_output(writer) != output:
            return []
        group = self._group_of[writer]
        if group.last != writer:
            return []
        found = []
        for tensor in self.graph.activations:
            start, end = self.graph.lifetimes[tensor]
            if start < group.first and group.first <= end <= group.last:
                distance, exact = self.graph.overlap(tensor, group)
                if distance is not None or exact:
                    found.append((tensor, distance, exact))
        return found

    def may_overlap(self, output: int, at: int, tensor: int, tensor_at: int, *, standard: bool) -> bool:
        """Whether an activation at `at` may overlap one at `tensor_at` that is alive with it. standard: in a
        plan of TFLite Micro's format, only exactly."""
        for dying, distance, exact in self.overlaps(output):
            if dying == tensor:
                below = tensor_at - at
                return (exact and below == 0) or (not standard and distance is not None and below >= distance)
        return False

    def gap(self, offsets: Mapping[int, int], first: int, last: int, size: int) -> int:
        """The lowest place with `size` free bytes while a stage runs, beside the activations in `offsets`."""
        return lowest(((offsets[t], self.sizes[t]) for t in self.alive(first, last)), size)

    def scratch_holds(self, offsets: Mapping[int, int], places: Sequence[int]) -> bool:
        """Whether scratch at these places, one an operator, overlaps nothing that is alive with it."""
        for first, last in self.stages:
            size, at = self.stage_scratch(first, last), places[first]
            alive = self.alive(first, last) if size else []
            if size and not 0 <= at <= OFFSET_MAX:
                return False
            if any(at < offsets[t] + self.sizes[t] and offsets[t] < at + size for t in alive):
                return False
        return True

    def finish(
        self,
        offsets: dict[int, int],
        *,
        table_bytes: int,
        from_file: bool,
        places: Sequence[int] | None = None,
    ) -> Plan:
        """The plan of these offsets. places: of scratch, one an operator; None: in the lowest gaps."""
        scratch = [(0, 0)] * len(self.scratch)
        for first, last in self.stages:
            size = self.stage_scratch(first, last)
            place = 0
            if size:
                place = self.gap(offsets, first, last, size) if places is None else places[first]
            for k in range(first, last + 1):
                if self.scratch[k]:
                    scratch[k] = (place, self.graph.scratch[k])
                    place += self.scratch[k]
        ends = [offsets[t] + self.sizes[t] for t in self.graph.activations]
        tensor_bytes = round_up(max([*ends, *(at + size for at, size in scratch if size)]))
        return Plan(
            offsets=tuple(offsets.get(t, -1) for t in range(len(self.graph.model.tensors))),
            lifetimes=dict(self.lifetimes),
            sizes=dict(self.sizes),
            scratch=tuple(scratch),
            groups=self.groups,
            arena_bytes=tensor_bytes + table_bytes,
            tensor_bytes=tensor_bytes,
            from_file=from_file,
            bound_bytes=0,
        )

    def stage_bytes(self, first: int, last: int) -> int:
        """What a stage needs at least: all that is alive, and as little twice as may be."""
        alive = self.alive(first, last)
        total = sum(round_up(self.sizes[t]) for t in alive) + self.stage_scratch(first, last)
        output = self.graph.first_output(last)
        own = round_up(self.sizes[output])
        spared = 0
        for tensor, distance, exact in self.overlaps(output):
            other = round_up(self.sizes[tensor])
            over = own + other
            if distance is not None:
                over = min(over, max(max(distance, 0) + other, own))
            if exact:
                over = min(over, max(other, own))
            spared += own + other - over
        return total - min(own, spared)
