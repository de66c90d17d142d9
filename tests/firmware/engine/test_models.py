"""Real models: the two of MLPerf Tiny when their files are at hand, and our digits. Every operator's output
is compared, by models cut behind it: outputs of a saturated SOFTMAX alone would hide a lot."""

from __future__ import annotations

import os
from pathlib import Path

import engine_models
import numpy as np
import pytest
from engine_models import INT8
from engine_runner import ERR_HEAD, ERR_MODEL, NONE, OK, ROOT, Engine, oracle

SHARED = Path(os.environ.get("KILOFED_SHARED", ROOT.parent / "shared")) / "data" / "models"
DIGITS = ROOT / "models" / "digits" / "digits.tflite"
MODELS = {
    "kws": SHARED / "kws_ref_model.tflite",
    "ic": SHARED / "ic_resnet8.tflite",
    "digits": DIGITS,
}


def load(name: str) -> bytes:
    path = MODELS[name]
    if not path.exists():
        pytest.skip(f"{path} is not here: set KILOFED_SHARED to the folder above data/models")
    return path.read_bytes()


def differences(engine: Engine, model: bytes, seed: int, inputs: int) -> list[int]:
    """How many bytes differ, for each input."""
    opened = engine.open(model)
    assert opened.status == OK, opened
    data = engine_models.random_inputs(model, seed, inputs)
    counts = []
    for x, want in zip(data, oracle(model, data), strict=True):
        status, got = engine.run(x.tobytes())
        assert status == OK and len(got) == len(want)
        counts.append(int(np.count_nonzero(np.frombuffer(got, np.uint8) != np.frombuffer(want, np.uint8))))
    return counts


@pytest.mark.parametrize("name", sorted(MODELS))
def test_whole(fast_engine: Engine, name: str) -> None:
    assert sum(differences(fast_engine, load(name), 1, 20)) == 0


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_operator(engine: Engine, name: str) -> None:
    model = load(name)
    ops = len(engine_models.unpack(model).subgraphs[0].operators)
    for count in range(1, ops + 1):
        assert differences(engine, engine_models.cut(model, count), count, 2) == [0, 0], (
            f"operator {count - 1}"
        )


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("max_macs", [1, 777, 50_000])
def test_slices_equal_the_whole(fast_engine: Engine, name: str, max_macs: int) -> None:
    model = load(name)
    fast_engine.open(model)
    x = engine_models.random_inputs(model, 3, 1)[0].tobytes()
    assert fast_engine.run(x, max_macs=max_macs) == fast_engine.run(x)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_features_then_the_rest(engine: Engine, name: str) -> None:
    model = load(name)
    opened = engine.open(model)
    x = engine_models.random_inputs(model, 4, 1)[0]
    status, features = engine.run(x.tobytes(), mode=1)
    assert status == OK and len(features) == opened.features
    whole = engine.run(x.tobytes())
    assert engine.run(x.tobytes(), mode=2) == whole
    backbone = engine_models.cut(model, opened.head_op)
    assert oracle(backbone, [x])[0] == features


def replace_head(data: bytes, rng: np.random.Generator) -> tuple[bytes, tuple[object, ...]]:
    """The model with another head written into the file, and that head's parameters."""
    model = engine_models.unpack(data)
    graph = model.subgraphs[0]
    op = next(op for op in reversed(graph.operators) if model.operatorCodes[op.opcodeIndex].builtinCode == 9)
    x, w, b, y = (graph.tensors[i] for i in (*op.inputs, op.outputs[0]))
    shape = tuple(w.shape)
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    bias = rng.integers(-30000, 30000, shape[0]).astype(np.int32)
    w_scale, out_scale = np.float32(rng.uniform(0.001, 0.1)), np.float32(rng.uniform(0.05, 1.0))
    out_zp = int(rng.integers(-128, 128))
    model.buffers[w.buffer].data = weights.view(np.uint8).ravel()
    model.buffers[b.buffer].data = bias.view(np.uint8)
    w.quantization.scale = np.array([w_scale])
    b.quantization.scale = np.array([np.float32(x.quantization.scale[0]) * w_scale])
    y.quantization.scale, y.quantization.zeroPoint = np.array([out_scale]), np.array([out_zp])
    return engine_models.pack(model), (weights, bias, float(w_scale), float(out_scale), out_zp)


@pytest.mark.parametrize("softmax", [False, True], ids=["logits", "softmax"])
@pytest.mark.parametrize("seed", range(12))
def test_overlay_equals_head_in_the_file(engine: Engine, seed: int, softmax: bool) -> None:
    """A head laid over a model gives what the same head written into the file gives, SOFTMAX behind it
    included."""
    rng = np.random.default_rng(seed)
    model = engine_models.head_model(seed, softmax_behind=softmax)
    written, head = replace_head(model, rng)
    data = engine_models.random_inputs(model, seed, 3)
    opened = engine.open(model)
    assert opened.status == OK and opened.head_op == opened.ops - (2 if softmax else 1)
    assert engine.overlay(*head) == OK  # type: ignore[arg-type]
    assert [engine.run(x.tobytes())[1] for x in data] == oracle(written, data)


def test_overlay_that_cannot_be_is_refused(engine: Engine) -> None:
    model = engine_models.head_model(1, softmax_behind=True)
    opened = engine.open(model)
    x = engine_models.random_inputs(model, 1, 1)[0].tobytes()
    weights = np.zeros((opened.classes, opened.features), np.int8)
    bias = np.zeros(opened.classes, np.int32)
    bad = [
        (0.01, 0.1, 128),
        (0.01, 0.1, -129),
        (0.01, 0.0, 0),
        (0.01, -0.1, 0),
        (float("inf"), 0.1, 0),
        (1e30, 1e-30, 0),
    ]
    for w_scale, out_scale, out_zp in bad:
        engine.overlay(weights, bias, w_scale, out_scale, out_zp)
        assert engine.run(x)[0] == ERR_HEAD, (w_scale, out_scale, out_zp)
    engine.overlay(weights, bias, 0.01, 0.1, 127)
    assert engine.run(x)[0] == OK


def test_head_facts(engine: Engine) -> None:
    """What the trainer relies on: sizes, positions of weights and biases in the file, quantization."""
    for seed in range(10):
        model = engine_models.head_model(seed, softmax_behind=seed % 2 == 0)
        opened = engine.open(model)
        graph = engine_models.unpack(model).subgraphs[0]
        op = graph.operators[opened.head_op]
        x, w, b, y = (graph.tensors[i] for i in (*op.inputs, op.outputs[0]))
        buffers = engine_models.unpack(model).buffers
        assert [opened.classes, opened.features] == list(w.shape)
        assert model[opened.weights_at :].startswith(bytes(buffers[w.buffer].data))
        assert model[opened.bias_at :].startswith(bytes(buffers[b.buffer].data))
        found = [opened.x_scale, opened.w_scale, opened.out_scale]
        scales = np.array([t.quantization.scale[0] for t in (x, w, y)], np.float32)
        assert np.array(found, np.uint32).tolist() == scales.view(np.uint32).tolist()
        assert (opened.x_zp, opened.out_zp) == (x.quantization.zeroPoint[0], y.quantization.zeroPoint[0])


def no_head(change: str) -> bytes:
    """A model whose last FULLY_CONNECTED lacks something the trainer needs."""
    model = engine_models.unpack(engine_models.head_model(2, softmax_behind=False))
    graph = model.subgraphs[0]
    op = graph.operators[-1]
    w = graph.tensors[op.inputs[1]]
    if change == "bias":
        op.inputs = op.inputs[:2]
    elif change == "per-channel":
        w.quantization.scale = np.repeat(w.quantization.scale, w.shape[0])
        w.quantization.zeroPoint = np.zeros(w.shape[0], np.int64)
    elif change == "activation":
        op.builtinOptions.fusedActivationFunction = 1
    elif change == "operator behind":
        net = engine_models.Net(np.random.default_rng(0), [1, 1])
        net.model, net.graph, net.last = model, graph, op.outputs[0]
        engine_models.quantize(net)
        return net.finish()
    return engine_models.pack(model)


@pytest.mark.parametrize("change", ["bias", "per-channel", "activation", "operator behind"])
def test_no_trainable_head(engine: Engine, change: str) -> None:
    """Such a model runs, says that it has no head, and refuses to stop at features."""
    model = no_head(change)
    opened = engine.open(model)
    assert (opened.status, opened.head_op) == (OK, NONE)
    x = engine_models.random_inputs(model, 0, 1)[0]
    assert engine.run(x.tobytes(), mode=1)[0] == ERR_HEAD
    assert engine.run(x.tobytes())[1] == oracle(model, [x])[0]


def test_int8_all_the_way(engine: Engine) -> None:
    """The order of operators is checked: an operator that reads what comes later is refused."""
    model = engine_models.unpack(engine_models.head_model(3, softmax_behind=True))
    graph = model.subgraphs[0]
    graph.operators.reverse()
    opened = engine.open(engine_models.pack(model))
    assert (opened.status, opened.fault) == (ERR_MODEL, 5)
    assert all(t.type in (INT8, engine_models.INT32) for t in graph.tensors)
