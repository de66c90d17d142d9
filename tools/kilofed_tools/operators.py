"""What the operators of the zoo ask of their tensors and options: checked before anything runs them.

A runtime trusts a model's options: a stride of zero divides by zero in it, a short constant is read past its
end. So a model that was damaged, or made to do harm, is refused here with a sentence. Operators that are not
listed pass with no more than the soundness that `tflite.read_model` checks.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from kilofed_tools.errors import ModelFormatError
from kilofed_tools.tflite import Op, Operator, Tensor, TensorType, TFLiteModel

_SAME, _VALID = 0, 1

#: What the device core computes: firmware/src/nn/ops.def. A Pi's runtime knows more, but a run has one model.
DEVICE_OPERATORS = frozenset(Op) - {Op.CUSTOM}
TENSORS_MOST = 64  # inputs or outputs of one operator: KF_MODEL_INPUTS_MAX

# operator -> (fewest inputs, most inputs, table of its options, may the options be left out)
_SIGNATURES = {
    Op.ADD: (2, 2, "AddOptions", True),
    Op.AVERAGE_POOL_2D: (1, 1, "Pool2DOptions", False),
    Op.BATCH_TO_SPACE_ND: (3, 3, "", True),
    Op.CONCATENATION: (1, TENSORS_MOST, "ConcatenationOptions", False),
    Op.CONV_2D: (2, 3, "Conv2DOptions", False),
    Op.DEPTHWISE_CONV_2D: (2, 3, "DepthwiseConv2DOptions", False),
    Op.DEQUANTIZE: (1, 1, "", True),
    Op.FULLY_CONNECTED: (2, 3, "FullyConnectedOptions", False),
    Op.HARD_SWISH: (1, 1, "", True),
    Op.LEAKY_RELU: (1, 1, "LeakyReluOptions", False),
    Op.LOGISTIC: (1, 1, "", True),
    Op.MAXIMUM: (2, 2, "", True),
    Op.MAX_POOL_2D: (1, 1, "Pool2DOptions", False),
    Op.MEAN: (2, 2, "ReducerOptions", True),
    Op.MINIMUM: (2, 2, "", True),
    Op.MUL: (2, 2, "MulOptions", True),
    Op.PACK: (1, TENSORS_MOST, "PackOptions", False),
    Op.PAD: (2, 2, "", True),
    Op.PADV2: (3, 3, "", True),
    Op.PRELU: (2, 2, "", True),
    Op.QUANTIZE: (1, 1, "", True),
    Op.REDUCE_MAX: (2, 2, "ReducerOptions", True),
    Op.REDUCE_MIN: (2, 2, "ReducerOptions", True),
    Op.RELU: (1, 1, "", True),
    Op.RELU6: (1, 1, "", True),
    Op.RELU_N1_TO_1: (1, 1, "", True),
    Op.RESHAPE: (1, 2, "ReshapeOptions", True),
    Op.RESIZE_NEAREST_NEIGHBOR: (2, 2, "ResizeNearestNeighborOptions", True),
    Op.SLICE: (3, 3, "", True),
    Op.SOFTMAX: (1, 1, "SoftmaxOptions", False),
    Op.SPACE_TO_BATCH_ND: (3, 3, "", True),
    Op.SPLIT: (2, 2, "SplitOptions", False),
    Op.SPLIT_V: (3, 3, "SplitVOptions", False),
    Op.SQUEEZE: (1, 1, "SqueezeOptions", True),
    Op.STRIDED_SLICE: (4, 4, "StridedSliceOptions", False),
    Op.SUB: (2, 2, "SubOptions", True),
    Op.SUM: (2, 2, "ReducerOptions", True),
    Op.SVDF: (3, 5, "SVDFOptions", False),
    Op.TANH: (1, 1, "", True),
    Op.TILE: (2, 2, "", True),
    Op.TRANSPOSE: (2, 2, "", True),
    Op.TRANSPOSE_CONV: (3, 4, "TransposeConvOptions", False),
    Op.UNPACK: (1, 1, "UnpackOptions", False),
}
_SAME_SIZE = (
    Op.DEQUANTIZE, Op.HARD_SWISH, Op.LEAKY_RELU, Op.LOGISTIC, Op.PRELU, Op.QUANTIZE, Op.RELU, Op.RELU6,
    Op.RELU_N1_TO_1, Op.RESHAPE, Op.SOFTMAX, Op.SQUEEZE, Op.TANH, Op.TRANSPOSE,
)  # fmt: skip
_PAIRS = (Op.ADD, Op.MAXIMUM, Op.MINIMUM, Op.MUL, Op.PRELU, Op.SUB)
_REDUCERS = (Op.MEAN, Op.REDUCE_MAX, Op.REDUCE_MIN, Op.SUM)
_SPLITS = (Op.SPLIT, Op.SPLIT_V, Op.UNPACK)
# operator -> numbers of its inputs that are constant int32, one value for each axis of the first input
_AXIS_BY_AXIS = {Op.SLICE: (1, 2), Op.STRIDED_SLICE: (1, 2, 3), Op.TRANSPOSE: (1,)}


def _refuse(op: Operator, what: str) -> NoReturn:
    raise ModelFormatError(
        f"damaged .tflite: operator {op.index} ({op.name}) {what}", "copy or convert the file again"
    )


def check_operators(model: TFLiteModel) -> None:
    """ModelFormatError for the first listed operator whose options or shapes do not fit each other."""
    for op in model.operators:
        signature = _SIGNATURES.get(op.code)  # type: ignore[call-overload]
        if signature is None:
            continue
        fewest, most, options, optional = signature
        many = TENSORS_MOST if op.code in _SPLITS else 1
        counts = fewest <= len(op.inputs) <= most and 1 <= len(op.outputs) <= many
        if not counts or min(op.inputs[:fewest]) < 0:
            _refuse(op, f"has {len(op.inputs)} inputs and {len(op.outputs)} outputs")
        if op.options is None:
            if not optional:
                _refuse(op, "has no options, or those of another operator")
        elif options and op.options.kind != options:
            _refuse(op, f"has {op.options.kind} instead of {options}")
        inputs = [model.tensors[i] if i >= 0 else None for i in op.inputs]
        x, out = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
        if op.code in _SAME_SIZE and x.elements != out.elements:
            _refuse(op, f"maps {x.elements} values to {out.elements}")
        if op.code in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D):
            _check_convolution(op, x, inputs, out)
        elif op.code in (Op.AVERAGE_POOL_2D, Op.MAX_POOL_2D):
            _check_pool(op, x, out)
        elif op.code == Op.FULLY_CONNECTED:
            _check_dense(op, x, inputs, out)
        elif op.code in _REDUCERS:
            _check_axes(op, x, model.tensors[op.inputs[1]])
        elif op.code in (Op.PAD, Op.PADV2):
            _check_pad(op, x, model.tensors[op.inputs[1]], out)
        elif op.code in _PAIRS:
            _check_broadcast(op, x, model.tensors[op.inputs[1]], out)
        elif op.code in (Op.CONCATENATION, Op.PACK, *_SPLITS):
            _check_joints(op, model)
        elif op.code in _AXIS_BY_AXIS:
            for i in _AXIS_BY_AXIS[Op(op.code)]:
                _integers(op, model.tensors[op.inputs[i]], len(x.shape))
            _check_moves(op, x, model.tensors[op.inputs[1]], out)
        elif op.code == Op.TILE:
            times = _integers(op, model.tensors[op.inputs[1]], len(x.shape))
            if out.shape != tuple(n * by for n, by in zip(x.shape, times, strict=True)):
                _refuse(op, f"repeats {list(x.shape)} {list(times)} times to {list(out.shape)}")
        elif op.code == Op.RESIZE_NEAREST_NEIGHBOR:
            size = _integers(op, model.tensors[op.inputs[1]], 2)
            if len(x.shape) != 4 or out.shape != (x.shape[0], *size, x.shape[3]) or 0 in out.shape:
                _refuse(op, f"maps {list(x.shape)} to {list(out.shape)}")
        elif op.code in (Op.SPACE_TO_BATCH_ND, Op.BATCH_TO_SPACE_ND):
            _check_blocks(op, model, x, out)
        elif op.code == Op.TRANSPOSE_CONV:
            _check_transposed(op, model, out)
        elif op.code == Op.SVDF:
            _check_svdf(op, model, x, out)


def _check_window(
    op: Operator, x: Tensor, out: Tensor, kernel: tuple[int, ...], dilation: tuple[int, int]
) -> None:
    """The output's height and width follow from those of the input. kernel: (kh, kw)."""
    stride = (op.option("stride_h"), op.option("stride_w"))
    padding = op.option("padding")
    if min(*stride, *dilation, *kernel) < 1 or max(*stride, *dilation, *kernel) > 1 << 15:
        _refuse(op, f"has strides {stride}, dilation {dilation} and kernel {kernel}")
    if padding not in (_SAME, _VALID):
        _refuse(op, f"has the unknown padding {padding}")
    if len(x.shape) != 4 or len(out.shape) != 4 or x.shape[0] != out.shape[0]:
        _refuse(op, f"maps {list(x.shape)} to {list(out.shape)}")
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilation[axis] if padding == _VALID else 0
        expected = (x.shape[1 + axis] - reach + stride[axis] - 1) // stride[axis]
        if expected != out.shape[1 + axis] or expected < 1:
            _refuse(op, f"maps {list(x.shape)} to {list(out.shape)}, which its options do not")


def _check_bias(op: Operator, inputs: list[Tensor | None], channels: int) -> None:
    bias = inputs[2] if len(inputs) > 2 else None
    if bias is not None and bias.elements != channels:
        _refuse(op, f"has {bias.elements} biases for {channels} channels")


def _check_convolution(op: Operator, x: Tensor, inputs: list[Tensor | None], out: Tensor) -> None:
    weights = inputs[1]
    if weights is None or len(weights.shape) != 4:
        _refuse(op, "has no four-dimensional filter")
    dilation = (op.option("dilation_h_factor"), op.option("dilation_w_factor"))
    _check_window(op, x, out, weights.shape[1:3], dilation)
    depth, channels = x.shape[3], out.shape[3]
    if op.code == Op.CONV_2D:
        fits = weights.shape[0] == channels and weights.shape[3] > 0 and depth % weights.shape[3] == 0
    else:
        fits = weights.shape[0] == 1 and weights.shape[3] == channels and depth > 0
        fits = fits and depth * op.option("depth_multiplier") == channels
    if not fits:
        _refuse(op, f"has a filter {list(weights.shape)} for {depth} to {channels} channels")
    _check_bias(op, inputs, channels)


def _check_pool(op: Operator, x: Tensor, out: Tensor) -> None:
    _check_window(op, x, out, (op.option("filter_height"), op.option("filter_width")), (1, 1))
    if x.shape[3] != out.shape[3]:
        _refuse(op, f"maps {x.shape[3]} to {out.shape[3]} channels")


def _check_dense(op: Operator, x: Tensor, inputs: list[Tensor | None], out: Tensor) -> None:
    weights = inputs[1]
    if weights is None or len(weights.shape) != 2 or min(weights.shape) < 1:
        _refuse(op, "has no two-dimensional weights")
    channels, depth = weights.shape
    if x.elements % depth or out.elements != x.elements // depth * channels:
        _refuse(op, f"maps {x.elements} values to {out.elements} with weights {list(weights.shape)}")
    _check_bias(op, inputs, channels)


def _integers(op: Operator, tensor: Tensor, count: int) -> tuple[int, ...]:
    """The values of an argument: constant int32, `count` of them."""
    if not tensor.constant or tensor.type != TensorType.INT32:
        _refuse(op, "has an argument that is not constant int32")
    if tensor.elements != count:
        _refuse(op, f"has an argument of {tensor.elements} values instead of {count}")
    return tuple(int(n) for n in np.ravel(tensor.array()))


def _check_axes(op: Operator, x: Tensor, axes: Tensor) -> None:
    for axis in _integers(op, axes, axes.elements):
        if not -len(x.shape) <= axis < len(x.shape):
            _refuse(op, f"has an axis outside {list(x.shape)}")


def _check_joints(op: Operator, model: TFLiteModel) -> None:
    """What is joined along an axis, or cut along it, is as long there as the pieces, and alike elsewhere."""
    joins = op.code in (Op.CONCATENATION, Op.PACK)
    if joins:
        whole, pieces = model.tensors[op.outputs[0]], [model.tensors[i] for i in op.inputs]
    else:
        source = op.inputs[1 if op.code == Op.SPLIT else 0]
        whole, pieces = model.tensors[source], [model.tensors[i] for i in op.outputs]
    if op.code == Op.SPLIT_V:
        _integers(op, model.tensors[op.inputs[1]], len(pieces))
    if op.code in (Op.SPLIT, Op.SPLIT_V):
        (axis,) = _integers(op, model.tensors[op.inputs[0 if op.code == Op.SPLIT else 2]], 1)
    else:
        axis = op.option("axis")
    rank = len(whole.shape)
    if not -rank <= axis < rank:
        _refuse(op, f"has the axis {axis} of {list(whole.shape)}")
    axis %= rank
    rest = whole.shape[:axis] + whole.shape[axis + 1 :]
    flat = op.code in (Op.PACK, Op.UNPACK)
    shapes = [p.shape if flat else p.shape[:axis] + p.shape[axis + 1 :] for p in pieces]
    lengths = [1 if flat else p.shape[axis] if len(p.shape) == rank else -1 for p in pieces]
    if any(shape != rest for shape in shapes) or sum(lengths) != whole.shape[axis] or min(lengths) < 0:
        _refuse(op, f"has pieces that do not make {list(whole.shape)} along axis {axis}")


def _check_moves(op: Operator, x: Tensor, first: Tensor, out: Tensor) -> None:
    values = _integers(op, first, len(x.shape))
    if op.code == Op.TRANSPOSE:
        order = [axis + len(x.shape) if axis < 0 else axis for axis in values]
        if sorted(order) != list(range(len(x.shape))) or tuple(x.shape[i] for i in order) != out.shape:
            _refuse(op, f"maps {list(x.shape)} to {list(out.shape)}, which its order of axes does not")
    elif op.code == Op.SLICE:
        fits = len(out.shape) == len(x.shape)
        ends = [b + n for b, n in zip(values, out.shape, strict=False)]
        if not fits or min(values, default=0) < 0 or any(e > n for e, n in zip(ends, x.shape, strict=True)):
            _refuse(op, f"takes {list(out.shape)} from {list(values)} on of {list(x.shape)}")
    elif out.elements > x.elements or 0 in out.shape:
        _refuse(op, f"takes {list(out.shape)} of {list(x.shape)}")


def _check_blocks(op: Operator, model: TFLiteModel, x: Tensor, out: Tensor) -> None:
    spatial = len(x.shape) - 2
    if spatial not in (1, 2) or len(out.shape) != len(x.shape):
        _refuse(op, f"maps {list(x.shape)} to {list(out.shape)}")
    block = _integers(op, model.tensors[op.inputs[1]], spatial)
    edges = np.reshape(_integers(op, model.tensors[op.inputs[2]], 2 * spatial), (spatial, 2))
    whole, cut = (x, out) if op.code == Op.SPACE_TO_BATCH_ND else (out, x)
    fits = min(block) >= 1 and edges.min() >= 0 and whole.shape[-1] == cut.shape[-1]
    fits = fits and whole.shape[0] * int(np.prod(block, dtype=np.int64)) == cut.shape[0]
    for i in range(spatial):
        fits = fits and whole.shape[1 + i] + int(edges[i].sum()) == cut.shape[1 + i] * block[i]
    if not fits:
        _refuse(op, f"maps {list(x.shape)} to {list(out.shape)} in blocks of {list(block)}")


def _check_transposed(op: Operator, model: TFLiteModel, out: Tensor) -> None:
    shape, weights, x = (model.tensors[i] for i in op.inputs[:3])
    if len(weights.shape) != 4 or len(x.shape) != 4 or _integers(op, shape, 4) != out.shape:
        _refuse(op, f"maps {list(x.shape)} to {list(out.shape)} with a filter {list(weights.shape)}")
    # The convolution that it would undo.
    _check_window(op, out, x, weights.shape[1:3], (1, 1))
    if weights.shape[0] != out.shape[3] or weights.shape[3] != x.shape[3]:
        _refuse(op, f"has a filter {list(weights.shape)} for {x.shape[3]} to {out.shape[3]} channels")
    inputs = [model.tensors[i] if i >= 0 else None for i in op.inputs[1:]]
    _check_bias(op, inputs, out.shape[3])


def _check_svdf(op: Operator, model: TFLiteModel, x: Tensor, out: Tensor) -> None:
    if len(op.inputs) != 5 or op.inputs[4] < 0:
        _refuse(op, "has no state")
    feature, time, state = (model.tensors[op.inputs[i]] for i in (1, 2, 4))
    rank = op.option("rank")
    shapes = [list(t.shape) for t in (x, feature, time, state, out)]
    if any(len(shape) != 2 for shape in shapes) or rank < 1 or feature.shape[0] % rank:
        _refuse(op, f"has the shapes {shapes} and rank {rank}")
    filters, units = feature.shape[0], feature.shape[0] // rank
    fits = feature.shape[1] == x.shape[1] and time.shape[0] == filters
    fits = fits and state.shape == (x.shape[0], filters * time.shape[1]) and out.shape == (x.shape[0], units)
    if not fits or not state.table.number("is_variable"):
        _refuse(op, f"has the shapes {shapes} and rank {rank}")
    bias = model.tensors[op.inputs[3]] if op.inputs[3] >= 0 else None
    if bias is not None and bias.elements != units:
        _refuse(op, f"has {bias.elements} biases for {units} units")


def _check_pad(op: Operator, x: Tensor, paddings: Tensor, out: Tensor) -> None:
    if not paddings.constant or paddings.type not in (TensorType.INT32, TensorType.INT64):
        _refuse(op, "has paddings that are not constant int32")
    if paddings.shape != (len(x.shape), 2):
        _refuse(op, f"has paddings {list(paddings.shape)} for {len(x.shape)} dimensions")
    widths = np.asarray(paddings.array(), np.int64)
    expected = tuple(int(n) for n in np.array(x.shape, np.int64) + widths.sum(axis=1))
    if np.any(widths < 0) or expected != out.shape:
        _refuse(op, f"maps {list(x.shape)} to {list(out.shape)}, which its paddings do not")


def _check_broadcast(op: Operator, a: Tensor, b: Tensor, out: Tensor) -> None:
    try:
        expected = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        _refuse(op, f"combines {list(a.shape)} and {list(b.shape)}")
    if expected != out.shape:
        _refuse(op, f"maps {list(a.shape)} and {list(b.shape)} to {list(out.shape)}")
