"""Every error class of the tree is provoked by some test: a class nobody can meet is a class too many."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kilofed.errors
import kilofed.link.errors
import kilofed_tools.errors
from kilofed.link.errors import FrameError, UnknownMessage
from kilofed.link.frames import parse_frame
from kilofed.link.messages import decode
from kilofed_tools.errors import KilofedError

TESTS = Path(__file__).resolve().parents[1]


def classes() -> list[type[KilofedError]]:
    """Of the three modules, each once."""
    found = {
        value
        for module in (kilofed_tools.errors, kilofed.link.errors, kilofed.errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, KilofedError)
    }
    return sorted(found, key=lambda found: found.code)


def concrete() -> list[type[KilofedError]]:
    """Those the code raises itself; the others only group them."""
    root = TESTS.parent
    text = "\n".join(
        path.read_text()
        for folder in ("host/kilofed", "tools/kilofed_tools", "firmware/pi/kilofed_pi")
        for path in (root / folder).rglob("*.py")
        if path.name != "errors.py"
    )
    return [kind for kind in classes() if re.search(rf"\b{kind.__name__}\(", text)]


def expected_by_tests() -> str:
    """What stands inside pytest.raises(...) in any test, and numbers in what the command line prints."""
    text = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    raises = re.findall(r"raises\(\s*(\([^)]*\)|[\w.]+)", text)
    return " ".join(raises) + " " + " ".join(re.findall(r"error \d\d\d", text))


def test_bytes_that_are_no_frame_and_messages_nobody_knows() -> None:
    with pytest.raises(FrameError, match="broken COBS"):
        parse_frame(b"\x09short")
    with pytest.raises(UnknownMessage):
        decode(b"\x82\x18\x40\x00")


def test_numbers_are_given_once() -> None:
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes), sorted(codes)


@pytest.mark.parametrize("kind", concrete(), ids=lambda kind: kind.__name__)
def test_some_test_provokes_it(kind: type[KilofedError]) -> None:
    expected = expected_by_tests()
    assert re.search(rf"\b{kind.__name__}\b", expected) or f"error {kind.code}" in expected, (
        f"no test expects a {kind.__name__}: write one that provokes it"
    )
