"""What operators need beside their tensors, and in which order they touch them: what a memory plan builds on.

The twin of what each operator's file says of itself in ``work()`` (firmware/src/nn, kf_work_t); a test
compares the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from kilofed_tools.tflite import Op, Operator, TFLiteModel

ALIGN = 4
NO_DISTANCE = -(1 << 31)  # an output may overlap its input in any way
MULTIPLIER_BYTES = 8  # scratch of a transposed convolution for one output channel: kf_requant_t
CHANNEL_BYTES = 12  # scratch of a convolution for one output channel: kf_channel_t
DEPTHWISE_TAPS_MAX = 25  # places of a window for which depthwise convolutions get more: KF_DEPTHWISE_TAPS_MAX

_RESHAPES = (Op.RESHAPE, Op.SQUEEZE, Op.EXPAND_DIMS)
_POOLS = (Op.AVERAGE_POOL_2D, Op.MAX_POOL_2D)
_ONE_BY_ONE = (
    Op.HARD_SWISH, Op.LEAKY_RELU, Op.LOGISTIC, Op.QUANTIZE, Op.RELU, Op.RELU6, Op.RELU_N1_TO_1,
    Op.SOFTMAX, Op.TANH,
)  # fmt: skip
_PAIRS = (Op.ADD, Op.MAXIMUM, Op.MINIMUM, Op.MUL, Op.PRELU, Op.SUB)
_CONVOLUTIONS = (Op.CONV_2D, Op.DEPTHWISE_CONV_2D)


def round_up(n: int) -> int:
    """To a multiple of ALIGN."""
    return (n + ALIGN - 1) // ALIGN * ALIGN


def scratch_bytes(model: TFLiteModel, op: Operator) -> int:
    """Bytes an operator needs beside its tensors while it runs: a convolution's prepared channels, and what
    its kernels copy of the image (firmware/src/nn/kernels.h)."""
    if op.code == Op.TRANSPOSE_CONV:
        return MULTIPLIER_BYTES * model.tensors[op.outputs[0]].shape[3]
    if op.code not in _CONVOLUTIONS:
        return 0
    filters, out = model.tensors[op.inputs[1]], model.tensors[op.outputs[0]]
    channels = 4 + CHANNEL_BYTES * out.shape[3]
    if op.code == Op.CONV_2D:
        terms = filters.elements // filters.shape[0]
        return channels + 6 * round_up(terms)
    _, k_h, k_w, _ = filters.shape
    reach = (out.shape[2] - 1) * op.option("stride_w") + (k_w - 1) * op.option("dilation_w_factor") + 1
    one_filter = out.shape[3] == model.tensors[op.inputs[0]].shape[3]
    small = one_filter and k_h * k_w <= DEPTHWISE_TAPS_MAX and reach <= 1 << 16
    return channels + 4 * k_h + (8 * k_h * (k_w + reach) if small else 0)


def _outer(op: Operator, shape: tuple[int, ...]) -> int:
    """Elements before the axis along which an operator joins."""
    axis = op.option("axis")
    return math.prod(shape[: axis + len(shape) if axis < 0 else axis])


def in_place_inputs(model: TFLiteModel, op: Operator) -> tuple[int, ...]:
    """Positions of the inputs exactly at whose place the output may lie, when they are read for the last
    time."""
    y = model.tensors[op.outputs[0]]
    if op.code in (*_RESHAPES, *_ONE_BY_ONE):
        return (0,)
    if op.code in (Op.CONCATENATION, Op.PACK):
        return (0,) if _outer(op, y.shape) == 1 else ()
    if op.code in _PAIRS:
        return tuple(i for i in (0, 1) if model.tensors[op.inputs[i]].elements == y.elements)
    if op.code in _POOLS:
        return (0,) if _front(model, op) == (0, 0) else ()
    return ()


def _padding(size: int, out: int, reach: int, stride: int) -> int:
    return max((out - 1) * stride + reach - size, 0) // 2


def _reaches(model: TFLiteModel, op: Operator) -> tuple[int, int]:
    """Rows and columns that a window spans."""
    if op.code in _POOLS:
        return op.option("filter_height"), op.option("filter_width")
    shape = model.tensors[op.inputs[1]].shape
    high, wide = (
        (shape[1] - 1) * op.option("dilation_h_factor"),
        (shape[2] - 1) * op.option("dilation_w_factor"),
    )
    return high + 1, wide + 1


def _front(model: TFLiteModel, op: Operator) -> tuple[int, int]:
    """Padding above and to the left of the input."""
    x, y = model.tensors[op.inputs[0]].shape, model.tensors[op.outputs[0]].shape
    high, wide = _reaches(model, op)
    return (
        _padding(x[1], y[1], high, op.option("stride_h")),
        _padding(x[2], y[2], wide, op.option("stride_w")),
    )


class Pace(IntEnum):
    """In which order an operator reads, while it writes its first output from the first byte to the last:
    kf_pace_t.

    ROWS: all that output row y is made of is read before row y + 1 is written. PIXELS: and pixel n of the
    input is read before pixel n of the output is written, and not after it. WINDOWS: and no value before
    value n is read once value n of the output is written. VALUES: and value n is made of value n of each
    input.
    """

    NONE = 0
    ROWS = 1
    PIXELS = 2
    WINDOWS = 3
    VALUES = 4


@dataclass(frozen=True)
class Walk:
    """How an operator goes through its inputs.

    inputs: positions of the inputs it goes through so. The rest is about images, and `reach` is 0 where there
    are none: output row y, of `out_row` bytes, is made of the input's rows y * stride - pad to y * stride -
    pad + reach - 1, as far as there are such rows, of `in_row` bytes each; in_rows and out_rows: how many
    there are. pixels: of the output; 1 at least.
    """

    inputs: tuple[int, ...]
    pace: Pace
    in_rows: int = 0
    out_rows: int = 0
    in_row: int = 0
    out_row: int = 0
    stride: int = 1
    pad: int = 0
    reach: int = 0
    pixels: int = 1

    def low(self, done: int) -> int:
        """The first input row that is still to be read when `done` output rows are written."""
        return self.in_rows if done >= self.out_rows else max(0, done * self.stride - self.pad)

    def need(self, done: int) -> int:
        """How many input rows must be there for `done` output rows."""
        return min(self.in_rows, (done - 1) * self.stride + self.reach - self.pad) if done > 0 else 0

    def distance(self) -> int:
        """How far below its input the output must begin at least, in bytes, to overlap it without
        overwriting what is still to be read. Negative: so far above it may begin."""
        if self.pace in (Pace.WINDOWS, Pace.VALUES):
            return 0
        if self.pace == Pace.PIXELS:
            if self.pixels == 1:
                return NO_DISTANCE
            # Linear in the number of pixels: the first and the last but one decide.
            grows = (self.out_rows * self.out_row - self.in_rows * self.in_row) // self.pixels
            return max(n * grows for n in (1, self.pixels - 1))
        return max((y + 1) * self.out_row - self.low(y) * self.in_row for y in range(self.out_rows))


def walk(model: TFLiteModel, op: Operator) -> Walk | None:
    """How an operator goes through its inputs; None for those that do not go from the first byte to the
    last."""
    y = model.tensors[op.outputs[0]]
    if op.code in (Op.ADD, Op.SUB):
        return _walk_values(model, op)
    if op.code not in (*_POOLS, *_CONVOLUTIONS) or y.shape[0] != 1:
        return None
    x = model.tensors[op.inputs[0]]
    high, wide = _reaches(model, op)
    pad_h, pad_w = _front(model, op)
    pace = Pace.ROWS
    if op.code in _POOLS and (pad_h, pad_w) == (0, 0):
        pace = Pace.WINDOWS  # a window begins no earlier in memory than its own output
    strides = op.option("stride_h"), op.option("stride_w")
    whole = op.code == Op.CONV_2D and model.tensors[op.inputs[1]].shape[3] == x.shape[3]
    if whole and (high, wide) == (1, 1) == strides:
        pace = Pace.PIXELS  # kernels copy what a window reads before they write
    return Walk(
        (0,), pace, x.shape[1], y.shape[1], x.shape[2] * x.shape[3], y.shape[2] * y.shape[3],
        strides[0], pad_h, high, y.shape[1] * y.shape[2],
    )  # fmt: skip


def _walk_values(model: TFLiteModel, op: Operator) -> Walk | None:
    """Value by value, of inputs that all have the output's size."""
    y = model.tensors[op.outputs[0]]
    if any(model.tensors[i].elements != y.elements for i in op.inputs):
        return None
    inputs = tuple(range(len(op.inputs)))
    ranks = {len(model.tensors[i].shape) for i in (*op.inputs, *op.outputs)}
    if ranks != {4} or y.shape[0] != 1:
        return Walk(inputs, Pace.VALUES)
    row = y.shape[2] * y.shape[3]
    return Walk(inputs, Pace.VALUES, y.shape[1], y.shape[1], row, row, 1, 0, 1)
