"""A session's numbers and checks, and the clock work that both sides share.

    session id = first 4 bytes, as u32 LE, of BLAKE2b-8("kilofed session 1" + host_nonce + device_nonce +
    device_id)

The id enters every check and no frame. So a frame of another session, or one from before a reset, is noise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from kilofed.link.frames import CHECK_BYTES, Direction, FrameType, RawFrame, encode_frame

LAST_NUMBER = 0xFFFFFFFF
LINE_RATE = 11520  # bytes a second at 115200 baud: what retransmission times assume
TRIES = 8
LONGEST_WAIT = 4.0
LEAST_WAIT = 0.2  # twice what a receiver may wait before it says again where it is (NAK_INTERVAL)
TICK = 0.016  # a USB serial adapter hands on what came in steps of it, seconds
REPEAT = 1.0  # hello, probe, info and result, seconds
MOST_BUSY = 60.0  # a busy(ms) counts for no longer, seconds


def session_id(host_nonce: bytes, device_nonce: bytes, device_id: bytes) -> int:
    """The id of the session that a hello and its welcome open: each argument is 8 bytes."""
    who = b"kilofed session 1" + host_nonce + device_nonce + device_id
    digest = hashlib.blake2b(who, digest_size=8).digest()
    return int.from_bytes(digest[:4], "little")


def round_trip(window: int) -> float:
    """RTO in seconds before anything was measured: 500 ms and the time of one window at 115200 baud."""
    return 0.5 + window / LINE_RATE


class RoundTrip:
    """How long an answer takes, and so how long to wait for one (RFC 6298, section 2).

    first: the wait before anything was measured, seconds. What was sent more than once must not be measured
    (Karn's rule): nobody knows which of them was answered. Whoever waits in vain waits twice as long the next
    time, until something comes.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self._varies = 0.0
        self.smoothed: float | None = None  # seconds; None before the first measure

    def measure(self, seconds: float) -> None:
        """The answer to what was sent once took so long."""
        if self.smoothed is None:
            self.smoothed, self._varies = seconds, seconds / 2
            return
        self._varies += (abs(self.smoothed - seconds) - self._varies) / 4
        self.smoothed += (seconds - self.smoothed) / 8

    @property
    def wait(self) -> float:
        """RTO in seconds: at least LEAST_WAIT, and no longer than LONGEST_WAIT or the first wait."""
        if self.smoothed is None:
            return self._first
        wanted = self.smoothed + max(TICK, 4 * self._varies)
        return min(max(wanted, LEAST_WAIT), max(LONGEST_WAIT, self._first))


class Session:
    """Numbers, seals and opens the frames of one session in the clear; secure.EncryptedSession is the other.

    id: see `session_id`. role: the direction of the frames this side sends. max_frame: neither side sends
    longer ones. check_bytes: what protects a frame takes of it.
    """

    check_bytes = CHECK_BYTES

    def __init__(self, id: int, *, role: Direction, max_frame: int) -> None:
        self.id = id
        self.max_frame = max_frame
        self._role = role
        self._sent = 0
        self._accepted = 0

    @property
    def exhausted(self) -> bool:
        """Whether a number space is used up: the session has to end."""
        return LAST_NUMBER in (self._sent, self._accepted)

    @property
    def received_any(self) -> bool:
        """Whether a frame of the peer was accepted yet."""
        return self._accepted > 0

    def seal(self, message: bytes) -> bytes:
        """The next frame, on the wire. Not to be called once `exhausted`."""
        self._sent += 1
        return encode_frame(
            message, direction=self._role, frame=FrameType.SESSION, session=self.id, number=self._sent
        )

    def open(self, frame: RawFrame) -> bytes | None:
        """The message in it, or None when it is not of this session, damaged, or was accepted before.

        Of the numbers that end in the 16 bits seen, the smallest above the last accepted is tried.
        """
        if frame.type is not FrameType.SESSION or frame.direction is self._role:
            return None
        number = self._number_of(frame)
        if number > LAST_NUMBER or not frame.matches(self.id, number):
            return None
        self._accepted = number
        return frame.message

    def _number_of(self, frame: RawFrame) -> int:
        least = self._accepted + 1
        return least + ((frame.number - least) & 0xFFFF)


@dataclass(slots=True)
class Repeater:
    """Says when something is to be sent, and sent again, until it shows effect.

    interval: seconds before the first repeat; each further one waits twice as long, up to LONGEST_WAIT.
    tries: how often it is repeated at most.
    """

    interval: float
    tries: int = TRIES
    deadline: float = float("-inf")
    used: int = -1  # the first time is no repeat
    said: float | None = None  # when, if once: the answer's time may be measured

    def due(self, now: float) -> bool:
        """Whether to send now; if so the next time is set. Check `exhausted` first."""
        if now < self.deadline:
            return False
        self.used += 1
        self.said = now if self.used == 0 else None
        self.deadline = now + min(self.interval * (1 << self.used), max(LONGEST_WAIT, self.interval))
        return True

    def exhausted(self, now: float) -> bool:
        """Whether the last repeat has had its time and nothing came."""
        return self.used >= self.tries and now >= self.deadline

    def progress(self, now: float) -> None:
        """Something came: count from the beginning, and wait a whole interval first."""
        self.used = 0
        self.said = None
        self.deadline = now + self.interval
