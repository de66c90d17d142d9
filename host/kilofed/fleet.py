"""The register of devices a host knows: who they are, and the key each was given when it was flashed.

One SQLite file (WAL, mode 0600). A key leaves this module through `Device` and `Fleet.keys` only; it is never
printed, logged or part of a repr. A key is replaced in two steps: `rotate` puts the next one beside it, and
the first session that is made of the next one (`used`) makes the old one void. So whatever happens between
them, the device is let in.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from kilofed.errors import FleetError

SCHEMA = 3
ID_BYTES = 8
KEY_BYTES = 32
NAME_BYTES = 12
GROUP_BYTES = 32
ENROL_SECONDS = 3600.0  # a code that was not used within an hour is void
NO_KEY = bytes(KEY_BYTES)  # of a device that was flashed without one: its sessions are in the clear

#: Answers to a hello (PROTOCOL.md, reasons of `refuse`).
WELCOME = 0
REFUSED_UNKNOWN = 3

#: What a device may be called, in words.
NAME_RULE = "1 to 12 letters, digits, dots, dashes and underscores, no sign first"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE devices (
    id BLOB PRIMARY KEY CHECK (length(id) = 8), name TEXT NOT NULL UNIQUE, board TEXT NOT NULL,
    key BLOB NOT NULL CHECK (length(key) = 32), created REAL NOT NULL, last_seen REAL,
    next_key BLOB CHECK (length(next_key) = 32), revoked REAL, encrypted INTEGER,
    grouped TEXT NOT NULL DEFAULT '', enrolling INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
#: Schema -> what the next one added.
_SINCE = {
    "1": """
ALTER TABLE devices ADD COLUMN next_key BLOB CHECK (length(next_key) = 32);
ALTER TABLE devices ADD COLUMN revoked REAL;
ALTER TABLE devices ADD COLUMN encrypted INTEGER;
ALTER TABLE devices ADD COLUMN grouped TEXT NOT NULL DEFAULT '';
""",
    "2": "ALTER TABLE devices ADD COLUMN enrolling INTEGER NOT NULL DEFAULT 0;",
}


class SaysHello(Protocol):
    """What `Fleet.admit` reads of a hello message."""

    @property
    def device_id(self) -> bytes: ...


@dataclass(frozen=True)
class Device:
    """A registered device.

    id: 8 bytes. key: 32 bytes, NO_KEY for none. created, last_seen: Unix time, None when never seen.
    next_key: the key that is to replace it, None when none is. revoked: Unix time since when it is not let
    in, None for one that is. encrypted: whether its last session was; None when never seen. group: a word of
    its owner's, "" for none. enrolling: its key comes from a code that was shown when it was `created`; it
    is good for ENROL_SECONDS or until it was replaced.
    """

    id: bytes
    name: str
    board: str
    key: bytes = field(repr=False)
    created: float
    last_seen: float | None = None
    next_key: bytes | None = field(default=None, repr=False)
    revoked: float | None = None
    encrypted: bool | None = None
    group: str = ""
    enrolling: bool = False

    @property
    def hex(self) -> str:
        """The id as it is shown, 16 hex digits."""
        return self.id.hex()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys it may hold, the newest first; empty when it is revoked or has none."""
        expired = self.enrolling and time.time() > self.created + ENROL_SECONDS
        known = (self.next_key, NO_KEY if expired else self.key)
        return tuple(k for k in known if k is not None and k != NO_KEY and self.revoked is None)


def default_path() -> Path:
    """Where the user's register lies.

    $XDG_DATA_HOME/kilofed/fleet.sqlite, by default under ~/.local/share.
    """
    base = os.environ.get("XDG_DATA_HOME") or ""
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return root / "kilofed" / "fleet.sqlite"


def new_identity(
    name: str,
    board: str,
    *,
    device_id: bytes | None = None,
    rng: Callable[[int], bytes] = secrets.token_bytes,
    now: float | None = None,
) -> Device:
    """A device nobody has registered yet, with a fresh key, and a fresh id unless one is given.

    FleetError for a name that no device can hold.
    """
    _check_name(name)
    number = rng(ID_BYTES) if device_id is None else device_id
    return Device(number, name, board, rng(KEY_BYTES), time.time() if now is None else now)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name.encode()) > NAME_BYTES:
        raise FleetError(
            f"{name!r} cannot be the name of a device",
            f"use {NAME_RULE}",
            device=name,
        )


def exposure(path: Path) -> str:
    """Who could read the keys in a file, in words for its owner; "" when nobody else, or it is not there."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return ""
    if not mode & 0o077:
        return ""
    return f"{path} holds keys and had mode {mode:03o}, so others could read them: rotate them if one did"


def again(device: Device) -> str:
    """The command that gives a device, known by this name, a new identity."""
    if device.board == "pi":  # what a Linux device calls its board
        return f"`kilofed pi --name {device.name} --replace`"
    return f"`kilofed flash --name {device.name} --replace`"


class Fleet:
    """The register, open. A context manager; several processes may hold the same file open."""

    def __init__(self, path: Path) -> None:
        """Opens the register at `path`, or makes it. FleetError when that cannot be done.

        warning: said to its owner when others could read it until now, else "".
        """
        self.path = path
        self.warning = exposure(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made before SQLite sees it, so that neither it nor its -wal is ever readable by others.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise FleetError(
                f"the register {path} cannot be used ({error})",
                "check its folder, or name another with --fleet",
                path=str(path),
            ) from error  # fmt: skip

    def _prepare(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            known = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
            if known is None:
                for statement in _TABLES.split(";"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute("INSERT INTO meta (key, value) VALUES ('schema', ?)", (str(SCHEMA),))
            else:
                self._migrate()
        finally:
            self._db.execute("COMMIT")
        row = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if row is None or row[0] != str(SCHEMA):
            version = "none" if row is None else row[0]
            self._db.close()
            raise FleetError(
                f"the register {self.path} has schema {version}, this program reads {SCHEMA}",
                "use the version of kilofed that made it, or name another with --fleet",
                path=str(self.path),
            )

    def _migrate(self) -> None:
        """Brings an older register to this schema, step by step."""
        while True:
            row = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
            steps = _SINCE.get(row[0] if row else "")
            if steps is None:
                return
            for statement in steps.split(";"):
                if statement.strip():
                    self._db.execute(statement)
            self._db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(int(row[0]) + 1),))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def add(self, device: Device, *, replace: bool = False) -> None:
        """Registers a device.

        A name or id that is taken is a FleetError, unless `replace` puts it in its place.
        """
        self.add_all([device], replace=replace)

    def add_all(self, devices: Iterable[Device], *, replace: bool = False) -> None:
        """Registers many devices, or none of them when one cannot be: see `add`."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for device in devices:
                self._insert(device, replace)

    def _insert(self, device: Device, replace: bool) -> None:
        taken = self._db.execute(
            "SELECT name FROM devices WHERE id = ? OR name = ?", (device.id, device.name)
        ).fetchone()
        if taken is not None and not replace:
            raise FleetError(
                f"a device named {taken[0]} is registered already",
                "choose another name, or remove it with `kilofed devices --remove`",
                path=str(self.path),
                device=device.name,
            )
        self._db.execute("DELETE FROM devices WHERE id = ? OR name = ?", (device.id, device.name))
        self._db.execute(
            f"INSERT INTO devices ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                device.id, device.name, device.board, device.key, device.created, device.last_seen,
                device.next_key, device.revoked, device.encrypted, device.group, device.enrolling,
            ),
        )  # fmt: skip

    def all(self) -> list[Device]:
        """Every device, by name."""
        return [_device(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM devices ORDER BY name")]

    def get(self, device_id: bytes) -> Device | None:
        """The device with this id, None when it is not registered."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM devices WHERE id = ?", (device_id,)).fetchone()
        return None if row is None else _device(row)

    def find(self, name_or_id: str) -> Device:
        """The device with this name, or this id in hex. FleetError when there is none."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM devices WHERE name = ? OR lower(hex(id)) = lower(?)",
            (name_or_id, name_or_id),
        ).fetchone()
        if row is None:
            raise FleetError(
                f"no device {name_or_id!r} is registered",
                "`kilofed devices` lists them, `kilofed flash` registers one",
                path=str(self.path),
                device=name_or_id,
            )
        return _device(row)

    def remove(self, name_or_id: str) -> Device:
        """Forgets a device and its key; returns what it was. FleetError when there is none."""
        device = self.find(name_or_id)
        self._db.execute("DELETE FROM devices WHERE id = ?", (device.id,))
        return device

    def rename(self, name_or_id: str, name: str) -> Device:
        """Calls a device otherwise, on this host. FleetError for a name that is taken or cannot be one."""
        _check_name(name)
        device = self.find(name_or_id)
        if any(known.name == name and known.id != device.id for known in self.all()):
            raise FleetError(
                f"a device named {name} is registered already", "choose another name", device=name
            )
        self._set(device, name=name)
        return replace(device, name=name)

    def group(self, name_or_id: str, group: str) -> Device:
        """Puts a device into a group of its owner's making; "" takes it out."""
        if len(group.encode()) > GROUP_BYTES or any(not char.isprintable() for char in group):
            raise FleetError(
                f"{group!r} cannot be the name of a group", f"use at most {GROUP_BYTES} printable bytes"
            )
        device = self.find(name_or_id)
        self._set(device, grouped=group)
        return replace(device, group=group)

    def rotate(self, name_or_id: str, *, rng: Callable[[int], bytes] = secrets.token_bytes) -> Device:
        """Makes a new key for a device, beside the old one, which stays good until the new one was used.

        Twice gives the same: the key that a half-done replacement wrote into the device must stay known.
        FleetError for a device that is revoked.
        """
        device = self.find(name_or_id)
        if device.revoked is not None:
            raise FleetError(
                f"{device.name} is revoked", f"{again(device)} gives it a new identity", device=device.name
            )
        key = device.next_key or rng(KEY_BYTES)
        self._set(device, next_key=key)
        return replace(device, next_key=key)

    def revoke(self, name_or_id: str, *, now: float | None = None) -> Device:
        """Lets a device in no more, and forgets its keys. It stays listed, with the time."""
        device = self.find(name_or_id)
        when = time.time() if now is None else now
        self._set(device, key=NO_KEY, next_key=None, revoked=when)
        return replace(device, key=NO_KEY, next_key=None, revoked=when)

    def _set(self, device: Device, **columns: object) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._db:
            self._db.execute(f"UPDATE devices SET {names} WHERE id = ?", (*columns.values(), device.id))

    def keys(self, device_id: bytes) -> tuple[bytes, ...]:
        """The link's question which keys the device with this id may hold, the newest first."""
        device = self.get(device_id)
        return () if device is None else device.keys

    def used(self, device_id: bytes, key: bytes) -> bool:
        """Notes that a session was made of `key`. True when that ended a replacement: the old key is void."""
        device = self.get(device_id)
        if device is None or device.next_key is None or device.next_key != key:
            return False
        self._set(device, key=key, next_key=None, enrolling=False)
        return True

    def enrolled(self, device_id: bytes, key: bytes, made: bytes) -> bool:
        """Notes that a session was made of a code's key; `made` is what replaces it. False: it was no code's.

        The device keeps `made`, too; the first session that is made of it makes the code void.
        """
        device = self.get(device_id)
        if device is None or not device.enrolling or device.key != key:
            return False
        self._set(device, next_key=made)
        return True

    def seen(self, device_id: bytes, *, encrypted: bool | None = None, now: float | None = None) -> None:
        """Notes that a device opened a session, and whether it was encrypted."""
        when = time.time() if now is None else now
        try:
            # When a device was seen need not outlive a power cut, and ten thousand may come at once.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "UPDATE devices SET last_seen = ?, encrypted = ? WHERE id = ?", (when, encrypted, device_id)
            )
        except sqlite3.Error as error:
            raise FleetError(
                f"the register {self.path} cannot be written ({error})",
                "make room on its disk, then start the same command again",
                path=str(self.path),
            ) from error
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    def admit(self, hello: SaysHello) -> int:
        """The link's question about a hello: 0 to welcome the device, else the reason to refuse it."""
        device = self.get(hello.device_id)
        return WELCOME if device is not None and device.revoked is None else REFUSED_UNKNOWN


_COLUMNS = "id, name, board, key, created, last_seen, next_key, revoked, encrypted, grouped, enrolling"


def _device(row: tuple[Any, ...]) -> Device:
    device = Device(*row)
    encrypted = None if device.encrypted is None else bool(device.encrypted)
    return replace(device, encrypted=encrypted, enrolling=bool(device.enrolling))
