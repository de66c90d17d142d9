"""A .tflite as tensors and operators, without TensorFlow: read, checked for soundness, patched in place.

`read_model` gives a `TFLiteModel` over the bytes: plain values (shapes, scales, operator inputs) and the
positions a patch needs. Only models of one subgraph are taken; that is what TFLite Micro runs.

Soundness is checked here (every index exists, every constant has the bytes its shape asks for, every tensor
is written before it is read). Whether a model is a *device model* (int8 throughout, ends in a head) is the
business of `kilofed_tools.heads`. All errors are ModelError: what is wrong, and the next step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import flat
from kilofed_tools.errors import ModelContractError, ModelError, ModelFormatError
from kilofed_tools.flat import Table

FILE_MOST = 256 << 20  # bytes of a file that is read at all: what is larger was named by mistake
MAX_RANK = 8  # of a tensor: what TFLite's own kernels take at most
MAX_ELEMENTS = 1 << 28  # of one tensor: far above any device, far below an overflow


class TensorType(IntEnum):
    """Element types of the schema that are named in messages or used."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT32 = 2
    UINT8 = 3
    INT64 = 4
    STRING = 5
    BOOL = 6
    INT16 = 7
    COMPLEX64 = 8
    INT8 = 9
    FLOAT64 = 10
    COMPLEX128 = 11
    UINT64 = 12
    RESOURCE = 13
    VARIANT = 14
    UINT32 = 15
    UINT16 = 16
    INT4 = 17
    BFLOAT16 = 18


_DTYPES: dict[int, np.dtype[np.generic]] = {
    TensorType.FLOAT32: np.dtype("<f4"), TensorType.FLOAT16: np.dtype("<f2"),
    TensorType.INT32: np.dtype("<i4"), TensorType.UINT8: np.dtype("u1"), TensorType.INT64: np.dtype("<i8"),
    TensorType.BOOL: np.dtype("u1"), TensorType.INT16: np.dtype("<i2"), TensorType.INT8: np.dtype("i1"),
    TensorType.FLOAT64: np.dtype("<f8"), TensorType.UINT32: np.dtype("<u4"),
    TensorType.UINT16: np.dtype("<u2"), TensorType.UINT64: np.dtype("<u8"),
    TensorType.BFLOAT16: np.dtype("<u2"),
}  # fmt: skip


class Op(IntEnum):
    """Builtin operators that this package treats by name; the numbers are the schema's."""

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONCATENATION = 2
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    DEQUANTIZE = 6
    FULLY_CONNECTED = 9
    LOGISTIC = 14
    MAX_POOL_2D = 17
    MUL = 18
    RELU = 19
    RELU_N1_TO_1 = 20
    RELU6 = 21
    RESHAPE = 22
    SOFTMAX = 25
    SVDF = 27
    TANH = 28
    CUSTOM = 32
    PAD = 34
    BATCH_TO_SPACE_ND = 37
    SPACE_TO_BATCH_ND = 38
    TRANSPOSE = 39
    MEAN = 40
    SUB = 41
    SQUEEZE = 43
    STRIDED_SLICE = 45
    SPLIT = 49
    PRELU = 54
    MAXIMUM = 55
    MINIMUM = 57
    PADV2 = 60
    SLICE = 65
    TRANSPOSE_CONV = 67
    TILE = 69
    EXPAND_DIMS = 70
    SUM = 74
    REDUCE_MAX = 82
    PACK = 83
    UNPACK = 88
    REDUCE_MIN = 89
    RESIZE_NEAREST_NEIGHBOR = 97
    LEAKY_RELU = 98
    SPLIT_V = 102
    QUANTIZE = 114
    HARD_SWISH = 117


# Names of the builtin operators 0 to 161, for messages; "-" are numbers that the schema does not use.
_NAMES = re.findall(
    r"\S+",
    """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC
LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH
SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN
GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM
STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM
CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN
TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN
FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV
REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE
MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG
QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND
SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL - CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL
COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU
DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT
""",
)


def op_name(code: int) -> str:
    """The schema's name of a builtin operator, or "operator 210" for one that has no name here."""
    return _NAMES[code] if 0 <= code < len(_NAMES) else f"operator {code}"


def type_name(number: int) -> str:
    """ "int8", "float32", ... or "type 23" for one that has no name here."""
    return TensorType(number).name.lower() if number in TensorType._value2member_map_ else f"type {number}"


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of subgraph 0.

    shape: () for a scalar. type: number of the element type. buffer: its index; 0 is the empty one. data: the
    constant's bytes, read-only uint8, None for an activation. scales: float32 [1] per tensor, [n] per channel
    along `axis`, empty when not quantized. zero_points: int64, as long as `scales` (an absent vector reads as
    zeros). table: the record in the tree, for positions and for rewriting.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: int
    buffer: int
    data: NDArray[np.uint8] | None
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int
    table: Table

    @property
    def elements(self) -> int:
        """How many elements the shape holds; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor: two int4 to a byte, 0 for types without a size (strings)."""
        if self.type == TensorType.INT4:
            return (self.elements + 1) // 2
        dtype = _DTYPES.get(self.type)
        return self.elements * dtype.itemsize if dtype is not None else 0

    @property
    def constant(self) -> bool:
        """Whether the file holds its values."""
        return self.data is not None

    @property
    def scale(self) -> float:
        """The per-tensor scale, exactly the float32 of the file. Only for tensors with one."""
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        """The per-tensor zero point. Only for tensors with a scale."""
        return int(self.zero_points[0])

    def array(self) -> NDArray[np.generic]:
        """The constant's values in its shape, a read-only view. Only for constants of a type numpy knows."""
        assert self.data is not None
        return self.data.view(_DTYPES[self.type]).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator of subgraph 0.

    inputs: tensor indices, -1 for one that is left out. custom: name of a custom operator, or "".
    """

    index: int
    code: int
    custom: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    table: Table

    @property
    def name(self) -> str:
        """The schema's name, or the custom operator's own."""
        return self.custom if self.code == Op.CUSTOM and self.custom else op_name(self.code)

    def option(self, name: str) -> int:
        """An integer or boolean option by its schema name, the schema's default when it is absent, 0 without
        options.

        KeyError for an option that the operator's options do not have.
        """
        options = self.options
        return options.number(name) if options is not None else 0

    @property
    def options(self) -> Table | None:
        """The options table, None when absent or not listed."""
        return self.table.table("builtin_options")


@dataclass(frozen=True, eq=False)
class TFLiteModel:
    """A sound .tflite of one subgraph. `tree` belongs to whoever read it: change it, then `flat.write` it."""

    data: bytes
    tree: Table
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    buffers: tuple[Table, ...]

    @property
    def subgraph(self) -> Table:
        """The record of subgraph 0."""
        return self.tree.tables("subgraphs")[0]

    def producer(self, tensor: int) -> Operator | None:
        """The operator that writes a tensor, None for inputs and constants."""
        return next((op for op in self.operators if tensor in op.outputs), None)

    def consumers(self, tensor: int) -> list[Operator]:
        """The operators that read a tensor, in order."""
        return [op for op in self.operators if tensor in op.inputs]

    def buffer_at(self, buffer: int) -> int:
        """Position in the file of a buffer's first byte. Only for buffers that hold data."""
        return self.buffers[buffer].at["data"]


def _refuse(what: str) -> NoReturn:
    raise ModelFormatError(f"damaged .tflite: {what}", "copy or convert the file again")


def _tensor(index: int, table: Table, buffers: Sequence[Table]) -> Tensor:
    shape = tuple(int(n) for n in table.numbers("shape"))
    name = table.text("name")
    if len(shape) > MAX_RANK:
        _refuse(f"tensor {index} has {len(shape)} dimensions")
    if any(n < 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        _refuse(f"tensor {index} has the shape {list(shape)}")
    buffer = table.number("buffer")
    if buffer >= len(buffers):
        _refuse(f"tensor {index} names buffer {buffer} of {len(buffers)}")
    content = buffers[buffer].values.get("data")
    data = content if content is not None and len(content) else None
    scales = np.zeros(0, np.float32)
    zero_points = np.zeros(0, np.int64)
    axis = 0
    quantization = table.table("quantization")
    if quantization is not None:
        scales = quantization.numbers("scale").astype(np.float32)
        zero_points = quantization.numbers("zero_point").astype(np.int64)
        axis = quantization.number("quantized_dimension")
        if len(zero_points) == 0:
            zero_points = np.zeros(len(scales), np.int64)
        if len(zero_points) != len(scales):
            _refuse(f"tensor {index} has {len(scales)} scales and {len(zero_points)} zero points")
        if not np.all(np.isfinite(scales)) or np.any(scales < 0):
            _refuse(f"tensor {index} has a scale that is negative or not finite")
        if len(scales) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scales)):
            _refuse(f"tensor {index} has {len(scales)} scales along axis {axis} of the shape {list(shape)}")
    number = table.number("type")
    found = Tensor(index, name, shape, number, buffer, data, scales, zero_points, axis, table)
    sized = number == TensorType.INT4 or number in _DTYPES
    if data is not None and sized and len(data) != found.size_bytes:
        _refuse(f"tensor {index} of {found.size_bytes} bytes has a buffer of {len(data)}")
    return found


def _operator(index: int, table: Table, codes: Sequence[Table], tensors: int) -> Operator:
    which = table.number("opcode_index")
    if which >= len(codes):
        _refuse(f"operator {index} names operator code {which} of {len(codes)}")
    code = codes[which]
    # Files of before 2020 hold the number in one byte only; newer ones hold 127 there when it does not fit.
    number = max(code.number("deprecated_builtin_code"), code.number("builtin_code"))
    inputs = tuple(int(i) for i in table.numbers("inputs"))
    outputs = tuple(int(i) for i in table.numbers("outputs"))
    if any(not -1 <= i < tensors for i in inputs) or any(not 0 <= i < tensors for i in outputs):
        _refuse(f"operator {index} ({op_name(number)}) names a tensor that does not exist")
    return Operator(index, number, code.text("custom_code"), code.number("version"), inputs, outputs, table)


def read_file(path: Path) -> bytes:
    """The bytes of a model's file. ModelError when it cannot be read, or is too large to be one."""
    try:
        size = path.stat().st_size
        if size > FILE_MOST:
            raise ModelError(
                f"{path} has {size / 1e6:.0f} MB, and no device model is larger than {FILE_MOST >> 20}",
                "name the .tflite",
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "name a file that can be") from error


def read_model(data: bytes) -> TFLiteModel:
    """Read and check a .tflite. ModelFormatError: it is damaged. ModelContractError: several subgraphs."""
    tree = flat.read(data)
    if tree.number("version") != 3:
        _refuse(f"schema version {tree.number('version')} instead of 3")
    subgraphs = tree.tables("subgraphs")
    if len(subgraphs) != 1:
        raise ModelContractError(
            f"the model has {len(subgraphs)} subgraphs", "convert it without control flow and variables"
        )
    graph = subgraphs[0]
    buffers = tree.tables("buffers")
    tensors = tuple(_tensor(i, table, buffers) for i, table in enumerate(graph.tables("tensors")))
    codes = tree.tables("operator_codes")
    operators = tuple(_operator(i, t, codes, len(tensors)) for i, t in enumerate(graph.tables("operators")))
    inputs = tuple(int(i) for i in graph.numbers("inputs"))
    outputs = tuple(int(i) for i in graph.numbers("outputs"))
    if any(not 0 <= i < len(tensors) for i in (*inputs, *outputs)):
        _refuse("the graph's inputs or outputs name a tensor that does not exist")
    if not inputs or not outputs or not operators:
        _refuse("the graph has no input, no output or no operator")
    written = {t.index for t in tensors if t.constant or t.table.number("is_variable")} | set(inputs)
    for op in operators:
        if not op.inputs or not op.outputs:
            what = "inputs" if op.outputs else "outputs"
            _refuse(f"operator {op.index} ({op.name}) has no {what}")
        for i in op.inputs:
            if i >= 0 and i not in written and tensors[i].elements:
                _refuse(f"operator {op.index} ({op.name}) reads tensor {i} before it is written")
        for i in op.outputs:
            if i in written:
                _refuse(f"operator {op.index} ({op.name}) writes tensor {i}, which already has a value")
            written.add(i)
    if any(i not in written for i in outputs):
        _refuse("an output of the graph is never written")
    for entry in tree.tables("metadata"):
        if entry.number("buffer") >= len(buffers):
            _refuse(f"metadata {entry.text('name')!r} names a buffer that does not exist")
    return TFLiteModel(data, tree, tensors, operators, inputs, outputs, tuple(buffers))


def patch(data: bytes, places: Sequence[tuple[int, bytes]]) -> bytes:
    """A copy of `data` with bytes replaced. places: (position, new bytes), in the file, not overlapping."""
    out = bytearray(data)
    last = 0
    for position, new in sorted(places):
        assert last <= position <= position + len(new) <= len(out), "patches overlap or leave the file"
        out[position : position + len(new)] = new
        last = position + len(new)
    return bytes(out)
