"""The run folder.

What is committed stays, what is half done goes, and two processes never write to one run.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilofed.errors import ConfigError, RunFolderError, RunLockedError, RunMismatchError
from kilofed.rounds.config import Deadlines, RunConfig, cohort_order, device_seed
from kilofed.rounds.records import DeviceRound, DeviceRow, Ending, Kind, RoundRecord
from kilofed.store import Run, create_run, open_run, write_atomically

CONFIG = RunConfig(rounds=7, seed=11)


def model(number: int) -> bytes:
    return b"TFL3" + number.to_bytes(4, "little") * 250


def record(number: int, kind: Kind = Kind.TRAIN, *, accuracy: float | None = 0.5) -> RoundRecord:
    return RoundRecord(
        number,
        kind,
        Ending.QUORUM,
        started=1000.0 + number,
        seconds=1.25,
        head="00112233aabbccdd",
        devices=(
            DeviceRound("11" * 8, "anna", True, "", 64, 16, 1.5, 9, 11, 240, 700, 800, 1, b"\x01\x02update"),
            DeviceRound("22" * 8, "bert", False, "silent for 20 s", bytes_up=12),
        ),
        accuracy=accuracy,
    )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with create_run(tmp_path / "run", config=CONFIG, model=model(0), model_hash="ab" * 8) as run:
        yield run


def test_a_new_run_knows_what_it_was_started_with(run: Run) -> None:
    assert run.config == CONFIG
    assert run.model_hash == "ab" * 8
    assert 0 <= run.tag < 65536
    assert run.last_round == 0
    assert run.master() is None
    assert run.rounds() == []
    assert run.model_path.read_bytes() == model(0)
    assert run.checkpoint_path(0).read_bytes() == model(0)


def test_what_is_committed_reads_back_equal(run: Run) -> None:
    for number in (1, 2):
        run.commit(record(number), master=b"master" + bytes([number]), model=model(number))
    run.commit(record(2, Kind.PERSONAL, accuracy=None))
    run.put_device(DeviceRow("11" * 8, "anna", "microbit", "0.1.0", 80, 64, 16, 5.5))
    run.note("boot text", device="11" * 8)
    run.put_figures({"alone": {"mean": 0.5}, "central": 0.95})
    folder = run.folder
    run.close()

    with open_run(folder) as again:
        assert again.rounds() == [record(1), record(2)]
        assert again.rounds(Kind.PERSONAL) == [record(2, Kind.PERSONAL, accuracy=None)]
        assert again.last_round == 2
        assert again.master() == (2, b"master\x02")
        assert [d.name for d in again.devices()] == ["anna"]
        assert [(n.device, n.text) for n in again.notes()] == [("11" * 8, "boot text")]
        assert again.figures() == {"alone": {"mean": 0.5}, "central": 0.95}
        assert again.model_path.read_bytes() == model(2)
        assert again.checkpoint_path(1).read_bytes() == model(1)


def test_a_record_sums_up_those_that_were_taken() -> None:
    r = record(1)
    assert [d.name for d in r.taken] == ["anna"]
    assert [(d.name, d.reason) for d in r.dropped] == [("bert", "silent for 20 s")]
    assert (r.base_accuracy, r.own_accuracy, r.loss) == (9 / 16, 11 / 16, 1.5)


def test_a_personal_round_may_be_done_again(run: Run) -> None:
    run.commit(record(3, Kind.PERSONAL))
    run.commit(record(3, Kind.PERSONAL, accuracy=0.75))
    assert [r.accuracy for r in run.rounds(Kind.PERSONAL)] == [0.75]


def test_a_training_round_is_committed_once(run: Run) -> None:
    run.commit(record(1), master=b"m", model=model(1))
    with pytest.raises(RunFolderError):
        run.commit(record(1), master=b"other", model=model(1))
    assert run.master() == (1, b"m")


def test_a_commit_that_fails_is_an_error_of_ours_and_leaves_no_transaction(run: Run) -> None:
    """As with a full disk: every statement was taken, and COMMIT is not."""
    with pytest.raises(RunFolderError, match=r"cannot be used \(FOREIGN KEY"), run._transaction():
        run._db.execute("PRAGMA defer_foreign_keys = ON")
        run._db.execute(
            "INSERT INTO round_devices VALUES ('train', 9, 'd', 'n', 1, '', 1, 1, 0, 0, 0, 0, 0, 0, 0, NULL)"
        )
    run.note("still writable")
    assert [n.text for n in run.notes()] == ["still writable"]
    assert run.rounds() == []


def test_a_training_round_needs_its_model(run: Run) -> None:
    with pytest.raises(ValueError, match="master and model"):
        run.commit(record(1))


def test_a_second_writer_is_refused_and_told_who_writes(run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from kilofed.store import open_run; "
        "from kilofed.errors import RunLockedError\n"
        "try: open_run(Path(sys.argv[1]), write=True)\n"
        "except RunLockedError as error: print(error.pid, error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(run.folder)], capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith(f"{os.getpid()} process {os.getpid()} is running the run in")
    with pytest.raises(RunLockedError):
        create_run(run.folder, config=CONFIG, model=model(0), model_hash="")


def test_a_reader_may_look_while_the_run_goes_on(run: Run) -> None:
    with open_run(run.folder) as reader:
        run.commit(record(1), master=b"m", model=model(1))
        assert reader.last_round == 1
        with pytest.raises(RunFolderError, match="for reading"):
            reader.note("no")


def test_a_folder_with_content_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty"):
        create_run(tmp_path, config=CONFIG, model=model(0), model_hash="")
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_folders_and_other_schemas_are_refused(tmp_path: Path, run: Run) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        open_run(tmp_path / "nothing")
    run._put_meta({"schema": "99"})
    with pytest.raises(RunFolderError, match="schema 99"):
        open_run(run.folder)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").write_bytes(b"not a database, and long enough to be looked at" * 100)
    with pytest.raises(RunFolderError, match=r"run\.sqlite cannot be used"):
        open_run(tmp_path)


@pytest.mark.parametrize("cut", ["checkpoint", "draft", "model"])
def test_what_a_kill_left_half_done_is_put_right(run: Run, cut: str) -> None:
    run.commit(record(1), master=b"m", model=model(1))
    folder = run.folder
    if cut == "checkpoint":  # killed between the checkpoint and the transaction
        write_atomically(run.checkpoint_path(2), model(2))
    elif cut == "draft":  # killed while the checkpoint was written
        (folder / "checkpoints" / ".kilofed-0123.new").write_bytes(model(2)[:100])
        (folder / ".kilofed-4567.new").write_bytes(model(2)[:100])  # or the newest model
    else:  # killed between the transaction and the newest model
        write_atomically(run.model_path, model(0))
    run.close()
    with open_run(folder, write=True) as again:
        assert again.last_round == 1
        assert again.model_path.read_bytes() == model(1)
        assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["round-0001.tflite"]
        assert not list(folder.glob("*.new"))
        again.commit(record(2), master=b"n", model=model(2))


def test_a_file_is_written_beside_and_no_other_file_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.bin"
    write_atomically(path, b"one")
    path.chmod(0o640)
    (path.parent / "out.bin.new").write_bytes(b"somebody else's")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert (path.parent / "out.bin.new").read_bytes() == b"somebody else's"
    assert len(list(path.parent.iterdir())) == 2


def test_a_link_stays_a_link_and_leads_to_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    link = tmp_path / "link"
    link.symlink_to("below/target.bin")
    for content in (b"made", b"written over"):
        write_atomically(link, content)
        assert link.is_symlink()
        assert (tmp_path / "below" / "target.bin").read_bytes() == content
    assert [p.name for p in (tmp_path / "below").iterdir()] == ["target.bin"]


def test_what_is_no_file_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_checkpoint_is_an_error_with_its_name(run: Run) -> None:
    run.commit(record(1), master=b"m", model=model(1))
    run.checkpoint_path(1).unlink()
    run.close()
    with pytest.raises(RunFolderError, match=r"round-0001\.tflite is missing"):
        open_run(run.folder, write=True)


COMMIT_UNTIL_KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(":")
from kilofed.store import Run, create_run, open_run, write_atomically
import test_store as t
with open_run(Path(sys.argv[1]), write=True) as run:
    for number in range(run.last_round + 1, 100000):
        run.commit(t.record(number), master=b"m%d" % number, model=t.model(number))
        print(number, flush=True)
"""


def test_kill_9_at_any_moment_loses_no_committed_round(run: Run) -> None:
    folder = run.folder
    run.close()
    committed = 0
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMIT_UNTIL_KILLED, str(folder), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        said = [process.stdout.readline()]
        time.sleep(0.003 + 0.011 * attempt)
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        lines = [int(line) for line in said if line.endswith("\n")]
        committed = max([committed, *lines])
        with open_run(folder, write=True) as again:
            last = again.last_round
            assert last in (committed, committed + 1)
            assert again.master() == (last, b"m%d" % last)
            assert again.model_path.read_bytes() == model(last)
            assert [r.number for r in again.rounds()] == list(range(1, last + 1))
            committed = last
    assert committed > 6


def test_settings_that_change_bytes_may_not_change_on_resumption(run: Run) -> None:
    more = RunConfig(rounds=30, seed=11, deadlines=Deadlines(round=9.0))
    run.set_config(more)
    assert run.config == more
    with pytest.raises(RunMismatchError, match=r"has lr = 0\.1, not 0\.2"):
        run.set_config(RunConfig(rounds=30, seed=11, lr=0.2))
    assert run.config == more


def test_settings_survive_json() -> None:
    config = RunConfig(codec="ternary", fraction=0.5, deadlines=Deadlines(rejoin=3.5))
    assert RunConfig.from_json(config.as_json()) == config
    with pytest.raises(ConfigError, match="no setting"):
        RunConfig.from_json({**config.as_json(), "colour": 3})


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0}, {"rounds": 2.0}, {"epochs": 256}, {"epochs": True}, {"batch": 0}, {"batch": 257},
        {"lr": 0.0}, {"lr": float("nan")}, {"lr": 9.0}, {"prox": -0.1}, {"codec": "int3"}, {"fraction": 0.0},
        {"fraction": 1.1}, {"quorum": 0.0},
        {"seed": -1}, {"seed": 2**32}, {"patience": 0}, {"personal_epochs": 256},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(**wrong)  # type: ignore[arg-type]
    assert caught.value.setting == next(iter(wrong))


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_no_wait_is_endless(value: float) -> None:
    with pytest.raises(ConfigError, match="deadline head"):
        Deadlines(head=value)


def test_seeds_differ_by_device_and_round_and_repeat() -> None:
    ids = [bytes([i]) * 8 for i in range(20)]
    seeds = {device_seed(s, r, i) for s in (1, 2) for r in (1, 2, 3) for i in ids}
    assert len(seeds) == 120
    assert all(0 < seed < 2**32 for seed in seeds)
    assert device_seed(1, 1, ids[0]) == device_seed(1, 1, ids[0])


def test_a_cohort_does_not_depend_on_arrival() -> None:
    ids = [bytes([i]) * 8 for i in range(20)]
    assert cohort_order(1, 5, ids) == cohort_order(1, 5, ids[::-1])
    assert cohort_order(1, 5, ids) != cohort_order(1, 6, ids)
    assert sorted(cohort_order(1, 5, ids)) == ids
