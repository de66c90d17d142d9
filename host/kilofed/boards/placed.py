"""Samples placed in a device's memory: what a sensor would have left there, for boards that have none.

They are put there by the emulator (or a flash tool), never sent over the link. Little endian:

    0 magic "KFS1" | 4 u32 count | 8 u32 input_bytes | 12 u32 CRC-32 of all that follows
    16 count x input_bytes int8 inputs, as the model takes them | count u16 labels
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, Any

from kilofed.boards.catalogue import Board
from kilofed.errors import BoardError

if TYPE_CHECKING:  # numpy loads in a tenth of a second, which most commands need not spend
    import numpy as np
    import numpy.typing as npt

MAGIC = b"KFS1"
_HEADER = struct.Struct("<4sIII")


def encode(inputs: npt.NDArray[np.int8], labels: npt.NDArray[Any]) -> bytes:
    """The placed file of `inputs` (n, ...) int8 and `labels` (n,), 0 .. 65535. Raises BoardError on other
    shapes.
    """
    import numpy as np

    if inputs.dtype != np.int8 or labels.ndim != 1 or len(inputs) != len(labels):
        raise BoardError(
            f"samples of dtype {inputs.dtype} and shape {inputs.shape} with labels of shape {labels.shape}",
            "give int8 inputs (n, ...), quantized as the model's input is, and n labels",
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= 65535:
        raise BoardError("a label lies outside 0 .. 65535", "number the classes from 0")
    flat = np.ascontiguousarray(inputs).reshape(len(inputs), math.prod(inputs.shape[1:]))
    body = flat.tobytes() + labels.astype("<u2").tobytes()
    return _HEADER.pack(MAGIC, len(flat), flat.shape[1], zlib.crc32(body)) + body


def decode(data: bytes) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Inputs (n, input_bytes) int8 and labels (n,) uint16 of a placed file. Raises BoardError: damaged."""
    import numpy as np

    if len(data) < _HEADER.size or data[:4] != MAGIC:
        raise BoardError("these are no placed samples", "make them with `kilofed pi --data`")
    _, count, width, crc = _HEADER.unpack_from(data)
    middle = _HEADER.size + count * width
    end = middle + 2 * count
    if len(data) < end or zlib.crc32(data[_HEADER.size : end]) != crc:
        raise BoardError("the placed samples are damaged", "place them again")
    inputs = np.frombuffer(data, np.int8, count * width, _HEADER.size).reshape(count, width)
    return inputs, np.frombuffer(data, "<u2", count, middle).astype(np.uint16)


def capacity(board: Board, input_bytes: int) -> int:
    """How many samples of `input_bytes` fit the place `board` has for them."""
    return max(0, board.samples.size - _HEADER.size) // (input_bytes + 2)


def check(board: Board, data: bytes) -> None:
    """Raises BoardError, with the numbers, when placed samples exceed the board's place for them."""
    if len(data) > board.samples.size:
        count, width = struct.unpack_from("<II", data, 4)
        raise BoardError(
            f"{count} samples of {width} bytes take {len(data)} bytes, {board.name} has {board.samples.size}",
            f"place at most {capacity(board, width)}",
            board=board.name,
        )
