"""What all tests share."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading

import pytest

pytest_plugins = ["tests.errors_raised"]


def pytest_configure() -> None:
    """Programs that are stopped by Ctrl-C stop in the tests' own processes, too.

    A shell that starts pytest in the background has SIGINT ignored, and whoever is started inherits that:
    `kilofed emulate` would run on, and who waits for its end would wait for ever.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def` tests, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
