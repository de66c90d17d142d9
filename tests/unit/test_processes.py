"""Child processes: they end with their parent, however it ends, and say why they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kilofed.errors import BoardError
from kilofed.processes import Process

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_leaving_the_context_ends_it(tmp_path: Path) -> None:
    with Process(SLEEP, log=tmp_path / "log") as process:
        process.start()
        pid = process.pid
        assert process.running
        process.check()
    assert not alive(pid)
    process.stop()


def test_a_process_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilofed.processes.STOP_SECONDS", 0.2)
    stubborn = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    with Process([sys.executable, "-c", stubborn], log=tmp_path / "log") as process:
        process.start()
        while "deaf" not in (tmp_path / "log").read_text():
            time.sleep(0.01)
        pid = process.pid
    assert not alive(pid)


def test_one_that_ended_says_what_it_printed_last(tmp_path: Path) -> None:
    with Process(
        [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"], log=tmp_path / "a" / "log"
    ) as p:
        p.start()
        while p.running:
            time.sleep(0.01)
        with pytest.raises(BoardError, match=r"ended with status 3 \(no such model\)"):
            p.check()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    process = Process([str(tmp_path / "nothing")], log=tmp_path / "log")
    with pytest.raises(BoardError, match="cannot be run"):
        process.start()
    process.stop()
    process.check()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from kilofed.processes import Process\n"
        f"p = Process({SLEEP!r}, log=Path(sys.argv[1])); p.start(); print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until_gone(child)


def test_a_terminals_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    with Process(SLEEP, log=tmp_path / "log") as process:
        process.start()
        assert os.getsid(process.pid) != os.getsid(0)
