"""The committed corpora as tests: each input once, in C under the sanitizers, in Python as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.fuzz import build, python
from tests.fuzz.merge import BYTES_MOST, CORPUS
from tests.fuzz.seeds import SIZE_MOST, TARGETS


def files(target: str) -> list[Path]:
    """The inputs of a target, in order."""
    return sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_a_corpus_is_there_and_small(target: str) -> None:
    sizes = [path.stat().st_size for path in files(target)]
    assert len(sizes) > 20
    assert sum(sizes) <= BYTES_MOST
    assert max(sizes) <= SIZE_MOST


@pytest.mark.parametrize("name", build.TARGETS)
def test_the_c_targets_run_their_corpus(name: str) -> None:
    program = build.build(name, replay=True)
    done = subprocess.run([program, CORPUS / f"c-{name}"], capture_output=True, text=True)
    assert done.returncode == 0, f"repeat: {program} FILE, with the last file of\n{done.stderr[-6000:]}"
    assert done.stdout == f"{len(files(f'c-{name}'))} inputs\n"


@pytest.mark.parametrize("name", python.TARGETS)
def test_the_python_targets_run_their_corpus(name: str) -> None:
    folder = CORPUS / f"py-{name}"
    assert python.replay(name, [folder]) == len(files(folder.name))
