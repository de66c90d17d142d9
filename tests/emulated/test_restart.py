"""Power cuts, kills and Ctrl-C in the middle of a run.

Nothing committed is lost, nothing hangs, no process stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.link_tap import Tap

from kilofed.boards import settings
from kilofed.errors import BoardError
from kilofed.experiment import make_places
from kilofed.federation import federate, resume_or_create
from kilofed.fleet import Fleet
from kilofed.laboratory import PI, Laboratory, Place
from kilofed.link.errors import LinkError
from kilofed.link.messages import encode
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.rounds.records import Note, RoundEnded, RoundStarted, RunEvent
from kilofed.samples import digits_model_path, digits_pool
from kilofed.store import Run, open_run

CONFIG = RunConfig(rounds=6, epochs=3, personal_epochs=0, deadlines=Deadlines(gather=30, round=60, rejoin=20))


def qemus(folder: Path) -> list[int]:
    """The QEMU processes whose boards lie under `folder`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system-arm" in command and os.fsencode(folder) in command:
                found.append(int(process.name))
    return found


class World:
    """A microbit and an M4F board, and a run over them."""

    def __init__(self, folder: Path, config: RunConfig = CONFIG) -> None:
        self.folder = folder
        self.config = config
        self.events: list[RunEvent] = []
        self.captured: list[tuple[str, bool, bytes]] = []
        self.places = make_places(digits_pool(), ["microbit", "mps2-an386"], samples=60)

    def run(self, *act: object, capture: bool = False) -> Run:
        """Runs to the end; `act(laboratory, event)` is called with every event. Returns the run, open."""
        model = digits_model_path()
        run, _ = resume_or_create(self.folder, config=self.config, model=model.read_bytes())
        with (
            Fleet(self.folder / "fleet.sqlite") as fleet,
            Laboratory(
                self.folder / "devices", self.places, model=model, fleet=fleet, seed=1, say=lambda text: None
            ) as laboratory,
        ):
            laboratory.prepare()
            for place in self.places[:2]:
                page = (laboratory.boards[place.name].folder / "settings.bin").read_bytes()
                assert settings.decode(page).id == fleet.find(place.name).id

            def observe(event: RunEvent) -> None:
                self.events.append(event)
                for function in act:
                    function(laboratory, event)  # type: ignore[operator]

            asyncio.run(
                asyncio.wait_for(
                    federate(
                        run,
                        expected=len(self.places),
                        ports=laboratory.ports,
                        listen=("127.0.0.1", 0) if laboratory.has_callers else None,
                        on_listening=laboratory.start_callers,
                        fleet=fleet,
                        observers=[observe],
                        watch=laboratory.check,
                        capture=(lambda *what: self.captured.append(what)) if capture else None,
                    ),
                    120,
                )
            )
        return run


@pytest.mark.parametrize("name", ["microbit-1", "mps2-an386-1"])
def test_a_board_that_is_cut_off_in_mid_round_comes_back_and_counts(tmp_path: Path, name: str) -> None:
    world = World(tmp_path / "run")

    def cut(laboratory: Laboratory, event: RunEvent) -> None:
        if isinstance(event, RoundStarted) and event.number == 3:
            laboratory.boards[name].restart()

    with world.run(cut) as run:
        rounds = run.rounds()
    assert [r.number for r in rounds] == [1, 2, 3, 4, 5, 6]
    assert all(len(r.taken) == 2 for r in rounds), [[d.reason for d in r.dropped] for r in rounds]
    assert rounds[2].seconds > 2 * rounds[1].seconds, "the round waited for the board"


def test_devices_killed_from_outside_are_started_again(tmp_path: Path) -> None:
    """As if power was cut by somebody else: the boards get their flash back, the process its identity."""
    world = World(tmp_path / "run")
    world.places.append(Place("pi", PI, world.places[1].samples))
    killed: list[int] = []
    said: list[str] = []

    def cut(laboratory: Laboratory, event: RunEvent) -> None:
        if isinstance(event, RoundStarted) and event.number == 3:
            laboratory._say = said.append
            killed.extend([laboratory.boards["microbit-1"].pid, laboratory.processes["pi"].pid])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with world.run(cut) as run:
        rounds = run.rounds()
    assert len(killed) == 2
    assert all(len(r.taken) == 3 for r in rounds), [[d.reason for d in r.dropped] for r in rounds]
    assert sorted(text.split()[0] for text in said if "is started again" in text) == ["microbit-1", "pi"]


def test_a_process_that_cannot_begin_ends_the_run_with_its_words(tmp_path: Path) -> None:
    world = World(tmp_path / "run")
    world.places.append(Place("pi", PI, world.places[1].samples))

    def spoil(laboratory: Laboratory, event: RunEvent) -> None:
        process = laboratory.processes.get("pi")
        if process is not None and not process.command[-1].endswith("nothing"):
            process.kill()
            process.command[-1] = str(tmp_path / "nothing")
            process.start()

    with pytest.raises(BoardError, match="nothing"):
        world.run(spoil)


def test_a_board_that_stays_off_costs_its_own_contribution(tmp_path: Path) -> None:
    config = RunConfig(
        rounds=4, epochs=3, personal_epochs=0, deadlines=Deadlines(gather=30, round=60, rejoin=1)
    )
    world = World(tmp_path / "run", config)

    def cut(laboratory: Laboratory, event: RunEvent) -> None:
        if isinstance(event, RoundStarted) and event.number == 2:
            laboratory.boards["microbit-1"].kill()
        if isinstance(event, RoundEnded) and event.record.number == 3:
            laboratory.boards["microbit-1"].start()

    with world.run(cut) as run:
        rounds = run.rounds()
    assert [len(r.taken) for r in rounds[:3]] == [2, 1, 1]
    assert [d.name for d in rounds[1].dropped] == ["microbit-1"]
    assert "lost its session" in rounds[1].dropped[0].reason


def test_samples_never_cross_a_line(tmp_path: Path) -> None:
    world = World(tmp_path / "run", RunConfig(rounds=3, epochs=2, deadlines=Deadlines(gather=30)))
    world.run(capture=True).close()
    up = {
        name: b"".join(data for n, u, data in world.captured if n == name and u)
        for name, _, _ in world.captured
    }
    down = b"".join(data for _, u, data in world.captured if not u)
    assert len(up) == 2
    assert all(len(data) > 1000 for data in up.values())
    crossed = b"\0\0".join([*up.values(), down])
    # What the bytes mean to whoever holds the keys: that is where a sample would be found.
    with Fleet(world.folder / "fleet.sqlite") as fleet:
        keys = [device.key for device in fleet.all()]
    meant = b"\0\0".join(opened(world.captured, name, keys) for name in up)
    traffic = crossed + b"\0\0" + meant

    from kilofed_tools import evaluate

    model = digits_model_path().read_bytes()
    hidden = 0
    for place in world.places:
        rows = [row.tobytes() for row in place.samples.inputs]
        rows += [row.tobytes() for row in evaluate.features(model, place.samples.inputs)]
        for row in rows:
            # Eight bytes that could not be there by chance. A zero would be taken apart by the framing.
            for at in range(0, len(row) - 8, 4):
                piece = row[at : at + 8]
                if len(set(piece)) >= 5 and 0 not in piece:
                    hidden += 1
                    assert piece not in traffic, f"bytes {at} to {at + 8} of a sample of {place.name}"
    assert hidden > 1000
    # The same search finds what did cross.
    with open_run(world.folder) as run:
        update = next(d.update for d in run.rounds()[0].taken if d.name == "mps2-an386-1")
    assert update is not None
    pieces = [update[at : at + 8] for at in range(16, 300, 4)]
    assert any(piece in meant for piece in pieces if 0 not in piece)
    assert not any(piece in crossed for piece in pieces), "and it crossed encrypted"


def opened(captured: list[tuple[str, bool, bytes]], name: str, keys: list[bytes]) -> bytes:
    """The messages of one line, as bytes."""
    found = []
    for key in keys:
        tap, held, said = Tap(key), {True: b"", False: b""}, []
        for line, up, data in captured:
            if line == name:
                *pieces, held[up] = (held[up] + data).split(b"\0")
                for piece in pieces:
                    with contextlib.suppress(LinkError, AssertionError):
                        said.append(encode(tap.read(piece)))
        found.append(b"\0".join(said))
    return max(found, key=len)  # with another device's key only the clear messages are read


def command(folder: Path, rounds: int) -> list[str]:
    code = "from kilofed.cli import main; main()"
    options = (
        f"run --emulate 2 --board microbit --samples 40 --rounds {rounds} --epochs 1 --personal-epochs 0"
    )
    return [sys.executable, "-c", code, *options.split(), "--out", str(folder)]


def wait_for_round(process: subprocess.Popen[str], number: int) -> str:
    """Reads stderr until round `number` was announced; returns what was read."""
    assert process.stderr is not None
    read = ""
    for line in process.stderr:
        read += line
        found = re.match(r"round +(\d+)/", line)
        if found and int(found[1]) >= number:
            return read
    raise AssertionError(f"it ended before round {number}:\n{read}")


def wait_until_no_qemu(folder: Path) -> None:
    end = time.monotonic() + 5
    while qemus(folder):
        assert time.monotonic() < end, "a board outlived its host"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_host_that_is_stopped_goes_on_from_the_last_committed_round(
    tmp_path: Path, how: signal.Signals
) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        command(folder, 400), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_round(process, 4)
        assert len(qemus(folder)) == 2
        process.send_signal(how)
        out, rest = process.communicate(timeout=30)
    if how is signal.SIGKILL:
        assert process.returncode == -9
    else:
        assert process.returncode == 130, rest
        assert "The same command goes on from the last round" in rest
        assert "Traceback" not in rest
    assert out == ""
    wait_until_no_qemu(folder)
    with open_run(folder) as run:
        before = run.rounds()
    assert 4 <= len(before) < 400

    total = len(before) + 3
    done = subprocess.run(command(folder, total), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"after round {len(before)} of {total}" in done.stderr
    assert done.stderr.count("that was flashed before") == 2
    with open_run(folder) as run:
        after = run.rounds()
        assert after[: len(before)] == before
        assert [r.number for r in after] == list(range(1, total + 1))
        assert all(len(r.taken) == 2 for r in after)
        assert run.model_path.read_bytes() == run.model_of(total)
    wait_until_no_qemu(folder)


def test_a_second_host_is_turned_away(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        command(folder, 2000), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_round(process, 1)
        second = subprocess.run(command(folder, 2000), capture_output=True, text=True, timeout=60)
        report = subprocess.run(
            [sys.executable, "-c", "from kilofed.cli import main; main()", "report", str(folder), "--json"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert second.returncode == 1
    assert f"error 411: process {process.pid} is running the run" in second.stderr
    assert json.loads(report.stdout)["rounds"] >= 1


def test_a_board_of_another_run_is_left_out(tmp_path: Path) -> None:
    """A device whose model is not this run's is named, and the others go on."""
    world = World(tmp_path / "run")
    world.run().close()
    from kilofed_tools import heads

    model = bytearray(digits_model_path().read_bytes())
    model[heads.find_head(bytes(model)).places["weights"][0]] ^= 1
    (tmp_path / "other.tflite").write_bytes(model)
    run, _ = resume_or_create(tmp_path / "other", config=CONFIG, model=bytes(model))
    notes: list[str] = []

    def watch(event: RunEvent) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with (
        run,
        Fleet(world.folder / "fleet.sqlite") as fleet,
        Laboratory(
            world.folder / "devices",
            world.places,
            model=digits_model_path(),
            fleet=fleet,
            seed=1,
            say=lambda text: None,
        ) as laboratory,
    ):
        laboratory.prepare()
        from kilofed.errors import FleetMissingError

        with pytest.raises(FleetMissingError, match="0 of 2 devices came"):
            asyncio.run(federate(run, expected=2, ports=laboratory.ports, fleet=fleet, observers=[watch]))
    assert sum("flash it with this run's model" in note for note in notes) == 2
