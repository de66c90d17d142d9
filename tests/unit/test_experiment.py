"""Runs with devices of our own.

Who gets which samples, what is compared, and how runs are resumed and moved.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.memory_fleet import model_bytes

from kilofed import demo
from kilofed.baselines import compute_baselines
from kilofed.errors import ConfigError, RunFolderError, RunLockedError, RunMismatchError
from kilofed.experiment import (
    check_places,
    make_places,
    measure_on,
    put_circumstances,
    run_experiment,
    split_test,
)
from kilofed.federation import is_finished, resume_or_create, run_federation
from kilofed.laboratory import NATIVE, PI
from kilofed.link.errors import TransportError
from kilofed.rounds.config import RunConfig
from kilofed.rounds.globalmodel import GlobalModel
from kilofed.rounds.records import Ending, Kind, RoundRecord
from kilofed.samples import Samples, deal, digits_pool, digits_test
from kilofed.store import open_run
from kilofed_tools import evaluate, heads, trainer
from kilofed_tools.errors import DataError

CONFIG = RunConfig(rounds=2, personal_epochs=0)


@pytest.fixture(scope="module")
def pool() -> Samples:
    return digits_pool()


def keys(samples: Samples) -> list[bytes]:
    return [row.tobytes() for row in samples.inputs]


# ---- samples -------------------------------------------------------------------------------------


def test_the_demos_devices_share_no_sample_and_lack_classes(pool: Samples) -> None:
    fleet = demo.make_fleet(pool, native=False, seed=1)
    assert [(p.name, p.board, len(p.samples)) for p in fleet] == list(demo.FLEET)
    everything = [key for place in fleet for key in keys(place.samples)] + keys(digits_test())
    assert len(everything) == len(set(everything))
    lacking = [10 - len(np.unique(p.samples.labels)) for p in fleet]
    assert sum(lacking) > len(fleet)


def test_without_an_emulator_the_same_samples_go_to_native_devices(pool: Samples) -> None:
    fleet = demo.make_fleet(pool, native=True, seed=1)
    assert {p.board for p in fleet} == {NATIVE, PI}
    for native, board in zip(fleet, demo.make_fleet(pool, native=False, seed=1), strict=True):
        assert keys(native.samples) == keys(board.samples)


def test_dealing_repeats_and_depends_on_the_seed(pool: Samples) -> None:
    one, again, other = (deal(pool, [50, 60], seed=s) for s in (4, 4, 5))
    assert [keys(a) for a in one] == [keys(b) for b in again]
    assert keys(one[0]) != keys(other[0])


def test_places_respect_a_boards_ring(pool: Samples) -> None:
    places = make_places(pool, ["microbit", "mps2-an386", NATIVE, NATIVE])
    assert [(p.name, len(p.samples)) for p in places] == [
        ("microbit-1", 80),
        ("mps2-an386-1", 200),
        ("posix-1", 200),
        ("posix-2", 200),
    ]
    assert all(len(p.name.encode()) <= 12 for p in make_places(pool, ["mps2-an386"] * 12, samples=5))
    with pytest.raises(DataError, match="do not go round"):
        make_places(pool, [])


def test_a_test_set_is_split_off_a_file(pool: Samples) -> None:
    rest, test = split_test(pool, seed=3)
    assert (len(rest), len(test)) == (1600, 400)
    assert len({*keys(rest), *keys(test)}) == 2000


# ---- what is compared ----------------------------------------------------------------------------


def test_baselines_are_plain_training_scored_as_int8(pool: Samples) -> None:
    shards = dict(zip(("a", "b"), deal(pool, [100, 60], seed=2), strict=True))
    test = digits_test()
    model = model_bytes()
    found = compute_baselines(model, shards, replace(CONFIG, rounds=3, epochs=2), test=test)
    spec = heads.find_head(model)
    rows = evaluate.features(model, shards["a"].inputs)
    assert found.alone.test == pytest.approx((found.each["a"].test + found.each["b"].test) / 2)  # type: ignore[operator]
    assert found.central.test is not None
    assert found.alone.test is not None
    assert found.central.test > found.alone.test > 0.2
    # "a" alone, again by hand: 3 rounds of 2 epochs on its training slots
    from kilofed.rounds.config import device_seed

    train, held = trainer.split(100)
    weights, bias = heads.master(heads.read_head(model))
    rates = trainer.lr_multipliers(0.1, spec.ms)
    for number in (1, 2, 3):
        settings = trainer.TrainConfig(2, 16, rates.lr_w, rates.lr_b, seed=device_seed(1, number, b"a"))
        x = rows[train].astype(np.int64) - spec.zp_x
        result = trainer.train(weights, bias, x, shards["a"].labels[train].astype(np.int64), settings)
        weights, bias = result.W, result.b
    head = heads.quantise(spec, weights, bias)
    exported = heads.write_head(model, head)
    assert found.each["a"].test == evaluate.accuracy(exported, test.inputs, test.labels)
    held_out = shards["a"].take(held)
    assert found.each["a"].held_out == evaluate.accuracy(exported, held_out.inputs, held_out.labels)


def test_a_device_without_samples_has_no_baseline(pool: Samples) -> None:
    empty = pool.take(np.zeros(0, np.int64))
    with pytest.raises(DataError):
        compute_baselines(model_bytes(), {"a": empty}, CONFIG)


def test_the_hosts_figure_is_the_exported_files(pool: Samples) -> None:
    model = GlobalModel(model_bytes())
    rng = np.random.default_rng(8)
    model._weights = rng.integers(-(1 << 19), 1 << 19, model._weights.shape).astype(np.int32)
    model._head = heads.quantise(model.spec, model._weights, model._bias)
    test = digits_test()
    measured = measure_on(model_bytes(), test)(model)
    assert abs(measured - evaluate.accuracy(model.export(), test.inputs, test.labels)) <= 0.002


# ---- folders -------------------------------------------------------------------------------------


def commit(folder: Path, count: int) -> None:
    run, _ = resume_or_create(folder, config=CONFIG, model=model_bytes())
    with run:
        for number in range(1, count + 1):
            record = RoundRecord(number, Kind.TRAIN, Ending.COMPLETE, 0.0, 0.0, "", ())
            run.commit(record, master=b"m", model=model_bytes())


def test_a_run_is_made_once_and_then_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    commit(folder, 1)
    run, resumed = resume_or_create(folder, config=replace(CONFIG, rounds=9), model=model_bytes())
    with run:
        assert resumed
        assert run.last_round == 1
        assert not is_finished(run)
        with pytest.raises(RunLockedError):
            resume_or_create(folder, config=CONFIG, model=model_bytes())
    with pytest.raises(RunMismatchError, match="trains another model"):
        resume_or_create(folder, config=CONFIG, model=model_bytes() + b"\0")
    with pytest.raises(RunMismatchError, match="has seed = 1"):
        resume_or_create(folder, config=replace(CONFIG, seed=2), model=model_bytes())
    run, _ = resume_or_create(folder, config=CONFIG, model=model_bytes())
    run.close()


def test_a_run_without_a_round_is_begun_anew_with_what_is_given_now(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    commit(folder, 0)
    other = model_bytes() + b"\0"
    for config, model in ((replace(CONFIG, seed=2), model_bytes()), (CONFIG, other)):
        with contextlib.closing(resume_or_create(folder, config=config, model=model)[0]) as run:
            tag = run.tag
            assert run.config == config
            assert run.model_of(0) == run.model_path.read_bytes() == model
            run.put_figures({"placed": {"a": [1]}})
        run, resumed = resume_or_create(folder, config=config, model=model)
        with run:
            assert resumed  # with the same settings it is the same run
            assert run.tag == tag
            assert run.figures()
    run, resumed = resume_or_create(folder, config=replace(CONFIG, lr=0.5), model=other)
    with run:
        assert not resumed
        assert run.figures() == {}
        assert [note.text.split(":")[0] for note in run.notes()] == [
            "begun anew with another model or other settings"
        ] * 3
        record = RoundRecord(1, Kind.TRAIN, Ending.COMPLETE, 0.0, 0.0, "", ())
        run.commit(record, master=b"m", model=other)
        with pytest.raises(RunMismatchError, match="has 1 rounds"):
            run.begin_anew(config=CONFIG, model=model_bytes(), model_hash="")
        assert run.model_of(0) == other


def test_a_kill_while_a_run_is_begun_anew_leaves_it_to_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(path: Path, content: bytes) -> None:
        raise Killed

    commit(tmp_path, 0)
    other = model_bytes() + b"\0"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("kilofed.store.write_atomically", killed)
        resume_or_create(tmp_path, config=CONFIG, model=other)
    run, resumed = resume_or_create(tmp_path, config=CONFIG, model=model_bytes())
    with run:
        assert not resumed
        assert run.model_of(0) == model_bytes()


def test_a_run_does_not_go_back(tmp_path: Path) -> None:
    commit(tmp_path / "run", 2)
    with pytest.raises(RunMismatchError, match="has 2 rounds already, and 1 are asked for"):
        resume_or_create(tmp_path / "run", config=replace(CONFIG, rounds=1), model=model_bytes())


def test_a_run_does_not_go_on_with_other_devices(tmp_path: Path, pool: Samples) -> None:
    three, two = (make_places(pool, [NATIVE] * count, samples=20) for count in (3, 2))
    run, _ = resume_or_create(tmp_path / "run", config=CONFIG, model=model_bytes())
    with run:
        check_places(run, two)  # nothing was dealt yet
        put_circumstances(run, three, "")
        check_places(run, three)
        with pytest.raises(RunMismatchError, match="dealt to 3 devices"):
            check_places(run, two)
        with pytest.raises(RunMismatchError, match="dealt to 3 devices"):
            check_places(run, [])


def test_a_run_without_a_round_is_dealt_anew(tmp_path: Path, pool: Samples) -> None:
    (tmp_path / "model.tflite").write_bytes(model_bytes())
    run, _ = resume_or_create(tmp_path / "run", config=CONFIG, model=model_bytes())
    with run:
        put_circumstances(run, make_places(pool, [NATIVE] * 3, samples=20), "")
    with pytest.raises(TransportError):
        run_experiment(
            tmp_path / "run", [], model=tmp_path / "model.tflite", config=CONFIG, ports=[str(tmp_path / "no")]
        )
    with open_run(tmp_path / "run") as run:
        assert run.figures()["placed"] == {}


def test_a_port_is_named_once(tmp_path: Path) -> None:
    run, _ = resume_or_create(tmp_path / "run", config=CONFIG, model=model_bytes())
    with run, pytest.raises(ConfigError, match="loop:// is named twice"):
        run_federation(run, expected=2, ports=["loop://", "loop://"])


@pytest.mark.parametrize("host", [None, "127.0.0.1", "0.0.0.0", "*", "::1"])
def test_devices_of_this_machine_are_told_a_port_they_reach(tmp_path: Path, host: str | None) -> None:
    """Also where others are listened for on an address that they do not reach."""

    class Reached(Exception):
        pass

    def start(port: int) -> None:
        socket.create_connection(("127.0.0.1", port)).close()
        raise Reached

    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    run, _ = resume_or_create(tmp_path / "run", config=CONFIG, model=model_bytes())
    with run, pytest.raises(Reached):
        run_federation(run, expected=1, listen=None if host is None else (host, 0), on_listening=start)


def test_what_an_attempt_left_that_was_killed_early_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in (
        "lock",
        "base.tflite",
        "model.tflite.new",
        ".kilofed-01ab.new",
        "run.sqlite.new",
        "run.sqlite.new-wal",
    ):
        (folder / name).write_bytes(b"half")
    commit(folder, 1)
    assert not list(folder.glob("run.sqlite.new*"))
    assert not list(folder.glob(".kilofed-*"))


def test_a_run_is_finished_with_its_personal_round(tmp_path: Path) -> None:
    commit(tmp_path / "run", 2)
    run, _ = resume_or_create(tmp_path / "run", config=CONFIG, model=model_bytes())
    with run:
        assert is_finished(run)
        run._put_meta({"config": __import__("json").dumps(replace(CONFIG, personal_epochs=3).as_json())})
        assert not is_finished(run)
        run.commit(RoundRecord(2, Kind.PERSONAL, Ending.COMPLETE, 0.0, 0.0, "", ()))
        assert is_finished(run)


def test_finished_demos_are_moved_aside_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert demo.make_room(folder) is None
    for number in (1, 2):
        commit(folder, 2)
        assert demo.make_room(folder) is None
        run, _ = resume_or_create(folder, config=CONFIG, model=model_bytes())
        with run:
            run.put_figures({"finished": 2})
        assert demo.make_room(folder) == tmp_path / f"demo-{number}"
        assert not folder.exists()
        assert (tmp_path / f"demo-{number}" / "run.sqlite").is_file()
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty"):
        demo.run_demo(folder)


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "shutil.which", lambda name: None if name == "qemu-system-arm" else f"/usr/bin/{name}"
    )
    assert demo.missing_tools() == [demo.Missing("qemu-system-arm", "qemu-system-arm")]
    assert demo.missing_tools(native=True) == []


def test_without_any_compiler_linux_devices_take_the_boards_places(
    monkeypatch: pytest.MonkeyPatch, pool: Samples
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert {p.board for p in demo.make_fleet(pool, native=True, seed=1)} == {PI}
