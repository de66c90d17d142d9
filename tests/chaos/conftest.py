"""The C core as a process, and both languages as devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.chaos.rounds import Maker, Runner, core, core_device, python_device


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    """The core under address and undefined-behaviour sanitizers."""
    process = core()
    yield process
    process.close()


@pytest.fixture(params=["python", "core"])
def device(request: pytest.FixtureRequest) -> Callable[..., Maker]:
    """Makes the makers of one language's devices: device(size, max_frame=..., window=...)."""
    if request.param == "python":
        return python_device
    runner = request.getfixturevalue("runner")
    return lambda size, **options: core_device(runner, size, **options)
