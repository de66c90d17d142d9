"""Models of the shape of those that are not here, with seeded random weights: what they say means nothing,
what they take is what the originals take.

MLPerf Tiny's anomaly detection and visual wake words, and a small CNN for MNIST. Instructions depend on
weights and inputs only through clamps and zeros. They are made with Keras on the first run (a minute) and
kept in `build/bench/alikes`; without TensorFlow they are left out, and stderr says so. The original, when its
file is there, is measured beside them: `infer.ad`, and `infer.ad_alike`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SUFFIX = "_alike"
SEED = 11


def original(name: str) -> str:
    """The model that an alike is like; any other name as it is."""
    return name.removesuffix(SUFFIX)


def models(root: Path) -> Iterator[tuple[str, bytes]]:
    """(name, file) of each; made when it is not there yet."""
    for name in SHAPES:
        path = root / "build" / "bench" / "alikes" / f"{name}.tflite"
        if not path.is_file():
            if importlib.util.find_spec("keras") is None:
                print(
                    f"bench: no infer.{name}{SUFFIX}: TensorFlow makes it; run `make test` once",
                    file=sys.stderr,
                )
                continue
            print(f"bench: making a model shaped like {name}", file=sys.stderr)
            _make(name, path)
        yield name + SUFFIX, path.read_bytes()


def _make(name: str, path: Path) -> None:
    # Keras in a process of its own: it would get in the way of the TFLite runtime here.
    from kilofed_tools.convert import keras_to_int8

    path.parent.mkdir(parents=True, exist_ok=True)
    keras_file = path.with_suffix(".keras")
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-m", __name__, name, str(keras_file)],
        check=True,
        cwd=root,
        env=environment,
        stdout=sys.stderr,
    )
    shape = SHAPES[name][1]
    data = np.random.default_rng(SEED).standard_normal((50, *shape)).astype(np.float32)
    part = path.with_suffix(".part")
    part.write_bytes(keras_to_int8(keras_file, data))
    part.replace(path)
    keras_file.unlink()


# ---- the shapes, in the child's process --------------------------------------------------------------------


def _ad(keras: Any, x: Any) -> Any:
    """ToyADMOS autoencoder: 640 inputs, 4 times 128, 8, 4 times 128, 640; batch normalisation folds away."""
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = keras.layers.Dense(width, activation="relu", bias_initializer="random_normal")(x)
    return keras.layers.Dense(640, bias_initializer="random_normal")(x)


def _vww(keras: Any, x: Any) -> Any:
    """MobileNetV1, width 0.25, 96 x 96 x 3, two classes."""
    layers = keras.layers

    def finish(y: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(beta_initializer="random_normal")(y))

    x = finish(layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(x))
    widths = (16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    for width, stride in zip(widths, strides, strict=True):
        x = finish(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x))
        x = finish(layers.Conv2D(width, 1, padding="same", use_bias=False)(x))
    x = layers.Flatten()(layers.AveragePooling2D(3)(x))
    return layers.Dense(2, activation="softmax", bias_initializer="random_normal")(x)


def _mnist(keras: Any, x: Any) -> Any:
    """Convolution to 8, pooling, convolution to 16, pooling, dense."""
    layers = keras.layers
    for width in (8, 16):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", bias_initializer="random_normal")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    return layers.Dense(10, activation="softmax", bias_initializer="random_normal")(x)


SHAPES: dict[str, tuple[Callable[[Any, Any], Any], tuple[int, ...]]] = {
    "ad": (_ad, (640,)),
    "vww": (_vww, (96, 96, 3)),
    "mnist": (_mnist, (28, 28, 1)),
}
"""Name of the original -> (the layers, the input's shape)."""


def main(name: str, out: str) -> None:
    """Builds the float model `name` and saves it as a .keras file."""
    import keras

    keras.utils.set_random_seed(SEED)
    layers, shape = SHAPES[name]
    x = keras.Input(batch_shape=(1, *shape))
    keras.Model(x, layers(keras, x)).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
