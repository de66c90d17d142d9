"""Flatbuffers of the .tflite schema: read with every offset checked, written so that they can be patched in
place.

A flatbuffer is bytes full of offsets. A *table* starts with a distance to its *vtable*, which says where in
the table each field lies and which are absent (and so have their default). Vectors, strings and sub-tables
are reached through forward offsets. (https://flatbuffers.dev/internals/)

The runtime library for Python follows offsets without checking them, and its builder shares equal vtables
only but leaves the order and alignment of data to the caller, back to front. Here instead:

* `read` visits everything the schema below knows, once, and raises ModelFormatError on the first offset,
  count, string or alignment that is not right; afterwards no access can fail. What is visited is bounded by a
  multiple of the file's size, so a small file that points at itself a million times is refused too.
* `write` lays a tree out front to back: every vector and string has bytes of its own (nothing is shared, so a
  patch changes what it means to change and no more), tensor data starts at multiples of 16, and the same tree
  gives the same bytes.

Fields of the schema that are not listed (newer than this file) are remembered as unknown: reading goes on,
and writing refuses, because they would be lost.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from kilofed_tools.errors import ModelFormatError

IDENTIFIER = b"TFL3"
DATA_ALIGN = 16  # of tensor data in the file, bytes: what TFLite Micro and CMSIS-NN assume at most

_AGAIN = "copy or convert the file again"
_SCALARS = {
    "bool": "<?", "i8": "<b", "u8": "<B", "i32": "<i", "u32": "<I", "i64": "<q", "u64": "<Q", "f32": "<f",
}  # fmt: skip
_SIZES = {kind: struct.calcsize(code) for kind, code in _SCALARS.items()}
_DTYPES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype("u1"), "i8": np.dtype("i1"), "u8": np.dtype("u1"), "i32": np.dtype("<i4"),
    "u32": np.dtype("<u4"), "i64": np.dtype("<i8"), "f32": np.dtype("<f4"),
}  # fmt: skip

# table -> its fields in the order of their ids: name, type, default. A type is a scalar of _SCALARS, "str",
# "[scalar]", "[Table]", "Table", or "union X" whose member is named by field X through the table UNIONS.
# None: not read, and unknown when present. Source: tensorflow/lite/schema/schema.fbs, version 3.
_Field = tuple[str, str, Any] | None
SCHEMA: dict[str, tuple[_Field, ...]] = {
    "Model": (
        ("version", "u32", 0), ("operator_codes", "[OperatorCode]", None), ("subgraphs", "[SubGraph]", None),
        ("description", "str", None), ("buffers", "[Buffer]", None), ("metadata_buffer", "[i32]", None),
        ("metadata", "[Metadata]", None), ("signature_defs", "[SignatureDef]", None),
    ),
    "OperatorCode": (
        ("deprecated_builtin_code", "i8", 0), ("custom_code", "str", None), ("version", "i32", 1),
        ("builtin_code", "i32", 0),
    ),
    "SubGraph": (
        ("tensors", "[Tensor]", None), ("inputs", "[i32]", None), ("outputs", "[i32]", None),
        ("operators", "[Operator]", None), ("name", "str", None), ("debug_metadata_index", "i32", -1),
    ),
    "Tensor": (
        ("shape", "[i32]", None), ("type", "i8", 0), ("buffer", "u32", 0), ("name", "str", None),
        ("quantization", "QuantizationParameters", None), ("is_variable", "bool", False), None,
        ("shape_signature", "[i32]", None), ("has_rank", "bool", False), None,
    ),
    "QuantizationParameters": (
        ("min", "[f32]", None), ("max", "[f32]", None), ("scale", "[f32]", None),
        ("zero_point", "[i64]", None), None, None, ("quantized_dimension", "i32", 0),
    ),
    "Buffer": (("data", "[u8]", None), None, None),
    "Metadata": (("name", "str", None), ("buffer", "u32", 0)),
    "Operator": (
        ("opcode_index", "u32", 0), ("inputs", "[i32]", None), ("outputs", "[i32]", None),
        ("builtin_options_type", "u8", 0), ("builtin_options", "union builtin_options_type", None),
        ("custom_options", "[u8]", None), ("custom_options_format", "i8", 0),
        ("mutating_variable_inputs", "[bool]", None), ("intermediates", "[i32]", None), None, None, None,
        None, ("debug_metadata_index", "i32", -1),
    ),
    "SignatureDef": (
        ("inputs", "[TensorMap]", None), ("outputs", "[TensorMap]", None), ("signature_key", "str", None),
        None, ("subgraph_index", "u32", 0),
    ),
    "TensorMap": (("name", "str", None), ("tensor_index", "u32", 0)),
    "Conv2DOptions": (
        ("padding", "i8", 0), ("stride_w", "i32", 0), ("stride_h", "i32", 0),
        ("fused_activation_function", "i8", 0), ("dilation_w_factor", "i32", 1),
        ("dilation_h_factor", "i32", 1), ("quantized_bias_type", "i8", 0),
    ),
    "DepthwiseConv2DOptions": (
        ("padding", "i8", 0), ("stride_w", "i32", 0), ("stride_h", "i32", 0), ("depth_multiplier", "i32", 0),
        ("fused_activation_function", "i8", 0), ("dilation_w_factor", "i32", 1),
        ("dilation_h_factor", "i32", 1),
    ),
    "Pool2DOptions": (
        ("padding", "i8", 0), ("stride_w", "i32", 0), ("stride_h", "i32", 0), ("filter_width", "i32", 0),
        ("filter_height", "i32", 0), ("fused_activation_function", "i8", 0),
    ),
    "FullyConnectedOptions": (
        ("fused_activation_function", "i8", 0), ("weights_format", "i8", 0), ("keep_num_dims", "bool", False),
        ("asymmetric_quantize_inputs", "bool", False), ("quantized_bias_type", "i8", 0),
    ),
    "SoftmaxOptions": (("beta", "f32", 0.0),),
    "ConcatenationOptions": (("axis", "i32", 0), ("fused_activation_function", "i8", 0)),
    "PackOptions": (("values_count", "i32", 0), ("axis", "i32", 0)),
    "UnpackOptions": (("num", "i32", 0), ("axis", "i32", 0)),
    "SplitOptions": (("num_splits", "i32", 0),),
    "SplitVOptions": (("num_splits", "i32", 0),),
    "AddOptions": (("fused_activation_function", "i8", 0), ("pot_scale_int16", "bool", True)),
    "MulOptions": (("fused_activation_function", "i8", 0),),
    "ReshapeOptions": (("new_shape", "[i32]", None),),
    "SqueezeOptions": (("squeeze_dims", "[i32]", None),),
    "ReducerOptions": (("keep_dims", "bool", False),),
    "LeakyReluOptions": (("alpha", "f32", 0.0),),
    "SubOptions": (("fused_activation_function", "i8", 0), ("pot_scale_int16", "bool", True)),
    "SVDFOptions": (
        ("rank", "i32", 0), ("fused_activation_function", "i8", 0),
        ("asymmetric_quantize_inputs", "bool", False),
    ),
    "StridedSliceOptions": (
        ("begin_mask", "i32", 0), ("end_mask", "i32", 0), ("ellipsis_mask", "i32", 0),
        ("new_axis_mask", "i32", 0), ("shrink_axis_mask", "i32", 0), ("offset", "bool", False),
    ),
    "ResizeNearestNeighborOptions": (("align_corners", "bool", False), ("half_pixel_centers", "bool", False)),
    "TransposeConvOptions": (
        ("padding", "i8", 0), ("stride_w", "i32", 0), ("stride_h", "i32", 0),
        ("fused_activation_function", "i8", 0), ("quantized_bias_type", "i8", 0),
    ),
}  # fmt: skip

# BuiltinOptions: number of the union member -> table. Members that are not listed hold scalars only and are
# carried as they are, except for those of _UNREADABLE, which hold offsets.
UNIONS = {
    1: "Conv2DOptions", 2: "DepthwiseConv2DOptions", 5: "Pool2DOptions", 6: "SVDFOptions",
    8: "FullyConnectedOptions", 9: "SoftmaxOptions", 10: "ConcatenationOptions", 11: "AddOptions",
    17: "ReshapeOptions", 21: "MulOptions", 27: "ReducerOptions", 28: "SubOptions", 30: "SqueezeOptions",
    32: "StridedSliceOptions", 35: "SplitOptions", 49: "TransposeConvOptions", 59: "PackOptions",
    64: "UnpackOptions", 74: "ResizeNearestNeighborOptions", 75: "LeakyReluOptions", 79: "SplitVOptions",
}  # fmt: skip
_UNREADABLE = {3: "ConcatEmbeddings", 111: "VarHandle", 115: "Bucketize"}


@dataclass
class Table:
    """One table. `values` holds the fields that are present; `at` where each lies in the file that was read.

    Values: int, float or bool for scalars, str, numpy arrays (1-D, read-only views) for vectors of scalars,
    lists of Table, Table. `at`: the first byte of the scalar, or of the vector's first element.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)
    unknown: bool = False

    def number(self, name: str) -> int:
        """The value of an integer or boolean field, or its default."""
        return int(self.values.get(name, _default(self.kind, name)))

    def real(self, name: str) -> float:
        """The value of a float32 field, or its default."""
        return float(self.values.get(name, _default(self.kind, name)))

    def text(self, name: str) -> str:
        """The value of a string field, "" when absent."""
        return str(self.values.get(name, ""))

    def numbers(self, name: str) -> NDArray[Any]:
        """The vector of scalars, empty when absent."""
        found = self.values.get(name)
        return np.zeros(0, np.int64) if found is None else np.asarray(found)

    def tables(self, name: str) -> list[Table]:
        """The vector of tables: the list itself, for changing it; a new empty one when absent."""
        found: list[Table] = self.values.get(name) or []
        return found

    def table(self, name: str) -> Table | None:
        """The sub-table, None when absent (or when its content is carried without being understood)."""
        found = self.values.get(name)
        return found if isinstance(found, Table) else None


@dataclass
class Opaque:
    """A table of scalars that is not listed: its inline bytes, its vtable's offsets, its position mod 8."""

    inline: bytes
    offsets: tuple[int, ...]
    phase: int


def _default(kind: str, name: str) -> Any:
    for entry in SCHEMA[kind]:
        if entry is not None and entry[0] == name:
            return entry[2]
    raise KeyError(f"{kind} has no field {name}")


class _Reader:
    """One pass over the bytes. `budget` counts down what is visited, so that shared offsets stay cheap."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.budget = 64 * len(data) + 4096

    def fail(self, what: str, position: int) -> NoReturn:
        raise ModelFormatError(f"damaged .tflite: {what} at byte {position}", _AGAIN, position=position)

    def need(self, position: int, size: int, align: int, what: str) -> None:
        """Bytes [position, position + size) exist and start aligned, or ModelFormatError."""
        if position < 0 or position + size > len(self.data):
            self.fail(f"{what} lies outside the file", position)
        if position % align:
            self.fail(f"{what} is not aligned to {align}", position)
        self.budget -= size + 4
        if self.budget < 0:
            self.fail("the file refers to itself over and over", position)

    def scalar(self, position: int, kind: str, what: str) -> Any:
        self.need(position, _SIZES[kind], _SIZES[kind], what)
        return struct.unpack_from(_SCALARS[kind], self.data, position)[0]

    def follow(self, position: int, what: str) -> int:
        distance = int(self.scalar(position, "u32", what))
        if distance == 0:
            self.fail(f"the offset of {what} is zero", position)
        return position + distance

    def vtable(self, position: int, what: str) -> tuple[tuple[int, ...], int]:
        """The field offsets of the table at `position` (0: absent) and its inline size, both checked."""
        back = int(self.scalar(position, "i32", what))
        start = position - back
        self.need(start, 4, 2, f"the vtable of {what}")
        length, size = struct.unpack_from("<HH", self.data, start)
        if length < 4 or length % 2 or size < 4:
            self.fail(f"the vtable of {what} has length {length} for a table of {size} bytes", start)
        self.need(start, length, 2, f"the vtable of {what}")
        self.need(position, size, 4, what)
        offsets = struct.unpack_from(f"<{(length - 4) // 2}H", self.data, start + 4)
        if any(offset and not 4 <= offset < size for offset in offsets):
            self.fail(f"the vtable of {what} points outside the table", start)
        return offsets, size

    def table(self, position: int, kind: str) -> Table:
        offsets, size = self.vtable(position, kind)
        fields = SCHEMA[kind]
        found = Table(kind, unknown=any(offsets[len(fields) :]))
        for entry, offset in zip(fields, offsets, strict=False):
            if offset == 0:
                continue
            if entry is None:
                found.unknown = True
                continue
            name, sort, _ = entry
            what = f"{kind}.{name}"
            if offset + _SIZES.get(sort, 4) > size:
                self.fail(f"{what} reaches out of its table", position + offset)
            if sort in _SIZES:
                found.values[name] = self.scalar(position + offset, sort, what)
                found.at[name] = position + offset
                continue
            target = self.follow(position + offset, what)
            if sort.startswith("union "):
                found.values[name] = self.member(target, found, sort[6:], what)
            elif sort in SCHEMA:
                found.values[name] = self.table(target, sort)
            else:
                found.values[name], found.at[name] = self.vector(target, sort, what)
        return found

    def member(self, target: int, owner: Table, selector: str, what: str) -> Table | Opaque | None:
        number = owner.number(selector)
        if number == 0:
            owner.unknown = True  # a value without a type: it can be neither read nor silently dropped
            return None
        if number in UNIONS:
            return self.table(target, UNIONS[number])
        if number in _UNREADABLE:
            owner.unknown = True
            return None
        offsets, size = self.vtable(target, what)
        return Opaque(self.data[target + 4 : target + size], offsets, target % 8)

    def vector(self, target: int, sort: str, what: str) -> tuple[Any, int]:
        count = int(self.scalar(target, "u32", what))
        start = target + 4
        if sort == "str":
            self.need(start, count + 1, 1, what)
            if self.data[start + count] != 0:
                self.fail(f"{what} is a string without an end", start)
            try:
                return self.data[start : start + count].decode(), start
            except UnicodeDecodeError:
                self.fail(f"{what} is not UTF-8", start)
        element = sort[1:-1]
        if element in _DTYPES:
            dtype = _DTYPES[element]
            self.need(start, count * dtype.itemsize, dtype.itemsize, what)
            return np.frombuffer(self.data, dtype, count, start), start
        self.need(start, count * 4, 4, what)
        entries = range(start, start + 4 * count, 4)
        return [self.table(self.follow(entry, what), element) for entry in entries], start


def read(data: bytes) -> Table:
    """The Model table of a .tflite with all below it. ModelFormatError when the bytes are not sound."""
    if len(data) < 8:
        what = f"{len(data)} bytes are not a .tflite"
        raise ModelFormatError(what, "give the path of a converted model", position=0)
    if data[4:8] != IDENTIFIER:
        raise ModelFormatError(
            f"not a .tflite: bytes 4 to 7 are {data[4:8]!r} instead of {IDENTIFIER!r}",
            "give the path of a converted model, or convert a Keras model with `kilofed convert`",
            position=4,
        )
    reader = _Reader(data)
    return reader.table(reader.follow(0, "the model"), "Model")


class _Writer:
    """Lays a tree out front to back. Offsets point forward, so a parent is placed first and patched."""

    def __init__(self) -> None:
        self.out = bytearray(4) + IDENTIFIER
        self.vtables: dict[tuple[int, ...], int] = {}

    def pad(self, align: int, phase: int = 0) -> int:
        self.out += bytes((phase - len(self.out)) % align)
        return len(self.out)

    def patch(self, slot: int, target: int) -> None:
        struct.pack_into("<I", self.out, slot, target - slot)

    def start(self, offsets: tuple[int, ...], size: int, align: int, phase: int) -> int:
        """Place the vtable if it is new, then `size` zero bytes for the table; returns its position."""
        key = (size, *offsets)
        if key not in self.vtables:
            self.vtables[key] = self.pad(2)
            self.out += struct.pack(f"<HH{len(offsets)}H", 4 + 2 * len(offsets), size, *offsets)
        position = self.pad(align, phase)
        self.out += bytes(size)
        struct.pack_into("<i", self.out, position, position - self.vtables[key])
        return position

    def table(self, table: Table) -> int:
        if table.unknown:
            raise ModelFormatError(
                f"a {table.kind} of this .tflite uses fields this version cannot carry over",
                "convert the model again with TensorFlow 2.14 to 2.21, without sparsity or external buffers",
            )
        present = [
            (number, *entry[:2])
            for number, entry in enumerate(SCHEMA[table.kind])
            if entry is not None and table.values.get(entry[0]) is not None
        ]
        offsets = [0] * (max((number for number, _, _ in present), default=-1) + 1)
        size = 4
        # Wide fields first, behind the four bytes that lead to the vtable: then no padding is needed between
        # them.
        for number, _, sort in sorted(present, key=lambda item: (-_SIZES.get(item[2], 4), item[0])):
            offsets[number] = size
            size += _SIZES.get(sort, 4)
        widest = max((_SIZES.get(sort, 4) for _, _, sort in present), default=4)
        align, phase = (8, 4) if widest == 8 else (4, 0)
        position = self.start(tuple(offsets), size, align, phase)
        for number, name, sort in present:
            value = table.values[name]
            slot = position + offsets[number]
            if sort in _SIZES:
                struct.pack_into(_SCALARS[sort], self.out, slot, value)
            elif isinstance(value, Table):
                self.patch(slot, self.table(value))
            elif isinstance(value, Opaque):
                self.patch(slot, self.opaque(value))
            else:
                align = DATA_ALIGN if (table.kind, name) == ("Buffer", "data") else 4
                self.patch(slot, self.vector(value, sort, align))
        return position

    def opaque(self, value: Opaque) -> int:
        position = self.start(value.offsets, len(value.inline) + 4, 8, value.phase)
        self.out[position + 4 : position + 4 + len(value.inline)] = value.inline
        return position

    def vector(self, value: Any, sort: str, align: int) -> int:
        if sort == "str":
            raw = str(value).encode()
            position = self.pad(4)
            self.out += struct.pack("<I", len(raw)) + raw + b"\0"
            return position
        if sort[1:-1] in _DTYPES:
            dtype = _DTYPES[sort[1:-1]]
            elements = np.ascontiguousarray(value, dtype)
            align = max(align, dtype.itemsize)
            position = self.pad(align, align - 4)
            self.out += struct.pack("<I", elements.size) + elements.tobytes()
            return position
        position = self.pad(4)
        self.out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for number, child in enumerate(value):
            self.patch(position + 4 + 4 * number, self.table(child))
        return position


def write(model: Table) -> bytes:
    """The bytes of a .tflite for the tree of a Model table. ModelFormatError when `read` left fields out."""
    writer = _Writer()
    writer.patch(0, writer.table(model))
    writer.pad(DATA_ALIGN)
    return bytes(writer.out)


def regions(table: Table) -> Iterator[tuple[int, int]]:
    """(first byte, end) of every vector and string of a tree that was read; shared ones come up again."""
    for name, position in table.at.items():
        value = table.values[name]
        if isinstance(value, np.ndarray):
            yield position, position + value.nbytes
        elif isinstance(value, str):
            yield position, position + len(value.encode()) + 1
    for value in table.values.values():
        if isinstance(value, Table):
            yield from regions(value)
        elif isinstance(value, list):
            for child in value:
                yield from regions(child)
