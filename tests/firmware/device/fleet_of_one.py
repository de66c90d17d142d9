"""What the tests of a round share: samples, orders, heads, and what the reference makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from device_runner import DIGITS, Device

from kilofed.link.messages import Multiplier, Train
from kilofed_tools import heads, trainer, updates

C, F, HOLDOUT = 10, 32, 5
MODEL = DIGITS.read_bytes()
SPEC = heads.find_head(MODEL)


@dataclass(frozen=True)
class Samples:
    """Features [n, F] int8 and labels [n], in the order of their ring slots."""

    q: npt.NDArray[np.int8]
    y: npt.NDArray[np.int64]

    @property
    def x(self) -> npt.NDArray[np.int64]:
        return self.q.astype(np.int64) - SPEC.zp_x

    def give(self, device: Device) -> None:
        for row, label in zip(self.q, self.y, strict=True):
            assert device.observe_features(row, int(label)) == 0


def make_samples(n: int = 60, *, seed: int = 5) -> Samples:
    """Features that cluster by class, so that training has something to find."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-128, 60, (C, F))
    y = rng.integers(0, C, n)
    q = np.clip(centres[y] + rng.integers(-40, 40, (n, F)), -128, 127).astype(np.int8)
    return Samples(q, y.astype(np.int64))


def make_head(seed: int | None = None) -> heads.Head:
    """A head: the zero one, or a random one."""
    rng = np.random.default_rng(seed)
    W = np.zeros((C, F), np.int32)
    b = np.zeros(C, np.int32)
    if seed is not None:
        W = rng.integers(-40000, 40000, (C, F)).astype(np.int32)
        b = rng.integers(-(2**20), 2**20, C).astype(np.int32)
    return heads.quantise(SPEC, W, b)


def make_order(head: bytes, *, round: int = 1, **changes: object) -> Train:
    """An order to train from a head blob."""
    rates = trainer.lr_multipliers(0.1, SPEC.ms)
    fields: dict[str, object] = {
        "round": round, "head": heads.head_hash(head), "seed": 77 + round & 0xFFFFFFFF,
        "epochs": 3, "batch": 16, "codec": 1,
        "lr_weights": Multiplier(*rates.lr_w), "lr_bias": Multiplier(*rates.lr_b), "prox": Multiplier(),
    }  # fmt: skip
    return Train(**(fields | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Expected:
    """What the reference makes of an order."""

    W: npt.NDArray[np.int32]
    b: npt.NDArray[np.int32]
    blob: bytes
    residual: updates.Residual
    loss_q12: int
    peak_q12: int
    base_correct: int
    own_correct: int
    train: int
    held_out: int


def expected(
    samples: Samples, head: heads.Head, order: Train, residual: updates.Residual | None = None
) -> Expected:
    """The same round in numpy."""
    W0, b0 = heads.master(head)
    slots, held = trainer.split(len(samples.y), HOLDOUT)
    config = trainer.TrainConfig(
        epochs=order.epochs,
        batch=order.batch,
        lr_w=trainer.Rate(order.lr_weights.mantissa, order.lr_weights.shift),
        lr_b=trainer.Rate(order.lr_bias.mantissa, order.lr_bias.shift),
        prox=trainer.Rate(order.prox.mantissa, order.prox.shift),
        seed=order.seed,
    )
    x, y = samples.x, samples.y
    made = trainer.train(W0, b0, x[slots], y[slots], config, base=(W0, b0))
    blob, left = updates.encode_update(made.W, made.b, W0, b0, updates.Codec(order.codec), residual)
    return Expected(
        made.W, made.b, blob, left, made.loss_q12, made.peak_q12,
        trainer.evaluate(W0, b0, x[held], y[held]), trainer.evaluate(made.W, made.b, x[held], y[held]),
        len(slots), len(held),
    )  # fmt: skip


def residual_bytes(residual: updates.Residual) -> bytes:
    """As it lies in the device's memory."""
    return residual.b.astype("<i4").tobytes() + residual.W.astype("<i2").tobytes()
