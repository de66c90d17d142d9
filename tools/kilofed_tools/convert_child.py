"""The converter's own process: Keras, SavedModel or a float .tflite in, int8 .tflite out. The one module that
imports TensorFlow.

Run by `kilofed_tools.convert` as ``python -m kilofed_tools.convert_child JOB``, where JOB is a folder with
``job.json`` ({"source": path, "kind": "keras", "saved_model" or "tflite"}), ``data.npy`` (float32 [N, ...],
the representative data) and, where the float model's own outputs are wanted, ``test.npy`` (float32 [M, ...]).
It leaves ``model.tflite`` and ``outputs.npy`` (float32 [M, C]), or ``error.json`` ({"what", "next_step"})
beside them. It may crash: the parent expects that.

What TensorFlow prints goes to wherever the parent sent it; nothing here is written to be read by a person.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


class _Refusal(Exception):
    """what, next_step."""


def _recurrent(layer: Any) -> list[str]:
    """Names of the layers, nested ones too, that would become a loop in the graph."""
    found = []
    for child in getattr(layer, "layers", None) or [getattr(layer, "layer", None)]:
        if child is None:
            continue
        if hasattr(child, "unroll") and not child.unroll:
            found.append(str(child.name))
        found += _recurrent(child)
    return found


def _function(tf: Any, source: str, kind: str) -> tuple[Any, Any]:
    """(callable of one tensor, object that keeps the variables alive)."""
    if kind == "keras":
        model = tf.keras.models.load_model(source, compile=False)
        loops = _recurrent(model)
        if loops:
            raise _Refusal(
                f"the layer {loops[0]!r} is a loop, which crashes the TFLite converter",
                "build it with unroll=True, or use convolutions over time instead",
            )
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise _Refusal(
                f"the model has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
                "convert a model with one of each",
            )
        return (lambda x: model(x, training=False)), model
    loaded = tf.saved_model.load(source)
    signature = getattr(loaded, "signatures", {}).get("serving_default")
    if signature is None:
        raise _Refusal("the SavedModel has no signature 'serving_default'", "export it with model.export()")
    names = list(signature.structured_input_signature[1])
    outputs = list(signature.structured_outputs)
    if len(names) != 1 or len(outputs) != 1:
        raise _Refusal(
            f"the SavedModel has {len(names)} inputs and {len(outputs)} outputs",
            "export one with one of each",
        )
    return (lambda x: signature(**{names[0]: x})[outputs[0]]), loaded


def _convert(folder: Path) -> bytes:
    job = json.loads((folder / "job.json").read_text())
    data = np.load(folder / "data.npy", allow_pickle=False)
    import tensorflow as tf

    if job["kind"] == "tflite":
        return _quantize(tf, Path(job["source"]).read_bytes(), data, folder)
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    call, keeper = _function(tf, job["source"], job["kind"])
    # A fixed batch of one: with an open batch, Flatten becomes SHAPE, STRIDED_SLICE and PACK.
    spec = tf.TensorSpec((1, *data.shape[1:]), tf.float32)
    try:
        concrete = tf.function(call).get_concrete_function(spec)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise _Refusal(
            f"the model does not take data of shape {list(data.shape[1:])} ({_line(error)})",
            "give representative data of the model's input shape",
        ) from error
    frozen = convert_variables_to_constants_v2(concrete)
    if len(frozen.outputs) != 1 or len(frozen.outputs[0].shape) < 2:
        raise _Refusal(
            f"the model's output has the shape {frozen.outputs[0].shape}", "end it in Dense(classes)"
        )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], keeper)

    def representative() -> Iterator[list[Any]]:
        for sample in data:
            yield [sample[np.newaxis]]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    # Dense layers per tensor: tflite-runtime 2.14 and older TFLite Micro refuse them per channel.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    if (folder / "test.npy").is_file():
        _put_outputs(folder, lambda sample: np.asarray(frozen(tf.constant(sample))[0]))
    return bytes(converter.convert())


def _quantize(tf: Any, model: bytes, data: Any, folder: Path) -> bytes:
    """A float .tflite as int8: the converter's own calibrator, on the finished file."""
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    interpreter = tf.lite.Interpreter(model_content=model, num_threads=1)
    takes = interpreter.get_input_details()[0]
    shape = (1, *takes["shape"][1:])
    if list(data.shape[1:]) != [int(n) for n in shape[1:]]:
        raise _Refusal(
            f"the model takes {list(shape[1:])} a sample, and the data has {list(data.shape[1:])}",
            "give representative data of the model's input shape",
        )
    interpreter.resize_tensor_input(takes["index"], shape)
    interpreter.allocate_tensors()
    gives = interpreter.get_output_details()[0]["index"]

    def run(sample: Any) -> Any:
        interpreter.set_tensor(takes["index"], sample)
        interpreter.invoke()
        return interpreter.get_tensor(gives)

    if (folder / "test.npy").is_file():
        _put_outputs(folder, run)

    def representative() -> Iterator[list[Any]]:
        for sample in data:
            yield [sample[np.newaxis]]

    return bytes(
        Calibrator(model).calibrate_and_quantize(
            representative,
            tf.int8,
            tf.int8,
            False,
            # As above: dense layers per tensor.
            disable_per_channel_quantization_for_dense_layers=True,
        )
    )


def _put_outputs(folder: Path, run: Callable[[Any], Any]) -> None:
    """What the float model says to each sample of test.npy, one at a time as on a device."""
    rows = [np.ravel(run(sample[np.newaxis])) for sample in np.load(folder / "test.npy", allow_pickle=False)]
    np.save(folder / "outputs.npy", np.array(rows, np.float32))


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def main(folder: Path) -> int:
    """0 with model.tflite written, 3 with error.json written."""
    try:
        (folder / "model.tflite").write_bytes(_convert(folder))
        return 0
    except _Refusal as refusal:
        what, next_step = refusal.args
    except ImportError as error:
        what, next_step = f"TensorFlow cannot be imported ({_line(error)})", "pip install 'kilofed[convert]'"
    # Whatever else the converter raises is the user's to read, in one line; the log has the rest.
    except Exception as error:
        what = f"TensorFlow cannot convert the model ({_line(error)})"
        next_step = "use layers that TFLite has as int8 operators (convolution, pooling, Dense, add)"
    (folder / "error.json").write_text(json.dumps({"what": what, "next_step": next_step}))
    return 3


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
