"""kilofed: federated learning in kilobytes. The host that aggregates, and everything that runs around it.

The names below are the public interface; each is imported when it is first used, so that `import kilofed`
costs nothing that is not needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module it lives in.
_HOMES = {
    "Accuracy": "report",
    "Baselines": "baselines",
    "Connection": "connection",
    "Deadlines": "rounds.config",
    "Device": "fleet",
    "DeviceRound": "rounds.records",
    "Ending": "rounds.records",
    "Engine": "rounds.engine",
    "Fleet": "fleet",
    "GlobalModel": "rounds.globalmodel",
    "Inspection": "inspection",
    "Kind": "rounds.records",
    "KilofedError": "errors",
    "Laboratory": "laboratory",
    "Ledger": "rounds.engine",
    "Place": "laboratory",
    "Report": "report",
    "RoundRecord": "rounds.records",
    "Run": "store",
    "RunConfig": "rounds.config",
    "RunEvent": "rounds.records",
    "Samples": "samples",
    "compute_baselines": "baselines",
    "create_run": "store",
    "federate": "federation",
    "inspect": "inspection",
    "new_identity": "fleet",
    "open_run": "store",
    "report_of": "report",
    "resume_or_create": "federation",
    "run_demo": "demo",
    "run_experiment": "experiment",
    "run_federation": "federation",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from kilofed.baselines import Baselines as Baselines
    from kilofed.baselines import compute_baselines as compute_baselines
    from kilofed.connection import Connection as Connection
    from kilofed.demo import run_demo as run_demo
    from kilofed.errors import KilofedError as KilofedError
    from kilofed.experiment import run_experiment as run_experiment
    from kilofed.federation import federate as federate
    from kilofed.federation import resume_or_create as resume_or_create
    from kilofed.federation import run_federation as run_federation
    from kilofed.fleet import Device as Device
    from kilofed.fleet import Fleet as Fleet
    from kilofed.fleet import new_identity as new_identity
    from kilofed.inspection import Inspection as Inspection
    from kilofed.inspection import inspect as inspect
    from kilofed.laboratory import Laboratory as Laboratory
    from kilofed.laboratory import Place as Place
    from kilofed.report import Accuracy as Accuracy
    from kilofed.report import Report as Report
    from kilofed.report import report_of as report_of
    from kilofed.rounds.config import Deadlines as Deadlines
    from kilofed.rounds.config import RunConfig as RunConfig
    from kilofed.rounds.engine import Engine as Engine
    from kilofed.rounds.engine import Ledger as Ledger
    from kilofed.rounds.globalmodel import GlobalModel as GlobalModel
    from kilofed.rounds.records import DeviceRound as DeviceRound
    from kilofed.rounds.records import Ending as Ending
    from kilofed.rounds.records import Kind as Kind
    from kilofed.rounds.records import RoundRecord as RoundRecord
    from kilofed.rounds.records import RunEvent as RunEvent
    from kilofed.samples import Samples as Samples
    from kilofed.store import Run as Run
    from kilofed.store import create_run as create_run
    from kilofed.store import open_run as open_run


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kilofed' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kilofed.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
