"""Hosts that are killed, and places they cannot write to: no round is lost, and the next step is said."""

from __future__ import annotations

import asyncio
import contextlib
import grp  # noqa: F401, before rights are given up: then Python may not find it any more
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.faults.devices import Native
from tests.faults.replay import replay
from tests.faults.world import CONFIG, World, report_json, shards, undisturbed

from kilofed.errors import RunFolderError, RunLockedError
from kilofed.federation import resume_or_create
from kilofed.fleet import Fleet
from kilofed.link.errors import ConnectError, PortBusy, PortDenied
from kilofed.rounds.records import RoundRecord
from kilofed.samples import digits_model_path
from kilofed.store import open_run, runner
from kilofed.transports import tcp
from kilofed.transports.serial import open_serial

MODEL = digits_model_path()
PAIR = ("anna", "bert")
WAIT = 60.0  # seconds for a command to end


def command(folder: Path, port: int, rounds: int, fleet: Path) -> list[str]:
    """`kilofed run` over devices that live beside it, not under it."""
    return [
        sys.executable, "-c", "from kilofed.cli import main; main()", "run", "--out", str(folder),
        "--listen", f"127.0.0.1:{port}", "--expect", "2", "--rounds", str(rounds), "--fleet", str(fleet),
        "--epochs", str(CONFIG.epochs), "--batch", str(CONFIG.batch), "--lr", str(CONFIG.lr),
        "--personal-epochs", "0", "--seed", str(CONFIG.seed), "--deadline", "20",
    ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def pair(folder: Path, port: int) -> Iterator[Path]:
    """Two devices that go on whatever the host does, and connect to it again. Gives their register."""
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(Fleet(folder / "fleet.sqlite"))
        for name, samples in zip(PAIR, shards(16, 60), strict=False):
            device = Native(folder / "devices", name, samples)
            device.proxy.port = port  # no proxy: straight to the host
            device.register(fleet)
            stack.callback(device.close)
            device.start()
        yield fleet.path


def committed(folder: Path) -> list[RoundRecord]:
    if not (folder / "run.sqlite").is_file():
        return []
    with open_run(folder) as run:
        return run.rounds()


def wait_until(what: str, done: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """AssertionError with the end of the log when the process ends before, or WAIT has passed."""
    end = time.monotonic() + WAIT
    while not done():
        assert process.poll() is None, f"it ended before {what}: {log.read_text()[-500:]}"
        assert time.monotonic() < end, f"no {what} within {WAIT:g} s: {log.read_text()[-500:]}"
        time.sleep(0.002)


def kill_host(folder: Path, host: subprocess.Popen[bytes], log: Path, rounds: int, delay: float) -> bool:
    """kill -9, `delay` seconds after the run has this many rounds (-1: after the host holds the lock).

    Returns whether the host had a run open.
    """
    try:
        wait_until("lock", lambda: runner(folder) == host.pid, host, log)
        if rounds >= 0:
            wait_until("run", (folder / "run.sqlite").is_file, host, log)
            wait_until(f"round {rounds}", lambda: len(committed(folder)) >= rounds, host, log)
        time.sleep(delay)
        met = runner(folder) == host.pid and (folder / "run.sqlite").is_file()
    finally:
        host.kill()
        ended = host.wait()
    assert ended == -signal.SIGKILL, f"it had ended before: {log.read_text()[-500:]}"
    return met


def test_a_host_killed_at_ten_random_moments_loses_no_round_and_no_byte(tmp_path: Path) -> None:
    """Twice as soon as it holds the lock, then up to four rounds later; never while Python still starts."""
    seed = 3
    chance = random.Random(seed)
    folder, port, rounds = tmp_path / "run", free_port(), 40
    log = tmp_path / "host.log"
    met_open = in_rounds = 0
    with pair(tmp_path, port) as fleet:
        seen: list[RoundRecord] = []
        for kill in range(10):
            with log.open("wb") as output:
                host = subprocess.Popen(
                    command(folder, port, 10_000, fleet), stdout=subprocess.DEVNULL, stderr=output
                )
            at, delay = len(seen) + chance.randrange(4), chance.random() * 0.2
            met_open += kill_host(folder, host, log, *((-1, 0.0) if kill < 2 else (at, delay)))
            now = committed(folder)
            assert now[: len(seen)] == seen, f"seed {seed}: a committed round is gone or another"
            in_rounds += len(now) > len(seen)
            seen = now
        assert met_open >= 8, f"{met_open} of 10 kills met an open run"
        assert in_rounds >= 4, f"{in_rounds} of 10 kills came after a round of the host's own"
        assert seen, "no round before the last kill"
        rounds = len(seen) + 3
        done = subprocess.run(
            command(folder, port, rounds, fleet), capture_output=True, text=True, timeout=WAIT
        )
        assert done.returncode == 0, done.stderr
    with open_run(folder) as run:
        records = run.rounds()
        assert records[: len(seen)] == seen
        assert [r.number for r in records] == list(range(1, rounds + 1))
        assert all(len(r.taken) == 2 for r in records), [r.dropped for r in records]
        exported = replay(run)
    assert exported == undisturbed(replace(CONFIG, rounds=rounds), PAIR).exported


# ---- full disks ----------------------------------------------------------------------------------


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A disk of 700 kB, and how to give it more."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "kilofed-test", str(folder)]
    try:
        tried = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small disk can be mounted: {error}")
    if tried.returncode:
        pytest.skip(f"no small disk can be mounted: {tried.stderr.strip()}")

    def more() -> None:
        subprocess.run(["mount", "-o", "remount,size=40m", str(folder)], check=True)

    try:
        yield lambda: None, more
    finally:
        subprocess.run(["umount", str(folder)], check=False)


@contextlib.contextmanager
def limited_files(folder: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Files of at most 150 kB for the process: what a quota looks like, and anybody may set it."""
    folder.mkdir()
    most = 150_000
    limit = [most]

    def before() -> None:
        if limit:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit[0], limit[0]))

    yield before, limit.clear


@pytest.mark.parametrize("disk", [tiny_disk, limited_files])
def test_a_full_disk_ends_the_run_with_a_next_step_and_loses_no_round(
    tmp_path: Path, disk: Callable[[Path], contextlib.AbstractContextManager[tuple[Callable[[], None], ...]]]
) -> None:
    port = free_port()
    with disk(tmp_path / "disk") as (before, make_room), pair(tmp_path, port) as fleet:
        folder = tmp_path / "disk" / "run"
        full = subprocess.run(
            command(folder, port, 2000, fleet),
            capture_output=True, text=True, timeout=WAIT, preexec_fn=before,
        )  # fmt: skip
        assert full.returncode == 1, full.stderr
        assert "error 410: " in full.stderr
        assert "Traceback" not in full.stderr
        before_it = committed(folder)
        assert before_it, "some rounds fitted"
        make_room()
        rounds = len(before_it) + 2
        again = subprocess.run(
            command(folder, port, rounds, fleet), capture_output=True, text=True, timeout=WAIT
        )
        assert again.returncode == 0, again.stderr
        with open_run(folder) as run:
            after = run.rounds()
            assert after[: len(before_it)] == before_it
            assert len(after) == rounds
            exported = replay(run)
    assert exported == undisturbed(replace(CONFIG, rounds=rounds), PAIR).exported


# ---- folders of somebody else --------------------------------------------------------------------


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Rights are not checked for root: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that anybody may read and nobody (root aside) may write to; make things in it before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


def lock(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_new_run_in_a_read_only_folder_is_refused_with_a_next_step(locked: Path) -> None:
    (locked / "there").mkdir()
    lock(locked)
    for name in ("there", "not-there"):
        with as_nobody(), pytest.raises(RunFolderError, match="Permission denied") as caught:
            resume_or_create(locked / name, config=CONFIG, model=MODEL.read_bytes())
        assert caught.value.next_step


@pytest.mark.parametrize("killed", [False, True])
def test_a_read_only_run_is_reported_but_not_gone_on_with(
    locked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], killed: bool
) -> None:
    """Also after a kill -9, when the newest rounds lie in SQLite's log and not yet in its file."""
    world = World(tmp_path)
    world.natives(PAIR)
    outcome = world.run()
    for path in ["base.tflite", "model.tflite", "run.sqlite", "checkpoints"]:
        source = world.run_folder / path
        if source.is_dir():
            (locked / path).mkdir()
            for part in source.iterdir():
                (locked / path / part.name).write_bytes(part.read_bytes())
        elif not (killed and path == "run.sqlite"):
            (locked / path).write_bytes(source.read_bytes())
    if killed:
        with open_run(world.run_folder, write=True) as run:
            run.note("just before the kill")
            for suffix in ("", "-wal"):
                name = f"run.sqlite{suffix}"
                (locked / name).write_bytes((world.run_folder / name).read_bytes())
    lock(locked)
    with as_nobody():
        figures = report_json(locked, lambda: capsys.readouterr().out)
        assert figures["rounds"] == len(outcome.rounds)
        assert any("just before the kill" in note for note in figures["notes"]) is killed
        with pytest.raises(RunFolderError, match="cannot be written"):
            resume_or_create(locked, config=world.config, model=MODEL.read_bytes())


def test_a_round_committed_in_the_middle_of_a_look_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    """A soak found a round without devices: it was committed between two questions of one look."""
    world = World(tmp_path)
    world.natives(PAIR)
    last = world.run().rounds[-1]
    with open_run(world.run_folder, write=True) as writer, open_run(world.run_folder) as reader:
        state = writer.master()
        assert state is not None
        later = replace(last, number=last.number + 1)
        model = writer.model_path.read_bytes()

        def in_between(statement: str) -> None:
            if "FROM rounds" in statement and writer.last_round == last.number:
                writer.commit(later, master=state[1], model=model)

        reader._db.set_trace_callback(in_between)
        seen = reader.rounds()
        assert writer.last_round == later.number, "it was committed in the middle"
        assert all(record.devices for record in seen)
        assert reader.rounds()[-1] == later


async def test_a_serial_port_without_rights_is_named() -> None:
    device, port = os.openpty()
    try:
        name = os.ttyname(port)
        Path(name).chmod(0)
        with as_nobody(), pytest.raises(PortDenied) as caught:
            await open_serial(name)
        assert caught.value.name == name
    finally:
        os.close(device)
        os.close(port)


# ---- two hosts -----------------------------------------------------------------------------------


def test_a_second_host_on_one_run_is_told_who_has_it(tmp_path: Path) -> None:
    run, _ = resume_or_create(tmp_path / "run", config=CONFIG, model=MODEL.read_bytes())
    with run, pytest.raises(RunLockedError, match=f"process {os.getpid()} is running the run") as caught:
        resume_or_create(tmp_path / "run", config=CONFIG, model=MODEL.read_bytes())
    assert caught.value.pid == os.getpid()


async def test_a_second_host_on_one_tcp_port_is_refused() -> None:
    async def nobody(transport: tcp.TcpTransport) -> None:
        raise AssertionError("nobody connects")

    async with await tcp.listen("127.0.0.1", 0, nobody) as first:
        with pytest.raises(ConnectError, match="cannot be listened on") as caught:
            await tcp.listen("127.0.0.1", first.port, nobody)
        assert "another port" in str(caught.value)


async def test_a_second_host_on_one_serial_port_is_refused_and_the_first_goes_on() -> None:
    """A pseudo-terminal, which is locked as a serial port is."""
    device, port = os.openpty()
    try:
        name = os.ttyname(port)
        first = await open_serial(name)
        with pytest.raises(PortBusy):
            await open_serial(name)
        os.write(device, b"still there")
        assert await asyncio.wait_for(first.read(), 10) == b"still there"
        await first.close()
        again = await open_serial(name)
        await again.close()
    finally:
        os.close(device)
        os.close(port)
