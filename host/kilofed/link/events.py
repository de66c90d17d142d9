"""What an endpoint tells its owner: frozen dataclasses, drained with ``events()``.

Each says when it comes and how often. Numbers keep the units of `messages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kilofed.link.messages import Hello, Info, Labelled, Reason, Result, Status, Train


@dataclass(frozen=True, slots=True)
class HelloSeen:
    """A device said hello: once for each nonce, before the answer.

    refused: 0 when it is welcomed, else the reason.
    """

    hello: Hello
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Unproven:
    """Nobody on the line proves to hold the key: a wrong key, a stranger, or a replay.

    On the host: a device that says its hello again and again without taking the encrypted session it is
    offered; device_id is its. On the device: a welcome with a wrong proof; device_id is empty. Once a hello.
    """

    device_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session is open; commands may be given from here on.

    Comes once a session, before anything else of it.
    """

    hello: Hello
    info: Info


@dataclass(frozen=True, slots=True)
class InfoChanged:
    """The device's info is another than before: samples came, it finished collecting, ..."""

    info: Info


@dataclass(frozen=True, slots=True)
class HeadDelivered:
    """The device holds the head with this hash.

    Said once for each `send_head`, also when the device had it already.
    """

    hash: bytes


@dataclass(frozen=True, slots=True)
class Training:
    """The device took the train order: its first status for that round (it may already be uploading)."""

    status: Status


@dataclass(frozen=True, slots=True)
class Progress:
    """Any other status that differs from the one before. After `cancel` this is how its effect shows."""

    status: Status


@dataclass(frozen=True, slots=True)
class ResultReady:
    """The result of the ordered round. Answer with `commit`.

    update: the whole blob, its hash checked and its inside not (kilofed_tools.updates does that); None
    when none was asked for.
    """

    result: Result
    update: bytes | None


@dataclass(frozen=True, slots=True)
class Committed:
    """The device has left the round: `commit` took effect."""

    round: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The session ended: the last event of it.

    All commands are forgotten; what was received of an update is kept. reason: a `Reason` (or a later
    version's number) when the peer said one, SILENT, PROTOCOL, ...; why: in words.
    """

    reason: int = Reason.NONE
    why: str = ""


@dataclass(frozen=True, slots=True)
class DeviceError:
    """The device refused or failed at something.

    code: magnitude of a kf_status_t, `errors.explain` has the words. A train order that was not yet
    taken is dropped with it, and so is a head that was being sent (the link repeats what may be repeated
    before it says so).
    """

    code: int
    detail: int
    text: str


@dataclass(frozen=True, slots=True)
class Stray:
    """Bytes between frames: boot text, noise, damaged frames, frames of a session that is over.

    version: of the protocol, when a sound clear frame of another version was among them.
    """

    data: bytes
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A sound frame of the session whose message is malformed or out of range: no noise, but a fault.

    why: in words. The message was answered with an error and has had no effect.
    """

    why: str


@dataclass(frozen=True, slots=True)
class WindowSeen:
    """What the device's sensor showed last, while `watch` lasts: at most four times a second.

    number: of the window, from 1. label: the class it is taken for. score: that output of the model, 0..255.
    """

    number: int
    label: int
    score: int


@dataclass(frozen=True, slots=True)
class LabelAnswered:
    """What became of a label: TAKEN, GONE (another window has come) or REFUSED (no such class)."""

    number: int
    label: int
    verdict: Labelled


Event: TypeAlias = (
    HelloSeen | Unproven | Opened | InfoChanged | HeadDelivered | Training | Progress | ResultReady
    | Committed | Lost | DeviceError | Malformed | Stray | WindowSeen | LabelAnswered
)  # fmt: skip


# ---- the device's side ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A session with a host began."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The host wants no session; hello is said again after wait_ms."""

    reason: int
    wait_ms: int


@dataclass(frozen=True, slots=True)
class HeadReceived:
    """`take_head` took a head; the order that names it comes with it."""

    hash: bytes


@dataclass(frozen=True, slots=True)
class TrainAsked:
    """Train from `head` (the blob order.head is the hash of): the endpoint is in state TRAINING.

    A training or result of another round is void. Call `progress` while at it, then `finish` or `fail`.
    """

    order: Train
    head: bytes


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Stop training this round, or drop its result: the endpoint is idle already."""

    round: int


@dataclass(frozen=True, slots=True)
class CommitAsked:
    """The host took the result of this round (verdict 0: keep the residual) or not.

    The endpoint is idle already.
    """

    round: int
    verdict: int


DeviceEvent: TypeAlias = (
    Welcomed | Refused | Unproven | HeadReceived | TrainAsked | CancelAsked | CommitAsked | Lost
    | DeviceError | Stray
)  # fmt: skip
