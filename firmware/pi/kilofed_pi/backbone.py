"""The frozen part of a model on a TFLite runtime, one sample at a time.

Shapes: F features, C classes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kilofed.link.blobs import blob_hash
from kilofed.link.messages import NO_HASH
from kilofed_tools import heads, metadata
from kilofed_tools.evaluate import Runner
from kilofed_tools.tflite import read_model


class Backbone:
    """What stands before the head of a device model.

    model: the .tflite, as bytes. fast: the runtime's own choice of kernels (XNNPACK) in place of the
    reference kernels; quicker, and a feature may then differ by one from what a board computes. Raises
    ModelError: the model is not one for devices, or no runtime is installed (its text says what to
    install).

    exact: whether features are the boards' to the byte. input_bytes: of a sample. classes C, features F,
    zp: zero point of the features. model_hash, labels_hash: as `info` says them. spec: all about the head.
    """

    def __init__(self, model: bytes, *, fast: bool = False) -> None:
        parsed = read_model(model)
        self.spec = heads.find_head(parsed)
        self.classes, self.features, self.zp = self.spec.classes, self.spec.features, self.spec.zp_x
        self.model_hash = heads.file_hash(model)
        labels = metadata.read_metadata(parsed, metadata.LABELS)
        self.labels_hash = NO_HASH if labels is None else blob_hash(labels)
        self.input_bytes = math.prod(parsed.tensors[parsed.inputs[0]].shape)
        # A model may be nothing but its head: then its input is the features.
        bare = self.spec.features_tensor in parsed.inputs
        self._runner = None if bare else Runner(heads.backbone(model), fast=fast)
        self.exact = self._runner is None or self._runner.exact

    def run(self, sample: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """The features, int8 [F], of one sample, int8 [input_bytes]. ModelError: another size."""
        if self._runner is None:
            return sample.reshape(self.features)
        return self._runner.run(sample[np.newaxis]).reshape(self.features)
