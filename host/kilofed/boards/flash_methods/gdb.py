"""Flashing over the GDB remote serial protocol, as QEMU and debug probes (OpenOCD, pyOCD, J-Link) offer it.

The protocol: packets `$data#checksum`, each acknowledged with `+`, described in the manual of GDB, appendix
"GDB Remote Serial Protocol". Used here: `?` (why it halted), `m`/`M` (read and write memory, hexadecimal),
`qRcmd` (a command for the server itself), `D` (detach, which lets the core run).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence

from kilofed.boards.elf import Segment
from kilofed.errors import FlashError

TIMEOUT = 5.0
"""Seconds without an answer after which the server counts as gone."""
HALT_TIMEOUT = 0.5
HALT_ATTEMPTS = 10
"""A core that runs is asked so often to halt, waiting so long each time."""
BLOCK = 1024
"""Bytes in one packet: twice that in hexadecimal stays well below the 4096 that QEMU announces."""
CPUID = 0xE000ED00
CORES = {
    0xC20: "cortex-m0",
    0xC60: "cortex-m0plus",
    0xC23: "cortex-m3",
    0xC24: "cortex-m4",
    0xC27: "cortex-m7",
}
"""CPUID.PARTNO of the cores (each one's technical reference manual, register CPUID)."""


class GdbRemote:
    """A connection to a GDB server: a packet out, a packet in."""

    def __init__(self, connection: socket.socket, target: str) -> None:
        self._socket = connection
        self._target = target
        self._buffer = b""
        connection.settimeout(TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def connect(cls, target: str) -> GdbRemote:
        """Open `target`, HOST:PORT. Raises FlashError when nobody listens there."""
        host, _, port = target.rpartition(":")
        try:
            return cls(socket.create_connection((host or "127.0.0.1", int(port)), TIMEOUT), target)
        except (OSError, ValueError) as error:
            raise FlashError(
                f"no GDB server at {target} ({error})",
                "start the board or the debug probe's server, or mend the address",
            ) from error

    def command(self, text: str) -> bytes:
        """The answer to the packet `text`. Raises FlashError: no answer, or the connection is gone."""
        data = text.encode("ascii")
        try:
            for _ in range(3):
                self._socket.sendall(b"$" + data + b"#%02x" % (sum(data) & 0xFF))
                if self._acknowledged():
                    return self._packet()
        except OSError as error:
            raise FlashError(
                f"the GDB server at {self._target} stopped answering ({error or 'timeout'})",
                "check that the board is still there, and flash it again: a half-written image does not run",
            ) from error
        raise FlashError(f"the GDB server at {self._target} refuses every packet", "check that it is one")

    def halt(self) -> bytes:
        """Halt the core and return the server's word for why it stopped.

        Connecting halts it, but a server may lose what comes before it has: so this is asked several times.
        """
        self._socket.settimeout(HALT_TIMEOUT)
        try:
            for attempt in range(HALT_ATTEMPTS):
                try:
                    return self.command("?")
                except FlashError as error:
                    if attempt == HALT_ATTEMPTS - 1 or not isinstance(error.__cause__, TimeoutError):
                        raise
        finally:
            self._socket.settimeout(TIMEOUT)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._socket.close()

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("it closed the connection")
        self._buffer += data

    def _acknowledged(self) -> bool:
        """Whether the server took the packet just sent. What it says unasked, that the core has halted, is
        read over.
        """
        while True:
            while not self._buffer:
                self._more()
            if self._buffer[:1] == b"$":
                self._packet()
                continue
            answer, self._buffer = self._buffer[:1], self._buffer[1:]
            if answer in (b"+", b"-"):
                return answer == b"+"

    def _packet(self) -> bytes:
        while True:
            start = self._buffer.find(b"$")
            end = self._buffer.find(b"#", start)
            if start < 0 or end < 0 or len(self._buffer) < end + 3:
                self._more()
                continue
            body, check = self._buffer[start + 1 : end], self._buffer[end + 1 : end + 3]
            self._buffer = self._buffer[end + 3 :]
            if check == b"%02x" % (sum(body) & 0xFF):
                self._socket.sendall(b"+")
                return body
            self._socket.sendall(b"-")


class GdbMethod:
    """A `FlashMethod`; its target is the server's HOST:PORT.

    Options: `reset`: the server's own command that resets the core ("system_reset" for QEMU, "reset halt"
    for OpenOCD).
    """

    def __init__(self) -> None:
        self._gdb: GdbRemote | None = None
        self._reset = ""

    @property
    def _remote(self) -> GdbRemote:
        if self._gdb is None:
            raise FlashError("the GDB method is not connected", "call connect() first")
        return self._gdb

    def connect(self, target: str, options: Mapping[str, str]) -> None:
        self._reset = options.get("reset", "")
        self._gdb = GdbRemote.connect(target)
        stopped = self._gdb.halt()
        if not stopped.startswith((b"T", b"S")):
            raise FlashError(
                f"{target} answers {stopped[:20]!r} and not as a halted core",
                "check that a GDB server is there",
            )

    def core(self) -> str:
        try:
            part = int.from_bytes(self.read(CPUID, 4), "little") >> 4 & 0xFFF
        except FlashError:
            return ""
        return CORES.get(part, "")

    def read(self, address: int, size: int) -> bytes:
        found = b""
        while len(found) < size:
            at, wanted = address + len(found), min(BLOCK, size - len(found))
            answer = self._remote.command(f"m{at:x},{wanted:x}")
            try:
                block = bytes.fromhex(answer.decode("ascii"))
            except (UnicodeDecodeError, ValueError):
                block = b""
            if len(block) != wanted:
                raise FlashError(
                    f"cannot read {wanted} bytes at {at:#010x}: the server says {answer[:20]!r}",
                    "check that the connected board is the one named",
                    address=at,
                )
            found += block
        return found

    def program(self, segments: Sequence[Segment], progress: Callable[[str, int, int], None]) -> None:
        total = sum(len(segment.data) for segment in segments)
        done = 0
        for at, block in _blocks(segments):
            answer = self._remote.command(f"M{at:x},{len(block):x}:{block.hex()}")
            if answer != b"OK":
                raise FlashError(
                    f"cannot write {len(block)} bytes at {at:#010x}: the server says {answer[:20]!r}",
                    "check that the connected board is the one named",
                    address=at,
                )
            done += len(block)
            progress("write", done, total)
        done = 0
        for at, block in _blocks(segments):
            if self.read(at, len(block)) != block:
                raise FlashError(
                    f"what was written at {at:#010x} reads back differently",
                    "flash it again; if it fails at the same address, its flash is protected or worn out",
                    address=at,
                )
            done += len(block)
            progress("verify", done, total)

    def run(self) -> None:
        if self._reset:
            answer = self._remote.command("qRcmd," + self._reset.encode().hex())
            if answer.startswith(b"E") or answer == b"":
                raise FlashError(
                    f"the server does not know its command {self._reset!r}",
                    "mend flash_method.reset in the data file",
                )
        self._remote.command("D")

    def close(self) -> None:
        if self._gdb is not None:
            self._gdb.close()
            self._gdb = None


def _blocks(segments: Sequence[Segment]) -> list[tuple[int, bytes]]:
    """The segments cut into pieces of at most BLOCK bytes, with their addresses."""
    return [
        (segment.address + i, segment.data[i : i + BLOCK])
        for segment in segments
        for i in range(0, len(segment.data), BLOCK)
    ]
