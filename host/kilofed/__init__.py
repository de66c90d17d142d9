"""kilofed: federated learning in kilobytes. The host that aggregates, and everything that runs around it.

The names below are the public interface; host/API.md is their reference, host/examples/digits.py the shortest
whole program. Each is imported when it is first used, so that `import kilofed` costs nothing that is not
needed. What is not among them may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Adapted",
    "Board",
    "Contribution",
    "Deadlines",
    "Device",
    "DeviceRound",
    "Emulator",
    "Ending",
    "Fit",
    "Fleet",
    "Identity",
    "Image",
    "Inspection",
    "KilofedError",
    "Kind",
    "Mean",
    "Place",
    "Report",
    "RoundRecord",
    "Run",
    "RunConfig",
    "RunEvent",
    "Samples",
    "Strategy",
    "Update",
    "__version__",
    "accuracy",
    "all_boards",
    "build",
    "convert",
    "digits_model_path",
    "digits_pool",
    "digits_test",
    "federate",
    "flash",
    "inspect",
    "load_board",
    "load_samples",
    "make_places",
    "new_identity",
    "open_run",
    "read_report",
    "resume_or_create",
    "run",
    "split_test",
]

# Public name -> module and name of what it is. No public name may be that of a module of this package:
# importing the module would put it in the name's place.
_HOMES = {
    "Adapted": ("kilofed_tools.adapt", "Adapted"),
    "Board": ("kilofed.boards.catalogue", "Board"),
    "Contribution": ("kilofed_tools.strategies", "Contribution"),
    "Deadlines": ("kilofed.rounds.config", "Deadlines"),
    "Device": ("kilofed.fleet", "Device"),
    "DeviceRound": ("kilofed.rounds.records", "DeviceRound"),
    "Emulator": ("kilofed.boards.emulator", "Emulator"),
    "Ending": ("kilofed.rounds.records", "Ending"),
    "Fit": ("kilofed.boards.fit", "Fit"),
    "Fleet": ("kilofed.fleet", "Fleet"),
    "Identity": ("kilofed.boards.settings", "Identity"),
    "Image": ("kilofed.boards.image", "Image"),
    "Inspection": ("kilofed.inspection", "Inspection"),
    "KilofedError": ("kilofed.errors", "KilofedError"),
    "Kind": ("kilofed.rounds.records", "Kind"),
    "Mean": ("kilofed_tools.strategies", "Mean"),
    "Place": ("kilofed.laboratory", "Place"),
    "Report": ("kilofed.report", "Report"),
    "RoundRecord": ("kilofed.rounds.records", "RoundRecord"),
    "Run": ("kilofed.store", "Run"),
    "RunConfig": ("kilofed.rounds.config", "RunConfig"),
    "RunEvent": ("kilofed.rounds.records", "RunEvent"),
    "Samples": ("kilofed.samples", "Samples"),
    "Strategy": ("kilofed_tools.strategies", "Strategy"),
    "Update": ("kilofed_tools.updates", "Update"),
    "accuracy": ("kilofed_tools.evaluate", "accuracy"),
    "all_boards": ("kilofed.boards.catalogue", "all"),
    "build": ("kilofed.boards", "build"),
    "convert": ("kilofed_tools.convert", "convert"),
    "digits_model_path": ("kilofed.samples", "digits_model_path"),
    "digits_pool": ("kilofed.samples", "digits_pool"),
    "digits_test": ("kilofed.samples", "digits_test"),
    "federate": ("kilofed.federation", "federate"),
    "flash": ("kilofed.boards", "flash"),
    "inspect": ("kilofed.inspection", "inspect"),
    "load_board": ("kilofed.boards.catalogue", "load"),
    "load_samples": ("kilofed.samples", "load_samples"),
    "make_places": ("kilofed.experiment", "make_places"),
    "new_identity": ("kilofed.fleet", "new_identity"),
    "open_run": ("kilofed.store", "open_run"),
    "read_report": ("kilofed.report", "report"),
    "resume_or_create": ("kilofed.federation", "resume_or_create"),
    "run": ("kilofed.experiment", "run_experiment"),
    "split_test": ("kilofed.experiment", "split_test"),
}

if TYPE_CHECKING:
    from kilofed.boards import build, flash
    from kilofed.boards.catalogue import Board
    from kilofed.boards.catalogue import all as all_boards
    from kilofed.boards.catalogue import load as load_board
    from kilofed.boards.emulator import Emulator
    from kilofed.boards.fit import Fit
    from kilofed.boards.image import Image
    from kilofed.boards.settings import Identity
    from kilofed.errors import KilofedError
    from kilofed.experiment import make_places, split_test
    from kilofed.experiment import run_experiment as run
    from kilofed.federation import federate, resume_or_create
    from kilofed.fleet import Device, Fleet, new_identity
    from kilofed.inspection import Inspection, inspect
    from kilofed.laboratory import Place
    from kilofed.report import Report
    from kilofed.report import report as read_report
    from kilofed.rounds.config import Deadlines, RunConfig
    from kilofed.rounds.records import DeviceRound, Ending, Kind, RoundRecord, RunEvent
    from kilofed.samples import Samples, digits_model_path, digits_pool, digits_test, load_samples
    from kilofed.store import Run, open_run
    from kilofed_tools.adapt import Adapted
    from kilofed_tools.convert import convert
    from kilofed_tools.evaluate import accuracy
    from kilofed_tools.strategies import Contribution, Mean, Strategy
    from kilofed_tools.updates import Update


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kilofed' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, and none of the modules that this one needs or that were imported by somebody."""
    return sorted(__all__)
