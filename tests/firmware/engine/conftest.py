"""Fixtures of the engine's tests: the runner, compiled once a session with sanitizers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_runner import Engine, build

SANITIZE = [
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine under address and undefined-behaviour sanitizers."""
    runner = Engine(build("runner-asan", flags=SANITIZE))
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def fast_engine() -> Iterator[Engine]:
    """The engine as it is shipped: -Os, no sanitizers; for the long inferences."""
    runner = Engine(build("runner-os", flags=["-Os"]))
    yield runner
    runner.close()
