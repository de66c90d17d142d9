"""Rounds of two sizes over a line, with either language at its far end."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tests.chaos.line import KEY, CoreDevice, Far, Line, PythonDevice
from tests.chaos.pipe import Medium
from tests.chaos.wide import wide_model

from kilofed.link.blobs import blob_hash
from kilofed.link.messages import Multiplier, Train
from kilofed_tools import heads, trainer, updates

ROOT = Path(__file__).resolve().parents[2]
if (runners := str(ROOT / "tests" / "firmware" / "device")) not in sys.path:
    sys.path.insert(0, runners)

from device_runner import HERE, SANITIZE, Config, Device, Runner, build  # noqa: E402

SMALL, WIDE = "small", "wide"
SAMPLES = 10


def core() -> Runner:
    """The C core under the sanitizers."""
    return Runner(build("runner", [HERE / "runner.c"], flags=SANITIZE))


@cache
def model(size: str) -> bytes:
    """SMALL: digits, a head of 376 bytes. WIDE: one of 49 616."""
    return wide_model() if size == WIDE else (ROOT / "models" / "digits" / "digits.tflite").read_bytes()


@cache
def head(size: str) -> bytes:
    """A head blob for it, with random weights."""
    spec = heads.find_head(model(size))
    rng = np.random.default_rng(4)
    W = rng.integers(-40000, 40000, (spec.classes, spec.features)).astype(np.int32)
    b = rng.integers(-(2**20), 2**20, spec.classes).astype(np.int32)
    return heads.encode_head(heads.quantise(spec, W, b))


@cache
def samples(size: str) -> tuple[Any, Any]:
    """Features (n, F) int8 and labels (n)."""
    spec = heads.find_head(model(size))
    rng = np.random.default_rng(5)
    return (
        rng.integers(-128, 128, (SAMPLES, spec.features), np.int8),
        rng.integers(0, spec.classes, SAMPLES),
    )


def order(size: str, round: int = 1) -> Train:
    """One epoch of it, with an int8 update."""
    rates = trainer.lr_multipliers(0.1, heads.find_head(model(size)).ms)
    wire = [Multiplier(*rate) for rate in (rates.lr_w, rates.lr_b)]
    return Train(round, blob_hash(head(size)), 7, 1, 4, *wire, Multiplier(), codec=1)


@cache
def expected(size: str) -> bytes:
    """The update of a device that never trained before, from the reference in numpy."""
    asked, spec = order(size), heads.find_head(model(size))
    x, y = samples(size)
    base = heads.master(heads.decode_head(head(size)))
    learnt = trainer.split(SAMPLES, 5)[0]
    config = trainer.TrainConfig(
        asked.epochs,
        asked.batch,
        lr_w=trainer.Rate(asked.lr_weights.mantissa, asked.lr_weights.shift),
        lr_b=trainer.Rate(asked.lr_bias.mantissa, asked.lr_bias.shift),
        prox=trainer.Rate(asked.prox.mantissa, asked.prox.shift),
        seed=asked.seed,
    )
    features = x.astype(np.int64)[learnt] - spec.zp_x
    made = trainer.train(*base, features, y.astype(np.int64)[learnt], config, base=base)
    return updates.encode_update(made.W, made.b, *base, updates.Codec.INT8, None)[0]


Maker = Callable[[], tuple[Far, bytes]]
"""A new device, and the update it will have."""


def python_device(size: str, *, max_frame: int = 1024, window: int = 4096, seed: int = 0) -> Maker:
    """kilofed-pi's end of the link."""

    def make() -> tuple[Far, bytes]:
        spec = heads.find_head(model(size))
        far = PythonDevice(KEY, spec.classes, spec.features, max_frame=max_frame, window=window, seed=seed)
        return far, far.update

    return make


def core_device(
    runner: Runner, size: str, *, max_frame: int = 1024, window: int = 4096, seed: int = 1
) -> Maker:
    """The boards' end: the C core, which trains in earnest."""

    def make() -> tuple[Far, bytes]:
        config = Config(
            model=model(size), max_frame=max_frame, window=window, ring_slots=SAMPLES, key=KEY, seed=seed
        )
        device = Device(runner, config, now_ms=1_000_000)
        assert device.status == 0
        for row, label in zip(*samples(size), strict=True):
            assert device.observe_features(row, int(label)) == 0
        return CoreDevice(device), expected(size)

    return make


def play(
    maker: Maker,
    down: Medium,
    up: Medium,
    *,
    size: str,
    rounds: int = 1,
    seed: int = 0,
    seconds: float = 900.0,
) -> Line:
    """So many rounds with a new device. AssertionError when one does not end, or its update is another."""
    far, update = maker()
    line = Line(far, down, up, seed=seed)
    for number in range(1, rounds + 1):
        made = line.round(head(size), replace(order(size), round=number), seconds=seconds)
        if number == 1 or isinstance(far, PythonDevice):
            assert made == update
        else:
            assert made is not None and len(made) == len(update)
    return line


def serial(baud: int, *, turn_around: float = 0.016, **faults: float) -> tuple[Medium, Medium]:
    """A UART behind a USB adapter that always takes the whole of its turn-around: (down, up)."""
    down = Medium(baud=baud, delay=0.001, **faults)
    return down, Medium(baud=baud, delay=turn_around, **faults)


def any_medium(random: random.Random) -> Medium:
    """A line with a few faults, of a speed between 9600 baud and what has none."""
    rates = [random.choice([0.0, 0.0, 0.01, 0.05, 0.1]) for _ in range(5)]
    return Medium(
        random.choice([0, 9600, 115200, 921600]),
        random.choice([0.0, 0.002, 0.05, 0.3]),
        random.choice([0.0, 0.016]),
        *rates,
        flip=random.choice([0.0, 1e-5, 1e-4]),
    )
