"""What both ends of a line share: bytes in and out, strays, counters, and messages to and from frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from kilofed.link.errors import FrameError, MessageError, StatusCode, UnknownMessage
from kilofed.link.events import Stray
from kilofed.link.frames import (
    Direction,
    FrameType,
    RawFrame,
    Splitter,
    encode_frame,
    foreign_version,
    parse_frame,
)
from kilofed.link.messages import Error, Message, Reason, decode, encode
from kilofed.link.session import Session

EventT = TypeVar("EventT")
_STRAY_BYTES = 4096  # one Stray event gathers at most about this much


@dataclass(slots=True)
class Counters:
    """Since the endpoint was made. Bytes on the wire: headers, checks, COBS and delimiters included.

    Up is towards the host, on either end of the line.
    """

    bytes_up: int = 0  # noise included
    bytes_down: int = 0
    bytes_stray: int = 0  # the part of what was received that was no frame
    frames_up: int = 0
    frames_down: int = 0
    damaged: int = 0  # pieces between delimiters that were no frame
    retries: int = 0  # messages and chunks that this end sent again
    sessions: int = 0


class Endpoint(ABC, Generic[EventT]):
    """One end of one line, sans-IO. `HostEndpoint` and `DeviceEndpoint` are the two.

    role: the direction of the frames this end sends. max_frame: longest frame it takes, bytes on the wire.
    """

    def __init__(self, role: Direction, *, max_frame: int) -> None:
        self.counters = Counters()
        self._role = role
        self._now = float("-inf")
        self._out = bytearray()
        self._events: list[EventT | Stray] = []
        self._splitter = Splitter(max_frame)
        self._session: Session | None = None
        self._closed = False

    # ---- in --------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the line, any number, cut anywhere. Never raises."""
        self._clock(now)
        self._count_bytes(len(data), received=True)
        if self._closed:
            return
        for piece, whole in self._splitter.feed(data):
            if not (whole and self._take_piece(piece)):
                self.counters.damaged += 1
                self._stray(piece, foreign_version(piece) if whole else None)
        self._work()

    def poll(self, now: float) -> None:
        """Does what is due at `now`. Never raises."""
        self._clock(now)
        if not self._closed:
            self._work()

    # ---- out -------------------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """What goes to the line now; each byte is given once."""
        data = bytes(self._out)
        self._out.clear()
        self._count_bytes(len(data), received=False)
        return data

    @abstractmethod
    def next_deadline(self) -> float | None:
        """When poll() wants to be called: at once after a command, None only once closed."""

    def events(self) -> list[EventT | Stray]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    # ---- for the two roles -----------------------------------------------------------------------

    @abstractmethod
    def _clock(self, now: float) -> None:
        """Moves `_now` on."""

    @abstractmethod
    def _work(self) -> None:
        """Says everything that is due."""

    @abstractmethod
    def _open(self, frame: RawFrame) -> bytes | None:
        """The message in a session frame, of whichever session it is; None when of none."""

    @abstractmethod
    def _take_clear(self, message: Message, raw: bytes) -> None:
        """A message from outside a session, and its bytes."""

    @abstractmethod
    def _take_message(self, message: Message, wire: int) -> None:
        """A message of the session, in a frame of `wire` bytes."""

    @abstractmethod
    def _may_answer(self) -> bool:
        """Whether the session has come so far that this end may speak in it."""

    @abstractmethod
    def _lose(self, reason: int, why: str) -> None:
        """Ends the session, if there is one."""

    # ---- shared ----------------------------------------------------------------------------------

    def _count_bytes(self, count: int, *, received: bool) -> None:
        if received == (self._role is Direction.FROM_HOST):
            self.counters.bytes_up += count
        else:
            self.counters.bytes_down += count

    def _count_frame(self, *, received: bool) -> None:
        if received == (self._role is Direction.FROM_HOST):
            self.counters.frames_up += 1
        else:
            self.counters.frames_down += 1

    def _stray(self, data: bytes, version: int | None = None) -> None:
        self.counters.bytes_stray += len(data)
        last = self._events[-1] if self._events else None
        if isinstance(last, Stray) and len(last.data) < _STRAY_BYTES:
            self._events[-1] = Stray(last.data + data, last.version if version is None else version)
        else:
            self._events.append(Stray(data, version))

    def _malformed(self, why: str) -> None:
        """Told of a message of the session that made no sense."""

    def _take_piece(self, piece: bytes) -> bool:
        """Whether it was a frame for this end."""
        try:
            frame = parse_frame(piece)
        except FrameError:
            return False
        if frame.direction is self._role:
            return False
        if frame.type is FrameType.CLEAR:
            if not frame.matches(0, 0):
                return False
            self._count_frame(received=True)
            try:
                message = decode(frame.message)
            except MessageError:
                return True  # of a later version, or nonsense: nobody to answer
            self._take_clear(message, frame.message)
            return True
        data = self._open(frame)
        if data is None:
            return False
        self._count_frame(received=True)
        try:
            message = decode(data)
        except MessageError as error:
            # An answer to a malformed error could be answered with an error: type 14 gets none.
            if self._may_answer() and data[1:2] != bytes((Error.TYPE,)):
                unknown = isinstance(error, UnknownMessage)
                if not unknown:
                    self._malformed(error.what)
                kind = data[1] if len(data) > 1 and data[1] < 24 else 0
                self._say(Error(StatusCode.UNSUPPORTED if unknown else StatusCode.MESSAGE, kind))
            return True
        self._take_message(message, len(piece) + 1)
        return True

    def _say(self, message: Message) -> None:
        """Sends a message in the session; does nothing without one."""
        if self._session is None:
            return
        if self._session.exhausted:
            self._lose(Reason.PROTOCOL, "frame numbers are used up")
            return
        self._out += self._session.seal(encode(message))
        self._count_frame(received=False)

    def _say_clear(self, message: Message) -> None:
        self._out += encode_frame(encode(message), direction=self._role)
        self._count_frame(received=False)
