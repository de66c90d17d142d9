"""kilofed: federated learning in kilobytes. The host that aggregates, and everything that runs around it."""

from __future__ import annotations

__version__ = "0.1.0"
