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
