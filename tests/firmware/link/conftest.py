"""The link's C code, in the device's runner: built with the sanitizers once a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "device"))

from device_runner import HERE, SANITIZE, Runner, build


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    """The core under address and undefined-behaviour sanitizers."""
    process = Runner(build("runner", [HERE / "runner.c"], flags=SANITIZE))
    yield process
    process.close()
