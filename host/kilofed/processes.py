"""Child processes that do not outlive this one, however it ends.

Each runs in a session of its own, so that a Ctrl-C at the terminal reaches the host alone, which then ends
its children in good order. On Linux the kernel kills them when the thread that started them dies
(PR_SET_PDEATHSIG): start them from a thread that lives as long as they should.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from kilofed.errors import BoardError

_PR_SET_PDEATHSIG = 1
STOP_SECONDS = 3.0  # a process may take to end after SIGTERM
LOG_LINES = 20  # of a log that go into an error


class Process:
    """A program that runs beside this one. A context manager.

    command: its argument vector. log: the file its output goes to, written anew. Not for two threads at once.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def start(self) -> None:
        """Starts it. BoardError when the program cannot be run, or its log cannot be written."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            opened = self.log.open("wb")
        except OSError as error:
            raise BoardError(
                f"{self.log} cannot be written ({error.strerror})",
                "get the right to write there, or name another folder",
            ) from error
        self._started = time.monotonic()
        with opened as log:
            try:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),
                    env=None if self._environment is None else {**os.environ, **self._environment},
                )
            except OSError as error:
                raise BoardError(
                    f"{self.command[0]} cannot be run ({error.strerror})", "build or install it first"
                ) from error

    @property
    def pid(self) -> int:
        """Its number, 0 when it was not started."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """What it ended with, negative: of a signal; None while it lives or before it was started."""
        return None if self._process is None else self._process.poll()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    def check(self) -> None:
        """BoardError with the end of its log when it was started and has ended."""
        if self._process is None or self._process.poll() is None:
            return
        text = self.log.read_text(errors="replace").strip() if self.log.is_file() else ""
        last = " / ".join(text.splitlines()[-2:]) or "it printed nothing"
        name = Path(self.command[0]).name
        raise BoardError(f"{name} ended with status {self._process.returncode} ({last})", f"read {self.log}")

    def kill(self) -> None:
        """SIGKILL, as a power cut. Never raises."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help. Never raises."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request
            os._exit(1)

    return ask
