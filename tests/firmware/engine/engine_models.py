"""Random int8 models of awkward shapes, made from a seed without TensorFlow.

`random_model(seed)` chains one to five operators; `one_op(kind, seed)` wraps a single one. Shapes are small
and divide badly (1, primes, odd channels); strides, dilations, paddings, activations, zero points,
per-channel and per-tensor scales are drawn anew each time. Output scales are chosen so that values spread
over int8 and sometimes saturate.
"""

from __future__ import annotations

import copy
from typing import Any

import engine_ops
import flatbuffers
import numpy as np
import numpy.typing as npt
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

Rng = np.random.Generator
INT8, INT32, FLOAT32 = schema.TensorType.INT8, schema.TensorType.INT32, schema.TensorType.FLOAT32
ACTIVATIONS = [0, 0, 1, 2, 3]  # none twice, RELU, RELU_N1_TO_1, RELU6
SIZES = [1, 2, 3, 4, 5, 7, 8, 11, 13]
CHANNELS = [1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17]


class Net:
    """A model under construction. `last` is the tensor that the next operator reads."""

    def __init__(self, rng: Rng, shape: list[int], dtype: int = INT8) -> None:
        self.rng = rng
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.model.metadata = []
        self.graph = schema.SubGraphT()
        self.graph.tensors = []
        self.graph.operators = []
        self.model.subgraphs = [self.graph]
        quantization = None if dtype == FLOAT32 else self.random_quantization()
        self.last = self.tensor(shape, dtype, quantization)
        self.graph.inputs = [self.last]

    def random_quantization(self) -> tuple[list[float], list[int]]:
        """One scale around 1/30 and any zero point."""
        return [self.scale()], [int(self.rng.integers(-128, 128))]

    def scale(self) -> float:
        """A scale as converters make them: no round number."""
        return float(np.float32(np.exp(self.rng.uniform(np.log(0.002), np.log(0.5)))))

    def tensor(
        self,
        shape: list[int],
        dtype: int = INT8,
        quantization: tuple[list[float], list[int]] | None = None,
        data: npt.NDArray[Any] | None = None,
        axis: int = 0,
    ) -> int:
        """Add a tensor, constant when `data` is given, and return its index."""
        t = schema.TensorT()
        t.name = f"t{len(self.graph.tensors)}".encode()
        t.shape = [int(n) for n in shape]
        t.type = dtype
        t.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if quantization is not None:
            t.quantization = schema.QuantizationParametersT()
            t.quantization.scale = np.array(quantization[0], np.float32)
            t.quantization.zeroPoint = np.array(quantization[1], np.int64)
            t.quantization.quantizedDimension = axis
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def operator(self, code: int, inputs: list[int], output: int | list[int], options: Any = None) -> int:
        """Add an operator; its (first) output becomes `last`."""
        outputs = output if isinstance(output, list) else [output]
        known = [c.builtinCode for c in self.model.operatorCodes]
        if code not in known:
            entry = schema.OperatorCodeT()
            entry.builtinCode = code
            entry.deprecatedBuiltinCode = min(code, 127)
            entry.version = 1
            self.model.operatorCodes.append(entry)
            known.append(code)
        op = schema.OperatorT()
        op.opcodeIndex = known.index(code)
        op.inputs = inputs
        op.outputs = outputs
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            op.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            op.builtinOptions = options
        self.graph.operators.append(op)
        self.last = outputs[0]
        return self.last

    def shape(self, tensor: int | None = None) -> list[int]:
        """Shape of a tensor, of `last` by default."""
        return list(self.graph.tensors[self.last if tensor is None else tensor].shape)

    def quantization(self, tensor: int | None = None) -> tuple[float, int]:
        """(scale, zero point) of a tensor, of `last` by default."""
        q = self.graph.tensors[self.last if tensor is None else tensor].quantization
        return float(q.scale[0]), int(q.zeroPoint[0])

    def finish(self) -> bytes:
        """The file."""
        self.graph.outputs = [self.last]
        return pack(self.model)


def pack(model: Any) -> bytes:
    """Serialise an unpacked model."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def unpack(data: bytes) -> Any:
    """Deserialise a model into the schema's objects."""
    return schema.ModelT.InitFromPackedBuf(data, 0)


def cut(data: bytes, ops: int) -> bytes:
    """The model of the first `ops` operators; its output is the first that the last of them writes. Metadata
    is dropped."""
    model = copy.deepcopy(unpack(data))
    graph = model.subgraphs[0]
    graph.operators = graph.operators[:ops]
    graph.outputs = list(graph.operators[-1].outputs[:1])
    model.metadata = []
    model.signatureDefs = []
    return pack(model)


def keeps_state(data: bytes) -> bool:
    """Whether a model keeps anything from one inference to the next."""
    return any(t.isVariable for t in unpack(data).subgraphs[0].tensors)


def extent(size: int, k: int, stride: int, dilation: int, valid: bool) -> int:
    """Outputs along an axis of `size` places."""
    reach = (k - 1) * dilation + 1
    return (size - reach) // stride + 1 if valid else -(-size // stride)


def _filter_scales(net: Net, count: int) -> tuple[list[float], list[int]]:
    if net.rng.random() < 0.3:
        return [net.scale()], [0]
    scales = np.exp(net.rng.uniform(np.log(1e-4), np.log(0.05), count))
    if count > 1 and net.rng.random() < 0.1:
        scales[net.rng.integers(count)] = net.rng.choice([1e-38, 1e-30, 1e-12])
    return [float(np.float32(s)) for s in scales], [0] * count


def _output(net: Net, terms: float, x_scale: float, w_scales: list[float]) -> tuple[list[float], list[int]]:
    """A scale at which sums of `terms` products of random int8 values spread over int8, more or less."""
    spread = np.sqrt(terms) * 5500.0 * x_scale * float(np.median(w_scales))
    scale = np.float32(spread / 40.0 * np.exp(net.rng.uniform(-1.0, 1.0)))
    return [float(scale)], [int(net.rng.integers(-128, 128))]


def _bias(net: Net, count: int, terms: float) -> int:
    if net.rng.random() < 0.2:
        return -1
    size = int(np.sqrt(terms) * 5500)
    data = net.rng.integers(-size, size + 1, count).astype(np.int32)
    return net.tensor([count], INT32, ([1.0], [0]), data)


def _window(net: Net, options: Any, shape: list[int], *, dilated: bool) -> tuple[int, int, list[int]]:
    """Draw a window, write it into the options, return (k_h, k_w, output height and width)."""
    rng = net.rng
    while True:
        k = [int(rng.choice([1, 1, 2, 3, 3, 5, 7])) for _ in range(2)]
        stride = [int(rng.choice([1, 1, 1, 2, 2, 3])) for _ in range(2)]
        dilation = [int(rng.choice([1, 1, 2, 3])) if dilated and rng.random() < 0.4 else 1 for _ in range(2)]
        valid = bool(rng.random() < 0.5)
        out = [extent(shape[1 + i], k[i], stride[i], dilation[i], valid) for i in range(2)]
        if min(out) >= 1:
            break
    options.padding = int(valid)
    options.strideH, options.strideW = stride
    options.fusedActivationFunction = int(rng.choice(ACTIVATIONS))
    if dilated:
        options.dilationHFactor, options.dilationWFactor = dilation
    return k[0], k[1], out


def _inputs(*tensors: int) -> list[int]:
    return [t for t in tensors if t != -1]


def conv(net: Net) -> None:
    """CONV_2D, sometimes grouped."""
    shape = net.shape()
    options = schema.Conv2DOptionsT()
    k_h, k_w, out = _window(net, options, shape, dilated=True)
    groups = [g for g in (1, 2, 3, 5) if shape[3] % g == 0]
    group = int(net.rng.choice(groups)) if net.rng.random() < 0.2 else 1
    channels = group * int(net.rng.choice(CHANNELS[: 6 if group > 1 else None]))
    depth = shape[3] // group
    scales = _filter_scales(net, channels)
    data = net.rng.integers(-127, 128, [channels, k_h, k_w, depth]).astype(np.int8)
    weights = net.tensor(list(data.shape), INT8, scales, data, 0)
    terms = float(k_h * k_w * depth)
    bias = _bias(net, channels, terms)
    x = net.last
    q = _output(net, terms, net.quantization()[0], scales[0])
    y = net.tensor([shape[0], *out, channels], INT8, q)
    net.operator(schema.BuiltinOperator.CONV_2D, _inputs(x, weights, bias), y, options)


def depthwise(net: Net) -> None:
    """DEPTHWISE_CONV_2D, sometimes with a multiplier."""
    shape = net.shape()
    options = schema.DepthwiseConv2DOptionsT()
    k_h, k_w, out = _window(net, options, shape, dilated=True)
    options.depthMultiplier = int(net.rng.choice([1, 1, 1, 2, 3]))
    channels = shape[3] * options.depthMultiplier
    scales = _filter_scales(net, channels)
    data = net.rng.integers(-127, 128, [1, k_h, k_w, channels]).astype(np.int8)
    weights = net.tensor(list(data.shape), INT8, scales, data, 3)
    bias = _bias(net, channels, float(k_h * k_w))
    x = net.last
    q = _output(net, float(k_h * k_w), net.quantization()[0], scales[0])
    y = net.tensor([shape[0], *out, channels], INT8, q)
    net.operator(schema.BuiltinOperator.DEPTHWISE_CONV_2D, _inputs(x, weights, bias), y, options)


def fully_connected(net: Net) -> None:
    """FULLY_CONNECTED over the last axis, or over everything but the batch."""
    shape = net.shape()
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = int(net.rng.choice(ACTIVATIONS))
    options.keepNumDims = bool(net.rng.random() < 0.3)
    features = shape[-1] if options.keepNumDims or len(shape) == 1 else int(np.prod(shape[1:]))
    channels = int(net.rng.choice(CHANNELS))
    scales = _filter_scales(net, channels)
    data = net.rng.integers(-127, 128, [channels, features]).astype(np.int8)
    weights = net.tensor(list(data.shape), INT8, scales, data, 0)
    bias = _bias(net, channels, float(features))
    x_scale = net.quantization()[0]
    if bias != -1:
        # The reference compares the bias scale with the product of the others.
        net.graph.tensors[bias].quantization.scale = np.array(
            [np.float32(x_scale) * np.float32(scales[0][0])]
        )
    x = net.last
    q = _output(net, float(features), x_scale, scales[0])
    out = [*shape[:-1], channels] if options.keepNumDims else [int(np.prod(shape)) // features, channels]
    y = net.tensor(out, INT8, q)
    net.operator(schema.BuiltinOperator.FULLY_CONNECTED, _inputs(x, weights, bias), y, options)


def _pool(net: Net, code: int) -> None:
    shape = net.shape()
    options = schema.Pool2DOptionsT()
    options.filterHeight, options.filterWidth, out = _window(net, options, shape, dilated=False)
    scale, zero_point = net.quantization()
    x = net.last
    y = net.tensor([shape[0], *out, shape[3]], INT8, ([scale], [zero_point]))
    net.operator(code, [x], y, options)


def average_pool(net: Net) -> None:
    """AVERAGE_POOL_2D."""
    _pool(net, schema.BuiltinOperator.AVERAGE_POOL_2D)


def max_pool(net: Net) -> None:
    """MAX_POOL_2D."""
    _pool(net, schema.BuiltinOperator.MAX_POOL_2D)


def mean(net: Net) -> None:
    """MEAN over a random set of axes, some of them counted from the end, some twice."""
    shape = net.shape()
    rank = len(shape)
    chosen = sorted(net.rng.choice(rank, net.rng.integers(1, rank + 1), replace=False).tolist())
    axes = [a - rank if net.rng.random() < 0.3 else a for a in chosen]
    if net.rng.random() < 0.2:
        axes.append(axes[0])
    axis = net.tensor([len(axes)], INT32, None, np.array(axes, np.int32))
    options = schema.ReducerOptionsT()
    options.keepDims = bool(net.rng.random() < 0.5)
    kept = [1 if i in chosen else n for i, n in enumerate(shape)]
    out = kept if options.keepDims else [n for i, n in enumerate(shape) if i not in chosen]
    terms = float(np.prod([shape[i] for i in chosen]))
    scale = net.quantization()[0]
    q = (
        [float(np.float32(scale / np.sqrt(terms) * np.exp(net.rng.uniform(-0.5, 0.5))))],
        [int(net.rng.integers(-128, 128))],
    )
    x = net.last
    y = net.tensor(out, INT8, q)
    net.operator(schema.BuiltinOperator.MEAN, [x, axis], y, options)


def add(net: Net) -> None:
    """ADD: to itself, to a branch, or to a constant that may be broadcast."""
    options = schema.AddOptionsT()
    options.fusedActivationFunction = int(net.rng.choice(ACTIVATIONS))
    x = net.last
    shape = net.shape()
    kind = net.rng.integers(3)
    if kind == 0:
        other = x
    elif kind == 1:
        scale, zero_point = net.random_quantization()
        other = net.tensor(shape, INT8, (scale, zero_point))
        net.operator(schema.BuiltinOperator.QUANTIZE, [x], other, schema.QuantizeOptionsT())
    else:
        small = [n if net.rng.random() < 0.5 else 1 for n in shape]
        small = small[int(net.rng.integers(len(shape))) :] if net.rng.random() < 0.5 else small
        data = net.rng.integers(-128, 128, small).astype(np.int8)
        other = net.tensor(small, INT8, net.random_quantization(), data)
    scale = max(net.quantization(x)[0], net.quantization(other)[0])
    q = [float(np.float32(scale * np.exp(net.rng.uniform(-0.7, 1.5))))], [int(net.rng.integers(-128, 128))]
    y = net.tensor(shape, INT8, q)
    pair = [x, other] if net.rng.random() < 0.5 else [other, x]
    net.operator(schema.BuiltinOperator.ADD, pair, y, options)


def residual(net: Net) -> None:
    """A branch of convolutions added to what it started from: three activations alive at once."""
    start = net.last
    shape = net.shape()
    for _ in range(int(net.rng.integers(1, 3))):
        channels = shape[3]
        data = net.rng.integers(-127, 128, [channels, 3, 3, channels]).astype(np.int8)
        scales = _filter_scales(net, channels)
        weights = net.tensor(list(data.shape), INT8, scales, data, 0)
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = 0, 1, 1
        options.fusedActivationFunction = 1
        x = net.last
        q = _output(net, 9.0 * channels, net.quantization()[0], scales[0])
        y = net.tensor(shape, INT8, q)
        net.operator(schema.BuiltinOperator.CONV_2D, [x, weights], y, options)
    branch = net.last
    scale = max(net.quantization(start)[0], net.quantization(branch)[0])
    y = net.tensor(shape, INT8, ([float(np.float32(scale * 1.37))], [int(net.rng.integers(-128, 128))]))
    options = schema.AddOptionsT()
    net.operator(schema.BuiltinOperator.ADD, [start, branch], y, options)


def pad(net: Net) -> None:
    """PAD, or PADV2 with a value."""
    shape = net.shape()
    pads = np.array([[int(net.rng.choice([0, 0, 1, 2, 3])) for _ in range(2)] for _ in shape], np.int32)
    paddings = net.tensor([len(shape), 2], INT32, None, pads)
    scale, zero_point = net.quantization()
    x = net.last
    inputs = [x, paddings]
    code = schema.BuiltinOperator.PAD
    options: Any = schema.PadOptionsT()
    if net.rng.random() < 0.4:
        code = schema.BuiltinOperator.PADV2
        options = schema.PadV2OptionsT()
        value = np.array([net.rng.integers(-128, 128)], np.int8)
        inputs.append(net.tensor([1], INT8, ([scale], [zero_point]), value))
    out = [n + int(p[0] + p[1]) for n, p in zip(shape, pads, strict=True)]
    y = net.tensor(out, INT8, ([scale], [zero_point]))
    net.operator(code, inputs, y, options)


def reshape(net: Net) -> None:
    """RESHAPE between ranks 1, 2 and 4, SQUEEZE or EXPAND_DIMS."""
    shape = net.shape()
    elements = int(np.prod(shape))
    scale, zero_point = net.quantization()
    kind = int(net.rng.integers(3))
    x = net.last
    q = ([scale], [zero_point])
    if kind == 1 and 1 in shape and elements > 1:
        y = net.tensor([n for n in shape if n != 1], INT8, q)
        net.operator(schema.BuiltinOperator.SQUEEZE, [x], y, schema.SqueezeOptionsT())
    elif kind == 2 and len(shape) < 4:
        axis = int(net.rng.integers(len(shape) + 1))
        y = net.tensor([*shape[:axis], 1, *shape[axis:]], INT8, q)
        where = net.tensor([1], INT32, None, np.array([axis], np.int32))
        net.operator(schema.BuiltinOperator.EXPAND_DIMS, [x, where], y, schema.ExpandDimsOptionsT())
    else:
        divisor = int(net.rng.choice([d for d in range(1, 14) if elements % d == 0]))
        out = [
            [1, elements],
            [elements],
            [1, elements // divisor, 1, divisor],
            [divisor, elements // divisor],
        ]
        new = out[int(net.rng.integers(len(out)))]
        options = schema.ReshapeOptionsT()
        options.newShape = new
        dims = net.tensor([len(new)], INT32, None, np.array(new, np.int32))
        y = net.tensor(new, INT8, q)
        net.operator(schema.BuiltinOperator.RESHAPE, [x, dims], y, options)


def softmax(net: Net) -> None:
    """SOFTMAX along the last axis."""
    options = schema.SoftmaxOptionsT()
    options.beta = float(net.rng.choice([1.0, 1.0, 0.5, 2.3]))
    x = net.last
    y = net.tensor(net.shape(), INT8, ([1 / 256], [-128]))
    net.operator(schema.BuiltinOperator.SOFTMAX, [x], y, options)


def logistic(net: Net) -> None:
    """LOGISTIC."""
    x = net.last
    y = net.tensor(net.shape(), INT8, ([1 / 256], [-128]))
    net.operator(schema.BuiltinOperator.LOGISTIC, [x], y)


def quantize(net: Net) -> None:
    """QUANTIZE from int8 to int8."""
    scale = net.quantization()[0] * float(np.exp(net.rng.uniform(-1.5, 1.5)))
    x = net.last
    y = net.tensor(net.shape(), INT8, ([float(np.float32(scale))], [int(net.rng.integers(-128, 128))]))
    net.operator(schema.BuiltinOperator.QUANTIZE, [x], y, schema.QuantizeOptionsT())


def quantize_float(net: Net) -> None:
    """QUANTIZE from float32 to int8."""
    x = net.last
    y = net.tensor(net.shape(), INT8, net.random_quantization())
    net.operator(schema.BuiltinOperator.QUANTIZE, [x], y, schema.QuantizeOptionsT())


def dequantize(net: Net) -> None:
    """DEQUANTIZE from int8 to float32: nothing can follow it."""
    x = net.last
    y = net.tensor(net.shape(), FLOAT32)
    net.operator(schema.BuiltinOperator.DEQUANTIZE, [x], y, schema.DequantizeOptionsT())


SPATIAL = [conv, depthwise, average_pool, max_pool, residual, *engine_ops.IMAGES]
_OF_MORE = [*engine_ops.MOVES, *engine_ops.PAIRS, *engine_ops.VALUES]
ANYWHERE = [fully_connected, mean, add, pad, reshape, softmax, logistic, quantize, *_OF_MORE]
_ALONE = [quantize_float, dequantize, engine_ops.svdf]
KINDS = {f.__name__: f for f in [*SPATIAL, *ANYWHERE, *_ALONE]}
LITE = {f.__name__: f for f in engine_ops.LITE}  # compared with TensorFlow Lite itself
_ANY_RANK = {f.__name__ for f in [mean, add, pad, reshape, fully_connected, softmax, *_OF_MORE]}


def _start(rng: Rng) -> list[int]:
    batch = int(rng.choice([1, 1, 1, 2, 3]))
    return [batch, int(rng.choice(SIZES)), int(rng.choice(SIZES)), int(rng.choice(CHANNELS))]


def one_op(kind: str, seed: int) -> bytes:
    """A model of one operator (of two or three for the kinds that need company)."""
    rng = np.random.default_rng([seed, *kind.encode()])
    shape = _start(rng)
    if kind in _ANY_RANK:
        # Axes of size 1 added and taken at random: ranks 1 to 4.
        shape = shape[int(rng.integers(4)) :]
    elif kind.startswith("space_to_batch") and rng.random() < 0.3:
        shape = shape[1:]
    elif kind == "svdf":
        shape = shape[2:]
    net = Net(rng, shape, FLOAT32 if kind == "quantize_float" else INT8)
    {**KINDS, **LITE}[kind](net)
    return net.finish()


def random_model(seed: int) -> bytes:
    """A chain of one to five operators, sometimes between float ends."""
    rng = np.random.default_rng(seed)
    floats = rng.random() < 0.15
    net = Net(rng, _start(rng), FLOAT32 if floats else INT8)
    if floats:
        quantize_float(net)
    for _ in range(int(rng.integers(1, 6))):
        shape = net.shape()
        if np.prod(shape) > 20000 or not shape:
            break
        pool = [*SPATIAL, *SPATIAL, *ANYWHERE] if len(shape) == 4 else ANYWHERE
        pool = [*pool, engine_ops.svdf] if len(shape) == 2 else pool
        pool[int(rng.integers(len(pool)))](net)
    if floats:
        dequantize(net)
    return net.finish()


def head_model(seed: int, *, softmax_behind: bool) -> bytes:
    """A random backbone, then a FULLY_CONNECTED in the form the trainer needs, then a SOFTMAX or nothing."""
    rng = np.random.default_rng([seed, 5])
    net = Net(rng, [1, *_start(rng)[1:]])
    SPATIAL[int(rng.integers(len(SPATIAL)))](net)
    features, classes = int(np.prod(net.shape())), int(rng.integers(2, 12))
    data = rng.integers(-127, 128, [classes, features]).astype(np.int8)
    w_scale = net.scale()
    weights = net.tensor([classes, features], INT8, ([w_scale], [0]), data)
    x_scale = net.quantization()[0]
    bias_data = rng.integers(-20000, 20000, classes).astype(np.int32)
    bias_scale = float(np.float32(x_scale) * np.float32(w_scale))
    bias = net.tensor([classes], INT32, ([bias_scale], [0]), bias_data)
    x = net.last
    y = net.tensor([1, classes], INT8, _output(net, float(features), x_scale, [w_scale]))
    net.operator(
        schema.BuiltinOperator.FULLY_CONNECTED, [x, weights, bias], y, schema.FullyConnectedOptionsT()
    )
    if softmax_behind:
        softmax(net)
    return net.finish()


def random_inputs(data: bytes, seed: int, count: int) -> list[npt.NDArray[np.uint8]]:
    """Inputs of a model as bytes: uniform, then extreme values, then constants."""
    rng = np.random.default_rng([seed, 77])
    graph = unpack(data).subgraphs[0]
    t = graph.tensors[graph.inputs[0]]
    elements = int(np.prod(t.shape))
    inputs = []
    for i in range(count):
        if t.type == FLOAT32:
            values = rng.normal(0.0, 3.0, elements).astype(np.float32)
            if i == 1:
                values = np.round(values).astype(np.float32) / 2
            inputs.append(values.view(np.uint8))
            continue
        x = rng.integers(-128, 128, elements)
        if i == 1:
            x = rng.choice([-128, 127], elements)
        elif i == 2:
            x = np.full(elements, rng.choice([-128, 127, 0]))
        inputs.append(x.astype(np.int8).view(np.uint8))
    return inputs
