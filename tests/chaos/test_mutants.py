"""Some of the ten million frames of `python -m tests.chaos.mutants`."""

from __future__ import annotations

from tests.chaos.mutants import c_mutants, python_mutants


def test_the_c_decoder_delivers_nothing_damaged() -> None:
    refused, whole = c_mutants(100_000, 1, sanitize=True)
    assert refused > 20 * whole > 0, "most damage is in the frame, and not all of it"


def test_the_python_decoder_delivers_nothing_damaged() -> None:
    refused, whole = python_mutants(5_000, 2)
    assert refused + whole == 5_000 and refused > 4_900
