"""The systemd unit of kilofed-pi: the same command, at every start, with as few rights as it needs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kilofed_pi.service import unit

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits" / "digits.tflite"


def settings_of(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a name that needs care, and in it what a device reads."""
    place = tmp_path / "my 100% attic"
    place.mkdir()
    for name in ("settings.bin", "samples.bin"):
        (place / name).write_bytes(b"x")
    monkeypatch.chdir(place)
    return place


def printed(*arguments: str) -> str:
    command = [sys.executable, "-m", "kilofed_pi", "--connect", "gateway:7300", "--model", str(MODEL)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_the_same_command_from_anywhere(folder: Path) -> None:
    found = settings_of(
        printed("--samples", "samples.bin", "--settings=settings.bin", "--unit", "--ring", "40")
    )
    command = [part.replace("%%", "%") for part in shlex.split(found["ExecStart"])]
    assert command[:3] == [sys.executable, "-m", "kilofed_pi"]
    assert command[3:] == [
        "--connect", "gateway:7300", "--model", str(MODEL), "--samples", str(folder / "samples.bin"),
        f"--settings={folder / 'settings.bin'}", "--ring", "40",
    ]  # fmt: skip
    assert found["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in found


def test_who_joins_by_a_code_may_write_the_key(folder: Path) -> None:
    found = settings_of(
        printed("--samples", "samples.bin", "--settings", "new.bin", "--enroll", "CODE", "--unit")
    )
    assert shlex.split(found["ReadWritePaths"])[0].replace("%%", "%") == str(folder)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_it(folder: Path, tmp_path: Path) -> None:
    service = tmp_path / "kilofed-pi.service"
    service.write_text(printed("--samples", "samples.bin", "--settings", "settings.bin", "--unit"))
    done = subprocess.run(["systemd-analyze", "verify", str(service)], capture_output=True, text=True)
    # Of what else is wrong on this machine it speaks too.
    assert not [line for line in done.stderr.splitlines() if "kilofed-pi" in line], done.stderr
    service.write_text(service.read_text().replace("Nice=10", "Nice=many"))
    bad = subprocess.run(["systemd-analyze", "verify", str(service)], capture_output=True, text=True)
    assert "kilofed-pi.service" in bad.stderr, "it does read the file"


@pytest.mark.parametrize("argument", ["a\nExecStart=/bin/sh", "a\rb", "a\0b"])
def test_nothing_else_gets_into_it(argument: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a unit"):
        unit(["kilofed-pi", argument], user="pi")


def test_what_systemd_would_expand_is_escaped() -> None:
    found = settings_of(unit(["kilofed-pi", "$HOME", "%h", 'a"b\\c', ""], user="pi"))
    assert found["ExecStart"] == 'kilofed-pi $$HOME %%h "a\\"b\\\\c" ""'
