"""Makes training.json and params.json: the trainer and the blobs once more, one number at a time in plain
Python.

Written from firmware/TRAINING.md and params.h alone: it imports nothing of the project and no numpy, so that
the C core, the numpy trainer and this file are three witnesses. Slow on purpose. Run it as

    python tests/vectors/make_training.py           writes the two files beside itself
    python tests/vectors/make_training.py --check   compares them, exit 1 when they differ
"""

from __future__ import annotations

import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

SEED = 20240607
WEIGHT_MAX, BIAS_MAX = (1 << 23) - 129, 1 << 30
INT32, INT8, INT4, TERNARY = range(4)
EXP2 = [int(32768 * 2 ** (-i / 32) + 0.5) for i in range(33)]


# ---- single numbers


def clamp(v: int, limit: int) -> int:
    return max(-limit, min(limit, v))


def rounded(v: int, d: int) -> int:
    """v / d, halves up."""
    return (2 * v + d) // (2 * d)


def scale(v: int, mantissa: int, shift: int) -> int:
    return rounded(v * mantissa, 1 << shift)


def divide_rate(mantissa: int, shift: int, n: int) -> tuple[int, int]:
    if mantissa == 0:
        return mantissa, shift
    for k in range(9):
        if mantissa << k >= n << 14:
            break
    quotient = rounded(mantissa << k, n)
    return (1 << 14, shift + k - 1) if quotient == 1 << 15 else (quotient, shift + k)


class Random:
    """The shuffle's generator."""

    def __init__(self, seed: int) -> None:
        s = (seed + 0x9E3779B9) % 2**32
        s = (s ^ (s >> 16)) * 0x85EBCA6B % 2**32
        s = (s ^ (s >> 13)) * 0xC2B2AE35 % 2**32
        s ^= s >> 16
        self.state = s if s else 0x9E3779B9

    def next(self) -> int:
        s = self.state
        s ^= s * 2**13 % 2**32
        s ^= s // 2**17
        s ^= s * 2**5 % 2**32
        self.state = s
        return s

    def shuffle(self, order: list[int]) -> None:
        for i in range(len(order) - 1, 0, -1):
            j = self.next() // 2**16 * (i + 1) // 2**16
            order[i], order[j] = order[j], order[i]


# ---- softmax


def exp_q15(d: int) -> int:
    u = (d * 23637 + 1024) // 2**11
    octave, position = divmod(u, 32768)
    i, r = divmod(position, 1024)
    v = EXP2[i] - ((EXP2[i] - EXP2[i + 1]) * r + 512) // 1024
    return v if octave == 0 else rounded(v, 2**octave)


def excess(total: int) -> int:
    return max(0, total.bit_length() - 16)


def ln_q12(total: int) -> int:
    n = excess(total)
    m, log2 = total >> n, n
    for _ in range(12):
        m, log2 = m * m // 2**15, 2 * log2
        if m >= 2**16:
            m, log2 = m // 2, log2 + 1
    return rounded(log2 * 45426, 2**16)


def softmax_errors(z: list[int], label: int) -> tuple[list[int], int]:
    top = max(z)
    d = [min(top - v, 65535) for v in z]
    e = [exp_q15(v) for v in d]
    total = sum(e)
    n = excess(total)
    s = rounded(total, 2**n) if n else total
    reciprocal = (2**31 + s // 2) // s
    p = [rounded(v * reciprocal, 2 ** (16 + n)) for v in e]
    errors = [min(v - (32768 if c == label else 0), 32767) for c, v in enumerate(p)]
    return errors, min(d[label] + ln_q12(total), 65535)


# ---- the trainer


def logits(W: list[list[int]], b: list[int], x: list[int]) -> list[int]:
    largest = max(abs(w) for row in W for w in row)
    k = 0
    while (largest + 2**k // 2) >> k > 32767:
        k += 1
    z = []
    for row, bias in zip(W, b, strict=True):
        total = (bias + 2**k // 2) >> k
        total += sum(((w + 2**k // 2) >> k) * v for w, v in zip(row, x, strict=True))
        z.append(max(-(2**31), min(2**31 - 1, (total + 2 ** (8 - k) // 2) >> (8 - k))))
    return z


def train(
    W: list[list[int]], b: list[int], x: list[list[int]], y: list[int], config: dict[str, Any]
) -> dict[str, Any]:
    """Trains from, and with the proximal term towards, (W, b)."""
    W0, b0 = [row[:] for row in W], b[:]
    W, b = [row[:] for row in W], b[:]
    source, order = Random(config["seed"]), list(range(len(x)))
    loss = peak = 0
    for _ in range(config["epochs"]):
        source.shuffle(order)
        loss = peak = 0
        for start in range(0, len(order), config["batch"]):
            batch = order[start : start + config["batch"]]
            errors = []
            for i in batch:
                z = logits(W, b, x[i])
                peak = max(peak, *(abs(v) for v in z))
                error, sample_loss = softmax_errors(z, y[i])
                errors.append(error)
                loss += sample_loss
            lr_w, lr_b = divide_rate(*config["lr_w"], len(batch)), divide_rate(*config["lr_b"], len(batch))
            prox = config["prox"]
            for c, row in enumerate(W):
                for f, before in enumerate(row):
                    if lr_w[0]:
                        G = sum(error[c] * x[i][f] for error, i in zip(errors, batch, strict=True))
                        row[f] = clamp(row[f] - scale(G, *lr_w), WEIGHT_MAX)
                    if prox[0]:
                        row[f] = clamp(row[f] - scale(before - W0[c][f], *prox), WEIGHT_MAX)
                before = b[c]
                if lr_b[0]:
                    b[c] = clamp(b[c] - scale(sum(error[c] for error in errors), *lr_b), BIAS_MAX)
                if prox[0]:
                    b[c] = clamp(b[c] - scale(before - b0[c], *prox), BIAS_MAX)
    return {"W": W, "b": b, "loss_q12": rounded(loss, len(x)), "peak_q12": peak}


def correct(W: list[list[int]], b: list[int], x: list[list[int]], y: list[int]) -> int:
    answers = []
    for row in x:
        z = logits(W, b, row)
        answers.append(z.index(max(z)))
    return sum(answer == label for answer, label in zip(answers, y, strict=True))


# ---- blobs


def pack(codec: int, q: list[int]) -> bytes:
    if codec == INT32:
        return b"".join(struct.pack("<i", v) for v in q)
    if codec == INT8:
        return b"".join(struct.pack("b", v) for v in q)
    if codec == INT4:
        pairs = [*q, 0] if len(q) % 2 else q
        return bytes((pairs[i] % 16) + 16 * (pairs[i + 1] % 16) for i in range(0, len(pairs), 2))
    trits = q + [0] * (-len(q) % 5)
    return bytes(sum((t + 1) * 3**k for k, t in enumerate(trits[i : i + 5])) for i in range(0, len(trits), 5))


def head_blob(
    codec: int, classes: int, features: int, step: int, q: list[int], bq: list[int], scale: float, zp: int
) -> bytes:
    packed = pack(codec, q)
    header = struct.pack("<BBBbHHIf", 1, 1, codec, zp, classes, features, step, scale)
    return header + packed + bytes(-len(packed) % 4) + pack(INT32, bq)


def personal_blob(W: list[list[int]], b: list[int], peak: int) -> bytes:
    flat = [w for row in W for w in row]
    step = max(1, -(-max(map(abs, flat)) // 127))
    exponent = -12
    while 127 * 2 ** (exponent + 12) * 4 < 5 * peak:
        exponent += 1
    q, bq = [rounded(w, step) for w in flat], [rounded(v, step) for v in b]
    return head_blob(INT8, len(W), len(W[0]), step, q, bq, 2.0**exponent, 0)


def quantise(codec: int, v: list[int]) -> tuple[int, list[int]]:
    if codec == INT32:
        return 1, v
    if codec == TERNARY:
        threshold = 7 * sum(map(abs, v)) // (10 * len(v))
        above = [abs(a) for a in v if abs(a) > threshold]
        step = max(1, rounded(sum(above), len(above))) if above else 1
        return step, [0 if abs(a) <= threshold else -1 if a < 0 else 1 for a in v]
    step = max(1, -(-max(map(abs, v)) // (127 if codec == INT8 else 7)))
    return step, [rounded(a, step) for a in v]


def update(
    codec: int, W: list[int], b: list[int], W0: list[int], b0: list[int], left_W: list[int], left_b: list[int]
) -> dict[str, Any]:
    v = [w - w0 + left for w, w0, left in zip(W, W0, left_W, strict=True)]
    v_b = [clamp(w - w0 + left, BIAS_MAX) for w, w0, left in zip(b, b0, left_b, strict=True)]
    step, q = quantise(codec, v)
    bias_codec = INT32 if codec == INT32 else INT8
    step_b, q_b = quantise(bias_codec, v_b)
    header = struct.pack("<BBBBHHII", 1, 2, codec, 0, len(b), len(W) // len(b), step, step_b)
    return {
        "codec": codec,
        "blob": (header + pack(codec, q) + pack(bias_codec, q_b)).hex(),
        "residual_W": [max(-32768, min(32767, a - k * step)) for a, k in zip(v, q, strict=True)],
        "residual_b": [a - k * step_b for a, k in zip(v_b, q_b, strict=True)],
    }


# ---- the cases


def make_training(rng: random.Random) -> dict[str, Any]:
    seeds = [0, 1, 2, 2**32 - 1, 0x61C88647, rng.getrandbits(32)]  # the fifth is mixed to 0
    generator = []
    for seed in seeds:
        source = Random(seed)
        generator.append({"seed": seed, "state": source.state, "next": [source.next() for _ in range(4)]})
    shuffle = []
    for n, seed in ((1, 5), (2, 1), (7, 0), (13, 77)):
        source, order, orders = Random(seed), list(range(n)), []
        for _ in range(3):
            source.shuffle(order)
            orders.append(order[:])
        shuffle.append({"n": n, "seed": seed, "orders": orders})

    softmax = []
    for z in (
        [0],
        [5, 5, 5],
        [-(2**31), 2**31 - 1],
        [40960, 0, -4096, 8191],
        [0, 1] * 8,
        [rng.randint(-30000, 30000) for _ in range(10)],
        [rng.randint(-900, 900) for _ in range(41)],
    ):
        for label in sorted({0, len(z) - 1}):
            errors, loss = softmax_errors(z, label)
            softmax.append({"z": z, "label": label, "errors": errors, "loss_q12": loss})

    scales = []
    for mantissa, shift in ((16384, 1), (32767, 16), (20000, 17), (16385, 28), (32767, 46)):
        values = [0, 1, -1, 65535, -65536, 2**31 - 1, -(2**31), rng.randint(-(2**31), 2**31 - 1)]
        results = [scale(v, mantissa, shift) for v in values]
        scales.append({"mantissa": mantissa, "shift": shift, "values": values, "results": results})

    divided = []
    for mantissa, n in (
        (16384, 1),
        (32767, 1),
        (32767, 2),
        (16384, 3),
        (16385, 256),
        (32767, 255),
        (24576, 16),
    ):
        divided.append({"mantissa": mantissa, "shift": 10, "n": n, "result": divide_rate(mantissa, 10, n)})

    rounds = []
    off = [0, 0]
    # classes, features, samples, holdout, zero point, batch, epochs, (lr_w, lr_b, prox), step, largest code
    for C, F, n, holdout, zp, batch, epochs, rates, step, top in (
        (10, 32, 23, 5, -128, 16, 2, ([27962, 28], [26214, 13], off), 40, 127),
        (3, 7, 11, 0, 5, 4, 3, ([20000, 24], [30000, 14], [16384, 20]), 1, 100),
        (2, 1, 4, 2, 0, 256, 5, ([32767, 20], off, off), 1000, 3),
        (5, 257, 6, 3, 127, 5, 1, (off, [16384, 16], [32767, 16]), 66052, 127),
        (4, 13, 9, 5, -7, 1, 2, ([16384, 1], [16384, 1], [20000, 15]), 1, 9),
        (7, 5, 12, 2, -128, 5, 2, ([17000, 38], [17000, 38], off), 3, 127),
    ):
        q = [
            [rng.randint(-128, 127) if rng.random() < 0.6 else max(zp, -128) for _ in range(F)]
            for _ in range(n)
        ]
        y = [rng.randrange(C) for _ in range(n)]
        weights = [rng.randint(-top, top) for _ in range(C * F)]
        bias = [rng.randint(-5000, 5000) for _ in range(C)]
        head = head_blob(INT8, C, F, step, weights, bias, 0.25, 3)
        W0 = [[clamp(v * step, WEIGHT_MAX) for v in weights[c * F : c * F + F]] for c in range(C)]
        b0 = [clamp(v * step, BIAS_MAX) for v in bias]
        held = [i for i in range(n) if holdout and i % holdout == holdout - 1]
        kept = [i for i in range(n) if i not in held]
        config = {"epochs": epochs, "batch": batch, "seed": rng.getrandbits(32)}
        config |= {"lr_w": rates[0], "lr_b": rates[1], "prox": rates[2]}
        x = [[v - zp for v in row] for row in q]
        result = train(W0, b0, [x[i] for i in kept], [y[i] for i in kept], config)
        held_x, held_y = [x[i] for i in held], [y[i] for i in held]
        rounds.append(
            {
                "classes": C,
                "features": F,
                "x_zp": zp,
                "holdout": holdout,
                "config": config,
                "head": head.hex(),
                "q": b"".join(struct.pack("b", v) for row in q for v in row).hex(),
                "labels": y,
                "W": pack(INT32, [w for row in result["W"] for w in row]).hex(),
                "b": result["b"],
                "loss_q12": result["loss_q12"],
                "peak_q12": result["peak_q12"],
                "held_out": len(held),
                "correct_before": correct(W0, b0, held_x, held_y),
                "correct_after": correct(result["W"], result["b"], held_x, held_y),
                "personal": personal_blob(result["W"], result["b"], result["peak_q12"]).hex(),
            }
        )
    return {
        "exp": [[d, exp_q15(d)] for d in (0, 1, 2, 44, 45, 88, 2839, 2840, 4096, 40000, 65534, 65535)],
        "ln": [[s, ln_q12(s)] for s in (32768, 32769, 65535, 65536, 89076, 327680, 1 << 25, (1 << 26) - 1)],
        "random": generator,
        "shuffle": shuffle,
        "softmax": softmax,
        "scale": scales,
        "divide_rate": divided,
        "rounds": rounds,
    }


def make_params(rng: random.Random) -> dict[str, Any]:
    heads = []
    for codec, C, F, step in (
        (INT8, 10, 32, 77),
        (INT8, 3, 7, 66052),
        (INT4, 3, 3, 1),
        (INT4, 2, 4, 900000),
        (INT32, 2, 3, 1),
    ):
        low, high = {INT32: (-(2**23), 2**23), INT8: (-128, 127), INT4: (-8, 7)}[codec]
        q = [rng.randint(low, high) for _ in range(C * F)]
        bq = [rng.randint(-(2**31), 2**31 - 1) if c == 0 else rng.randint(-999, 999) for c in range(C)]
        heads.append(
            {
                "blob": head_blob(codec, C, F, step, q, bq, 0.1, -7).hex(),
                "classes": C,
                "features": F,
                "step": step,
                "codes": q,
                "W": [clamp(v * step, WEIGHT_MAX) for v in q],
                "b": [clamp(v * step, BIAS_MAX) for v in bq],
                "out_zp": -7,
            }
        )
    updates = []
    for C, F, spread in ((10, 32, 3000), (3, 7, 1), (2, 1, 2**23), (5, 3, 40000), (3, 4, 0)):
        W = [clamp(rng.randint(-spread, spread), WEIGHT_MAX) for _ in range(C * F)]
        W0 = [clamp(127 * rng.randint(-spread, spread) // 127, WEIGHT_MAX) for _ in range(C * F)]
        b = [clamp(rng.randint(-spread, spread) * 200, BIAS_MAX) for _ in range(C)]
        b0 = [clamp(rng.randint(-spread, spread) * 200, BIAS_MAX) for _ in range(C)]
        left_W = [rng.randint(-spread, spread) % 65536 - 32768 if spread > 1 else 0 for _ in range(C * F)]
        left_b = [rng.randint(-spread, spread) for _ in range(C)]
        updates.append(
            {
                "classes": C,
                "features": F,
                "W": W,
                "b": b,
                "base_W": W0,
                "base_b": b0,
                "residual_W": left_W,
                "residual_b": left_b,
                "results": [update(codec, W, b, W0, b0, left_W, left_b) for codec in range(4)],
            }
        )
    return {"heads": heads, "updates": updates}


def dump(content: dict[str, Any]) -> str:
    """JSON with one case a line, so that a difference can be read."""
    parts = []
    for key, cases in content.items():
        lines = ",\n".join("  " + json.dumps(case, separators=(",", ":")) for case in cases)
        parts.append(f'"{key}": [\n{lines}\n]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    here = Path(__file__).parent
    files = {
        here / "training.json": dump(make_training(random.Random(SEED))),
        here / "params.json": dump(make_params(random.Random(SEED + 1))),
    }
    if sys.argv[1:] == ["--check"]:
        stale = [path.name for path, text in files.items() if not path.is_file() or path.read_text() != text]
        for name in stale:
            print(
                f"{name} is not what its generator makes: run python {Path(__file__).name}", file=sys.stderr
            )
        return 1 if stale else 0
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
