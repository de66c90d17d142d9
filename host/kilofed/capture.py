"""Captures: every byte that crossed the lines of a host, with time, line and direction, in one pcapng file.

    with CaptureWriter(Path("round.pcapng")) as capture:
        capture("/dev/ttyACM0", True, b"...")           what came up; False: what goes down
    for packet in read_capture(Path("round.pcapng")): ...

The format is pcapng (draft-ietf-opsawg-pcapng), which Wireshark opens: an interface a line, its name in
if_name, link type DLT_USER0 (147), times in microseconds, direction in epb_flags (1 inbound: up, 2 outbound:
down). A packet is what one read or write of the line gave: bytes of the pipe, cut anywhere. Reading takes
both byte orders and ends where a file that is still written, or whose writer was killed, does.

Nothing but the wire's bytes is in it: no key, and of an encrypted session what a listener on the line has.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kilofed.errors import StoreError

LINK_TYPE = 147  # DLT_USER0: ours to define
SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6  # types of blocks
_ORDER = 0x1A2B3C4D
_UP, _DOWN = 1, 2  # inbound and outbound of epb_flags' lowest two bits
_NAME, _RESOLUTION, _FLAGS, _PROGRAM = 2, 9, 2, 4  # options, each of its block
MOST_BLOCK = 1 << 20  # bytes; a longer one is damage. The writer's are below 64 kB and a head
MOST_LINES = 100_000  # interfaces of a section
_PART = 32768  # most bytes of one packet


@dataclass(frozen=True, slots=True)
class Packet:
    """Bytes of one line. at: seconds since 1970. up: from the device. line: the port or address."""

    at: float
    line: str
    up: bool
    data: bytes


# ---- writing -----------------------------------------------------------------------------------------


class CaptureWriter:
    """A capture file, open to be appended to; only its owner may read it. A context manager.

    Call it with a line's name, whether the bytes came up, and the bytes: it is kilofed.federation's Capture.
    Each block is one write, so whatever kills the writer leaves whole blocks and at most a piece of one. A
    file that is there goes on with a section of its own, behind its last whole block. When the disk is full
    the capture ends, `trouble` says why (and on_trouble is told, once), and the lines go on.

    clock: seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        on_trouble: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Opens or makes it. StoreError: it cannot be written, or is a file of another kind."""
        self.path = path
        self.trouble = ""
        self._clock = clock
        self._on_trouble = on_trouble
        self._lines: dict[str, int] = {}
        self._end = 0
        self._fd = -1
        try:
            if path.exists() and path.stat().st_size:
                self._end = _last_whole(path)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.fchmod(self._fd, 0o600)  # it may have been there, readable by all
            os.ftruncate(self._fd, self._end)
            os.lseek(self._fd, 0, os.SEEK_END)
            self._append(_section())
        except OSError as error:
            self.close()
            raise StoreError(
                f"the capture {path} cannot be written ({error.strerror})",
                "choose another file",
                path=str(path),
            ) from error

    def __call__(self, line: str, up: bool, data: bytes) -> None:
        """Writes what crossed a line just now. Never raises."""
        if self._fd < 0:
            return
        try:
            number = self._lines.get(line)
            if number is None:
                number = self._lines[line] = len(self._lines)
                self._append(_interface(line))
            at = int(self._clock() * 1e6)
            for start in range(0, len(data), _PART):
                self._append(_packet(number, at, up, data[start : start + _PART]))
        except OSError as error:
            with contextlib.suppress(OSError):  # else it is read up to there
                os.ftruncate(self._fd, self._end)  # without the piece of a block
            self.close()
            self.trouble = f"the capture {self.path} ends here: {error.strerror}"
            self._on_trouble(self.trouble)

    def _append(self, block: bytes) -> None:
        done = os.write(self._fd, block)
        if done != len(block):  # the disk had room for a piece: what the next write says is why
            os.write(self._fd, block[done:])
        self._end += len(block)

    def close(self) -> None:
        """Closes the file. Twice does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> CaptureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + size + body + size


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _section() -> bytes:
    program = _option(_PROGRAM, b"kilofed") + _option(0, b"")
    return _block(SECTION, struct.pack("<IHHq", _ORDER, 1, 0, -1) + program)


def _interface(line: str) -> bytes:
    name = line.encode(errors="replace")[:1024]
    options = _option(_NAME, name) + _option(_RESOLUTION, b"\6") + _option(0, b"")
    return _block(INTERFACE, struct.pack("<HHI", LINK_TYPE, 0, 0) + options)


def _packet(number: int, at: int, up: bool, data: bytes) -> bytes:
    head = struct.pack("<IIIII", number, at >> 32 & 0xFFFFFFFF, at & 0xFFFFFFFF, len(data), len(data))
    flags = _option(_FLAGS, struct.pack("<I", _UP if up else _DOWN)) + _option(0, b"")
    return _block(PACKET, head + data + bytes(-len(data) % 4) + flags)


# ---- reading -----------------------------------------------------------------------------------------


class CaptureReader:
    """Takes a file's bytes as they come, and gives its packets. Holds at most one block.

    Blocks and interfaces of other kinds are passed over. name: of the file, for errors.
    """

    def __init__(self, name: str = "the capture") -> None:
        self.whole = 0  # bytes of the blocks taken
        self._name = name
        self._held = bytearray()
        self._order = ""
        self._lines: list[tuple[str, float]] = []  # name and ticks a second; 0 for another link type

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that end in `data`. StoreError where the file is none of ours, or damaged."""
        self._held += data
        at = 0
        try:
            while len(self._held) - at >= 12:
                kind, size = self._head(at)
                if len(self._held) - at < size:
                    break
                body = bytes(self._held[at + 8 : at + size - 4])
                if struct.unpack_from(f"{self._order}I", self._held, at + size - 4)[0] != size:
                    raise self._damaged(at)
                packet = self._take(kind, body, at)
                at += size
                self.whole += size
                if packet is not None:
                    yield packet
        finally:
            del self._held[:at]

    @property
    def cut(self) -> int:
        """Bytes of a block that has begun and not ended."""
        return len(self._held)

    def _damaged(self, at: int) -> StoreError:
        where = self.whole
        if not where:
            return StoreError(
                f"{self._name} is no capture", "give a file that --capture wrote", path=self._name
            )
        del at
        return StoreError(
            f"{self._name} is damaged at byte {where}", "what stands before that was read", path=self._name
        )

    def _head(self, at: int) -> tuple[int, int]:
        (kind,) = struct.unpack_from("<I", self._held, at)
        if kind == SECTION:  # the same read from either end
            (order,) = struct.unpack_from("<I", self._held, at + 8)
            if order not in (_ORDER, int.from_bytes(_ORDER.to_bytes(4, "big"), "little")):
                raise self._damaged(at)
            self._order = "<" if order == _ORDER else ">"
            self._lines = []
        elif not self._order:
            raise self._damaged(at)
        kind, size = struct.unpack_from(f"{self._order}II", self._held, at)
        if size % 4 or not 12 <= size <= MOST_BLOCK:
            raise self._damaged(at)
        return int(kind), int(size)

    def _take(self, kind: int, body: bytes, at: int) -> Packet | None:
        if kind == INTERFACE:
            if len(body) < 8 or len(self._lines) >= MOST_LINES:
                raise self._damaged(at)
            self._lines.append(self._line(body, at))
        elif kind == PACKET:
            return self._packet(body, at)
        return None

    def _line(self, body: bytes, at: int) -> tuple[str, float]:
        (link,) = struct.unpack_from(f"{self._order}H", body)
        name, ticks = f"line {len(self._lines)}", 1e6
        for code, value in self._options(body, 8, at):
            if code == _NAME:
                text = value[:1024].decode(errors="replace")
                name = "".join(char if char.isprintable() else "?" for char in text)
            elif code == _RESOLUTION and len(value) == 1:
                ticks = float(2 ** (value[0] & 127) if value[0] & 128 else 10 ** (value[0] & 127))
        return name, ticks if link == LINK_TYPE else 0.0

    def _packet(self, body: bytes, at: int) -> Packet | None:
        if len(body) < 20:
            raise self._damaged(at)
        number, high, low, size, _ = struct.unpack_from(f"{self._order}IIIII", body)
        end = 20 + size
        if number >= len(self._lines) or end > len(body):
            raise self._damaged(at)
        name, ticks = self._lines[number]
        if not ticks:
            return None
        flags = 0
        for code, value in self._options(body, end + -end % 4, at):
            if code == _FLAGS and len(value) == 4:
                (flags,) = struct.unpack(f"{self._order}I", value)
        if flags & 3 not in (_UP, _DOWN):
            return None  # nobody knows whose bytes they are
        return Packet((high << 32 | low) / ticks, name, flags & 3 == _UP, body[20:end])

    def _options(self, body: bytes, start: int, at: int) -> Iterator[tuple[int, bytes]]:
        while start + 4 <= len(body):
            code, size = struct.unpack_from(f"{self._order}HH", body, start)
            if code == 0:
                return
            if start + 4 + size > len(body):
                raise self._damaged(at)
            yield code, body[start + 4 : start + 4 + size]
            start += 4 + size + -size % 4


def read_capture(path: Path, *, on_cut: Callable[[int], None] = lambda size: None) -> Iterator[Packet]:
    """The packets of a file. StoreError as CaptureReader.feed, and for a file that cannot be read.

    on_cut: told of the bytes of a last block that is not whole.
    """
    reader = CaptureReader(str(path))
    try:
        with path.open("rb") as stream:
            while data := stream.read(65536):
                yield from reader.feed(data)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read ({error.strerror})", "name a capture", path=str(path)
        ) from error
    if not reader.whole:
        raise StoreError(f"{path} is no capture", "give a file that --capture wrote", path=str(path))
    if reader.cut:
        on_cut(reader.cut)


def follow_capture(path: Path, *, wait: Callable[[], bool]) -> Iterator[Packet]:
    """The packets of a file that is still written, for ever. StoreError as `read_capture`.

    wait: called where the file ends for now; False ends it.
    """
    reader = CaptureReader(str(path))
    try:
        with path.open("rb") as stream:
            while True:
                data = stream.read(65536)
                if data:
                    yield from reader.feed(data)
                elif not wait():
                    return
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read ({error.strerror})", "name a capture", path=str(path)
        ) from error


def _last_whole(path: Path) -> int:
    """Where the last whole block of a capture ends. StoreError: it is none, or is damaged before its end."""
    reader = CaptureReader(str(path))
    with path.open("rb") as stream:
        while data := stream.read(65536):
            for _ in reader.feed(data):
                pass
    if not reader.whole:
        raise StoreError(
            f"{path} is no capture and is not written over", "choose another file", path=str(path)
        )
    return reader.whole
