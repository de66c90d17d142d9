"""What a device has to say, in whatever file it lies: an update blob, a head blob, or a whole .tflite.

A head and a .tflite say where the device arrived; its change is what that is apart from where everybody
began, exactly, in the trainer's units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import heads
from kilofed_tools.errors import UpdateError
from kilofed_tools.updates import Update, decode_update

_TFLITE = b"TFL3"  # the schema's file identifier, at byte 4
_HEAD, _UPDATE = 1, 2  # blob kinds, at byte 1


def read_contribution(content: bytes, base: bytes, name: str) -> Update:
    """The change a file stands for.

    base: the .tflite everybody began with. name: of the device, for messages.
    UpdateError, with the name: another backbone or shape, or bytes that are none of the three. HeadError and
    ModelError for a head or a .tflite that is damaged.
    """
    spec = heads.find_head(base)
    if content[4:8] == _TFLITE:
        if heads.backbone_hash(content) != heads.backbone_hash(base):
            raise UpdateError(
                f"the model of {name} has another backbone than --model",
                "average models that began as one",
                device=name,
            )
        return _change(heads.master(heads.read_head(content)), base, name)
    kind = content[1] if len(content) > 1 else 0
    if kind == _HEAD:
        return _change(heads.master(heads.decode_head(content)), base, name)
    if kind == _UPDATE:
        return decode_update(content, spec.classes, spec.features, name)
    raise UpdateError(
        f"the file of {name} is neither an update, nor a head, nor a .tflite",
        "take it out of a run with `kilofed export`",
        device=name,
    )


def _change(arrived: tuple[NDArray[np.int32], NDArray[np.int32]], base: bytes, name: str) -> Update:
    began = heads.master(heads.read_head(base))
    if arrived[0].shape != began[0].shape:
        raise UpdateError(
            f"the head of {name} is {arrived[0].shape}, that of --model {began[0].shape}",
            "average heads of one model only",
            device=name,
        )
    # Both are within the trainer's bounds, so their difference fits int32.
    return Update(name, arrived[0] - began[0], arrived[1] - began[1])
