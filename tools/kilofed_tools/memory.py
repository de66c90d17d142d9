"""What a device needs of its memory block, by part: the twin of firmware/src/device/memory.c, to the byte.

The block holds everything whose size depends on the model or on the board's settings. The fixed rest of a
device (``kf_device_t``, 824 bytes on a 32-bit core) and the port's own buffers are in the linker's map. C
classes, F features; every part is rounded up to a multiple of 4.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from kilofed_tools.errors import ModelError
from kilofed_tools.trainer import MAX_BATCH, params_bytes, residual_bytes, ring_bytes, train_bytes
from kilofed_tools.updates import Codec, update_bytes

MIN_FRAME, MAX_FRAME = 64, 1024
MAX_SLOTS = 65535
_HELLO_FRAME = 72  # of the longest hello: a send buffer holds it, whatever max_frame is


@dataclass(frozen=True)
class MemoryParts:
    """Bytes of each part of the block, in their order; the fields of kf_device_parts_t.

    receive, send: one frame each. ring: the features of all samples and their labels. master: the int32 head
    that is trained. work: the trainer's working memory, and afterwards the update. residual: error feedback.
    base, incoming, personal: an int8 head blob each. arena: activations and operator scratch of inference.
    """

    receive: int
    send: int
    ring: int
    master: int
    work: int
    residual: int
    base: int
    incoming: int
    personal: int
    arena: int

    @property
    def total(self) -> int:
        """Of the whole block: kf_device_bytes()."""
        return sum(getattr(self, field.name) for field in fields(self))

    def rows(self) -> list[tuple[str, int]]:
        """(name, bytes) of each part, for a table."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


def _up(size: int) -> int:
    return (size + 3) & ~3


def _head_bytes(classes: int, features: int) -> int:
    return 16 + _up(classes * features) + 4 * classes


def device_parts(
    classes: int,
    features: int,
    arena_bytes: int,
    *,
    max_frame: int,
    ring_slots: int,
    held_out_every: int,
    max_batch: int,
    exact_updates: bool = False,
) -> MemoryParts:
    """The parts of a device's block.

    classes 2..1024, features 1..2048, of the model's head; arena_bytes: of its memory plan. The rest are the
    board's settings of the same names (kf_device_config_t): max_frame 64..1024, ring_slots 1..65535 and a
    multiple of held_out_every (0: nothing is held out, else 2 or more), max_batch 1..256, exact_updates:
    whether an int32 update fits too. Raises ModelError for a number outside its range.
    """
    for name, value, low, high in (
        ("classes", classes, 2, 1024),
        ("features", features, 1, 2048),
        ("arena_bytes", arena_bytes, 1, 1 << 31),
        ("max_frame", max_frame, MIN_FRAME, MAX_FRAME),
        ("ring_slots", ring_slots, 1, MAX_SLOTS),
        ("held_out_every", held_out_every, 0, 255),
        ("max_batch", max_batch, 1, MAX_BATCH),
    ):
        if not low <= value <= high:
            raise ModelError(f"{name} is {value}", f"choose {low} to {high}")
    if held_out_every == 1 or (held_out_every and ring_slots % held_out_every):
        raise ModelError(
            f"a ring of {ring_slots} slots cannot hold out every {held_out_every}",
            "make ring_slots a multiple of held_out_every, which is 0 or at least 2",
        )
    head = _head_bytes(classes, features)
    training = train_bytes(classes, max_batch, ring_slots, held_out_every)
    update = update_bytes(Codec.INT32 if exact_updates else Codec.INT8, classes, features)
    return MemoryParts(
        receive=_up(max_frame),
        send=_up(max(max_frame, _HELLO_FRAME) + 1),
        ring=_up(ring_bytes(features, classes, ring_slots)),
        master=params_bytes(classes, features),
        work=_up(max(training, update)),
        residual=_up(residual_bytes(classes, features)),
        base=head,
        incoming=head,
        personal=head,
        arena=_up(arena_bytes),
    )


def device_bytes(
    classes: int,
    features: int,
    arena_bytes: int,
    *,
    max_frame: int,
    ring_slots: int,
    held_out_every: int,
    max_batch: int,
    exact_updates: bool = False,
) -> int:
    """Bytes of the whole block; arguments and errors as `device_parts`."""
    return device_parts(
        classes,
        features,
        arena_bytes,
        max_frame=max_frame,
        ring_slots=ring_slots,
        held_out_every=held_out_every,
        max_batch=max_batch,
        exact_updates=exact_updates,
    ).total
