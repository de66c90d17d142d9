"""tests/vectors/link.json as Python values, for the tests of the link."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parent / "vectors" / "link.json"


def vectors(part: str) -> list[dict[str, Any]]:
    """The cases of one part; make_link.py says what is in them. Hex stays hex."""
    cases = json.loads(PATH.read_text())[part]
    assert cases
    return list(cases)


def names(part: str) -> list[str]:
    """The cases' names, as ids of parametrized tests."""
    return [case["name"] for case in vectors(part)]
