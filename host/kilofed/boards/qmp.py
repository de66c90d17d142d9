"""QEMU's machine protocol: one JSON object a line, commands answered in order, events in between."""

from __future__ import annotations

import json
import socket
from typing import Any

from kilofed.errors import EmulatorError

TIMEOUT = 10.0
"""Seconds without an answer after which QEMU counts as stuck."""


class Qmp:
    """The control connection of one QEMU process, over a connected socket. Opened on the first command."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""
        self._ready = False
        self._events: list[str] = []

    def execute(self, command: str, **arguments: Any) -> Any:
        """What `command` returns. Raises EmulatorError: QEMU says no, does not answer, or is gone."""
        if not self._ready:
            self._next(TIMEOUT)  # the greeting
            self._ready = True
            self._call("qmp_capabilities", {})
        return self._call(command, arguments)

    def events(self) -> list[str]:
        """The names of events that came since the last call, oldest first. Does not wait. [] when QEMU is
        gone.
        """
        try:
            if not self._ready:
                self.execute("query-status")
            while (message := self._next(0.0)) is not None:
                self._keep(message)
        except EmulatorError:
            pass
        found, self._events = self._events, []
        return found

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._socket.close()

    def _call(self, command: str, arguments: dict[str, Any]) -> Any:
        request = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise EmulatorError(f"QEMU is gone ({error})", "start the board again") from error
        while True:
            message = self._next(TIMEOUT)
            if message is None:
                raise EmulatorError(f"QEMU does not answer {command!r}", "stop the board and start it again")
            if "error" in message:
                raise EmulatorError(
                    f"QEMU refuses {command!r}: {message['error']['desc']}", "start the board again"
                )
            if "return" in message:
                return message["return"]
            self._keep(message)

    def _keep(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._events.append(message["event"])

    def _next(self, timeout: float) -> dict[str, Any] | None:
        """The next message; None when none comes in `timeout` seconds."""
        self._socket.settimeout(timeout)
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(65536)
            except (TimeoutError, BlockingIOError):
                return None
            except OSError as error:
                raise EmulatorError(f"QEMU is gone ({error})", "start the board again") from error
            if not data:
                raise EmulatorError("QEMU is gone", "start the board again")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
