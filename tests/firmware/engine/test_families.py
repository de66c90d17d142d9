"""The engine on every emulated core, with the kernel family that the core's board links, against TensorFlow
Lite Micro's reference kernels, byte for byte.

The models are drawn as in test_kernels.py: single operators of every kind, and chains. All models of a core
run in one start of QEMU. Skipped without the cross compiler or QEMU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import emulated
import engine_models
import pytest
from engine_runner import oracle, repeat, seeds

SINGLES = 3
MORE = {"conv": 14, "depthwise": 14, "fully_connected": 8, "residual": 5}  # what families differ in
CHAINS = 24
LARGEST = 12_000  # bytes of a model: the emulated memories are small

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(bool(emulated.MISSING), reason=f"install {', '.join(emulated.MISSING)}"),
]


def drawn() -> Iterator[tuple[str, int, bytes]]:
    """(kind, seed, model)"""
    for kind in sorted(engine_models.KINDS):
        for seed in seeds(MORE.get(kind, SINGLES)):
            yield kind, seed, engine_models.one_op(kind, seed)
    for seed in seeds(CHAINS):
        yield "chain", seed, engine_models.random_model(seed)


@functools.cache
def prepared() -> list[tuple[str, int, emulated.Case, list[str]]]:
    """(kind, seed, case, the reference's outputs in hex), the same for all cores."""
    found = []
    for kind, seed, model in drawn():
        if len(model) <= LARGEST:
            inputs = engine_models.random_inputs(model, seed, 2)
            case = emulated.Case(model, inputs, engine_models.keeps_state(model))
            found.append((kind, seed, case, [out.hex() for out in oracle(model, inputs)]))
    return found


@pytest.mark.parametrize("core", emulated.CORES)
def test_core(core: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    answers = iter(emulated.run(core, [case for _, _, case, _ in prepared()], tmp_path))
    for kind, seed, _, expected in prepared():
        again = f"{kind} {seed} on {core}; {repeat(request.node.nodeid, seed)}"
        assert next(answers, None) == expected, again
