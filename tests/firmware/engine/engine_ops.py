"""More kinds of operators for engine_models.py: those that move values about, each drawn anew with every
seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

if TYPE_CHECKING:
    from engine_models import Net

INT8, INT32 = schema.TensorType.INT8, schema.TensorType.INT32
OP = schema.BuiltinOperator


def _alike(net: Net, shape: list[int], tensor: int) -> int:
    """A new activation, quantized as `tensor` is."""
    scale, zero_point = net.quantization(tensor)
    return net.tensor(shape, INT8, ([scale], [zero_point]))


def _constant(net: Net, shape: list[int], tensor: int) -> int:
    scale, zero_point = net.quantization(tensor)
    data = net.rng.integers(-128, 128, shape).astype(np.int8)
    return net.tensor(shape, INT8, ([scale], [zero_point]), data)


def _branch(net: Net, x: int) -> int:
    """Another activation of the same shape and quantization: moved about once, so that it has a place of its
    own."""
    y = _alike(net, net.shape(x), x)
    net.operator(OP.QUANTIZE, [x], y, schema.QuantizeOptionsT())
    return y


def _axis(net: Net, axis: int, rank: int) -> int:
    """Sometimes counted from the end."""
    return axis - rank if net.rng.random() < 0.4 else axis


def concatenation(net: Net) -> None:
    """CONCATENATION of up to nine: the tensor itself, copies of it, constants of other lengths."""
    x = net.last
    shape = net.shape()
    axis = int(net.rng.integers(len(shape)))
    inputs, length = [], 0
    for _ in range(int(net.rng.choice([1, 2, 2, 3, 4, 5, 9]))):
        kind = net.rng.integers(3)
        if kind == 2:
            other = [*shape[:axis], int(net.rng.integers(1, 6)), *shape[axis + 1 :]]
            inputs.append(_constant(net, other, x))
        else:
            inputs.append(x if kind == 0 else _branch(net, x))
        length += net.shape(inputs[-1])[axis]
    if x not in inputs:
        inputs.append(x)
        length += shape[axis]
    options = schema.ConcatenationOptionsT()
    options.axis = _axis(net, axis, len(shape))
    y = _alike(net, [*shape[:axis], length, *shape[axis + 1 :]], x)
    net.operator(OP.CONCATENATION, inputs, y, options)


def pack(net: Net) -> None:
    """PACK of one to five: the tensor itself, copies of it, constants."""
    x = net.last
    shape = net.shape()
    if len(shape) > 4:
        _branch(net, x)
        return
    axis = int(net.rng.integers(len(shape) + 1))
    inputs = [x]
    for _ in range(int(net.rng.integers(0, 5))):
        kind = net.rng.integers(3)
        inputs.append(x if kind == 0 else _branch(net, x) if kind == 1 else _constant(net, shape, x))
    options = schema.PackOptionsT()
    options.axis = _axis(net, axis, len(shape) + 1)
    options.valuesCount = len(inputs)
    y = _alike(net, [*shape[:axis], len(inputs), *shape[axis:]], x)
    net.operator(OP.PACK, inputs, y, options)


def _pieces(net: Net, pieces: list[int], axis: int) -> None:
    """What became of a split: one piece alone, or several joined in another order."""
    order = net.rng.permutation(len(pieces))[: int(net.rng.integers(1, len(pieces) + 1))]
    chosen = [pieces[i] for i in order]
    net.last = chosen[0]
    if len(chosen) > 1:
        shape = net.shape(chosen[0])
        options = schema.ConcatenationOptionsT()
        options.axis = axis
        length = sum(net.shape(piece)[axis] for piece in chosen)
        y = _alike(net, [*shape[:axis], length, *shape[axis + 1 :]], chosen[0])
        net.operator(OP.CONCATENATION, chosen, y, options)


def split(net: Net) -> None:
    """SPLIT into equal parts."""
    x = net.last
    shape = net.shape()
    axis = int(net.rng.integers(len(shape)))
    parts = int(net.rng.choice([n for n in range(1, 10) if shape[axis] % n == 0]))
    where = net.tensor([], INT32, None, np.array(_axis(net, axis, len(shape)), np.int32))
    pieces = [_alike(net, [*shape[:axis], shape[axis] // parts, *shape[axis + 1 :]], x) for _ in range(parts)]
    options = schema.SplitOptionsT()
    options.numSplits = parts
    net.operator(OP.SPLIT, [where, x], pieces, options)
    _pieces(net, pieces, axis)


def split_v(net: Net) -> None:
    """SPLIT_V into parts of any lengths, one of which may be said to be the rest."""
    x = net.last
    shape = net.shape()
    axis = int(net.rng.integers(len(shape)))
    cuts = net.rng.integers(0, 2, max(shape[axis] - 1, 0)) * (net.rng.random(max(shape[axis] - 1, 0)) < 0.6)
    edges = [0, *(np.flatnonzero(cuts) + 1).tolist(), shape[axis]]
    lengths = np.diff(edges)[:9]
    lengths[-1] += shape[axis] - int(lengths.sum())
    where = net.tensor([1], INT32, None, np.array([_axis(net, axis, len(shape))], np.int32))
    said = net.tensor([len(lengths)], INT32, None, lengths.astype(np.int32))
    pieces = [_alike(net, [*shape[:axis], int(n), *shape[axis + 1 :]], x) for n in lengths]
    options = schema.SplitVOptionsT()
    options.numSplits = len(lengths)
    net.operator(OP.SPLIT_V, [x, said, where], pieces, options)
    _pieces(net, pieces, axis)


def unpack(net: Net) -> None:
    """UNPACK along an axis that is short enough, and often PACK again, in another order."""
    shape = net.shape()
    axes = [i for i, n in enumerate(shape) if n <= 9]
    if len(shape) < 2 or not axes:
        split(net)
        return
    x = net.last
    axis = int(net.rng.choice(axes))
    rest = [*shape[:axis], *shape[axis + 1 :]]
    pieces = [_alike(net, rest, x) for _ in range(shape[axis])]
    options: Any = schema.UnpackOptionsT()
    options.axis = _axis(net, axis, len(shape))
    options.num = shape[axis]
    net.operator(OP.UNPACK, [x], pieces, options)
    _pieces(net, pieces, int(net.rng.integers(len(rest))))


MOVES = [concatenation, pack, split, split_v, unpack]


def slice_(net: Net) -> None:
    """SLICE, a part of some axes; sizes may be said to be the rest."""
    x, shape = net.last, net.shape()
    begin = [int(net.rng.integers(n)) for n in shape]
    size = [int(net.rng.integers(1, n - b + 1)) for n, b in zip(shape, begin, strict=True)]
    said = [
        -1 if b + s == n and net.rng.random() < 0.5 else s for n, b, s in zip(shape, begin, size, strict=True)
    ]
    tensors = [net.tensor([len(v)], INT32, None, np.array(v, np.int32)) for v in (begin, said)]
    net.operator(OP.SLICE, [x, *tensors], _alike(net, size, x), schema.SliceOptionsT())


def strided_slice(net: Net) -> None:
    """STRIDED_SLICE forwards and backwards, with masks, out of range, and with axes dropped."""
    rng, x, shape = net.rng, net.last, net.shape()
    if len(shape) > 4:
        split(net)
        return
    options = schema.StridedSliceOptionsT()
    options.beginMask = options.endMask = options.shrinkAxisMask = 0
    begin, end, strides, out = [], [], [], []
    for axis, n in enumerate(shape):
        while True:
            stride = int(rng.choice([1, 1, 2, 3, n + 1, -1, -2, -n]))
            b, e = (int(rng.integers(-n - 2, n + 3)) for _ in range(2))
            masks = (bool(rng.random() < 0.4), bool(rng.random() < 0.4))
            # A Python slice with the same numbers; its rules for clamping are the operator's.
            kept = range(n)[slice(None if masks[0] else b, None if masks[1] else e, stride)]
            if len(kept):
                break
        if rng.random() < 0.2 and len(shape) > 1:
            options.shrinkAxisMask |= 1 << axis
            b, stride, masks = int(rng.integers(-n, n)), 1, (False, False)
        else:
            out.append(len(kept))
        options.beginMask |= int(masks[0]) << axis
        options.endMask |= int(masks[1]) << axis
        begin.append(b)
        end.append(e)
        strides.append(stride)
    if not out:
        out, options.shrinkAxisMask = [1] * len(shape), 0
        begin, end, strides = [0] * len(shape), [1] * len(shape), [1] * len(shape)
    tensors = [net.tensor([len(v)], INT32, None, np.array(v, np.int32)) for v in (begin, end, strides)]
    net.operator(OP.STRIDED_SLICE, [x, *tensors], _alike(net, out, x), options)


def transpose(net: Net) -> None:
    """TRANSPOSE by any permutation."""
    x, shape = net.last, net.shape()
    order = [int(i) for i in net.rng.permutation(len(shape))]
    perm = net.tensor([len(order)], INT32, None, np.array(order, np.int32))
    y = _alike(net, [shape[i] for i in order], x)
    net.operator(OP.TRANSPOSE, [x, perm], y, schema.TransposeOptionsT())


def resize(net: Net) -> None:
    """RESIZE_NEAREST_NEIGHBOR to larger and smaller sizes, in all three ways of counting places."""
    x, shape = net.last, net.shape()
    options = schema.ResizeNearestNeighborOptionsT()
    way = int(net.rng.integers(3))
    options.alignCorners, options.halfPixelCenters = way == 1, way == 2
    factor = int(net.rng.choice([2, 3]))
    if net.rng.random() < 0.4 and shape[1] * shape[2] < 200:
        size = [n * factor for n in shape[1:3]]
    else:
        size = [int(net.rng.integers(1, 2 * min(n, 12) + 2)) for n in shape[1:3]]
    said = net.tensor([2], INT32, None, np.array(size, np.int32))
    y = _alike(net, [shape[0], *size, shape[3]], x)
    net.operator(OP.RESIZE_NEAREST_NEIGHBOR, [x, said], y, options)


def space_to_batch(net: Net) -> None:
    """SPACE_TO_BATCH_ND, and mostly the way back with crops. Blocks divide the sizes: the reference does not
    say what it pads with."""
    _cut(net, padded=False)


def space_to_batch_padded(net: Net) -> None:
    """The same for any sizes."""
    _cut(net, padded=True)


def _cut(net: Net, *, padded: bool) -> None:
    x = net.last
    shape = net.shape()
    flat = len(shape) == 3
    spatial = shape[1:-1]
    block, pads = [], []
    for n in spatial:
        size = int(net.rng.choice([1, 2, 3] if padded else [b for b in (1, 2, 3, 5, 7) if n % b == 0]))
        before = int(net.rng.integers(0, 3)) if padded else 0
        block.append(size)
        pads.append([before, -(n + before) % size + (size * int(net.rng.integers(0, 2)) if padded else 0)])
    cut = [(n + sum(p)) // b for n, p, b in zip(spatial, pads, block, strict=True)]
    batches = shape[0] * int(np.prod(block))
    said = net.tensor([len(block)], INT32, None, np.array(block, np.int32))
    padding = net.tensor([len(block), 2], INT32, None, np.array(pads, np.int32))
    y = _alike(net, [batches, *cut, shape[-1]], x)
    net.operator(OP.SPACE_TO_BATCH_ND, [x, said, padding], y, schema.SpaceToBatchNDOptionsT())
    if net.rng.random() < 0.7 or flat:
        crops = [[int(net.rng.integers(0, b + 1)) for _ in range(2)] for b in block]
        back = [c * b - sum(crop) for c, b, crop in zip(cut, block, crops, strict=True)]
        if min(back) >= 1:
            cropped = net.tensor([len(block), 2], INT32, None, np.array(crops, np.int32))
            z = _alike(net, [shape[0], *back, shape[-1]], x)
            net.operator(OP.BATCH_TO_SPACE_ND, [y, said, cropped], z, schema.BatchToSpaceNDOptionsT())


def relu_n1_to_1(net: Net) -> None:
    """RELU_N1_TO_1 between two quantizations."""
    scale = net.quantization()[0] * float(np.exp(net.rng.uniform(-1, 1)))
    net.operator(OP.RELU_N1_TO_1, [net.last], net.tensor(net.shape(), INT8, _quantized(net, scale)))


def relu6_rescaled(net: Net) -> None:
    """RELU6 between two quantizations."""
    scale = net.quantization()[0] * float(np.exp(net.rng.uniform(-1, 1)))
    net.operator(OP.RELU6, [net.last], net.tensor(net.shape(), INT8, _quantized(net, scale)))


def tile(net: Net) -> None:
    """TILE along any axes."""
    x, shape = net.last, net.shape()
    times = [int(net.rng.choice([1, 1, 2, 3])) for _ in shape]
    said = net.tensor([len(shape)], INT32, None, np.array(times, np.int32))
    y = _alike(net, [n * by for n, by in zip(shape, times, strict=True)], x)
    net.operator(OP.TILE, [x, said], y, schema.TileOptionsT())


def _quantized(net: Net, scale: float) -> tuple[list[float], list[int]]:
    return [float(np.float32(scale))], [int(net.rng.integers(-128, 128))]


def _other(net: Net, x: int) -> int:
    """The second input of an operator of two: the first again, a branch of another scale, or a constant that
    may be repeated along some axes."""
    shape = net.shape(x)
    kind = net.rng.integers(3)
    if kind == 0:
        return x
    if kind == 1:
        scale = net.quantization(x)[0] * float(np.exp(net.rng.uniform(-1, 1)))
        y = net.tensor(shape, INT8, _quantized(net, scale))
        net.operator(OP.QUANTIZE, [x], y, schema.QuantizeOptionsT())
        return y
    small = [n if net.rng.random() < 0.5 else 1 for n in shape]
    small = small[int(net.rng.integers(len(shape))) :] if net.rng.random() < 0.5 else small
    data = net.rng.integers(-128, 128, small).astype(np.int8)
    return net.tensor(small, INT8, net.random_quantization(), data)


def _pair(net: Net, code: int, scale: Any, options: Any) -> None:
    x = net.last
    other = _other(net, x)
    pair = [x, other] if net.rng.random() < 0.5 else [other, x]
    if options is not None:
        options.fusedActivationFunction = int(net.rng.choice([0, 0, 1, 2, 3]))
    y = net.tensor(
        net.shape(x), INT8, _quantized(net, scale(net.quantization(x)[0], net.quantization(other)[0]))
    )
    net.operator(code, pair, y, options)


def sub(net: Net) -> None:
    """SUB."""
    wide = float(np.exp(net.rng.uniform(-0.7, 1.5)))
    _pair(net, OP.SUB, lambda a, b: max(a, b) * wide, schema.SubOptionsT())


def mul(net: Net) -> None:
    """MUL."""
    wide = float(np.exp(net.rng.uniform(3.0, 5.0)))
    _pair(net, OP.MUL, lambda a, b: a * b * wide, schema.MulOptionsT())


def extreme(net: Net) -> None:
    """MAXIMUM or MINIMUM, of one quantization."""
    x = net.last
    shape = net.shape()
    kind = net.rng.integers(3)
    small = [n if net.rng.random() < 0.5 else 1 for n in shape]
    other = x if kind == 0 else _branch(net, x) if kind == 1 else _constant(net, small, x)
    code = OP.MAXIMUM if net.rng.random() < 0.5 else OP.MINIMUM
    pair = [x, other] if net.rng.random() < 0.5 else [other, x]
    net.operator(code, pair, _alike(net, shape, x), schema.MaximumMinimumOptionsT())


def relu(net: Net) -> None:
    """RELU between two quantizations, or RELU6 within one."""
    x = net.last
    scale, zero_point = net.quantization()
    if net.rng.random() < 0.5:
        y = net.tensor(net.shape(), INT8, _quantized(net, scale * float(np.exp(net.rng.uniform(-1, 1)))))
        net.operator(OP.RELU, [x], y)
    else:
        net.operator(OP.RELU6, [x], net.tensor(net.shape(), INT8, ([scale], [zero_point])))


def leaky_relu(net: Net) -> None:
    """LEAKY_RELU with slopes below and above 1."""
    x = net.last
    options = schema.LeakyReluOptionsT()
    options.alpha = float(net.rng.choice([0.01, 0.1, 0.2, 0.3, 0.0, 1.0, 1.7, net.rng.uniform(0, 1)]))
    scale = net.quantization()[0] * float(np.exp(net.rng.uniform(-1, 1)))
    net.operator(OP.LEAKY_RELU, [x], net.tensor(net.shape(), INT8, _quantized(net, scale)), options)


def prelu(net: Net) -> None:
    """PRELU with a slope a channel, or for some axes."""
    x, shape = net.last, net.shape()
    small = [1, *shape[1:]] if net.rng.random() < 0.3 else [*[1] * (len(shape) - 1), shape[-1]]
    small = small[1:] if len(small) > 1 and net.rng.random() < 0.5 else small
    slopes = net.rng.integers(-128, 128, small).astype(np.int8)
    alpha = net.tensor(small, INT8, _quantized(net, float(np.exp(net.rng.uniform(-7, -3)))), slopes)
    scale = net.quantization()[0] * float(np.exp(net.rng.uniform(-1, 1)))
    net.operator(OP.PRELU, [x, alpha], net.tensor(shape, INT8, _quantized(net, scale)))


def hard_swish(net: Net) -> None:
    """HARD_SWISH from inputs that lie within its bend, and far outside."""
    x = net.last
    scale = net.quantization()[0] * float(np.exp(net.rng.uniform(-0.5, 1)))
    net.operator(
        OP.HARD_SWISH, [x], net.tensor(net.shape(), INT8, _quantized(net, scale)), schema.HardSwishOptionsT()
    )


def tanh(net: Net) -> None:
    """TANH."""
    net.operator(OP.TANH, [net.last], net.tensor(net.shape(), INT8, ([1 / 128], [0])))


def reduce(net: Net) -> None:
    """SUM, REDUCE_MAX or REDUCE_MIN over any axes."""
    x, shape = net.last, net.shape()
    rank = len(shape)
    chosen = sorted(net.rng.choice(rank, net.rng.integers(1, rank + 1), replace=False).tolist())
    axes = net.tensor([len(chosen)], INT32, None, np.array([_axis(net, a, rank) for a in chosen], np.int32))
    options = schema.ReducerOptionsT()
    options.keepDims = bool(net.rng.random() < 0.5)
    kept = [1 if i in chosen else n for i, n in enumerate(shape)]
    out = kept if options.keepDims else [n for i, n in enumerate(shape) if i not in chosen]
    code = int(net.rng.choice([OP.SUM, OP.REDUCE_MAX, OP.REDUCE_MIN]))
    terms = float(np.prod([shape[i] for i in chosen]))
    scale = net.quantization()[0] * np.sqrt(terms) * float(np.exp(net.rng.uniform(-0.5, 0.5)))
    y = net.tensor(out, INT8, _quantized(net, scale)) if code == OP.SUM else _alike(net, out, x)
    net.operator(code, [x, axes], y, options)


def _scales(net: Net, count: int) -> tuple[list[float], list[int]]:
    count = 1 if net.rng.random() < 0.3 else count
    return [float(np.float32(s)) for s in np.exp(net.rng.uniform(-7, -3, count))], [0] * count


def transpose_conv(net: Net) -> None:
    """TRANSPOSE_CONV: filters shorter and longer than the stride, of one scale or of one a channel."""
    rng, x, shape = net.rng, net.last, net.shape()
    options = schema.TransposeConvOptionsT()
    k = [int(rng.choice([1, 2, 3, 3, 4, 5])) for _ in range(2)]
    stride = [int(rng.choice([1, 2, 2, 3])) for _ in range(2)]
    valid = bool(rng.random() < 0.5)
    options.padding = int(valid)
    options.strideH, options.strideW = stride
    options.fusedActivationFunction = int(rng.choice([0, 0, 1, 3]))
    if valid:
        size = [(n - 1) * s + max(f, s) for n, s, f in zip(shape[1:3], stride, k, strict=True)]
    else:
        size = [n * s - int(rng.integers(0, s)) for n, s in zip(shape[1:3], stride, strict=True)]
    channels = int(rng.choice([1, 2, 3, 5, 8]))
    out = [shape[0], *size, channels]
    said = net.tensor([4], INT32, None, np.array(out, np.int32))
    data = rng.integers(-127, 128, [channels, *k, shape[3]]).astype(np.int8)
    scales = _scales(net, channels)
    weights = net.tensor(list(data.shape), INT8, scales, data, 0)
    inputs = [said, weights, x]
    terms = float(k[0] * k[1] * shape[3]) / (stride[0] * stride[1])
    if rng.random() < 0.7:
        bias = rng.integers(-9000, 9000, channels).astype(np.int32)
        inputs.append(net.tensor([channels], INT32, ([1.0], [0]), bias))
    spread = np.sqrt(terms + 1) * 5500.0 * net.quantization()[0] * float(np.median(scales[0]))
    y = net.tensor(out, INT8, _quantized(net, spread / 40 * float(np.exp(rng.uniform(-1, 1)))))
    net.operator(OP.TRANSPOSE_CONV, inputs, y, options)


def svdf(net: Net) -> None:
    """SVDF of rank 1 to 3 with a state of int8 or int16."""
    rng, x, shape = net.rng, net.last, net.shape()
    batch, size = shape
    rank, units, memory = (
        int(rng.integers(1, 4)),
        int(rng.choice([1, 2, 3, 7])),
        int(rng.choice([1, 2, 3, 5, 8])),
    )
    filters = rank * units
    wide = bool(rng.random() < 0.5)
    kind, numpy = (schema.TensorType.INT16, np.int16) if wide else (INT8, np.int8)
    feature_data = rng.integers(-127, 128, [filters, size]).astype(np.int8)
    feature = net.tensor([filters, size], INT8, ([net.scale()], [0]), feature_data)
    high = 3000 if wide else 127
    time_data = rng.integers(-high, high + 1, [filters, memory]).astype(numpy)
    time_scale = float(np.float32(np.exp(rng.uniform(-9, -6))))
    time = net.tensor([filters, memory], kind, ([time_scale], [0]), time_data)
    spread = np.sqrt(size) * 5500.0 * net.quantization()[0] * net.quantization(feature)[0]
    state_scale = float(np.float32(spread / (3000.0 if wide else 40.0)))
    state_zero = 0 if wide else int(rng.integers(-20, 20))
    state = net.tensor([batch, filters * memory], kind, ([state_scale], [state_zero]))
    net.graph.tensors[state].isVariable = True
    bias_scale = float(np.float32(state_scale) * np.float32(time_scale))
    bias_data = rng.integers(-2000, 2000, units).astype(np.int32)
    bias = net.tensor([units], INT32, ([bias_scale], [0]), bias_data)
    options = schema.SVDFOptionsT()
    options.rank = rank
    options.fusedActivationFunction = int(rng.choice([0, 1]))
    values = 1700.0 * 1500.0 if wide else 40.0 * 70.0
    out_scale = np.sqrt(rank * memory) * values * bias_scale / 40.0
    y = net.tensor([batch, units], INT8, _quantized(net, out_scale))
    net.operator(OP.SVDF, [x, feature, time, bias, state], y, options)


MOVES += [slice_, strided_slice, transpose]
PAIRS = [sub, mul, extreme]
VALUES = [relu, leaky_relu, prelu, hard_swish, tanh, reduce]
IMAGES = [resize, space_to_batch, transpose_conv]
# What TensorFlow Lite Micro does not have, or leaves to chance: TensorFlow Lite decides.
LITE = [space_to_batch_padded, relu_n1_to_1, relu6_rescaled, tile]
