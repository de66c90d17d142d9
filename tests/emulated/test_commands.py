"""The commands a person with boards uses, one after the other, against emulated boards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kilofed.fleet import Fleet

KILOFED = [sys.executable, "-c", "from kilofed.cli import main; main()"]


def kilofed(*arguments: object, status: int = 0) -> Any:
    """A command's stdout (as JSON when --json was asked for); stderr when it was to fail."""
    command = [*KILOFED, *(str(a) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == status, done.stderr
    if status:
        assert "Traceback" not in done.stderr
        return done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


@contextmanager
def emulate(*arguments: object) -> Iterator[tuple[list[dict[str, str]], subprocess.Popen[str]]]:
    """Emulated boards as `kilofed emulate --json` prints them, until the block ends."""
    command = [*KILOFED, "emulate", "--json", *(str(a) for a in arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line == "]\n":
                break
        assert text, process.communicate()[1]
        try:
            yield json.loads(text), process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                # Leaving Popen's own block would wait without end for a process that does not stop.
                timer = threading.Timer(20, process.kill)
                timer.start()
                _, rest = process.communicate()
                timer.cancel()
                assert process.returncode == 0, rest


def test_from_blank_boards_to_a_model(tmp_path: Path) -> None:
    fleet, folder, run = tmp_path / "fleet.sqlite", tmp_path / "boards", tmp_path / "run"
    options = ("--board", "mps2-an385", "--count", 2, "--folder", folder, "--samples", 60)
    with emulate(*options) as (boards, process):
        assert [b["state"] for b in boards] == ["blank", "blank"]
        options_of = ("--target", boards[0]["target"], "--fleet", fleet, "--name", "carl")
        wrong = kilofed("flash", "--board", "microbit", *options_of, status=1)
        assert "error 350" in wrong
        assert "cortex-m3" in wrong
        for board, name in zip(boards, ("anna", "bert"), strict=True):
            flash = ("flash", "--board", "mps2-an385", "--target", board["target"], "--fleet", fleet)
            flashed = kilofed(*flash, "--name", name, "--json")
            assert flashed["name"] == name
            assert flashed["bytes"] > 40_000
        refused = kilofed(*flash, "--name", "anna", status=1)
        assert "error 420: a device named anna is registered already" in refused
        assert [d["name"] for d in kilofed("devices", "--fleet", fleet, "--json")] == ["anna", "bert"]

        ports = [part for board in boards for part in ("--port", board["port"])]
        figures = kilofed(
            "run", *ports, "--fleet", fleet, "--out", run, "--rounds", 3, "--personal-epochs", 1, "--json"
        )
        assert (figures["rounds"], figures["devices"]) == (3, 2)
        assert {d["name"] for d in figures["device_table"]} == {"anna", "bert"}
        # A real host has no test set and no samples to train on alone: these figures stay empty.
        assert figures["accuracy"]["federated"] is None
        assert figures["held_out"]["federated"] > 0.5
        # emulate looks now and then whether somebody flashed a board, to keep its flash
        deadline = time.monotonic() + 5
        while not all((folder / b["name"] / "image.bin").is_file() for b in boards):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with Fleet(fleet) as register:
            assert all(d.last_seen is not None for d in register.all())
            assert all(d.key.hex() not in json.dumps(figures) for d in register.all())
        assert process.poll() is None

    with emulate(*options) as (boards, _):
        assert [b["state"] for b in boards] == ["flashed", "flashed"]
        ports = [part for board in boards for part in ("--port", board["port"])]
        more = kilofed(
            "run", *ports, "--fleet", fleet, "--out", run, "--rounds", 5, "--personal-epochs", 0, "--json"
        )
        assert more["rounds"] == 5

    # A board the register does not know is turned away by name.
    with emulate(*options) as (boards, _):
        kilofed("devices", "--fleet", fleet, "--remove", "bert")
        ports = [part for board in boards for part in ("--port", board["port"])]
        alone = kilofed(
            "run",
            *ports,
            "--fleet",
            fleet,
            "--out",
            tmp_path / "second",
            "--rounds",
            1,
            "--expect",
            1,
            "--json",
        )
        assert [d["name"] for d in alone["device_table"]] == ["anna"]


def test_a_port_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = kilofed("run", "--port", "/dev/ttyNONE", "--out", tmp_path / "run", status=1)
    assert "error 211: there is no port /dev/ttyNONE" in error


@pytest.mark.parametrize("rounds", [2])
def test_emulated_boards_that_run_starts_itself(tmp_path: Path, rounds: int) -> None:
    options = ("--emulate", 2, "--board", "mps2-an500", "--samples", 50, "--rounds", rounds)
    figures = kilofed("run", *options, "--out", tmp_path / "run", "--json")
    assert (figures["rounds"], figures["devices"]) == (rounds, 2)
    assert figures["accuracy"]["federated"] is not None
    assert figures["accuracy"]["alone"] is not None
    again = kilofed("run", *options, "--out", tmp_path / "run", "--json")
    assert again == figures, "a run that is done is reported again"
