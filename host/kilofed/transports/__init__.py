"""Pipes under the link: serial ports, TCP, memory, and the base class for more."""

from __future__ import annotations

from kilofed.transports.base import READ_BYTES, Transport

__all__ = ["READ_BYTES", "Transport"]
