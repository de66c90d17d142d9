"""The arena: the device and kilofed_tools.plan compute the same figures, and a plan changes no result."""

from __future__ import annotations

import engine_models
import numpy as np
import pytest
from engine_runner import OK, Engine, oracle
from test_models import MODELS, load

from kilofed_tools.metadata import PLAN, encode_plan, read_metadata, write_metadata
from kilofed_tools.plan import device_plan, in_place_inputs, plan_model, with_plan
from kilofed_tools.tflite import read_model

CHAINS = 120


def figures(engine: Engine, model: bytes) -> None:
    """Arena, scratch and in-place rules of the device and of the host."""
    opened = engine.open(model)
    assert opened.status == OK
    plan = device_plan(model)
    found = (opened.arena_bytes, opened.tensor_bytes, bool(opened.plan_from_file))
    assert found == (plan.arena_bytes, plan.tensor_bytes, plan.from_file)
    parsed = read_model(model)
    for op, (_, _, scratch, in_place) in zip(parsed.operators, engine.work(), strict=True):
        assert plan.scratch[op.index][1] == scratch
        assert in_place == sum(1 << i for i in in_place_inputs(parsed, op)), op.name


@pytest.mark.parametrize("name", sorted(MODELS))
def test_real_models(engine: Engine, name: str) -> None:
    model = write_metadata(load(name), PLAN, None)
    figures(engine, model)
    figures(engine, with_plan(model))
    assert plan_model(model).arena_bytes == plan_model(model).bound_bytes


@pytest.mark.parametrize("seed", range(CHAINS))
def test_chains(engine: Engine, seed: int) -> None:
    """Own plan and host's plan: same figures in both places, same bytes as the reference's (which reads the
    plan too)."""
    model = engine_models.random_model(seed)
    planned = with_plan(model)
    figures(engine, model)
    figures(engine, planned)
    assert device_plan(planned).arena_bytes <= device_plan(model).arena_bytes
    inputs = engine_models.random_inputs(model, seed, 2)
    expected = oracle(model, inputs)
    engine.open(planned)
    again = 4 if engine_models.keeps_state(model) else 0
    found = [engine.run(x.tobytes(), max_macs=500, mode=again if i else 0)[1] for i, x in enumerate(inputs)]
    assert found == expected
    assert oracle(planned, inputs) == expected, "the plan is TFLite Micro's format and must serve it too"


def test_works_in_place_somewhere(engine: Engine) -> None:
    """Over all chains, outputs do take the place of inputs; else the in-place kernels were never tried."""
    shared = 0
    for seed in range(CHAINS):
        model = read_model(engine_models.random_model(seed))
        plan = plan_model(model)
        for op in model.operators:
            taken = [i for i in op.inputs if plan.offsets[i] == plan.offsets[op.outputs[0]] >= 0]
            shared += any(i in taken for i in op.inputs)
    assert shared > CHAINS


@pytest.mark.parametrize("seed", range(30))
def test_broken_plans_are_not_used(engine: Engine, seed: int) -> None:
    """Offsets moved at random: the device sees what overlaps exactly as the host does, and computes right
    in any case."""
    rng = np.random.default_rng(seed)
    model = with_plan(engine_models.random_model(seed))
    payload = read_metadata(model, PLAN)
    assert payload is not None
    offsets = np.frombuffer(payload, "<i4")[3:].copy()
    x = engine_models.random_inputs(model, seed, 1)
    expected = oracle(engine_models.random_model(seed), x)
    for _ in range(6):
        moved = offsets.copy()
        placed = np.flatnonzero(moved >= 0)
        moved[rng.choice(placed)] += int(rng.choice([-64, -8, -4, -1, 1, 4, 16, 100]))
        damaged = write_metadata(model, PLAN, encode_plan(moved.tolist()))
        figures(engine, damaged)
        assert engine.run(x[0].tobytes())[1] == expected[0]


@pytest.mark.parametrize("kind", sorted(engine_models.KINDS))
def test_in_place_only_where_it_works(engine: Engine, kind: str) -> None:
    """A plan that lays an operator's output over its input holds exactly for the operators that allow it."""
    seldom = {"concatenation", "pack"}  # their other inputs must be constants
    tried = set()
    for seed in range(60 if kind in seldom else 12):
        model = engine_models.one_op(kind, seed)
        parsed = read_model(model)
        offsets = np.full(len(parsed.tensors), -1)
        for i in {*parsed.inputs, *(op.outputs[0] for op in parsed.operators)}:
            offsets[i] = 0
        if len(parsed.operators) > 1:
            continue
        forced = write_metadata(model, PLAN, encode_plan(offsets.tolist()))
        figures(engine, forced)
        x = engine_models.random_inputs(model, seed, 1)
        assert engine.run(x[0].tobytes())[1] == oracle(model, x)[0]
        tried.add(device_plan(forced).from_file)
    never = {"conv", "depthwise", "fully_connected", "mean", "pad", "dequantize"}
    never |= {
        "split",
        "split_v",
        "unpack",
        "slice_",
        "strided_slice",
        "transpose",
        "reduce",
        "resize",
        "svdf",
    }
    never |= {"space_to_batch", "transpose_conv"}
    assert tried == set() or (True in tried) == (kind not in never)
