"""A small Keras model of one's own, to go the whole way with: four gestures of a hand that holds the board.

    python models/gestures/train.py [FOLDER]          (FOLDER: build/gestures by default)

leaves in the folder:

    gestures.keras    the model: 32 readings of a three-axis accelerometer at 25 Hz, in g, to four classes
    factory.npz       what it was trained on: inputs float32 [1600, 32, 1, 3], labels int64 [1600]
    field.npz         what its users' devices will see, 1200 samples
    test.npz          as field.npz, 400 other samples

The readings are made here, by formula: a gesture's motion, gravity, and noise. In the factory the board is
held upright. Users hold it tilted to the left, which turns gravity and the motion about one axis: the
factory's model does worse there, and that is what the devices correct together.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LABELS = ("rest", "shake", "circle", "lift")
HERTZ = {
    "rest": (0.0, 0.0),
    "shake": (2.6, 3.8),
    "circle": (1.6, 2.4),
    "lift": (0.8, 1.5),
}  # slowest, fastest
READINGS = 32
RATE_HZ = 25.0
TILT_DEGREES = 45.0  # of the users' hands, to the left
SPREAD_DEGREES = 15.0  # from person to person, in the factory too
SEED = 1
EPOCHS = 12


def make(count: int, tilt: float, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`count` samples, every label as often: inputs float32 [count, READINGS, 1, 3] in g, labels int64.

    tilt: of the board about its y axis, degrees, 0 upright.
    """
    labels = rng.permutation(np.arange(count) % len(LABELS)).astype(np.int64)
    seconds = np.arange(READINGS) / RATE_HZ
    inputs = np.empty((count, READINGS, 1, 3), np.float32)
    for row, label in enumerate(labels):
        hertz, phase, size = (
            rng.uniform(*HERTZ[LABELS[label]]),
            rng.uniform(0, 2 * np.pi),
            rng.uniform(0.4, 0.9),
        )
        wave, quarter = (
            size * np.sin(2 * np.pi * hertz * seconds + phase + turn) for turn in (0.0, np.pi / 2)
        )
        motion = np.zeros((READINGS, 3))
        if LABELS[label] == "shake":
            motion[:, 0] = wave
        elif LABELS[label] == "circle":
            motion[:, 0], motion[:, 2] = wave, quarter
        elif LABELS[label] == "lift":
            motion[:, 2] = wave
        angle = np.deg2rad(tilt + rng.normal(0, SPREAD_DEGREES))
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        noise = rng.normal(0, 0.08, (READINGS, 3))
        inputs[row, :, 0] = (motion + np.array([0.0, 0.0, 1.0])) @ turn.T + noise
    return inputs, labels


def main(folder: Path) -> None:
    """Makes the data, trains the model, writes the four files and says how it does on each."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keras brings TensorFlow, which talks a lot
    import keras

    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    sets = {
        "factory": make(1600, 0.0, rng),
        "field": make(1200, TILT_DEGREES, rng),
        "test": make(400, TILT_DEGREES, rng),
    }
    for name, (inputs, labels) in sets.items():
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((READINGS, 1, 3)),
            layers.Conv2D(12, (5, 1), strides=(2, 1), padding="same", activation="relu"),
            layers.Conv2D(24, (5, 1), strides=(2, 1), padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(32, activation="relu"),
            layers.Dense(len(LABELS), activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*sets["factory"], epochs=EPOCHS, batch_size=32, verbose=0)
    model.save(folder / "gestures.keras")
    for name, (inputs, labels) in sets.items():
        _, accuracy = model.evaluate(inputs, labels, verbose=0)
        print(f"{name:<8} {100 * accuracy:5.1f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/gestures"))
