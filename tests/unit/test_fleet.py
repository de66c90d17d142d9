"""The register of devices: who is known, who is let in, and where keys do not go."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kilofed.errors import FleetError
from kilofed.fleet import NO_KEY, Device, Fleet, default_path, exposure, new_identity


@dataclass
class Hello:
    device_id: bytes


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "deep" / "fleet.sqlite") as fleet:
        yield fleet


def test_a_registered_device_is_found_by_name_and_id(fleet: Fleet) -> None:
    anna = new_identity("anna", "microbit", now=5.0)
    fleet.add(anna)
    assert (
        fleet.find("anna")
        == fleet.find(anna.hex)
        == fleet.find(anna.hex.upper())
        == fleet.get(anna.id)
        == anna
    )
    assert fleet.all() == [anna]


def test_the_register_outlives_the_process(fleet: Fleet) -> None:
    anna = new_identity("anna", "microbit")
    fleet.add(anna)
    fleet.seen(anna.id, now=77.5)
    with Fleet(fleet.path) as again:
        found = again.find("anna")
        assert found.key == anna.key
        assert found.last_seen == 77.5


def test_only_registered_devices_are_let_in(fleet: Fleet) -> None:
    anna = new_identity("anna", "microbit")
    assert fleet.admit(Hello(anna.id)) == 3
    fleet.add(anna)
    assert fleet.admit(Hello(anna.id)) == 0
    fleet.remove("anna")
    assert fleet.admit(Hello(anna.id)) == 3


def test_a_name_or_id_is_given_once(fleet: Fleet) -> None:
    anna = new_identity("anna", "microbit")
    fleet.add(anna)
    twin = new_identity("anna", "mps2-an386")
    same_id = Device(anna.id, "bert", "microbit", bytes(32), 0.0)
    for other in (twin, same_id):
        with pytest.raises(FleetError, match="anna is registered already"):
            fleet.add(other)
    fleet.add(twin, replace=True)
    assert fleet.all() == [twin]


def test_asking_for_a_stranger_names_the_next_step(fleet: Fleet) -> None:
    for ask in (fleet.find, fleet.remove):
        with pytest.raises(FleetError, match="kilofed flash") as caught:
            ask("nobody")
        assert caught.value.device == "nobody"
        assert caught.value.code == 420


@pytest.mark.parametrize("name", ["", "thirteen-long", "two words", "-dash", "ümlaut", "a/b", "a\n"])
def test_names_no_device_can_hold(name: str) -> None:
    with pytest.raises(FleetError, match="cannot be the name"):
        new_identity(name, "microbit")


def test_identities_are_fresh() -> None:
    one, two = new_identity("a", "microbit"), new_identity("b", "microbit")
    assert one.id != two.id
    assert one.key != two.key
    assert (len(one.id), len(one.key)) == (8, 32)


def test_a_key_is_in_no_repr() -> None:
    device = new_identity("anna", "microbit")
    assert repr(device.key) not in repr(device)
    assert device.key.hex() not in repr(device)


def test_nobody_else_may_read_the_register(fleet: Fleet) -> None:
    fleet.add(new_identity("anna", "microbit"))
    files = list(fleet.path.parent.iterdir())
    assert len(files) >= 2, "the -wal file should be there while the register is open"
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_register_of_another_version_is_refused(fleet: Fleet) -> None:
    fleet._db.execute("UPDATE meta SET value = '9' WHERE key = 'schema'")
    with pytest.raises(FleetError, match="schema 9"):
        Fleet(fleet.path)


def test_a_file_that_is_no_register_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.sqlite"
    path.write_bytes(b"something else entirely, long enough to be looked at. " * 50)
    with pytest.raises(FleetError, match="cannot be used"):
        Fleet(path)


def test_the_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_path() == Path("/somewhere/kilofed/fleet.sqlite")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/anna")
    assert default_path() == Path("/home/anna/.local/share/kilofed/fleet.sqlite")


# ---- keys ------------------------------------------------------------------------------------------------


def test_a_new_key_replaces_the_old_one_when_it_was_used(fleet: Fleet) -> None:
    anna = new_identity("anna", "pi")
    fleet.add(anna)
    assert fleet.keys(anna.id) == (anna.key,) and fleet.keys(b"nobody..") == ()
    turned = fleet.rotate("anna")
    assert turned.next_key is not None and turned.next_key != anna.key
    assert fleet.keys(anna.id) == (turned.next_key, anna.key)
    assert fleet.rotate("anna").next_key == turned.next_key, "the one that may be in the device already"
    assert not fleet.used(anna.id, anna.key) and fleet.keys(anna.id) == (turned.next_key, anna.key)
    assert fleet.used(anna.id, turned.next_key)
    assert fleet.keys(anna.id) == (turned.next_key,)
    assert not fleet.used(anna.id, turned.next_key) and not fleet.used(b"nobody..", anna.key)


def test_a_revoked_device_is_let_in_no_more_and_its_key_is_gone(fleet: Fleet) -> None:
    anna = new_identity("anna", "pi")
    fleet.add(anna)
    fleet.rotate("anna")
    fleet.revoke("anna", now=9.0)
    assert fleet.admit(Hello(anna.id)) == 3 and fleet.keys(anna.id) == ()
    gone = fleet.find("anna")
    assert (gone.key, gone.next_key, gone.revoked) == (NO_KEY, None, 9.0)
    with pytest.raises(FleetError, match="anna is revoked") as caught:
        fleet.rotate("anna")
    assert caught.value.next_step == "`kilofed pi --name anna --replace` gives it a new identity"
    fleet.add(new_identity("bert", "microbit"))
    fleet.revoke("bert")
    with pytest.raises(FleetError, match="`kilofed flash --name bert --replace`"):
        fleet.rotate("bert")


def test_a_device_without_a_key_has_none(fleet: Fleet) -> None:
    fleet.add(Device(b"no key..", "anna", "pi", NO_KEY, 0.0))
    assert fleet.keys(b"no key..") == () and fleet.admit(Hello(b"no key..")) == 0


def test_devices_are_renamed_and_grouped(fleet: Fleet) -> None:
    anna, bert = new_identity("anna", "pi"), new_identity("bert", "pi")
    fleet.add(anna)
    fleet.add(bert)
    assert fleet.rename("anna", "carl").id == anna.id and fleet.find("carl").key == anna.key
    assert fleet.rename("carl", "carl").name == "carl"
    with pytest.raises(FleetError, match="bert is registered already"):
        fleet.rename("carl", "bert")
    with pytest.raises(FleetError, match="cannot be the name of a device"):
        fleet.rename("carl", "two words")
    assert fleet.group("bert", "ground floor").group == "ground floor" == fleet.find("bert").group
    assert fleet.group("bert", "").group == ""
    for bad in ("x" * 33, "a\nb"):
        with pytest.raises(FleetError, match="cannot be the name of a group"):
            fleet.group("bert", bad)


def test_a_register_of_schema_1_is_read_and_keeps_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "fleet.sqlite"
    old = sqlite3.connect(path)
    old.executescript(
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE devices (id BLOB PRIMARY KEY CHECK (length(id) = 8), name TEXT NOT NULL UNIQUE,"
        " board TEXT NOT NULL, key BLOB NOT NULL CHECK (length(key) = 32), created REAL NOT NULL,"
        " last_seen REAL) WITHOUT ROWID;"
        "INSERT INTO meta VALUES ('schema', '1');"
    )
    key = bytes(range(32))
    old.execute("INSERT INTO devices VALUES (?, 'anna', 'pi', ?, 1.0, 2.0)", (b"device 1", key))
    old.commit()
    old.close()
    for _ in range(2):
        with Fleet(path) as fleet:
            assert fleet.all() == [Device(b"device 1", "anna", "pi", key, 1.0, 2.0)]
            assert fleet.keys(b"device 1") == (key,)
    assert fleet.warning == ""


def test_a_register_that_others_could_read_is_said_and_closed(fleet: Fleet) -> None:
    assert fleet.warning == ""
    fleet.path.chmod(0o644)
    assert "had mode 644" in exposure(fleet.path)
    with Fleet(fleet.path) as again:
        assert "others could read" in again.warning
    assert exposure(fleet.path) == "" and exposure(fleet.path / "not there") == ""


def test_what_a_session_was_like_is_kept(fleet: Fleet) -> None:
    anna = new_identity("anna", "pi")
    fleet.add(anna)
    assert fleet.find("anna").encrypted is None
    for encrypted in (True, False):
        fleet.seen(anna.id, encrypted=encrypted)
        assert fleet.find("anna").encrypted is encrypted


def test_many_devices_are_registered_together_or_not_at_all(fleet: Fleet) -> None:
    made = [new_identity(f"d-{number}", "posix") for number in range(20)]
    fleet.add_all(made[:10])
    with pytest.raises(FleetError, match="d-3"):
        fleet.add_all([*made[10:], made[3]])
    assert {device.name for device in fleet.all()} == {f"d-{number}" for number in range(10)}
