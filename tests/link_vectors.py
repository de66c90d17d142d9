"""tests/vectors/link.json as Python values, for the tests of the link."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parent / "vectors" / "link.json"


def vectors(part: str, path: Path = PATH) -> list[dict[str, Any]]:
    """The cases of one part; the program beside the file says what is in them. Hex stays hex."""
    cases = json.loads(path.read_text())[part]
    assert cases
    return list(cases)


def names(part: str, path: Path = PATH) -> list[str]:
    """The cases' names, as ids of parametrized tests."""
    return [case["name"] for case in vectors(part, path)]
