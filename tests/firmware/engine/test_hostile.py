"""Damaged and hostile files under address and undefined-behaviour sanitizers: an error or a safe run, never
anything else.

The model lies in a block of exactly its size and runs in an arena of exactly the announced size, so a
single byte read or written outside ends the process and fails the test, with the seed that repeats it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import engine_models
import pytest
from engine_runner import ERR_MODEL, ERR_UNSUPPORTED, OK, ROOT, Engine, repeat, seeds

MUTATIONS = 300  # of each of the models
ARENA_LIMIT = 1 << 22  # a mutation that asks for more is not run
MACS_LIMIT = 1 << 22


def subjects() -> Iterator[tuple[str, bytes]]:
    """Small models with every operator; small files put most mutations where they matter."""
    digits = ROOT / "models" / "digits" / "digits.tflite"
    if digits.exists():
        yield "digits", digits.read_bytes()
    yield "head", engine_models.head_model(0, softmax_behind=True)
    for path in sorted((ROOT / "tests" / "data" / "nets").glob("*.tflite")):
        yield path.stem, path.read_bytes()
    for seed in (3, 11, 21, 34, 47):
        yield f"chain{seed}", engine_models.random_model(seed)
    for kind in sorted({*engine_models.KINDS, *engine_models.LITE}):
        yield kind, engine_models.one_op(kind, 2)


SUBJECTS = dict(subjects())


def mutate(data: bytes, seed: int) -> bytes:
    """One to four changes: bits, bytes, little-endian words of telling size, words copied from elsewhere,
    the end cut off."""
    rng = random.Random(seed)
    out = bytearray(data)
    telling = [
        0,
        1,
        2,
        3,
        4,
        8,
        0x7F,
        0x80,
        0xFF,
        0xFFFF,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        0xFFFFFFFE,
        1 << 24,
        len(data),
    ]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out))
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind in (2, 3):
            at = max(0, min(at & ~3, len(out) - 4))
            value = (
                rng.choice(telling)
                if kind == 2
                else struct.unpack_from("<I", out, at)[0] + rng.choice([-4, -1, 1, 4])
            )
            struct.pack_into("<I", out, at, value & 0xFFFFFFFF)
        elif kind == 4:
            at = max(0, min(at & ~3, len(out) - 4))
            source = rng.randrange(max(1, len(out) - 4)) & ~3
            out[at : at + 4] = out[source : source + 4]
        elif rng.random() < 0.3 and len(out) > 8:
            del out[rng.randrange(8, len(out)) :]
    return bytes(out)


def try_file(engine: Engine, data: bytes) -> int:
    """Open, and run what opens. Returns the status of opening."""
    opened = engine.open(data)
    assert opened.status in (OK, ERR_MODEL, ERR_UNSUPPORTED)
    assert (opened.status == OK) == (opened.fault == 0)
    if opened.status == OK and opened.arena_bytes <= ARENA_LIMIT and opened.macs <= MACS_LIMIT:
        assert engine.run(bytes(opened.input_bytes), max_macs=10_000)[0] == OK
    return opened.status


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_mutations(engine: Engine, name: str, request: pytest.FixtureRequest) -> None:
    statuses = []
    for seed in seeds(MUTATIONS):
        try:
            statuses.append(try_file(engine, mutate(SUBJECTS[name], seed)))
        except AssertionError as error:
            raise AssertionError(f"{repeat(request.node.nodeid, seed)}\n{error}") from None
    refused = sum(status != OK for status in statuses)
    if len(statuses) == MUTATIONS:
        assert MUTATIONS // 20 < refused < MUTATIONS, "mutations that change nothing prove nothing"


@pytest.mark.parametrize("name", ["head", "conv", "mean"])
def test_every_length(engine: Engine, name: str) -> None:
    """A file cut off at any byte is refused, or is complete in all that is read."""
    data = SUBJECTS[name]
    for length in range(1, len(data), 3):
        assert try_file(engine, data[:length]) in (OK, ERR_MODEL, ERR_UNSUPPORTED)
    assert try_file(engine, data[: len(data) // 2]) == ERR_MODEL


@pytest.mark.parametrize("name", ["head", "chain3"])
def test_every_word(engine: Engine, name: str) -> None:
    """Each word of the file in turn set to values that offsets and counts must not have."""
    data = SUBJECTS[name]
    for at in range(0, len(data) - 3, 4):
        for value in (0, 0xFFFFFFFF, 0x7FFFFFFF, len(data) - at):
            try_file(engine, data[:at] + struct.pack("<I", value & 0xFFFFFFFF) + data[at + 4 :])


def test_random_bytes(engine: Engine) -> None:
    rng = random.Random(0)
    for _ in range(300):
        body = rng.randbytes(rng.randrange(0, 400))
        assert try_file(engine, struct.pack("<I", rng.choice([4, 8, 12, 16])) + b"TFL3" + body) != OK
