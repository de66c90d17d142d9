"""`kilofed fleet`: what is shown, what changes, and that no key is ever printed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from kilofed.boards import settings
from kilofed.cli import run
from kilofed.fleet import Device, Fleet, new_identity


@pytest.fixture
def register(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.sqlite"
    with Fleet(path) as fleet:
        for name in ("anna", "bert"):
            fleet.add(new_identity(name, "pi"))
    return path


def devices(path: Path) -> dict[str, Device]:
    with Fleet(path) as fleet:
        return {device.name: device for device in fleet.all()}


def say(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str, status: int = 0) -> str:
    """What a command prints; and that no key of the register is in it."""
    before = devices(path)
    assert run(["fleet", *arguments, "--fleet", str(path)]) == status
    said = capsys.readouterr()
    for device in [*before.values(), *devices(path).values()]:
        for key in (device.key, device.next_key):
            if key is not None and any(key):
                assert key.hex() not in said.out + said.err
    return said.out if status == 0 else said.err


def test_devices_are_listed_by_group(capsys: pytest.CaptureFixture[str], register: Path) -> None:
    say(capsys, register, "group", "anna", "--to", "attic")
    assert [row["name"] for row in json.loads(say(capsys, register, "list", "--json"))] == ["anna", "bert"]
    listed = say(capsys, register, "list", "--group", "attic")
    assert "anna" in listed and "bert" not in listed and "encrypted" in listed
    say(capsys, register, "group", "anna", "bert", "--to", "")
    assert json.loads(say(capsys, register, "list", "--group", "attic", "--json")) == []


def test_a_linux_device_s_key_is_replaced(
    capsys: pytest.CaptureFixture[str], register: Path, tmp_path: Path
) -> None:
    old = devices(register)["anna"]
    (shown,) = [json.loads(say(capsys, register, "rotate", "anna", "--out", str(tmp_path / "a"), "--json"))]
    assert shown["new_key_waits"] and shown["link"] == "new key waits"
    page = tmp_path / "a" / "settings.bin"
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    identity = settings.decode(page.read_bytes())
    now = devices(register)["anna"]
    assert identity.id == old.id and identity.key == now.next_key != old.key == now.key
    assert "give --target" in say(capsys, register, "rotate", "anna", status=2)


def test_revoked_devices_stay_listed(capsys: pytest.CaptureFixture[str], register: Path) -> None:
    assert "revoked" in say(capsys, register, "revoke", "anna")
    assert devices(register)["anna"].keys == ()
    rows = {row["name"]: row for row in json.loads(say(capsys, register, "list", "--json"))}
    assert rows["anna"]["link"] == "revoked" and rows["bert"]["link"] == "encrypted"


def test_all_are_known_or_none_changes(capsys: pytest.CaptureFixture[str], register: Path) -> None:
    said = say(capsys, register, "revoke", "bert", "nobody", status=1)
    assert "error 420" in said and devices(register)["bert"].keys


def test_a_device_is_renamed(capsys: pytest.CaptureFixture[str], register: Path) -> None:
    say(capsys, register, "rename", "anna", "carl")
    assert set(devices(register)) == {"carl", "bert"}
    assert "error 420" in say(capsys, register, "rename", "bert", "carl", status=1)


def test_a_register_that_others_could_read_is_warned_of(
    capsys: pytest.CaptureFixture[str], register: Path
) -> None:
    register.chmod(0o640)
    assert run(["fleet", "list", "--fleet", str(register)]) == 0
    assert "mode 640" in capsys.readouterr().err


def test_who_speaks_in_the_clear_is_said_loudly(capsys: pytest.CaptureFixture[str], register: Path) -> None:
    with Fleet(register) as fleet:
        fleet.seen(fleet.find("anna").id, encrypted=False)
    assert run(["devices", "--fleet", str(register)]) == 0
    said = capsys.readouterr()
    assert "in the clear" in said.out and "WARNING" in said.err


def test_strangers_need_insecure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--listen", "127.0.0.1:0", "--expect", "1", "--anybody"]) == 2
    assert "--insecure" in capsys.readouterr().err
