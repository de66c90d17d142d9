"""Every kernel against TensorFlow Lite Micro's reference kernels, byte for byte.

Models are drawn from a seed (engine_models.py); a failure names the seed and the command that repeats that
one case.
"""

from __future__ import annotations

import os

import engine_kernels
import engine_models
import numpy as np
import pytest
from engine_models import INT8, INT32
from engine_runner import OK, Engine, lite_oracle, operators, oracle

#: Models that are compared: more than 2,600 with the single operators. KILOFED_CHAINS draws more of them.
CHAINS = int(os.environ.get("KILOFED_CHAINS", "1200"))
SINGLES = 40


def compare(engine: Engine, model: bytes, seed: int, node: str, *, inputs: int = 3) -> None:
    """One model, several inputs, several slicings: the engine's bytes must be the oracle's."""
    opened = engine.open(model)
    assert opened.status == OK, f"refused with {opened}; repeat: pytest '{node}'"
    data = engine_models.random_inputs(model, seed, inputs)
    expected = oracle(model, data)
    budgets = [0xFFFFFFFF, 1, 1000]
    for i, (x, want) in enumerate(zip(data, expected, strict=True)):
        # The reference keeps its states from one input to the next, too.
        mode = 4 if i and engine_models.keeps_state(model) else 0
        status, got = engine.run(x.tobytes(), max_macs=budgets[i % len(budgets)], mode=mode)
        assert status == OK
        if got != want:
            a, b = np.frombuffer(got, np.int8), np.frombuffer(want, np.int8)
            where = np.flatnonzero(a != b)
            at = where[:5]
            detail = f"input {i}: {len(where)} of {len(a)} bytes differ, first at {at}: {a[at]} for {b[at]}"
            raise AssertionError(f"seed {seed}: {detail}; repeat: python -m pytest '{node}'")


@pytest.mark.parametrize("seed", range(CHAINS))
def test_chain(engine: Engine, seed: int, request: pytest.FixtureRequest) -> None:
    compare(engine, engine_models.random_model(seed), seed, request.node.nodeid)


@pytest.mark.parametrize("seed", range(0, CHAINS, 20))
def test_chain_cut_behind_every_operator(engine: Engine, seed: int, request: pytest.FixtureRequest) -> None:
    """Inner tensors: what a later operator would flatten or saturate shows where it is made."""
    model = engine_models.random_model(seed)
    for count in range(1, len(engine_models.unpack(model).subgraphs[0].operators)):
        compare(engine, engine_models.cut(model, count), seed, request.node.nodeid)


@pytest.mark.parametrize("seed", range(SINGLES))
@pytest.mark.parametrize("kind", sorted(engine_models.KINDS))
def test_single(engine: Engine, kind: str, seed: int, request: pytest.FixtureRequest) -> None:
    compare(engine, engine_models.one_op(kind, seed), seed, request.node.nodeid)


@pytest.mark.parametrize("seed", range(SINGLES))
@pytest.mark.parametrize("kind", engine_kernels.KINDS)
def test_kernel(engine: Engine, kind: str, seed: int, request: pytest.FixtureRequest) -> None:
    compare(engine, engine_kernels.model(kind, seed), seed, request.node.nodeid)


@pytest.mark.parametrize("seed", range(SINGLES))
@pytest.mark.parametrize("kind", sorted(engine_models.LITE))
def test_what_micro_lacks(engine: Engine, kind: str, seed: int) -> None:
    """Operators, and uses of them, that TensorFlow Lite Micro has not or leaves to chance: as in TensorFlow
    Lite."""
    pytest.importorskip("tflite_runtime.interpreter", reason="TensorFlow Lite decides these cases")
    model = engine_models.one_op(kind, seed)
    inputs = engine_models.random_inputs(model, seed, 2)
    assert engine.open(model).status == OK
    assert [engine.run(x.tobytes())[1] for x in inputs] == lite_oracle(model, inputs), f"{kind}, seed {seed}"


def test_chains_cover_every_operator(engine: Engine) -> None:
    """The random chains would prove little if they missed an operator or never chained."""
    longest = 0
    every = {getattr(engine_models.schema.BuiltinOperator, name) for name in operators()}
    only_lite = {getattr(engine_models.schema.BuiltinOperator, name) for name in ("RELU_N1_TO_1", "TILE")}
    missing = every - only_lite
    for seed in range(CHAINS):
        if not missing and longest >= 6:
            break
        model = engine_models.unpack(engine_models.random_model(seed))
        chain = model.subgraphs[0].operators
        longest = max(longest, len(chain))
        for op in chain:
            missing.discard(model.operatorCodes[op.opcodeIndex].builtinCode)
    assert not missing and longest >= 6, missing


def test_outputs_spread_over_int8(engine: Engine) -> None:
    """Outputs that sit at the ends of the range prove little: on the whole they must not."""
    ends = total = 0
    for seed in range(0, CHAINS, 10):
        model = engine_models.random_model(seed)
        engine.open(model)
        for x in engine_models.random_inputs(model, seed, 1):
            out = np.frombuffer(engine.run(x.tobytes())[1], np.int8)
            ends += int(np.count_nonzero((out == -128) | (out == 127)))
            total += out.size
    assert ends < 0.4 * total, f"{ends} of {total}"


def near_ties(seed: int, *, per_channel: bool) -> bytes:
    """A FULLY_CONNECTED whose outputs all lie where the way of multiplying scales decides: weights of zero,
    and biases at ties between the two products, which differ by 2^-25 of their value at most."""
    rng = np.random.default_rng(seed)
    net = engine_models.Net(rng, [1, 1])
    x_scale, w_scale = np.float32(net.quantization()[0]), np.float32(net.scale())
    classes = 250
    out_scale = np.float32(x_scale * w_scale * 2.0**23 * rng.uniform(1, 2))
    in_double = float(x_scale) * float(w_scale) / float(out_scale)
    in_float = float(x_scale * w_scale) / float(out_scale)
    biases = np.round((np.arange(classes) - 125 + 0.5) / ((in_double + in_float) / 2)).astype(np.int32)
    count = classes if per_channel else 1
    zeros = np.zeros([classes, 1], np.int8)
    weights = net.tensor([classes, 1], INT8, ([float(w_scale)] * count, [0] * count), zeros)
    bias = net.tensor([classes], INT32, ([float(x_scale * w_scale)], [0]), biases)
    y = net.tensor([1, classes], INT8, ([float(out_scale)], [0]))
    fc = engine_models.schema.BuiltinOperator.FULLY_CONNECTED
    net.operator(fc, [net.last, weights, bias], y, engine_models.schema.FullyConnectedOptionsT())
    return net.finish()


@pytest.mark.parametrize("seed", range(20))
def test_scales_of_channels_are_multiplied_in_double(
    engine: Engine, seed: int, request: pytest.FixtureRequest
) -> None:
    model = near_ties(seed, per_channel=True)
    compare(engine, model, seed, request.node.nodeid, inputs=1)


@pytest.mark.parametrize("seed", range(20))
def test_scales_of_tensors_are_multiplied_in_float32(engine: Engine, seed: int) -> None:
    """FULLY_CONNECTED with one weight scale: in float32, as in tflite-runtime 2.14 (what a Pi runs) and in
    TFLite Micro's sources to August 2026. Later wheels multiply in double; they may differ by one, at such
    ties only."""
    tflite = pytest.importorskip("tflite_runtime.interpreter", reason="the Pi's runtime decides this case")
    model = near_ties(seed, per_channel=False)
    reference = tflite.Interpreter(
        model_content=model, experimental_op_resolver_type=tflite.OpResolverType.BUILTIN_REF
    )
    reference.allocate_tensors()
    reference.set_tensor(reference.get_input_details()[0]["index"], np.zeros([1, 1], np.int8))
    reference.invoke()
    expected = reference.get_tensor(reference.get_output_details()[0]["index"]).ravel()
    engine.open(model)
    got = np.frombuffer(engine.run(bytes(1))[1], np.int8)
    np.testing.assert_array_equal(got, expected)
    micro = np.frombuffer(oracle(model, [np.zeros(1, np.uint8)])[0], np.int8)
    assert np.max(np.abs(got.astype(int) - micro)) <= 1


def test_mean_of_a_vanishing_scale(engine: Engine, request: pytest.FixtureRequest) -> None:
    """So small a multiplier that the division by the number of terms runs out of places."""
    for exponent in range(-36, -20):
        net = engine_models.Net(np.random.default_rng(1), [1, 7, 9, 3])
        net.graph.tensors[0].quantization.scale = np.array([1.3 * 2.0**exponent], np.float32)
        axes = net.tensor([2], INT32, None, np.array([1, 2], np.int32))
        y = net.tensor([1, 3], INT8, ([1.0], [17]))
        mean = engine_models.schema.BuiltinOperator.MEAN
        net.operator(mean, [net.last, axes], y, engine_models.schema.ReducerOptionsT())
        compare(engine, net.finish(), 0, request.node.nodeid)


@pytest.mark.parametrize("scale", [2.0**-20, 1e-3, 0.05, 0.9, 3.0, 31.0, 33.0, 1e6])
def test_softmax_over_its_whole_range(engine: Engine, scale: float, request: pytest.FixtureRequest) -> None:
    """From rows where all classes count to rows where one takes all; and 500 classes."""
    for shape in ([3, 2], [1, 11], [2, 500]):
        net = engine_models.Net(np.random.default_rng(2), shape)
        net.graph.tensors[0].quantization.scale = np.array([scale], np.float32)
        engine_models.softmax(net)
        compare(engine, net.finish(), 3, request.node.nodeid)
