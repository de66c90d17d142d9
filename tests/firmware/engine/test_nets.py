"""Real Keras nets (tests/data/make_nets.py): a TCN, MobileNet blocks, a U-Net, an unrolled LSTM and a GRU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import engine_models
import pytest
from engine_runner import OK, ROOT, Bytes, Engine, lite_oracle, oracle

from kilofed_tools.adapt import adapt
from kilofed_tools.heads import find_head
from kilofed_tools.operators import check_operators
from kilofed_tools.plan import with_plan
from kilofed_tools.tflite import read_model

NETS = {path.stem: path for path in sorted((ROOT / "tests" / "data" / "nets").glob("*.tflite"))}
#: What each must have, or its test would have lost its sense when the converter changed.
MARKS = {
    "gru": {"SPLIT": 4, "UNPACK": 1, "STRIDED_SLICE": 4, "SUB": 4, "TANH": 4},
    "lstm": {"SPLIT": 4, "UNPACK": 1, "LOGISTIC": 8, "MUL": 8},
    "mobile": {"HARD_SWISH": 1, "LEAKY_RELU": 2, "MUL": 2, "REDUCE_MAX": 1},
    "tcn": {"STRIDED_SLICE": 1, "PAD": 6, "CONV_2D": 7},
    "unet": {"CONCATENATION": 2, "PRELU": 1, "TRANSPOSE_CONV": 1, "TILE": 2, "TANH": 1},
}


def reference(name: str, model: bytes, inputs: list[Bytes]) -> list[bytes]:
    """TensorFlow Lite Micro has no TILE: there TensorFlow Lite, once it is told that its TILE will do."""
    if name != "unet":
        return oracle(model, inputs)
    pytest.importorskip("tflite_runtime.interpreter", reason="TensorFlow Lite decides this case")
    unpacked = engine_models.unpack(model)
    for code in unpacked.operatorCodes:
        if code.builtinCode == engine_models.schema.BuiltinOperator.TILE:
            code.version = 1
    return lite_oracle(engine_models.pack(unpacked), inputs)


@pytest.mark.parametrize("name", sorted(MARKS))
def test_equals_the_reference(engine: Engine, name: str) -> None:
    model = NETS[name].read_bytes()
    parsed = read_model(model)
    check_operators(parsed)
    assert Counter(op.name for op in parsed.operators) >= Counter(MARKS[name])
    assert engine.open(with_plan(model)).status == OK
    inputs = engine_models.random_inputs(model, 1, 3)
    expected = reference(name, model, inputs)
    for budget in (1, 2000, 0xFFFFFFFF):
        assert [engine.run(x.tobytes(), max_macs=budget)[1] for x in inputs] == expected


@pytest.mark.parametrize("name", sorted(MARKS.keys() - {"unet"}))
def test_can_be_trained(engine: Engine, name: str) -> None:
    """They end in a dense layer: brought into form, a device trains its head."""
    model = with_plan(adapt(NETS[name].read_bytes()).model)
    spec = find_head(model)
    opened = engine.open(model)
    assert (opened.status, opened.classes, opened.features) == (OK, spec.classes, spec.features)
    inputs = engine_models.random_inputs(model, 2, 2)
    assert [engine.run(x.tobytes())[1] for x in inputs] == oracle(model, inputs)


def test_every_net_is_here() -> None:
    assert NETS.keys() == MARKS.keys() and all(isinstance(path, Path) for path in NETS.values())
