"""Blobs: bytes with a kind, a size and a hash, moved in chunks, resumable at any byte (PROTOCOL.md, "Blobs").

`BlobSender` and `BlobReceiver` hold one blob each, serve both directions and both roles, and outlive a
session: the sender is told with `restart` that a new one began, the receiver just keeps what it has. They
make and take messages; frames are the endpoint's business.
"""

from __future__ import annotations

import hashlib
from collections import deque

from kilofed.link.errors import BlobError
from kilofed.link.frames import CHECK_BYTES, message_bound, wire_bound
from kilofed.link.messages import MAX_BLOB, MAX_CHUNK, Accept, BlobKind, Chunk, Offer, Verdict
from kilofed.link.session import LONGEST_WAIT, TRIES, RoundTrip, round_trip

MOST_REFUSALS = 3
CHUNKS_AN_ACCEPT = 4
NAK_INTERVAL = 0.1  # between two accepts for a chunk at an unexpected offset, seconds


def blob_hash(data: bytes | bytearray) -> bytes:
    """BLAKE2b with an 8-byte digest."""
    return hashlib.blake2b(data, digest_size=8).digest()


def blob_id(hash: bytes) -> int:
    """What chunks and accepts call a blob: the first two bytes of its hash, big endian."""
    return int.from_bytes(hash[:2], "big")


def packed_bytes(codec: int, count: int) -> int:
    """Bytes of `count` weights in a codec: 0 int32, 1 int8, 2 int4 (two a byte), 3 ternary (five a byte)."""
    return (4 * count, count, (count + 1) // 2, (count + 4) // 5)[codec]


def head_bytes(codec: int, classes: int, features: int) -> int:
    """Size of a head blob: 16 bytes, weights padded to 4, an int32 a class."""
    return 16 + (packed_bytes(codec, classes * features) + 3 & ~3) + 4 * classes


def update_bytes(codec: int, classes: int, features: int) -> int:
    """Size of an update blob: 16 bytes, weights, a bias a class (int32 with codec 0, else int8)."""
    return 16 + packed_bytes(codec, classes * features) + (4 if codec == 0 else 1) * classes


def _chunk_data(room: int, id: int, offset: int) -> int:
    """Most data bytes of a chunk whose message has at most `room` bytes."""
    rest = room - 2 - _uint_bytes(id) - _uint_bytes(offset)
    return min(rest - 2 if rest <= 257 else rest - 3, MAX_CHUNK)


def _chunk_bytes(chunk: Chunk) -> int:
    """Size of a chunk's message."""
    size = len(chunk.data)
    return 2 + _uint_bytes(chunk.id) + _uint_bytes(chunk.offset) + _uint_bytes(size) + size


def _uint_bytes(value: int) -> int:
    """CBOR bytes of an unsigned integer, and of the head of a byte string of that length."""
    return 1 if value < 24 else 2 if value < 1 << 8 else 3 if value < 1 << 16 else 5


class BlobSender:
    """Brings one blob to the other side.

    data: the blob, 1 to MAX_BLOB bytes, else BlobError. max_frame, window, check (bytes of a frame's): of
    the session. announce: whether it sends offers itself (a head); an update is offered by `result`, which
    is its owner's to send, and then the sender waits for the first accept. trip: how long accepts take, which
    it adds to; None: it measures for itself, from each restart on.

    poll(now) gives what to send; accept(message, now) takes answers. Ends with `done`, or `failed` (""
    before): no progress through all repeats, or refused three times. `deadline` is when poll wants to be
    called.
    """

    def __init__(
        self,
        kind: BlobKind,
        data: bytes,
        *,
        max_frame: int,
        window: int,
        check: int = CHECK_BYTES,
        announce: bool = True,
        trip: RoundTrip | None = None,
    ) -> None:
        if not 1 <= len(data) <= MAX_BLOB:
            raise BlobError(f"a blob of {len(data)} bytes", f"send 1 to {MAX_BLOB} bytes")
        self.kind = kind
        self.data = data
        self.hash = blob_hash(data)
        self.id = blob_id(self.hash)
        self.chunks_sent = 0
        self.chunks_repeated = 0
        self._announce = announce
        self._given_trip = trip
        self._highest = 0  # offset sent at any time: chunks below it are repeats
        self.restart(max_frame=max_frame, window=window, check=check)

    def restart(self, *, max_frame: int, window: int, check: int = CHECK_BYTES) -> None:
        """A new session: the other side is asked again what it has, also when it once had all."""
        self.done = False
        self.failed = ""
        self.refusals = 0
        self._room = message_bound(min(window, max_frame), check)
        self._check = check
        self._window = window
        self._trip = self._given_trip or RoundTrip(round_trip(window))
        self._open = False
        self._base = 0  # accepted by the other side
        self._next = 0  # first byte that was not sent
        # (end, bytes on the wire, when it was sent, None when not for the first time) of chunks beyond _base
        self._flight: deque[tuple[int, int, float | None]] = deque()
        self._flight_bytes = 0
        self._progress = 0  # highest accepted offset
        self._nak_at = -1
        self._gone_from = -1  # what had been sent when it last went back
        self._tries = 0
        self.deadline: float | None = float("-inf") if self._announce else None

    @property
    def accepted(self) -> int:
        """Bytes the other side has."""
        return len(self.data) if self.done else self._base

    def poll(self, now: float) -> list[Offer | Chunk]:
        """What to send at `now`: an offer, or as many chunks as the window takes."""
        if self.done or self.failed:
            return []
        out: list[Offer | Chunk] = []
        expired = self.deadline is not None and now >= self.deadline
        if expired and self.deadline != float("-inf"):
            self._tries += 1
            if self._tries > TRIES:
                self.failed = f"no progress at byte {self._base} of {len(self.data)}"
                self.deadline = None
                return []
            self._gone_from = self._next
            # Whole and no verdict: repeating its last byte makes the other side say it again.
            self._rewind(min(self._base, len(self.data) - 1))
        if not self._open:
            if expired:
                self._wait(now)
                out.append(Offer(self.kind, self.hash, len(self.data)))
            return out
        while self._next < len(self.data):
            size = _chunk_data(self._room, self.id, self._next)
            chunk = Chunk(self.id, self._next, self.data[self._next : self._next + size])
            wire = wire_bound(_chunk_bytes(chunk), self._check)
            if self._flight and self._flight_bytes + wire > self._window:
                break
            self.chunks_sent += 1
            again = self._next < self._highest
            self.chunks_repeated += again
            self._next += len(chunk.data)
            self._highest = max(self._highest, self._next)
            self._flight.append((self._next, wire, None if again else now))
            self._flight_bytes += wire
            out.append(chunk)
        if out or expired:
            self._wait(now)
        return out

    def accept(self, message: Accept, now: float) -> None:
        """Takes an accept; one for another blob, or that cannot be, is ignored."""
        if message.id != self.id or self.failed or message.offset > len(self.data):
            return
        if message.verdict is Verdict.COMPLETE:
            self._rewind(len(self.data))
            self.done = True
            self.deadline = None
            return
        if self.done:  # it had all and does not have it any more
            self.done = False
            self._wait(now)
        if message.verdict is Verdict.REFUSED:
            self._refused(now)
            return
        offset = message.offset
        first = not self._open
        self._open = True
        if offset > self._progress or first:
            self._progress = max(self._progress, offset)
            self._tries = 0
        if first:
            self._rewind(offset)
            self._wait(now)
        elif offset < self._base:  # it has lost what it had; not too often
            self._tries += 1
            self._rewind(offset)
            if self._tries > TRIES:
                self.failed = f"the other side keeps losing what it had at byte {offset}"
                self.deadline = None
            else:
                self._wait(now)
        elif offset > self._base:
            self._base = offset
            self._next = max(self._next, offset)
            sent: float | None = None
            while self._flight and self._flight[0][0] <= offset:
                _, wire, sent = self._flight.popleft()
                self._flight_bytes -= wire
            if sent is not None:
                self._trip.measure(now - sent)
            self._wait(now)
        elif self._flight and offset not in (self._nak_at, self._gone_from):
            # The same offset again: a chunk was lost, what follows is in vain. Only once an offset: the
            # chunks that are still under way will each say it again. And not where it once went back from: if
            # nothing was lost then, all that it sent twice says so there, and going back would never end.
            self._nak_at = offset
            self._gone_from = self._next
            self._rewind(offset)

    def _refused(self, now: float) -> None:
        self.refusals += 1
        self._open = False
        self._rewind(0)
        self._progress = 0
        self._tries = 0
        if self.refusals >= MOST_REFUSALS:
            self.failed = f"refused {self.refusals} times"
            self.deadline = None
        elif self._announce:
            self.deadline = float("-inf")
        else:
            self.deadline = None

    def _rewind(self, offset: int) -> None:
        self._base = self._next = offset
        self._flight.clear()
        self._flight_bytes = 0

    def _wait(self, now: float) -> None:
        wait = self._trip.wait
        self.deadline = now + min(wait * (1 << self._tries), max(LONGEST_WAIT, wait))


class BlobReceiver:
    """Takes one blob from the other side.

    window: bytes on the wire after half of which it accepts; and at the latest when half as many chunks have
    come as frames of max_frame (64: the shortest) fit it. offer() and chunk() return the accept to send,
    or None. `complete` is set when it is whole and its hash right; `damaged` counts wholes with a wrong
    hash. A new offer of another hash drops what was there. Memory grows with what has arrived, up to the
    offered size.
    """

    def __init__(self, *, window: int, max_frame: int = 64) -> None:
        self.hash = b""
        self.size = 0
        self.complete = False
        self.damaged = 0
        self._data = bytearray()
        self.restart(window=window, max_frame=max_frame)

    @property
    def data(self) -> bytes:
        """What has arrived."""
        return bytes(self._data)

    def restart(self, *, window: int, max_frame: int) -> None:
        """A new session; keeps the bytes."""
        self._window = window
        # Chunks are a little shorter than the longest frame: by bytes alone half of four would be three, and
        # the one that is still under way ends before an accept has crossed a USB adapter.
        self._most_chunks = max(1, min(CHUNKS_AN_ACCEPT, window // max_frame // 2))
        self._wire = self._chunks = 0
        self._nak = (-1, float("-inf"))

    def clear(self) -> None:
        """Forgets the blob."""
        self.hash = b""
        self.size = 0
        self.complete = False
        self._data.clear()

    def offer(self, hash: bytes, size: int) -> Accept:
        """A blob is offered, for the first time or again."""
        if hash != self.hash or size != self.size:
            self.clear()
            self.hash, self.size = hash, size
        self._wire = self._chunks = 0
        return self._accept()

    def chunk(self, message: Chunk, wire: int, now: float) -> Accept | None:
        """A chunk arrived in a frame of `wire` bytes."""
        if not self.hash or message.id != blob_id(self.hash):
            return None
        if self.complete or message.offset != len(self._data):
            reached = len(self._data)
            if self._nak[0] == reached and now - self._nak[1] < NAK_INTERVAL:
                return None
            self._nak = (reached, now)
            return self._accept()
        if len(message.data) > self.size - len(self._data):
            return self._drop()
        self._data += message.data
        self._wire += wire
        self._chunks += 1
        if len(self._data) == self.size:
            if blob_hash(self._data) != self.hash:
                return self._drop()
            self.complete = True
            return self._accept()
        if self._chunks >= self._most_chunks or 2 * self._wire >= self._window:
            return self._accept()
        return None

    def _accept(self) -> Accept:
        self._wire = self._chunks = 0
        verdict = Verdict.COMPLETE if self.complete else Verdict.RECEIVING
        return Accept(blob_id(self.hash), len(self._data), verdict)

    def _drop(self) -> Accept:
        refusal = Accept(blob_id(self.hash), 0, Verdict.REFUSED)
        self.damaged += 1
        self.clear()
        return refusal
