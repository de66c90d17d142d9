"""Reading and writing .tflite files: against the published schema package, and against damage.

The oracle is the PyPI package `tflite`, generated from the schema by the flatbuffers compiler.
"""

from __future__ import annotations

import itertools
import random
import re
import struct
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tflite

from kilofed_tools import flat, heads, metadata
from kilofed_tools.errors import ModelContractError, ModelError, ModelFormatError
from kilofed_tools.evaluate import Runner
from kilofed_tools.flat import Table
from kilofed_tools.tflite import Op, TensorType, op_name, patch, read_model, type_name

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models/digits/digits.tflite"
FILES = [DIGITS, *sorted((ROOT / "tests/data/foreign").glob("*.tflite"))]
NAMES = [path.stem for path in FILES]
SMALL = ROOT / "tests/data/foreign/only_head.tflite"


def by_package(data: bytes) -> dict[str, Any]:
    """What the schema package says about a file, in plain values."""
    model = tflite.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    tensors, operators = [], []
    for i in range(graph.TensorsLength()):
        t = graph.Tensors(i)
        q = t.Quantization()
        content = model.Buffers(t.Buffer())
        tensors.append(
            {
                "name": (t.Name() or b"").decode(),
                "shape": [t.Shape(d) for d in range(t.ShapeLength())],
                "type": t.Type(),
                "scales": [q.Scale(j) for j in range(q.ScaleLength())] if q else [],
                "zero_points": [q.ZeroPoint(j) for j in range(q.ZeroPointLength())] if q else [],
                "data": content.DataAsNumpy().tobytes() if content.DataLength() else b"",
            }
        )
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        code = model.OperatorCodes(op.OpcodeIndex())
        operators.append(
            {
                "code": max(code.BuiltinCode(), code.DeprecatedBuiltinCode()),
                "inputs": [op.Inputs(j) for j in range(op.InputsLength())],
                "outputs": [op.Outputs(j) for j in range(op.OutputsLength())],
            }
        )
    return {
        "tensors": tensors,
        "operators": operators,
        "inputs": [graph.Inputs(i) for i in range(graph.InputsLength())],
        "outputs": [graph.Outputs(i) for i in range(graph.OutputsLength())],
    }


def by_us(data: bytes) -> dict[str, Any]:
    model = read_model(data)
    return {
        "tensors": [
            {
                "name": t.name,
                "shape": list(t.shape),
                "type": t.type,
                "scales": [float(s) for s in t.scales],
                "zero_points": [int(z) for z in t.zero_points],
                "data": b"" if t.data is None else t.data.tobytes(),
            }
            for t in model.tensors
        ],
        "operators": [
            {"code": op.code, "inputs": list(op.inputs), "outputs": list(op.outputs)}
            for op in model.operators
        ],
        "inputs": list(model.inputs),
        "outputs": list(model.outputs),
    }


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_reads_what_the_schema_package_reads(path: Path) -> None:
    data = path.read_bytes()
    assert by_us(data) == by_package(data)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_written_file_says_the_same_and_writes_itself(path: Path) -> None:
    data = path.read_bytes()
    written = flat.write(flat.read(data))
    assert by_package(written) == by_package(data)
    assert flat.write(flat.read(written)) == written


def test_written_files_share_nothing_and_are_aligned() -> None:
    # two tensors of one quantization table and one name, as some writers share them
    tree = flat.read(SMALL.read_bytes())
    tensors = tree.tables("subgraphs")[0].tables("tensors")
    for table in tensors[1:]:
        table.values["name"] = tensors[0].values["name"]
        table.values["quantization"] = tensors[0].values["quantization"]
    written = flat.read(flat.write(tree))
    regions = sorted(r for r in flat.regions(written) if r[0] != r[1])
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(regions))
    starts = [buffer.at["data"] for buffer in written.tables("buffers") if "data" in buffer.at]
    assert starts
    assert all(start % flat.DATA_ALIGN == 0 for start in starts)


def test_a_written_file_runs_to_the_same_bytes() -> None:
    data = DIGITS.read_bytes()
    written = flat.write(flat.read(data))
    samples = np.random.default_rng(5).integers(-128, 128, (20, 784), np.int8)
    assert np.array_equal(Runner(data).run(samples), Runner(written).run(samples))


def _camel(name: str) -> str:
    return re.sub(r"(?:^|_)([a-z0-9])", lambda m: m.group(1).upper(), name)


@pytest.mark.parametrize("kind", sorted(set(flat.UNIONS.values())))
def test_option_tables_have_the_ids_of_the_schema(kind: str) -> None:
    """Every field set through the schema package to a value of its own comes back under its name."""
    builder = flatbuffers.Builder()
    fields = [entry for entry in flat.SCHEMA[kind] if entry is not None]
    vectors = {}
    for name, sort, _ in fields:
        if sort.startswith("["):
            getattr(tflite, f"{kind}Start{_camel(name)}Vector")(builder, 2)
            builder.PrependInt32(9)
            builder.PrependInt32(8)
            vectors[name] = builder.EndVector()
    expected: dict[str, Any] = {}
    getattr(tflite, f"{kind}Start")(builder)
    for number, (name, sort, default) in enumerate(fields):
        value: Any = not default if sort == "bool" else 1.5 + number if sort == "f32" else 3 + number
        getattr(tflite, f"{kind}Add{_camel(name)}")(builder, vectors.get(name, value))
        expected[name] = [8, 9] if name in vectors else value
    builder.Finish(getattr(tflite, f"{kind}End")(builder))
    data = bytes(builder.Output())
    found = flat._Reader(data).table(struct.unpack_from("<I", data)[0], kind)
    assert {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.values.items()} == expected
    union = {number for number, table in flat.UNIONS.items() if table == kind}
    assert union == {getattr(tflite.BuiltinOptions, kind)}


def test_defaults_are_those_of_the_schema() -> None:
    builder = flatbuffers.Builder()
    tflite.Conv2DOptionsStart(builder)
    builder.Finish(tflite.Conv2DOptionsEnd(builder))
    data = bytes(builder.Output())
    oracle = tflite.Conv2DOptions.GetRootAs(data, 0)
    found = flat._Reader(data).table(struct.unpack_from("<I", data)[0], "Conv2DOptions")
    assert found.number("dilation_w_factor") == oracle.DilationWFactor() == 1
    assert found.number("stride_w") == oracle.StrideW() == 0


def test_names_are_those_of_the_schema() -> None:
    for name, number in vars(tflite.BuiltinOperator).items():
        if not name.startswith("_") and number < 162 and number != 127:
            assert op_name(number) == name
    for name, number in vars(tflite.TensorType).items():
        if not name.startswith("_") and number <= max(TensorType):
            assert type_name(number) == name.lower()
    assert all(op_name(op) == op.name for op in Op)
    assert op_name(999) == "operator 999"
    assert type_name(99) == "type 99"


# ---------------------------------------------------------------- damage


def poke(data: bytes) -> None:
    """Everything a file meets on its way in; ModelError is the only error allowed."""
    model = read_model(data)
    heads.find_head(model)
    head = heads.read_head(model)
    assert heads.write_head(data, head) == data
    heads.backbone(data)
    heads.backbone_hash(data)
    metadata.write_metadata(data, "x", b"123")


def assert_one_line(error: BaseException) -> None:
    text = str(error)
    assert text.isprintable()
    assert 10 < len(text) < 650
    assert ": " in text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes are not a .tflite"),
        (b"TFL3", "4 bytes are not a .tflite"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a .tflite"),
        (b"#!/usr/bin/env python\n" * 20, "not a .tflite"),
        (bytes(4) + b"TFL3" + bytes(64), "zero"),
        (b"\xff\xff\xff\xffTFL3" + bytes(64), "outside the file"),
        (b"\x09\x00\x00\x00TFL3" + bytes(64), "not aligned"),
    ],
)
def test_garbage_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ModelFormatError, match=re.escape(words)) as caught:
        read_model(data)
    assert_one_line(caught.value)


def test_every_truncation_is_refused() -> None:
    data = SMALL.read_bytes()
    whole = by_package(data)
    for length in range(len(data)):
        try:
            read_model(data[:length])
        except ModelFormatError as error:
            assert_one_line(error)
        else:
            # only padding at the very end may be missing
            assert by_us(data[:length]) == whole


def mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    structure = 7000  # the tables lie before the buffers in the file
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(out[: rng.randrange(len(out))])
    if kind == 1:
        for _ in range(rng.randrange(1, 4)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        for _ in range(rng.randrange(1, 6)):
            out[rng.randrange(structure)] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    else:
        position = 4 * rng.randrange(structure // 4)
        word = rng.choice([0, 1, 4, 2**31 - 1, 2**31, 2**32 - 1, len(out), rng.randrange(2**32)])
        out[position : position + 4] = word.to_bytes(4, "little")
    return bytes(out)


@pytest.mark.parametrize("seed", range(4))
def test_mutations_never_raise_anything_else(seed: int) -> None:
    data = DIGITS.read_bytes()
    rng = random.Random(seed)
    outcomes = {"ok": 0, "refused": 0}
    for number in range(600):
        mutant = mutate(data, rng)
        try:
            poke(mutant)
            outcomes["ok"] += 1
        except ModelError as error:
            assert_one_line(error)
            outcomes["refused"] += 1
        except Exception as error:
            pytest.fail(f"seed {seed}, mutant {number}: {type(error).__name__}: {error}")
    assert min(outcomes.values()) > 30  # the mutations are neither all harmless nor all fatal


def test_a_file_that_refers_to_itself_over_and_over_is_refused_quickly() -> None:
    """n subgraph offsets to one subgraph with n tensor offsets to one tensor: n*n tables in 8n bytes."""
    n = 20000
    out = bytearray(struct.pack("<I4s", 0, b"TFL3"))

    def table(slots: int) -> int:
        vtable = len(out)
        out.extend(
            struct.pack(f"<HH{slots}H", 4 + 2 * slots, 4 + 4 * slots, *(4 + 4 * i for i in range(slots)))
        )
        out.extend(bytes(-len(out) % 4))
        position = len(out)
        out.extend(struct.pack("<i", position - vtable) + bytes(4 * slots))
        return position

    def point(slot: int, target: int) -> None:
        struct.pack_into("<I", out, slot, target - slot)

    def vector() -> int:
        position = len(out)
        out.extend(struct.pack("<I", n) + bytes(4 * n))
        return position

    model = table(3)
    point(0, model)
    codes = len(out)
    out.extend(bytes(4))
    subgraphs = vector()
    struct.pack_into("<I", out, model + 4, 3)
    point(model + 8, codes)
    point(model + 12, subgraphs)
    graph = table(1)
    tensors = vector()
    point(graph + 4, tensors)
    tensor = table(0)
    for i in range(n):
        point(subgraphs + 4 + 4 * i, graph)
        point(tensors + 4 + 4 * i, tensor)
    with pytest.raises(ModelFormatError, match="over and over"):
        read_model(bytes(out))


def _tree() -> Table:
    return flat.read(SMALL.read_bytes())


def _graph(tree: Table) -> Table:
    return tree.tables("subgraphs")[0]


def _two_graphs(tree: Table) -> None:
    tree.tables("subgraphs").append(_graph(tree))


def _set(name: str, value: Any, index: int = 0) -> Any:
    return lambda tree: _graph(tree).tables("tensors")[index].values.__setitem__(name, value)


def _quantization(name: str, value: Any) -> Any:
    def change(tree: Table) -> None:
        found = _graph(tree).tables("tensors")[0].table("quantization")
        assert found is not None
        found.values[name] = value

    return change


def _swap(tree: Table) -> None:
    _graph(tree).tables("operators").reverse()


def _op(name: str, value: Any) -> Any:
    return lambda tree: _graph(tree).tables("operators")[0].values.__setitem__(name, value)


UNSOUND = [
    (_two_graphs, "2 subgraphs"),
    (_set("shape", np.array([1, -1], np.int32)), r"has the shape \[1, -1\]"),
    (_set("shape", np.array([1 << 15] * 4, np.int32)), "has the shape"),
    (_set("shape", np.ones(9, np.int32)), "9 dimensions"),
    (_set("buffer", 77), "names buffer 77"),
    (_set("shape", np.array([5, 10], np.int32), 2), "has a buffer of"),
    (_quantization("scale", np.array([np.nan], np.float32)), "not finite"),
    (_quantization("scale", np.array([1, 2, 3], np.float32)), "3 scales and 1 zero points"),
    (_quantization("zero_point", np.array([1, 2], np.int64)), "1 scales and 2 zero points"),
    (_swap, "before it is written"),
    (_op("opcode_index", 40), "operator code 40"),
    (_op("inputs", np.array([0, 99], np.int32)), "a tensor that does not exist"),
    (_op("outputs", np.array([0], np.int32)), "already has a value"),
    (lambda tree: _graph(tree).values.__setitem__("outputs", np.array([50], np.int32)), "inputs or outputs"),
    (lambda tree: _graph(tree).values.__setitem__("operators", []), "no operator"),
    (lambda tree: tree.values.__setitem__("version", 2), "schema version 2"),
    (lambda tree: tree.tables("metadata")[0].values.__setitem__("buffer", 99), "names a buffer"),
]


@pytest.mark.parametrize(("change", "words"), UNSOUND, ids=[words for _, words in UNSOUND])
def test_unsound_models_are_refused(change: Any, words: str) -> None:
    tree = _tree()
    read_model(flat.write(tree))
    change(tree)
    with pytest.raises(ModelError, match=words) as caught:
        read_model(flat.write(tree))
    assert_one_line(caught.value)
    assert isinstance(caught.value, ModelContractError if "subgraphs" in words else ModelFormatError)


def test_names_from_a_hostile_file_stay_printable() -> None:
    tree = _tree()
    _graph(tree).tables("tensors")[0].values |= {"name": "\x1b[31mred\n" * 200, "type": TensorType.INT16}
    with pytest.raises(ModelError) as caught:
        heads.find_head(flat.write(tree))
    assert_one_line(caught.value)


def test_fields_that_are_not_known_are_not_dropped_silently() -> None:
    tree = _tree()
    _graph(tree).tables("tensors")[0].unknown = True
    with pytest.raises(ModelFormatError, match="cannot carry over"):
        flat.write(tree)


def test_patch_replaces_and_refuses_overlap() -> None:
    assert patch(b"abcdef", [(4, b"Z"), (1, b"XY")]) == b"aXYdZf"
    with pytest.raises(AssertionError):
        patch(b"abcdef", [(1, b"XY"), (2, b"Z")])
    with pytest.raises(AssertionError):
        patch(b"abc", [(2, b"XY")])
