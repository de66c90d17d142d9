"""The engine on every emulated core, with the kernel family that the core's board links, against TensorFlow
Lite Micro's reference kernels, byte for byte.

The models are drawn as in test_kernels.py: single operators of every kind, chains, and what families differ
in. Many models run in one start of QEMU. Skipped without the cross compiler or QEMU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import emulated
import engine_kernels
import engine_models
import engine_tails
import pytest
from engine_runner import oracle, repeat, seeds

SINGLES = 3
MORE = {"conv": 14, "depthwise": 14, "fully_connected": 8, "residual": 5}  # what families differ in
KERNELS = 40  # of each kind of engine_kernels.py
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
    for kind in engine_kernels.KINDS:
        for seed in seeds(KERNELS):
            yield kind, seed, engine_kernels.model(kind, seed)
    for seed in seeds(CHAINS):
        yield "chain", seed, engine_models.random_model(seed)


@functools.cache
def prepared() -> list[tuple[str, int, emulated.Case, list[str]]]:
    """(kind, seed, case, the reference's outputs in hex), the same for all cores."""
    found = []
    for kind, seed, model in drawn():
        if len(model) <= LARGEST:
            inputs = engine_models.random_inputs(model, seed, 3)
            case = emulated.Case(model, inputs, engine_models.keeps_state(model))
            found.append((kind, seed, case, [out.hex() for out in oracle(model, inputs)]))
    return found


def answers(core: str, folder: Path) -> Iterator[list[str]]:
    """What a core says to each case; as many of them at once as fit its memory."""
    batch: list[emulated.Case] = []
    size = 4
    for _, _, case, _ in prepared():
        if size + len(case.packed()) > emulated.BATCH_BYTES:
            yield from emulated.run(core, batch, folder)
            batch, size = [], 4
        batch.append(case)
        size += len(case.packed())
    yield from emulated.run(core, batch, folder)


@pytest.mark.parametrize("core", emulated.CORES)
def test_core(core: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = answers(core, tmp_path)
    for kind, seed, _, expected in prepared():
        again = f"{kind} {seed} on {core}; {repeat(request.node.nodeid, seed)}"
        assert next(found, None) == expected, again


@functools.cache
def remainders() -> list[tuple[str, emulated.Case, list[str]]]:
    """(which, case, the reference's outputs in hex), the same for all cores."""
    found = []
    for name, size, model in engine_tails.models():
        inputs = engine_models.random_inputs(model, size, 3)
        expected = [out.hex() for out in oracle(model, inputs)]
        found.append((f"engine_tails.{name}({size})", emulated.Case(model, inputs), expected))
    return found


@pytest.mark.parametrize("core", emulated.CORES)
def test_every_remainder(core: str, tmp_path: Path) -> None:
    """Sizes one after another, for the ends of what kernels have unrolled."""
    answers = emulated.run(core, [case for _, case, _ in remainders()], tmp_path)
    for (which, _, expected), found in zip(remainders(), answers, strict=True):
        assert found == expected, f"{which} on {core}"
