"""What federation has to be compared with: each device alone, and all data in one place.

A laboratory's extra: it needs the samples of every device, which a real host never sees. Where the samples
were placed by us (emulated boards, native processes) we have them; nothing here talks to a device.

Both start from the model's own head, train as many epochs as the run's rounds together with the same integer
trainer, and are scored as the int8 head that would be exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilofed.rounds.config import RunConfig, device_seed
from kilofed.samples import Samples
from kilofed_tools import evaluate, heads, trainer
from kilofed_tools.errors import DataError


@dataclass(frozen=True)
class Scores:
    """Accuracies, 0..1.

    test: on the laboratory's test set. held_out: on the devices' own held-out samples, pooled.
    """

    test: float | None
    held_out: float | None

    def as_json(self) -> dict[str, float | None]:
        """Plain values."""
        return {"test": self.test, "held_out": self.held_out}


@dataclass(frozen=True)
class Baselines:
    """alone.

    The mean over devices (test), pooled over devices (held_out). each: alone, a device. central: all data.
    """

    alone: Scores
    each: dict[str, Scores]
    central: Scores

    def as_json(self) -> dict[str, object]:
        """Plain values, as the store keeps them."""
        return {
            "alone": self.alone.as_json(),
            "each": {name: scores.as_json() for name, scores in self.each.items()},
            "central": self.central.as_json(),
        }


@dataclass(frozen=True, eq=False)
class _Place:
    """Features of one place: int8 [N, F], integers x = q - zero point, labels."""

    train_x: NDArray[np.int64]
    train_y: NDArray[np.int64]
    held_rows: NDArray[np.int8]
    held_y: NDArray[np.int64]


def compute_baselines(
    model: bytes,
    shards: Mapping[str, Samples],
    config: RunConfig,
    *,
    test: Samples | None = None,
    holdout: int = trainer.HOLDOUT_DEFAULT,
) -> Baselines:
    """Trains and scores both. shards: device name -> its samples in slot order, none overwritten.

    Takes about a second for 2000 samples and 20 epochs. DataError when there are no shards or one is empty.
    """
    if not shards or any(len(shard) == 0 for shard in shards.values()):
        raise DataError("a device has no samples", "give every device of the laboratory some")
    spec = heads.find_head(model)
    start = heads.master(heads.read_head(model))
    places = {name: _place(model, spec, shard, holdout) for name, shard in sorted(shards.items())}
    test_rows = None if test is None else evaluate.features(model, test.inputs)
    held_rows = np.concatenate([p.held_rows for p in places.values()])
    held_y = np.concatenate([p.held_y for p in places.values()])

    def scores(head: heads.Head, rows: NDArray[np.int8], labels: NDArray[np.int64]) -> Scores:
        on_test = None
        if test is not None and test_rows is not None:
            on_test = evaluate.head_accuracy(head, test_rows, test.labels, spec)
        return Scores(on_test, evaluate.head_accuracy(head, rows, labels, spec) if len(labels) else None)

    each, right = {}, 0.0
    for name, place in places.items():
        head = _train(spec, start, place.train_x, place.train_y, config, name.encode())
        each[name] = scores(head, place.held_rows, place.held_y)
        right += (each[name].held_out or 0.0) * len(place.held_y)
    alone = Scores(
        None if test is None else sum(s.test or 0.0 for s in each.values()) / len(each),
        right / len(held_y) if len(held_y) else None,
    )
    everything = _train(
        spec,
        start,
        np.concatenate([p.train_x for p in places.values()]),
        np.concatenate([p.train_y for p in places.values()]),
        config,
        b"central",
    )
    return Baselines(alone, each, scores(everything, held_rows, held_y))


def _place(model: bytes, spec: heads.HeadSpec, shard: Samples, holdout: int) -> _Place:
    rows = evaluate.features(model, shard.inputs)
    labels = shard.labels.astype(np.int64)
    train, held = trainer.split(len(labels), holdout)
    return _Place(rows[train].astype(np.int64) - spec.zp_x, labels[train], rows[held], labels[held])


def _train(
    spec: heads.HeadSpec,
    start: tuple[NDArray[np.int32], NDArray[np.int32]],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    config: RunConfig,
    who: bytes,
) -> heads.Head:
    weights, bias = start
    rates = trainer.lr_multipliers(config.lr, spec.ms)
    for number in range(1, config.rounds + 1):
        settings = trainer.TrainConfig(
            epochs=config.epochs,
            batch=config.batch,
            lr_w=rates.lr_w,
            lr_b=rates.lr_b,
            seed=device_seed(config.seed, number, who),
        )
        result = trainer.train(weights, bias, x, y, settings)
        weights, bias = result.W, result.b
    return heads.quantise(spec, weights, bias)
