"""The register of devices a host knows: who they are, and the key each was given when it was flashed.

One SQLite file (WAL, mode 0600). A key leaves this module through `Device.key` only; it is never printed,
logged or part of a repr.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from kilofed.errors import FleetError

SCHEMA = 1
ID_BYTES = 8
KEY_BYTES = 32
NAME_BYTES = 12

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
    key BLOB NOT NULL CHECK (length(key) = 32), created REAL NOT NULL, last_seen REAL
) WITHOUT ROWID;
"""


class SaysHello(Protocol):
    """What `Fleet.admit` reads of a hello message."""

    @property
    def device_id(self) -> bytes: ...


@dataclass(frozen=True)
class Device:
    """A registered device.

    Id: 8 bytes. key: 32 bytes. created, last_seen: Unix time, None when never seen.
    """

    id: bytes
    name: str
    board: str
    key: bytes = field(repr=False)
    created: float
    last_seen: float | None = None

    @property
    def hex(self) -> str:
        """The id as it is shown, 16 hex digits."""
        return self.id.hex()


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
    if not _NAME.fullmatch(name) or len(name.encode()) > NAME_BYTES:
        raise FleetError(
            f"{name!r} cannot be the name of a device",
            f"use {NAME_RULE}",
            device=name,
        )
    number = rng(ID_BYTES) if device_id is None else device_id
    return Device(number, name, board, rng(KEY_BYTES), time.time() if now is None else now)


class Fleet:
    """The register, open. A context manager; several processes may hold the same file open."""

    def __init__(self, path: Path) -> None:
        """Opens the register at `path`, or makes it. FleetError when that cannot be done."""
        self.path = path
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
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
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
                "INSERT INTO devices (id, name, board, key, created, last_seen) VALUES (?, ?, ?, ?, ?, ?)",
                (device.id, device.name, device.board, device.key, device.created, device.last_seen),
            )

    def all(self) -> list[Device]:
        """Every device, by name."""
        return [Device(*row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM devices ORDER BY name")]

    def get(self, device_id: bytes) -> Device | None:
        """The device with this id, None when it is not registered."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM devices WHERE id = ?", (device_id,)).fetchone()
        return None if row is None else Device(*row)

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
        return Device(*row)

    def remove(self, name_or_id: str) -> Device:
        """Forgets a device and its key; returns what it was. FleetError when there is none."""
        device = self.find(name_or_id)
        self._db.execute("DELETE FROM devices WHERE id = ?", (device.id,))
        return device

    def seen(self, device_id: bytes, *, now: float | None = None) -> None:
        """Notes that a device opened a session."""
        when = time.time() if now is None else now
        try:
            self._db.execute("UPDATE devices SET last_seen = ? WHERE id = ?", (when, device_id))
        except sqlite3.Error as error:
            raise FleetError(
                f"the register {self.path} cannot be written ({error})",
                "make room on its disk, then start the same command again",
                path=str(self.path),
            ) from error

    def admit(self, hello: SaysHello) -> int:
        """The link's question about a hello: 0 to welcome the device, else the reason to refuse it."""
        return WELCOME if self.get(hello.device_id) is not None else REFUSED_UNKNOWN


_COLUMNS = "id, name, board, key, created, last_seen"
