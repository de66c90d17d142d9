"""Update blobs: the change of a head that a device sends after training.

    0 u8 version 1 | 1 u8 kind 2 | 2 u8 codec | 3 u8 0 | 4 u16 C | 6 u16 F | 8 u32 step_w | 12 u32 step_b
    16 weights (C, F) in the codec | biases (C,): i32 with codec int32, else i8          all little-endian

A value is its integer times the step, in the trainer's units (kilofed_tools.trainer). Codecs: int32 (exact),
int8, int4 (two a byte, the low nibble first) and ternary (five a byte, sum (t_i + 1) * 3^i). What quantising
leaves unsent stays on the device as a residual and joins the next update: error feedback (Seide et al. 2014;
Karimireddy et al. 2019, arXiv:1901.09847). ``firmware/include/kilofed/params.h`` and ``firmware/TRAINING.md``
say the same for the device.

A blob comes from a device and is believed in nothing: decode_update checks every field, and that the values
are ones an honest device can send."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kilofed_tools.errors import UpdateError
from kilofed_tools.trainer import BIAS_MAX, MAX_CLASSES, MAX_FEATURES, WEIGHT_MAX

__all__ = [
    "Codec",
    "Residual",
    "Update",
    "base_of",
    "decode_update",
    "encode_update",
    "update_bytes",
]

Ints = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]  # of any width

_VERSION, _KIND = 1, 2
_HEADER = struct.Struct("<BBBBHHII")
# A change of a weight: from one bound to the other, the residual, and the rounding up to whole steps.
DELTA_W_MAX = (1 << 24) + (1 << 16)
# A change of a bias is clamped to BIAS_MAX before it is rounded up to whole steps.
DELTA_B_MAX = BIAS_MAX + 127


class Codec(enum.IntEnum):
    """How the weights of an update are packed; the number is the one on the wire."""

    INT32 = 0
    INT8 = 1
    INT4 = 2
    TERNARY = 3

    @classmethod
    def named(cls, name: str) -> Codec:
        """The codec called int32, int8, int4 or ternary. Raises UpdateError."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise UpdateError(
                f"there is no update codec {name!r}", "choose int32, int8, int4 or ternary"
            ) from None


@dataclass(frozen=True)
class Update:
    """A validated change of a head, in the trainer's units.

    name: of the device, for messages. W int32 (C, F), |W| <= DELTA_W_MAX. b int32 (C,), |b| <= DELTA_B_MAX.
    Raises UpdateError with the device's name when built from anything else.
    """

    name: str
    W: npt.NDArray[np.int32]
    b: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        shape = self.W.shape
        if (
            len(shape) != 2
            or self.b.shape != shape[:1]
            or self.W.dtype != np.int32
            or self.b.dtype != np.int32
        ):
            raise UpdateError(
                f"update of {self.name}: arrays {shape} {self.W.dtype} and {self.b.shape} {self.b.dtype}",
                "give int32 arrays of shape (C, F) and (C,)",
                device=self.name,
            )
        for what, values, bound in (("weights", self.W, DELTA_W_MAX), ("biases", self.b, DELTA_B_MAX)):
            if values.size and np.abs(values.astype(np.int64)).max() > bound:
                raise UpdateError(
                    f"update of {self.name}: {what} change by more than {bound}, which no training can do",
                    "leave its contribution out and look at the device",
                    device=self.name,
                )


@dataclass(frozen=True)
class Residual:
    """What a device has not sent yet. W int16 (C, F), b int32 (C,), the trainer's units."""

    W: npt.NDArray[np.int16]
    b: npt.NDArray[np.int32]

    @classmethod
    def zeros(cls, classes: int, features: int) -> Residual:
        """Where a device starts, and starts again with a new backbone or label list."""
        return cls(np.zeros((classes, features), np.int16), np.zeros(classes, np.int32))


def base_of(
    weights: Integers, bias: Integers, step: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """A received head in the trainer's units: integers times the step, saturated as the device does it.

    weights (C, F), bias (C,), step >= 1. Returns int32 (W, b).
    """
    W = np.clip(weights.astype(np.int64) * step, -WEIGHT_MAX, WEIGHT_MAX)
    b = np.clip(bias.astype(np.int64) * step, -BIAS_MAX, BIAS_MAX)
    return W.astype(np.int32), b.astype(np.int32)


# ---- packing


def _packed_bytes(codec: Codec, n: int) -> int:
    per_byte = {Codec.INT8: 1, Codec.INT4: 2, Codec.TERNARY: 5}.get(codec)
    return 4 * n if per_byte is None else -(-n // per_byte)


def update_bytes(codec: Codec, classes: int, features: int) -> int:
    """The size of an update blob."""
    return (
        _HEADER.size + _packed_bytes(codec, classes * features) + (4 if codec == Codec.INT32 else 1) * classes
    )


_POWERS: Ints = 3 ** np.arange(5, dtype=np.int64)


def _pack(codec: Codec, q: Ints) -> bytes:
    if codec == Codec.INT32:
        return q.astype("<i4").tobytes()
    if codec == Codec.INT8:
        return q.astype(np.int8).tobytes()
    if codec == Codec.INT4:
        nibbles = np.append(q, np.zeros(-len(q) % 2, np.int64)) & 15
        return (nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes()
    digits = np.append(q, np.zeros(-len(q) % 5, np.int64)) + 1
    return (digits.reshape(-1, 5) @ _POWERS).astype(np.uint8).tobytes()


def _unpack(codec: Codec, packed: bytes, n: int) -> Ints:
    """All values, those of a tail after the n-th included."""
    if codec == Codec.INT32:
        return np.frombuffer(packed, "<i4").astype(np.int64)
    if codec == Codec.INT8:
        return np.frombuffer(packed, np.int8).astype(np.int64)
    raw = np.frombuffer(packed, np.uint8).astype(np.int64)
    if codec == Codec.INT4:
        nibbles: Ints = np.stack((raw & 15, raw >> 4), axis=1).reshape(-1)
        return (nibbles ^ 8) - 8
    # A byte of 243 and more gives a fifth digit of 3, a trit of 2, which the caller refuses.
    values: Ints = np.column_stack((raw[:, None] // _POWERS[:4] % 3, raw // 81)).reshape(-1) - 1
    return values


# ---- encoding


def _divide_rounded(v: Ints, d: int) -> Ints:
    q: Ints = (2 * v + d) // (2 * d)
    return q


def _quantise(v: Ints, codec: Codec) -> tuple[Ints, int]:
    """Integers q and the step D with v = q * D + what is left unsent."""
    magnitudes = np.abs(v)
    if codec == Codec.INT32:
        return v, 1
    if codec == Codec.TERNARY:
        # Ternary Weight Networks (Li and Liu 2016, arXiv:1605.04711): 0.7 times the mean is the threshold.
        above = magnitudes > 7 * int(magnitudes.sum()) // (10 * v.size)
        count = int(above.sum())
        step = max(1, (2 * int(magnitudes[above].sum()) + count) // (2 * count)) if count else 1
        return np.where(above, np.sign(v), 0), step
    q_max = 127 if codec == Codec.INT8 else 7
    step = max(1, -(-int(magnitudes.max()) // q_max))
    return _divide_rounded(v, step), step


def encode_update(
    W: Integers,
    b: Integers,
    base_W: Integers,
    base_b: Integers,
    codec: Codec,
    residual: Residual | None = None,
) -> tuple[bytes, Residual]:
    """The update blob of a trained head (W, b) against the head it started from, and the residual it leaves.

    W, base_W (C, F) and b, base_b (C,) in the trainer's units. The returned residual takes the place of the
    old one when, and only when, the host has accepted the update. residual: None is zero."""
    classes, features = W.shape
    residual = residual or Residual.zeros(classes, features)
    v = (W.astype(np.int64) - base_W + residual.W).reshape(-1)
    v_b = np.clip(b.astype(np.int64) - base_b + residual.b, -BIAS_MAX, BIAS_MAX)
    q, step = _quantise(v, codec)
    q_b, step_b = _quantise(v_b, Codec.INT32 if codec == Codec.INT32 else Codec.INT8)
    blob = b"".join(
        (
            _HEADER.pack(_VERSION, _KIND, codec, 0, classes, features, step, step_b),
            _pack(codec, q),
            _pack(Codec.INT32 if codec == Codec.INT32 else Codec.INT8, q_b),
        )
    )
    left = np.clip(v - q * step, -(2**15), 2**15 - 1).astype(np.int16).reshape(classes, features)
    return blob, Residual(left, (v_b - q_b * step_b).astype(np.int32))


# ---- decoding


def decode_update(blob: bytes, classes: int, features: int, name: str) -> Update:
    """Check an update blob from device ``name`` for a head of classes x features, and open it.

    Raises UpdateError with the device's name: wrong version, kind, codec, shape, length or step, integers
    outside the codec's range, padding that is not zero, or a change that no training can make."""

    def refuse(
        what: str, next_step: str = "leave its contribution out and look at the device"
    ) -> UpdateError:
        return UpdateError(f"update of {name}: {what}", next_step, device=name)

    if len(blob) < _HEADER.size:
        raise refuse(f"{len(blob)} bytes are less than a header")
    version, kind, number, reserved, c, f, step, step_b = _HEADER.unpack_from(blob)
    if version != _VERSION:
        raise refuse(
            f"blob version {version}, this host reads {_VERSION}", "flash a firmware of this release"
        )
    if kind != _KIND:
        raise refuse(f"blob kind {kind} is not an update")
    if number not in Codec.__members__.values():
        raise refuse(f"codec {number} is unknown")
    if reserved != 0:
        raise refuse(f"the reserved byte is {reserved}")
    if (c, f) != (classes, features) or not (1 <= c <= MAX_CLASSES and 1 <= f <= MAX_FEATURES):
        raise refuse(
            f"a head of {c} x {f}, the model's is {classes} x {features}",
            "flash the device with the run's model",
        )
    codec = Codec(number)
    if len(blob) != update_bytes(codec, classes, features):
        raise refuse(
            f"{len(blob)} bytes, {codec.name.lower()} needs {update_bytes(codec, classes, features)}"
        )
    exact = codec == Codec.INT32
    if step == 0 or step_b == 0 or (exact and (step, step_b) != (1, 1)):
        raise refuse(f"steps {step} and {step_b}")

    n = classes * features
    end = _HEADER.size + _packed_bytes(codec, n)
    q = _unpack(codec, blob[_HEADER.size : end], n)
    q_b = _unpack(Codec.INT32 if exact else Codec.INT8, blob[end:], classes)
    if q[n:].any():
        raise refuse("the padding of the weights is not zero")
    q = q[:n]
    bound = {Codec.INT8: 127, Codec.INT4: 7, Codec.TERNARY: 1}.get(codec)
    if bound is not None and (np.abs(q).max() > bound or np.abs(q_b).max() > 127):
        raise refuse(f"integers outside the range of {codec.name.lower()}")
    if int(np.abs(q).max()) * step > DELTA_W_MAX or int(np.abs(q_b).max()) * step_b > DELTA_B_MAX:
        raise refuse("a change larger than any training can make")
    return Update(
        name, (q * step).astype(np.int32).reshape(classes, features), (q_b * step_b).astype(np.int32)
    )
