"""`kilofed demo`, whole: what a stranger sees after `make demo`, and the figures it must reach."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kilofed.demo import FLEET
from kilofed.rounds.records import Kind
from kilofed.samples import digits_test
from kilofed.store import open_run
from kilofed_tools import evaluate

KILOFED = [sys.executable, "-c", "from kilofed.cli import main; main()"]


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*KILOFED, "demo", "--out", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def report(folder: Path) -> Any:
    done = subprocess.run(
        [*KILOFED, "report", str(folder), "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def learnt(figures: Any) -> list[Any]:
    """What does not depend on the clock or the line."""
    names = ("round", "taken", "samples", "loss", "accuracy", "held_out", "own")
    return [[row[name] for name in names] for row in figures["round_table"]]


def processes_of(folder: Path) -> list[str]:
    """Command lines that name `folder`, this process's and its parents' aside."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) not in (os.getpid(), os.getppid()):
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in command:
                found.append(command.replace(b"\0", b" ").decode())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The demo's folder after a run of its own, and what it said."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    done = demo(folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_demo_reaches_its_figures(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    figures = report(folder)
    assert (figures["rounds"], figures["devices"]) == (20, 6)
    accuracy = figures["accuracy"]
    assert accuracy["federated"] >= 0.93
    assert accuracy["federated"] >= accuracy["alone"] + 0.15
    assert abs(accuracy["exported"] - accuracy["federated"]) <= 0.002
    assert accuracy["central"] >= 0.9
    assert accuracy["personal"] >= figures["held_out"]["federated"] - 0.05
    assert 346 < figures["bytes_per_device_round"]["up"] <= 800
    assert 376 < figures["bytes_per_device_round"]["down"] <= 900
    for row in figures["round_table"]:
        assert row["taken"] == row["cohort"] == 6, row["dropped"]
        assert row["up"] <= 800
        assert row["down"] <= 900


def test_the_exported_file_is_a_model_for_any_runtime(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = finished
    test = digits_test()
    figures = report(folder)
    model = (folder / "model.tflite").read_bytes()
    assert evaluate.accuracy(model, test.inputs, test.labels) == figures["accuracy"]["exported"]


def test_every_kind_of_device_took_part(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    rows = {d["name"]: d for d in report(folder)["device_table"]}
    assert {name: (d["board"], d["samples"] + d["held_out"]) for name, d in rows.items()} == {
        name: (board, samples) for name, board, samples in FLEET
    }
    assert rows["microbit"]["samples"] >= 64
    assert all(d["taken"] == 20 for d in rows.values())
    with open_run(folder) as run:
        (personal,) = run.rounds(Kind.PERSONAL)
    assert len(personal.taken) == 6


def test_what_a_person_sees_in_a_pipe(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    assert "\x1b" not in done.stdout + done.stderr
    assert len(re.findall(r"(?m)^round +\d+/20: global [\d.]+ %", done.stderr)) == 20
    assert "personal heads: " in done.stderr
    for line in ("each device alone", "federated", "federated, then personalised", "all data in one place"):
        assert line in done.stdout
    assert f"model:  {folder / 'model.tflite'}" in done.stdout
    assert f"run:    {folder}" in done.stdout


def test_it_leaves_no_process(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    assert processes_of(folder) == []


def test_the_next_demo_moves_a_finished_one_aside_and_repeats_its_figures(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = finished
    first = report(folder)
    done = demo(folder, "--json")
    assert done.returncode == 0, done.stderr
    moved = folder.with_name("demo-1")
    assert report(moved)["round_table"] == first["round_table"]
    steps = [json.loads(line) for line in done.stderr.splitlines()]
    assert any(moved.name in step["text"] for step in steps if step["event"] == "Step")
    second = json.loads(done.stdout)
    assert second["accuracy"] == first["accuracy"]
    assert learnt(second) == learnt(first), "the same run gives the same bytes"


def test_ctrl_c_and_kill_9_are_gone_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    seen = 0
    for how, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        command = [*KILOFED, "demo", "--out", str(folder), "--rounds", "14"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                found = re.match(r"round +(\d+)/14", line)
                if found and int(found[1]) >= seen + 2:
                    break
            process.send_signal(how)
            _, rest = process.communicate(timeout=30)
        assert process.returncode == status, rest
        assert "Traceback" not in rest
        if how is signal.SIGINT:
            assert "The same command goes on from the last round" in rest
        deadline = time.monotonic() + 5
        while processes_of(folder):
            assert time.monotonic() < deadline, processes_of(folder)
            time.sleep(0.05)
        with open_run(folder) as run:
            assert run.last_round >= seen + 2
            seen = run.last_round
    done = demo(folder, "--rounds", "14")
    assert done.returncode == 0, done.stderr
    assert f"going on with the run in {folder}, after round {seen} of 14" in done.stderr
    figures = report(folder)
    assert [row["round"] for row in figures["round_table"]] == list(range(1, 15))
    assert figures["accuracy"]["federated"] > 0.9


def test_native_processes_in_the_boards_places_learn_the_same(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = demo(tmp_path / "demo", "--native")
    assert done.returncode == 0, done.stderr
    figures, emulated = report(tmp_path / "demo"), report(finished[0])
    assert {d["board"] for d in figures["device_table"]} == {"posix", "pi"}
    assert learnt(figures) == learnt(emulated), "x86 and Cortex-M give the same bytes"
    assert figures["accuracy"] == emulated["accuracy"]
    assert processes_of(tmp_path) == []
