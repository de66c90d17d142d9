"""The memory plan: nothing alive is overwritten, nothing is wasted, and the file says what the plan says.

That the device computes the same figures is tested beside the device's code (tests/firmware/engine).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest

from kilofed_tools import flat, planfile
from kilofed_tools.errors import ModelContractError
from kilofed_tools.flat import Table
from kilofed_tools.metadata import KILOFED_PLAN, PLAN, encode_plan, read_metadata, write_metadata
from kilofed_tools.plan import Plan, device_plan, plan_model, with_plan
from kilofed_tools.tflite import Op, TensorType, read_model

IN_PLACE = (Op.ADD, Op.RESHAPE)


@dataclass(frozen=True)
class Graph:
    """Activations by size, and operators (code, inputs); operator k writes activation k + 1."""

    sizes: list[int]
    ops: list[tuple[Op, list[int]]]


def file_of(graph: Graph, *, outputs: tuple[int, ...] = ()) -> bytes:
    """A .tflite of that graph: shapes and edges only, which is all a plan looks at."""
    quantization = Table(
        "QuantizationParameters", {"scale": np.ones(1, np.float32), "zero_point": np.zeros(1, np.int64)}
    )
    tensors = [
        Table(
            "Tensor",
            {"shape": np.array([1, n], np.int32), "type": int(TensorType.INT8), "quantization": quantization},
        )
        for n in graph.sizes
    ]
    codes = sorted({int(code) for code, _ in graph.ops})
    operators = [
        Table(
            "Operator",
            {
                "opcode_index": codes.index(int(code)),
                "inputs": np.array(inputs, np.int32),
                "outputs": np.array([k + 1], np.int32),
            },
        )
        for k, (code, inputs) in enumerate(graph.ops)
    ]
    last = np.array(outputs or [len(graph.ops)], np.int32)
    subgraph = Table(
        "SubGraph",
        {"tensors": tensors, "inputs": np.zeros(1, np.int32), "outputs": last, "operators": operators},
    )
    tree = Table(
        "Model",
        {
            "version": 3,
            "operator_codes": [
                Table("OperatorCode", {"builtin_code": code, "deprecated_builtin_code": code})
                for code in codes
            ],
            "subgraphs": [subgraph],
            "buffers": [Table("Buffer")],
        },
    )
    return flat.write(tree)


def random_graph(seed: int) -> Graph:
    """A chain with branches: every operator reads the newest activation, and sometimes an older one."""
    rng = random.Random(seed)
    sizes = [rng.choice([1, 3, 10, 64, 100, 257, 1000])]
    ops: list[tuple[Op, list[int]]] = []
    for k in range(rng.randint(1, 14)):
        newest = len(sizes) - 1
        kind = rng.choice([Op.RESHAPE, Op.ADD, Op.MEAN, Op.MEAN, Op.FULLY_CONNECTED])
        if kind == Op.ADD:
            equal = [t for t in range(k + 1) if sizes[t] == sizes[newest]]
            ops.append((Op.ADD, [newest, rng.choice(equal)]))
            sizes.append(sizes[newest])
        elif kind == Op.FULLY_CONNECTED:
            ops.append((kind, [newest, rng.randrange(k + 1)]))
            sizes.append(rng.randint(1, 400))
        else:
            ops.append((kind, [newest]))
            sizes.append(sizes[newest] if kind == Op.RESHAPE else rng.choice([1, 7, 90, 333, 500]))
    return Graph(sizes, ops)


def run(graph: Graph, plan: Plan) -> None:
    """Execute the plan on a memory that knows who wrote each byte."""
    memory: list[int | None] = [None] * plan.arena_bytes

    def place(tensor: int) -> range:
        at = plan.offsets[tensor]
        assert at >= 0 and at % 4 == 0 and at + graph.sizes[tensor] <= plan.arena_bytes
        return range(at, at + graph.sizes[tensor])

    for byte in place(0):
        memory[byte] = 0
    for k, (code, inputs) in enumerate(graph.ops):
        output = k + 1
        for tensor in inputs:
            assert all(memory[byte] == tensor for byte in place(tensor)), (
                f"operator {k} reads what is overwritten"
            )
            if set(place(tensor)) & set(place(output)):
                below = plan.offsets[tensor] - plan.offsets[output]
                assert code in IN_PLACE and (below >= 0 if code == Op.ADD else below == 0)
        for byte in place(output):
            memory[byte] = output
    assert all(memory[byte] == len(graph.ops) for byte in place(len(graph.ops)))


@pytest.mark.parametrize("seed", range(80))
def test_nothing_alive_is_overwritten(seed: int) -> None:
    graph = random_graph(seed)
    plan = plan_model(file_of(graph))
    run(graph, plan)
    run(graph, device_plan(file_of(graph)))
    assert plan.bound_bytes <= plan.arena_bytes <= device_plan(file_of(graph)).arena_bytes


def test_plans_are_near_the_bound() -> None:
    """No plan can go below the bound; ours reach it nearly always."""
    plans = [plan_model(file_of(random_graph(seed))) for seed in range(80)]
    reached = sum(plan.arena_bytes == plan.bound_bytes for plan in plans)
    assert reached >= 72, reached
    assert sum(plan.arena_bytes for plan in plans) <= 1.02 * sum(plan.bound_bytes for plan in plans)


def test_working_in_place() -> None:
    """RESHAPE and ADD take over what dies with them; MEAN and an input that is read again are left alone."""
    chain = Graph([100, 100, 100, 100], [(Op.RESHAPE, [0]), (Op.ADD, [1, 1]), (Op.RESHAPE, [2])])
    assert plan_model(file_of(chain)).arena_bytes == 100
    again = Graph([100, 100, 100], [(Op.RESHAPE, [0]), (Op.ADD, [1, 0])])
    assert plan_model(file_of(again)).arena_bytes == 200
    other = Graph([100, 100], [(Op.MEAN, [0])])
    assert plan_model(file_of(other)).arena_bytes == 200


def test_same_model_same_plan() -> None:
    model = file_of(random_graph(5))
    assert plan_model(model) == plan_model(model)
    assert with_plan(model) == with_plan(model)


@pytest.mark.parametrize("seed", range(20))
def test_written_plan_is_the_plan(seed: int) -> None:
    model = file_of(random_graph(seed))
    plan = plan_model(model)
    written = with_plan(model)
    found = device_plan(written)
    assert found.from_file and found == plan
    assert with_plan(written) == written, "a second plan changes nothing"
    payload = read_metadata(written, KILOFED_PLAN)
    assert payload is not None
    ops = len(plan.scratch)
    decoded = planfile.decode(payload, tensors=len(plan.offsets), operators=ops, input_tensor=0)
    assert decoded == (list(plan.offsets), [0] * ops, plan.groups)
    assert write_metadata(written, KILOFED_PLAN, None) == write_metadata(model, KILOFED_PLAN, None)
    standard = with_plan(written, standard=True)
    plain = plan_model(model, standard=True)
    assert read_metadata(standard, KILOFED_PLAN) is None
    assert read_metadata(standard, PLAN) == encode_plan(list(plain.offsets))
    assert device_plan(standard).from_file and device_plan(standard).arena_bytes == plain.arena_bytes
    assert with_plan(standard) == written, "one plan, whatever there was before"


def test_a_large_arena_gets_a_standard_plan() -> None:
    """Places of two bytes end at 256 KiB."""
    graph = Graph([200_000, 200_000], [(Op.MEAN, [0])])
    planned = with_plan(file_of(graph))
    assert read_metadata(planned, KILOFED_PLAN) is None
    assert device_plan(planned).from_file
    assert device_plan(planned).arena_bytes == 400_000


def test_plan_that_does_not_hold_is_not_used() -> None:
    graph = Graph([64, 64, 64], [(Op.MEAN, [0]), (Op.MEAN, [1])])
    model = file_of(graph)
    own = device_plan(model)
    assert not own.from_file
    for offsets in ([0, 32, 64], [0, 64, -1], [0, 0, 64], [0, 64, (1 << 24) + 4]):
        assert device_plan(write_metadata(model, PLAN, encode_plan(offsets))) == own
    good = device_plan(write_metadata(model, PLAN, encode_plan([0, 64, 0])))
    assert good.from_file and good.arena_bytes == 128
    too_short = write_metadata(model, PLAN, encode_plan([0, 64]))
    assert device_plan(too_short) == own


def test_scratch_lies_in_a_gap() -> None:
    """The multipliers of a per-channel convolution fit between activations where there is room."""
    rng = random.Random(0)
    weights = np.array([[rng.randrange(-127, 128)] for _ in range(32)], np.int8).reshape(32, 1, 1, 1)
    graph = Graph([32, 32 * 32], [(Op.CONV_2D, [0])])
    tree = read_model(file_of(graph)).tree
    subgraph = tree.tables("subgraphs")[0]
    filters = {"scale": np.ones(32, np.float32), "zero_point": np.zeros(32, np.int64)}
    for tensor, shape in zip(subgraph.tables("tensors"), ([1, 8, 4, 1], [1, 8, 4, 32]), strict=True):
        tensor.values["shape"] = np.array(shape, np.int32)
    subgraph.tables("tensors").append(
        Table(
            "Tensor",
            {
                "shape": np.array(weights.shape, np.int32),
                "type": int(TensorType.INT8),
                "buffer": 1,
                "quantization": Table("QuantizationParameters", filters),
            },
        )
    )
    tree.tables("buffers").append(Table("Buffer", {"data": weights.view(np.uint8).ravel()}))
    subgraph.tables("operators")[0].values["inputs"] = np.array([0, 2], np.int32)
    plan = plan_model(flat.write(tree))
    scratch = 4 + 12 * 32 + 6 * 4  # a flag, 32 channels, a patch of one value
    assert plan.scratch == ((plan.scratch[0][0], scratch),) and plan.arena_bytes == 32 + 1024 + scratch


def test_models_that_cannot_be_planned_are_refused() -> None:
    graph = Graph([8, 8, 8], [(Op.MEAN, [0]), (Op.MEAN, [1])])
    with pytest.raises(ModelContractError, match=r"one input, one output.*convert"):
        plan_model(file_of(graph, outputs=(1, 2)))
    long = Graph([8] * 101, [(Op.MEAN, [k]) for k in range(100)])
    assert plan_model(file_of(long)).arena_bytes == 16
    with pytest.raises(ModelContractError, match=r"101 activations.*convert"):
        device_plan(file_of(long))
