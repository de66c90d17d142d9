"""The memory plan: where every activation of a model lies in the device's arena, and how big the arena is.

Activations share memory when they are not alive together, so the arena's size is a matter of where they are
put. The device could plan by itself, but it has neither the time nor the memory to plan well; so the host
does (`plan_model`), writes the plan into the file under TFLite Micro's own name for it (`with_plan`), and
knows the size before anything is flashed.

`device_plan` computes what the device makes of a file as it is: the file's plan when it has one that holds,
else the device's own. Its figures are those of ``kf_model_open`` (firmware/src/model/graph.c) to the byte;
both places state the rules, and a test compares them.

Rules. Time runs over operators; operator k reads and writes at time k, the model's input is written at time
-1. An activation is alive from its writing to its last reading, the model's output to the end, and what an
operator keeps from one inference to the next, its state, all the time. Two that are alive together must not
overlap, with one exception: an operator that works in place may write its (first) output exactly where an
input lies that is read for the last time by it. An operator's scratch takes the lowest gap
that is free while it runs. Offsets are multiples of 4.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kilofed_tools.errors import ModelContractError
from kilofed_tools.metadata import PLAN, decode_plan, encode_plan, read_metadata, write_metadata
from kilofed_tools.tflite import Op, Operator, TFLiteModel, read_model

ALIGN = 4
OWN_PLAN_MAX = 80  # activations that the device places by itself: KF_MODEL_OWN_PLAN_MAX
OFFSET_MAX = 1 << 24  # KF_MODEL_TENSOR_BYTES_MAX
MULTIPLIER_BYTES = 8  # scratch of a transposed convolution for one output channel: kf_requant_t
CHANNEL_BYTES = 12  # scratch of a convolution for one output channel: kf_channel_t
DEPTHWISE_TAPS_MAX = 25  # places of a window for which depthwise convolutions get more: KF_DEPTHWISE_TAPS_MAX
_SEARCH_ROUNDS = 4000  # placements tried at most; the search ends early when the lower bound is met
_SEARCH_COST = 1 << 21  # and fewer when there are many activations: rounds * n^2

_STATES = {Op.SVDF: 4}  # operator -> number of the input that is kept between inferences
_RESHAPES = (Op.RESHAPE, Op.SQUEEZE, Op.EXPAND_DIMS)
_POOLS = (Op.AVERAGE_POOL_2D, Op.MAX_POOL_2D)
_ONE_BY_ONE = (
    Op.HARD_SWISH, Op.LEAKY_RELU, Op.LOGISTIC, Op.QUANTIZE, Op.RELU, Op.RELU6, Op.RELU_N1_TO_1,
    Op.SOFTMAX, Op.TANH,
)  # fmt: skip
_PAIRS = (Op.ADD, Op.MAXIMUM, Op.MINIMUM, Op.MUL, Op.PRELU, Op.SUB)


@dataclass(frozen=True)
class Plan:
    """A model's arena. Sizes and offsets are in bytes.

    offsets: one a tensor of the graph, -1 for a tensor that is not in the arena. lifetimes: tensor -> (time
    it is written, time it is read last). sizes: tensor -> bytes. scratch: one an operator, (offset, bytes).
    arena_bytes: what the device needs, a multiple of 4. tensor_bytes: of these, activations and scratch; the
    rest is the table of the device's own plan. from_file: whether the file's plan holds. bound_bytes: what no
    plan for this model can go below (the largest sum of what is alive together).
    """

    offsets: tuple[int, ...]
    lifetimes: dict[int, tuple[int, int]]
    sizes: dict[int, int]
    scratch: tuple[tuple[int, int], ...]
    arena_bytes: int
    tensor_bytes: int
    from_file: bool
    bound_bytes: int


def _round_up(n: int) -> int:
    return (n + ALIGN - 1) // ALIGN * ALIGN


def _front_padding(size: int, out: int, window: int, stride: int) -> int:
    return max((out - 1) * stride + window - size, 0) // 2


def scratch_bytes(model: TFLiteModel, op: Operator) -> int:
    """Bytes an operator needs beside its tensors while it runs: a convolution's prepared channels, and what
    its kernels copy of the image (firmware/src/nn/kernels.h)."""
    if op.code == Op.TRANSPOSE_CONV:
        return MULTIPLIER_BYTES * model.tensors[op.outputs[0]].shape[3]
    if op.code not in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D):
        return 0
    filters, out = model.tensors[op.inputs[1]], model.tensors[op.outputs[0]]
    channels = 4 + CHANNEL_BYTES * out.shape[3]
    if op.code == Op.CONV_2D:
        terms = filters.elements // filters.shape[0]
        return channels + 6 * _round_up(terms)
    _, k_h, k_w, _ = filters.shape
    reach = (out.shape[2] - 1) * op.option("stride_w") + (k_w - 1) * op.option("dilation_w_factor") + 1
    one_filter = out.shape[3] == model.tensors[op.inputs[0]].shape[3]
    small = one_filter and k_h * k_w <= DEPTHWISE_TAPS_MAX and reach <= 1 << 16
    return channels + 4 * k_h + (8 * k_h * (k_w + reach) if small else 0)


def _outer(op: Operator, shape: tuple[int, ...]) -> int:
    """Elements before the axis along which an operator joins."""
    axis = op.option("axis")
    return math.prod(shape[: axis + len(shape) if axis < 0 else axis])


def in_place_inputs(model: TFLiteModel, op: Operator) -> tuple[int, ...]:
    """Positions of the inputs whose place the output may take, when they are read for the last time."""
    x, y = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    if op.code in (*_RESHAPES, *_ONE_BY_ONE):
        return (0,)
    if op.code in (Op.CONCATENATION, Op.PACK):
        return (0,) if _outer(op, y.shape) == 1 else ()
    if op.code in _PAIRS:
        return tuple(i for i in (0, 1) if model.tensors[op.inputs[i]].elements == y.elements)
    if op.code in _POOLS:
        axes = ((1, "filter_height", "stride_h"), (2, "filter_width", "stride_w"))
        front = [_front_padding(x.shape[a], y.shape[a], op.option(w), op.option(s)) for a, w, s in axes]
        return (0,) if front == [0, 0] else ()
    return ()


@dataclass(frozen=True)
class _Graph:
    """What planning needs of a model. `activations` is in the order of the device's table: the input, then an
    operator's outputs and its state, operator by operator."""

    model: TFLiteModel
    activations: tuple[int, ...]
    sizes: dict[int, int]
    lifetimes: dict[int, tuple[int, int]]
    scratch: tuple[int, ...]
    heirs: dict[int, tuple[int, ...]]  # an operator's first output -> inputs whose place it may take

    def apart(self, a: int, b: int) -> bool:
        """Whether two activations are never alive together."""
        (from_a, to_a), (from_b, to_b) = self.lifetimes[a], self.lifetimes[b]
        return to_a < from_b or to_b < from_a


def state_of(op: Operator) -> int:
    """The tensor that an operator keeps from one inference to the next, -1 for none."""
    place = _STATES.get(op.code, -1)  # type: ignore[call-overload]
    return op.inputs[place] if 0 <= place < len(op.inputs) else -1


def _graph(model: TFLiteModel) -> _Graph:
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
    return _Graph(model, activations, sizes, lifetimes, scratch, heirs)


def _lowest(taken: Iterable[tuple[int, int]], size: int) -> int:
    """The lowest multiple of 4 with `size` free bytes beside `taken`, (offset, bytes) each."""
    place = 0
    for offset, length in sorted(taken):
        if place + size <= offset:
            break
        place = max(place, _round_up(offset + length))
    return place


def _gap(graph: _Graph, offsets: dict[int, int], op: int, size: int) -> int:
    alive = [t for t in graph.activations if graph.lifetimes[t][0] <= op <= graph.lifetimes[t][1]]
    return _lowest(((offsets[t], graph.sizes[t]) for t in alive), size)


def _finish(graph: _Graph, offsets: dict[int, int], *, table_bytes: int, from_file: bool) -> Plan:
    ops = range(len(graph.scratch))
    scratch = tuple(
        (_gap(graph, offsets, k, graph.scratch[k]) if graph.scratch[k] else 0, graph.scratch[k]) for k in ops
    )
    ends = [offsets[t] + graph.sizes[t] for t in graph.activations]
    tensor_bytes = _round_up(max([*ends, *(at + size for at, size in scratch if size)]))
    return Plan(
        offsets=tuple(offsets.get(t, -1) for t in range(len(graph.model.tensors))),
        lifetimes=dict(graph.lifetimes),
        sizes=dict(graph.sizes),
        scratch=scratch,
        arena_bytes=tensor_bytes + table_bytes,
        tensor_bytes=tensor_bytes,
        from_file=from_file,
        bound_bytes=_bound(graph),
    )


def _bound(graph: _Graph) -> int:
    """The largest sum of what is alive at one time, an output and the input it may replace counted once."""
    bound = 0
    for k, op in enumerate(graph.model.operators):
        output = op.outputs[0]
        alive = {t for t in graph.activations if graph.lifetimes[t][0] <= k <= graph.lifetimes[t][1]}
        total = sum(_round_up(graph.sizes[t]) for t in alive) + _round_up(graph.scratch[k])
        spared = [min(_round_up(graph.sizes[t]), _round_up(graph.sizes[output])) for t in graph.heirs[output]]
        bound = max(bound, total - max(spared, default=0))
    return bound


# -- the device's own plan
# ------------------------------------------------------------------------------------


def _own_plan(graph: _Graph) -> Plan:
    count = len(graph.activations)
    if count > OWN_PLAN_MAX:
        raise ModelContractError(
            f"the model has {count} activations and no memory plan; a device places {OWN_PLAN_MAX} by itself",
            "write a plan into it with `kilofed convert`",
        )
    offsets: dict[int, int] = {}
    for tensor in sorted(graph.activations, key=lambda t: -graph.sizes[t]):  # of equals, the first
        taken = ((offsets[t], graph.sizes[t]) for t in offsets if not graph.apart(t, tensor))
        offsets[tensor] = _lowest(taken, graph.sizes[tensor])
    return _finish(graph, offsets, table_bytes=_round_up(2 * count), from_file=False)


def _holds(graph: _Graph, offsets: dict[int, int]) -> bool:
    if any(not 0 <= at <= OFFSET_MAX for at in offsets.values()):
        return False
    for i, first in enumerate(graph.activations):
        for second in graph.activations[i + 1 :]:
            if graph.apart(first, second):
                continue
            a, b = offsets[first], offsets[second]
            if a >= b + graph.sizes[second] or b >= a + graph.sizes[first]:
                continue
            if a != b or first not in graph.heirs.get(second, ()):
                return False
    return True


def device_plan(model: bytes | TFLiteModel) -> Plan:
    """What the device makes of this file as it is. ModelContractError: more than it can place by itself."""
    parsed = read_model(model) if isinstance(model, bytes) else model
    graph = _graph(parsed)
    payload = read_metadata(parsed, PLAN)
    if payload is not None:
        try:
            found = decode_plan(payload, tensors=len(parsed.tensors))
        except ModelContractError:
            return _own_plan(graph)
        offsets = {t: int(found[t]) for t in graph.activations}
        if _holds(graph, offsets):
            return _finish(graph, offsets, table_bytes=0, from_file=True)
    return _own_plan(graph)


# -- the host's plan
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """What is placed as one: activations that take over each other's place, or the scratch of one operator.

    parts: (time from, time to, bytes) each; all at the block's offset. tensors: empty for scratch.
    """

    tensors: tuple[int, ...]
    parts: tuple[tuple[int, int, int], ...]

    @property
    def size(self) -> int:
        return max(size for _, _, size in self.parts)

    @property
    def span(self) -> int:
        return max(to for _, to, _ in self.parts) - min(start for start, _, _ in self.parts) + 1


def _blocks(graph: _Graph, heir_of: dict[int, int]) -> list[_Block]:
    """heir_of: output -> the input whose place it takes."""
    chains: dict[int, list[int]] = {}
    root: dict[int, int] = {}
    for tensor in graph.activations:
        root[tensor] = root[heir_of[tensor]] if tensor in heir_of else tensor
        chains.setdefault(root[tensor], []).append(tensor)
    blocks = [
        _Block(tuple(chain), tuple((*graph.lifetimes[t], graph.sizes[t]) for t in chain))
        for chain in chains.values()
    ]
    return blocks + [_Block((), ((k, k, size),)) for k, size in enumerate(graph.scratch) if size]


def _conflicts(blocks: Sequence[_Block]) -> list[list[list[tuple[int, int]]]]:
    """[i][j]: (bytes of a part of i, bytes of a part of j) that are alive together, the largest that
    matter."""
    table: list[list[list[tuple[int, int]]]] = [[[] for _ in blocks] for _ in blocks]
    for i, a in enumerate(blocks):
        for j, b in enumerate(blocks):
            if i != j:
                pairs = {
                    (size_a, size_b)
                    for from_a, to_a, size_a in a.parts
                    for from_b, to_b, size_b in b.parts
                    if from_a <= to_b and from_b <= to_a
                }
                table[i][j] = sorted(pairs)
    return table


def _place(
    order: Sequence[int], conflicts: list[list[list[tuple[int, int]]]], sizes: Sequence[int]
) -> list[int]:
    """Each block of `order` at the lowest offset that the ones before it leave free."""
    offsets = [-1] * len(sizes)
    done: list[int] = []
    for i in order:
        # An offset o is barred when at - own < o < at + other, for a part of each alive together.
        barred = sorted(
            (offsets[j] - own, offsets[j] + other) for j in done for own, other in conflicts[i][j]
        )
        place = 0
        for low, high in barred:
            if low >= place:
                break
            place = max(place, _round_up(high))
        offsets[i] = place
        done.append(i)
    return offsets


def _search(blocks: Sequence[_Block], bound: int, rng: random.Random) -> tuple[int, list[int]]:
    """(arena bytes, offsets) of the best placement found. Starts from telling orders, then moves blocks
    about."""
    sizes = [block.size for block in blocks]
    conflicts = _conflicts(blocks)
    everyone = range(len(blocks))
    first = {i: min(start for start, _, _ in blocks[i].parts) for i in everyone}
    # The memory that is alive with a block: those under the highest pressure go first.
    pressure = {
        i: sizes[i] + sum(max((b for _, b in conflicts[i][j]), default=0) for j in everyone) for i in everyone
    }
    starts = [
        sorted(everyone, key=lambda i: (-sizes[i], first[i])),
        sorted(everyone, key=lambda i: (-blocks[i].span, -sizes[i], first[i])),
        sorted(everyone, key=lambda i: (-blocks[i].span * sizes[i], first[i])),
        sorted(everyone, key=lambda i: (-pressure[i], -sizes[i], first[i])),
        sorted(everyone, key=lambda i: (first[i], -sizes[i])),
    ]

    def height(offsets: list[int]) -> int:
        return _round_up(max(offsets[i] + sizes[i] for i in everyone))

    tried = [
        (height(offsets), order, offsets) for order in starts for offsets in [_place(order, conflicts, sizes)]
    ]
    best, order, offsets = min(tried, key=lambda entry: entry[0])
    rounds = min(_SEARCH_ROUNDS, _SEARCH_COST // (len(blocks) ** 2))
    for _ in range(rounds):
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
        found = _place(candidate, conflicts, sizes)
        if height(found) <= best:
            best, order, offsets = height(found), candidate, found
    return best, offsets


def _heir_choices(graph: _Graph) -> list[dict[int, int]]:
    """Ways of using operators that work in place: the larger input, the smaller one, and none."""
    choices: list[dict[int, int]] = []
    for prefer in (max, min):
        heir_of: dict[int, int] = {}
        for output in graph.heirs:
            if graph.heirs[output]:
                heir_of[output] = prefer(graph.heirs[output], key=lambda t: (graph.sizes[t], t))
        if heir_of not in choices:
            choices.append(heir_of)
    if choices[0]:
        choices.append({})
    return choices


def plan_model(model: bytes | TFLiteModel) -> Plan:
    """A good plan for a model, whatever plan its file has. Deterministic; well under a second for the models
    that fit on a microcontroller.

    ModelContractError: the model has several inputs or outputs.
    """
    parsed = read_model(model) if isinstance(model, bytes) else model
    graph = _graph(parsed)
    bound = _bound(graph)
    rng = random.Random(0)
    best: Plan | None = None
    for heir_of in _heir_choices(graph):
        blocks = _blocks(graph, heir_of)
        _, places = _search(blocks, bound, rng)
        offsets = {t: places[i] for i, block in enumerate(blocks) for t in block.tensors}
        plan = _finish(graph, offsets, table_bytes=0, from_file=True)
        if best is None or plan.arena_bytes < best.arena_bytes:
            best = plan
        if best.arena_bytes <= bound:
            break
    assert best is not None
    return best


def with_plan(model: bytes) -> bytes:
    """The model with the plan of `plan_model` in its metadata; everything else stays as it is."""
    return write_metadata(model, PLAN, encode_plan(list(plan_model(model).offsets)))
