"""A run's curves as TensorBoard event files, written without TensorFlow.

    write_events(run, Path("build/events"))        then: tensorboard --logdir build/events

One folder a curve, so that curves of one tag share a plot: federated/, alone/, central/, and devices/<name>/.
Steps are rounds; the wall time of a step is when its round ended. Files are named after the run, so writing
again replaces them.

A file is a sequence of TFRecords, each an Event message:

    u64 length | u32 masked CRC of the 8 length bytes | data | u32 masked CRC of data, all little endian;
    masked = rotate_right(CRC-32C, 15) + 0xa282ead8

    Event    1 double wall_time | 2 int64 step | 3 string file_version | 5 Summary
    Summary  1 repeated Value
    Value    1 string tag | 2 float simple_value

as in TensorFlow's lib/hash/crc32c.h, util/event.proto and framework/summary.proto.
The first event of a file has only a wall time and the version "brain.Event:2".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilofed.errors import RunFolderError
from kilofed.rounds.records import RoundRecord
from kilofed.store import Run, write_atomically

VERSION = "brain.Event:2"

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
_MASK = 0xA282EAD8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


@dataclass(frozen=True)
class Scalars:
    """The scalars of one step. wall_time: Unix time, seconds. values: tag -> value."""

    wall_time: float
    step: int
    values: Mapping[str, float]


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_CRC = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`, u32: 0xe3069283 for b"123456789"."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """`data` framed as a TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _message(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def encode_version(wall_time: float) -> bytes:
    """The event that opens a file."""
    return _key(1, _FIXED64) + struct.pack("<d", wall_time) + _message(3, VERSION.encode())


def encode_scalars(scalars: Scalars) -> bytes:
    """An event with the scalars of a step; step 0 or above."""
    values = b"".join(
        _message(1, _message(1, tag.encode()) + _key(2, _FIXED32) + struct.pack("<f", value))
        for tag, value in scalars.values.items()
    )
    time = _key(1, _FIXED64) + struct.pack("<d", scalars.wall_time)
    return time + _key(2, _VARINT) + _varint(scalars.step) + _message(5, values)


def events_file(created: float, steps: Iterable[Scalars]) -> bytes:
    """The bytes of a whole event file."""
    events = [encode_version(created), *(encode_scalars(step) for step in steps)]
    return b"".join(record(event) for event in events)


def write_events(run: Run, folder: Path) -> list[Path]:
    """Writes every curve of a run below `folder`; returns the files. RunFolderError when it cannot."""
    name = f"events.out.tfevents.{int(run.created)}.kilofed"
    paths = []
    for curve, steps in curves(run).items():
        path = folder / curve / name
        try:
            write_atomically(path, events_file(run.created, steps))
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be written ({error.strerror})", "choose another folder", path=str(path)
            ) from error
        paths.append(path)
    return paths


def curves(run: Run) -> dict[str, list[Scalars]]:
    """Folder -> its steps, empty curves left out.

    federated: accuracy/test (of the new global head), accuracy/held_out (of the head sent out, on the
    devices' own samples), accuracy/personal (of the heads they trained, there), loss, bytes/up and bytes/down
    (mean a device), devices/taken, devices/dropped, seconds. alone, central: accuracy/test and
    accuracy/held_out, the same in the first round and the last. devices/<name>: what is known of one device
    in the rounds that took it.
    """
    rounds = run.rounds()
    found = {"federated": [_step(r, _of_round(r)) for r in rounds]}
    baselines: dict[str, Any] = run.figures().get("baselines") or {}
    for name in ("alone", "central"):
        scores = baselines.get(name) or {}
        line = _known({f"accuracy/{which}": scores.get(which) for which in ("test", "held_out")})
        found[name] = (
            [_step(r, line) for r in dict.fromkeys((rounds[0], rounds[-1]))] if rounds and line else []
        )
    folders: dict[str, str] = {}
    for device in run.devices():
        folder = f"devices/{_file_name(device.name)}"
        if folder in folders.values():
            folder = f"{folder}-{device.device}"  # two names that are written alike
        folders[device.device] = folder
    for entry in rounds:
        for part in entry.taken:
            values: dict[str, float | None] = {
                "loss": part.loss,
                "bytes/up": part.bytes_up,
                "bytes/down": part.bytes_down,
                "seconds": part.elapsed_ms / 1000,
                "accuracy/held_out": part.base_correct / part.held_out if part.held_out else None,
                "accuracy/personal": part.own_correct / part.held_out if part.held_out else None,
            }
            where = folders.get(part.device, f"devices/{part.device}")
            found.setdefault(where, []).append(_step(entry, _known(values)))
    return {name: steps for name, steps in found.items() if steps}


def _step(entry: RoundRecord, values: Mapping[str, float]) -> Scalars:
    return Scalars(entry.started + entry.seconds, entry.number, values)


def _of_round(entry: RoundRecord) -> dict[str, float]:
    taken = entry.taken
    return _known(
        {
            "accuracy/test": entry.accuracy,
            "accuracy/held_out": entry.base_accuracy,
            "accuracy/personal": entry.own_accuracy,
            "loss": entry.loss,
            "bytes/up": sum(d.bytes_up for d in taken) / len(taken) if taken else None,
            "bytes/down": sum(d.bytes_down for d in taken) / len(taken) if taken else None,
            "devices/taken": len(taken),
            "devices/dropped": len(entry.dropped),
            "seconds": entry.seconds,
        }
    )


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _file_name(name: str) -> str:
    """A device's name as that of a folder: letters, digits, ".", "-" and "_", never "" nor all dots."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else "_" for c in name)
    return safe if safe.strip(".") else f"_{safe}"
