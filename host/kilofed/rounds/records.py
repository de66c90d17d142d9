"""What a round leaves behind, and what the engine tells whoever watches: plain frozen values, no behaviour.

Records go into the store. Events go to observers (display, log): the engine never prints.

Fractions are 0..1, losses nats, times seconds, sizes bytes on the wire (frame headers, checks,
acknowledgements and progress included).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from kilofed.rounds.config import RunConfig


class Kind(str, Enum):
    """What a round asks of the devices."""

    TRAIN = "train"  # train the global head, send the update
    PERSONAL = "personal"  # train a personal head, send figures only


class Ending(str, Enum):
    """Why a round ended."""

    COMPLETE = "complete"  # everybody asked has answered or was dropped for a reason of its own
    QUORUM = "quorum"  # enough updates came; the rest was not waited for
    DEADLINE = "deadline"  # time was up


@dataclass(frozen=True)
class DeviceRound:
    """One device's part in one round.

    device      id, 16 hex digits
    taken       its answer counted; otherwise `reason` says why not
    samples     trained on, after clamping to the device's ring
    held_out    samples of its own that it keeps for measuring
    loss        mean cross-entropy of its last local epoch, None when it never answered
    base_correct, own_correct   held-out samples the received and the trained head get right
    elapsed_ms  device time from the order to the result
    bytes_up, bytes_down        between the last round's end and this one's
    retries     frames the link said again in that time
    update      the update blob as received, None when there was none to take
    """

    device: str
    name: str
    taken: bool
    reason: str = ""
    samples: int = 0
    held_out: int = 0
    loss: float | None = None
    base_correct: int = 0
    own_correct: int = 0
    elapsed_ms: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    retries: int = 0
    update: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RoundRecord:
    """One round. `started` is Unix time; `accuracy` the new global head's on the laboratory's test set."""

    number: int
    kind: Kind
    ended: Ending
    started: float
    seconds: float
    head: str  # hash of the head blob that was sent out, 16 hex digits
    devices: tuple[DeviceRound, ...]
    accuracy: float | None = None

    @property
    def taken(self) -> tuple[DeviceRound, ...]:
        """The devices whose answer counted."""
        return tuple(d for d in self.devices if d.taken)

    @property
    def dropped(self) -> tuple[DeviceRound, ...]:
        """The devices whose answer did not count, each with its reason."""
        return tuple(d for d in self.devices if not d.taken)

    @property
    def base_accuracy(self) -> float | None:
        """Of the head that was sent out, on the held-out samples of all devices taken; None without any."""
        total = sum(d.held_out for d in self.taken)
        return sum(d.base_correct for d in self.taken) / total if total else None

    @property
    def own_accuracy(self) -> float | None:
        """Of each device's trained head on its own held-out samples, over all devices taken."""
        total = sum(d.held_out for d in self.taken)
        return sum(d.own_correct for d in self.taken) / total if total else None

    @property
    def loss(self) -> float | None:
        """Mean loss, weighted by samples."""
        known = [(d.loss, d.samples) for d in self.taken if d.loss is not None]
        total = sum(samples for _, samples in known)
        return sum(loss * samples for loss, samples in known) / total if total else None


@dataclass(frozen=True)
class DeviceRow:
    """What a run remembers of a device. `seen` is Unix time."""

    device: str
    name: str
    board: str
    firmware: str
    capacity: int
    samples: int
    held_out: int
    seen: float


class Phase(str, Enum):
    """What a device is doing, as the host sees it."""

    ABSENT = "absent"
    COLLECTING = "collecting"
    IDLE = "idle"
    RECEIVING = "receiving"  # the head is on its way down
    TRAINING = "training"
    SENDING = "sending"  # the update is on its way up
    DONE = "done"  # for this round
    DROPPED = "dropped"  # from this round
    EXCLUDED = "excluded"  # from the run: another model, another shape


@dataclass(frozen=True)
class DeviceView:
    """A device as a display shows it: one row. Bytes are those of the whole run so far."""

    device: str
    name: str
    board: str
    phase: Phase
    samples: int
    held_out: int
    capacity: int
    progress: float
    loss: float | None
    bytes_up: int
    bytes_down: int
    reason: str = ""


@dataclass(frozen=True)
class RunStarted:
    """The engine begins: at round `done` + 1 of `config.rounds`."""

    config: RunConfig
    done: int
    expected: int
    classes: int
    features: int


@dataclass(frozen=True)
class DeviceChanged:
    """Something in a device's row changed."""

    view: DeviceView


@dataclass(frozen=True)
class RoundStarted:
    """A round begins with the devices named."""

    number: int
    kind: Kind
    cohort: tuple[str, ...]


@dataclass(frozen=True)
class DeviceDropped:
    """A device's contribution to a round is lost, and why."""

    number: int
    name: str
    reason: str


@dataclass(frozen=True)
class RoundEnded:
    """A round is over and in the store."""

    record: RoundRecord


@dataclass(frozen=True)
class Note:
    """Something worth a line in a log: a device that was turned away, boot text, a line that came back."""

    text: str
    device: str = ""


@dataclass(frozen=True)
class RunEnded:
    """All rounds are done."""

    rounds: int
    seconds: float


RunEvent: TypeAlias = RunStarted | DeviceChanged | RoundStarted | DeviceDropped | RoundEnded | Note | RunEnded
