"""`kilofed pi`: what it writes is what kilofed-pi joins with, and what the host lets in."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.memory_fleet import MODEL

from kilofed.boards import placed, settings
from kilofed.cli import common, run
from kilofed.fleet import NAME_RULE, Fleet
from kilofed.samples import digits_pool
from kilofed.store import open_run


def pi(folder: Path, *arguments: object, status: int = 0) -> None:
    """`kilofed pi` with a register of its own."""
    words = [
        "pi",
        "--model",
        MODEL,
        "--fleet",
        folder / "fleet.sqlite",
        "--out",
        folder / "attic",
        *arguments,
    ]
    assert run([str(word) for word in words]) == status


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Thirty samples of one's own, as an .npz."""
    pool = digits_pool()
    path = tmp_path / "own.npz"
    np.savez(path, inputs=pool.inputs[:30], labels=pool.labels[:30])
    return path


def test_it_registers_the_device_whose_page_it_writes(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pi(tmp_path, "--name", "attic", "--data", data, "--json")
    made = json.loads(capsys.readouterr().out)
    page = Path(made["settings"])
    identity = settings.decode(page.read_bytes())
    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        (device,) = fleet.all()
    assert (identity.id, identity.key, identity.name) == (device.id, device.key, "attic")
    assert (device.board, device.hex) == ("pi", made["id"])
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    inputs, labels = placed.decode(Path(made["data"]).read_bytes())
    assert (inputs == digits_pool().inputs[:30]).all()
    assert (labels == digits_pool().labels[:30]).all()
    assert made["samples"] == 30
    pi(tmp_path, "--name", "cellar", "--data", data)
    captured = capsys.readouterr()
    assert device.key.hex() not in captured.out + captured.err
    assert "next: kilofed-pi --connect HOST:7300 --model" in captured.err


def test_a_page_that_all_could_read_is_its_owners_afterwards(tmp_path: Path) -> None:
    page = tmp_path / "attic" / "settings.bin"
    page.parent.mkdir()
    page.write_bytes(b"old")
    page.chmod(0o644)
    pi(tmp_path, "--name", "attic")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


def test_where_the_samples_are_nothing_is_registered(tmp_path: Path, data: Path) -> None:
    pi(tmp_path, "--data", data, "--samples", 7)
    assert sorted(p.name for p in (tmp_path / "attic").iterdir()) == ["samples.bin"]
    assert not (tmp_path / "fleet.sqlite").exists()
    _, labels = placed.decode((tmp_path / "attic" / "samples.bin").read_bytes())
    first = labels.tolist()
    assert len(first) == 7
    for seed, same in ((1, True), (2, False)):
        pi(tmp_path, "--data", data, "--samples", 7, "--seed", seed)
        _, labels = placed.decode((tmp_path / "attic" / "samples.bin").read_bytes())
        assert (labels.tolist() == first) == same


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "error 2: nothing to make\nnext: give --name, --data or both"),
        (["--name", "attic"], 1, "error 420: a device named attic is registered already"),
        (["--name", "a b"], 1, f"next: use {NAME_RULE}"),
        (["--name", "-attic"], 1, f"next: use {NAME_RULE}"),
        (["--samples", "2001"], 1, "error 130: there are 2000 samples, 2001 are asked for"),
        (["--data", MODEL], 1, "error 130: digits.tflite cannot be read"),
        (
            ["--name", "other", "--out", "/dev/null/x"],
            1,
            "error 400: /dev/null/x/settings.bin cannot be written",
        ),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_is_registered(
    arguments: list[Any], status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pi(tmp_path, "--name", "attic")
    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        before = fleet.all()
    capsys.readouterr()
    pi(tmp_path, *arguments, status=status)
    assert words in capsys.readouterr().err
    with Fleet(tmp_path / "fleet.sqlite") as fleet:
        assert fleet.all() == before


def test_a_name_may_be_given_to_another_device(tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        pi(tmp_path, "--name", "attic", "--replace")
        with Fleet(tmp_path / "fleet.sqlite") as fleet:
            keys |= {device.key for device in fleet.all()}
    assert len(keys) == 2


def test_help_and_register_have_one_rule_for_names() -> None:
    assert common.NAME_RULE == NAME_RULE


def test_a_device_made_by_it_takes_part_in_a_run(tmp_path: Path) -> None:
    pi(tmp_path, "--name", "attic", "--samples", 40)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    files = [
        "--settings",
        tmp_path / "attic" / "settings.bin",
        "--samples",
        tmp_path / "attic" / "samples.bin",
    ]
    joining = [sys.executable, "-m", "kilofed_pi", "--connect", address, "--model", MODEL, *files]
    command = ["run", "--listen", address, "--expect", "1", "--rounds", "2", "--out", tmp_path / "run"]
    command += ["--fleet", tmp_path / "fleet.sqlite", "--model", MODEL]
    with subprocess.Popen(joining, stderr=subprocess.PIPE, text=True) as device:
        try:
            code = "import sys; from kilofed.cli import main; main(sys.argv[1:])"
            done = subprocess.run(
                [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120
            )
        finally:
            device.send_signal(signal.SIGTERM)
            said = device.communicate(timeout=60)[1]
    assert done.returncode == 0, done.stderr
    assert device.returncode == 0
    assert "attic: 40 samples" in said
    with open_run(tmp_path / "run") as finished:
        assert [(d.name, d.board, d.samples + d.held_out) for d in finished.devices()] == [
            ("attic", "pi", 40)
        ]
        assert [[d.name for d in r.taken] for r in finished.rounds()] == [["attic"]] * 2
