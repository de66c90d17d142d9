"""Strategies by name: `fedavg`, or MODULE:FACTORY for one of one's own.

MODULE is imported as Python does it, and from the current folder: `median` is ./median.py. FACTORY is called
without arguments when a run begins, and what it returns combines the updates of each round
(kilofed_tools.strategies.Strategy). It is tried on made-up updates before any device is asked for anything.

The name is part of a run's settings: a run that is resumed must name the same, and its state goes on.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator

import numpy as np

from kilofed.errors import ConfigError
from kilofed_tools.errors import StrategyError
from kilofed_tools.strategies import Contribution, Strategy, checked
from kilofed_tools.updates import Update

#: The average that needs no code and keeps no update (kilofed_tools.strategies.FedAvg).
FEDAVG = "fedavg"

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def check_name(name: object) -> None:
    """ConfigError when this cannot be the name of a strategy. Imports nothing."""
    if name != FEDAVG and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ConfigError(
            f"strategy is {name!r}",
            f"give {FEDAVG}, or MODULE:FACTORY as in kilofed_tools.strategies:FedAvgM",
            setting="strategy",
        )


def load_strategy(name: str, *, classes: int, features: int) -> Strategy | None:
    """The strategy of that name, tried on made-up updates of a head of C x F; None for FedAvg.

    ConfigError: no such module or factory, or what the factory makes does not work.
    """
    check_name(name)
    if name == FEDAVG:
        return None
    module_name, _, path = name.partition(":")
    with _current_folder_first():
        try:
            found = importlib.import_module(module_name)
        except Exception as error:
            raise _unusable(
                f"the strategy {name}: {module_name} cannot be imported ({type(error).__name__}: {error})",
                "name a module that Python finds, or start from the folder it lies in",
            ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise _unusable(
                f"the strategy {name}: there is no {part} in it", "name a function or a class of it"
            )
        found = getattr(found, part)
    if not callable(found):
        raise _unusable(
            f"the strategy {name}: {path} cannot be called",
            "name a function or a class that makes a strategy",
        )
    try:
        strategy = found()
    except Exception as error:
        raise _unusable(
            f"the strategy {name} cannot be made ({type(error).__name__}: {error})",
            "name what can be called without arguments",
        ) from error
    if not callable(getattr(strategy, "combine", None)):
        raise _unusable(
            f"the strategy {name}: {type(strategy).__name__} has no combine(contributions, state)",
            "see kilofed_tools.strategies.Strategy for what it must have",
        )
    made: Strategy = strategy
    _try(made, name, classes, features)
    return made


def _unusable(what: str, next_step: str) -> ConfigError:
    return ConfigError(what, next_step, setting="strategy")


def _try(strategy: Strategy, name: str, classes: int, features: int) -> None:
    """A first and a second round of one to three devices."""
    rng = np.random.Generator(np.random.PCG64(1))
    for devices in (1, 2, 3):
        parts = [
            Contribution(
                Update(
                    f"trial-{number}",
                    rng.integers(-1000, 1000, (classes, features), dtype=np.int32),
                    rng.integers(-1000, 1000, classes, dtype=np.int32),
                ),
                samples=10 * (number + 1),
            )
            for number in range(devices)
        ]
        try:
            _, state = checked(strategy, name, parts, b"")
            checked(strategy, name, parts, state)
        except StrategyError as error:
            raise _unusable(f"tried with {devices} devices: {error.what}", error.next_step) from error


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    """A program that was installed does not have the current folder on its path, as `python FILE` would."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove("")
