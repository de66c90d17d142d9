"""From floats to a device model, and what that costs: the accuracy before and after, on the same samples.

`convert` brings a model into form; here it is measured too. The float model runs in TensorFlow, in the
converter's process; the device model runs in the TFLite runtime whose bytes are the boards'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import convert
from kilofed_tools.adapt import adapt
from kilofed_tools.errors import ConvertError, DataError
from kilofed_tools.evaluate import Runner
from kilofed_tools.tflite import Op, TensorType, read_file, read_model, type_name


@dataclass(frozen=True)
class Quantized:
    """A device model and its price.

    model: its bytes. notes: what was changed on the way, a sentence each. samples: how many both were run on.
    before, after: the share (0..1) of them labelled right, by the floats and by the device model; None when
    they came without labels. agree: the share to which both give the same label.
    """

    model: bytes
    notes: tuple[str, ...]
    samples: int
    before: float | None
    after: float | None
    agree: float


def quantize(
    source: Path,
    data: NDArray[np.floating[Any]],
    *,
    test: NDArray[np.floating[Any]] | None = None,
    test_labels: NDArray[np.integer[Any]] | None = None,
    labels: Sequence[str] | None = None,
    lr: float | None = None,
    batch: int | None = None,
    epochs: int | None = None,
    timeout_s: float = convert.TIMEOUT_S,
) -> Quantized:
    """Quantizes a float model and runs both.

    source: a .keras or .h5 file, a SavedModel folder, or a float .tflite. data: float [N, ...],
    representative, see `convert.keras_to_int8`. test: float [M, ...], what both are run on, `data` by
    default; test_labels: [M], whole numbers. The others are those of `adapt`. ConvertError, DataError,
    ModelError, ModelContractError.
    """
    kind = _kind(source)
    rows = data if test is None else test
    if rows.ndim < 2 or rows.shape[1:] != data.shape[1:] or not len(rows) or not np.all(np.isfinite(rows)):
        raise DataError(
            f"test samples of shape {list(rows.shape)} beside representative ones of {list(data.shape)}",
            "give finite floats of one shape",
        )
    if test_labels is not None and (
        test_labels.shape != rows.shape[:1] or not np.issubdtype(test_labels.dtype, np.integer)
    ):
        raise DataError(
            f"labels of shape {list(test_labels.shape)}, type {test_labels.dtype}, for {len(rows)} samples",
            "give one whole number a sample",
        )
    raw, outputs = convert.run_converter(source, kind, data, test=rows, timeout_s=timeout_s)
    assert outputs is not None
    adapted = adapt(
        raw, samples=convert.quantize_input(raw, data), labels=labels, lr=lr, batch=batch, epochs=epochs
    )
    said = Runner(adapted.model).run(convert.quantize_input(adapted.model, rows)).argmax(axis=1)
    # A model of two classes may end in one sigmoid; the device model then has two outputs.
    floats = outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).astype(np.int64)
    return Quantized(
        model=adapted.model,
        notes=adapted.notes,
        samples=len(rows),
        before=None if test_labels is None else float(np.mean(floats == test_labels)),
        after=None if test_labels is None else float(np.mean(said == test_labels)),
        agree=float(np.mean(floats == said)),
    )


def _kind(source: Path) -> str:
    """What the converter's process calls the source; a .tflite that is no float model is refused."""
    if source.suffix != ".tflite":
        return convert.source_kind(source)
    model = read_model(read_file(source))
    kinds = [
        {model.tensors[i].type for i in (*op.inputs, *op.outputs) if i >= 0}
        for op in model.operators
        if op.code not in (Op.QUANTIZE, Op.DEQUANTIZE)
    ]
    used = set().union(*kinds)
    if used & {TensorType.INT8, TensorType.UINT8, TensorType.INT16}:
        if TensorType.INT16 in used or any({TensorType.INT8, TensorType.FLOAT32} <= k for k in kinds):
            raise ConvertError(
                f"{source.name} is quantized in another way already",
                "quantize the float model it was made from",
            )
        raise ConvertError(f"{source.name} is int8 already", "bring it into form with `kilofed convert`")
    odd = used - {TensorType.FLOAT32, TensorType.INT32}
    if odd:
        raise ConvertError(
            f"{source.name} holds {', '.join(sorted(type_name(t) for t in odd))}",
            "convert it to a float32 .tflite first, or quantize its Keras source",
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ConvertError(
            f"{source.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            "quantize a model with one of each",
        )
    return "tflite"
