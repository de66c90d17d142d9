"""A board's link as `kilofed monitor` shows it: alone on its port, and in a run of another process."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from board_line import DIGITS

from kilofed.boards import Emulator, Identity, build, catalogue
from kilofed.boards.flash import program
from kilofed.capture import read_capture
from kilofed.cli import run as kilofed
from kilofed.fleet import Fleet, new_identity

KILOFED = [sys.executable, "-c", "from kilofed.cli import main; main()"]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_board_alone_is_opened_and_pinged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register, capture = tmp_path / "fleet.sqlite", tmp_path / "board.pcapng"
    board = catalogue.load("mps2-an386")
    device = new_identity("kitchen", board.name)
    with Fleet(register) as fleet, Emulator(board, tmp_path / "board") as emulated:
        fleet.add(device)
        emulated.flash(build(board, DIGITS), Identity(device.id, device.key, device.name))
        options = ["--fleet", str(register), "--seconds", "6", "--json", "--capture", str(capture)]
        assert kilofed(["monitor", emulated.url, *options]) == 0
        seen = objects(capsys.readouterr().out)
        names = [one.get("message", one.get("kind")) for one in seen[:-1]]
        assert {"hello", "welcome", "info", "ping", "status", "bye"} <= set(names)
        figures = seen[-1]["figures"]
        assert figures["sessions"] >= 1 and figures["board"] == "mps2-an386" and figures["rtt"] > 0
        assert device.key.hex() not in json.dumps(seen)
        assert device.key not in capture.read_bytes()
        assert sum(len(p.data) for p in read_capture(capture) if p.up) == figures["bytes_up"]

        assert kilofed(["doctor", "--port", emulated.url, "--fleet", str(register)]) == 0
        assert f"mps2-an386 {device.id.hex()}" in capsys.readouterr().out

        # Without its key the board opens no session, and the monitor says why.
        assert kilofed(["monitor", emulated.url, "--fleet", str(tmp_path / "none.sqlite"), "--json",
                        "--seconds", "4"]) == 0  # fmt: skip
        seen = objects(capsys.readouterr().out)
        assert "refuse" in {one.get("message") for one in seen}
        assert seen[-1]["figures"]["sessions"] == 0


def test_boot_text_is_shown_although_nothing_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = catalogue.load("microbit")
    with Emulator(board, tmp_path / "board") as emulated:
        emulated.start()
        program(board, build(board, DIGITS).segments, emulated.gdb)  # and no settings page
        assert kilofed(["monitor", emulated.url, "--seconds", "4"]) == 0
        out = capsys.readouterr().out
        assert kilofed(["doctor", "--port", emulated.url]) == 1
        assert "without its settings page" in capsys.readouterr().out
    assert "stray bytes (nothing ends it): " in out and "no settings page" in out
    assert "down probe" in out


def test_a_run_is_watched_from_another_process_live_on_a_terminal_and_in_a_pipe(tmp_path: Path) -> None:
    run, capture = tmp_path / "run", tmp_path / "lines.pcapng"
    started = [*KILOFED, "run", "--emulate", "1", "--board", "mps2-an386", "--samples", "40"]
    started += ["--rounds", "3", "--out", str(run), "--capture", str(capture)]
    runs = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not capture.exists():
            assert runs.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        piped = subprocess.Popen([*KILOFED, "monitor", str(run)], stdout=subprocess.PIPE, text=True)
        leader, follower = pty.openpty()
        live = subprocess.Popen([*KILOFED, "monitor", str(run)], stdout=follower, stderr=follower,
                                env={**os.environ, "TERM": "xterm", "COLUMNS": "160"})  # fmt: skip
        os.close(follower)
        drawn = bytearray()
        try:
            while data := os.read(leader, 65536):
                drawn += data
        except OSError:
            pass  # the terminal's other end has gone
        os.close(leader)
        text, _ = piped.communicate(timeout=120)
        assert live.wait(60) == 0 and piped.returncode == 0 and runs.wait(120) == 0
    finally:
        runs.kill()
    for word in ("hello", "chunk", "the hash is right", "train", "result", "commit", "bye"):
        assert word in text
        assert word.encode() in drawn
    assert b"RTT ms" in drawn and "round trip" in text.splitlines()[-1]


def test_what_cannot_be_watched_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    done = subprocess.run([*KILOFED, "run", "--native", "1", "--rounds", "1", "--out", str(run)],
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert kilofed(["monitor", str(run)]) == 1
    assert "--capture FILE" in capsys.readouterr().err
    assert kilofed(["monitor", str(tmp_path)]) == 2
    assert kilofed(["monitor", str(tmp_path / "ttyNone")]) == 1
    assert "no port" in capsys.readouterr().err
