"""Makes tests/data/nets: small Keras nets of the kinds people put on microcontrollers, converted to int8 as
TensorFlow's guide says. Weights are random; what matters is which operators become of which layers.

    build/venv/bin/python tests/data/make_nets.py

Needs tensorflow. The bytes depend on its version: 2.21 made what is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

HERE = Path(__file__).resolve().parent / "nets"
L = tf.keras.layers


def tcn() -> Any:
    """Dilated causal convolutions with residuals over 24 steps, of which the last one counts."""
    start = x = tf.keras.Input((24, 3), batch_size=1)
    for dilation in (1, 2, 4):
        y = L.Conv1D(6, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
        y = L.Conv1D(6, 3, padding="causal", dilation_rate=dilation)(y)
        if x.shape[-1] != 6:
            x = L.Conv1D(6, 1)(x)
        x = L.ReLU()(L.Add()([x, y]))
    return tf.keras.Model(start, L.Dense(5, activation="softmax")(x[:, -1, :]))


def mobile() -> Any:
    """Inverted bottlenecks with squeeze and excitation, hard swish, leaky ReLU and ReLU6."""
    start = tf.keras.Input((16, 16, 3), batch_size=1)
    x = L.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(start)
    x = L.Activation("hard_swish")(L.BatchNormalization()(x))
    for strides in (1, 2):
        y = L.LeakyReLU(negative_slope=0.1)(L.Conv2D(16, 1)(x))
        y = L.ReLU(6.0)(L.DepthwiseConv2D(3, strides=strides, padding="same")(y))
        z = L.Conv2D(4, 1, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(y))
        y = L.Multiply()([y, L.Conv2D(16, 1, activation="sigmoid")(z)])
        y = L.Conv2D(6, 1)(y)
        x = L.Add()([x, y]) if strides == 1 else y
    return tf.keras.Model(start, L.Dense(4)(L.GlobalMaxPooling2D()(x)))


def unet() -> Any:
    """Down twice and up twice, once by a transposed convolution and once by upsampling, with skips."""
    start = tf.keras.Input((12, 12, 1), batch_size=1)
    a = L.Conv2D(4, 3, padding="same", activation="relu")(start)
    b = L.Conv2D(6, 3, padding="same", activation="relu")(L.MaxPooling2D()(a))
    c = L.PReLU(shared_axes=[1, 2])(L.Conv2D(6, 3, padding="same")(L.MaxPooling2D()(b)))
    d = L.Concatenate()([L.Conv2DTranspose(6, 3, strides=2, padding="same")(c), b])
    d = L.Conv2D(4, 3, padding="same", activation="relu")(d)
    e = L.Concatenate()([L.UpSampling2D(2)(d), a])
    return tf.keras.Model(start, L.Conv2D(2, 1, activation="tanh")(e))


def lstm() -> Any:
    """An LSTM over four steps, unrolled."""
    start = tf.keras.Input((4, 4), batch_size=1)
    return tf.keras.Model(start, L.Dense(3)(L.LSTM(5, unroll=True)(start)))


def gru() -> Any:
    """A GRU over four steps, unrolled."""
    start = tf.keras.Input((4, 4), batch_size=1)
    return tf.keras.Model(start, L.Dense(3)(L.GRU(5, unroll=True)(start)))


def convert(model: Any) -> bytes:
    """To int8 throughout, calibrated with noise."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if len(weight.shape) == 1:  # biases and batch normalisation: not the zeros and ones of Keras
            spread = rng.normal(0, 0.2, weight.shape)
            positive = "gamma" in weight.path or "variance" in weight.path
            weight.assign(np.abs(1 + spread) if positive else spread)
    shape = (1, *model.input_shape[1:])
    spec = tf.TensorSpec(shape, tf.float32)
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(traced)])

    def samples() -> Iterator[list[Any]]:
        for _ in range(30):
            yield [rng.normal(0, 1, shape).astype(np.float32)]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for make in (tcn, mobile, unet, lstm, gru):
        tf.keras.utils.set_random_seed(7)
        data = convert(make())
        (HERE / f"{make.__name__}.tflite").write_bytes(data)
        print(f"{make.__name__}: {len(data)} bytes")


if __name__ == "__main__":
    main()
