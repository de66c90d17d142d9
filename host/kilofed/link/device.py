"""The device's side of one line, sans-IO: for kilofed-pi, and as the far end in tests. Boards speak it in C.

    endpoint = DeviceEndpoint(device_id=..., rng=os.urandom, ...)
    loop:   endpoint.receive(data, now)   or   endpoint.poll(now) when next_deadline() has come
            line.write(endpoint.data_to_send())
            for event in endpoint.events():
                TrainAsked(order, head)     train; progress(...) while at it; finish(...) or fail(...)
                CancelAsked(round)          stop, drop the result
                CommitAsked(round, verdict) keep the residual when the verdict is 0

The round's rules (PROTOCOL.md, "A round") are kept here: the owner computes. What is said to the endpoint
goes out at the next receive() or poll(); next_deadline() is due at once after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kilofed.link import events as ev
from kilofed.link.blobs import BlobReceiver, BlobSender, blob_id, head_bytes
from kilofed.link.endpoint import Endpoint
from kilofed.link.errors import StatusCode
from kilofed.link.frames import CHECK_BYTES, Direction, RawFrame
from kilofed.link.messages import (
    FLAG_ENCRYPTED,
    NO_HASH,
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
    Message,
    Offer,
    Ping,
    Probe,
    Reason,
    Refuse,
    Result,
    State,
    Status,
    Train,
    Verdict,
    Watch,
    Welcome,
    before_proof,
    encode,
)
from kilofed.link.secure import MIN_FRAME, NO_KEY, EncryptedSession, derive
from kilofed.link.session import REPEAT, Session, session_id

STATUS_INTERVAL = 2.0  # between two statuses nobody asked for, seconds
HELLO_JITTER = 0.25  # so that a fleet that was switched on at once does not speak at once
HEAD_CODECS = (0, 1, 2)
MOST_REFUSED = 60.0  # a refuse may be anybody's, so a device with a key is silent no longer, seconds


@dataclass(frozen=True, slots=True)
class Holding:
    """What a device has: the fields of `info` that its owner knows (the head it knows by itself)."""

    model: bytes
    classes: int
    features: int
    capacity: int
    train: int = 0
    held_out: int = 0
    labels: bytes = NO_HASH
    collecting: bool = False  # samples are still becoming features: no training yet


class DeviceEndpoint(Endpoint[ev.DeviceEvent]):
    """One line of a device.

    device_id: 8 bytes. key: 32 bytes that the host knows too: sessions are encrypted, and no others are
    taken; None: sessions are in the clear. board: 1..24 bytes of text. firmware: major << 16 | minor << 8 |
    patch. rng: gives n random bytes. take_head: called with a whole head blob whose hash is right; 0 makes it
    the base, another number is the StatusCode to refuse with. max_frame, window: what this end takes,
    64..1024 and 64..65535 bytes on the wire.
    """

    def __init__(
        self,
        *,
        device_id: bytes,
        board: str,
        firmware: int,
        holding: Holding,
        rng: Callable[[int], bytes],
        take_head: Callable[[bytes], int],
        key: bytes | None = None,
        max_frame: int = 1024,
        window: int = 4096,
        flags: int = 0,
    ) -> None:
        super().__init__(Direction.FROM_DEVICE, max_frame=max_frame)
        self._key = None if key == NO_KEY else key
        if self._key is not None:
            if max_frame < MIN_FRAME:
                raise ValueError(f"an encrypted session needs a max_frame of {MIN_FRAME}")
            flags |= FLAG_ENCRYPTED
        self._doubted = b""  # the nonce of the hello that brought a welcome with a wrong proof
        self._rng = rng
        self._take_head = take_head
        self._max_frame = max_frame
        self._window = window
        self._hello = Hello(PROTOCOL_VERSION, device_id, rng(8), board, firmware, max_frame, window, flags)
        self._hello_at = float("-inf")
        self._woken = True
        self._heartbeat = 2.0

        self._holding = holding
        self._heads: dict[bytes, bytes] = {}  # by hash: the one a round works with, the newest last
        self._receiver = BlobReceiver(window=window)
        self._state = State.COLLECTING if holding.collecting else State.IDLE
        self._round = 0
        self._progress = 0
        self._loss_q12 = 0
        self._order: Train | None = None
        self._result: Result | None = None
        self._update: BlobSender | None = None
        self._forget()

    def _forget(self) -> None:
        """The state of a session that is not there."""
        self._session = None
        self._session_nonce = b""
        self._last_heard = self._now
        self._info_at: float | None = None
        self._info_said = True
        self._result_at: float | None = None
        self._status_at = float("-inf")
        self._status_said: Status | None = None

    # ---- out -------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When poll() wants to be called; None only once closed."""
        if self._closed:
            return None
        if self._woken:
            return self._now
        if self._session is None:
            return self._hello_at
        times = [self._last_heard + 3 * self._heartbeat]
        if self._info_at is not None:
            times.append(self._info_at)
        if not self._session.received_any:
            return min(times)
        if self._result_at is not None:
            times.append(self._result_at)
        if self._update is not None and self._update.deadline is not None:
            times.append(self._update.deadline)
        if self._state is State.TRAINING and self._status_said != self._status():
            times.append(self._status_at + STATUS_INTERVAL)
        return min(times)

    # ---- what is known ---------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the device is doing."""
        return self._state

    @property
    def head(self) -> bytes | None:
        """Hash of the newest head."""
        return next(reversed(self._heads), None)

    @property
    def in_session(self) -> bool:
        """Whether a host is there."""
        return self._session is not None

    @property
    def enrolled(self) -> bytes | None:
        """The key that both ends may replace a code's by, of the open session; None without one."""
        return self._session.enrolled if isinstance(self._session, EncryptedSession) else None

    def use_key(self, key: bytes) -> None:
        """From the next session on its key is this one, 32 bytes."""
        self._key = key

    @property
    def encrypted(self) -> bool:
        """Whether its sessions are."""
        return self._key is not None

    @property
    def device_id(self) -> bytes:
        """Who it is, 8 bytes."""
        return self._hello.device_id

    # ---- what the owner says ---------------------------------------------------------------------

    def update(self, holding: Holding) -> None:
        """What the device has now: samples came, collecting ended. The host hears of it within a second."""
        if holding == self._holding:
            return
        self._holding = holding
        if holding.collecting and self._state is State.IDLE:
            self._state = State.COLLECTING
        elif not holding.collecting and self._state is State.COLLECTING:
            self._state = State.IDLE
        if self._session is not None and self._info_said:
            # While samples pour in, once a second will do.
            self._info_at = self._now if self._state is State.IDLE else self._now + REPEAT
            self._info_said = False
        self._woken = True

    # Each says which order it is about, the very one that TrainAsked brought: when another has replaced it
    # meanwhile, or it was cancelled, nothing happens.

    def progress(self, order: Train, thousandths: int, loss_q12: int) -> None:
        """How far the training is, 0..1000, and the mean loss of the last whole epoch, nats / 4096."""
        if not self._is_training(order):
            return
        self._progress = min(max(thousandths, 0), 1000)
        self._loss_q12 = loss_q12
        self._woken = True

    def finish(
        self,
        order: Train,
        update: bytes | None,
        *,
        train: int,
        held_out: int,
        loss_q12: int,
        base_correct: int,
        own_correct: int,
        elapsed_ms: int,
    ) -> None:
        """The training is done; fields as in `Result`. update: None when the order wants none."""
        if not self._is_training(order):
            return
        sender = None
        if update is not None:
            sender = BlobSender(
                BlobKind.UPDATE,
                update,
                max_frame=self._session_frame(),
                window=self._window,
                check=self._session_check(),
                announce=False,
            )
        self._update = sender
        self._result = Result(
            self._round,
            sender.hash if sender else None,
            len(update) if update is not None else 0,
            train,
            held_out,
            loss_q12,
            base_correct,
            own_correct,
            elapsed_ms,
        )
        self._state = State.UPLOADING
        self._progress, self._loss_q12 = 1000, loss_q12
        self._result_at = self._now
        self._woken = True

    def fail(self, order: Train, code: int, detail: int = 0) -> None:
        """The training cannot be done."""
        if not self._is_training(order):
            return
        self._idle()
        self._say(Error(code, detail))
        self._say_status()
        self._woken = True

    def _is_training(self, order: Train) -> bool:
        return self._state is State.TRAINING and self._order is order

    def busy(self, ms: int) -> None:
        """The device will be silent for so long."""
        self._say(Busy(ms))
        self._last_heard = max(self._last_heard, self._now) + ms / 1000
        self._woken = True

    def close(self, reason: Reason = Reason.SHUTTING_DOWN) -> None:
        """Says bye and ends the endpoint for good: take data_to_send() once more. Twice does nothing."""
        if self._closed:
            return
        self._say(Bye(reason))
        self._forget()
        self._closed = True

    def disconnected(self) -> None:
        """The transport is gone: the session ends, training goes on, and hello is said when polled again."""
        self._splitter.reset()
        self._out.clear()
        self._lose(Reason.NONE, "the line is gone")
        self._hello_at = float("-inf")

    # ---- time ------------------------------------------------------------------------------------

    def _clock(self, now: float) -> None:
        self._now = max(now, self._now)
        self._woken = False

    def _work(self) -> None:
        if self._session is None:
            if self._now >= self._hello_at:
                self._say_hello()
            return
        if self._now >= self._last_heard + 3 * self._heartbeat:
            self._say(Bye(Reason.SILENT))
            self._lose(Reason.SILENT, "the host is silent")
            return
        if self._info_at is not None and self._now >= self._info_at:
            self._say_info()
        if not self._session.received_any:
            return  # the host may not know us yet
        if self._result is not None and self._result_at is not None and self._now >= self._result_at:
            self._result_at = self._now + REPEAT
            self._say(self._result)
        if self._update is not None:
            for message in self._update.poll(self._now):
                self._say(message)
            if self._update.failed and not self._update.refusals:
                self._say(Bye(Reason.SILENT))
                self._lose(Reason.SILENT, f"the update makes {self._update.failed}")
                return
        unsaid = self._state is State.TRAINING and self._status_said != self._status()
        if unsaid and self._now >= self._status_at + STATUS_INTERVAL:
            self._say_status()

    def _session_frame(self) -> int:
        return self._session.max_frame if self._session is not None else self._max_frame

    def _session_check(self) -> int:
        return self._session.check_bytes if self._session is not None else CHECK_BYTES

    # ---- sessions --------------------------------------------------------------------------------

    def _say_hello(self) -> None:
        jitter = 1 + HELLO_JITTER * int.from_bytes(self._rng(2), "little") / 65535
        self._hello_at = self._now + REPEAT * jitter
        self._say_clear(self._hello)

    def _fresh_nonce(self) -> None:
        self._hello = replace(self._hello, device_nonce=self._rng(8))

    def _take_clear(self, message: Message, raw: bytes) -> None:
        if isinstance(message, Probe):
            self._fresh_nonce()
            self._say_hello()
        elif isinstance(message, Welcome | Refuse):
            nonce = message.device_nonce
            if nonce != self._hello.device_nonce or nonce == self._session_nonce:
                return  # of an older hello, or the answer that the session began with, once more
            if isinstance(message, Welcome):
                session = self._session_of(message, raw)
                if session is not None:
                    self._begin(message, session)
            else:
                self._fresh_nonce()
                wait = message.wait_ms / 1000
                self._hello_at = self._now + (wait if self._key is None else min(wait, MOST_REFUSED))
                self._events.append(ev.Refused(message.reason, message.wait_ms))

    def _session_of(self, welcome: Welcome, raw: bytes) -> Session | None:
        """The session a welcome begins; None when it is not for us, or not from who holds our key."""
        hello = self._hello
        if welcome.version != PROTOCOL_VERSION or (welcome.proof is None) != (self._key is None):
            return None
        max_frame = min(self._max_frame, welcome.max_frame)
        if self._key is None or welcome.proof is None:
            id = session_id(welcome.host_nonce, hello.device_nonce, hello.device_id)
            return Session(id, role=Direction.FROM_DEVICE, max_frame=max_frame)
        keys = derive(self._key, encode(hello), before_proof(raw))
        if not keys.proves(welcome.proof):
            if self._doubted != hello.device_nonce:
                self._doubted = hello.device_nonce
                self._events.append(ev.Unproven())
            return None
        if max_frame < MIN_FRAME:
            return None
        return EncryptedSession(keys, role=Direction.FROM_DEVICE, max_frame=max_frame)

    def _begin(self, welcome: Welcome, session: Session) -> None:
        hello = self._hello
        self._lose(Reason.NONE, "the host began a new session")
        self._hello = hello
        self._session = session
        self._session_nonce = hello.device_nonce
        self._heartbeat = welcome.heartbeat_ms / 1000
        self._last_heard = self._now
        self._receiver.restart(window=self._window, max_frame=self._session.max_frame)
        self._info_at = self._now
        self._info_said = False
        if self._result is not None:
            self._result_at = self._now
        if self._update is not None:
            self._update.restart(
                max_frame=self._session.max_frame, window=self._window, check=self._session.check_bytes
            )
        self.counters.sessions += 1
        self._events.append(ev.Welcomed())

    def _lose(self, reason: int, why: str) -> None:
        if self._session is None:
            return
        self._forget()
        self._fresh_nonce()  # one opens one session only
        self._hello_at = self._now
        self._events.append(ev.Lost(reason, why))

    def _open(self, frame: RawFrame) -> bytes | None:
        data = self._session.open(frame) if self._session is not None else None
        if data is not None:
            self._last_heard = max(self._last_heard, self._now)  # busy() may have moved it ahead
            if self._info_said:
                self._info_at = None
        return data

    def _may_answer(self) -> bool:
        return self._session is not None

    # ---- messages --------------------------------------------------------------------------------

    def _take_message(self, message: Message, wire: int) -> None:
        match message:
            case Offer():
                self._take_offer(message)
            case Chunk():
                self._take_chunk(message, wire)
            case Accept():
                self._take_accept(message)
            case Train():
                self._take_train(message)
            case Commit():
                self._take_commit(message)
            case Cancel():
                self._take_cancel(message)
            case Ping():
                self._say_status()
            case Bye():
                self._lose(message.reason, "the host said bye")
            case Error():
                self._events.append(ev.DeviceError(message.code, message.detail, message.text or ""))
            case Watch() | Label():  # it has placed samples, and no sensor
                self._say(Error(StatusCode.UNSUPPORTED, message.TYPE))
            case _:
                self._say(Error(StatusCode.MESSAGE, message.TYPE))

    def _take_offer(self, offer: Offer) -> None:
        if offer.kind is not BlobKind.HEAD:
            self._say(Error(StatusCode.MESSAGE, offer.TYPE))
            return
        if offer.hash in self._heads:
            self._heads[offer.hash] = self._heads.pop(offer.hash)
            self._forget_heads()
            self._say(Accept(blob_id(offer.hash), offer.size, Verdict.COMPLETE))
            return
        holding = self._holding
        sizes = [head_bytes(codec, holding.classes, holding.features) for codec in HEAD_CODECS]
        if offer.size not in sizes:
            self._say(Accept(blob_id(offer.hash), 0, Verdict.REFUSED))
            self._say(Error(StatusCode.BLOB, sizes[1]))
            return
        if self._receiver.complete:
            self._receiver.clear()  # it is among the heads, or was and is not wanted any more
        self._say(self._receiver.offer(offer.hash, offer.size))

    def _take_chunk(self, chunk: Chunk, wire: int) -> None:
        receiver = self._receiver
        was_whole, damaged = receiver.complete, receiver.damaged
        answer = receiver.chunk(chunk, wire, self._now)
        if receiver.complete and not was_whole:
            if code := self._take_head(receiver.data):
                receiver.clear()
                self._say(Accept(chunk.id, 0, Verdict.REFUSED))
                self._say(Error(code))
                return
            self._heads[receiver.hash] = receiver.data
            self._forget_heads()
            self._events.append(ev.HeadReceived(receiver.hash))
        if answer is not None:
            self._say(answer)
        if receiver.damaged != damaged:
            self._say(Error(StatusCode.BLOB))

    def _take_accept(self, accept: Accept) -> None:
        if self._update is None or accept.id != self._update.id:
            return
        self._update.accept(accept, self._now)
        if accept.verdict is Verdict.REFUSED and not self._update.failed:
            self._result_at = self._now  # offered again
        else:
            self._result_at = None

    def _take_train(self, order: Train) -> None:
        under_way = self._order if self._state in (State.TRAINING, State.UPLOADING) else None
        # Head and seed count too: round numbers of two runs may meet, and a result for one run's head must
        # not be taken for the other's.
        repeated = under_way is not None and (under_way.round, under_way.head, under_way.seed) == (
            order.round,
            order.head,
            order.seed,
        )
        if self._state is State.COLLECTING or repeated:
            self._say_status()
            if self._state is State.UPLOADING:
                self._result_at = self._now
            return
        if order.head not in self._heads:
            self._say(Error(StatusCode.HEAD))
            return
        if self._state in (State.TRAINING, State.UPLOADING):  # the host has moved on from that round
            self._events.append(ev.CancelAsked(self._round))
        self._result = self._update = self._result_at = None
        self._order = order
        self._round = order.round
        self._state = State.TRAINING
        self._progress = self._loss_q12 = 0
        self._events.append(ev.TrainAsked(order, self._heads[order.head]))
        self._forget_heads()
        self._say_status()

    def _forget_heads(self) -> None:
        """Keeps the newest, and the one a round still works with."""
        used = self._order.head if self._order is not None else None
        newest = self.head
        self._heads = {hash: blob for hash, blob in self._heads.items() if hash in (used, newest)}

    def _take_commit(self, commit: Commit) -> None:
        if self._state is State.UPLOADING and commit.round == self._round:
            self._idle()
            self._events.append(ev.CommitAsked(commit.round, commit.verdict))
        self._say_status()

    def _take_cancel(self, cancel: Cancel) -> None:
        if self._state in (State.TRAINING, State.UPLOADING) and cancel.round == self._round:
            self._idle()
            self._events.append(ev.CancelAsked(cancel.round))
        self._say_status()

    def _idle(self) -> None:
        """The round is over."""
        self._order = self._result = self._update = self._result_at = None
        self._forget_heads()
        self._state = State.COLLECTING if self._holding.collecting else State.IDLE

    # ---- what is to be said ----------------------------------------------------------------------

    def _status(self) -> Status:
        return Status(self._state, self._round, self._progress, self._loss_q12)

    def _say_status(self) -> None:
        self._status_said = self._status()
        self._status_at = self._now
        self._say(self._status_said)

    def _say_info(self) -> None:
        self._info_at = self._now + REPEAT
        self._info_said = True
        held = self._holding
        self._say(
            Info(
                held.model,
                held.labels,
                held.classes,
                held.features,
                held.capacity,
                held.train,
                held.held_out,
                self.head,
                self._state,
                self._round,
            )
        )
