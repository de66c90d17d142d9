"""The arena: the device and kilofed_tools.plan compute the same figures, and a plan changes no result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import engine_images
import engine_models
import numpy as np
import pytest
from engine_runner import OK, Engine, oracle, seeds
from test_models import MODELS, load

from kilofed_tools.metadata import KILOFED_PLAN, PLAN, encode_plan, write_metadata
from kilofed_tools.plan import device_plan, plan_bytes, plan_model, with_plan
from kilofed_tools.streams import Group, Rule
from kilofed_tools.tflite import read_model
from kilofed_tools.work import Pace, Walk, in_place_inputs, walk

CHAINS = 120
IMAGES = 150

#: Bytes of the arena that the host plans, at most. What of it is for patches is the kernels' choice.
ARENAS = {"digits": 2300, "ic": 24000, "kws": 11800}


def figures(engine: Engine, model: bytes) -> None:
    """Arena, scratch and in-place rules of the device and of the host."""
    opened = engine.open(model)
    assert opened.status == OK
    plan = device_plan(model)
    found = (opened.arena_bytes, opened.tensor_bytes, bool(opened.plan_from_file))
    assert found == (plan.arena_bytes, plan.tensor_bytes, plan.from_file)
    parsed = read_model(model)
    for op, work in zip(parsed.operators, engine.work(), strict=True):
        assert plan.scratch[op.index][1] == work.scratch_bytes
        assert work.in_place == sum(1 << i for i in in_place_inputs(parsed, op)), op.name
        way = walk(parsed, op) or Walk((), Pace.NONE)
        assert work.inputs == sum(1 << i for i in way.inputs), op.name
        if way.reach:
            assert (work.reach, work.stride, work.pad) == (way.reach, way.stride, way.pad), op.name
        else:
            assert work.reach == 0, op.name
        assert work.pace == way.pace, op.name


@pytest.mark.parametrize("name", sorted(MODELS))
def test_real_models(engine: Engine, name: str) -> None:
    model = write_metadata(write_metadata(load(name), PLAN, None), KILOFED_PLAN, None)
    figures(engine, model)
    figures(engine, with_plan(model, standard=True))
    planned = with_plan(model)
    figures(engine, planned)
    assert device_plan(planned).arena_bytes <= ARENAS[name]
    x = engine_models.random_inputs(model, 0, 1)
    engine.open(planned)
    assert engine.run(x[0].tobytes(), max_macs=3000)[1] == oracle(model, x)[0]


@pytest.mark.parametrize("seed", seeds(CHAINS))
def test_chains(engine: Engine, seed: int) -> None:
    """Own plan and host's plans: same figures in both places, same bytes as the reference's."""
    model = engine_models.random_model(seed)
    inputs = engine_models.random_inputs(model, seed, 2)
    expected = oracle(model, inputs)
    sizes = []
    for planned in (model, with_plan(model, standard=True), with_plan(model)):
        figures(engine, planned)
        sizes.append(device_plan(planned).arena_bytes)
        again = 4 if engine_models.keeps_state(model) else 0
        found = [
            engine.run(x.tobytes(), max_macs=500, mode=again if i else 0)[1] for i, x in enumerate(inputs)
        ]
        assert found == expected
    assert sizes == sorted(sizes, reverse=True)
    standard = with_plan(model, standard=True)
    assert oracle(standard, inputs) == expected, "the plan is TFLite Micro's format and must serve it too"


@pytest.mark.parametrize("seed", seeds(IMAGES))
def test_images(engine: Engine, seed: int) -> None:
    """Operators in turns, rings and overlaps: the same bytes, whatever the slices."""
    model = engine_images.image_model(seed)
    planned = with_plan(model)
    figures(engine, planned)
    inputs = engine_models.random_inputs(model, seed, 2)
    expected = oracle(model, inputs)
    for max_macs in (1, 700, 0xFFFFFFFF):
        assert [engine.run(x.tobytes(), max_macs=max_macs)[1] for x in inputs] == expected, max_macs


def test_every_way_of_saving_is_tried() -> None:
    """Over all of these models: outputs exactly in place of inputs, outputs below them, groups, rings."""
    exact = below = groups = rings = 0
    for maker, count in ((engine_models.random_model, CHAINS), (engine_images.image_model, IMAGES)):
        for seed in range(count):
            model = read_model(maker(seed))
            plan = plan_model(model)
            groups += len(plan.groups)
            rings += sum(rule.ring > 0 for group in plan.groups for rule in group.rules)
            for op in model.operators:
                y = plan.offsets[op.outputs[0]]
                for x in {*op.inputs} & plan.sizes.keys():
                    at, end = plan.offsets[x], plan.offsets[x] + plan.sizes[x]
                    exact += at == y
                    below += y < at < y + plan.sizes[op.outputs[0]] < end
    assert min(exact, below, groups, rings) > 30, (exact, below, groups, rings)


def _moved(rng: np.random.Generator, offsets: list[int], step: int) -> list[int]:
    """One place moved."""
    moved = list(offsets)
    i = int(rng.choice(np.flatnonzero(np.array(offsets) >= 0)))
    moved[i] = max(0, moved[i] + step * int(rng.choice([-64, -8, -2, -1, 1, 2, 4, 25])))
    return moved


def _meddled(rng: np.random.Generator, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """One number of one group changed."""
    if not groups:
        return (Group(int(rng.integers(3)), (Rule(1, 2, 2), Rule(1, 1, 0))),)
    found = [(group.first, [[rule.step, rule.ahead, rule.ring] for rule in group.rules]) for group in groups]
    first, rules = found[int(rng.integers(len(found)))]
    what = int(rng.integers(12))
    if what == 0:
        first += int(rng.choice([-1, 1]))
    elif what == 1 and len(rules) > 1:
        rules.pop(int(rng.integers(len(rules))))
    elif what == 2:
        rules.append([1, 1, 0])
    else:
        rule = rules[int(rng.integers(len(rules)))]
        which = int(rng.integers(3))
        rule[which] = min(255, max(0, rule[which] + int(rng.choice([-2, -1, -1, 1, 1, 7]))))
    return tuple(
        Group(
            max(0, start), tuple(Rule(*rule) for rule in (rules if (start, own) == (first, rules) else own))
        )
        for start, own in [(first, rules), *found[1:]]
    )


@pytest.mark.parametrize("maker", [engine_models.random_model, engine_images.image_model])
@pytest.mark.parametrize("seed", seeds(40))
def test_broken_plans_are_not_used(engine: Engine, seed: int, maker: Callable[[int], bytes]) -> None:
    """Places and rules moved at random: the device sees what no longer holds exactly as the host does, and
    computes right in any case."""
    rng = np.random.default_rng(seed)
    model = maker(seed)
    plan, plain = plan_model(model), plan_model(model, standard=True)
    parsed = read_model(model)
    x = engine_models.random_inputs(model, seed, 1)
    expected = oracle(model, x)
    for k in range(14):
        if k < 3:
            payload = encode_plan(_moved(rng, list(plain.offsets), 1))
            damaged = write_metadata(model, PLAN, payload)
        else:
            offsets = _moved(rng, list(plan.offsets), 4) if k < 7 else list(plan.offsets)
            groups = _meddled(rng, plan.groups) if k >= 6 else plan.groups
            changed = replace(plan, offsets=tuple(offsets), groups=groups)
            if k >= 10:  # scratch moved
                step = int(rng.choice([-64, -8, -4, 4, 8, 256]))
                scratch = tuple((max(0, at + step * (size > 0)), size) for at, size in plan.scratch)
                changed = replace(plan, scratch=scratch)
            payload = plan_bytes(changed, parsed)
            damaged = write_metadata(model, KILOFED_PLAN, payload)
        figures(engine, damaged)
        assert engine.run(x[0].tobytes(), max_macs=1)[1] == expected[0]


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
    never |= {"split", "split_v", "unpack", "slice_", "strided_slice", "transpose", "reduce", "resize"}
    never |= {"svdf", "space_to_batch", "transpose_conv"}
    assert tried == set() or (True in tried) == (kind not in never)
