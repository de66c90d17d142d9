"""The demo's federation without boards: its partition of the digits, the integer trainer, the real codecs.

Every device starts from the int8 head of the round, trains, and sends an update whose residual it keeps; the
host takes the exact average. That is what boards do, byte for byte, so that accuracies are theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilofed.demo import CONFIG, make_fleet
from kilofed.rounds.config import device_seed
from kilofed.rounds.globalmodel import GlobalModel
from kilofed.samples import digits_pool
from kilofed_tools import evaluate, heads, trainer, updates
from kilofed_tools.updates import Codec


@dataclass(frozen=True, eq=False)
class Place:
    """A device. x: int64 [N, F], training features less their zero point; y: int64 [N]; id: 8 bytes."""

    name: str
    id: bytes
    x: NDArray[np.int64]
    y: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Round:
    """One round: the head blob that went down, the update blob of each device, and the int8 head after it."""

    head: bytes
    updates: dict[str, bytes]
    after: heads.Head


def places(model: bytes) -> list[Place]:
    """The demo's devices and their training features, computed by the reference kernels."""
    zero = heads.find_head(model).zp_x
    made = []
    for place in make_fleet(digits_pool(), native=True, seed=CONFIG.seed):
        train, _ = trainer.split(len(place.samples))
        rows = evaluate.features(model, place.samples.inputs[train]).astype(np.int64)
        id = hashlib.blake2b(place.name.encode(), digest_size=8).digest()
        made.append(Place(place.name, id, rows - zero, place.samples.labels[train].astype(np.int64)))
    return made


def run(model: bytes, fleet: list[Place], codec: Codec, count: int = CONFIG.rounds) -> Iterator[Round]:
    """`count` rounds with the demo's settings and a codec for the updates."""
    now = GlobalModel(model)
    rates = trainer.lr_multipliers(CONFIG.lr, now.spec.ms, CONFIG.prox)
    residuals: dict[str, updates.Residual] = {}
    for number in range(1, count + 1):
        head = now.head_blob()
        base = heads.master(heads.decode_head(head))
        average, sent = now.average(), {}
        for place in fleet:
            settings = trainer.TrainConfig(
                CONFIG.epochs, CONFIG.batch, *rates, seed=device_seed(CONFIG.seed, number, place.id)
            )
            trained = trainer.train(*base, place.x, place.y, settings, base=base)
            blob, residuals[place.name] = updates.encode_update(
                trained.W, trained.b, *base, codec, residuals.get(place.name)
            )
            update = updates.decode_update(blob, now.classes, now.features, place.name)
            average.add(update, trained.samples)
            sent[place.name] = blob
        now.apply(average)
        yield Round(head, sent, now.head)
