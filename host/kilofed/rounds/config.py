"""What a run is to do: plain numbers, checked once, kept in the run's folder as JSON.

A run is resumed with the numbers it was started with; only `rounds` may grow, and the deadlines may change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kilofed.errors import ConfigError
from kilofed.rounds.strategy import FEDAVG, check_name

#: Names of the update codecs, in the order of their numbers on the wire.
CODECS = ("int32", "int8", "int4", "ternary")

#: What may differ when a run is resumed: none of it changes a byte of a round that has begun.
CHANGEABLE = frozenset({"rounds", "deadlines", "personal_epochs"})


@dataclass(frozen=True)
class Deadlines:
    """Every wait of the engine, in seconds: no wait is endless.

    gather    for the devices of the fleet to open their sessions and hold samples, before the first round
    head      for one device to take the head of a round
    round     from the start of a round to its end by deadline
    rejoin    for a device that lost its session in a round to come back; then the round goes on without it
    goodbye   for the last messages to leave when a run ends
    """

    gather: float = 60.0
    head: float = 30.0
    round: float = 180.0
    rejoin: float = 20.0
    goodbye: float = 2.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"the deadline {name} is {value}",
                    "give it seconds above zero",
                    setting=f"deadlines.{name}",
                )


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run.

    rounds            federated rounds, 1 to 1000000
    epochs            local epochs a round, 1 to 255
    batch             samples a step, 1 to 256
    lr                learning rate for features at unit RMS, 0 < lr <= 8
    prox              proximal term mu of FedProx, 0 (off) to 1
    codec             of the updates: int32, int8, int4 or ternary
    strategy          what averages the updates: "fedavg" or "module:factory" (kilofed.rounds.strategy)
    fraction          of the devices present that a round asks, 0 < fraction <= 1; at least one is asked
    quorum            of the cohort whose updates end the round at once, 0 < quorum <= 1
    patience          rounds in a row without one usable update after which the run gives up, 1 to 100
    personal_epochs   epochs each device trains its personal head after the last round, 0 (skip) to 255
    seed              of everything random in the run, 0 to 2^32 - 1
    """

    rounds: int = 20
    epochs: int = 1
    batch: int = 16
    lr: float = 0.1
    prox: float = 0.0
    codec: str = "int8"
    strategy: str = FEDAVG
    fraction: float = 1.0
    quorum: float = 1.0
    patience: int = 3
    personal_epochs: int = 5
    seed: int = 1
    deadlines: Deadlines = field(default_factory=Deadlines)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rounds", 1, 1_000_000),
            ("epochs", 1, 255),
            ("batch", 1, 256),
            ("patience", 1, 100),
            ("personal_epochs", 0, 255),
            ("seed", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(
                    f"{name} is {value!r}", f"give a whole number from {low} to {high}", setting=name
                )
        for name, top in (("lr", 8.0), ("fraction", 1.0), ("quorum", 1.0)):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 < value <= top):
                raise ConfigError(
                    f"{name} is {value!r}", f"give a number above 0, up to {top:g}", setting=name
                )
        if not (isinstance(self.prox, (int, float)) and 0 <= self.prox <= 1):
            raise ConfigError(f"prox is {self.prox!r}", "give a number from 0 to 1", setting="prox")
        if self.codec not in CODECS:
            raise ConfigError(
                f"codec is {self.codec!r}", f"choose one of {', '.join(CODECS)}", setting="codec"
            )
        check_name(self.strategy)

    @property
    def codec_number(self) -> int:
        """The codec as it is written on the wire, 0 to 3."""
        return CODECS.index(self.codec)

    def as_json(self) -> dict[str, Any]:
        """Plain values, as stored in the run folder."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunConfig:
        """The inverse of `as_json`. ConfigError for a name that is not a setting."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"{unknown[0]} is no setting of this version",
                "use the version that wrote the run",
                setting=unknown[0],
            )
        rest = dict(values)
        deadlines = rest.pop("deadlines", {})
        return cls(deadlines=Deadlines(**deadlines), **rest)

    def difference(self, other: RunConfig) -> list[str]:
        """Names of the settings that differ and must not when a run is resumed."""
        return [
            f.name
            for f in dataclasses.fields(self)
            if f.name not in CHANGEABLE and getattr(self, f.name) != getattr(other, f.name)
        ]


def device_seed(run_seed: int, round_number: int, device_id: bytes) -> int:
    """The seed of one device's training in one round, u32, never 0.

    BLAKE2b of the three, so that devices shuffle differently and a resumed run as the first attempt did.
    """
    text = b"kilofed seed" + run_seed.to_bytes(8, "little") + round_number.to_bytes(8, "little") + device_id
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little") or 1


def cohort_order(run_seed: int, round_number: int, device_ids: list[bytes]) -> list[bytes]:
    """The devices in the order in which the round prefers them: shuffled by the seed, not by arrival."""
    return sorted(
        device_ids,
        key=lambda device_id: hashlib.blake2b(
            b"kilofed cohort"
            + run_seed.to_bytes(8, "little")
            + round_number.to_bytes(8, "little")
            + device_id,
            digest_size=8,
        ).digest(),
    )
