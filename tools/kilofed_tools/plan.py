"""The memory plan: where every activation of a model lies in the device's arena, and how big the arena is.

Activations share memory when they are not alive together, and convolutions may run in turns with what reads
them, so that what lies between them never exists whole. The device could plan by itself, but it has neither
the time nor the memory to plan well; so the host does (`plan_model`), writes the plan into the file
(`with_plan`), and knows the size before anything is flashed.

`device_plan` computes what the device makes of a file as it is: the file's plan when it has one that holds,
else the device's own. Its figures are those of ``kf_model_open`` (firmware/src/model/plan.c) to the byte;
both places state the rules (`kilofed_tools.layout`), and a test compares them.

Two formats are read. ``kilofed.plan`` has everything. ``OfflineMemoryAllocation`` is TFLite Micro's own: a
place for every tensor, which exists whole and overlaps no other (or takes its place exactly).
"""

from __future__ import annotations

from dataclasses import replace

from kilofed_tools import planfile, planner, streams
from kilofed_tools.errors import ModelContractError
from kilofed_tools.layout import OFFSET_MAX, Graph, Layout, Plan, graph_of, lowest, state_of
from kilofed_tools.metadata import KILOFED_PLAN, PLAN, decode_plan, encode_plan, read_metadata, write_metadata
from kilofed_tools.streams import Group
from kilofed_tools.tflite import TFLiteModel, read_model
from kilofed_tools.work import in_place_inputs, round_up, scratch_bytes

__all__ = ["Plan", "device_plan", "in_place_inputs", "plan_model", "scratch_bytes", "state_of", "with_plan"]

PLACES_MOST = 4 * 0xFFFE  # bytes: places of two bytes, in units of 4
OWN_PLAN_MAX = 80  # activations that the device places by itself: KF_MODEL_OWN_PLAN_MAX


def _own_plan(graph: Graph) -> Plan:
    count = len(graph.activations)
    if count > OWN_PLAN_MAX:
        raise ModelContractError(
            f"the model has {count} activations and no memory plan; a device places {OWN_PLAN_MAX} by itself",
            "write a plan into it with `kilofed convert`",
        )
    layout = Layout(graph)
    offsets: dict[int, int] = {}
    for tensor in sorted(graph.activations, key=lambda t: -graph.sizes[t]):  # of equals, the first
        taken = ((offsets[t], graph.sizes[t]) for t in offsets if not layout.apart(t, tensor))
        offsets[tensor] = lowest(taken, graph.sizes[tensor])
    return layout.finish(offsets, table_bytes=round_up(2 * count), from_file=False)


def _groups_hold(graph: Graph, groups: tuple[Group, ...]) -> bool:
    """Whether groups come in order and each computes what its operators would alone."""
    free = 0
    if len(groups) > streams.GROUPS_MAX:
        return False
    for group in groups:
        first, last = group.first, group.last
        if first < free or last >= len(graph.model.operators):
            return False
        if not all(graph.streams(k) for k in range(first, last + 1)):
            return False
        if not streams.check(
            graph.ways(first, last), graph.edges(first, last), graph.whole(first, last), group
        ):
            return False
        free = last + 1
    return True


def _holds(layout: Layout, offsets: dict[int, int], *, standard: bool) -> bool:
    if any(not 0 <= at <= OFFSET_MAX for at in offsets.values()):
        return False
    activations = layout.graph.activations
    for i, first in enumerate(activations):
        for second in activations[i + 1 :]:
            if layout.apart(first, second):
                continue
            a, b = offsets[first], offsets[second]
            if a >= b + layout.sizes[second] or b >= a + layout.sizes[first]:
                continue
            if not layout.may_overlap(second, b, first, a, standard=standard):
                return False
    return True


def _file_plan(graph: Graph) -> Plan | None:
    """The plan in the file, None when it has none that holds."""
    tensors = len(graph.model.tensors)
    payload = read_metadata(graph.model, KILOFED_PLAN)
    standard = payload is None
    groups: tuple[Group, ...] = ()
    scratch: list[int] | None = None
    if payload is None:
        payload = read_metadata(graph.model, PLAN)
        if payload is None:
            return None
    try:
        if standard:
            found = decode_plan(payload, tensors=tensors).tolist()
        else:
            found, scratch, groups = planfile.decode(
                payload,
                tensors=tensors,
                operators=len(graph.model.operators),
                input_tensor=graph.model.inputs[0],
            )
    except ModelContractError:
        return None
    if not _groups_hold(graph, groups):
        return None
    layout = Layout(graph, groups)
    offsets = {t: int(found[t]) for t in graph.activations}
    if not _holds(layout, offsets, standard=standard):
        return None
    if scratch is not None and not layout.scratch_holds(offsets, scratch):
        return None
    return layout.finish(offsets, table_bytes=0, from_file=True, places=scratch)


def device_plan(model: bytes | TFLiteModel) -> Plan:
    """What the device makes of this file as it is. ModelContractError: more than it can place by itself."""
    parsed = read_model(model) if isinstance(model, bytes) else model
    graph = graph_of(parsed)
    plan = _file_plan(graph) or _own_plan(graph)
    return replace(plan, bound_bytes=planner.bound(graph))


def plan_model(model: bytes | TFLiteModel, *, standard: bool = False) -> Plan:
    """A good plan for a model, whatever plan its file has. Deterministic; a second or two for the models that
    fit on a microcontroller.

    standard: one that every reader of TFLite Micro's format can follow, without overlaps and groups.
    ModelContractError: the model has several inputs or outputs.
    """
    parsed = read_model(model) if isinstance(model, bytes) else model
    graph = graph_of(parsed)
    if standard:
        none: dict[int, tuple[int, ...]] = dict.fromkeys(graph.heirs, ())
        graph = replace(graph, heirs=none, walks=tuple(None for _ in graph.walks))
    return planner.best_plan(graph)


def plan_bytes(plan: Plan, model: TFLiteModel) -> bytes:
    """The entry ``kilofed.plan`` of a model with this plan. ModelContractError: its arena is too large."""
    places = [at if size else 0 for at, size in plan.scratch]
    for group in plan.groups:
        # A group's scratch begins with that of its first operator, also when that one needs none.
        inside = plan.scratch[group.first : group.last + 1]
        first = min((at for at, size in inside if size), default=0)
        places[group.first : group.last + 1] = [first, *[0] * (len(inside) - 1)][: len(inside)]
    return planfile.encode(plan.offsets, places, plan.groups, input_tensor=model.inputs[0])


def with_plan(model: bytes, *, standard: bool = False) -> bytes:
    """The model with the plan of `plan_model` in its metadata, in place of any it has; everything else stays
    as it is. An arena of more than PLACES_MOST bytes gets a standard plan."""
    plan = plan_model(model, standard=standard)
    bare = write_metadata(write_metadata(model, PLAN, None), KILOFED_PLAN, None)
    if not standard and plan.arena_bytes > PLACES_MOST:
        standard, plan = True, plan_model(model, standard=True)
    if standard:
        return write_metadata(bare, PLAN, encode_plan(list(plan.offsets)))
    return write_metadata(bare, KILOFED_PLAN, plan_bytes(plan, read_model(model)))
