"""Aggregation: what a host makes of a round's updates. Pure values, exact integers, no device and no clock.

FedAvg (McMahan et al. 2017, arXiv:1602.05629) averages the changes of the head, weighted by sample counts.
The sums are kept exactly in int64, so the order in which updates arrive, and how they were grouped in partial
sums, changes no bit of the result. Memory is one head, whatever the number of devices.

FedProx (Li et al. 2020, arXiv:1812.06127) needs nothing here: its proximal term is an option of the clients'
training (TrainConfig.prox). FedAvgM (Hsu et al. 2019, arXiv:1909.06335) is FedAvg with a ServerMomentum
behind it.

A strategy of one's own is an object with the one method of `Strategy`; FedAvgM here is one, and
tools/examples/median.py another. `Gathered` brings it a round's updates."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kilofed_tools.errors import StrategyError
from kilofed_tools.trainer import BIAS_MAX, MAX_CLASSES, MAX_FEATURES, WEIGHT_MAX
from kilofed_tools.updates import DELTA_B_MAX, DELTA_W_MAX, Update, decode_update

__all__ = [
    "TOTAL_WEIGHT_MAX",
    "Contribution",
    "FedAvg",
    "FedAvgM",
    "Gathered",
    "Mean",
    "ServerMomentum",
    "Strategy",
    "Update",
    "apply",
    "checked",
    "decode_update",
]

Ints = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]  # of any width
Head = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]

# |sum of weight * change| <= total * DELTA_B_MAX < 2^31 * (2^30 + 2^7) < 2^62, and twice that, for rounding,
# fits int64.
TOTAL_WEIGHT_MAX = 2**31 - 1
assert 2 * TOTAL_WEIGHT_MAX * max(DELTA_W_MAX, DELTA_B_MAX) + TOTAL_WEIGHT_MAX < 2**63


def _divide_rounded(v: Ints, d: int) -> Ints:
    """v / d, halves rounded up."""
    return (2 * v + d) // (2 * d)


@dataclass(frozen=True)
class Mean:
    """A round's average change. W int64 (C, F), b int64 (C,), the trainer's units, halves rounded up."""

    W: Ints
    b: Ints


@dataclass(frozen=True)
class Contribution:
    """What a device brings to a round. samples: trained on, from 1; clamped to the ring it declared."""

    update: Update
    samples: int


class Strategy(Protocol):
    """What a round makes of its updates: a pure function, so that a replay of a run gives the same bytes.

    contributions: at least one, sorted by device name, of one shape (C, F), every number within the bounds of
    kilofed_tools.updates. state: what the last round returned, b"" in the first; the run keeps it with the
    round. Any integers will do for the change: the master is saturated. Raise StrategyError when no change
    can be made of them, and the run ends with its text."""

    def combine(self, contributions: Sequence[Contribution], state: bytes) -> tuple[Mean, bytes]:
        """The change of the master, and the state for the next round."""
        ...


def apply(mean: Mean, master_W: Integers, master_b: Integers) -> Head:
    """The master after a change: int32 (W, b), saturated to the trainer's bounds. Raises StrategyError on
    shapes."""
    if master_W.shape != mean.W.shape or master_b.shape != mean.b.shape:
        raise StrategyError(
            f"a change of {mean.W.shape}, {mean.b.shape} for a master of {master_W.shape}, {master_b.shape}",
            "average updates of this run's model only",
        )
    W = np.clip(master_W.astype(np.int64) + mean.W, -WEIGHT_MAX, WEIGHT_MAX)
    b = np.clip(master_b.astype(np.int64) + mean.b, -BIAS_MAX, BIAS_MAX)
    return W.astype(np.int32), b.astype(np.int32)


class FedAvg:
    """The running weighted sum of one round's updates to a head of C classes and F features.

    Call add() once a device in any order, merge() for the partial sums of others, then mean() or finish().
    `notes` says, a line a device, what was changed on the way in."""

    def __init__(self, classes: int, features: int) -> None:
        if not (1 <= classes <= MAX_CLASSES and 1 <= features <= MAX_FEATURES):
            raise StrategyError(
                f"a head of {classes} x {features}",
                f"stay within {MAX_CLASSES} classes and {MAX_FEATURES} features",
            )
        self._W: Ints = np.zeros((classes, features), np.int64)
        self._b: Ints = np.zeros(classes, np.int64)
        self._total = 0
        self._names: set[str] = set()
        self._notes: list[str] = []

    @property
    def total_weight(self) -> int:
        """Sum of the weights so far."""
        return self._total

    @property
    def names(self) -> tuple[str, ...]:
        """Who has contributed, sorted."""
        return tuple(sorted(self._names))

    @property
    def notes(self) -> list[str]:
        """What was clamped, sorted by device so that the order of arrival does not show."""
        return sorted(self._notes)

    def add(self, update: Update, weight: int, ring: int | None = None) -> int:
        """Add a device's update with its sample count as the weight; returns the weight that was used.

        ring: the capacity the device declared; a larger count is clamped to it and noted. None: not limited.
        Raises StrategyError with the device's name, and adds nothing: a weight that is not an integer or
        below 1, another shape, a device that has contributed already, or a total beyond TOTAL_WEIGHT_MAX."""
        name = update.name
        used = self._weight(name, weight)
        if ring is not None and used > self._ring(name, ring):
            used = ring
        if update.W.shape != self._W.shape:
            raise StrategyError(
                f"update of {name}: shape {update.W.shape}, the round's is {self._W.shape}",
                "average updates of one model only",
                device=name,
            )
        if name in self._names:
            raise StrategyError(
                f"update of {name}: it has contributed already", "count every device once", device=name
            )
        self._grow(used, name)
        self._W += update.W.astype(np.int64) * used
        self._b += update.b.astype(np.int64) * used
        self._names.add(name)
        if used != weight:
            self._notes.append(f"{name}: claims {weight} samples, clamped to its ring of {used}")
        return used

    @staticmethod
    def _weight(name: str, weight: int) -> int:
        try:
            if isinstance(weight, (bool, np.bool_)):
                raise TypeError
            value = operator.index(weight)
        except TypeError:
            raise StrategyError(
                f"update of {name}: weight {weight!r} is not an integer",
                "weigh by a number of samples",
                device=name,
            ) from None
        if value < 1:
            raise StrategyError(
                f"update of {name}: weight {value}",
                "a device without samples has nothing to say: leave it out",
                device=name,
            )
        return value

    @staticmethod
    def _ring(name: str, ring: int) -> int:
        if ring < 1:
            raise StrategyError(
                f"update of {name}: its ring holds {ring} samples", "leave it out", device=name
            )
        return ring

    def _grow(self, weight: int, name: str) -> None:
        if self._total + weight > TOTAL_WEIGHT_MAX:
            raise StrategyError(
                f"update of {name}: the round's samples would pass {TOTAL_WEIGHT_MAX}",
                "end the round, or average smaller cohorts",
                device=name,
            )
        self._total += weight

    def merge(self, other: FedAvg) -> None:
        """Add another partial sum of the same round. Raises StrategyError, and adds nothing: another shape, a
        device in both, or too large a total."""
        if other._W.shape != self._W.shape:
            raise StrategyError(
                f"partial sums of shapes {self._W.shape} and {other._W.shape}", "merge sums of one model only"
            )
        twice = sorted(self._names & other._names)
        if twice:
            raise StrategyError(
                f"{twice[0]} is in both partial sums", "count every device once", device=twice[0]
            )
        self._grow(other._total, ", ".join(other.names))
        self._W += other._W
        self._b += other._b
        self._names |= other._names
        self._notes += other._notes

    def mean(self) -> Mean:
        """The average change. Raises StrategyError when nothing was added."""
        if self._total == 0:
            raise StrategyError(
                "an average of no updates", "keep the old head: nobody contributed to this round"
            )
        return Mean(_divide_rounded(self._W, self._total), _divide_rounded(self._b, self._total))

    def finish(self, master_W: Integers, master_b: Integers) -> Head:
        """The new master: the old one plus the average change. One update alone is added as it is."""
        return apply(self.mean(), master_W, master_b)


class ServerMomentum:
    """FedAvgM's velocity: v := beta * v + mean change; the master moves by v. Integers, beta in 2^-15.

    beta: 0 <= beta < 1; the paper uses 0.7 to 0.99. Call step() once a round; `velocity` is its state, to be
    stored with the run and given back to continue it."""

    def __init__(self, beta: float, velocity: Mean | None = None) -> None:
        if not 0 <= beta < 1:
            raise StrategyError(f"a server momentum of {beta}", "choose one from 0 (plain FedAvg) to below 1")
        self._beta = round(beta * 32768)
        self.velocity = velocity

    def step(self, mean: Mean) -> Mean:
        """The change to apply() this round."""
        if self.velocity is None:
            self.velocity = mean
            return mean
        if self.velocity.W.shape != mean.W.shape:
            raise StrategyError(
                f"a velocity of {self.velocity.W.shape} for a change of {mean.W.shape}",
                "start the momentum anew",
            )
        # |v| <= 2^31 / (1 - beta) <= 2^46: the product stays below 2^62.
        self.velocity = Mean(
            ((self.velocity.W * self._beta + 16384) >> 15) + mean.W,
            ((self.velocity.b * self._beta + 16384) >> 15) + mean.b,
        )
        return self.velocity


class FedAvgM:
    """FedAvg with a server momentum, as a Strategy. Its state is the velocity: W, b, int64 little endian.

    beta: as ServerMomentum's; a velocity of equal changes grows to 1 / (1 - beta) of one."""

    def __init__(self, beta: float = 0.7) -> None:
        self.beta = beta
        ServerMomentum(beta)

    def combine(self, contributions: Sequence[Contribution], state: bytes) -> tuple[Mean, bytes]:
        """See Strategy."""
        classes, features = contributions[0].update.W.shape
        average = FedAvg(classes, features)
        for part in contributions:
            average.add(part.update, part.samples)
        momentum = ServerMomentum(self.beta, self._velocity(state, classes, features))
        change = momentum.step(average.mean())
        return change, change.W.astype("<i8").tobytes() + change.b.astype("<i8").tobytes()

    @staticmethod
    def _velocity(state: bytes, classes: int, features: int) -> Mean | None:
        if not state:
            return None
        if len(state) != 8 * classes * (features + 1):
            raise StrategyError(
                f"a velocity of {len(state)} bytes for a head of {classes} x {features}",
                "start the momentum anew, in another run",
            )
        values = np.frombuffer(state, "<i8").astype(np.int64)
        return Mean(values[: classes * features].reshape(classes, features), values[classes * features :])


class Gathered(FedAvg):
    """One round's updates for a Strategy, which wants them all at once: kept, C * F * 4 bytes a device.

    What add() takes and refuses is FedAvg's. strategy, name: what combines them, and what to call it. state:
    after the last round; mean() moves it on."""

    def __init__(self, classes: int, features: int, strategy: Strategy, name: str, state: bytes) -> None:
        super().__init__(classes, features)
        self._strategy = strategy
        self._name = name
        self.state = state
        self._parts: list[Contribution] = []

    def add(self, update: Update, weight: int, ring: int | None = None) -> int:
        """See FedAvg."""
        used = super().add(update, weight, ring)
        self._parts.append(Contribution(update, used))
        return used

    def merge(self, other: FedAvg) -> None:
        """See FedAvg. StrategyError for sums of which the parts are not known."""
        if not isinstance(other, Gathered):
            raise StrategyError("a sum has lost the updates it was made of", "merge what was gathered")
        super().merge(other)
        self._parts += other._parts

    def mean(self) -> Mean:
        """The strategy's change, checked. StrategyError: nothing was added, or the strategy failed."""
        super().mean()
        parts = sorted(self._parts, key=lambda part: part.update.name)
        change, self.state = checked(self._strategy, self._name, parts, self.state)
        return change


def checked(
    strategy: Strategy, name: str, contributions: Sequence[Contribution], state: bytes
) -> tuple[Mean, bytes]:
    """What a strategy makes of contributions (at least one), looked at before it counts.

    StrategyError, with its name: it raises something, or what it returns is no change of that shape."""
    try:
        made = strategy.combine(contributions, state)
    except StrategyError:
        raise
    except Exception as error:
        raise StrategyError(
            f"the strategy {name} failed ({type(error).__name__}: {error})",
            "correct it; --debug shows where it happened",
        ) from error
    shape = contributions[0].update.W.shape
    wanted = f"return (Mean, bytes): W {shape} and b ({shape[0]},), integers, and the state"
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], bytes)):
        raise StrategyError(f"the strategy {name} returned {type(made).__name__}", wanted)
    change = made[0]
    W, b = np.asarray(getattr(change, "W", None)), np.asarray(getattr(change, "b", None))
    if W.shape != shape or b.shape != shape[:1]:
        raise StrategyError(f"the strategy {name} returned a change of {W.shape}, {b.shape}", wanted)
    if not all(np.issubdtype(a.dtype, np.integer) and np.can_cast(a.dtype, np.int64) for a in (W, b)):
        raise StrategyError(f"the strategy {name} returned a change of {W.dtype}, {b.dtype}", wanted)
    # The master stays within 2^30 and is saturated there, so no change beyond 2^32 differs from one of 2^32.
    bound = 2**32
    return Mean(np.clip(W.astype(np.int64), -bound, bound), np.clip(b.astype(np.int64), -bound, bound)), made[
        1
    ]
