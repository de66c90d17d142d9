"""A pytest plugin: which errors of the tree the tests have made the project raise.

Every error that the project's own code makes while a test runs is noted, here and in xdist's workers; an
error that a test makes itself does not count. A run of all tests that leaves a class out fails, and names it:
an error nobody can meet is an error too many, and one nobody has met may say anything. A run of some of the
tests (files named, -k, -m, --lf, stopped early) is not judged.
"""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from kilofed_tools.errors import KilofedError

#: What is looked at: these packages, wherever they are imported from.
PACKAGES = ("kilofed", "kilofed_tools", "kilofed_pi")
#: Under this name workers hand over what they have seen.
OUTPUT = "errors_raised"


def key(kind: type[KilofedError]) -> str:
    """A class as it is noted."""
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the packages that may make an error -> its file; `__main__` is a program, no part."""
    found = {}
    for package in PACKAGES:
        top = importlib.import_module(package)
        for info in pkgutil.walk_packages(top.__path__, f"{package}."):
            if not info.name.endswith("__main__"):
                file = importlib.import_module(info.name).__file__
                assert file is not None
                found[info.name] = Path(file)
        found[package] = Path(str(top.__file__))
    return found


def tree() -> list[type[KilofedError]]:
    """Every error class there is, by number."""
    known = modules()
    found, waiting = set(), [KilofedError]
    while waiting:
        kind = waiting.pop()
        if kind not in found and kind.__module__ in known:
            found.add(kind)
            waiting += kind.__subclasses__()
    return sorted(found, key=lambda kind: kind.code)


def named_in_calls() -> set[str]:
    """The names that the packages call: a class that is not among them only groups others."""
    names = set()
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                names.add(getattr(node.func, "attr", getattr(node.func, "id", "")))
    return names


def missing(seen: Iterable[str]) -> list[type[KilofedError]]:
    """The classes that were not raised. Of one that only groups others, one of them is enough."""
    raised, calls = set(seen), named_in_calls()

    def met(kind: type[KilofedError]) -> bool:
        if key(kind) in raised:
            return True
        below = kind.__subclasses__()
        return bool(below) and kind.__name__ not in calls and any(map(met, below))

    return [kind for kind in tree() if not met(kind)]


class Recorder:
    """Notes errors as they are made, by whom: only what a module of the packages makes counts."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._original: Callable[..., None] = KilofedError.__init__

    def start(self) -> None:
        """From now on."""
        original, seen = self._original, self.seen

        @functools.wraps(original)
        def noted(self: KilofedError, *arguments: Any, **options: Any) -> None:
            original(self, *arguments, **options)
            # The constructors of the classes in between make nothing: who called the outermost of them?
            frame = sys._getframe(1)
            while frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is self:
                assert frame.f_back is not None
                frame = frame.f_back
            if str(frame.f_globals.get("__name__", "")).partition(".")[0] in PACKAGES:
                seen.add(key(type(self)))

        KilofedError.__init__ = noted  # type: ignore[method-assign]

    def stop(self) -> None:
        """No longer."""
        KilofedError.__init__ = self._original  # type: ignore[method-assign]


_RECORDER = pytest.StashKey[Recorder]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORDER] = Recorder()
    config.stash[_RECORDER].start()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_RECORDER].stop()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker of xdist has ended: what it saw counts here."""
    node.config.stash[_RECORDER].seen.update(getattr(node, "workeroutput", {}).get(OUTPUT, ()))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    seen = config.stash[_RECORDER].seen
    if hasattr(config, "workeroutput"):
        config.workeroutput[OUTPUT] = sorted(seen)
        return
    if not is_whole(config) or exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return
    if session.shouldstop or session.shouldfail:
        return
    absent = missing(seen)
    if absent:
        names = ", ".join(f"{kind.__name__} ({kind.code})" for kind in absent)
        report = pytest.CollectReport(
            "the errors of the tree",
            "failed",
            f"no test makes the project raise {names}: write one that does, or remove what nobody can meet",
            None,
        )
        config.hook.pytest_collectreport(report=report)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def is_whole(config: pytest.Config) -> bool:
    """Whether all tests were asked for."""
    some = ("keyword", "markexpr", "lf", "stepwise", "collectonly", "ignore", "ignore_glob")
    left_out = config.getoption("deselect", default=None) or []
    return (
        config.args_source is not pytest.Config.ArgsSource.ARGS
        and not any(config.getoption(name, default=None) for name in some)
        and all("::" in test for test in left_out)  # single tests may be left out, files not
    )
