"""Make tests/data/foreign/*.tflite: small models as other people's converters leave them.

    python tests/data/make_foreign.py [--out FOLDER]        needs TensorFlow; the same files every time

Each is a few kilobytes of random weights. The names say what is odd about them; tests/unit/test_adapt.py says
what is to become of each. Inputs are 9x7x2 or 11 values: shapes that divide badly.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

layers = tf.keras.layers
IMAGE, VECTOR = (9, 7, 2), (11,)
CLASSES = 5


def weights(net: Any, seed: int, *, bias: bool = True) -> Any:
    """Fill a network with reproducible weights; biases of the last layer stay zero with bias=False."""
    rng = np.random.default_rng(seed)
    for layer in net.layers:
        new = []
        for value in layer.get_weights():
            spread = 0.3 if value.ndim == 1 else 1.5 / np.sqrt(np.prod(value.shape[:-1]))
            new.append(rng.normal(0, spread, value.shape).astype(np.float32))
        if new and layer is [one for one in net.layers if one.get_weights()][-1] and not bias:
            new[-1] = np.zeros_like(new[-1])
        layer.set_weights(new)
    return net


def convert(
    net: Any, shape: tuple[int, ...], *, ends: Any = tf.int8, per_channel: bool = False, mode: str = "int8",
    fixed_batch: bool = True,
) -> bytes:  # fmt: skip
    """The .tflite of a network. ends: type of input and output. mode: int8, int16, hybrid or float."""
    spec = tf.TensorSpec((1 if fixed_batch else None, *shape), tf.float32)
    concrete = tf.function(lambda x: net(x, training=False)).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [convert_variables_to_constants_v2(concrete)], net
    )
    rng = np.random.default_rng(99)
    data = rng.normal(0, 1, (50, 1, *shape)).astype(np.float32)

    def representative() -> Iterator[list[Any]]:
        for sample in data:
            yield [sample]

    if mode != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode in ("int8", "int16"):
        ops = tf.lite.OpsSet
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [
            ops.TFLITE_BUILTINS_INT8
            if mode == "int8"
            else ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        converter.inference_input_type = ends
        converter.inference_output_type = ends
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not per_channel
    return bytes(converter.convert())


def vector(*tail: Any) -> Any:
    """11 values, Dense 12 with ReLU, then `tail`."""
    return tf.keras.Sequential([tf.keras.Input(VECTOR), layers.Dense(12, activation="relu"), *tail])


def image(*tail: Any) -> Any:
    """9x7x2, a convolution of 6 channels and stride 2 with ReLU (to 5x4x6), then `tail`."""
    start = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")
    return tf.keras.Sequential([tf.keras.Input(IMAGE), start, *tail])


def two_outputs() -> Any:
    """One input, two heads."""
    x = tf.keras.Input(VECTOR)
    y = layers.Dense(12, activation="relu")(x)
    return tf.keras.Model(x, [layers.Dense(3)(y), layers.Dense(4)(y)])


def shared_features() -> Any:
    """The features feed the head and a second path that is added behind it."""
    x = tf.keras.Input(VECTOR)
    y = layers.Dense(CLASSES, activation="relu")(x)
    return tf.keras.Model(x, layers.Add()([layers.Dense(CLASSES)(y), y]))


def models() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file."""
    dense, softmax = layers.Dense, layers.Softmax

    def one(tail: Any) -> Any:
        return layers.Conv2D(CLASSES, 1, activation=tail)

    pool = layers.GlobalAveragePooling2D
    flatten = layers.Flatten
    yield "plain", convert(weights(vector(dense(CLASSES), softmax()), 1), VECTOR)
    yield "logits", convert(weights(vector(dense(CLASSES)), 2), VECTOR)
    yield "no_bias", convert(weights(vector(dense(CLASSES), softmax()), 3, bias=False), VECTOR)
    yield "per_channel", convert(weights(vector(dense(CLASSES), softmax()), 4), VECTOR, per_channel=True)
    yield "relu_head", convert(weights(vector(dense(CLASSES, activation="relu")), 5), VECTOR)
    yield (
        "float_ends",
        convert(weights(image(flatten(), dense(CLASSES), softmax()), 6), IMAGE, ends=tf.float32),
    )
    yield "uint8_ends", convert(weights(image(flatten(), dense(CLASSES), softmax()), 7), IMAGE, ends=tf.uint8)
    yield "binary", convert(weights(vector(dense(1, activation="sigmoid")), 8), VECTOR)
    yield (
        "binary_float_ends",
        convert(weights(vector(dense(1, activation="sigmoid")), 9), VECTOR, ends=tf.float32),
    )
    keep = pool(keepdims=True)
    yield "conv_head", convert(weights(image(keep, one(None), flatten(), softmax()), 10), IMAGE)
    whole = layers.Conv2D(CLASSES, (5, 4), padding="valid")
    yield "conv_whole", convert(weights(image(whole, flatten(), softmax()), 11), IMAGE)
    yield "conv_then_mean", convert(weights(image(one(None), pool(), softmax()), 12), IMAGE)
    average = layers.AveragePooling2D((5, 4))
    yield "conv_then_pool", convert(weights(image(one(None), average, flatten(), softmax()), 13), IMAGE)
    only = tf.keras.Sequential([tf.keras.Input(VECTOR), dense(CLASSES), softmax()])
    yield "only_head", convert(weights(only, 14), VECTOR)
    # to be refused
    yield "x_float", convert(weights(vector(dense(CLASSES), softmax()), 21), VECTOR, mode="float")
    large = tf.keras.Sequential(
        [tf.keras.Input((40,)), dense(40, activation="relu"), dense(CLASSES), softmax()]
    )
    yield "x_hybrid", convert(weights(large, 22), (40,), mode="hybrid")
    yield (
        "x_int16",
        convert(weights(vector(dense(CLASSES), softmax()), 23), VECTOR, mode="int16", ends=tf.int16),
    )
    yield "x_sigmoids", convert(weights(vector(dense(4, activation="sigmoid")), 24), VECTOR)
    yield "x_regression", convert(weights(vector(dense(1)), 25), VECTOR)
    yield "x_two_outputs", convert(weights(two_outputs(), 26), VECTOR)
    yield "x_conv_relu_mean", convert(weights(image(one("relu"), pool(), softmax()), 27), IMAGE)
    yield "x_places", convert(weights(image(one(None)), 28), IMAGE)
    yield "x_tanh", convert(weights(vector(dense(CLASSES, activation="tanh")), 29), VECTOR)
    yield "x_shared_features", convert(weights(shared_features(), 30), VECTOR)
    open_batch = weights(image(flatten(), dense(CLASSES), softmax()), 31)
    yield "x_open_batch", convert(open_batch, IMAGE, fixed_batch=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "foreign")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, data in models():
        (out / f"{name}.tflite").write_bytes(data)


if __name__ == "__main__":
    main()
