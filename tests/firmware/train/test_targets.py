"""The vector rounds as machine code of the boards: Cortex-M0, M3, M4F and M7 in QEMU give the vectors' bytes.

Run with -s to see the instructions a multiply-accumulate (an epoch has 2 C F of them a sample: forward and
backward)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT
from .targets import TARGETS, TOOLS, build_image, expected_update, macs, run_image, small_board_round

CASES: list[dict[str, Any]] = json.loads((ROOT / "tests/vectors/training.json").read_text())["rounds"]
INSTRUCTIONS_PER_MAC = 20  # of the 10 x 32 training on a Cortex-M0


@pytest.mark.emulated
@pytest.mark.parametrize("name", TARGETS)
def test_the_vectors_on_a_board(tmp_path: Path, name: str) -> None:
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    target = TARGETS[name]
    cases = [small_board_round(), *CASES]
    results = run_image(build_image(tmp_path, target, cases), target)
    assert len(results) == len(cases), results
    for done, case in zip(results, cases, strict=True):
        assert done.update == expected_update(case)
        assert done.personal == case.get("personal", done.personal)
    instructions = results[0].instructions
    per_mac = instructions / macs(cases[0])
    print(f"{name}: {instructions / 1e3:.0f} thousand instructions, {per_mac:.2f} a multiply-accumulate")
    assert per_mac < INSTRUCTIONS_PER_MAC
