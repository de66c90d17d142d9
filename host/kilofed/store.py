"""A run is a folder, and this is the module that knows what lies in it.

    run.sqlite              every round, device, figure and note (WAL); one transaction a round
    base.tflite             the model the run was started with
    checkpoints/round-0007.tflite   the model after round 7
    model.tflite            the newest checkpoint
    lock                    held by the process that writes; its content is that process's number

The order of a commit is: checkpoint (written beside, fsync, renamed), then the transaction, then
model.tflite. So a process killed at any instant leaves a database whose last round has its checkpoint; a
checkpoint without a round is removed and model.tflite is brought up to date when the folder is opened again.

Readers (`open_run(..., write=False)`) take no lock and may look while a run goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sqlite3
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kilofed.errors import RunFolderError, RunLockedError, RunMismatchError
from kilofed.rounds.config import RunConfig
from kilofed.rounds.records import DeviceRound, DeviceRow, Ending, Kind, RoundRecord

SCHEMA = 1
DATABASE = "run.sqlite"
MODEL = "model.tflite"
BASE = "base.tflite"
CHECKPOINTS = "checkpoints"
LOCK = "lock"
STATE = "strategy_state"  # in meta, hex
_DRAFT = ".kilofed-*.new"  # what write_atomically calls a file that is not whole yet; * stands for its number

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE devices (
    device TEXT PRIMARY KEY, name TEXT NOT NULL, board TEXT NOT NULL, firmware TEXT NOT NULL,
    capacity INTEGER NOT NULL, samples INTEGER NOT NULL, held_out INTEGER NOT NULL, seen REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE rounds (
    kind TEXT NOT NULL, number INTEGER NOT NULL, ended TEXT NOT NULL, started REAL NOT NULL, seconds REAL NOT
    NULL, head TEXT NOT NULL, accuracy REAL, PRIMARY KEY (kind, number)
) WITHOUT ROWID;
CREATE TABLE round_devices (
    kind TEXT NOT NULL, number INTEGER NOT NULL, device TEXT NOT NULL, name TEXT NOT NULL, taken INTEGER NOT
    NULL, reason TEXT NOT NULL, samples INTEGER NOT NULL, held_out INTEGER NOT NULL, loss REAL, base_correct
    INTEGER NOT NULL, own_correct INTEGER NOT NULL, elapsed_ms INTEGER NOT NULL, bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL, retries INTEGER NOT NULL, update_blob BLOB, PRIMARY KEY (kind, number,
    device), FOREIGN KEY (kind, number) REFERENCES rounds (kind, number)
) WITHOUT ROWID;
CREATE TABLE master (id INTEGER PRIMARY KEY CHECK (id = 1), round INTEGER NOT NULL, head BLOB NOT NULL);
CREATE TABLE notes (id INTEGER PRIMARY KEY, at REAL NOT NULL, device TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE figures (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

# The columns in the order of the dataclasses' fields.
_DEVICE = "device, name, board, firmware, capacity, samples, held_out, seen"
_ROUND = "ended, started, seconds, head, accuracy"
_DEVICE_ROUND = (
    "device, name, taken, reason, samples, held_out, loss, base_correct, own_correct, elapsed_ms,"
    " bytes_up, bytes_down, retries, update_blob"
)


@dataclass(frozen=True)
class NoteRow:
    """One line of the run's log. `at` is Unix time."""

    at: float
    device: str
    text: str


class Run:
    """An open run folder. Use `create_run`, `open_run` or `resume_or_create`; it is a context manager.

    Not for several threads at once.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.folder = folder
        self._db = connection
        self._lock = lock

    # ---- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database and gives the lock back. Nothing that was committed depends on it."""
        self._db.close()
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._lock, 0)  # this process may live on, and runs the run no longer
            os.close(self._lock)
            self._lock = None

    @property
    def writable(self) -> bool:
        """True for the process that runs the run."""
        return self._lock is not None

    # ---- what the run is -------------------------------------------------------------------------

    @property
    def config(self) -> RunConfig:
        """The settings the run was started with (with those of the last resumption that may change)."""
        return RunConfig.from_json(json.loads(self._meta("config")))

    @property
    def model_hash(self) -> str:
        """BLAKE2b-8 of base.tflite, 16 hex digits."""
        return self._meta("model_hash")

    @property
    def tag(self) -> int:
        """A number of this run's own, u16: it is mixed into round numbers on the wire (see rounds.engine)."""
        return int(self._meta("tag"))

    @property
    def created(self) -> float:
        """Unix time."""
        return float(self._meta("created"))

    @property
    def model_path(self) -> Path:
        """The newest model of the run."""
        return self.folder / MODEL

    def checkpoint_path(self, number: int) -> Path:
        """Where the model after round `number` lies; 0 is the model before the first."""
        return self.folder / BASE if number == 0 else self.folder / CHECKPOINTS / f"round-{number:04d}.tflite"

    def model_of(self, number: int) -> bytes:
        """The model after round `number`, 0: before the first. RunFolderError when there is no such round."""
        path = self.checkpoint_path(number)
        if not 0 <= number <= self.last_round or not path.is_file():
            raise RunFolderError(
                f"{self.folder} has no model after round {number}",
                f"choose one from 0 to {self.last_round}",
                path=str(path),
            )
        return path.read_bytes()

    def _meta(self, key: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise RunFolderError(
                f"{self.folder / DATABASE} has no {key}",
                "start a new run in another folder",
                path=str(self.folder),
            )
        return str(row[0])

    # ---- rounds ----------------------------------------------------------------------------------

    @property
    def last_round(self) -> int:
        """Number of the last committed training round, 0 before the first."""
        row = self._db.execute(
            "SELECT COALESCE(MAX(number), 0) FROM rounds WHERE kind = ?", (Kind.TRAIN.value,)
        ).fetchone()
        return int(row[0])

    def master(self) -> tuple[int, bytes] | None:
        """The newest master head as (round, int32 head blob), None before the first commit."""
        row = self._db.execute("SELECT round, head FROM master").fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]))

    def rounds(self, kind: Kind = Kind.TRAIN, *, after: int = -1) -> list[RoundRecord]:
        """Every committed round of a kind with a number above `after`, oldest first."""
        with self.snapshot():
            parts: dict[int, list[DeviceRound]] = {}
            for row in self._db.execute(
                f"SELECT number, {_DEVICE_ROUND} FROM round_devices WHERE kind = ? AND number > ?"
                " ORDER BY number, name",
                (kind.value, after),
            ):
                parts.setdefault(row[0], []).append(DeviceRound(row[1], row[2], bool(row[3]), *row[4:]))
            return [
                RoundRecord(
                    number,
                    kind,
                    Ending(ended),
                    started,
                    seconds,
                    head,
                    tuple(parts.get(number, ())),
                    accuracy,
                )
                for number, ended, started, seconds, head, accuracy in self._db.execute(
                    f"SELECT number, {_ROUND} FROM rounds WHERE kind = ? AND number > ? ORDER BY number",
                    (kind.value, after),
                )
            ]

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is of one moment, also while another process commits rounds."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def strategy_state(self) -> bytes:
        """What the strategy returned in the last training round, b"" before the first, and for FedAvg."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (STATE,)).fetchone()
        try:
            return b"" if row is None else bytes.fromhex(row[0])
        except (TypeError, ValueError) as error:
            raise _damaged(self.folder, error) from error

    def commit(
        self,
        record: RoundRecord,
        *,
        master: bytes | None = None,
        model: bytes | None = None,
        state: bytes = b"",
    ) -> None:
        """Makes a round permanent, whole or not at all.

        master: the int32 head blob after the round, and model: the whole .tflite with its head; both for a
        training round, neither for a personal one. state: of the strategy, for the next training round. A
        personal round with a number that is there already replaces it.
        """
        self._must_write()
        if (record.kind is Kind.TRAIN) != (master is not None and model is not None):
            raise ValueError("a training round comes with master and model, a personal one without")
        if model is not None:
            with _translated(self.folder):
                write_atomically(self.checkpoint_path(record.number), model)
        with self._transaction():
            if record.kind is Kind.PERSONAL:
                for table in ("round_devices", "rounds"):
                    self._db.execute(
                        f"DELETE FROM {table} WHERE kind = ? AND number = ?",
                        (record.kind.value, record.number),
                    )
            r, key = record, (record.kind.value, record.number)
            self._db.execute(
                f"INSERT INTO rounds (kind, number, {_ROUND}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*key, r.ended.value, r.started, r.seconds, r.head, r.accuracy),
            )
            self._db.executemany(
                f"INSERT INTO round_devices (kind, number, {_DEVICE_ROUND})"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *key, d.device, d.name, int(d.taken), d.reason, d.samples, d.held_out, d.loss,
                        d.base_correct, d.own_correct, d.elapsed_ms, d.bytes_up, d.bytes_down, d.retries,
                        d.update,
                    )
                    for d in r.devices
                ],
            )  # fmt: skip
            if master is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO master (id, round, head) VALUES (1, ?, ?)",
                    (record.number, master),
                )
                self._put_meta({STATE: state.hex()})
        if model is not None:
            with _translated(self.folder):
                write_atomically(self.model_path, model)

    # ---- devices, notes, figures -----------------------------------------------------------------

    def put_device(self, row: DeviceRow) -> None:
        """Remembers a device, or what changed about it; on the disk with the next round at the latest."""
        self._must_write()
        with self._soon_safe(), self._transaction():
            self._db.execute(
                f"INSERT OR REPLACE INTO devices ({_DEVICE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.device,
                    row.name,
                    row.board,
                    row.firmware,
                    row.capacity,
                    row.samples,
                    row.held_out,
                    row.seen,
                ),
            )

    def devices(self) -> list[DeviceRow]:
        """Every device that ever took part, by name."""
        return [DeviceRow(*row) for row in self._db.execute(f"SELECT {_DEVICE} FROM devices ORDER BY name")]

    def note(self, text: str, *, device: str = "") -> None:
        """Adds a line to the run's log; on the disk with the next round at the latest."""
        self._must_write()
        with self._soon_safe(), self._transaction():
            self._db.execute(
                "INSERT INTO notes (at, device, text) VALUES (?, ?, ?)", (time.time(), device, text)
            )

    def notes(self, *, skip: int = 0) -> list[NoteRow]:
        """The run's log without its first `skip` lines, oldest first."""
        return [
            NoteRow(*row)
            for row in self._db.execute(
                "SELECT at, device, text FROM notes ORDER BY id LIMIT -1 OFFSET ?", (skip,)
            )
        ]

    def put_figures(self, figures: Mapping[str, Any]) -> None:
        """Stores figures by name; values are anything JSON holds."""
        self._must_write()
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO figures (name, value) VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in figures.items()],
            )

    def figures(self) -> dict[str, Any]:
        """All figures by name."""
        return {
            str(n): json.loads(v)
            for n, v in self._db.execute("SELECT name, value FROM figures ORDER BY name")
        }

    def set_config(self, config: RunConfig) -> None:
        """Resumes with settings that may differ in what may change.

        RunMismatchError names the first that may not.
        """
        self._must_write()
        wrong = self.config.difference(config)
        if wrong:
            name = wrong[0]
            old, new = getattr(self.config, name), getattr(config, name)
            raise RunMismatchError(
                f"the run in {self.folder} has {name} = {old}, not {new}",
                f"leave {name} as it is, or start a new run in another folder",
                path=str(self.folder),
            )
        with self._transaction():
            self._put_meta({"config": json.dumps(config.as_json())})

    def begin_anew(self, *, config: RunConfig, model: bytes, model_hash: str) -> None:
        """Makes of a run without a round another one, with a number of its own; only its log stays.

        model: the .tflite all devices hold. RunMismatchError for a run with a round: that is not thrown away.
        """
        self._must_write()
        if self.last_round or self.rounds(Kind.PERSONAL):
            raise RunMismatchError(
                f"the run in {self.folder} has {self.last_round} rounds",
                "start a new run in another folder",
                path=str(self.folder),
            )
        with self._transaction():
            self._put_meta({"model_hash": ""})  # killed from here on, it is nobody's, and begun anew again
        with _translated(self.folder):
            write_atomically(self.folder / BASE, model)
            write_atomically(self.model_path, model)
        with self._transaction():
            for table in ("devices", "figures"):
                self._db.execute(f"DELETE FROM {table}")
            self._put_meta(_identity(config, model_hash))

    # ---- inside ----------------------------------------------------------------------------------

    def _put_meta(self, values: Mapping[str, str]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", list(values.items()))

    def _must_write(self) -> None:
        if not self.writable:
            raise RunFolderError(
                f"{self.folder} was opened for reading", "open it with write=True", path=str(self.folder)
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")  # a full disk shows here
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _damaged(self.folder, error) from error
            raise

    @contextlib.contextmanager
    def _soon_safe(self) -> Iterator[None]:
        """What is committed inside outlives this process at once, a power cut once a round was committed.

        Thousands of devices come at once, and each wait for the disk would hold up all of them.
        """
        self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    def _repair(self) -> None:
        """After a kill: removes what a commit left half done. See the order in the module's description."""
        last = self.last_round
        folder = self.folder / CHECKPOINTS
        for path in folder.iterdir():
            number = path.stem.removeprefix("round-")
            if path.suffix != ".tflite" or not number.isdigit() or int(number) > last:
                path.unlink()
        for path in self.folder.glob(_DRAFT):
            path.unlink()
        newest = self.checkpoint_path(last)
        if not newest.is_file():
            raise RunFolderError(
                f"{newest} is missing",
                "restore it, or start a new run in another folder",
                path=str(self.folder),
            )
        content = newest.read_bytes()
        if not self.model_path.is_file() or self.model_path.read_bytes() != content:
            write_atomically(self.model_path, content)


def create_run(folder: Path, *, config: RunConfig, model: bytes, model_hash: str) -> Run:
    """Makes a run in `folder`, which must be empty or absent. The caller closes the run.

    model: the .tflite all devices hold. RunFolderError when the folder has content, RunLockedError when
    another process is about to do the same.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be made ({error})", "choose another folder", path=str(folder)
        ) from error
    if not (folder / DATABASE).exists():  # else the lock says who was faster
        with _translated(folder):
            _must_be_free(folder)  # looked at first, so that no lock is left among somebody's files
    lock = _take_lock(folder)
    try:
        _must_be_free(folder)
        return _fill(folder, lock, config=config, model=model, model_hash=model_hash)
    except (OSError, sqlite3.Error) as error:
        os.close(lock)
        raise _unwritable(folder, error) from error
    except BaseException:
        os.close(lock)
        raise


def _must_be_free(folder: Path) -> None:
    """RunFolderError when a folder holds anything that is not of a run's making."""
    # A folder without run.sqlite may be what is left of an attempt that was killed at this very place.
    leftovers = {LOCK, CHECKPOINTS, BASE, MODEL, *(f"{name}.new" for name in (BASE, MODEL, DATABASE))}
    leftovers |= {f"{DATABASE}.new{suffix}" for suffix in ("-wal", "-shm", "-journal")}
    strangers = sorted(p.name for p in folder.iterdir() if p.name not in leftovers and not p.match(_DRAFT))
    if strangers or ((folder / CHECKPOINTS).is_dir() and any((folder / CHECKPOINTS).iterdir())):
        raise RunFolderError(
            f"{folder} is not empty ({', '.join(strangers[:1]) or CHECKPOINTS})",
            "choose a new folder for the run",
            path=str(folder),
        )


def _fill(folder: Path, lock: int, *, config: RunConfig, model: bytes, model_hash: str) -> Run:
    """Puts a new run into a free folder whose lock is held."""
    for path in (*folder.glob(f"{DATABASE}.new*"), *folder.glob(_DRAFT)):
        path.unlink()
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    write_atomically(folder / BASE, model)
    write_atomically(folder / MODEL, model)
    # The database is made under another name: a folder with run.sqlite is a whole run, always.
    draft = folder / (DATABASE + ".new")
    connection = _connect(draft)
    try:
        connection.executescript("BEGIN;" + _TABLES + "COMMIT;")
        connection.executemany(
            "INSERT INTO meta (key, value) VALUES (?, ?)",
            list({"schema": str(SCHEMA), **_identity(config, model_hash)}.items()),
        )
    finally:
        connection.close()
    draft.rename(folder / DATABASE)
    _sync_folder(folder)
    return Run(folder, _connect(folder / DATABASE), lock)


def _identity(config: RunConfig, model_hash: str) -> dict[str, str]:
    """What meta holds of a run that begins now: the numbers it is told from others by, and its settings."""
    identity = uuid.uuid4()
    return {
        "run": identity.hex,
        "tag": str(identity.int & 0xFFFF),
        "created": repr(time.time()),
        "config": json.dumps(config.as_json()),
        "model_hash": model_hash,
    }


def open_run(folder: Path, *, write: bool = False) -> Run:
    """Opens a run that is there. The caller closes it.

    write=False takes no lock and changes nothing: for reports, also while the run goes on, and in a folder
    that may not be written to. write=True takes the lock and repairs what a kill left half done.
    RunFolderError when it is no run folder, RunLockedError when another process writes to it.
    """
    database = folder / DATABASE
    if not database.is_file():
        raise RunFolderError(
            f"{folder} is not a run folder (no {DATABASE})",
            "name the folder given to --out",
            path=str(folder),
        )
    lock = _take_lock(folder) if write else None
    try:
        connection = _connect(database) if write else _connect_reading(database)
        run = Run(folder, connection, lock)
        try:
            version = run._meta("schema")
            if version != str(SCHEMA):
                raise RunFolderError(
                    f"{database} has schema {version}, this program reads {SCHEMA}",
                    "use the version of kilofed that made it",
                    path=str(folder),
                )
            if write:
                with _translated(folder):
                    run._repair()
        except sqlite3.Error as error:
            connection.close()
            raise _damaged(folder, error) from error
        except BaseException:
            connection.close()
            raise
        return run
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a power cut leaves the old or the new one: written beside, fsync, renamed.

    A symbolic link stays, and the file it leads to is written. What is there and is no file (a pipe, a
    device) is written to as it is, never replaced. OSError when it cannot be written; nothing is left beside
    it then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
    if mode is not None and not stat.S_ISREG(mode):
        path.write_bytes(content)  # a folder is refused here
        return
    target = Path(os.path.realpath(path))
    draft = target.with_name(_DRAFT.replace("*", secrets.token_hex(8)))
    try:
        with draft.open("xb") as stream:
            if mode is not None:
                os.fchmod(stream.fileno(), stat.S_IMODE(mode))
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def runner(folder: Path) -> int | None:
    """The process that runs the run in `folder`, as its lock file says, None when there is no such process.

    Looks, and takes no lock: a reader that took it, however briefly, could turn a writer away. So a process
    that got the number of one that is gone passes for it.
    """
    try:
        pid = int((folder / LOCK).read_text())
        if pid <= 0:
            return None  # to kill(2) it would mean a group, or everybody
        os.kill(pid, 0)
    except PermissionError:
        return pid  # it is there, and somebody else's
    except (OSError, ValueError, OverflowError):
        return None
    return pid


def _take_lock(folder: Path) -> int:
    """The lock goes with the process, however it ends, so a stale one does not exist."""
    path = folder / LOCK
    with _translated(folder):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        content = os.read(handle, 20).strip()
        os.close(handle)
        pid = int(content) if content.isdigit() else 0
        who = f"process {pid}" if pid else "another process"
        raise RunLockedError(
            f"{who} is running the run in {folder}",
            "wait for it, or stop it first",
            path=str(folder),
            pid=pid,
        ) from error
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(handle)
        raise _unwritable(folder, error) from error
    return handle


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error as error:
        raise _damaged(path.parent, error) from error
    return connection


def _connect_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. In a folder that cannot be written to SQLite cannot make the file in
    which it finds its way in the log of a run that was killed: there, both are read into memory."""
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=5.0)
        try:
            connection.execute("SELECT 1 FROM meta").fetchone()
            return connection
        except sqlite3.OperationalError:
            connection.close()
            if os.access(path.parent, os.W_OK, effective_ids=True):
                raise
        return _copy(path)
    except sqlite3.Error as error:
        raise _damaged(path.parent, error) from error
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be read ({error.strerror})", "ask its owner for the right to", path=str(path)
        ) from error


def _copy(path: Path) -> sqlite3.Connection:
    """A database and its log as they are now, in memory."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.is_file():
                shutil.copyfile(source, Path(folder) / source.name)
        memory = sqlite3.connect(":memory:", isolation_level=None)
        with contextlib.closing(sqlite3.connect(Path(folder) / path.name)) as copy:
            copy.backup(memory)
        return memory


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """A file that cannot be written is a RunFolderError."""
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError | sqlite3.Error) -> RunFolderError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RunFolderError(
        f"{folder} cannot be written ({why})",
        "make room or get the right to write there, then start the same command again: no round is lost",
        path=str(folder),
    )


def _damaged(folder: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"{folder / DATABASE} cannot be used ({error})",
        "check the disk, or use another folder",
        path=str(folder),
    )
