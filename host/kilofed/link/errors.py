"""The errors of the link: one branch of the project's tree, drawn here.

    LinkError                   200   anything the link raises on purpose
    +-- FrameError              210   bytes that are no frame
    +-- MessageError            220   a sound frame whose message is unknown, malformed or out of range
    +-- BlobError               230   a blob that cannot be sent or taken
    +-- LinkStateError          240   a command given when it cannot be carried out
    +-- TransportError          250   the pipe under the link
        +-- PortNotFound        251   no such serial port
        +-- PortDenied          252   the port exists, this user may not open it
        +-- PortBusy            253   another program holds the port
        +-- ConnectError        254   nobody answers at that address
        +-- TransportClosed     255   the pipe ended: unplugged, hung up, reset

Numbers that a *device* sends (``error`` and ``commit``) are the magnitudes of ``kf_status_t`` in firmware/include/
kilofed/status.h. Devices send no words; `explain` has them.
"""

from __future__ import annotations

from enum import IntEnum

from kilofed_tools.errors import KilofedError


class LinkError(KilofedError):
    """Anything the link raises on purpose."""

    code = 200


class FrameError(LinkError):
    """Bytes between two delimiters that are no frame of this protocol."""

    code = 210


class MessageError(LinkError):
    """A message that is unknown, malformed or out of range. ``status`` is what the peer is told: 4 or 9."""

    code = 220

    def __init__(self, what: str, next_step: str, *, status: int = 9) -> None:
        super().__init__(what, next_step)
        self.status = status


class BlobError(LinkError):
    """A blob of a size or content that cannot be sent or taken."""

    code = 230


class LinkStateError(LinkError):
    """A command given to an endpoint that cannot carry it out now (there is no session)."""

    code = 240


class TransportError(LinkError):
    """The pipe under the link failed. ``name`` is the port or address."""

    code = 250

    def __init__(self, what: str, next_step: str, *, name: str = "") -> None:
        super().__init__(what, next_step)
        self.name = name


class PortNotFound(TransportError):
    """No such serial port."""

    code = 251


class PortDenied(TransportError):
    """The port exists and this user may not open it."""

    code = 252


class PortBusy(TransportError):
    """Another program holds the port."""

    code = 253


class ConnectError(TransportError):
    """Nobody answers at that address, or the address cannot be listened on."""

    code = 254


class TransportClosed(TransportError):
    """The pipe ended under a read or a write."""

    code = 255


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
    StatusCode.ARG: ("an argument outside its range", "this is a fault in the firmware, report it with the device's log"),
    StatusCode.MEMORY: ("too little memory on the device", "use a smaller model or a smaller ring"),
    StatusCode.MODEL: ("the model in the device is malformed", "flash the device again"),
    StatusCode.UNSUPPORTED: ("the firmware does not know how to do this", "flash a newer firmware"),
    StatusCode.HEAD: ("the device does not hold the head it was to start from", "send the head again"),
    StatusCode.SHAPE: ("sizes that must agree do not", "check that the device runs this run's model"),
    StatusCode.STATE: ("the device cannot do this now", "check that it has samples"),
    StatusCode.FRAME: ("bytes that are no frame", "check the cable and the baud rate"),
    StatusCode.MESSAGE: ("a message that is malformed or not allowed now", "check that host and firmware have one version"),
    StatusCode.BLOB: ("a blob whose header, size or hash is wrong", "send it again; check the cable when it happens often"),
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
        what, next_step = f"unknown error {code}", "check that host and firmware have one version"
    extra = ", ".join(part for part in (str(detail) if detail else "", text) if part)
    return f"{what} ({extra}): {next_step}" if extra else f"{what}: {next_step}"
