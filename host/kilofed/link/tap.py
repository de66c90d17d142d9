"""A listener on one line: from its bytes, both ways, to frames and messages (firmware/PROTOCOL.md).

    tap = Tap(keys=fleet.keys)
    for seen in tap.feed(at, up, data): print(seen.text)

Sans-IO. It sends nothing and may begin anywhere. Frames of a session in the clear are checked when the hello
and the welcome that opened it were heard; those of an encrypted one are read when `keys` has the device's
key, too. Whatever the bytes, nothing is raised, and what is remembered is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

from kilofed.link.blobs import blob_hash, blob_id
from kilofed.link.errors import FrameError, MessageError
from kilofed.link.frames import Direction, FrameType, RawFrame, Splitter, foreign_version, parse_frame
from kilofed.link.messages import (
    Accept,
    BlobKind,
    Cancel,
    Chunk,
    Commit,
    Hello,
    Message,
    Multiplier,
    Offer,
    Ping,
    Probe,
    Refuse,
    Result,
    Status,
    Train,
    Welcome,
    before_proof,
    decode,
)
from kilofed.link.secure import EncryptedSession, derive
from kilofed.link.session import RoundTrip, Session, round_trip, session_id

MOST_HELLOS = 16  # remembered, the latest
MOST_SESSIONS = 8
MOST_BLOBS = 4
_MAX_FRAME = 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame, or bytes that are none.

    at: seconds, as `feed` was told of its last byte. up: from the device. wire: bytes on the wire, delimiter
    included. kind: "clear", "session" or "encrypted", "stray" for what is no frame. number: of the frame in
    its session, whole when the session is known, else its low 16 bits. message: None when it cannot be read.
    why: why it cannot, or cannot be checked; "" when all is well. note: what it means for what came before:
    a blob that is whole, a repeat. data: of stray bytes.
    """

    at: float
    up: bool
    wire: int
    kind: str
    number: int = 0
    message: Message | None = None
    why: str = ""
    note: str = ""
    data: bytes = b""

    @property
    def name(self) -> str:
        """The message's type in small letters; "stray", or "encrypted" for what cannot be read."""
        return self.kind if self.message is None else type(self.message).__name__.lower()

    @property
    def text(self) -> str:
        """On one line, without time and direction."""
        if self.kind == "stray":
            return f"{len(self.data)} stray bytes ({self.why}): {printable(self.data)}"
        number = f"#{self.number} " if self.kind != "clear" else ""
        words = f"{number}{self.name}"
        if self.message is not None:
            words += "".join(f" {name}={_shown(value)}" for name, value in _values(self.message))
        words += f"  [{self.wire} bytes{'' if self.kind == 'clear' else ', ' + self.kind}]"
        return words + "".join(f"  ({part})" for part in (self.why, self.note) if part)

    def as_json(self) -> dict[str, Any]:
        """Plain values; bytes as hex."""
        made: dict[str, Any] = {
            "at": self.at,
            "direction": "up" if self.up else "down",
            "kind": self.kind,
            "wire": self.wire,
        }
        if self.kind == "stray":
            return made | {"why": self.why, "data": self.data.hex(), "text": printable(self.data)}
        made["number"] = self.number
        if self.message is not None:
            made["message"] = self.name
            made["fields"] = {name: _plain(value) for name, value in _values(self.message)}
        for name in ("why", "note"):
            if value := getattr(self, name):
                made[name] = value
        return made


def is_text(data: bytes) -> bool:
    """Whether bytes are mostly what people write: 7 characters of 8."""
    text = data.decode("utf-8", "replace")
    good = sum((char.isprintable() and char != "\ufffd") or char in "\r\n\t" for char in text)
    return good * 8 >= len(text) * 7


def printable(data: bytes) -> str:
    """Bytes as text where they are mostly that, else as hex: what a terminal may be given."""
    if is_text(data):
        text = data.decode("utf-8", "replace")
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return data[:48].hex(" ") + (" ..." if len(data) > 48 else "")


def _values(message: Message) -> list[tuple[str, Any]]:
    return [(field.name, getattr(message, field.name)) for field in fields(message)]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, IntEnum):
        return value.name.lower()
    return value.value if isinstance(value, Multiplier) else value


def _shown(value: Any) -> str:
    if isinstance(value, bytes) and len(value) > 16:
        return f"{value[:8].hex()}..({len(value)} bytes)"
    plain = _plain(value)
    if plain is None:
        return "none"
    if isinstance(plain, float):
        return f"{plain:.6g}"
    return repr(plain) if isinstance(plain, str) and not plain.isalnum() else str(plain)


@dataclass(slots=True)
class Figures:
    """Of one line since the tap began.

    Bytes on the wire, noise included. retries: messages and chunks that were said again. rtt: seconds from a
    host's order or ping to the device's status, smoothed as the link does it; None before one was seen.
    """

    frames_up: int = 0
    frames_down: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    damaged: int = 0  # pieces between delimiters that are no frame, or of no session
    bytes_stray: int = 0
    retries: int = 0
    sessions: int = 0
    rtt: float | None = None
    device: str = ""  # id in hex, of the latest hello
    board: str = ""


class _Talk:
    """One session: an opener for each direction, and the numbers accepted."""

    def __init__(self, sessions: dict[Direction, Session]) -> None:
        self.sessions = sessions
        self.begun = False
        self.last = dict.fromkeys(Direction, 0)

    def open(self, frame: RawFrame) -> tuple[bytes, int] | None:
        message = self.sessions[frame.direction].open(frame)
        if message is None:
            return None
        least = self.last[frame.direction] + 1
        number = least + ((frame.number - least) & 0xFFFF)
        self.last[frame.direction] = number
        return message, number

    def had(self, frame: RawFrame) -> bool:
        """Whether it is a frame in the clear that was accepted before."""
        last = self.last[frame.direction]
        number = last - ((last - frame.number) & 0xFFFF)
        return number > 0 and frame.matches(self.sessions[frame.direction].id, number)


@dataclass(slots=True)
class _Blob:
    kind: BlobKind
    hash: bytes
    size: int
    got: bytearray
    furthest: int = 0


class Tap:
    """Listens to one line. keys: those that the device with this id may hold, as HostEndpoint's."""

    def __init__(self, keys: Callable[[bytes], Sequence[bytes]] = lambda device_id: ()) -> None:
        self.figures = Figures()
        self._keys = keys
        self._splitters = {up: Splitter(_MAX_FRAME) for up in (False, True)}
        self._hellos: dict[bytes, tuple[Hello, bytes]] = {}  # by nonce
        self._talks: list[_Talk] = []
        self._blind = ""  # why the latest encrypted session cannot be read
        self._blobs: dict[tuple[bool, int], _Blob] = {}
        self._asked: tuple[Message, float | None] | None = None
        self._trip = RoundTrip(round_trip(0))

    def feed(self, at: float, up: bool, data: bytes) -> list[Seen]:
        """What ended in `data`, in order. at: seconds of any clock."""
        if up:
            self.figures.bytes_up += len(data)
        else:
            self.figures.bytes_down += len(data)
        return [self._piece(at, up, piece, whole) for piece, whole in self._splitters[up].feed(data)]

    def rest(self, at: float, up: bool | None = None) -> list[Seen]:
        """What has begun and not ended, when nothing more comes: boot text, too. up: this way only."""
        return [
            self._stray(at, way, held, "nothing ends it")
            for way, splitter in self._splitters.items()
            if up in (None, way) and (held := splitter.reset())
        ]

    def _stray(self, at: float, up: bool, piece: bytes, why: str, *, wire: int = 0) -> Seen:
        self.figures.damaged += 1
        self.figures.bytes_stray += len(piece)
        return Seen(at, up, wire or len(piece), "stray", why=why, data=piece)

    def _piece(self, at: float, up: bool, piece: bytes, whole: bool) -> Seen:
        wire = len(piece) + 1
        if not whole:
            return self._stray(at, up, piece, "longer than any frame")
        try:
            frame = parse_frame(piece)
        except FrameError as error:
            version = foreign_version(piece)
            why = error.what if version is None else f"a frame of protocol version {version}"
            return self._stray(at, up, piece, why, wire=wire)
        if (frame.direction is Direction.FROM_DEVICE) is not up:
            return self._stray(at, up, piece, "a frame of the other direction, come back", wire=wire)
        if frame.type is FrameType.CLEAR:
            if not frame.matches(0, 0):
                return self._stray(at, up, piece, "its check is wrong", wire=wire)
            return self._message(Seen(at, up, wire, "clear"), frame.message)
        return self._of_session(at, up, piece, frame)

    def _of_session(self, at: float, up: bool, piece: bytes, frame: RawFrame) -> Seen:
        kind = "session" if frame.type is FrameType.SESSION else "encrypted"
        wire = len(piece) + 1
        for talk in reversed(self._talks):
            opened = talk.open(frame)
            if opened is not None:
                self.figures.sessions += not talk.begun
                talk.begun = True
                return self._message(Seen(at, up, wire, kind, opened[1]), opened[0])
        if kind == "encrypted":
            if any(isinstance(s, EncryptedSession) for t in self._talks for s in t.sessions.values()):
                why = self._blind or "not authentic: damaged, said before, or of another session"
            else:
                why = self._blind or "its session began before this"
            self._count(up)
            return Seen(at, up, wire, kind, frame.number, why=f"{len(frame.message)} bytes; {why}")
        if any(talk.had(frame) for talk in self._talks):
            return self._stray(at, up, piece, f"frame {frame.number} for the second time", wire=wire)
        if self._talks:
            why = "its check is wrong: damaged, or of another session"
            return self._stray(at, up, piece, why, wire=wire)
        unsure = Seen(at, up, wire, kind, frame.number, why="not checked: its session began before this")
        return self._message(unsure, frame.message)

    def _count(self, up: bool) -> None:
        if up:
            self.figures.frames_up += 1
        else:
            self.figures.frames_down += 1

    def _message(self, seen: Seen, data: bytes) -> Seen:
        self._count(seen.up)
        try:
            message = decode(data)
        except MessageError as error:
            return _with(seen, None, error.what, "")
        return _with(seen, message, seen.why, self._meaning(seen, message, data))

    # ---- what messages mean ----------------------------------------------------------------------

    def _meaning(self, seen: Seen, message: Message, raw: bytes) -> str:
        match message:
            case Hello():
                self._hellos.pop(message.device_nonce, None)
                self._hellos[message.device_nonce] = message, raw
                if len(self._hellos) > MOST_HELLOS:
                    del self._hellos[next(iter(self._hellos))]
                self.figures.device, self.figures.board = message.device_id.hex(), message.board
            case Welcome():
                return self._begin(message, raw)
            case Offer():
                self._blob(seen.up, message.kind, message.hash, message.size)
            case Result() if message.update is not None:
                self._blob(seen.up, BlobKind.UPDATE, message.update, message.size)
            case Chunk():
                return self._chunk(seen.up, message)
            case Accept():
                blob = self._blobs.get((not seen.up, message.id))
                return "" if blob is None else f"{message.offset} of {_named(blob)}"
            case Train() | Commit() | Cancel() | Ping() if not seen.up:
                return self._order(seen.at, message)
            case Status() if seen.up and self._asked is not None:
                return self._answer(seen.at)
            case Probe() | Refuse() | _:
                pass
        return ""

    def _begin(self, welcome: Welcome, raw: bytes) -> str:
        heard = self._hellos.get(welcome.device_nonce)
        if heard is None:
            return "its hello was not heard"
        hello, said = heard
        made: dict[Direction, Session] = {}
        note = "a session in the clear"
        size = max(welcome.max_frame, 72)
        if welcome.proof is None:
            number = session_id(welcome.host_nonce, welcome.device_nonce, hello.device_id)
            for own, other in ((Direction.FROM_DEVICE, Direction.FROM_HOST), tuple(Direction)[::-1]):
                made[own] = Session(number, role=other, max_frame=size)
        else:
            for key in self._keys(hello.device_id):
                keys = derive(key, said, before_proof(raw))
                if keys.proves(welcome.proof):
                    for own in Direction:
                        made[own] = EncryptedSession(keys, role=Direction(1 - own), max_frame=size)
                    note, self._blind = "an encrypted session, read with the device's key", ""
                    break
            else:
                some = bool(self._keys(hello.device_id))
                self._blind = (
                    "no key that is known for this device opens it" if some else "no key for this device"
                )
                return f"an encrypted session: {self._blind}"
        self._talks.append(_Talk(made))
        del self._talks[:-MOST_SESSIONS]
        return note

    def _blob(self, up: bool, kind: BlobKind, hash: bytes, size: int) -> None:
        at = up, blob_id(hash)
        known = self._blobs.pop(at, None)
        if known is None or known.hash != hash or known.size != size:
            known = _Blob(kind, hash, size, bytearray())
        self._blobs[at] = known
        if len(self._blobs) > MOST_BLOBS:
            del self._blobs[next(iter(self._blobs))]

    def _chunk(self, up: bool, chunk: Chunk) -> str:
        blob = self._blobs.get((up, chunk.id))
        if blob is None:
            return "of a blob that was not offered here"
        end = chunk.offset + len(chunk.data)
        words = f"{chunk.offset}..{end} of {_named(blob)}"
        if end > blob.size:
            return f"{words}, behind its end"
        if end <= blob.furthest:
            self.figures.retries += 1
            words += ", said again"
        blob.furthest = max(blob.furthest, end)
        if chunk.offset <= len(blob.got) < end:
            blob.got += chunk.data[len(blob.got) - chunk.offset :]
            if len(blob.got) == blob.size:
                right = blob_hash(bytes(blob.got)) == blob.hash
                words += ", whole: the hash is right" if right else ", whole, and the hash is WRONG"
                if not right:
                    blob.got.clear()
        return words

    def _order(self, at: float, message: Message) -> str:
        if self._asked is not None and self._asked[0] == message:
            self._asked = message, None  # said twice: which of them is answered nobody knows
            self.figures.retries += 1
            return "said again"
        self._asked = message, at
        return ""

    def _answer(self, at: float) -> str:
        assert self._asked is not None
        message, said = self._asked
        self._asked = None
        if said is None or at < said:
            return ""
        self._trip.measure(at - said)
        self.figures.rtt = self._trip.smoothed
        return f"{1000 * (at - said):.0f} ms after {type(message).__name__.lower()}"


def _named(blob: _Blob) -> str:
    return f"{blob.size} of {blob.kind.name.lower()} {blob.hash.hex()}"


def _with(seen: Seen, message: Message | None, why: str, note: str) -> Seen:
    return Seen(seen.at, seen.up, seen.wire, seen.kind, seen.number, message, why, note)
