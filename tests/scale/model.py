"""A model with a head of 650 parameters (10 x 64 weights, 10 biases) behind one small layer.

Its weights are seeded noise: what is measured with it is the host's work, which does not depend on them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import flat
from kilofed_tools.adapt import adapt
from kilofed_tools.flat import Table
from kilofed_tools.tflite import Op, TensorType

INPUTS, FEATURES, CLASSES = 32, 64, 10
PARAMETERS = CLASSES * FEATURES + CLASSES


def samples(count: int, seed: int = 7) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Inputs int8 [count, INPUTS] of seeded noise, and labels int64 [count], 0 .. CLASSES - 1."""
    rng = np.random.default_rng([seed, count])
    labels = np.arange(count, dtype=np.int64) % CLASSES
    return rng.integers(-128, 128, (count, INPUTS)).astype(np.int8), labels


def make_model(seed: int = 7) -> bytes:
    """The .tflite: INPUTS int8 values, FULLY_CONNECTED with ReLU to FEATURES, the head to CLASSES."""
    rng = np.random.default_rng(seed)
    buffers: list[Table] = [Table("Buffer", {})]
    tensors: list[Table] = []

    def tensor(name: str, shape: list[int], scale: float, zero: int, data: NDArray[np.generic] | None) -> int:
        buffer = 0
        if data is not None:
            buffer = len(buffers)
            buffers.append(Table("Buffer", {"data": np.frombuffer(data.tobytes(), np.uint8)}))
        kind = TensorType.INT32 if data is not None and data.dtype == np.int32 else TensorType.INT8
        quantization = Table(
            "QuantizationParameters",
            {"scale": np.array([scale], np.float32), "zero_point": np.array([zero], np.int64)},
        )
        values = {"shape": np.array(shape, np.int32), "type": int(kind), "buffer": buffer, "name": name}
        tensors.append(Table("Tensor", {**values, "quantization": quantization, "has_rank": True}))
        return len(tensors) - 1

    def layer(x: int, x_scale: float, sizes: tuple[int, int], out: tuple[float, int], relu: bool) -> Table:
        wide, narrow = sizes
        weights = rng.integers(-127, 128, (narrow, wide)).astype(np.int8)
        bias = rng.integers(-2000, 2000, narrow).astype(np.int32)
        w = tensor(f"weights {narrow}", [narrow, wide], 0.005, 0, weights)
        b = tensor(f"bias {narrow}", [narrow], float(np.float32(x_scale) * np.float32(0.005)), 0, bias)
        y = tensor(f"out {narrow}", [1, narrow], *out, None)
        options = Table("FullyConnectedOptions", {"fused_activation_function": int(relu)})
        inputs, outputs = np.array([x, w, b], np.int32), np.array([y], np.int32)
        return Table(
            "Operator",
            {
                "opcode_index": 0, "inputs": inputs, "outputs": outputs,
                "builtin_options_type": 8, "builtin_options": options,
            },
        )  # fmt: skip

    x = tensor("x", [1, INPUTS], 0.02, 3, None)
    hidden = layer(x, 0.02, (INPUTS, FEATURES), (0.03, -128), True)
    last = int(hidden.values["outputs"][0])
    head = layer(last, 0.03, (FEATURES, CLASSES), (0.1, 5), False)
    code = Table(
        "OperatorCode",
        {
            "deprecated_builtin_code": int(Op.FULLY_CONNECTED),
            "builtin_code": int(Op.FULLY_CONNECTED),
            "version": 4,
        },
    )
    graph = Table(
        "SubGraph",
        {
            "tensors": tensors,
            "inputs": np.array([x], np.int32),
            "outputs": head.values["outputs"],
            "operators": [hidden, head],
        },
    )
    model = Table("Model", {"version": 3, "operator_codes": [code], "subgraphs": [graph], "buffers": buffers})
    return adapt(flat.write(model), samples=samples(128)[0]).model
