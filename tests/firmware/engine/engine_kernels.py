"""Random models for what kernel families differ in, where random operators seldom lead: patches that are
empty, full or in between, filters and outputs of every count around a family's blocks, and sums that do not
fit the short form of requantizing.
"""

from __future__ import annotations

from collections.abc import Callable

import engine_models
import numpy as np
from engine_models import INT8, INT32, Net, schema

WIDTHS = [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 16]


def _behind_relu(net: Net) -> None:
    """QUANTIZE to the zero point that RELU leaves: the share of zeros is anything, with the input's own."""
    scale = net.quantization()[0]
    y = net.tensor(net.shape(), INT8, ([scale], [-128]))
    net.operator(schema.BuiltinOperator.QUANTIZE, [net.last], y, schema.QuantizeOptionsT())


def _scales(net: Net, count: int) -> tuple[list[float], list[int]]:
    """One a filter; seldom one so small or so large that its multiplier shifts further than the others."""
    scales = np.exp(net.rng.uniform(np.log(1e-3), np.log(0.05), count))
    if net.rng.random() < 0.2:
        scales[net.rng.integers(count)] = net.rng.choice([1e-38, 1e-9, 20.0])
    return [float(np.float32(s)) for s in scales], [0] * count


def _bias(net: Net, count: int, terms: int) -> int:
    """Small ones, or one that alone takes a sum out of 30 bits."""
    size = int(np.sqrt(terms) * 3000)
    data = net.rng.integers(-size, size + 1, count).astype(np.int32)
    if net.rng.random() < 0.2:
        data[net.rng.integers(count)] = net.rng.choice([-1, 1]) * ((1 << 30) + int(net.rng.integers(1 << 20)))
    return net.tensor([count], INT32, ([1.0], [0]), data)


def _output(net: Net, terms: int, scales: list[float], shape: list[int], activation: int) -> int:
    spread = np.sqrt(terms) * 5500.0 * net.quantization()[0] * float(np.median(scales))
    scale = float(np.float32(spread / 40.0 * np.exp(net.rng.uniform(-1.0, 1.0))))
    zero_point = -128 if activation else int(net.rng.integers(-128, 128))
    return net.tensor(shape, INT8, ([scale], [zero_point]))


def filters(net: Net) -> None:
    """CONV_2D of 1..13 filters, whose windows are now empty and now full."""
    rng, shape = net.rng, net.shape()
    if rng.random() < 0.7:
        _behind_relu(net)
    k = [int(rng.choice([1, 1, 3])) for _ in range(2)]
    options = schema.Conv2DOptionsT()
    options.padding = 0
    options.strideH, options.strideW = int(rng.choice([1, 2])), int(rng.choice([1, 1, 2]))
    options.fusedActivationFunction = int(rng.choice([0, 1, 3]))
    count, terms = int(rng.integers(1, 14)), k[0] * k[1] * shape[3]
    scales = _scales(net, count)
    data = rng.integers(-128, 128, [count, *k, shape[3]]).astype(np.int8)
    weights = net.tensor(list(data.shape), INT8, scales, data, 0)
    bias, x = _bias(net, count, terms), net.last
    out = [shape[0], -(-shape[1] // options.strideH), -(-shape[2] // options.strideW), count]
    y = _output(net, terms, scales[0], out, options.fusedActivationFunction)
    net.operator(schema.BuiltinOperator.CONV_2D, [x, weights, bias], y, options)


def three_wide(net: Net) -> None:
    """DEPTHWISE_CONV_2D with windows three wide, one or two places apart."""
    rng, shape = net.rng, net.shape()
    if rng.random() < 0.5:
        _behind_relu(net)
    k = [int(rng.choice([1, 2, 3, 3, 3, 5])), 3]
    stride = [int(rng.choice([1, 2])) for _ in range(2)]
    valid = bool(rng.random() < 0.4) and shape[1] >= k[0] and shape[2] >= 3
    options = schema.DepthwiseConv2DOptionsT()
    options.padding, options.depthMultiplier = int(valid), 1
    options.strideH, options.strideW = stride
    options.fusedActivationFunction = int(rng.choice([0, 1, 3]))
    count, terms = shape[3], k[0] * 3
    scales = _scales(net, count)
    data = rng.integers(-128, 128, [1, *k, count]).astype(np.int8)
    weights = net.tensor(list(data.shape), INT8, scales, data, 3)
    bias, x = _bias(net, count, terms), net.last
    out = [engine_models.extent(shape[1 + i], k[i], stride[i], 1, valid) for i in range(2)]
    y = _output(net, terms, scales[0], [shape[0], *out, count], options.fusedActivationFunction)
    net.operator(schema.BuiltinOperator.DEPTHWISE_CONV_2D, [x, weights, bias], y, options)


def rows(net: Net) -> None:
    """FULLY_CONNECTED of 1..40 outputs."""
    rng, terms = net.rng, int(np.prod(net.shape()[1:]))
    if rng.random() < 0.6:
        _behind_relu(net)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = int(rng.choice([0, 1, 3]))
    count = int(rng.integers(1, 41))
    scales = [net.scale()], [0]
    data = rng.integers(-128, 128, [count, terms]).astype(np.int8)
    weights = net.tensor([count, terms], INT8, scales, data, 0)
    bias, x = _bias(net, count, terms), net.last
    product = np.float32(net.quantization()[0]) * np.float32(scales[0][0])
    net.graph.tensors[bias].quantization.scale = np.array([product])  # the reference compares it
    y = _output(net, terms, scales[0], [net.shape()[0], count], options.fusedActivationFunction)
    net.operator(schema.BuiltinOperator.FULLY_CONNECTED, [x, weights, bias], y, options)


KINDS: dict[str, Callable[[Net], None]] = {f.__name__: f for f in (filters, three_wide, rows)}


def model(kind: str, seed: int) -> bytes:
    """A model of one of `KINDS`."""
    rng = np.random.default_rng([seed, *kind.encode()])
    channels = int(rng.choice([1, 2, 3, 4, 5, 8, 9, 17, 33]))
    shape = [int(rng.choice([1, 1, 2])), int(rng.choice([1, 2, 3, 5])), int(rng.choice(WIDTHS)), channels]
    net = Net(rng, shape)
    KINDS[kind](net)
    return net.finish()
