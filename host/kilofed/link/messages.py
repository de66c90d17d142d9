"""The messages of the link: one frozen dataclass each, and the two functions between them and bytes.

    encode(Ping()) == b"\\x81\\x0d"         decode(b"\\x81\\x0d") == Ping()

A message is one CBOR array whose first element is its type (firmware/protocol.cddl is the definition, this
module its Python form; tests compare the two). Both directions check every size, type and range, so a
dataclass that came out of `decode` needs no further checks and one that `encode` refuses never reaches a
device.

Hostile bytes: before the CBOR library sees anything, `_elements` has walked the array and found that it is
definite, complete, in shortest form, free of tags and not nested beyond `MAX_DEPTH`; the library is then
given the known elements only, which are integers, byte strings, text and null. Elements after the known
ones are skipped unread, as the compatibility rule says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, ClassVar, Protocol, TypeAlias

import cbor2

from kilofed.link.errors import MessageError, UnknownMessage

PROTOCOL_VERSION = 1
MIN_FRAME = 64  # bytes on the wire, limits of max_frame
MAX_FRAME = 1024
MIN_WINDOW = 64
PROOF_BYTES = 16
FLAG_NO_ENTROPY = 1  # of a hello
FLAG_ENCRYPTED = 2
MAX_BLOB = 1 << 20
MAX_CHUNK = 1000
MAX_DEPTH = 4  # of arrays and maps inside the elements that are skipped
NO_HASH = bytes(8)

_HINT = "use host and firmware of one version"


class State(IntEnum):
    """What a device is doing."""

    COLLECTING = 0  # turning samples into features; cannot train yet
    IDLE = 1
    TRAINING = 2
    UPLOADING = 3  # a result waits for its commit
    FAILED = 4


class BlobKind(IntEnum):
    """What a blob holds; the second byte of each."""

    HEAD = 1
    UPDATE = 2


class Verdict(IntEnum):
    """Of an accept."""

    RECEIVING = 0
    COMPLETE = 1
    REFUSED = 2


class Reason(IntEnum):
    """Of a bye, a refuse, and of a session that ended."""

    NONE = 0
    SHUTTING_DOWN = 1
    VERSION = 2
    UNKNOWN_DEVICE = 3
    WRONG_KEY = 4
    WRONG_MODEL = 5
    TOO_MANY = 6
    SILENT = 7
    PROTOCOL = 8
    TWIN = 9
    INSECURE = 10


@dataclass(frozen=True, slots=True)
class Multiplier:
    """mantissa * 2^-shift: how learning rates travel. mantissa 0 (means 0) or 2^14..2^15-1; shift 0..255."""

    mantissa: int = 0
    shift: int = 0

    @classmethod
    def nearest(cls, value: float) -> Multiplier:
        """The multiplier closest to `value`, 0 <= value < 2^15; below 2^-241 it is 0.

        MessageError outside.
        """
        if not (math.isfinite(value) and 0 <= value < 1 << 15):
            raise MessageError(f"{value} is no multiplier", "give a learning rate from 0 to below 32768")
        if value == 0:
            return cls(0, 0)
        fraction, exponent = math.frexp(value)  # 0.5 <= fraction < 1
        mantissa = round(fraction * 32768)
        if mantissa == 32768:
            mantissa, exponent = 16384, exponent + 1
        shift = 15 - exponent
        if shift > 255:
            return cls(0, 0)
        if shift < 0:
            return cls(32767, 0)
        return cls(mantissa, shift)

    @property
    def value(self) -> float:
        """The exact value."""
        return math.ldexp(self.mantissa, -self.shift)


# ---- kinds of fields -----------------------------------------------------------------------------


class _Kind(Protocol):
    """One field of a message: how many array elements it takes, and the way from and to them.

    Both ways raise ValueError for a value that is out of range.
    """

    @property
    def width(self) -> int: ...

    def pack(self, value: Any) -> list[Any]: ...

    def unpack(self, items: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class _Uint:
    low: int
    high: int
    width: int = 1

    def pack(self, value: Any) -> list[Any]:
        return [self.unpack([int(value) if isinstance(value, IntEnum) else value])]

    def unpack(self, items: Sequence[Any]) -> Any:
        value = items[0]
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValueError(f"wants an integer {self.low}..{self.high}")
        return value


@dataclass(frozen=True)
class _Enum:
    enum: type[IntEnum]
    width: int = 1

    def pack(self, value: Any) -> list[Any]:
        return [int(self.unpack([int(value)]))]

    def unpack(self, items: Sequence[Any]) -> Any:
        if type(items[0]) is not int:
            raise ValueError(f"wants a number of {self.enum.__name__}")
        return self.enum(items[0])


@dataclass(frozen=True)
class _Bytes:
    low: int
    high: int
    nullable: bool = False
    width: int = 1

    def pack(self, value: Any) -> list[Any]:
        return [self.unpack([bytes(value) if isinstance(value, bytearray | memoryview) else value])]

    def unpack(self, items: Sequence[Any]) -> Any:
        value = items[0]
        if value is None and self.nullable:
            return None
        if type(value) is not bytes or not self.low <= len(value) <= self.high:
            raise ValueError(f"wants {self.low}..{self.high} bytes")
        return value


@dataclass(frozen=True)
class _Text:
    low: int  # in bytes of UTF-8
    high: int
    width: int = 1

    def pack(self, value: Any) -> list[Any]:
        return [self.unpack([value])]

    def unpack(self, items: Sequence[Any]) -> Any:
        value = items[0]
        if type(value) is not str or not self.low <= len(value.encode()) <= self.high:
            raise ValueError(f"wants {self.low}..{self.high} bytes of text")
        return value


@dataclass(frozen=True)
class _Multiplier:
    width: int = 2

    def pack(self, value: Any) -> list[Any]:
        items = [value.mantissa, value.shift]
        self.unpack(items)
        return items

    def unpack(self, items: Sequence[Any]) -> Any:
        mantissa, shift = items
        if type(mantissa) is not int or not (mantissa == 0 or 1 << 14 <= mantissa < 1 << 15):
            raise ValueError("wants a mantissa 0 or 2^14..2^15-1")
        if type(shift) is not int or not 0 <= shift <= 255:
            raise ValueError("wants a shift 0..255")
        return Multiplier(mantissa, shift)


_U8, _U16, _U32 = _Uint(0, 0xFF), _Uint(0, 0xFFFF), _Uint(0, 0xFFFFFFFF)
_HASH = _Bytes(8, 8)
_HASH_OR_NULL = _Bytes(8, 8, nullable=True)
_FRAME = _Uint(MIN_FRAME, MAX_FRAME)
_PROOF = _Bytes(PROOF_BYTES, PROOF_BYTES)


# ---- before there is a session -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """Host: whoever is there, say hello."""

    TYPE: ClassVar[int] = 0
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U8,)
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Hello:
    """Device: who it is and what it can take.

    version: the highest protocol version it speaks. device_id, device_nonce: 8 bytes. board: name of its
    board file. firmware: major << 16 | minor << 8 | patch. max_frame: longest frame it takes, bytes on the
    wire. window: bytes on the wire it can buffer beyond what it has acknowledged. flags: bit 0: it has no
    entropy source; bit 1: it holds a key, and takes encrypted sessions and no others.
    """

    TYPE: ClassVar[int] = 1
    KINDS: ClassVar[tuple[_Kind, ...]] = (
        _U8, _HASH, _HASH, _Text(1, 24), _U32, _FRAME, _Uint(MIN_WINDOW, 0xFFFF), _U32,
    )  # fmt: skip
    version: int
    device_id: bytes
    device_nonce: bytes
    board: str
    firmware: int
    max_frame: int
    window: int
    flags: int = 0

    @property
    def firmware_text(self) -> str:
        """The firmware version as people write it, "0.1.0"."""
        return f"{self.firmware >> 16}.{self.firmware >> 8 & 255}.{self.firmware & 255}"

    @property
    def encrypted(self) -> bool:
        """Whether its sessions are encrypted."""
        return bool(self.flags & FLAG_ENCRYPTED)


@dataclass(frozen=True, slots=True)
class Welcome:
    """Host: a session may begin. device_nonce echoes the hello it answers.

    proof: 16 bytes of an encrypted session (`kilofed.link.secure`), None of one in the clear.
    """

    TYPE: ClassVar[int] = 2
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U8, _HASH, _HASH, _FRAME, _Uint(100, 0xFFFF), _PROOF)
    version: int
    device_nonce: bytes
    host_nonce: bytes
    max_frame: int
    heartbeat_ms: int
    proof: bytes | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Host: no session; do not say hello again before wait_ms.

    reason: a `Reason`, or a number of a later version.
    """

    TYPE: ClassVar[int] = 3
    KINDS: ClassVar[tuple[_Kind, ...]] = (_HASH, _U8, _U32)
    device_nonce: bytes
    reason: int
    wait_ms: int


# ---- inside a session ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Info:
    """Device: its first message in a session, and after a change.

    model: hash of the .tflite in its flash. labels: hash of the model's labels, zeros when it has none.
    capacity: slots of the feature ring. train, held_out: samples it has. head: hash of the head blob it
    holds as base, or None.
    """

    TYPE: ClassVar[int] = 4
    KINDS: ClassVar[tuple[_Kind, ...]] = (
        _HASH, _HASH, _U16, _U16, _U16, _U16, _U16, _HASH_OR_NULL, _Enum(State), _U32,
    )  # fmt: skip
    model: bytes
    labels: bytes
    classes: int
    features: int
    capacity: int
    train: int
    held_out: int
    head: bytes | None
    state: State
    round: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Either side: I have this blob for you. hash: its BLAKE2b-8. size: bytes."""

    TYPE: ClassVar[int] = 5
    KINDS: ClassVar[tuple[_Kind, ...]] = (_Enum(BlobKind), _HASH, _Uint(1, MAX_BLOB))
    kind: BlobKind
    hash: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Receiver of a blob: I have its first `offset` bytes. id: the first two of its hash, big endian."""

    TYPE: ClassVar[int] = 6
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U16, _U32, _Enum(Verdict))
    id: int
    offset: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sender of a blob: its bytes from `offset` on."""

    TYPE: ClassVar[int] = 7
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U16, _U32, _Bytes(1, MAX_CHUNK))
    id: int
    offset: int
    data: bytes


PERSONALISE = 1  # Train.flags bit 0: keep the result as the personal head, send no update


@dataclass(frozen=True, slots=True)
class Train:
    """Host: train this round from this head. The host side's name for it is `TrainOrder`.

    head: hash of the head blob to start from. seed: of the shuffles. epochs: 0 measures the head without
    training. batch: samples a step. lr_weights, lr_bias, prox: multipliers as the trainer takes them.
    codec: of the update: 0 int32, 1 int8, 2 int4, 3 ternary. flags: see PERSONALISE.
    """

    TYPE: ClassVar[int] = 8
    KINDS: ClassVar[tuple[_Kind, ...]] = (
        _U32, _HASH, _U32, _U8, _Uint(1, 256), _Multiplier(), _Multiplier(), _Multiplier(), _Uint(0, 3), _U8,
    )  # fmt: skip
    round: int
    head: bytes
    seed: int
    epochs: int
    batch: int
    lr_weights: Multiplier
    lr_bias: Multiplier
    prox: Multiplier = Multiplier()
    codec: int = 1
    flags: int = 0

    @property
    def wants_update(self) -> bool:
        """Whether the result comes with an update."""
        return self.epochs > 0 and not self.flags & PERSONALISE


TrainOrder = Train


@dataclass(frozen=True, slots=True)
class Status:
    """Device: what it is doing.

    progress: of training, thousandths. loss_q12: of the last whole epoch, nats / 4096.
    """

    TYPE: ClassVar[int] = 9
    KINDS: ClassVar[tuple[_Kind, ...]] = (_Enum(State), _U32, _Uint(0, 1000), _U32)
    state: State
    round: int
    progress: int
    loss_q12: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the last whole epoch, in nats."""
        return self.loss_q12 / 4096


@dataclass(frozen=True, slots=True)
class Result:
    """Device: training is done; this is the offer of its update (None and size 0 when none was asked for).

    train, held_out: samples trained on and held out. base_correct, own_correct: held-out samples the
    received and the trained head get right. elapsed_ms: device time from train to result.
    """

    TYPE: ClassVar[int] = 10
    KINDS: ClassVar[tuple[_Kind, ...]] = (
        _U32, _HASH_OR_NULL, _Uint(0, MAX_BLOB), _U16, _U16, _U32, _U16, _U16, _U32,
    )  # fmt: skip
    round: int
    update: bytes | None
    size: int
    train: int
    held_out: int
    loss_q12: int
    base_correct: int
    own_correct: int
    elapsed_ms: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the last epoch, in nats."""
        return self.loss_q12 / 4096


@dataclass(frozen=True, slots=True)
class Commit:
    """Host: the result of this round was taken (verdict 0), or died of this error number."""

    TYPE: ClassVar[int] = 11
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U32, _U8)
    round: int
    verdict: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Host: stop training this round and drop its result."""

    TYPE: ClassVar[int] = 12
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U32,)
    round: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Host: answer with a status."""

    TYPE: ClassVar[int] = 13
    KINDS: ClassVar[tuple[_Kind, ...]] = ()


@dataclass(frozen=True, slots=True)
class Error:
    """Either side: what was asked for failed.

    code: magnitude of a kf_status_t. text: None or up to 48 bytes.
    """

    TYPE: ClassVar[int] = 14
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U8, _U32, _Text(0, 48))
    code: int
    detail: int = 0
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """Device: silent for so long (a flash erase); do not give up on me."""

    TYPE: ClassVar[int] = 15
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U32,)
    ms: int


@dataclass(frozen=True, slots=True)
class Bye:
    """Either side: the session ends here."""

    TYPE: ClassVar[int] = 16
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U8,)
    reason: int


class Labelled(IntEnum):
    """What became of a label."""

    NEWS = 0  # no label: a window was seen
    TAKEN = 1  # it is a sample now
    GONE = 2  # another window has come since
    BUSY = 3  # a training holds the samples: say it again
    REFUSED = 4  # the model has no such class


@dataclass(frozen=True, slots=True)
class Watch:
    """Host: for so many milliseconds tell me what you see; 0: no longer."""

    TYPE: ClassVar[int] = 17
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U32,)
    ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Device: the newest window of its sensor, or what became of a label.

    number: of the window, counted from 1; 0: there was none. label: the class it is taken for, or was said
    to be. score: that output of the model plus 128.
    """

    TYPE: ClassVar[int] = 18
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U32, _U16, _U8, _Enum(Labelled))
    number: int
    label: int
    score: int
    verdict: Labelled = Labelled.NEWS


@dataclass(frozen=True, slots=True)
class Label:
    """Host: what the window of this number was; answered with `Seen`."""

    TYPE: ClassVar[int] = 19
    KINDS: ClassVar[tuple[_Kind, ...]] = (_U32, _U16)
    number: int
    label: int


Message: TypeAlias = (
    Probe | Hello | Welcome | Refuse | Info | Offer | Accept | Chunk | Train | Status | Result | Commit
    | Cancel | Ping | Error | Busy | Bye | Watch | Seen | Label
)  # fmt: skip
MESSAGES: tuple[type[Message], ...] = (
    Probe, Hello, Welcome, Refuse, Info, Offer, Accept, Chunk, Train, Status, Result, Commit,
    Cancel, Ping, Error, Busy, Bye, Watch, Seen, Label,
)  # fmt: skip
_NAMES = {cls: tuple(field.name for field in fields(cls)) for cls in MESSAGES}
_WIDTHS = {cls: sum(kind.width for kind in cls.KINDS) for cls in MESSAGES}
_OPTIONAL: dict[type[Message], str] = {Error: "text", Welcome: "proof"}  # the last field, which may be absent


# ---- to and from bytes ---------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """The message as CBOR, core deterministic encoding. MessageError when a field is out of its range."""
    cls = type(message)
    items: list[Any] = [cls.TYPE]
    for name, kind in zip(_NAMES[cls], cls.KINDS, strict=True):
        value = getattr(message, name)
        if value is None and _OPTIONAL.get(cls) == name:
            continue
        try:
            items += kind.pack(value)
        except (ValueError, TypeError, AttributeError) as error:
            what = f"{cls.__name__}.{name} = {value!r}: {error}"
            raise MessageError(what, "pass a value in range") from error
    _check_whole(message)
    return bytes(cbor2.dumps(items))


def decode(data: bytes) -> Message:
    """The message in `data`, which must hold nothing else.

    Raises MessageError and nothing else, whatever the bytes: UnknownMessage for a well-formed message of a
    type that this version does not know.
    """
    start, ends = _elements(data)
    if not ends or data[start] >> 5 != 0:
        raise MessageError("a message without a type", _HINT)
    if data[start] >= len(MESSAGES):  # a type from 24 on takes two bytes; none exists in this version
        raise UnknownMessage("a message of an unknown type", _HINT)
    cls = MESSAGES[data[start]]
    wanted = 1 + _WIDTHS[cls]
    if cls in _OPTIONAL and len(ends) == wanted - 1:
        wanted -= 1
    if len(ends) < wanted:
        raise MessageError(f"{cls.__name__} with {len(ends)} of {wanted} elements", _HINT)
    try:
        items = cbor2.loads(bytes([0x80 | wanted]) + data[start : ends[wanted - 1]])
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise MessageError(f"{cls.__name__} is not CBOR: {error}", _HINT) from error
    values: list[Any] = []
    position = 1
    for name, field_kind in zip(_NAMES[cls], cls.KINDS, strict=True):
        if position == wanted:
            break
        try:
            values.append(field_kind.unpack(items[position : position + field_kind.width]))
        except ValueError as error:
            raise MessageError(f"{cls.__name__}.{name}: {error}", _HINT) from error
        position += field_kind.width
    message = cls(*values)
    _check_whole(message)
    return message


def before_proof(welcome: bytes) -> bytes:
    """The bytes of a welcome, which `decode` took with its proof, up to where the proof's element begins."""
    return welcome[: _elements(welcome)[1][_WIDTHS[Welcome] - 1]]


def _check_whole(message: Message) -> None:
    """What CDDL cannot say: relations between fields."""
    if isinstance(message, Result) and (message.update is None) != (message.size == 0):
        raise MessageError("Result with an update of size 0, or a size without an update", _HINT)


def _elements(data: bytes) -> tuple[int, list[int]]:
    """Where the array's elements begin, and where each of them ends.

    Their values are not read. Known elements can only be integers, strings and null: what else stands
    before the tail is refused later, by its kind. MessageError unless `data` is exactly one definite
    array in shortest form.
    """
    if not data or data[0] >> 5 != 4 or data[0] & 31 > 24:
        raise MessageError("not a CBOR array", _HINT)
    count, start = _head(data, 0)
    position = start
    ends = []
    for _ in range(count):
        position = _skip(data, position, 1)
        ends.append(position)
    if position != len(data):
        raise MessageError(f"{len(data) - position} bytes after the message", _HINT)
    return start, ends


def _head(data: bytes, position: int) -> tuple[int, int]:
    """The argument of the item at `position` (RFC 8949, 3) and where what follows it begins."""
    if position >= len(data):
        raise MessageError("a message that is cut short", _HINT)
    additional = data[position] & 31
    if additional < 24:
        return additional, position + 1
    if additional > 27:
        raise MessageError("CBOR of indefinite length", _HINT)
    size = 1 << (additional - 24)
    end = position + 1 + size
    if end > len(data):
        raise MessageError("a message that is cut short", _HINT)
    value = int.from_bytes(data[position + 1 : end], "big")
    if data[position] >> 5 != 7 and value < (24 if size == 1 else 1 << (4 * size)):
        raise MessageError("CBOR that is not in shortest form", _HINT)
    return value, end


def _skip(data: bytes, position: int, depth: int) -> int:
    """Where the item at `position` ends."""
    major = data[position] >> 5 if position < len(data) else 0
    value, position = _head(data, position)
    if major <= 1 or major == 7:
        return position
    if major in (2, 3):
        if value > len(data) - position:
            raise MessageError("a message that is cut short", _HINT)
        return position + value
    if major == 6:
        raise MessageError("a CBOR tag", _HINT)
    if depth > MAX_DEPTH:
        raise MessageError("CBOR nested too deep", _HINT)
    for _ in range(value * (major - 3)):  # a map has twice as many; each takes a byte at least
        position = _skip(data, position, depth + 1)
    return position
