"""The integer-only trainer of the head in numpy: the same bytes as firmware/src/train.

Minibatch SGD on softmax cross-entropy (optionally with the proximal term of FedProx, Li et al. 2020,
arXiv:1812.06127) over a head of C classes and F features. ``firmware/TRAINING.md`` defines every rounding;
the names below follow it.

    x   features minus their zero point, integers in -255..255, shape (N, F)
    y   labels, integers below C, shape (N,)
    W   weights, shape (C, F), units of 2^-20/s_x, |W| <= WEIGHT_MAX
    b   biases, shape (C,), units of 2^-20, |b| <= BIAS_MAX
    z   logits, units of 2^-12;  p, errors in 2^-15;  losses in 2^-12 nats

Matrix products run in float64, which is exact here: all products and sums are integers below 2^53. No device,
no clock."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kilofed_tools.errors import TrainError

__all__ = [
    "BIAS_MAX",
    "MAX_BATCH",
    "MAX_CLASSES",
    "MAX_FEATURES",
    "NO_RATE",
    "RATE_SHIFT_MAX",
    "WEIGHT_MAX",
    "Rate",
    "Rates",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "logits",
    "lr_multipliers",
    "params_bytes",
    "rate_of",
    "residual_bytes",
    "ring_bytes",
    "shuffles",
    "softmax_errors",
    "split",
    "train",
    "train_bytes",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]  # of any width

MAX_CLASSES = 1024
MAX_FEATURES = 2048
MAX_BATCH = 256
WEIGHT_MAX = (1 << 23) - 129
BIAS_MAX = 1 << 30
RATE_SHIFT_MAX = 38
LOSS_MAX = 65535
MAX_SAMPLES = 65535
HOLDOUT_DEFAULT = 5

# round(2^15 * 2^(-i/32)), i = 0..32
_EXP2: Ints = np.round(32768 * 2.0 ** (-np.arange(33) / 32)).astype(np.int64)


# ---- rates and configuration


class Rate(NamedTuple):
    """The factor mantissa * 2^-shift: mantissa in [2^14, 2^15), shift in 1..38; mantissa 0 is the factor
    0."""

    mantissa: int
    shift: int

    @property
    def value(self) -> float:
        return math.ldexp(self.mantissa, -self.shift)

    def check(self, name: str) -> None:
        """Raise TrainError unless the fields are in range; ``name`` says which rate it was."""
        in_range = 1 << 14 <= self.mantissa < 1 << 15 and 1 <= self.shift <= RATE_SHIFT_MAX
        if self.mantissa != 0 and not in_range:
            raise TrainError(
                f"{name} has mantissa {self.mantissa} and shift {self.shift}, outside "
                f"[2^14, 2^15) and 1..{RATE_SHIFT_MAX}",
                "make rates with lr_multipliers()",
            )


NO_RATE = Rate(0, 0)


def rate_of(value: float, name: str = "rate") -> Rate:
    """The Rate nearest to ``value``, rounded half up; 0.0 gives NO_RATE.

    Raises TrainError when the value is negative, not finite, or out of range (about 6e-8 to 16383).
    """
    if value == 0:
        return NO_RATE
    if not (math.isfinite(value) and value > 0):
        raise TrainError(f"{name} is {value}", "give a positive number, or 0 to switch it off")
    fraction, exponent = math.frexp(value)  # fraction in [0.5, 1)
    mantissa, shift = math.floor(fraction * 32768 + 0.5), 15 - exponent
    if mantissa == 1 << 15:
        mantissa, shift = 1 << 14, shift - 1
    if not 1 <= shift <= RATE_SHIFT_MAX:
        low, high = math.ldexp(1, 14 - RATE_SHIFT_MAX), math.ldexp(1, 14)
        raise TrainError(
            f"{name} would need the factor {value:.3g}, outside {low:.2g}..{high:.0f}",
            "choose a larger learning rate" if value < 1 else "choose a smaller learning rate",
        )
    return Rate(mantissa, shift)


class Rates(NamedTuple):
    """The three factors of a training: of the weights' gradient, of the biases', and of the proximal term."""

    lr_w: Rate
    lr_b: Rate
    prox: Rate


def lr_multipliers(lr: float, ms_q8: int, prox_mu: float = 0.0) -> Rates:
    """The device's factors for learning rate ``lr``.

    lr: of SGD, for features at unit root mean square. ms_q8: mean square of the integer features x in 2^-8
    (the model's ``ms``, at least 1). prox_mu: mu of FedProx at the same normalisation, 0: none.

    A weight's unit is 2^-20/s_x, its gradient sum(error * x) is in 2^-15: lr / mean square * 2^20 * 2^-15 per
    sample, and the same without the mean square for a bias. The batch's size is divided out on the device.
    Raises TrainError when a factor leaves the trainer's range."""
    if ms_q8 < 1:
        raise TrainError(
            f"the mean square of the features is {ms_q8}",
            "convert the model again: its calibration data is all zero",
        )
    return Rates(
        rate_of(lr * 32 * 256 / ms_q8, f"learning rate {lr}: the weights' factor"),
        rate_of(lr * 32, f"learning rate {lr}: the biases' factor"),
        rate_of(lr * prox_mu, f"learning rate {lr} with proximal mu {prox_mu}: the proximal factor"),
    )


@dataclass(frozen=True)
class TrainConfig:
    """What a device is told for one training.

    epochs: 1..255. batch: 1..256. lr_w, lr_b, prox: factors from lr_multipliers. seed: of the shuffle, 32
    bits. Raises TrainError when something is out of range."""

    epochs: int
    batch: int
    lr_w: Rate
    lr_b: Rate
    prox: Rate = NO_RATE
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("epochs", self.epochs, 1, 255),
            ("batch", self.batch, 1, MAX_BATCH),
            ("seed", self.seed, 0, 2**32 - 1),
        ):
            if not low <= value <= high:
                raise TrainError(f"{name} is {value}", f"choose {name} in {low}..{high}")
        for name in ("lr_w", "lr_b", "prox"):
            rate = Rate(*getattr(self, name))  # plain pairs are welcome
            rate.check(name)
            object.__setattr__(self, name, rate)


# ---- single numbers


def _scale(v: Ints, rate: Rate) -> Ints:
    """v * rate, rounded half up. |v| <= 2^31, so everything stays below 2^47."""
    return (v * rate.mantissa + (1 << (rate.shift - 1))) >> rate.shift


def _divide_rate(rate: Rate, n: int) -> Rate:
    """rate / n, 1 <= n <= 256, normalised again."""
    if rate.mantissa == 0:
        return rate
    k = 0
    while rate.mantissa << k < n << 14:
        k += 1
    mantissa = ((rate.mantissa << k) + n // 2) // n
    if mantissa == 1 << 15:
        mantissa, k = 1 << 14, k - 1
    return Rate(mantissa, rate.shift + k)


def _seed_state(seed: int) -> int:
    s = (seed + 0x9E3779B9) & 0xFFFFFFFF
    s = ((s ^ s >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    s = ((s ^ s >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    s ^= s >> 16
    return s or 0x9E3779B9


def shuffles(n: int, seed: int) -> Iterator[list[int]]:
    """The orders of a training's epochs, without end: each a shuffle of the one before, the first of 0..n-1.

    The list that is yielded is reused.
    """
    state = _seed_state(seed)
    order = list(range(n))
    while True:
        for i in range(n - 1, 0, -1):
            state ^= (state << 13) & 0xFFFFFFFF
            state ^= state >> 17
            state ^= (state << 5) & 0xFFFFFFFF
            j = ((state >> 16) * (i + 1)) >> 16
            order[i], order[j] = order[j], order[i]
        yield order


# ---- forward


def _exp_q15(d: Ints) -> Ints:
    """2^15 * exp(-d / 4096) for d in 0..65535."""
    u = (d * 23637 + 1024) >> 11
    n, i, r = u >> 15, u >> 10 & 31, u & 1023
    v = _EXP2[i] - (((_EXP2[i] - _EXP2[i + 1]) * r + 512) >> 10)
    e: Ints = (v + ((np.int64(1) << n) >> 1)) >> n
    return e


def _excess(total: Ints) -> Ints:
    """How far each total, 2^15 <= total < 2^26, must be shifted right to lie in [2^15, 2^16)."""
    _, exponent = np.frexp(total.astype(np.float64))
    return exponent.astype(np.int64) - 16


def _ln_q12(total: Ints) -> Ints:
    """ln(total / 2^15) in 2^-12."""
    n = _excess(total)
    m, log2_q12 = total >> n, n
    for _ in range(12):
        m = m * m >> 15
        over = m >> 16
        m >>= over
        log2_q12 = log2_q12 << 1 | over
    return (log2_q12 * 45426 + 32768) >> 16


def softmax_errors(z: Ints, y: Integers) -> tuple[Ints, Ints, Ints]:
    """Errors p - (c == y) of logits (N, C) in 2^-15, and what the losses are made of.

    Returns (errors (N, C), d_y (N,), total (N,)); losses(d_y, total) gives the losses.
    """
    rows = np.arange(len(z))
    d = np.minimum(z.max(axis=1, keepdims=True) - z, 65535)
    e = _exp_q15(d)
    total = e.sum(axis=1)
    n = _excess(total)
    s = (total + ((np.int64(1) << n) >> 1)) >> n
    reciprocal = ((1 << 31) + s // 2) // s
    p = (e * reciprocal[:, None] + (np.int64(1) << (15 + n))[:, None]) >> (16 + n)[:, None]
    p[rows, y] -= 32768
    return np.minimum(p, 32767), d[rows, y], total


def _losses(d_y: Ints, total: Ints) -> Ints:
    return np.minimum(d_y + _ln_q12(total), LOSS_MAX)


def _weight_shift(W: Ints) -> int:
    """The smallest k, 0..8, for which every weight rounded to 2^k units is at most 32767."""
    largest, k = int(np.abs(W).max()), 0
    while (largest + ((1 << k) >> 1)) >> k > 32767:
        k += 1
    return k


def _round_shift(v: Ints, k: int) -> Ints:
    """v / 2^k, halves rounded up."""
    return (v + ((1 << k) >> 1)) >> k


def _forward(W: Ints, b: Ints, x: Floats) -> Ints:
    k = _weight_shift(W)
    dot = (x @ _round_shift(W, k).astype(np.float64).T).astype(np.int64)
    z = _round_shift(dot + _round_shift(b, k), 8 - k)
    return np.clip(z, -(2**31), 2**31 - 1)


def _check_shapes(W: Integers, b: Integers, x: Integers) -> None:
    classes, features = W.shape if W.ndim == 2 else (0, 0)
    if not (1 <= classes <= MAX_CLASSES and 1 <= features <= MAX_FEATURES and b.shape == (classes,)):
        raise TrainError(
            f"weights {W.shape} and biases {b.shape} are no head",
            f"give (C, F) and (C,) with C <= {MAX_CLASSES} and F <= {MAX_FEATURES}",
        )
    if np.abs(W).max() > WEIGHT_MAX or np.abs(b).max() > BIAS_MAX:
        raise TrainError(
            "weights or biases are out of range", "saturate them to WEIGHT_MAX and BIAS_MAX first"
        )
    if x.ndim != 2 or x.shape[1] != features:
        raise TrainError(
            f"features {x.shape} do not fit a head of {features}", f"give features of shape (N, {features})"
        )
    if not np.issubdtype(x.dtype, np.integer) or (x.size and np.abs(x.astype(np.int64)).max() > 255):
        raise TrainError(
            "features are not integers in -255..255", "give the int8 features minus their zero point"
        )


def logits(W: Integers, b: Integers, x: Integers) -> Ints:
    """Logits (N, C) in 2^-12 of features x (N, F), saturated to int32. Raises TrainError on shapes and
    ranges."""
    _check_shapes(W, b, x)
    return _forward(W.astype(np.int64), b.astype(np.int64), x.astype(np.float64))


def evaluate(W: Integers, b: Integers, x: Integers, y: Integers) -> int:
    """How many samples the head answers right; on a tie the lowest class is the answer. Raises TrainError."""
    _check_labels(y, len(x), W.shape[0])
    return int((logits(W, b, x).argmax(axis=1) == y).sum()) if len(x) else 0


# ---- training


def _check_labels(y: Integers, samples: int, classes: int) -> None:
    if y.shape != (samples,) or not np.issubdtype(y.dtype, np.integer):
        raise TrainError(
            f"labels of shape {y.shape} for {samples} samples", "give one integer label a sample"
        )
    if samples and (y.min() < 0 or y.max() >= classes):
        raise TrainError(
            f"labels reach {int(y.min())}..{int(y.max())} in a head of {classes} classes",
            "drop them or extend the head",
        )


@dataclass(frozen=True)
class TrainResult:
    """A trained head. W int32 (C, F), b int32 (C,).

    loss_q12: mean loss of the last epoch in 2^-12 nats, each sample's capped at 65535. peak_q12: the largest
    |logit| of that epoch. samples: how many were trained on, the weight of this update in an average."""

    W: npt.NDArray[np.int32]
    b: npt.NDArray[np.int32]
    loss_q12: int
    peak_q12: int
    samples: int


class Progress(NamedTuple):
    """How far a training is. done, total: samples over all epochs. loss_q12: of the last finished epoch,
    LOSS_MAX before there is one."""

    done: int
    total: int
    loss_q12: int


def train(
    W: Integers,
    b: Integers,
    x: Integers,
    y: Integers,
    config: TrainConfig,
    base: tuple[Integers, Integers] | None = None,
) -> TrainResult:
    """Train the head (W, b) on samples (x, y) given in the order of their ring slots; the inputs are not
    changed.

    base: the received head (W, b) in the trainer's units, needed when config.prox is not 0.
    Raises TrainError on shapes and ranges, and when there is no sample.
    """
    steps = train_steps(W, b, x, y, config, base)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: TrainResult = stop.value
            return result


def train_steps(
    W: Integers,
    b: Integers,
    x: Integers,
    y: Integers,
    config: TrainConfig,
    base: tuple[Integers, Integers] | None = None,
) -> Generator[Progress, None, TrainResult]:
    """`train` cut after every batch, for callers that have something else to do in between: yields where it
    is, returns the result (as StopIteration's value). Errors are raised at the first step."""
    _check_shapes(W, b, x)
    _check_labels(y, len(x), len(W))
    if not 1 <= len(x) <= MAX_SAMPLES:
        raise TrainError(f"{len(x)} samples to train on", f"give 1..{MAX_SAMPLES}")
    prox = config.prox
    W_now, b_now = W.astype(np.int64), b.astype(np.int64)
    W_base, b_base = W_now, b_now
    if prox.mantissa:
        if base is None:
            raise TrainError("a proximal term without a base head", "pass base=(W, b) of the received head")
        W_base, b_base = base[0].astype(np.int64), base[1].astype(np.int64)
        _check_shapes(W_base, b_base, x)

    n = len(x)
    features = x.astype(np.float64)
    loss_q12, done = LOSS_MAX, 0
    peak = 0
    orders = shuffles(n, config.seed)
    for _ in range(config.epochs):
        d_y: list[Ints] = []
        total: list[Ints] = []
        peak = 0
        order = np.array(next(orders))
        for start in range(0, n, config.batch):
            chosen = order[start : start + config.batch]
            xs = features[chosen]
            z = _forward(W_now, b_now, xs)
            errors, batch_d_y, batch_total = softmax_errors(z, y[chosen])
            d_y.append(batch_d_y)
            total.append(batch_total)
            peak = max(peak, int(np.abs(z).max()))
            W_before, b_before = W_now, b_now
            if config.lr_w.mantissa:
                G = (errors.T.astype(np.float64) @ xs).astype(np.int64)
                step_w = _scale(G, _divide_rate(config.lr_w, len(chosen)))
                W_now = np.clip(W_now - step_w, -WEIGHT_MAX, WEIGHT_MAX)
            if config.lr_b.mantissa:
                step_b = _scale(errors.sum(axis=0), _divide_rate(config.lr_b, len(chosen)))
                b_now = np.clip(b_now - step_b, -BIAS_MAX, BIAS_MAX)
            if prox.mantissa:
                W_now = np.clip(W_now - _scale(W_before - W_base, prox), -WEIGHT_MAX, WEIGHT_MAX)
                b_now = np.clip(b_now - _scale(b_before - b_base, prox), -BIAS_MAX, BIAS_MAX)
            done += len(chosen)
            yield Progress(done, n * config.epochs, loss_q12)
        loss = int(_losses(np.concatenate(d_y), np.concatenate(total)).sum())
        loss_q12 = (loss + n // 2) // n
    return TrainResult(W_now.astype(np.int32), b_now.astype(np.int32), loss_q12, peak, n)


# ---- the ring's rule, and what a device needs


def split(n: int, holdout: int = HOLDOUT_DEFAULT) -> tuple[Ints, Ints]:
    """Indices 0..n-1 parted into (training, held out): i is held out iff i % holdout == holdout - 1; 0: none
    is."""
    slots = np.arange(n, dtype=np.int64)
    if holdout == 0:
        return slots, slots[:0]
    held = slots % holdout == holdout - 1
    return slots[~held], slots[held]


def params_bytes(classes: int, features: int) -> int:
    """Bytes of the int32 head on a device (kf_params_bytes)."""
    return 4 * (classes * features + classes)


def residual_bytes(classes: int, features: int) -> int:
    """Bytes of the residual on a device (kf_residual_bytes)."""
    return 4 * classes + 2 * classes * features


def ring_bytes(features: int, classes: int, capacity: int) -> int:
    """Bytes of a ring on a device (kf_ring_bytes)."""
    return capacity * (features + (1 if classes <= 256 else 2))


def train_bytes(classes: int, batch: int, capacity: int, holdout: int = HOLDOUT_DEFAULT) -> int:
    """Bytes of a training's working memory on a device (kf_train_bytes)."""
    slots = capacity - (capacity // holdout if holdout else 0)
    padded = (batch + 3) & ~3
    logits = max(32 * classes, 16 * padded)
    size = logits + 4 * batch + 2 * padded * classes + slots * (1 if capacity <= 256 else 2)
    return (size + 3) & ~3
