"""The entry ``kilofed.plan``: places of a model's activations, and which operators run in turns. Bytes only;
what they mean is said in `kilofed_tools.layout` and `kilofed_tools.streams`.

Little endian, without gaps: u8 version 1; u8 shift, 2 to 15: places are multiples of 2**shift; u16 place of
the model's input; u16 first tensor, u16 count of tensors, u16 place of each, 65535 for one without; u16 place
of the scratch of each operator, of a group that of its first, 0 where there is none; then, to the end of the
entry, the groups: u16 first operator, u8 operators, and of each operator u8 step, u8 ahead, u8 ring.
Constants mostly come before activations in a file, so `count` is small.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from kilofed_tools.errors import ModelContractError
from kilofed_tools.metadata import KILOFED_PLAN
from kilofed_tools.streams import Group, Rule

VERSION = 1
SHIFT_LEAST, SHIFT_MOST = 2, 15
_NOWHERE = 0xFFFF
_HEAD = struct.Struct("<BBHHH")
_AGAIN = "make the model again with `kilofed convert`"


def encode(
    offsets: Sequence[int], scratch: Sequence[int], groups: Sequence[Group], *, input_tensor: int
) -> bytes:
    """The bytes of the entry. offsets: one a tensor, -1 for one that is not in the arena. scratch: one an
    operator, 0 for one without, or whose group has its own.

    ModelContractError: an offset that no shift can say.
    """
    placed = [at for at in (*offsets, *scratch) if at >= 0]
    shift = SHIFT_LEAST
    while shift < SHIFT_MOST and any(at >> shift >= _NOWHERE for at in placed):
        shift += 1
    if any(at % (1 << shift) or at >> shift >= _NOWHERE for at in placed):
        raise ModelContractError(
            f"an arena of more than {max(placed)} bytes cannot be planned", "use a smaller model"
        )
    others = [t for t, at in enumerate(offsets) if at >= 0 and t != input_tensor]
    first, end = (others[0], others[-1] + 1) if others else (0, 0)
    places = [_NOWHERE if at < 0 else at >> shift for at in offsets[first:end]]
    places += [at >> shift for at in scratch]
    out = _HEAD.pack(VERSION, shift, offsets[input_tensor] >> shift, first, end - first)
    out += struct.pack(f"<{len(places)}H", *places)
    for group in groups:
        out += struct.pack("<HB", group.first, len(group.rules))
        for rule in group.rules:
            out += bytes((rule.step, rule.ahead, rule.ring))
    return out


def decode(
    payload: bytes, *, tensors: int, operators: int, input_tensor: int
) -> tuple[list[int], list[int], tuple[Group, ...]]:
    """(an offset a tensor, -1 for none; one of scratch an operator; the groups). ModelContractError: the
    entry is no plan for a model of so many tensors and operators. That the plan holds is for others to
    say."""

    def refuse(what: str) -> ModelContractError:
        return ModelContractError(f"the entry {KILOFED_PLAN} {what}", _AGAIN)

    if len(payload) < _HEAD.size:
        raise refuse("is cut off")
    version, shift, place, first, count = _HEAD.unpack_from(payload)
    if version != VERSION or not SHIFT_LEAST <= shift <= SHIFT_MOST or first + count > tensors:
        raise refuse("is of another version, or of another model")
    at = _HEAD.size + 2 * (count + operators)
    if len(payload) < at:
        raise refuse("is cut off")
    offsets = [-1] * tensors
    found = struct.unpack_from(f"<{count + operators}H", payload, _HEAD.size)
    offsets[first : first + count] = [-1 if one == _NOWHERE else one << shift for one in found[:count]]
    scratch = [one << shift for one in found[count:]]
    offsets[input_tensor] = -1 if place == _NOWHERE else place << shift
    groups = []
    while at < len(payload):
        if len(payload) < at + 3:
            raise refuse("is cut off")
        start, size = struct.unpack_from("<HB", payload, at)
        at += 3
        if len(payload) < at + 3 * size:
            raise refuse("is cut off")
        rules = tuple(Rule(*payload[at + 3 * i : at + 3 * i + 3]) for i in range(size))
        groups.append(Group(start, rules))
        at += 3 * size
    return offsets, scratch, tuple(groups)
