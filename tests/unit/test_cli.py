"""The command line: what it says, where it says it, how it fails, and that it starts quickly."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from tests.memory_fleet import MODEL, make_devices, model_bytes
from tests.unit.test_rounds import federate

from kilofed.cli import COMMANDS, cli, run
from kilofed.fleet import Fleet, new_identity
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.store import create_run
from kilofed_tools import heads


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds by devices in memory, with its personal round and figures."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = RunConfig(rounds=3, epochs=2, personal_epochs=2, deadlines=Deadlines(gather=3.0))
    model = model_bytes()
    with create_run(folder, config=config, model=model, model_hash=heads.file_hash(model).hex()) as run:
        accuracies = iter([0.5, 0.6, 0.7])
        asyncio.run(
            federate(make_devices(3), config, ledger=run, tag=run.tag, measure=lambda model: next(accuracies))
        )
        scores = {"test": 0.4, "held_out": 0.8}
        run.put_figures(
            {"baselines": {"alone": scores, "each": {}, "central": {"test": 0.9}}, "exported": 0.7}
        )
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> Any:
    """Runs a command line and returns its stdout, as JSON when --json was asked for."""
    got = run([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert got == status, captured.err
    return json.loads(captured.out) if "--json" in arguments else captured.out


# ---- help and start ------------------------------------------------------------------------------


def test_every_command_has_a_file_of_its_own_and_help_with_an_example() -> None:
    folder = Path(importlib.import_module("kilofed.cli").__file__ or "").parent
    assert {p.stem.removesuffix("_command") for p in folder.glob("*_command.py")} == set(COMMANDS)
    context = click.Context(cli)
    for name, summary in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help is not None
        assert command.help.splitlines()[0] == summary
        assert f"Example:\n  kilofed {name}" in inspect.cleandoc(command.help)
        parts = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        for part in parts:
            assert part.help is not None
            full = name if part is command else f"{name} {part.name}"
            assert f"Example:\n  kilofed {full}" in inspect.cleandoc(part.help)
            for parameter in part.params:
                if isinstance(parameter, click.Option):
                    assert parameter.help, f"{full} {parameter.opts}"
                    ends = parameter.help.rstrip("]").endswith((".", "]", "B"))
                    assert ends or "[default" in parameter.help
            options = {o for p in part.params for o in p.opts}
            assert "--debug" in options


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_each_command_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Example:" in said(capsys, name, "--help")


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from kilofed.cli import run; run(['--help'])\n"
        "heavy = {'numpy', 'rich', 'cbor2', 'serial', 'tflite', 'tflite_runtime', 'sqlite3', 'asyncio'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "Bring boards:" in done.stdout
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.3, f"{used:.2f} s of CPU"


def test_the_package_is_light_and_its_public_names_are_there() -> None:
    code = (
        "import sys, kilofed\n"
        "assert not {'numpy', 'cbor2', 'rich', 'sqlite3'} & set(sys.modules)\n"
        "for name in kilofed.__all__: getattr(kilofed, name)\n"
        "assert len(kilofed.__all__) == len(set(kilofed.__all__))\n"
        "assert set(kilofed.__all__) <= set(dir(kilofed))\n"
        "try: kilofed.nothing\n"
        "except AttributeError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_packages() -> None:
    import kilofed

    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f'version = "{kilofed.__version__}"' in text


# ---- failures ------------------------------------------------------------------------------------


def test_an_error_is_a_line_with_its_number_and_a_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(tmp_path / "nothing")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error 410: ")
    assert "is not a run folder" in lines[0]
    assert lines[1] == "next: name the folder given to --out"


def test_a_traceback_is_shown_on_request_only(tmp_path: Path) -> None:
    from kilofed.errors import RunFolderError

    with pytest.raises(RunFolderError):
        run(["report", str(tmp_path / "nothing"), "--debug"])


def test_a_fault_of_ours_says_how_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("kilofed.report.report", lambda folder: 1 / 0)
    assert run(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error 1: ZeroDivisionError: division by zero",
        "next: run it again with --debug and report what it prints",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["report"],
        ["report", ".", "--colour"],
        ["run"],
        ["run", "--listen", "nowhere", "--expect", "1"],
        ["run", "--listen", ":99999", "--expect", "1"],
        ["run", "--listen", ":7000"],
        ["run", "--emulate", "-1"],
        ["build"],
        ["build", "--all", "--board", "microbit"],
        ["export", ".", "--round", "1"],
        ["eval", "missing.tflite"],
        ["fedavg", "--model", str(MODEL), "--out", "x.tflite"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error 2: " in captured.err
    assert captured.err.splitlines()[-1].startswith("next: ")


def test_a_reader_that_leaves_is_no_error(finished_run: Path) -> None:
    command = (
        f"{sys.executable} -c 'from kilofed.cli import main; main()' report {finished_run} --json | head -1"
    )
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.stdout.startswith("{")
    assert "Traceback" not in done.stderr


# ---- report, export, fedavg ----------------------------------------------------------------------


def test_report_has_what_a_program_needs(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = said(capsys, "report", finished_run, "--json")
    assert (figures["rounds"], figures["devices"]) == (3, 3)
    accuracy = figures["accuracy"]
    assert {k: accuracy[k] for k in ("alone", "federated", "central", "exported")} == {
        "alone": 0.4,
        "federated": 0.7,
        "central": 0.9,
        "exported": 0.7,
    }
    assert 0 < accuracy["personal"] <= 1
    assert 346 < figures["bytes_per_device_round"]["up"] < 800
    assert 376 < figures["bytes_per_device_round"]["down"] < 900
    assert [(r["round"], r["accuracy"], r["taken"]) for r in figures["round_table"]] == [
        (1, 0.5, 3),
        (2, 0.6, 3),
        (3, 0.7, 3),
    ]
    assert all(d["taken"] == 3 and d["samples"] == 32 for d in figures["device_table"])


def test_report_for_people(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "report", finished_run)
    assert "federated, then personalised" in text
    assert "70.0 %" in text
    assert str(finished_run / "model.tflite") in text.replace("\n", "")


def test_a_round_is_averaged_again_from_its_files(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.tflite"
    said(capsys, "export", finished_run, "--round", 0, "--out", base)
    assert base.read_bytes() == model_bytes()
    out = said(capsys, "export", finished_run, "--round", 1, "--updates", tmp_path / "u", "--json")
    pairs = [part for row in out["updates"] for part in ("--update", row["out"], row["samples"])]
    assert len(pairs) == 9
    for number, order in enumerate((pairs, pairs[6:] + pairs[:6])):
        new = tmp_path / f"new{number}.tflite"
        said(capsys, "fedavg", "--model", base, *order, "--out", new)
        # The head of the first round is zero, so the master is known from the file: the bytes must be the
        # run's own.
        assert new.read_bytes() == (finished_run / "checkpoints" / "round-0001.tflite").read_bytes()


def test_fedavg_names_the_culprit(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "mallory.update"
    bad.write_bytes(b"\x01\x02" + bytes(344))
    out = tmp_path / "new.tflite"
    assert run(["fedavg", "--model", str(MODEL), "--update", str(bad), "64", "--out", str(out)]) == 1
    assert "mallory" in capsys.readouterr().err
    assert not out.exists()


def test_export_names_the_rounds_there_are(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = tmp_path / "newest.tflite"
    said(capsys, "export", finished_run, "--out", newest)
    assert newest.read_bytes() == (finished_run / "model.tflite").read_bytes()
    assert run(["export", str(finished_run), "--round", "4", "--out", str(newest)]) == 1
    assert "choose one from 0 to 3" in capsys.readouterr().err


# ---- eval, convert, devices ----------------------------------------------------------------------


def test_eval_on_samples_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.random((20, 28, 28), dtype=np.float32)
    np.savez(tmp_path / "floats.npz", inputs=pixels, labels=np.arange(20) % 10)
    whole = np.clip(np.rint(pixels * 255) - 128, -128, 127).astype(np.int8)
    np.savez(tmp_path / "bytes.npz", inputs=whole, labels=np.arange(20) % 10)
    floats = said(capsys, "eval", MODEL, "--data", tmp_path / "floats.npz", "--json")
    ints = said(capsys, "eval", MODEL, "--data", tmp_path / "bytes.npz", "--json")
    assert floats == ints
    assert floats["samples"] == 20
    assert floats["accuracy"] == floats["right"] / 20


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"inputs": np.zeros((2, 784), np.int8)}, "holds inputs"),
        ({"inputs": np.zeros((2, 783), np.int8), "labels": np.zeros(2, int)}, "takes 784 values"),
        ({"inputs": np.zeros((2, 784), np.int8), "labels": np.full(2, 10)}, "labels outside 0 to 9"),
        ({"inputs": np.zeros((2, 784), np.int8), "labels": np.zeros(2)}, "labels outside 0 to 9"),
        ({"inputs": np.full((2, 784), np.nan), "labels": np.zeros(2, int)}, "not finite"),
        ({"inputs": np.zeros((2, 784), np.int32), "labels": np.zeros(2, int)}, "type int32"),
        ({"inputs": np.zeros((0, 784), np.int8), "labels": np.zeros(0, int)}, "takes 784 values"),
    ],
)
def test_samples_that_do_not_suit_are_named(
    arrays: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    assert run(["eval", str(MODEL), "--data", str(tmp_path / "mine.npz")]) == 1
    assert words in capsys.readouterr().err


def test_a_file_that_is_no_npz_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.npz").write_bytes(b"no zip at all")
    assert run(["eval", str(MODEL), "--data", str(tmp_path / "mine.npz")]) == 1
    assert "error 130: mine.npz cannot be read" in capsys.readouterr().err


def test_convert_leaves_a_device_model_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "convert", MODEL, "--out", tmp_path / "same.tflite", "--json")
    assert out["notes"] == []
    assert (tmp_path / "same.tflite").read_bytes() == model_bytes()


def test_devices_lists_and_forgets_and_keeps_keys_to_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register = tmp_path / "fleet.sqlite"
    with Fleet(register) as fleet:
        devices = [new_identity(name, "microbit") for name in ("anna", "bert")]
        for device in devices:
            fleet.add(device)
        fleet.seen(devices[0].id)
    listed = said(capsys, "devices", "--fleet", register, "--json")
    assert [d["name"] for d in listed] == ["anna", "bert"]
    text = said(capsys, "devices", "--fleet", register)
    assert "never" in text
    assert "0 s ago" in text
    for device in devices:
        assert device.key.hex() not in text + json.dumps(listed)
    text = said(capsys, "devices", "--fleet", register, "--remove", "anna")
    assert "anna" not in text
    assert run(["devices", "--fleet", str(register), "--remove", "anna"]) == 1


def test_boards_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    boards = {b["name"]: b for b in said(capsys, "boards", "--json")}
    assert boards["microbit"]["ram_bytes"] == 16 * 1024
    assert boards["stm32f405"]["emulator"] == "netduinoplus2"
    listed = next(line for line in said(capsys, "boards").splitlines() if line.startswith("stm32f405"))
    for shown in ("STM32F405RG", "cortex-m4", "1024", "128", "gdb", "netduinoplus2", "clocks, pins"):
        assert shown in listed


def test_settings_of_a_run_come_from_the_model_unless_they_are_given() -> None:
    from kilofed.cli.run_command import _config

    given = {"deadline": 60.0, "epochs": None, "batch": 8, "lr": None, "rounds": 4, "seed": 3}
    config = _config(model_bytes(), given)
    spec = heads.find_head(model_bytes())
    assert (config.epochs, config.lr) == (spec.epochs, spec.lr)
    assert (config.batch, config.rounds, config.seed, config.deadlines.round) == (8, 4, 3, 60.0)
    assert replace(config, rounds=20) == _config(model_bytes(), {**given, "rounds": 20})
