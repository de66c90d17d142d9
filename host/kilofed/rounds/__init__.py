"""Rounds: a federation as a sequence of events, without a word about how it is shown."""

from __future__ import annotations
