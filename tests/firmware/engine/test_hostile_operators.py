"""What every operator must refuse before it runs: types, scales, shapes, orders and arguments that cannot be.

Each kind of operator is damaged in the same ways, one place at a time, under the sanitizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import engine_models
import numpy as np
import pytest
from engine_runner import OK, Engine

KINDS = sorted({*engine_models.KINDS, *engine_models.LITE})
SEEDS = range(6)
FAULT_ORDER, FAULT_TYPE, FAULT_SHAPE, FAULT_QUANTIZATION = 5, 7, 8, 10
ARENA_LIMIT = 1 << 22
schema = engine_models.schema
TYPES = {schema.TensorType.INT16, schema.TensorType.FLOAT32, schema.TensorType.INT32}
BYTES_ONLY = {"reshape"}  # kinds that move bytes, whatever they mean, to a shape that is written elsewhere


def models(kind: str) -> Iterator[Any]:
    """Unpacked models of the kind, to be changed."""
    for seed in SEEDS:
        yield engine_models.unpack(engine_models.one_op(kind, seed))


def activations(graph: Any) -> list[int]:
    """Tensors that operators write, and the input."""
    return [*graph.inputs, *(i for op in graph.operators for i in op.outputs)]


def fault_of(engine: Engine, model: Any) -> int:
    return engine.open(engine_models.pack(model)).fault


@pytest.mark.parametrize("kind", KINDS)
def test_other_types_are_refused(engine: Engine, kind: str) -> None:
    """int16 and float models of any operator, one tensor at a time: floats pass only at the ends, through
    QUANTIZE and DEQUANTIZE."""
    for model in models(kind):
        graph = model.subgraphs[0]
        for index in activations(graph):
            tensor = graph.tensors[index]
            kept = tensor.type
            for other in TYPES - {kept}:
                tensor.type = other
                readers = [op for op in graph.operators if index in [*op.inputs, *op.outputs]]
                codes = {model.operatorCodes[op.opcodeIndex].builtinCode for op in readers}
                if other == schema.TensorType.FLOAT32 and codes == {schema.BuiltinOperator.QUANTIZE}:
                    continue  # this is what it is for
                assert fault_of(engine, model) == FAULT_TYPE, (kind, index, other)
            tensor.type = kept


@pytest.mark.parametrize("kind", sorted(set(KINDS) - BYTES_ONLY))
def test_scales_that_cannot_be_are_refused(engine: Engine, kind: str) -> None:
    for model in models(kind):
        graph = model.subgraphs[0]
        for index in activations(graph):
            tensor = graph.tensors[index]
            if tensor.type != schema.TensorType.INT8:
                continue
            kept = tensor.quantization.scale
            for scale in (0.0, -1.0, np.inf, np.nan):
                tensor.quantization.scale = np.array([scale], np.float32)
                assert fault_of(engine, model) == FAULT_QUANTIZATION, (kind, index, scale)
            tensor.quantization.scale = kept


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_cannot_be_are_refused(engine: Engine, kind: str) -> None:
    """Sizes of 0, negative ones, products beyond 32 bits, six axes; and an output one larger than it is."""
    for model in models(kind):
        graph = model.subgraphs[0]
        for index in activations(graph):
            tensor = graph.tensors[index]
            kept = list(tensor.shape)
            for shape in ([0, *kept[1:]], [-1, *kept[1:]], [1 << 20] * 4, [1] * 6):
                tensor.shape = shape
                assert fault_of(engine, model) == FAULT_SHAPE, (kind, index, shape)
            tensor.shape = kept
        last = graph.tensors[graph.outputs[0]]
        for axis in range(len(last.shape)):
            last.shape[axis] += 1
            assert engine.open(engine_models.pack(model)).status != OK, (kind, axis)
            last.shape[axis] -= 1


@pytest.mark.parametrize("kind", KINDS)
def test_cycles_are_refused(engine: Engine, kind: str) -> None:
    """An operator that reads what it, or a later one, writes; and one that writes what has a value."""
    for model in models(kind):
        graph = model.subgraphs[0]
        op = graph.operators[0]
        place = list(op.inputs).index(graph.inputs[0])
        kept = list(op.inputs)
        op.inputs = [*kept[:place], graph.outputs[0], *kept[place + 1 :]]
        assert fault_of(engine, model) == FAULT_ORDER, kind
        op.inputs = kept
        outputs = list(op.outputs)
        op.outputs = [graph.inputs[0], *outputs[1:]]
        assert engine.open(engine_models.pack(model)).status != OK, kind
        op.outputs = outputs


@pytest.mark.parametrize("kind", KINDS)
def test_wild_arguments(engine: Engine, kind: str) -> None:
    """Constant integers and integer options set to telling values: refused, or computed within the arena."""
    telling = [-(1 << 31), -3, -1, 0, 1, 2, 5, 1 << 12, 1 << 24, (1 << 31) - 1]
    tried = refused = 0
    for model in models(kind):
        graph = model.subgraphs[0]
        for op in graph.operators:
            for index in op.inputs:
                tensor = graph.tensors[index] if index >= 0 else None
                if tensor is None or tensor.type != schema.TensorType.INT32 or not tensor.buffer:
                    continue
                buffer = model.buffers[tensor.buffer]
                kept = buffer.data
                values = np.array(kept, np.uint8).view("<i4")
                for at in range(min(len(values), 6)):
                    for value in telling:
                        changed = values.copy()
                        changed[at] = value
                        buffer.data = changed.view(np.uint8)
                        tried += 1
                        refused += not runs(engine, model)
                buffer.data = kept
            for name, number in vars(op.builtinOptions or object()).items() if op.builtinOptions else ():
                if isinstance(number, int) and not isinstance(number, bool):
                    short = "Function" in name or "Type" in name or "Format" in name or name == "padding"
                    for value in (0, 1, 4, 127) if short else telling:
                        setattr(op.builtinOptions, name, value)
                        tried += 1
                        refused += not runs(engine, model)
                    setattr(op.builtinOptions, name, number)
    assert tried == 0 or refused > 0 or kind in BYTES_ONLY, "none of these values was refused"


def runs(engine: Engine, model: Any) -> bool:
    """Whether the model opens; then it runs, too."""
    opened = engine.open(engine_models.pack(model))
    if opened.status != OK or opened.arena_bytes > ARENA_LIMIT:
        return False
    assert engine.run(bytes(opened.input_bytes), max_macs=3000)[0] == OK
    return True
