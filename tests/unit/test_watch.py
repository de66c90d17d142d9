"""Following a run from outside, while another process writes, and after it has ended, well or badly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.memory_fleet import model_bytes
from tests.report_run import HOSTILE, NAMES, device_id, made_record, make_run

from kilofed.cli import run as kilofed
from kilofed.errors import RunFolderError
from kilofed.live import FILE, Live, read_live
from kilofed.rounds.config import RunConfig
from kilofed.rounds.records import (
    DeviceChanged,
    DeviceDropped,
    DeviceRow,
    DeviceView,
    Kind,
    Note,
    Phase,
    RoundEnded,
    RoundStarted,
    RunEnded,
    RunEvent,
    RunStarted,
)
from kilofed.store import LOCK, Run, create_run, open_run, runner
from kilofed.watch import follow

VIEW = DeviceView(device_id(0), "anna", "microbit", Phase.TRAINING, 64, 16, 80, 0.5, 1.25, 900, 12_345)


def never(seconds: float) -> None:
    raise AssertionError("there was nothing to wait for")


# ---- runs that are over --------------------------------------------------------------------------


def test_a_finished_run_is_told_at_once_and_in_order(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    events = list(follow(folder, sleep=never))
    assert isinstance(events[0], RunStarted)
    assert (events[0].expected, events[0].classes, events[0].features) == (3, 10, 32)
    records = [e.record for e in events if isinstance(e, RoundEnded)]
    with open_run(folder) as run:
        assert records == [*run.rounds(), *run.rounds(Kind.PERSONAL)]
    dropped = [e for e in events if isinstance(e, DeviceDropped)]
    assert [(d.number, d.name) for d in dropped] == [(3, "bert"), (6, "bert")]
    for drop in dropped:
        end = next(e for e in events if isinstance(e, RoundEnded) and e.record.number == drop.number)
        assert events.index(drop) < events.index(end)
    assert [(n.device, n.text) for n in events if isinstance(n, Note)] == [
        ("anna", "boot <garbage> & noise"),
        ("", "turned away 1234 (x), it is not registered"),
    ]
    views = {e.view.name: e.view for e in events if isinstance(e, DeviceChanged)}
    assert set(views) == set(NAMES)
    anna = [d for r in records for d in r.devices if d.name == "anna"]
    assert (views["anna"].bytes_up, views["anna"].bytes_down) == (
        sum(d.bytes_up for d in anna),
        sum(d.bytes_down for d in anna),
    )
    assert views["anna"].phase is Phase.DONE
    assert views[HOSTILE].loss == records[-1].devices[0].loss
    assert events[-1] == RunEnded(7, sum(r.seconds for r in records))


def test_a_run_that_was_stopped_is_said_to_be(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=3, finished=False)
    with open_run(folder, write=True) as run:
        run.set_config(RunConfig(rounds=9, seed=11))
    events = list(follow(folder, sleep=never))
    assert isinstance(events[-1], Note)
    assert events[-1].text.startswith("stopped after round 3 of 9")
    assert not any(isinstance(e, RunEnded) for e in events)
    dropped = next(e.view for e in events if isinstance(e, DeviceChanged) and e.view.name == "bert")
    assert (dropped.phase, dropped.progress) == (Phase.DROPPED, 0.0)
    assert "quorum" in dropped.reason


def test_a_run_without_a_laboratory_ends_with_its_personal_round(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=2, laboratory=False)
    with open_run(folder, write=True) as run:
        run.put_figures({"finished": -1})
    assert isinstance(list(follow(folder, sleep=never))[-1], RunEnded)


def test_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        list(follow(tmp_path))


# ---- a run that goes on --------------------------------------------------------------------------


@pytest.fixture
def going(tmp_path: Path) -> Iterator[Run]:
    config = RunConfig(rounds=2, seed=11, personal_epochs=0)
    with create_run(tmp_path / "run", config=config, model=model_bytes(), model_hash="ab" * 8) as run:
        yield run


def test_what_is_written_meanwhile_comes_with_the_next_look(going: Run) -> None:
    live = Live(going.folder)
    live(RunStarted(going.config, 0, 2, 10, 32))
    live.flush()
    steps = [
        lambda: live(DeviceChanged(VIEW)),
        lambda: live(RoundStarted(1, Kind.TRAIN, ("anna",))),
        lambda: going.commit(made_record(1), master=b"m", model=model_bytes()),
        lambda: going.note("boot", device=device_id(0)),
        lambda: None,
        lambda: going.commit(made_record(2), master=b"m", model=model_bytes()),
        lambda: going.put_figures({"finished": 2}),
    ]
    told: list[list[RunEvent]] = [[]]

    def sleep(seconds: float) -> None:
        steps.pop(0)()
        live.flush()
        told.append([])

    for event in follow(going.folder, sleep=sleep):
        told[-1].append(event)
    assert not steps
    kinds = [[type(e).__name__ for e in events] for events in told]
    assert kinds == [
        ["RunStarted"],
        ["DeviceChanged"],
        ["RoundStarted"],
        ["RoundEnded"],
        ["Note"],
        [],
        ["RoundEnded"],
        ["RunEnded"],
    ]
    assert told[0] == [RunStarted(going.config, 0, 2, 10, 32)]
    assert told[1] == [DeviceChanged(VIEW)]
    assert told[2] == [RoundStarted(1, Kind.TRAIN, ("anna",))]


def test_a_round_that_is_over_does_not_begin_again(going: Run) -> None:
    live = Live(going.folder)
    live(RoundStarted(1, Kind.TRAIN, ("anna",)))
    live.flush()
    going.commit(made_record(1), master=b"m", model=model_bytes())
    going.put_figures({"finished": 2})
    events = list(follow(going.folder, sleep=never))
    assert not any(isinstance(e, RoundStarted) for e in events)


def test_a_watcher_keeps_nobody_from_writing(going: Run) -> None:
    events = follow(going.folder, sleep=lambda seconds: None)
    next(events)
    for number in (1, 2):
        going.commit(made_record(number), master=b"m", model=model_bytes())
    before = {p.name: p.stat().st_size for p in going.folder.iterdir() if p.name != "run.sqlite-shm"}
    going.put_figures({"finished": 0})
    assert isinstance(next(e for e in events if isinstance(e, RoundEnded)), RoundEnded)
    events.close()  # type: ignore[attr-defined]
    assert set(before) == {p.name for p in going.folder.iterdir() if p.name != "run.sqlite-shm"}


_WRITER = """
import sys, time
from pathlib import Path
from tests.memory_fleet import model_bytes
from tests.report_run import made_record
from kilofed.rounds.config import RunConfig
from kilofed.store import create_run
config = RunConfig(rounds=40, seed=11, personal_epochs=0)
with create_run(Path(sys.argv[1]), config=config, model=model_bytes(), model_hash="ab" * 8) as run:
    print("there", flush=True)
    for number in range(1, 41):
        run.commit(made_record(number), master=b"m", model=model_bytes())
        time.sleep(float(sys.argv[2]))
    run.put_figures({"finished": 40})
"""


def _writer(folder: Path, pause: float) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder), str(pause)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def test_every_round_of_another_process_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _writer(tmp_path / "run", 0.02) as process:
        assert kilofed(["watch", str(tmp_path / "run"), "--json"]) == 0
        assert process.wait(timeout=30) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rounds = [e["record"]["number"] for e in events if e["event"] == "RoundEnded"]
    assert rounds == list(range(1, 41))
    assert events[-1]["event"] == "RunEnded"
    assert all(
        "update" not in d for e in events if e["event"] == "RoundEnded" for d in e["record"]["devices"]
    )


def test_watching_ends_when_the_run_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _writer(tmp_path / "run", 0.05) as process:
        for _ in range(6000):
            with open_run(tmp_path / "run") as run:
                if run.last_round >= 2:
                    break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kilofed(["watch", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "starting: 40 rounds, 0 devices"
    assert "stopped after round" in lines[-1]
    assert any(line.startswith("round  1/40") for line in lines)


# ---- what happens inside a round -----------------------------------------------------------------


def test_the_moment_comes_back_as_it_was(tmp_path: Path) -> None:
    live = Live(tmp_path)
    live(RunStarted(RunConfig(), 0, 4, 10, 32))
    live(RoundStarted(3, Kind.PERSONAL, ("anna", HOSTILE)))
    live(DeviceChanged(VIEW))
    live.flush()
    moment = read_live(tmp_path)
    assert moment is not None
    assert moment.expected == 4
    assert moment.round == RoundStarted(3, Kind.PERSONAL, ("anna", HOSTILE))
    assert moment.devices == (VIEW,)
    live(RunEnded(3, 1.0))
    live.flush()
    again = read_live(tmp_path)
    assert again is not None
    assert again.round is None


def test_a_moment_is_written_only_when_something_changed(tmp_path: Path) -> None:
    live = Live(tmp_path)
    live.flush()
    assert (tmp_path / FILE).is_file(), "what an earlier process left is replaced"
    (tmp_path / FILE).unlink()
    live(Note("nothing about a device"))
    live.flush()
    assert not (tmp_path / FILE).exists()


def test_a_moment_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    live = Live(tmp_path / "later")
    live(DeviceChanged(VIEW))
    live.flush()
    (tmp_path / "later").mkdir()
    live.flush()
    assert read_live(tmp_path / "later") is not None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"round": null, "expected": 1, "devices": [{"phase": "dancing"}]}',
        '{"round": null, "expected": 1, "devices": [{"phase": "idle", "new_field": 1}]}',
        '{"round": {"number": 1}, "expected": 1, "devices": []}',
        '{"round": 7, "expected": 1, "devices": []}',
    ],
)
def test_a_moment_of_another_version_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert read_live(tmp_path) is None


# ---- who runs it ---------------------------------------------------------------------------------


def test_the_runner_is_known_while_it_runs(tmp_path: Path, going: Run) -> None:
    assert runner(going.folder) == os.getpid()
    going.close()
    assert runner(going.folder) is None, "this process lives, but runs it no longer"
    for content in ("", "x", "-1", "0", "99999999999999999999", str(2**22 + 1)):
        (tmp_path / LOCK).write_text(content)
        assert runner(tmp_path) is None, content
    assert runner(tmp_path / "nowhere") is None


def test_the_row_of_a_device_is_told_when_it_changes(going: Run) -> None:
    row = DeviceRow(device_id(0), "anna", "microbit", "0.1.0", 80, 64, 16, 1.0)
    going.put_device(row)
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            going.put_figures({"finished": 2})

    views = [e.view for e in follow(going.folder, sleep=sleep) if isinstance(e, DeviceChanged)]
    assert [(v.name, v.phase, v.samples) for v in views] == [("anna", Phase.ABSENT, 64)]
