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

# operator -> (fewest inputs, most inputs, table of its options, may the options be left out)
_SIGNATURES = {
    Op.ADD: (2, 2, "AddOptions", True),
    Op.AVERAGE_POOL_2D: (1, 1, "Pool2DOptions", False),
    Op.CONV_2D: (2, 3, "Conv2DOptions", False),
    Op.DEPTHWISE_CONV_2D: (2, 3, "DepthwiseConv2DOptions", False),
    Op.DEQUANTIZE: (1, 1, "", True),
    Op.FULLY_CONNECTED: (2, 3, "FullyConnectedOptions", False),
    Op.LOGISTIC: (1, 1, "", True),
    Op.MAX_POOL_2D: (1, 1, "Pool2DOptions", False),
    Op.MEAN: (2, 2, "ReducerOptions", True),
    Op.MUL: (2, 2, "MulOptions", True),
    Op.PAD: (2, 2, "", True),
    Op.PADV2: (3, 3, "", True),
    Op.QUANTIZE: (1, 1, "", True),
    Op.RELU: (1, 1, "", True),
    Op.RELU6: (1, 1, "", True),
    Op.RESHAPE: (1, 2, "ReshapeOptions", True),
    Op.SOFTMAX: (1, 1, "SoftmaxOptions", False),
    Op.SQUEEZE: (1, 1, "SqueezeOptions", True),
}
_SAME_SIZE = (
    Op.DEQUANTIZE, Op.LOGISTIC, Op.QUANTIZE, Op.RELU, Op.RELU6, Op.RESHAPE, Op.SOFTMAX, Op.SQUEEZE,
)  # fmt: skip


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
        if not fewest <= len(op.inputs) <= most or len(op.outputs) != 1 or min(op.inputs[:fewest]) < 0:
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
        elif op.code == Op.MEAN:
            _check_mean(op, x, model.tensors[op.inputs[1]])
        elif op.code in (Op.PAD, Op.PADV2):
            _check_pad(op, x, model.tensors[op.inputs[1]], out)
        elif op.code in (Op.ADD, Op.MUL):
            _check_broadcast(op, x, model.tensors[op.inputs[1]], out)


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


def _check_mean(op: Operator, x: Tensor, axes: Tensor) -> None:
    if not axes.constant or axes.type != TensorType.INT32:
        _refuse(op, "has axes that are not constant int32")
    if any(not -len(x.shape) <= int(axis) < len(x.shape) for axis in np.ravel(axes.array())):
        _refuse(op, f"has an axis outside {list(x.shape)}")


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
