"""Samples a laboratory has in hand: the digits, or an .npz of one's own, whole or dealt to devices.

A real host never sees a sample. Here are those that we place into emulated boards, and the test set.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import digits
from kilofed_tools.errors import DataError
from kilofed_tools.heads import find_head
from kilofed_tools.tflite import read_model

_FORM = "give an .npz with inputs [N, ...], int8 or float, and labels [N], whole numbers"


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one place.

    inputs: int8 [N, input bytes] as the model takes them. labels: uint16 [N], below C.
    """

    inputs: NDArray[np.int8]
    labels: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Samples:
        """Those at `index`, copied, in that order."""
        return Samples(self.inputs[index], self.labels[index])

    def some(self, count: int, *, seed: int = 1) -> Samples:
        """`count` of them, chosen at random, in random order. DataError when there are not so many."""
        if count > len(self):
            raise DataError(f"there are {len(self)} samples, {count} are asked for", "ask for fewer")
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(self)).astype(np.int64)
        return self.take(order[:count])


def digits_test() -> Samples:
    """The 1000 test images of kilofed_tools.digits: no device and no backbone has seen one."""
    return _of_digits(digits.split().test)


def digits_pool() -> Samples:
    """The 2000 images that are dealt to devices."""
    return _of_digits(digits.split().pool)


def check_digits(model: bytes) -> None:
    """DataError when the digits do not suit a model: other values a sample, or fewer classes."""
    parsed = read_model(model)
    elements = parsed.tensors[parsed.inputs[0]].elements
    classes = parsed.tensors[parsed.outputs[0]].elements
    if elements != digits.PIXELS or classes < digits.CLASSES:
        raise DataError(
            f"the default samples are digits, {digits.PIXELS} values each of {digits.CLASSES} classes; the"
            f" model takes {elements} values and has {classes} classes",
            "give --data FILE, samples of its own",
        )


def _of_digits(part: digits.Digits) -> Samples:
    return Samples(part.samples(), part.labels.astype(np.uint16))


def load_samples(path: Path, model: bytes) -> Samples:
    """An .npz with `inputs` and `labels` that suit the model; floats are quantized as its input is.

    DataError when the file is no .npz, lacks one of them, or does not fit the model.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not {"inputs", "labels"} <= set(arrays.files):
                raise DataError(f"{path.name} holds {', '.join(arrays.files) or 'nothing'}", _FORM)
            inputs, labels = arrays["inputs"], arrays["labels"]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name} cannot be read ({error})", _FORM) from error
    parsed = read_model(model)
    spec = find_head(parsed)
    tensor = parsed.tensors[parsed.inputs[0]]
    if len(inputs) != len(labels) or not len(inputs) or inputs[0].size != tensor.elements:
        raise DataError(
            f"{path.name} holds inputs {list(inputs.shape)} and labels {list(labels.shape)}; the model takes"
            f" {tensor.elements} values a sample",
            _FORM,
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= spec.classes:
        raise DataError(f"{path.name} holds labels outside 0 to {spec.classes - 1}", _FORM)
    flat = inputs.reshape(len(inputs), -1)
    if np.issubdtype(flat.dtype, np.floating):
        if not np.all(np.isfinite(flat)):
            raise DataError(f"{path.name} holds inputs that are not finite", _FORM)
        from kilofed_tools.convert import quantize_input

        flat = quantize_input(model, flat)
    elif flat.dtype != np.int8:
        raise DataError(f"{path.name} holds inputs of type {flat.dtype}", _FORM)
    return Samples(np.ascontiguousarray(flat, np.int8), labels.astype(np.uint16))


def deal(pool: Samples, sizes: Sequence[int], *, alpha: float = 0.3, seed: int = 1) -> list[Samples]:
    """Shards of the pool, one a device, each with its own mixture of labels (kilofed_tools.digits).

    sizes: samples a device; their sum is at most the pool's. The same arguments give the same shards.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    parts = digits.dirichlet_partition(pool.labels, sizes, alpha=alpha, rng=rng)
    return [pool.take(part) for part in parts]


def digits_model_path() -> Path:
    """The committed digits model, in the checkout this package runs from. DataError outside of one."""
    path = Path(__file__).resolve().parents[2] / "models" / "digits" / "digits.tflite"
    if not path.is_file():
        raise DataError(
            "the digits model is part of the repository and this installation has none",
            "run from a clone of the repository, or give --model",
        )
    return path
