"""Multipliers prepared in integers against the same steps in floating point, on several 100,000 scales.

The expected values are computed with numpy's float32 and Python's float (an IEEE double), as the reference
does it: product and quotient, frexp, 31 bits with ties away from zero.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt
import pytest
from engine_runner import OK, Engine

COUNT = 120_000


def multiplier(real: float) -> tuple[int, int]:
    """mult * 2^(shift - 31) nearest to `real`."""
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    scaled = fraction * (1 << 31)
    mult = math.floor(scaled)
    mult += scaled - mult >= 0.5
    if mult == 1 << 31:
        mult, shift = mult // 2, shift + 1
    return (0, 0) if shift < -31 else (mult, shift)


def scales(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    """Positive float32: as models have them, then over the whole range, subnormals and powers of two among
    them."""
    usual = np.exp(rng.uniform(np.log(1e-6), np.log(4.0), count // 2))
    bits = rng.integers(1, 0x7F800000, count - count // 2, dtype=np.uint32)
    bits[::7] &= 0x7F800000
    bits[::7] |= bits[::7] == 0
    bits[::11] &= 0x007FFFFF
    bits[::11] |= 1
    wild = bits.view(np.float32).astype(np.float64)
    mixed = np.concatenate([usual, wild]).astype(np.float32)
    rng.shuffle(mixed)
    return mixed


def near_ties(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    """Triples whose quotient's bits below the 31st are all ones or all zeros for as long as can be: where
    two roundings and one differ. Found by solving x * w = (2 q + 1) / 2 * o for w."""
    x = rng.uniform(0.5, 1.0, count).astype(np.float32)
    o = rng.uniform(0.5, 1.0, count).astype(np.float32)
    q = rng.integers(1 << 30, 1 << 31, count)
    w = ((q + 0.5) * 2.0**-31 * o.astype(np.float64) / x).astype(np.float32)
    return np.stack([x, w, o], 1)


def ask(engine: Engine, how: int, triples: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    status, data = engine.request(4, how, 0, np.ascontiguousarray(triples, "<f4").tobytes())
    assert status == OK
    return np.frombuffer(data, np.int32).reshape(-1, 2)


def check(engine: Engine, how: int, triples: npt.NDArray[np.float32]) -> None:
    got = ask(engine, how, triples)
    for i, (x, w, o) in enumerate(triples.astype(np.float64)):
        if how == 0:
            real = float(x) * float(w) / float(o)
        elif how == 1:
            product = np.float32(x) * np.float32(w)
            if not np.isfinite(product):
                continue  # refused when a model is opened
            real = float(product) / float(o)
        else:
            real = float(x) / float(w)
        assert tuple(got[i]) == multiplier(real), f"{how}: {x!r} {w!r} {o!r}"


@pytest.mark.parametrize("how", [0, 1, 2], ids=["product in double", "product in float32", "ratio"])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_multipliers(engine: Engine, how: int) -> None:
    rng = np.random.default_rng(how)
    check(engine, how, np.stack([scales(rng, COUNT) for _ in range(3)], 1))


def test_multipliers_near_ties(engine: Engine) -> None:
    check(engine, 0, near_ties(np.random.default_rng(4), COUNT))


def below_a_tie(rng: np.random.Generator, miss: int) -> tuple[int, int, int] | None:
    """x, w, o of 24 bits with x * w * 2^8 = t * o - miss, t odd of 32 bits: x * w / o misses a tie of 31
    bits by miss / o of its last but one bit, which is less than a double can hold when miss is 1. Solved
    modulo 2^8 * x."""
    o, x = (int(n) | 1 for n in rng.integers(1 << 23, 1 << 24, 2))
    modulus = x << 8
    if math.gcd(o, x) != 1:
        return None
    t = miss * pow(o, -1, modulus) % modulus
    w = (t * o - miss) // modulus
    return (x, w, o) if 1 << 31 <= t < 1 << 32 and 1 << 23 <= w < 1 << 24 else None


@pytest.mark.parametrize("miss", [1, 3, 5])
def test_double_rounding_is_followed(engine: Engine, miss: int) -> None:
    """Below a tie by 1: one rounding would go down, the reference's two go up. By 5: down. By 3: as o
    decides."""
    rng = np.random.default_rng(miss)
    found = [triple for triple in (below_a_tie(rng, miss) for _ in range(4000)) if triple]
    assert len(found) > 300
    check(engine, 0, np.array(found, np.float64).astype(np.float32))
    up = [multiplier(x * w / o)[0] * o * 2 > x * w << 8 for x, w, o in found]
    assert {1: all(up), 3: any(up) and not all(up), 5: not any(up)}[miss]


def test_zero_weights_scale_gives_zero(engine: Engine) -> None:
    assert ask(engine, 0, np.array([[0.5, 0.0, 0.25]], np.float32)).tolist() == [[0, 0]]


def ask_float(engine: Engine, how: int, pairs: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    status, data = engine.request(5, how, 0, pairs.astype("<u4").tobytes())
    assert status == OK
    return np.frombuffer(data, np.uint32)


@pytest.mark.filterwarnings("ignore:(over|under)flow:RuntimeWarning")
def test_float32_product(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    pairs = np.stack([scales(rng, COUNT), scales(rng, COUNT)], 1)
    got = ask_float(engine, 0, pairs.view(np.uint32))
    np.testing.assert_array_equal(got, (pairs[:, 0] * pairs[:, 1]).view(np.uint32))


@pytest.mark.filterwarnings("ignore:(over|under)flow:RuntimeWarning")
def test_float32_quotient_rounded(engine: Engine) -> None:
    """round(a / scale) in float32, ties away from zero: as QUANTIZE and fused activations need it."""
    rng = np.random.default_rng(2)
    scale = scales(rng, COUNT)
    a = (scale * rng.uniform(-300, 300, COUNT)).astype(np.float32)
    a[::3] = (scale[::3] * (rng.integers(-300, 300, len(a[::3])) + 0.5)).astype(np.float32)
    a[:8] = [0.0, -0.0, np.inf, -np.inf, 1e38, -1e38, 1e-45, -1e-45]
    finite = np.isfinite(a)
    got = ask_float(engine, 1, np.stack([a, scale], 1).view(np.uint32)).view(np.int32)
    quotient = (a / scale).astype(np.float64)
    expected = np.clip(np.sign(quotient) * np.floor(np.abs(quotient) + 0.5), -(1 << 23), 1 << 23)
    np.testing.assert_array_equal(got[finite], expected[finite].astype(np.int32))
    assert got[2] == 1 << 23 and got[3] == -(1 << 23)
    nan = struct.unpack("<I", struct.pack("<f", math.nan))[0]
    assert ask_float(engine, 1, np.array([[nan, 0x3F800000]], np.uint32))[0] == 0


@pytest.mark.filterwarnings("ignore:(over|under)flow:RuntimeWarning")
def test_float32_times_integer(engine: Engine) -> None:
    """DEQUANTIZE's product: exact, then one rounding to float32."""
    rng = np.random.default_rng(3)
    scale = scales(rng, COUNT)
    n = rng.integers(0, 256, COUNT).astype(np.uint32)
    got = ask_float(engine, 2, np.stack([scale.view(np.uint32), n], 1))
    expected = (scale.astype(np.float64) * n).astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(got, expected)


def test_requantization(engine: Engine) -> None:
    """x * mult * 2^(shift - 31) with the reference's two roundings, against integers of any size."""
    rng = np.random.default_rng(6)
    for shift in range(-31, 8):
        mult = int(rng.integers(1 << 30, 1 << 31))
        limit = 1 << (30 - max(shift, 0))
        x = np.concatenate([rng.integers(-limit, limit, 4000), [0, 1, -1, limit - 1, -limit]]).astype(
            np.int32
        )
        status, data = engine.request(6, shift + 64, mult, x.tobytes())
        assert status == OK
        for value, got in zip(x.tolist(), np.frombuffer(data, np.int32).tolist(), strict=True):
            high = (value * (1 << max(shift, 0)) * mult + (1 << 30)) >> 31
            right = max(-shift, 0)
            half = (1 << right) >> 1
            expected = (high + half) >> right if high >= 0 else -((-high + half) >> right)
            assert got == expected, (value, mult, shift)


def mul(a: int, b: int) -> int:
    return (a * b + (1 << 30)) >> 31


def round_shift(x: int, places: int) -> int:
    half = (1 << places) >> 1
    return (x + half) >> places if x >= 0 else -((-x + half) >> places)


def expected_exp(x: int, bits: int) -> int:
    """gemmlowp's exp_on_negative_values, from its description: a polynomial around -1/8 for the part below
    1/4, times exp(-2^k) for every further bit k. Constants are computed, not copied."""
    if x == 0:
        return (1 << 31) - 1
    fraction = 31 - bits
    near = x % (1 << (fraction - 2)) - (1 << (fraction - 2))
    rest = near - x
    y = (near << bits) + (1 << 28)
    y2 = mul(y, y)
    tail = round_shift(mul(round_shift(mul(y2, y2), 2) + mul(y2, y), round(2**31 / 3)) + y2, 1)
    center = round(math.exp(-1 / 8) * 2**31)
    result = center + mul(center, y + tail)
    for k in range(-2, bits):
        if rest >> (fraction + k) & 1:
            result = mul(result, round(math.exp(-(2.0**k)) * 2**31))
    return result


@pytest.mark.parametrize("bits", [4, 5])
def test_exponential(engine: Engine, bits: int) -> None:
    """exp() of a fixed-point number: the algorithm's bits, and near the real function."""
    x = -np.sort(np.random.default_rng(bits).integers(0, 1 << 31, 5000)).astype(np.int64)
    status, data = engine.request(6, bits, 0, x.astype(np.int32).tobytes())
    assert status == OK
    got = np.frombuffer(data, np.int32)
    assert got.tolist() == [expected_exp(int(value), bits) for value in x]
    np.testing.assert_allclose(got / 2.0**31, np.exp(x / 2.0 ** (31 - bits)), atol=3e-7)


def test_inverse(engine: Engine) -> None:
    x = np.sort(np.random.default_rng(9).integers(0, 1 << 31, 5000)).astype(np.int64)
    status, data = engine.request(6, 0, 0, x.astype(np.int32).tobytes())
    assert status == OK
    np.testing.assert_allclose(np.frombuffer(data, np.int32) / 2.0**31, 1 / (1 + x / 2.0**31), atol=1e-8)
