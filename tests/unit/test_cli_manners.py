"""What a stranger to the tool is told: causes that are the causes, and next steps that can be taken."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.memory_fleet import MODEL

from kilofed import demo, display
from kilofed.boards import Emulator, load
from kilofed.boards import build as build_module
from kilofed.cli import COMMANDS, run
from kilofed.cli.run_command import command as run_command
from kilofed.errors import BoardError, EmulatorError
from kilofed.processes import Process
from kilofed_pi.cli import main as kilofed_pi
from kilofed_tools.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str], status: int) -> str:
    """Runs what is to fail; its last two lines, each checked for its form."""
    assert run(arguments) == status
    error, step = capsys.readouterr().err.splitlines()[-2:]
    assert re.match(r"error \d+: \S", error)
    assert re.match(r"next: \S", step)
    return f"{error}\n{step}"


@pytest.mark.parametrize(
    ("arguments", "error", "step"),
    [
        (["run"], "no devices", "give --port, --listen, --mqtt, --emulate or --native"),
        (["run", "--listen", ":7000"], "--listen alone does not say how many come", "give --expect"),
        (["run", "--round", "3"], "no such option", "`kilofed run --help` shows the options"),
        (["run", "--rounds", "0"], "invalid value for '--rounds'", "`kilofed run --help` shows the options"),
        (["run", "--listen", "x"], "'x' is not HOST:PORT", "`kilofed run --help` shows the options"),
        (["inspect"], "missing argument 'MODEL'", "`kilofed inspect --help` shows the options"),
        (["inspect", "no.tflite"], "does not exist", "`kilofed inspect --help` shows the options"),
        (["fly"], "no such command 'fly'", "`kilofed --help` shows the commands"),
        (["build"], "it is one or more boards, or all", "give --board NAME or --all"),
        (["export", "."], "nothing to write", "give --out, --updates or both"),
    ],
)
def test_wrong_usage_ends_in_the_next_step(
    arguments: list[str], error: str, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said, then = error_of(capsys, arguments, 2).split("\n")
    assert said.startswith("error 2: ")
    assert error in said
    assert step in then


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "next: `kilofed-pi --help` shows the options"),
        (["--id", "00", "--settings", "{model}"], "next: give one of them; `kilofed pi` writes settings"),
    ],
)
def test_the_linux_devices_program_does_the_same(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["--connect", "a:1", "--model", str(MODEL), "--samples", str(MODEL)] if arguments else []
    monkeypatch.setattr(sys, "argv", ["kilofed-pi", *[a.format(model=MODEL) for a in arguments], *rest])
    with pytest.raises(SystemExit) as left:
        kilofed_pi()
    assert left.value.code == 2
    error, step = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error 2: ")
    assert step.startswith(words)


def test_a_page_that_is_none_is_named_with_what_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "settings.bin"
    page.write_bytes(b"no page at all")
    rest = ["--connect", "a:1", "--model", str(MODEL), "--samples", str(MODEL)]
    monkeypatch.setattr(sys, "argv", ["kilofed-pi", "--settings", str(page), *rest])
    with pytest.raises(SystemExit) as left:
        kilofed_pi()
    assert left.value.code == 1
    error, step = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith(f"error 300: {page}: the")
    assert step == "next: `kilofed pi --name NAME` writes the page of a Linux device"


def test_the_tools_help_speaks_of_linux_devices() -> None:
    assert "pi" in COMMANDS
    from kilofed.cli import cli

    said = CliRunner().invoke(cli, ["--help"]).output
    assert "`kilofed-pi`" in said


@pytest.mark.parametrize("arguments", [[], ["fleet"]])
def test_a_group_alone_prints_its_help_as_help_does(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--help"]) == 0
    wanted = capsys.readouterr()
    assert len(wanted.out.splitlines()) > 10
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert said.out.strip() == wanted.out.strip()
    assert said.err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is full")
@pytest.mark.parametrize("arguments", [["boards"], ["boards", "--json"], ["fleet"]])
def test_output_that_finds_no_room_is_an_error_with_a_next_step(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-c", "from kilofed.cli import main; main()", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error 600: the output cannot be written (No space left on device)",
        "next: make room there, or send it elsewhere",
    ]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/srv/x"),
            "error 600: /srv/x cannot be used (Permission denied)\n"
            "next: get the right to use it, or name another place",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"),
            "error 600: a/b cannot be used (Not a directory)\nnext: name another place",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "error 600: the system refuses: Too many open files\n"
            "next: raise the limit of open files (ulimit -n), and try again",
        ),
        (
            OSError("odd"),
            "error 600: the system refuses: odd\nnext: run it again with --debug, which shows at what",
        ),
    ],
)
def test_what_the_system_refuses_is_no_fault_of_ours(
    raised: OSError,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(folder: Path) -> None:
        raise raised

    monkeypatch.setattr("kilofed.report.report", refuse)
    assert error_of(capsys, ["report", str(tmp_path)], 1) == said


def test_a_folder_for_boards_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    below = tmp_path / "file" / "boards"
    with pytest.raises(EmulatorError, match=r"cannot be made \(Not a directory\)"):
        Emulator(load("mps2-an386"), below)
    with pytest.raises(BoardError, match=r"cannot be written \(Not a directory\)"):
        Process(["true"], log=below / "log").start()
    words = ["emulate", "--board", "mps2-an386", "--folder", str(below)]
    assert "error 340: " in error_of(capsys, words, 1)


@pytest.mark.parametrize("command", ["eval {model}", "run --model {model} --native 1 --out {dir}/run"])
def test_a_model_of_another_shape_is_not_given_digits(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "plain.tflite"
    assert run(["convert", str(ROOT / "tests" / "data" / "foreign" / model.name), "--out", str(model)]) == 0
    said = error_of(capsys, command.format(model=model, dir=tmp_path).split(), 1)
    assert "error 130: the default samples are digits, 784 values each of 10 classes" in said
    assert "next: give --data FILE" in said
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_is_not_told_to_bring_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.png").write_bytes(b"\x89PNG")
    said = error_of(capsys, ["convert", str(tmp_path / "t.png"), "--out", str(tmp_path / "o.tflite")], 1)
    assert "error 120: " in said
    assert "t.png is neither a .keras or .h5 file nor a SavedModel folder" in said
    (tmp_path / "t.keras").write_bytes(b"PK")
    said = error_of(capsys, ["convert", str(tmp_path / "t.keras"), "--out", str(tmp_path / "o.tflite")], 2)
    assert "next: give --data" in said


def test_a_result_says_which_folder_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder" / "out.tflite"
    for made in (True, False):
        assert run(["convert", str(MODEL), "--out", str(out)]) == 0
        assert (f"note: made the folder {out.parent}" in capsys.readouterr().err) == made
    said = error_of(capsys, ["convert", str(MODEL), "--out", str(out / "below.tflite")], 1)
    assert "error 400: " in said
    assert "cannot be written" in said


def test_a_board_that_is_not_there_is_missed_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("it builds for nobody")

    monkeypatch.setattr(sys.modules[build_module.__module__], "link", never)
    fleet = tmp_path / "fleet.sqlite"
    words = ["flash", "--board", "microbit", "--target", "127.0.0.1:1", "--name", "a", "--fleet", str(fleet)]
    said = error_of(capsys, [*words, "--model", str(MODEL)], 1)
    assert "error 350: no GDB server at 127.0.0.1:1" in said


def test_the_hint_after_a_run_names_a_program_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "a b" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "kilofed"):
        (programs / name).write_text("")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert display.program() == "'a b/bin/kilofed'"
    monkeypatch.setenv("PATH", f"/usr/bin{os.pathsep}{programs}")
    assert display.program() == "kilofed"
    other = tmp_path / "other"
    other.mkdir()
    (other / "kilofed").write_text("")
    (other / "kilofed").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}{os.pathsep}{programs}")
    assert display.program() == "'a b/bin/kilofed'", "another one would be found"
    (programs / "kilofed").unlink()
    assert display.program() == "kilofed", "nothing better is known"


def test_what_a_test_set_is_by_default_depends_on_who_starts_the_devices() -> None:
    (option,) = [p for p in run_command.params if "--test" in p.opts]
    text = getattr(option, "help", "")
    assert "for started devices" in text
    assert "for others none" in text


def test_a_demo_without_the_repository_has_one_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Path:
        raise DataError("the digits model is part of the repository", "give --model")

    monkeypatch.setattr(demo, "digits_model_path", missing)
    said = error_of(capsys, ["demo"], 1)
    assert said.endswith("next: run `make demo` in a clone of the repository")
