"""Every rule that kf_model_open() enforces, broken one at a time: the fault, the operator and the tensor it
names.

Files here are sound flatbuffers with a wrong meaning; damaged flatbuffers are test_hostile.py's. Beside the
table, thousands of random changes of meaning run under the sanitizers: what is accepted must run safely.
"""

# ruff: noqa: E501 (a rule is a line of the table)

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import engine_models
import numpy as np
import pytest
from engine_models import FLOAT32, INT8, INT32, schema
from engine_runner import ERR_MODEL, ERR_UNSUPPORTED, NONE, OK, Engine, repeat, seeds

FILE, OFFSET, COUNT, INDEX, ORDER, OPERATOR, TYPE, SHAPE, BUFFER, QUANTIZATION, OPTIONS, PLAN = range(1, 13)
UNSUPPORTED = {COUNT, OPERATOR, TYPE, OPTIONS, PLAN}

CHANGES = 250  # random changes of meaning, of each kind of model

Model = Any
Rule = tuple[str, str, Callable[[Model, Any, Any], None], int]


def x(graph: Any, op: Any) -> Any:
    return graph.tensors[op.inputs[0]]


def w(graph: Any, op: Any) -> Any:
    return graph.tensors[op.inputs[1]]


def b(graph: Any, op: Any) -> Any:
    return graph.tensors[op.inputs[2]]


def y(graph: Any, op: Any) -> Any:
    return graph.tensors[op.outputs[0]]


def put(thing: Any, **values: Any) -> None:
    """Set attributes, for lambdas."""
    for name, value in values.items():
        setattr(thing, name, value)


def shape(t: Any, *dims: int) -> None:
    t.shape = list(dims)


def scale(t: Any, *values: float) -> None:
    t.quantization.scale = np.array(values, np.float32)


def zero(t: Any, *values: int) -> None:
    t.quantization.zeroPoint = np.array(values, np.int64)


def data(model: Model, t: Any, values: np.ndarray[Any, Any]) -> None:
    """Give a tensor constant data of its own."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    t.buffer = len(model.buffers)
    model.buffers.append(buffer)


def grow(t: Any, axis: int, by: int = 1) -> None:
    dims = list(t.shape)
    dims[axis] += by
    t.shape = dims


# (base model, what is broken, how, fault)
RULES: list[Rule] = [
    ("conv", "version", lambda m, g, o: put(m, version=2), FILE),
    ("conv", "two subgraphs", lambda m, g, o: m.subgraphs.append(g), COUNT),
    ("conv", "no operators", lambda m, g, o: g.operators.clear(), COUNT),
    ("conv", "two inputs", lambda m, g, o: put(g, inputs=[*g.inputs, g.inputs[0]]), COUNT),
    ("conv", "no output", lambda m, g, o: put(g, outputs=[]), COUNT),
    ("conv", "input out of range", lambda m, g, o: put(g, inputs=[len(g.tensors)]), INDEX),
    ("conv", "output is the input", lambda m, g, o: put(g, outputs=list(g.inputs)), INDEX),
    ("conv", "input is constant", lambda m, g, o: data(m, x(g, o), np.zeros(x(g, o).shape, np.int8)), BUFFER),
    ("conv", "output is constant", lambda m, g, o: data(m, y(g, o), np.zeros(y(g, o).shape, np.int8)), BUFFER),
    ("conv", "input is int32", lambda m, g, o: put(x(g, o), type=INT32), TYPE),
    ("conv", "operator code out of range", lambda m, g, o: put(o, opcodeIndex=9), INDEX),
    ("conv", "unknown operator", lambda m, g, o: put(m.operatorCodes[0], builtinCode=32), OPERATOR),
    ("conv", "custom operator", lambda m, g, o: put(m.operatorCodes[0], builtinCode=127), OPERATOR),
    ("conv", "tensor out of range", lambda m, g, o: put(o, inputs=[len(g.tensors), *o.inputs[1:]]), INDEX),
    ("conv", "tensor of minus two", lambda m, g, o: put(o, inputs=[-2, *o.inputs[1:]]), INDEX),
    ("conv", "input left out", lambda m, g, o: put(o, inputs=[-1, *o.inputs[1:]]), INDEX),
    ("conv", "no inputs", lambda m, g, o: put(o, inputs=[]), COUNT),
    ("conv", "four inputs", lambda m, g, o: put(o, inputs=[*o.inputs, o.inputs[0], o.inputs[0]][:4]), COUNT),
    ("conv", "two outputs", lambda m, g, o: put(o, outputs=[*o.outputs, *o.outputs]), COUNT),
    ("conv", "writes its input", lambda m, g, o: put(o, outputs=[o.inputs[0]]), ORDER),
    ("conv", "buffer out of range", lambda m, g, o: put(x(g, o), buffer=99), INDEX),
    ("conv", "variable tensor", lambda m, g, o: put(x(g, o), isVariable=True), TYPE),
    ("conv", "sparse tensor", lambda m, g, o: put(w(g, o), sparsity=schema.SparsityParametersT()), TYPE),
    ("conv", "rank 6", lambda m, g, o: shape(x(g, o), 1, 1, *x(g, o).shape), SHAPE),
    ("conv", "size 0", lambda m, g, o: shape(x(g, o), 1, 0, 3, 3), SHAPE),
    ("conv", "negative size", lambda m, g, o: shape(x(g, o), 1, -3, 3, 3), SHAPE),
    ("conv", "too large", lambda m, g, o: shape(x(g, o), 1, 1 << 13, 1 << 13, 3), SHAPE),
    ("conv", "size that wraps", lambda m, g, o: shape(x(g, o), 1, 1 << 16, 1 << 16, 1), SHAPE),
    ("conv", "rank 3", lambda m, g, o: shape(x(g, o), *x(g, o).shape[1:]), SHAPE),
    ("conv", "batch changes", lambda m, g, o: grow(y(g, o), 0), SHAPE),
    ("conv", "height does not follow", lambda m, g, o: grow(y(g, o), 1), SHAPE),
    ("conv", "width does not follow", lambda m, g, o: grow(y(g, o), 2), SHAPE),
    ("conv", "channels do not follow", lambda m, g, o: grow(y(g, o), 3), SHAPE),
    ("conv", "depth does not divide", lambda m, g, o: grow(x(g, o), 3), SHAPE),
    ("conv", "channels without filters", lambda m, g, o: (put(o, inputs=o.inputs[:2]), grow(y(g, o), 3)), SHAPE),
    ("conv", "weights are short", lambda m, g, o: grow(w(g, o), 0), BUFFER),
    ("conv", "weights are no constant", lambda m, g, o: put(w(g, o), buffer=0), ORDER),
    ("conv", "weights are int32", lambda m, g, o: put(w(g, o), type=INT32), BUFFER),
    ("conv", "weights have a zero point", lambda m, g, o: zero(w(g, o), 3), QUANTIZATION),
    ("conv", "weights without a scale", lambda m, g, o: put(w(g, o), quantization=None), QUANTIZATION),
    ("conv", "weights of negative scale", lambda m, g, o: scale(w(g, o), -0.1), QUANTIZATION),
    ("conv", "two scales for more channels", lambda m, g, o: scale(w(g, o), 0.1, 0.2), QUANTIZATION),
    ("conv per channel", "along the wrong axis", lambda m, g, o: put(w(g, o).quantization, quantizedDimension=1), QUANTIZATION),
    ("conv per channel", "a zero point", lambda m, g, o: zero(w(g, o), 0, 0, 0, 0, 0, 0, 1), QUANTIZATION),
    ("conv per channel", "too few zero points", lambda m, g, o: zero(w(g, o), 0, 0), QUANTIZATION),
    ("conv per channel", "one infinite scale", lambda m, g, o: scale(w(g, o), 1, 1, 1, 1, 1, 1, np.inf), QUANTIZATION),
    ("conv", "multiplier too large", lambda m, g, o: scale(y(g, o), 1e-15), QUANTIZATION),
    ("conv", "input without a scale", lambda m, g, o: put(x(g, o), quantization=None), QUANTIZATION),
    ("conv", "input of scale 0", lambda m, g, o: scale(x(g, o), 0.0), QUANTIZATION),
    ("conv", "input scale is no number", lambda m, g, o: scale(x(g, o), np.nan), QUANTIZATION),
    ("conv", "output scale is infinite", lambda m, g, o: scale(y(g, o), np.inf), QUANTIZATION),
    ("conv", "input per channel", lambda m, g, o: (scale(x(g, o), 1.0, 2.0), zero(x(g, o), 0, 0)), QUANTIZATION),
    ("conv", "zero point 128", lambda m, g, o: zero(x(g, o), 128), QUANTIZATION),
    ("conv", "zero point of 64 bits", lambda m, g, o: zero(x(g, o), 1 << 32), QUANTIZATION),
    ("conv", "custom quantization", lambda m, g, o: put(x(g, o).quantization, detailsType=1, details=schema.CustomQuantizationT()), QUANTIZATION),
    ("conv", "bias is short", lambda m, g, o: (shape(b(g, o), 6), data(m, b(g, o), np.zeros(6, np.int32))), SHAPE),
    ("conv", "bias is int8", lambda m, g, o: (put(b(g, o), type=INT8), data(m, b(g, o), np.zeros(7, np.int8))), TYPE),
    ("conv", "bias is the input", lambda m, g, o: put(o, inputs=[*o.inputs[:2], o.inputs[0]]), TYPE),
    ("conv", "stride 0", lambda m, g, o: put(o.builtinOptions, strideH=0), OPTIONS),
    ("conv", "stride too large", lambda m, g, o: put(o.builtinOptions, strideW=1 << 20), OPTIONS),
    ("conv", "dilation 0", lambda m, g, o: put(o.builtinOptions, dilationHFactor=0), OPTIONS),
    ("conv", "padding 2", lambda m, g, o: put(o.builtinOptions, padding=2), OPTIONS),
    ("conv", "TANH fused", lambda m, g, o: put(o.builtinOptions, fusedActivationFunction=4), OPTIONS),
    ("conv", "no options", lambda m, g, o: put(o, builtinOptionsType=0, builtinOptions=None), OPTIONS),
    ("conv", "another operator's options", lambda m, g, o: put(o, builtinOptionsType=9, builtinOptions=schema.SoftmaxOptionsT()), OPTIONS),
    ("depthwise", "multiplier differs", lambda m, g, o: put(o.builtinOptions, depthMultiplier=2), OPTIONS),
    ("depthwise", "channels do not divide", lambda m, g, o: grow(x(g, o), 3), SHAPE),
    ("depthwise", "channels do not follow", lambda m, g, o: grow(y(g, o), 3), SHAPE),
    ("depthwise", "channels without filters", lambda m, g, o: (shape(y(g, o), 1, 6, 5, 6), put(o.builtinOptions, depthMultiplier=2)), SHAPE),
    ("depthwise", "two filters", lambda m, g, o: (grow(w(g, o), 0), data(m, w(g, o), np.zeros(w(g, o).shape, np.int8))), SHAPE),
    ("fully connected", "features do not divide", lambda m, g, o: shape(x(g, o), 1, 7), SHAPE),
    ("fully connected", "a row too many", lambda m, g, o: shape(y(g, o), 2, 5), SHAPE),
    ("fully connected", "a class too many", lambda m, g, o: shape(y(g, o), 1, 6), SHAPE),
    ("fully connected", "shuffled weights", lambda m, g, o: put(o.builtinOptions, weightsFormat=1), OPTIONS),
    ("fully connected", "weights of rank 1", lambda m, g, o: shape(w(g, o), 30), SHAPE),
    ("fully connected", "input is float32", lambda m, g, o: put(x(g, o), type=FLOAT32), TYPE),
    ("fully connected", "output is float32", lambda m, g, o: put(y(g, o), type=FLOAT32), TYPE),
    ("max pool", "channels change", lambda m, g, o: grow(y(g, o), 3), SHAPE),
    ("max pool", "window 0", lambda m, g, o: put(o.builtinOptions, filterHeight=0), OPTIONS),
    ("max pool", "rescales", lambda m, g, o: scale(y(g, o), 0.123), QUANTIZATION),
    ("max pool", "moves the zero point", lambda m, g, o: zero(y(g, o), 5), QUANTIZATION),
    ("mean", "axis out of range", lambda m, g, o: data(m, w(g, o), np.array([4], np.int32)), OPTIONS),
    ("mean", "axis before the first", lambda m, g, o: data(m, w(g, o), np.array([-5], np.int32)), OPTIONS),
    ("mean", "axes at run time", lambda m, g, o: put(w(g, o), buffer=0), ORDER),
    ("mean", "axes are int8", lambda m, g, o: (put(w(g, o), type=INT8), data(m, w(g, o), np.array([1], np.int8))), TYPE),
    ("mean", "eleven axes", lambda m, g, o: (shape(w(g, o), 11), data(m, w(g, o), np.zeros(11, np.int32))), SHAPE),
    ("mean", "output does not follow", lambda m, g, o: grow(y(g, o), 0), SHAPE),
    ("mean", "multiplier too large", lambda m, g, o: scale(y(g, o), 1e-15), QUANTIZATION),
    ("add", "shapes do not meet", lambda m, g, o: (shape(w(g, o), 4), data(m, w(g, o), np.zeros(4, np.int8))), SHAPE),
    ("add", "first input too small", lambda m, g, o: shape(x(g, o), 2, 2), SHAPE),
    ("add", "first input too large", lambda m, g, o: shape(x(g, o), 2, 4), SHAPE),
    ("add", "output too small", lambda m, g, o: shape(y(g, o), 2, 2), SHAPE),
    ("add", "output too large", lambda m, g, o: shape(y(g, o), 2, 2, 3), SHAPE),
    ("add", "output of lower rank", lambda m, g, o: shape(y(g, o), 6), SHAPE),
    ("add", "both broadcast beyond", lambda m, g, o: (shape(x(g, o), 1, 3), shape(y(g, o), 5, 3)), SHAPE),
    ("add", "output scale too small", lambda m, g, o: scale(y(g, o), 1e-9), QUANTIZATION),
    ("add", "one input", lambda m, g, o: put(o, inputs=o.inputs[:1]), COUNT),
    ("pad", "negative", lambda m, g, o: data(m, w(g, o), np.array([[-1, 2], [0, 0]], np.int32)), SHAPE),
    ("pad", "more than there is", lambda m, g, o: data(m, w(g, o), np.array([[2, 0], [0, 0]], np.int32)), SHAPE),
    ("pad", "wraps", lambda m, g, o: data(m, w(g, o), np.array([[0, 1], [2**31 - 1, -(2**31) + 1]], np.int32)), SHAPE),
    ("pad", "for one axis", lambda m, g, o: (shape(w(g, o), 1, 2), data(m, w(g, o), np.zeros(2, np.int32))), SHAPE),
    ("pad", "at run time", lambda m, g, o: put(w(g, o), buffer=0), ORDER),
    ("pad", "output too large", lambda m, g, o: grow(y(g, o), 1), SHAPE),
    ("reshape", "loses elements", lambda m, g, o: shape(y(g, o), 1, 5), SHAPE),
    ("reshape", "gains elements", lambda m, g, o: shape(y(g, o), 1, 7), SHAPE),
    ("reshape", "changes the type", lambda m, g, o: put(y(g, o), type=FLOAT32), TYPE),
    ("reshape", "shape at run time", lambda m, g, o: put(w(g, o), buffer=0), ORDER),
    ("softmax", "output scale", lambda m, g, o: scale(y(g, o), 1 / 255), QUANTIZATION),
    ("softmax", "output zero point", lambda m, g, o: zero(y(g, o), -127), QUANTIZATION),
    ("softmax", "beta 0", lambda m, g, o: put(o.builtinOptions, beta=0.0), OPTIONS),
    ("softmax", "beta below 0", lambda m, g, o: put(o.builtinOptions, beta=-1.0), OPTIONS),
    ("softmax", "no options", lambda m, g, o: put(o, builtinOptionsType=0, builtinOptions=None), OPTIONS),
    ("softmax", "another row length", lambda m, g, o: shape(y(g, o), 3, 2), SHAPE),
    ("softmax", "multiplier of 1", lambda m, g, o: scale(x(g, o), 2.0**-28), QUANTIZATION),
    ("softmax", "too many classes", lambda m, g, o: (shape(x(g, o), 4096), shape(y(g, o), 4096)), SHAPE),
    ("logistic", "output zero point", lambda m, g, o: zero(y(g, o), 0), QUANTIZATION),
    ("logistic", "input scale too small", lambda m, g, o: scale(x(g, o), 1e-10), QUANTIZATION),
    ("logistic", "loses elements", lambda m, g, o: shape(y(g, o), 2, 2), SHAPE),
    ("quantize", "from int32", lambda m, g, o: put(x(g, o), type=INT32), TYPE),
    ("quantize", "multiplier too large", lambda m, g, o: scale(y(g, o), 1e-15), QUANTIZATION),
    ("quantize", "too large", lambda m, g, o: (shape(x(g, o), 1 << 13, 1 << 12), shape(y(g, o), 1 << 13, 1 << 12)), SHAPE),
    ("quantize", "gains elements", lambda m, g, o: shape(y(g, o), 2, 4), SHAPE),
    ("dequantize", "to int8", lambda m, g, o: put(y(g, o), type=INT8), TYPE),
    ("dequantize", "gains elements", lambda m, g, o: shape(y(g, o), 2, 4), SHAPE),
]  # fmt: skip


def base(name: str) -> bytes:
    """A small fixed model for each operator."""
    net = engine_models.Net(
        np.random.default_rng(1),
        [1, 6, 5, 3] if name in ("conv", "conv per channel", "depthwise", "max pool") else [2, 3],
    )
    code = schema.BuiltinOperator
    q = ([0.1], [3])
    if name.startswith("conv"):
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = 1
        weights = net.tensor(
            [7, 3, 3, 3],
            INT8,
            ([0.01] * (7 if "per" in name else 1), [0] * (7 if "per" in name else 1)),
            np.ones([7, 3, 3, 3], np.int8),
            0,
        )
        bias = net.tensor([7], INT32, ([0.001], [0]), np.arange(7, dtype=np.int32))
        net.operator(code.CONV_2D, [net.last, weights, bias], net.tensor([1, 6, 5, 7], INT8, q), options)
    elif name == "depthwise":
        options = schema.DepthwiseConv2DOptionsT()
        options.strideH = options.strideW = options.depthMultiplier = 1
        weights = net.tensor([1, 3, 3, 3], INT8, ([0.01], [0]), np.ones([1, 3, 3, 3], np.int8), 3)
        net.operator(code.DEPTHWISE_CONV_2D, [net.last, weights], net.tensor([1, 6, 5, 3], INT8, q), options)
    elif name == "fully connected":
        net.graph.tensors[net.last].shape = [1, 6]
        weights = net.tensor([5, 6], INT8, ([0.01], [0]), np.ones([5, 6], np.int8))
        net.operator(
            code.FULLY_CONNECTED,
            [net.last, weights],
            net.tensor([1, 5], INT8, q),
            schema.FullyConnectedOptionsT(),
        )
    elif name == "max pool":
        options = schema.Pool2DOptionsT()
        options.strideH = options.strideW = options.filterHeight = options.filterWidth = 2
        scale_x, zero_x = net.quantization()
        net.operator(
            code.MAX_POOL_2D, [net.last], net.tensor([1, 3, 3, 3], INT8, ([scale_x], [zero_x])), options
        )
    elif name == "mean":
        axes = net.tensor([1], INT32, None, np.array([1], np.int32))
        net.operator(code.MEAN, [net.last, axes], net.tensor([2], INT8, q), schema.ReducerOptionsT())
    elif name == "add":
        other = net.tensor([3], INT8, ([0.2], [1]), np.arange(3, dtype=np.int8))
        net.operator(code.ADD, [net.last, other], net.tensor([2, 3], INT8, q), schema.AddOptionsT())
    elif name == "pad":
        paddings = net.tensor([2, 2], INT32, None, np.array([[0, 1], [0, 0]], np.int32))
        net.operator(code.PAD, [net.last, paddings], net.tensor([3, 3], INT8, q), schema.PadOptionsT())
    elif name == "reshape":
        dims = net.tensor([1], INT32, None, np.array([6], np.int32))
        net.operator(code.RESHAPE, [net.last, dims], net.tensor([6], INT8, q), schema.ReshapeOptionsT())
    elif name == "softmax":
        engine_models.softmax(net)
    elif name == "logistic":
        engine_models.logistic(net)
    elif name == "quantize":
        engine_models.quantize(net)
    else:
        engine_models.dequantize(net)
    return net.finish()


@pytest.mark.parametrize("name", sorted({rule[0] for rule in RULES}))
def test_unbroken(engine: Engine, name: str) -> None:
    opened = engine.open(base(name))
    assert opened.status == OK and engine.run(bytes(opened.input_bytes))[0] == OK


@pytest.mark.parametrize("rule", RULES, ids=[f"{rule[0]}: {rule[1]}" for rule in RULES])
def test_rule(engine: Engine, rule: Rule) -> None:
    name, _, change, fault = rule
    model = engine_models.unpack(base(name))
    graph = model.subgraphs[0]
    change(model, graph, graph.operators[-1])
    opened = engine.open(engine_models.pack(model))
    assert opened.fault == fault
    assert opened.status == (ERR_UNSUPPORTED if fault in UNSUPPORTED else ERR_MODEL)


def test_blame(engine: Engine) -> None:
    """The device says which operator and which tensor to look at."""
    model = engine_models.unpack(engine_models.head_model(4, softmax_behind=True))
    graph = model.subgraphs[0]
    op = graph.operators[1]
    weights = op.inputs[1]
    graph.tensors[weights].quantization.zeroPoint = np.array([1])
    opened = engine.open(engine_models.pack(model))
    assert (opened.fault, opened.error_op, opened.error_tensor) == (QUANTIZATION, 1, weights)
    model.version = 7
    opened = engine.open(engine_models.pack(model))
    assert (opened.fault, opened.error_op, opened.error_tensor) == (FILE, NONE, NONE)


def test_order_of_a_cycle_and_of_two_writers(engine: Engine) -> None:
    model = engine_models.unpack(engine_models.head_model(4, softmax_behind=True))
    graph = model.subgraphs[0]
    first, second, third = graph.operators
    inputs = list(first.inputs)
    first.inputs = [third.outputs[0], *inputs[1:]]
    assert engine.open(engine_models.pack(model)).fault == ORDER
    first.inputs = inputs
    third.outputs = list(second.outputs)
    assert engine.open(engine_models.pack(model)).fault == ORDER


def test_constant_between_operators(engine: Engine) -> None:
    model = engine_models.unpack(engine_models.head_model(4, softmax_behind=True))
    graph = model.subgraphs[0]
    middle = graph.tensors[graph.operators[0].outputs[0]]
    data(model, middle, np.zeros(middle.shape, np.int8))
    assert engine.open(engine_models.pack(model)).fault == ORDER


@pytest.mark.parametrize("terms", [1 << 16, (1 << 16) + 1])
def test_sums_that_could_overflow(engine: Engine, terms: int) -> None:
    """2^16 products of -128 and 255 fit into 32 bits, and one more is refused."""
    net = engine_models.Net(np.random.default_rng(0), [1, terms])
    zero(net.graph.tensors[net.last], 127)
    weights = net.tensor([1, terms], INT8, ([1e-4], [0]), np.full([1, terms], -128, np.int8))
    output = net.tensor([1, 1], INT8, ([1.0], [0]))
    options = schema.FullyConnectedOptionsT()
    net.operator(schema.BuiltinOperator.FULLY_CONNECTED, [net.last, weights], output, options)
    opened = engine.open(net.finish())
    if terms > 1 << 16:
        assert opened.fault == SHAPE
    else:
        assert opened.status == OK and engine.run(b"\x80" * terms) == (OK, b"\x7f")


def test_softmax_of_more_classes_than_the_reference_takes(engine: Engine) -> None:
    """The reference aborts when equal values sum to 512 and more; here nothing is left of each, as rounding says."""
    net = engine_models.Net(np.random.default_rng(0), [1, 2000])
    engine_models.softmax(net)
    engine.open(net.finish())
    assert engine.run(bytes(2000)) == (OK, b"\x80" * 2000)


def test_too_many_activations_without_a_plan(engine: Engine) -> None:
    """Beyond what the device plans by itself the file must bring the plan; then the same model opens."""
    from kilofed_tools.plan import OWN_PLAN_MAX, with_plan

    net = engine_models.Net(np.random.default_rng(0), [1, 8])
    for _ in range(OWN_PLAN_MAX - 1):
        engine_models.quantize(net)
    assert engine.open(net.finish()).status == OK
    engine_models.quantize(net)
    opened = engine.open(net.finish())
    assert (opened.status, opened.fault) == (ERR_UNSUPPORTED, PLAN)
    opened = engine.open(with_plan(net.finish()))
    assert opened.status == OK and opened.arena_bytes == 8
    for _ in range(200):
        engine_models.quantize(net)
    assert engine.open(net.finish()).fault == COUNT


def mutate(model: Model, rng: random.Random) -> None:
    """One to three changes of meaning."""
    graph = model.subgraphs[0]
    for _ in range(rng.randint(1, 3)):
        t = rng.choice(graph.tensors)
        op = rng.choice(graph.operators)
        kind = rng.randrange(9)
        if kind <= 2 and len(t.shape):
            dims = list(t.shape)
            dims[rng.randrange(len(dims))] += rng.choice([-2, -1, 1, 2, 7, 100])
            t.shape = [max(n, rng.choice([0, 1])) for n in dims]
        elif kind == 3:
            t.shape = rng.choice([list(t.shape)[1:], [1, *t.shape], list(reversed(list(t.shape)))])
        elif kind == 4:
            t.type = rng.choice([INT8, INT32, FLOAT32])
        elif kind == 5 and t.quantization is not None and len(t.quantization.scale):
            n = rng.choice([0, 1, len(t.quantization.scale), 2])
            t.quantization.scale = np.array(
                [rng.choice([1e-40, 1e-9, 0.1, 1.0, 1e9, 3e38]) for _ in range(n)], np.float32
            )
            t.quantization.zeroPoint = np.array([rng.choice([0, 0, -128, 127]) for _ in range(n)], np.int64)
        elif kind == 6:
            inputs = list(op.inputs)
            inputs[rng.randrange(len(inputs))] = rng.randrange(-1, len(graph.tensors))
            op.inputs = inputs[: rng.choice([len(inputs), len(inputs) - 1]) or 1]
        elif kind == 7 and op.builtinOptions is not None:
            names = [n for n, v in vars(op.builtinOptions).items() if type(v) in (int, float)]
            if names:
                setattr(op.builtinOptions, rng.choice(names), rng.choice([0, 1, 2, 3, 5, 17]))
        elif kind == 8:
            buffer = model.buffers[t.buffer]
            if t.buffer and buffer.data is not None and len(buffer.data) % 4 == 0:
                words = np.frombuffer(bytes(buffer.data), np.int32).copy()
                words[rng.randrange(len(words))] = rng.choice([-1, 0, 1, 2, 5, 2**31 - 1, -(2**31)])
                buffer.data = words.view(np.uint8)


def subject(kind: str, seed: int) -> bytes:
    """A model to change."""
    if kind == "chain":
        return engine_models.random_model(seed % 40)
    if kind == "head":
        return engine_models.head_model(seed % 10, softmax_behind=True)
    return engine_models.one_op(kind, seed % 25)


@pytest.mark.parametrize("kind", [*sorted(engine_models.KINDS), "chain", "head"])
def test_changes_of_meaning(engine: Engine, kind: str, request: pytest.FixtureRequest) -> None:
    """Whatever opens runs inside its arena and its file, without undefined arithmetic."""
    statuses = []
    for seed in seeds(CHANGES):
        model = engine_models.unpack(subject(kind, seed))
        mutate(model, random.Random(f"{kind} {seed}"))
        try:
            opened = engine.open(engine_models.pack(model))
            assert opened.status in (OK, ERR_MODEL, ERR_UNSUPPORTED)
            if opened.status == OK and opened.arena_bytes < 1 << 22 and opened.macs < 1 << 22:
                content = np.random.default_rng(seed).integers(0, 256, opened.input_bytes).astype(np.uint8)
                assert engine.run(content.tobytes(), max_macs=5000)[0] == OK
        except AssertionError as error:
            raise AssertionError(f"{repeat(request.node.nodeid, seed)}\n{error}") from None
        statuses.append(opened.status)
    if len(statuses) == CHANGES:
        assert statuses.count(OK) >= 5 and CHANGES - statuses.count(OK) >= 50
