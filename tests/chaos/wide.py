"""A head as large as a model: for blobs that take seconds on a line."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import flatbuffers
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from kilofed_tools.adapt import adapt

ROOT = Path(__file__).resolve().parents[2]
CLASSES, FEATURES = 100, 492  # a head of 49 616 bytes, an int8 update of 49 316


@cache
def wide_model() -> bytes:
    """Nothing but a head of 49 300 parameters."""
    small = (ROOT / "tests" / "data" / "foreign" / "only_head.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(small, 0))
    rng = np.random.default_rng(1)
    shapes = [[1, FEATURES], [CLASSES], [CLASSES, FEATURES], [1, CLASSES], [1, CLASSES]]
    for tensor, shape in zip(model.subgraphs[0].tensors, shapes, strict=True):
        tensor.shape = shape
    _, bias, weights, *_ = (model.buffers[tensor.buffer] for tensor in model.subgraphs[0].tensors)
    bias.data = rng.integers(-999, 1000, CLASSES).astype("<i4").view(np.uint8)
    weights.data = rng.integers(-127, 128, (CLASSES, FEATURES), np.int8).view(np.uint8).ravel()
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return adapt(bytes(builder.Output())).model
