"""What a device answered, looked at before it counts: nothing in it is believed.

Pure functions over values of the link; the engine drops the device when they raise, with their text as the
reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from kilofed.link.messages import Result
from kilofed_tools.errors import StrategyError
from kilofed_tools.strategies import FedAvg
from kilofed_tools.updates import decode_update

_LEAVE = "leave its contribution out and look at the device"


@dataclass(frozen=True)
class Checked:
    """An answer that counts.

    samples: after clamping to the ring. note: what was clamped, "" when nothing was.
    """

    samples: int
    held_out: int
    base_correct: int
    own_correct: int
    note: str = ""


def check_figures(name: str, result: Result, *, capacity: int) -> Checked:
    """The counts of a result, made consistent with the ring the device declared.

    Raises StrategyError with the device's name: no samples, or more right answers than there were questions.
    """
    if result.train < 1:
        raise StrategyError(f"{name} trained on no samples", "give it samples first", device=name)
    if result.held_out > capacity:
        raise StrategyError(
            f"{name} claims {result.held_out} held-out samples in a ring of {capacity}", _LEAVE, device=name
        )
    right = max(result.base_correct, result.own_correct)
    if right > result.held_out:
        raise StrategyError(f"{name} claims {right} right answers of {result.held_out}", _LEAVE, device=name)
    samples = min(result.train, capacity)
    note = (
        "" if samples == result.train else f"claims {result.train} samples, clamped to its ring of {samples}"
    )
    return Checked(samples, result.held_out, result.base_correct, result.own_correct, note)


def take_update(
    name: str,
    result: Result,
    update: bytes | None,
    average: FedAvg,
    *,
    shape: tuple[int, int],
    capacity: int,
    codec: int,
) -> Checked:
    """Checks a training answer and adds it to the round's average. shape: (C, F). codec: the number ordered.

    Raises StrategyError or UpdateError with the device's name, and then adds nothing.
    """
    classes, features = shape
    checked = check_figures(name, result, capacity=capacity)
    if update is None:
        raise StrategyError(f"{name} sent no update", _LEAVE, device=name)
    decoded = decode_update(update, classes, features, name)
    if update[2] != codec:
        raise StrategyError(f"{name} sent codec {update[2]}, {codec} was ordered", _LEAVE, device=name)
    average.add(decoded, checked.samples, ring=capacity)
    return checked
