"""The errors of the link, and the words for the numbers that devices send.

    LinkError                   200
    +-- TransportError          210
    |   +-- PortNotFound        211   no such serial port
    |   +-- PortDenied          212   the port exists, this user may not open it
    |   +-- PortBusy            213   another program holds the port
    |   +-- ConnectError        214   nobody answers at that address, or it cannot be listened on
    |   +-- TransportClosed     215   the pipe ended: unplugged, hung up, reset
    +-- FrameError              220   bytes that are no frame
    +-- MessageError            230   a sound frame whose message is malformed or out of range
    |   +-- UnknownMessage      231   well formed, of a type this version does not know
    +-- SessionError            240   a command that needs a session when there is none
    +-- BlobError               250   a blob of a size that cannot be sent

Numbers that a *device* sends (``error``) are the magnitudes of ``kf_status_t`` in
firmware/include/kilofed/status.h. Devices send no words; `explain` has them.
"""

from __future__ import annotations

from enum import IntEnum

from kilofed_tools.errors import KilofedError

__all__ = [
    "BlobError",
    "ConnectError",
    "FrameError",
    "LinkError",
    "MessageError",
    "PortBusy",
    "PortDenied",
    "PortNotFound",
    "SessionError",
    "StatusCode",
    "TransportClosed",
    "TransportError",
    "UnknownMessage",
    "explain",
]


class LinkError(KilofedError):
    """A line to a device failed, or what came over it was wrong."""

    code = 200


class TransportError(LinkError):
    """The pipe under the link failed. ``name`` is the port or address."""

    code = 210

    def __init__(self, what: str, next_step: str, *, name: str = "") -> None:
        super().__init__(what, next_step)
        self.name = name


class PortNotFound(TransportError):
    """No such serial port."""

    code = 211


class PortDenied(TransportError):
    """The port exists and this user may not open it."""

    code = 212


class PortBusy(TransportError):
    """Another program holds the port."""

    code = 213


class ConnectError(TransportError):
    """Nobody answers at that address, or it cannot be listened on."""

    code = 214


class TransportClosed(TransportError):
    """The pipe ended under a read or a write."""

    code = 215


class FrameError(LinkError):
    """Bytes that are no frame: broken COBS, too short, too long, a wrong version or check."""

    code = 220


class MessageError(LinkError):
    """A message that is malformed or out of range."""

    code = 230


class UnknownMessage(MessageError):
    """A well-formed message of a type that this version does not know: answered with ``error`` 4."""

    code = 231


class SessionError(LinkError):
    """A command that needs a session was given when there was none."""

    code = 240


class BlobError(LinkError):
    """A blob of a size that cannot be sent."""

    code = 250


class StatusCode(IntEnum):
    """Magnitudes of ``kf_status_t``: what devices answer with, and what a commit's verdict may be."""

    OK = 0
    ARG = 1
    MEMORY = 2
    MODEL = 3
    UNSUPPORTED = 4
    HEAD = 5
    SHAPE = 6
    STATE = 7
    FRAME = 8
    MESSAGE = 9
    BLOB = 10
    BUSY = 11
    PORT = 12


_WORDS: dict[int, tuple[str, str]] = {
    StatusCode.OK: ("no error", "nothing to do"),
    StatusCode.ARG: ("an argument outside its range", "report this fault of the firmware, with its log"),
    StatusCode.MEMORY: ("too little memory on the device", "use a smaller model or a smaller ring"),
    StatusCode.MODEL: ("the model in the device is malformed", "flash the device again"),
    StatusCode.UNSUPPORTED: ("the firmware does not know how to do this", "flash a newer firmware"),
    StatusCode.HEAD: ("the device does not hold the head it was to start from", "send the head again"),
    StatusCode.SHAPE: ("sizes that must agree do not", "check that the device runs this run's model"),
    StatusCode.STATE: ("the device cannot do this now", "check that it has samples"),
    StatusCode.FRAME: ("bytes that are no frame", "check the cable and the baud rate"),
    StatusCode.MESSAGE: ("a message malformed or not allowed now", "use host and firmware of one version"),
    StatusCode.BLOB: ("a blob whose header, size or hash is wrong", "check the cable if it happens often"),
    StatusCode.BUSY: ("the device is busy", "try again later"),
    StatusCode.PORT: ("the board's port failed", "look at the board's log"),
}


def explain(code: int, detail: int = 0, text: str = "") -> str:
    """A device's error number in words, ending in the next step.

    code: 0..255, the magnitude of a kf_status_t. detail: the number the device sent along, shown unless 0.
    text: the device's own words, if it sent any.
    """
    if code in _WORDS:
        what, next_step = _WORDS[code]
    elif 100 <= code <= 199:
        what, next_step = f"the board's port reports {code}", "look the number up in the port's source"
    else:
        what, next_step = f"unknown error {code}", "use host and firmware of one version"
    extra = ", ".join(part for part in (str(detail) if detail else "", text) if part)
    return f"{what} ({extra}): {next_step}" if extra else f"{what}: {next_step}"
