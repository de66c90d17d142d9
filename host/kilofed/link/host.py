"""The host's side of one line: a sans-IO state machine. Bytes and time in, bytes, events and a deadline out.

    endpoint = HostEndpoint(rng=os.urandom)
    loop:   endpoint.receive(bytes_from_the_line, now)   or   endpoint.poll(now) when next_deadline() has come
            line.write(endpoint.data_to_send())
            for event in endpoint.events(): ...

`now` is in seconds of any monotonic clock. A command takes effect at the next receive() or poll();
next_deadline() is due at once after one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kilofed.link import events as ev
from kilofed.link.blobs import MOST_REFUSALS, BlobReceiver, BlobSender, blob_hash, blob_id, update_bytes
from kilofed.link.endpoint import Counters, Endpoint
from kilofed.link.errors import SessionError, StatusCode
from kilofed.link.frames import CHECK_BYTES, Direction, RawFrame
from kilofed.link.messages import (
    PROOF_BYTES,
    PROTOCOL_VERSION,
    Accept,
    BlobKind,
    Busy,
    Bye,
    Cancel,
    Chunk,
    Commit,
    Error,
    Hello,
    Info,
    Label,
    Labelled,
    Message,
    Ping,
    Probe,
    Reason,
    Refuse,
    Result,
    Seen,
    State,
    Status,
    Train,
    TrainOrder,
    Verdict,
    Watch,
    Welcome,
    before_proof,
    encode,
)
from kilofed.link.secure import MIN_FRAME, NO_KEY, EncryptedSession, derive
from kilofed.link.session import MOST_BUSY, REPEAT, Repeater, RoundTrip, Session, round_trip, session_id

ANSWER_INFO = 0.25  # how long an info waits for a command to answer it, before a ping does, seconds
UNPROVEN_AFTER = 4  # times that the same hello comes and no session of it begins: said once
WATCH = 6.0  # seconds that a device is asked to tell what it sees; asked again after a third of it
HEAD_TRIES = 3  # how often a head is brought again to a device that says it does not hold it

__all__ = ["Counters", "HostEndpoint"]


@dataclass(slots=True)
class _Pending:
    """A session that was offered with a welcome and has not begun."""

    raw: bytes  # the hello, as it came
    hello: Hello
    welcome: Welcome
    session: Session
    since: float
    key: bytes | None = field(default=None, repr=False)
    said: int = 0  # times this welcome was given
    doubts: int = 0  # of them, those that were not given in one go: hellos may have waited for a busy host
    doubted: float = float("-inf")  # when the last of them was


class HostEndpoint(Endpoint[ev.Event]):
    """One device's protocol on the host.

    rng: gives n random bytes (os.urandom; a seeded source in tests). admit: called with each new hello; 0
    welcomes, another number is the `Reason` to refuse with. keys: the keys that the device with this id may
    hold (32 bytes each; two while one replaces the other), empty when there is none. insecure: let devices
    open sessions in the clear, for the bench; a device without a key is refused otherwise, whatever its id.
    max_frame: longest frame this side takes, 64..1024 (72 at least with keys).
    window: most bytes on the wire sent beyond the last accept, whatever the device offers.
    heartbeat: seconds, 0.1..65.

    Life: it probes, a device says hello, `Opened` comes with what the device holds. Then, a round:

        send_head(blob)  -> HeadDelivered       at once when the device has it already
        train(order)     -> Training, Progress..., ResultReady
        commit(round, 0) -> Committed

    send_head and train may be given together, and with the commit of the round before: each waits for what
    it needs. A command that is under way may be given again, which changes nothing; train() for a round that
    was answered has the answer said again.

    `Lost` forgets all commands; the line stays open, and at the next `Opened` the owner says again what it
    wants (`info` tells what the device holds, is doing, and which round): train() for the round whose
    result waits fetches that result, and nothing of an update that had been received is sent again. A
    result of a round that was not ordered in this session is left alone. Without a session commands raise
    SessionError: `Lost` is among the events already, or `Opened` has not come.
    """

    def __init__(
        self,
        *,
        rng: Callable[[int], bytes],
        admit: Callable[[Hello], int] = lambda hello: 0,
        keys: Callable[[bytes], Sequence[bytes]] = lambda device_id: (),
        insecure: bool = False,
        max_frame: int = 1024,
        window: int = 4096,
        heartbeat: float = 2.0,
        refuse_for: float = 10.0,
    ) -> None:
        if not 64 <= max_frame <= 1024 or not 64 <= window <= 65535 or not 0.1 <= heartbeat <= 65:
            raise ValueError("max_frame is 64..1024, window 64..65535, heartbeat 0.1..65 seconds")
        if not insecure and max_frame < MIN_FRAME:
            raise ValueError(f"an encrypted session needs a max_frame of {MIN_FRAME}")
        super().__init__(Direction.FROM_HOST, max_frame=max_frame)
        self._rng = rng
        self._admit = admit
        self._keys = keys
        self._insecure = insecure
        self._max_frame = max_frame
        self._most_window = window
        self._heartbeat = heartbeat
        self._refuse_for = refuse_for

        self._woken = True
        self._probe_at = float("-inf")
        self._seen = b""  # the latest hello, as it came
        self._refused = 0
        self._pending: _Pending | None = None
        self._receiver = BlobReceiver(window=window)
        self._result: Result | None = None
        self._forget()

    def _forget(self) -> None:
        """The state of a session that is not there."""
        self._session = None
        self._hello: Hello | None = None
        self._key: bytes | None = None
        self._info: Info | None = None
        self._status: Status | None = None
        self._state = State.IDLE  # of the device, by its latest message
        self._head_held: bytes | None = None
        self._last_heard = self._last_sent = self._now
        self._busy_until = float("-inf")
        self._answer_at: float | None = None
        self._ping: Repeater | None = None
        self._pinged: Repeater | None = None  # what the frame that is being taken has ended
        self._trip = RoundTrip(round_trip(self._window()))  # of messages
        self._blob_trip = RoundTrip(round_trip(self._window()))  # of a chunk behind a window of others
        self._head: BlobSender | None = None
        self._head_blob = b""
        self._head_wanted = b""  # hash the owner waits to hear of
        self._head_tries = 0
        self._head_detail = 0
        self._result_at = float("-inf")  # when it was last answered with an accept
        self._order: Train | None = None
        self._order_try: Repeater | None = None  # None once the device has taken it
        self._reported = False
        self._damaged = 0
        self._commit: Commit | None = None
        self._commit_try: Repeater | None = None
        self._cancel: Cancel | None = None
        self._cancel_try: Repeater | None = None
        self._watch_until = float("-inf")  # of the owner's clock
        self._watch_at = float("inf")  # when it is asked for again
        self._label: Label | None = None
        self._label_try: Repeater | None = None

    # ---- in --------------------------------------------------------------------------------------

    def disconnected(self, why: str) -> None:
        """The transport is gone: the session ends (`Lost`), nothing more is sent, and probing begins anew."""
        if held := self._splitter.reset():
            self._stray(held)
        self._lose(Reason.NONE, why)
        self._pending = None
        self._out.clear()
        self._probe_at = float("-inf")

    # ---- out -------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When poll() wants to be called: in the past after a command, None only once closed."""
        if self._closed:
            return None
        if self._woken:
            return self._now
        if self._session is None:
            return self._probe_at if self._pending is None else min(self._probe_at, self._pending_ends())
        quiet = max(self._last_heard, self._busy_until)
        times = [quiet + 3 * self._heartbeat, self._now + self._heartbeat]
        if self._info is None:
            return min(times)
        if self._now < self._busy_until:
            return min(*times, self._busy_until)
        times.append(self._ping.deadline if self._ping else min(quiet, self._last_sent) + self._heartbeat)
        if self._answer_at is not None:
            times.append(self._answer_at)
        if self._label_try is not None:
            times.append(self._label_try.deadline)
        times.append(self._watch_at)
        if self._commit_try is not None:
            times.append(self._commit_try.deadline)
        elif self._cancel_try is not None:
            times.append(self._cancel_try.deadline)
        elif self._head is not None:
            times.append(self._head.deadline if self._head.deadline is not None else times[0])
        elif self._order_try is not None and self._state is not State.COLLECTING:
            times.append(self._order_try.deadline)
        return min(times)

    # ---- what is known ---------------------------------------------------------------------------

    @property
    def hello(self) -> Hello | None:
        """Of the open session."""
        return self._hello

    @property
    def key(self) -> bytes | None:
        """The device's key that the open session is made of; None without one, or in the clear."""
        return self._key

    @property
    def enrolled(self) -> bytes | None:
        """The key that both ends may replace a code's by, of the open session; None without one."""
        return self._session.enrolled if isinstance(self._session, EncryptedSession) else None

    @property
    def info(self) -> Info | None:
        """The latest, of the open session; None without one."""
        return self._info

    @property
    def status(self) -> Status | None:
        """The latest, of the open session."""
        return self._status

    @property
    def rtt(self) -> float | None:
        """Seconds that an answer takes on this line, smoothed; None before one was measured."""
        return self._trip.smoothed

    # ---- commands: SessionError when no session is open ------------------------------------------

    def send_head(self, blob: bytes) -> None:
        """Brings a head blob to the device; one still under way is replaced.

        -> HeadDelivered, or DeviceError. BlobError when the blob is empty or above 1 MiB.
        """
        hello = self._need_session()
        if self._head is not None and self._head.data == blob:
            return
        if self._head is not None:
            self._head_held = None  # the one under way may arrive in full yet: ask
        sender = self._head_sender(blob, hello)
        self._head_blob = blob
        self._head_wanted = sender.hash
        self._head_tries = 0
        self._head = None if sender.hash == self._head_held else sender
        self._woken = True

    def _head_sender(self, blob: bytes, hello: Hello) -> BlobSender:
        return BlobSender(
            BlobKind.HEAD,
            blob,
            max_frame=min(self._max_frame, hello.max_frame),
            window=self._window(),
            check=self._session.check_bytes if self._session is not None else CHECK_BYTES,
            trip=self._blob_trip,
        )

    def train(self, order: TrainOrder) -> None:
        """Has the device train a round, or hand over that round's result.

        -> Training, ResultReady. MessageError when a field is out of range.
        """
        encode(order)
        self._need_session()
        if self._order == order and not self._reported:
            return
        self._order = order
        self._order_try = self._repeater()
        self._reported = False
        self._damaged = 0
        self._woken = True

    def commit(self, round: int, verdict: int = 0) -> None:
        """Tells the device what became of its result (0: taken, else a StatusCode). -> Committed"""
        commit = Commit(round, verdict)
        encode(commit)
        self._need_session()
        if self._commit == commit:
            return
        if self._order is not None and self._order.round == round:
            self._order = self._order_try = None
        self._commit = commit
        self._commit_try = self._repeater()
        self._woken = True

    def cancel(self, round: int) -> None:
        """Stops training of this round and drops its result. -> Progress with the device's state"""
        cancel = Cancel(round)
        encode(cancel)
        self._need_session()
        if self._cancel == cancel:
            return
        if self._order is not None and self._order.round == round:
            self._order = self._order_try = None
        self._cancel = cancel
        self._cancel_try = self._repeater()
        self._woken = True

    def watch(self, seconds: float) -> None:
        """Asks for so long what the device's sensor shows; 0: no longer. -> WindowSeen, or DeviceError from a
        device that shows nothing.
        """
        self._need_session()
        self._watch_until = self._now + seconds
        self._watch_at = self._now
        self._woken = True

    def label(self, number: int, label: int) -> None:
        """Says what the window of this number was. -> LabelAnswered. Another label before that takes its
        place.
        """
        said = Label(number, label)
        encode(said)
        self._need_session()
        self._label = said
        self._label_try = self._repeater()
        self._woken = True

    def close(self, reason: Reason = Reason.SHUTTING_DOWN) -> None:
        """Says bye and ends the endpoint for good: take data_to_send() once more. Twice does nothing."""
        if self._closed:
            return
        if self._session is not None:
            self._say(Bye(reason))
            self._lose(reason, "closed by this side")
        self._pending = None
        self._closed = True

    def _need_session(self) -> Hello:
        if self._hello is None or self._info is None:
            raise SessionError("there is no session with a device on this line", "wait for Opened")
        return self._hello

    # ---- time ------------------------------------------------------------------------------------

    def _clock(self, now: float) -> None:
        """Moves time on. A gap longer than any deadline was this process's sleep, not a device's silence."""
        gap = now - self._now
        if gap > 2 * self._heartbeat and self._session is not None:
            self._last_heard += gap - self._heartbeat
            self._last_sent += gap - self._heartbeat
        self._now = max(now, self._now)
        self._woken = False

    def _repeater(self) -> Repeater:
        return Repeater(self._trip.wait)

    def _measure(self, repeater: Repeater) -> None:
        """What was repeated has its answer."""
        if repeater.said is not None:
            self._trip.measure(self._now - repeater.said)

    def _window(self) -> int:
        return min(self._most_window, self._hello.window) if self._hello else self._most_window

    def _pending_ends(self) -> float:
        return self._pending.since + 3 * self._heartbeat if self._pending else float("inf")

    # ---- sessions --------------------------------------------------------------------------------

    def _open(self, frame: RawFrame) -> bytes | None:
        data = self._session.open(frame) if self._session is not None else None
        if data is None and self._pending is not None:
            data = self._pending.session.open(frame)
            if data is not None:
                self._begin(self._pending)
        if data is not None:
            self._last_heard = self._now
            self._pinged, self._ping = self._ping, None
        return data

    def _may_answer(self) -> bool:
        return self._info is not None

    def _malformed(self, why: str) -> None:
        self._events.append(ev.Malformed(why))

    def _take_clear(self, message: Message, raw: bytes) -> None:
        if isinstance(message, Hello):
            self._take_hello(message, raw)

    def _verdict(self, hello: Hello) -> int:
        """0 to welcome it, or the reason to refuse it."""
        if hello.version < PROTOCOL_VERSION:
            return Reason.VERSION
        if refused := self._admit(hello):
            return refused
        if not hello.encrypted:
            return Reason.NONE if self._insecure else Reason.INSECURE
        if not self._keys_for(hello):
            return Reason.WRONG_KEY
        return Reason.NONE if hello.max_frame >= MIN_FRAME else Reason.PROTOCOL

    def _keys_for(self, hello: Hello) -> list[bytes]:
        return [key for key in self._keys(hello.device_id) if key != NO_KEY]

    def _offer(self, hello: Hello, raw: bytes, said: int) -> _Pending:
        """A session beside the one that may be open.

        That one ends when the device's first frame of this one comes. So a stray or replayed hello ends
        nothing.
        """
        nonce = self._rng(8)
        max_frame = min(self._max_frame, hello.max_frame)
        welcome = Welcome(PROTOCOL_VERSION, hello.device_nonce, nonce, max_frame, int(self._heartbeat * 1000))
        if not hello.encrypted:
            id = session_id(nonce, hello.device_nonce, hello.device_id)
            session = Session(id, role=Direction.FROM_HOST, max_frame=max_frame)
            return _Pending(raw, hello, welcome, session, self._now)
        known = self._keys_for(hello)
        key = known[said % len(known)]
        sized = replace(welcome, proof=bytes(PROOF_BYTES))
        made = derive(key, raw, before_proof(encode(sized)))
        encrypted = EncryptedSession(made, role=Direction.FROM_HOST, max_frame=max_frame)
        return _Pending(raw, hello, replace(welcome, proof=made.proof), encrypted, self._now, key)

    def _take_hello(self, hello: Hello, raw: bytes) -> None:
        if raw != self._seen:  # the whole of it: a nonce repeated with other flags is another hello
            self._seen = raw
            self._refused = self._verdict(hello)
            self._events.append(ev.HelloSeen(hello, self._refused))
        elif hello.encrypted and not self._refused and not self._keys_for(hello):
            self._refused = Reason.WRONG_KEY  # revoked since it said so first
        if self._refused:
            wait = int(self._refuse_for * 1000)
            self._say_clear(Refuse(hello.device_nonce, self._refused, wait))
            self._probe_at = self._now + self._refuse_for
            return
        if self._pending is None or self._pending.raw != raw:
            self._pending = self._offer(hello, raw, 0)
        elif hello.encrypted and len(self._keys_for(hello)) > 1:  # it may hold the other one
            before = self._pending
            self._pending = self._offer(hello, raw, before.said)
            self._pending.said = before.said
            self._pending.doubts, self._pending.doubted = before.doubts, before.doubted
        self._pending.since = self._now
        self._pending.said += 1
        if self._now >= self._pending.doubted + REPEAT / 2:
            self._pending.doubts += 1
            self._pending.doubted = self._now
            if hello.encrypted and self._pending.doubts == UNPROVEN_AFTER:
                self._events.append(ev.Unproven(hello.device_id))
        # A probe would use up the nonce that the welcome echoes: leave it the time of a slow round trip.
        self._probe_at = self._now + 2 * REPEAT
        self._say_clear(self._pending.welcome)

    def _begin(self, pending: _Pending) -> None:
        """The first frame of an offered session came."""
        if self._session is not None:
            self._lose(Reason.NONE, "the device began a new session")
        self._forget()
        self._pending = None
        self._session = pending.session
        self._hello = pending.hello
        self._key = pending.key
        self._trip = RoundTrip(round_trip(self._window()))
        self._blob_trip = RoundTrip(round_trip(self._window()))
        self._last_heard = self._last_sent = self._now
        self._receiver.restart(window=pending.hello.window, max_frame=pending.welcome.max_frame)
        self.counters.sessions += 1

    # ---- messages --------------------------------------------------------------------------------

    def _take_message(self, message: Message, wire: int) -> None:
        match message:
            case Info():
                self._take_info(message)
            case Bye():
                self._lose(message.reason, "the device said bye")
            case Busy():
                self._busy_until = self._now + min(message.ms / 1000, MOST_BUSY)
            case _ if self._info is None:
                # The info was lost and will be repeated until it sees a frame of ours: so send none, and
                # wait for it.
                pass
            case Status():
                self._take_status(message)
            case Result():
                self._take_result(message)
            case Accept():
                if self._head is not None:
                    self._head.accept(message, self._now)
            case Chunk():
                self._take_chunk(message, wire)
            case Error():
                self._take_error(message)
            case Seen():
                self._take_seen(message)
            case _:
                self._say(Error(StatusCode.MESSAGE, message.TYPE))

    def _take_info(self, info: Info) -> None:
        known, self._info = self._info, info
        self._answer_at = self._now + ANSWER_INFO
        self._state = info.state
        self._head_held = info.head
        if known is None and self._hello is not None:
            self._events.append(ev.Opened(self._hello, info))
        elif known != info:
            self._events.append(ev.InfoChanged(info))

    def _take_status(self, status: Status) -> None:
        before, self._status = self._status, status
        self._state = status.state
        if self._pinged is not None:
            self._measure(self._pinged)
        self._settle(status)
        if self._order is not None and self._order_try is not None and status.round == self._order.round:
            if status.state in (State.TRAINING, State.UPLOADING):
                self._measure(self._order_try)
                self._order_try = None
                self._events.append(ev.Training(status))
                return
            if status.state is State.FAILED and self._order_try.used >= 0:
                self._refused_order(StatusCode.STATE, 0, "training failed")
                return
        if status != before:
            self._events.append(ev.Progress(status))

    def _settle(self, status: Status) -> None:
        """Whether a status is the answer to a commit or a cancel that was said."""
        if self._commit is not None and self._commit_try is not None and self._commit_try.used >= 0:
            waits = status.state is State.UPLOADING and status.round == self._commit.round
            if not waits:
                self._measure(self._commit_try)
                self._events.append(ev.Committed(self._commit.round))
                self._commit = self._commit_try = None
                self._receiver.clear()
        if self._cancel is not None and self._cancel_try is not None and self._cancel_try.used >= 0:
            # A status about another round may have left before the order that is cancelled arrived there:
            # then only one that comes after a repeat counts.
            same = status.round == self._cancel.round
            busy = same and status.state in (State.TRAINING, State.UPLOADING)
            if not busy and (same or self._cancel_try.used > 0):
                self._cancel = self._cancel_try = None

    def _take_result(self, result: Result) -> None:
        order = self._order
        self._state = State.UPLOADING
        if order is None or result.round != order.round or self._info is None:
            return  # nobody asked for it: the owner knows from `info` and may order or cancel it
        if self._order_try is not None:
            self._order_try = None
            status = Status(State.UPLOADING, result.round, 1000, result.loss_q12)
            self._events.append(ev.Training(status))
        if result.update is None:
            self._result_ready(result, None)
            return
        same = result == self._result and self._now < self._result_at + REPEAT / 2
        if same and not self._receiver.complete:
            return  # said to repeat the order's answer: it has the accept, or says it again in a second
        self._result, self._result_at = result, self._now
        if result.size != update_bytes(order.codec, self._info.classes, self._info.features):
            self._say(Accept(blob_id(result.update), 0, Verdict.REFUSED))
            self._result_bad(f"an update of {result.size} bytes")
            return
        self._say(self._receiver.offer(result.update, result.size))
        if self._receiver.complete:
            self._result_ready(result, self._receiver.data)

    def _result_ready(self, result: Result, update: bytes | None) -> None:
        if not self._reported:
            self._reported = True
            self._events.append(ev.ResultReady(result, update))

    def _result_bad(self, why: str) -> None:
        if not self._reported:
            self._reported = True
            self._events.append(ev.DeviceError(StatusCode.BLOB, 0, why))

    def _take_chunk(self, chunk: Chunk, wire: int) -> None:
        damaged = self._receiver.damaged
        answer = self._receiver.chunk(chunk, wire, self._now)
        if answer is not None:
            self._say(answer)
        result = self._result
        if self._order is None or result is None or result.round != self._order.round:
            return
        if self._receiver.damaged != damaged:
            self._say(Error(StatusCode.BLOB))
            self._damaged += 1
            if self._damaged >= MOST_REFUSALS:
                self._result_bad(f"an update damaged {self._damaged} times")
        elif self._receiver.complete and self._receiver.hash == result.update:
            self._result_ready(result, self._receiver.data)

    def _take_seen(self, seen: Seen) -> None:
        if seen.verdict is Labelled.NEWS:
            if seen.number:
                self._events.append(ev.WindowSeen(seen.number, seen.label, seen.score))
            return
        if self._label is None or self._label_try is None or seen.number != self._label.number:
            return
        if seen.verdict is Labelled.BUSY:  # a training holds the samples, for as long as that takes
            self._label_try.progress(self._now)
            return
        self._events.append(ev.LabelAnswered(self._label.number, self._label.label, seen.verdict))
        self._label = self._label_try = None

    def _take_error(self, error: Error) -> None:
        if error.code == StatusCode.UNSUPPORTED and error.detail in (Watch.TYPE, Label.TYPE):
            self._watch_at = float("inf")
            self._label = self._label_try = None
            self._events.append(ev.DeviceError(error.code, error.detail, "the device shows nothing"))
            return
        asked = self._order if self._order_try is not None and self._order_try.used >= 0 else None
        if error.code == StatusCode.BUSY:
            waiting = [r for r in (self._order_try, self._commit_try, self._cancel_try) if r and r.used >= 0]
            for repeater in waiting:
                repeater.progress(self._now)
            if waiting or self._head is not None:
                return  # it is repeated anyway
        if error.code == StatusCode.BLOB and self._head is not None:
            self._head_detail = error.detail
            return  # its accept says the same, and the sender counts
        if error.code == StatusCode.HEAD and asked is not None and self._order_try is not None:
            holds = self._head_blob and blob_hash(self._head_blob) == asked.head
            if holds and self._head_tries < HEAD_TRIES and self._hello is not None:
                self._head_tries += 1
                self._head_held = None
                self._head = self._head_sender(self._head_blob, self._hello)
                self._order_try = self._repeater()
                return
        if asked is not None or self._head is not None:
            self._refused_order(error.code, error.detail, error.text or "")
        else:
            self._events.append(ev.DeviceError(error.code, error.detail, error.text or ""))

    def _refused_order(self, code: int, detail: int, text: str) -> None:
        """What was asked for cannot be had: forget it, and say so."""
        if self._order_try is not None:
            self._order = self._order_try = None
        self._head = None
        self._head_wanted = b""
        self._events.append(ev.DeviceError(code, detail, text))

    # ---- what is to be said ----------------------------------------------------------------------

    def _say(self, message: Message) -> None:
        super()._say(message)
        self._last_sent = self._now
        self._answer_at = None

    def _lose(self, reason: int, why: str) -> None:
        if self._session is None:
            return
        opened = self._info is not None
        self._forget()
        self._probe_at = self._now + REPEAT
        if opened:
            self._events.append(ev.Lost(reason, why))

    def _work(self) -> None:
        """Says everything that is due. Each step may end the session."""
        if self._pending is not None and self._now >= self._pending_ends():
            self._pending = None
        if self._session is None:
            if self._now >= self._probe_at:
                self._probe_at = self._now + REPEAT
                self._say_clear(Probe())
            return
        if self._now >= max(self._last_heard, self._busy_until) + 3 * self._heartbeat:
            self._say(Bye(Reason.SILENT))
            self._lose(Reason.SILENT, "the device is silent")
            return
        if self._info is None or self._now < self._busy_until:
            return
        # In this order, each waiting for the one before: a device keeps one head, and needs the one of the
        # result that waits for its commit until that has come.
        if self._commit is not None and self._commit_try is not None:
            self._repeat(self._commit_try, self._commit)
        elif self._cancel is not None and self._cancel_try is not None:
            self._repeat(self._cancel_try, self._cancel)
        else:
            self._work_head()
            self._work_order()
        self._work_watch()
        self._work_ping()

    def _repeat(self, repeater: Repeater, message: Message) -> None:
        """Sends it when it is due; when it was said in vain too often, ends the session."""
        if repeater.exhausted(self._now):
            self._say(Bye(Reason.SILENT))
            self._lose(Reason.SILENT, f"no answer to {type(message).__name__.lower()}")
        elif repeater.due(self._now):
            self.counters.retries += repeater.used > 0
            self._say(message)

    def _work_head(self) -> None:
        head = self._head
        if head is not None:
            repeated = head.chunks_repeated
            for message in head.poll(self._now):
                self._say(message)
            self.counters.retries += head.chunks_repeated - repeated
            if head.done:
                self._head = None
                self._head_held = head.hash
            elif head.failed and head.refusals:
                self._refused_order(StatusCode.BLOB, self._head_detail, f"the head was {head.failed}")
            elif head.failed:
                self._say(Bye(Reason.SILENT))
                self._lose(Reason.SILENT, f"the head makes {head.failed}")
                return
        if self._head is None and self._head_wanted and self._head_wanted == self._head_held:
            self._events.append(ev.HeadDelivered(self._head_wanted))
            self._head_wanted = b""

    def _work_order(self) -> None:
        if self._order is None or self._order_try is None:
            return
        if self._head is None and self._state is not State.COLLECTING:
            self._repeat(self._order_try, self._order)

    def _work_watch(self) -> None:
        if self._session is not None and self._label is not None and self._label_try is not None:
            self._repeat(self._label_try, self._label)
        if self._session is None or self._now < self._watch_at:
            return
        left = self._watch_until - self._now
        self._say(Watch(int(max(0.0, min(left, WATCH)) * 1000)))
        # Said again before it ends: a frame may be lost, and a watcher that is gone is told nothing for long.
        self._watch_at = self._now + WATCH / 3 if left > 0 else float("inf")

    def _work_ping(self) -> None:
        if self._session is None:
            return
        if self._answer_at is not None and self._now >= self._answer_at:
            self._say(Ping())
            return
        quiet = max(self._last_heard, self._busy_until)
        if self._ping is None and self._now >= min(quiet, self._last_sent) + self._heartbeat:
            self._ping = self._repeater()
        if self._ping is not None:
            self._repeat(self._ping, Ping())
