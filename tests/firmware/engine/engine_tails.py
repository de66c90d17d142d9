"""Int8 models of one operator whose sizes go through every remainder: for kernels that are unrolled, and that
take several filters, columns, channels or places of a window at once.

Every third model has biases near the ends of int32 and an output scale below that of the sums, so that sums
wrap and multipliers exceed 1, as no converter makes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from engine_models import ACTIVATIONS, INT8, INT32, Net, schema


def _finish(
    net: Net, code: int, options: Any, weights: np.ndarray[Any, Any], axis: int, out: list[int]
) -> bytes:
    """The operator with these weights, a scale a channel along `axis`, and biases."""
    channels = weights.shape[axis]
    extreme = len(out) > 0 and int(net.rng.integers(3)) == 0
    scales = [net.scale() for _ in range(channels)]
    w = net.tensor(list(weights.shape), INT8, (scales, [0] * channels), weights, axis)
    x_scale = net.quantization()[0]
    limit = 2**31 - 1 if extreme else 4000
    bias = net.rng.integers(-limit, limit, channels).astype(np.int32)
    b_scales = [float(np.float32(x_scale) * np.float32(s)) for s in scales]
    b = net.tensor([channels], INT32, (b_scales, [0] * channels), bias)
    scale = min(b_scales) / 3 if extreme else max(b_scales) * 37 * float(np.sqrt(weights.size / channels))
    y = net.tensor(out, INT8, ([float(np.float32(scale))], [int(net.rng.choice([-128, -128, 3, 127]))]))
    net.operator(code, [net.last, w, b], y, options)
    return net.finish()


def _values(net: Net, shape: list[int]) -> np.ndarray[Any, Any]:
    return net.rng.integers(-128, 128, shape).astype(np.int8)


def conv(terms: int) -> bytes:
    """CONV_2D of `terms` products a sum, over a row of 1 to 8 columns, with 1 to 5 filters."""
    rng = np.random.default_rng([terms, 1])
    k_w = 3 if terms % 3 == 0 else 1
    width, filters = 1 + terms % 8, 1 + terms // 2 % 5
    net = Net(rng, [1, 2, width, terms // k_w])
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = 0, 1, 1
    options.fusedActivationFunction = ACTIVATIONS[terms % len(ACTIVATIONS)]
    weights = _values(net, [filters, 1, k_w, terms // k_w])
    return _finish(net, schema.BuiltinOperator.CONV_2D, options, weights, 0, [1, 2, width, filters])


def depthwise(number: int) -> bytes:
    """DEPTHWISE_CONV_2D with windows of 1 to 25 places, over 3 to 13 channels."""
    rng = np.random.default_rng([number, 2])
    k_h, k_w = 1 + number % 5, 1 + number // 5 % 5
    width, channels = 1 + number % 7, 3 + number % 11
    net = Net(rng, [1, 4, width, channels])
    options = schema.DepthwiseConv2DOptionsT()
    options.padding, options.strideH, options.strideW, options.depthMultiplier = 0, 1, 1, 1
    options.fusedActivationFunction = ACTIVATIONS[number % len(ACTIVATIONS)]
    weights = _values(net, [1, k_h, k_w, channels])
    return _finish(
        net, schema.BuiltinOperator.DEPTHWISE_CONV_2D, options, weights, 3, [1, 4, width, channels]
    )


def fully_connected(features: int) -> bytes:
    """FULLY_CONNECTED of `features` inputs, with 1 to 14 outputs."""
    rng = np.random.default_rng([features, 3])
    units = 1 + features % 14
    net = Net(rng, [1, features])
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = ACTIVATIONS[features % len(ACTIVATIONS)]
    return _finish(
        net, schema.BuiltinOperator.FULLY_CONNECTED, options, _values(net, [units, features]), 0, [1, units]
    )


def add(size: int) -> bytes:
    """ADD of `size` values of the input and as many constants, of another scale or of the same."""
    rng = np.random.default_rng([size, 4])
    net = Net(rng, [1, size])
    scale, zero_point = net.quantization()
    factor = 1.0 if size % 5 == 0 else float(np.exp(rng.uniform(-3, 3)))
    other = net.tensor([1, size], INT8, ([scale * factor], [zero_point]), _values(net, [1, size]))
    q = [float(np.float32(scale * max(1.0, factor) * rng.uniform(0.6, 2)))], [int(rng.integers(-128, 128))]
    y = net.tensor([1, size], INT8, q)
    options = schema.AddOptionsT()
    options.fusedActivationFunction = ACTIVATIONS[size % len(ACTIVATIONS)]
    pair = [net.last, other] if size % 2 else [other, net.last]
    net.operator(schema.BuiltinOperator.ADD, pair, y, options)
    return net.finish()


def models() -> Iterator[tuple[str, int, bytes]]:
    """(operator, its size, the model)"""
    for make, sizes in (
        (conv, range(1, 42)),
        (depthwise, range(35)),
        (fully_connected, range(1, 24)),
        (add, range(1, 12)),
    ):
        for size in sizes:
            yield make.__name__, size, make(size)
