"""host/examples/digits.py, the demo in twenty lines of the public API, run as its reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kilofed

EXAMPLE = Path(__file__).resolve().parents[2] / "host" / "examples" / "digits.py"


@pytest.mark.slow
def test_the_demo_in_twenty_lines_runs_and_learns(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, EXAMPLE, folder], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rounds = re.findall(r"(?m)^round (\d+): ([\d.]+) %, 6 devices$", done.stdout)
    assert [int(number) for number, _ in rounds] == list(range(1, 21))
    accuracy = kilofed.read_report(folder)["accuracy"]
    assert accuracy["federated"] is not None and accuracy["alone"] is not None
    assert accuracy["federated"] >= 0.93
    assert accuracy["federated"] >= accuracy["alone"] + 0.1
    assert f"together {accuracy['federated']}" in done.stdout
    assert kilofed.inspect((folder / "model.tflite").read_bytes(), boards=["microbit"]).fits[0].fits
