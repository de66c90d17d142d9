"""Every kernel against TensorFlow Lite Micro's reference kernels, byte for byte.

Models are drawn from a seed (engine_models.py); a failure names the seed and the command that repeats that
one case.
"""

from __future__ import annotations

import engine_models
import numpy as np
import pytest
from engine_runner import OK, Engine, oracle

CHAINS = 260
SINGLES = 40


def compare(engine: Engine, model: bytes, seed: int, node: str, *, inputs: int = 3) -> None:
    """One model, several inputs, several slicings: the engine's bytes must be the oracle's."""
    opened = engine.open(model)
    assert opened.status == OK, f"refused with {opened}; repeat: pytest '{node}'"
    data = engine_models.random_inputs(model, seed, inputs)
    expected = oracle(model, data)
    budgets = [0xFFFFFFFF, 1, 1000]
    for i, (x, want) in enumerate(zip(data, expected, strict=True)):
        status, got = engine.run(x.tobytes(), max_macs=budgets[i % len(budgets)])
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


@pytest.mark.parametrize("kind", sorted(engine_models.KINDS))
def test_single(engine: Engine, kind: str, request: pytest.FixtureRequest) -> None:
    for seed in range(SINGLES):
        compare(engine, engine_models.one_op(kind, seed), seed, f"{request.node.nodeid} (seed {seed})")


def test_chains_cover_every_operator(engine: Engine) -> None:
    """The random chains would prove little if they missed an operator or never chained."""
    seen: dict[int, int] = {}
    longest = 0
    for seed in range(CHAINS):
        model = engine_models.unpack(engine_models.random_model(seed))
        operators = model.subgraphs[0].operators
        longest = max(longest, len(operators))
        for op in operators:
            code = model.operatorCodes[op.opcodeIndex].builtinCode
            seen[code] = seen.get(code, 0) + 1
    assert set(seen) >= {0, 1, 3, 4, 6, 9, 14, 17, 22, 25, 34, 40, 43, 60, 70, 114}, seen
    assert min(seen.values()) >= 2 and longest >= 6, seen


def test_outputs_spread_over_int8(engine: Engine) -> None:
    """Outputs that sit at the ends of the range prove little: on the whole they must not."""
    ends = total = 0
    for seed in range(0, CHAINS, 5):
        model = engine_models.random_model(seed)
        engine.open(model)
        for x in engine_models.random_inputs(model, seed, 1):
            out = np.frombuffer(engine.run(x.tobytes())[1], np.int8)
            ends += int(np.count_nonzero((out == -128) | (out == 127)))
            total += out.size
    assert ends < 0.4 * total, f"{ends} of {total}"
