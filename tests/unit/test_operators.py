"""Options and shapes that do not fit are refused before a runtime meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilofed.inspection import inspect
from kilofed_tools import flat
from kilofed_tools.errors import ModelContractError, ModelFormatError
from kilofed_tools.evaluate import Runner
from kilofed_tools.flat import Table
from kilofed_tools.operators import check_operators
from kilofed_tools.tflite import Op, TensorType, read_model

ROOT = Path(__file__).resolve().parents[2]
DIGITS = (
    ROOT / "models/digits/digits.tflite"
).read_bytes()  # CONV_2D x 3, MEAN, FULLY_CONNECTED x 2, SOFTMAX
POOL = (ROOT / "tests/data/foreign/conv_then_pool.tflite").read_bytes()
CONV, MEAN, DENSE, SOFTMAX, POOLING = 0, 3, 4, 6, 2


def test_sound_models_pass() -> None:
    for path in sorted((ROOT / "tests/data/foreign").glob("*.tflite")):
        check_operators(read_model(path.read_bytes()))
    check_operators(read_model(DIGITS))


def test_all_operators_that_no_device_computes_are_named() -> None:
    """By name and place, at once: who has to replace three layers wants to know of three."""
    tree = flat.read(DIGITS)
    for code in tree.tables("operator_codes"):
        old = max(code.number("builtin_code"), code.number("deprecated_builtin_code"))
        new = {Op.CONV_2D: 101, Op.MEAN: 36}.get(Op(old), old)
        code.values.update(builtin_code=new, deprecated_builtin_code=new)
    named = r"operators 0 \(ABS\), 1 \(ABS\), 2 \(ABS\), 3 \(GATHER\)"
    with pytest.raises(ModelContractError, match=named) as error:
        inspect(flat.write(tree))
    assert error.value.operator == 0 and "PORTING.md" in error.value.next_step


def operator(tree: Table, index: int) -> Table:
    return tree.tables("subgraphs")[0].tables("operators")[index]


def tensor_of(tree: Table, index: int, side: str, number: int) -> Table:
    return tree.tables("subgraphs")[0].tables("tensors")[int(operator(tree, index).numbers(side)[number])]


def option(index: int, name: str, value: Any) -> Callable[[Table], None]:
    def change(tree: Table) -> None:
        options = operator(tree, index).table("builtin_options")
        assert options is not None
        options.values[name] = value

    return change


def shape(index: int, side: str, number: int, new: list[int]) -> Callable[[Table], None]:
    return lambda tree: tensor_of(tree, index, side, number).values.update(shape=np.array(new, np.int32))


def inputs(index: int, new: Callable[[list[int]], list[int]]) -> Callable[[Table], None]:
    def change(tree: Table) -> None:
        op = operator(tree, index)
        op.values["inputs"] = np.array(new(op.numbers("inputs").tolist()), np.int32)

    return change


def no_options(index: int) -> Callable[[Table], None]:
    def change(tree: Table) -> None:
        del operator(tree, index).values["builtin_options"]
        del operator(tree, index).values["builtin_options_type"]

    return change


def other_options(tree: Table) -> None:
    operator(tree, CONV).values.update(
        builtin_options_type=9, builtin_options=Table("SoftmaxOptions", {"beta": 1.0})
    )


def axis(value: int) -> Callable[[Table], None]:
    def change(tree: Table) -> None:
        buffer = tensor_of(tree, MEAN, "inputs", 1).number("buffer")
        data = np.frombuffer(np.array([1, value], "<i4").tobytes(), np.uint8)
        tree.tables("buffers")[buffer].values["data"] = data

    return change


def biases_of(index: int) -> int:
    """The bias tensor of an operator of POOL."""
    return int(operator(flat.read(POOL), index).numbers("inputs")[2])


CASES: list[tuple[bytes, Any, str]] = [
    (DIGITS, option(CONV, "stride_w", 0), "strides"),
    (DIGITS, option(CONV, "stride_h", -2), "strides"),
    (DIGITS, option(CONV, "dilation_h_factor", 0), "dilation"),
    (DIGITS, option(CONV, "dilation_w_factor", 1 << 20), "dilation"),
    (DIGITS, option(CONV, "padding", 2), "unknown padding 2"),
    (DIGITS, option(CONV, "padding", 1), "which its options do not"),
    (DIGITS, option(CONV, "stride_w", 1), "which its options do not"),
    (DIGITS, no_options(CONV), "no options"),
    (DIGITS, no_options(SOFTMAX), "no options"),
    (DIGITS, other_options, "SoftmaxOptions instead of Conv2DOptions"),
    (DIGITS, shape(CONV, "inputs", 1, [8, 9]), "no four-dimensional filter"),
    (DIGITS, shape(CONV, "inputs", 1, [8, 3, 1, 3]), "filter|maps"),
    (DIGITS, shape(CONV, "inputs", 2, [8, 1]), ""),
    (POOL, inputs(1, lambda old: [old[0], old[1], biases_of(0)]), "6 biases for 5 channels"),
    (DIGITS, shape(CONV, "inputs", 0, [784]), "maps"),
    (DIGITS, shape(DENSE, "inputs", 1, [1024]), "no two-dimensional weights"),
    (DIGITS, shape(DENSE, "inputs", 1, [16, 64]), "with weights"),
    (DIGITS, shape(DENSE, "outputs", 0, [1, 31]), "maps 32 values to 31"),
    (DIGITS, shape(SOFTMAX, "outputs", 0, [1, 11]), "maps 10 values to 11"),
    (DIGITS, inputs(SOFTMAX, lambda old: [*old, *old]), "2 inputs"),
    (DIGITS, inputs(SOFTMAX, lambda old: []), "has no inputs"),
    (DIGITS, inputs(DENSE, lambda old: [old[0], -1, old[2]]), "has 3 inputs"),
    (DIGITS, axis(4), "axis outside"),
    (DIGITS, axis(-5), "axis outside"),
    (DIGITS, inputs(MEAN, lambda old: [old[0], old[0]]), "not constant int32"),
    (POOL, option(POOLING, "filter_width", 0), "kernel"),
    (POOL, option(POOLING, "filter_height", 1 << 30), "kernel"),
    (POOL, shape(POOLING, "outputs", 0, [1, 1, 1, 7]), "channels|values"),
]


@pytest.mark.parametrize(("model", "change", "words"), CASES)
def test_what_does_not_fit_is_refused(model: bytes, change: Any, words: str) -> None:
    tree = flat.read(model)
    change(tree)
    changed = flat.write(tree)
    if not words:  # the same number of biases in another shape is nobody's business
        check_operators(read_model(changed))
        return
    with pytest.raises(ModelFormatError, match=words):
        check_operators(read_model(changed))
    with pytest.raises(ModelFormatError):
        Runner(changed)


# ---------------------------------------------------------------- operators the files above do not have


def single(
    code: Op, x: list[int], out: list[int], others: list[np.ndarray[Any, Any]], options: Table | None = None
) -> bytes:
    """A model of one operator: int8 input `x`, int32 or int8 constants, int8 output."""
    quantization = Table(
        "QuantizationParameters",
        {"scale": np.array([0.5], np.float32), "zero_point": np.array([0], np.int64)},
    )

    def tensor(dims: list[int], kind: TensorType, buffer: int) -> Table:
        return Table(
            "Tensor",
            {
                "shape": np.array(dims, np.int32),
                "type": int(kind),
                "buffer": buffer,
                "quantization": quantization,
            },
        )

    kinds = {"int8": TensorType.INT8, "int32": TensorType.INT32}
    buffers = [
        Table("Buffer"),
        *(Table("Buffer", {"data": np.frombuffer(o.tobytes(), np.uint8)}) for o in others),
    ]
    tensors = [tensor(x, TensorType.INT8, 0)]
    tensors += [tensor(list(o.shape), kinds[o.dtype.name], 1 + i) for i, o in enumerate(others)]
    tensors.append(tensor(out, TensorType.INT8, 0))
    op: dict[str, Any] = {
        "inputs": np.arange(len(tensors) - 1, dtype=np.int32),
        "outputs": np.array([len(tensors) - 1], np.int32),
    }
    if options is not None:
        number = next(n for n, kind in flat.UNIONS.items() if kind == options.kind)
        op |= {"builtin_options_type": number, "builtin_options": options}
    graph = Table(
        "SubGraph",
        {
            "tensors": tensors,
            "inputs": np.array([0], np.int32),
            "outputs": op["outputs"],
            "operators": [Table("Operator", op)],
        },
    )
    return flat.write(
        Table(
            "Model",
            {
                "version": 3,
                "operator_codes": [Table("OperatorCode", {"builtin_code": int(code), "version": 2})],
                "subgraphs": [graph],
                "buffers": buffers,
            },
        )
    )


DEPTHWISE = Table(
    "DepthwiseConv2DOptions", {"padding": 1, "stride_w": 1, "stride_h": 1, "depth_multiplier": 2}
)


def depthwise(channels: int, weights: list[int]) -> bytes:
    """A depthwise convolution of 5x4x3 to 3x3 by a filter of that shape, with a multiplier of 2."""
    out = [1, 3, 3, channels]
    return single(Op.DEPTHWISE_CONV_2D, [1, 5, 4, 3], out, [np.ones(weights, np.int8)], DEPTHWISE)


PADS = np.array([[0, 0], [1, 2], [0, 3], [0, 0]], np.int32)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (depthwise(6, [1, 3, 2, 6]), ""),
        (depthwise(9, [1, 3, 2, 9]), "filter"),
        (depthwise(6, [2, 3, 2, 6]), "filter"),
        (single(Op.PAD, [1, 5, 4, 3], [1, 8, 7, 3], [PADS]), ""),
        (single(Op.PAD, [1, 5, 4, 3], [1, 8, 8, 3], [PADS]), "paddings do not"),
        (single(Op.PAD, [1, 5, 4, 3], [1, 8, 7, 3], [PADS[:3]]), r"paddings \[3, 2\]"),
        (single(Op.PAD, [1, 5, 4, 3], [1, 2, 1, 3], [-PADS]), "paddings do not"),
        (single(Op.ADD, [1, 5, 3], [1, 5, 3], [np.ones((1, 3), np.int8)]), ""),
        (single(Op.ADD, [1, 5, 3], [1, 5, 3], [np.ones((2, 2), np.int8)]), "combines"),
        (single(Op.MUL, [1, 1, 3], [1, 1, 3], [np.ones((4, 3), np.int8)]), "to"),
        (single(Op.RESHAPE, [1, 6], [2, 3], [np.array([2, 3], np.int32)]), ""),
        (single(Op.RESHAPE, [1, 6], [2, 4], [np.array([2, 4], np.int32)]), "maps 6 values to 8"),
        (single(Op.LOGISTIC, [1, 6], [1, 5], []), "maps 6 values to 5"),
    ],
)  # fmt: skip
def test_single_operators(model: bytes, words: str) -> None:
    if not words:
        check_operators(read_model(model))
        return
    with pytest.raises(ModelFormatError, match=words):
        check_operators(read_model(model))
