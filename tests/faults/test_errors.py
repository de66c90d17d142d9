"""Every error class of the tree is raised by some test: what tests/errors_raised.py holds a whole run to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.errors_raised import Recorder, key, missing, tree

from kilofed.errors import BuildError, RoundError, StoreError
from kilofed.link.errors import FrameError, UnknownMessage
from kilofed.link.frames import parse_frame
from kilofed.link.messages import decode
from kilofed_tools.errors import ModelError, ModelFormatError
from kilofed_tools.tflite import read_model

ROOT = Path(__file__).resolve().parents[2]

RAISES = """
from kilofed.link.frames import parse_frame
from kilofed_tools.errors import KilofedError
from kilofed.errors import FleetError

def test_the_project_raises():
    try:
        parse_frame(b"\\x09short")
    except KilofedError:
        pass

def test_a_test_raises():
    FleetError("what", "next")
"""


def test_bytes_that_are_no_frame_and_messages_nobody_knows() -> None:
    with pytest.raises(FrameError, match="broken COBS"):
        parse_frame(b"\x09short")
    with pytest.raises(UnknownMessage):
        decode(b"\x82\x18\x40\x00")


def test_numbers_are_given_once() -> None:
    codes = [kind.code for kind in tree()]
    assert len(set(codes)) == len(codes), sorted(codes)
    assert len(codes) > 30


def test_what_is_missing_is_what_nobody_raised() -> None:
    every = {key(kind) for kind in tree()}
    assert missing(every) == []
    assert missing(every - {key(BuildError)}) == [BuildError]
    # Nobody raises a plain RoundError, and one of those below is enough for it; a plain StoreError is raised.
    assert missing(every - {key(RoundError)}) == []
    assert missing(every - {key(StoreError)}) == [StoreError]
    assert set(missing([])) == set(tree())


def test_an_error_counts_when_the_project_makes_it() -> None:
    recorder = Recorder()
    recorder.start()
    try:
        ModelError("made", "by a test")
        with pytest.raises(ModelFormatError):
            read_model(b"no model")
    finally:
        recorder.stop()
    assert recorder.seen == {key(ModelFormatError)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a test file that makes the project raise a FrameError, and makes a FleetError itself."""
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = .\n")
    (tmp_path / "test_it.py").write_text(RAISES)
    return tmp_path


def session(folder: Path, *options: str) -> tuple[int, str]:
    """Exit status and output of a pytest of its own that has the plugin."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.errors_raised", "-p", "no:cacheprovider"]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_whole_run_fails_and_names_what_no_test_raised(project: Path, options: tuple[str, ...]) -> None:
    status, said = session(project, *options)
    assert status == 1, said
    assert "2 passed, 1 error" in said
    line = next(line for line in said.splitlines() if "no test makes the project raise" in line)
    assert "FleetError (420)" in line
    assert "UnknownMessage (231)" in line
    assert "FrameError" not in line
    assert "LinkError" not in line


@pytest.mark.parametrize(
    "options",
    [("-k", "raises"), ("test_it.py",), ("--ignore", "other"), ("--deselect", "test_other.py")],
    ids=" ".join,
)
def test_a_run_of_some_tests_is_not_judged(project: Path, options: tuple[str, ...]) -> None:
    status, said = session(project, *options)
    assert status == 0, said
