"""What a model says: run a .tflite with an installed runtime, or its head alone in numpy, to the same bytes.

Shapes: N samples, F features, C classes.

`Runner` runs a whole model on tflite-runtime with the reference kernels (`OpResolverType.BUILTIN_REF`), which
give the same bytes as the boards; where tflite-runtime does not exist, ai-edge-litert takes its place, whose
bytes may differ from the boards' by one in some outputs (`Runner.exact` says which it is). `head_logits` is
the head in numpy: exactly what FULLY_CONNECTED computes, fast enough for every round of a run.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilofed_tools.errors import ModelError
from kilofed_tools.heads import Head, HeadSpec, backbone, find_head, weight_scale
from kilofed_tools.operators import check_operators
from kilofed_tools.tflite import TensorType, read_model, type_name

_RUNTIMES = ("tflite_runtime.interpreter", "ai_edge_litert.interpreter")
_AGAIN = "copy or convert the file again"
_INSTALL = "install one with `pip install 'kilofed[runtime]'`"


def runtime_module() -> Any:
    """The interpreter module of tflite-runtime, else of ai-edge-litert. ModelError without either."""
    reasons = []
    for name in _RUNTIMES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reasons.append(f"{name.split('.')[0]}: {error}")
    raise ModelError(f"no TFLite runtime is usable ({'; '.join(reasons)})", _INSTALL)


class Runner:
    """A model ready to run. Not safe for several threads at once.

    model: a .tflite with one int8 input and one int8 output. fast: the runtime's default kernels (XNNPACK),
    quicker, and off by one in some outputs. ModelError when the runtime refuses the model.
    """

    def __init__(self, model: bytes, *, fast: bool = False) -> None:
        parsed = read_model(model)
        check_operators(parsed)
        ends = (parsed.tensors[parsed.inputs[0]], parsed.tensors[parsed.outputs[0]])
        for end in ends:
            if end.type != TensorType.INT8:
                which = "input" if end is ends[0] else "output"
                raise ModelError(
                    f"the model's {which} is {type_name(end.type)}, not int8",
                    "bring it into form with `kilofed convert`",
                )
        module = runtime_module()
        self.exact = not fast and module.__name__ == _RUNTIMES[0]
        self.input_shape = ends[0].shape
        self.output_size = ends[1].elements
        kernels = module.OpResolverType.AUTO if fast else module.OpResolverType.BUILTIN_REF
        try:
            self._interpreter = module.Interpreter(
                model_content=model, experimental_op_resolver_type=kernels, num_threads=1
            )
            self._interpreter.allocate_tensors()
        # The runtime raises RuntimeError or ValueError for a model it refuses, ImportError when its numpy is
        # too new.
        except (RuntimeError, ValueError, ImportError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(
                f"the TFLite runtime refuses the model ({text})",
                "convert it again without newer operators, and keep numpy below 2 beside tflite-runtime",
            ) from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def run(self, samples: NDArray[np.int8]) -> NDArray[np.int8]:
        """int8 [N, output size] for int8 samples [N, ...] of as many bytes as the input has.

        ModelError when they do not fit, or when the runtime fails.
        """
        flat = samples.reshape(len(samples), math.prod(samples.shape[1:]))
        if samples.dtype != np.int8 or flat.shape[1] != math.prod(self.input_shape):
            raise ModelError(
                f"samples of {flat.shape[1]} x {samples.dtype} do not fit int8 {list(self.input_shape)}",
                "give samples of the model's own shape, in int8",
            )
        out = np.empty((len(samples), self.output_size), np.int8)
        for row, sample in enumerate(flat):
            self._interpreter.set_tensor(self._input, sample.reshape(self.input_shape))
            try:
                self._interpreter.invoke()
            except (RuntimeError, ValueError) as error:
                text = " ".join(str(error).split())
                raise ModelError(f"the TFLite runtime cannot run the model ({text})", _AGAIN) from error
            values = self._interpreter.get_tensor(self._output)
            if values.size != self.output_size:
                raise ModelError(
                    f"the model gives {values.size} values where its file says {self.output_size}", _AGAIN
                )
            out[row] = values.ravel()
        return out


def features(model: bytes, samples: NDArray[np.int8], *, fast: bool = False) -> NDArray[np.int8]:
    """The backbone's output, int8 [N, F], for int8 samples [N, ...]; the samples themselves without one."""
    parsed = read_model(model)
    spec = find_head(parsed)
    if spec.features_tensor in parsed.inputs:
        return np.ascontiguousarray(samples.reshape(len(samples), spec.features))
    return Runner(backbone(model), fast=fast).run(samples)


def quantize_multiplier(real: float) -> tuple[int, int]:
    """(m, shift) with real = m * 2^(shift - 31), m in [2^30, 2^31), as TFLite prepares its output
    multipliers.

    real: 0 or positive, a double. (0, 0) for zero and for anything below 2^-32.
    """
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    # round half away from zero, as C's round(); fraction * 2^31 is below 2^31, so + 0.5 is exact
    multiplier = math.floor(fraction * 2.0**31 + 0.5)
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def requantize(acc: NDArray[np.int64], multiplier: int, shift: int) -> NDArray[np.int64]:
    """acc * multiplier * 2^(shift - 31) with TFLite's two roundings. acc: int32 values in int64.

    First the doubling high product, rounded to nearest with halves away from zero, then a rounding shift to
    the right. (TFLite `MultiplyByQuantizedMultiplier` without TFLITE_SINGLE_ROUNDING; gemmlowp
    `SaturatingRoundingDoublingHighMul` and `RoundingDivideByPOT`.)
    """
    left, right = max(shift, 0), max(-shift, 0)
    # the left shift wraps like the C code's int32 product
    wide = (acc << left).astype(np.int32).astype(np.int64) * multiplier  # |.| < 2^62
    nudge = np.where(wide >= 0, 1 << 30, 1 - (1 << 30))
    total = wide + nudge
    # C's division truncates towards zero
    high = np.where(total >= 0, total >> 31, -((-total) >> 31))
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (high < 0)
    return (high >> right) + ((high & mask) > threshold)


def head_logits(head: Head, rows: NDArray[np.int8], *, s_x: float, zp_x: int) -> NDArray[np.int8]:
    """The head's int8 logits [N, C] for int8 features [N, F], to the byte what TFLite's FULLY_CONNECTED
    computes.

    TFLite multiplies the input and weight scales in float32. TFLite Micro may do it in double: its multiplier
    then differs in the last of 31 bits, which shows in about one output of a million, by one.
    """
    # |(q - zp) * w| <= 255 * 128 and F <= 2048: below 2^26; |bias| <= 2^30 + 1: the sum fits int32
    acc = (rows.astype(np.int64) - zp_x) @ head.weights.astype(np.int64).T + head.bias.astype(np.int64)
    product = float(np.float32(s_x) * np.float32(weight_scale(head.step, s_x)))
    multiplier, shift = quantize_multiplier(product / float(np.float32(head.out_scale)))
    out = requantize(acc, multiplier, shift) + head.out_zp
    return np.clip(out, -128, 127).astype(np.int8)


def head_accuracy(
    head: Head, rows: NDArray[np.int8], labels: NDArray[np.integer[Any]], spec: HeadSpec
) -> float:
    """The share (0..1) of features int8 [N, F] that the head labels right; the first of equals wins."""
    logits = head_logits(head, rows, s_x=spec.s_x, zp_x=spec.zp_x)
    return float(np.mean(logits.argmax(axis=1) == labels))


def accuracy(
    model: bytes, samples: NDArray[np.int8], labels: NDArray[np.integer[Any]], *, fast: bool = False
) -> float:
    """The share (0..1) of int8 samples [N, ...] that a .tflite labels right; the first of equals wins."""
    outputs = Runner(model, fast=fast).run(samples)
    return float(np.mean(outputs.argmax(axis=1) == labels))


def confusion(
    model: bytes, samples: NDArray[np.int8], labels: NDArray[np.integer[Any]], *, fast: bool = False
) -> NDArray[np.int64]:
    """int64 [C, C]: how many int8 samples [N, ...] of label r (row) a .tflite takes for class c (column).

    labels: [N], below the C outputs of the model. The first of equals wins; trace / N is `accuracy`.
    """
    runner = Runner(model, fast=fast)
    counts = np.zeros((runner.output_size, runner.output_size), np.int64)
    np.add.at(counts, (labels, runner.run(samples).argmax(axis=1)), 1)
    return counts
