"""Bring somebody's int8 .tflite into the form of a device model (the contract at the top of
`kilofed_tools.heads`).

What is changed, each with a note for the user:

* float or uint8 ends (QUANTIZE first, DEQUANTIZE or QUANTIZE last) are cut off;
* a last convolution that sees its whole input (1x1 on 1x1, or a kernel as large as the input) becomes
  FULLY_CONNECTED, and a 1x1 convolution before a global average becomes one after it;
* one output with LOGISTIC becomes two classes with SOFTMAX: softmax(0, z) = sigmoid(z);
* a missing bias is added, per-channel weights, a fused activation and a SOFTMAX beta other than 1 are
  resolved;
* the head's numbers become whole steps of the trainer's units, its buffers and quantization its own, aligned
  to 16;
* features are calibrated; labels, training defaults and the memory plan are written into the file.

What the head computed is kept to within the rounding of one int8 step, except where a note says more. What
cannot be brought here is refused with a ModelContractError: the reason and the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import flat, heads, metadata
from kilofed_tools.errors import ModelContractError
from kilofed_tools.evaluate import features as run_features
from kilofed_tools.flat import Table
from kilofed_tools.heads import HeadSpec
from kilofed_tools.metadata import HeadMeta
from kilofed_tools.operators import check_operators
from kilofed_tools.plan import with_plan
from kilofed_tools.prune import prune
from kilofed_tools.tflite import Op, Operator, TensorType, TFLiteModel, read_model, type_name

NOISE_SAMPLES = 64
NOISE_SEED = 1
_KEEP_CODES = (
    64  # trainer's units an int8 step: from here on rounding the step changes logits by less than 1 %
)
_RESHAPES = (Op.RESHAPE, Op.SQUEEZE, Op.EXPAND_DIMS)
_CONVERTER_ENTRY = "CONVERSION_METADATA"  # the converter's own version and options
_VALID = 1  # the schema's Padding.VALID


@dataclass(frozen=True, eq=False)
class Adapted:
    """model: the device model's bytes. notes: what was changed, a sentence each; empty when nothing was."""

    model: bytes
    notes: tuple[str, ...]


def adapt(
    model: bytes,
    *,
    samples: NDArray[np.int8] | None = None,
    labels: Sequence[str] | None = None,
    lr: float | None = None,
    batch: int | None = None,
    epochs: int | None = None,
) -> Adapted:
    """The device model for an int8 .tflite, and what was done to it.

    samples: int8 [N, ...], inputs to calibrate the features with, some hundred real ones; without them noise
    is used and a note says so. labels: one text a class ("0", "1", ... by default). lr, batch, epochs:
    training defaults for the file. A model that is a device model already comes back as it is, unless samples
    or labels are given. The same arguments give the same bytes. ModelContractError: it cannot be brought into
    form.
    """
    notes: list[str] = []
    parsed = read_model(model)
    check_operators(parsed)
    if samples is None and labels is None and _is_device_model(parsed):
        return Adapted(model, ())
    if not _in_units(parsed):
        notes.append("the head's numbers became whole steps of the trainer's units")
    parsed = _strip_ends(parsed, notes)
    heads.check_int8(parsed)
    tail = _find_tail(parsed)
    tail = _pool_first(parsed, tail, notes)
    weights, bias = _master_of(parsed, tail, notes)
    same = len(weights) == tail.classes
    old = heads.read_meta(parsed, weights.shape[1]) if same else None
    if labels is None and same:
        labels = heads.read_labels(parsed, len(weights))
    shaped = _replace_tail(parsed, tail, weights.shape[0], notes)
    return _finish(shaped, tail, weights, bias, samples, _Wanted(labels, lr, batch, epochs, old), notes)


def _in_units(model: TFLiteModel) -> bool:
    try:
        heads.read_head(model)
    except ModelContractError:
        return False
    return True


def _is_device_model(model: TFLiteModel) -> bool:
    return _in_units(model) and len(heads.find_head(model).calib) > 0


def _refuse(what: str, next_step: str, operator: Operator | None = None) -> NoReturn:
    raise ModelContractError(what, next_step, operator=-1 if operator is None else operator.index)


def _rewritten(model: TFLiteModel) -> TFLiteModel:
    """The model after changes to its tree, read again."""
    return read_model(flat.write(prune(model.tree)))


# ---------------------------------------------------------------- ends


def _strip_ends(model: TFLiteModel, notes: list[str]) -> TFLiteModel:
    """Cut QUANTIZE at the start and DEQUANTIZE or QUANTIZE at the end where they change the type."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        _refuse(
            f"the model has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            "convert a model with one of each",
        )
    graph = model.subgraph
    operators = list(model.operators)
    start = model.tensors[model.inputs[0]]
    readers = model.consumers(start.index)
    if start.type != TensorType.INT8 and len(readers) == 1 and readers[0].code == Op.QUANTIZE:
        inner = model.tensors[readers[0].outputs[0]]
        if inner.type == TensorType.INT8:
            operators.remove(readers[0])
            graph.values["inputs"] = np.array([inner.index], np.int32)
            notes.append(
                f"the {type_name(start.type)} input became int8: "
                f"value = {inner.scale:.6g} * (q - ({inner.zero_point}))"
            )
    end = model.tensors[model.outputs[0]]
    last = model.producer(end.index)
    if end.type != TensorType.INT8 and last is not None and last.code in (Op.DEQUANTIZE, Op.QUANTIZE):
        inner = model.tensors[last.inputs[0]]
        if inner.type == TensorType.INT8 and len(operators) > 1:
            operators.remove(last)
            graph.values["outputs"] = np.array([inner.index], np.int32)
            notes.append(f"the {type_name(end.type)} output became int8")
    if len(operators) == len(model.operators):
        return model
    graph.values["operators"] = [op.table for op in operators]
    return _rewritten(model)


# ---------------------------------------------------------------- tail


@dataclass(frozen=True, eq=False)
class _Tail:
    """The end of a model: operators from `head` to the last are the head and what follows it.

    head: FULLY_CONNECTED, or a CONV_2D that can be made one. pool: the global average after it, if any.
    ending: "logits", "softmax" or "logistic". beta: of the SOFTMAX. classes: outputs of the head as it is.
    """

    head: Operator
    pool: Operator | None
    ending: str
    beta: float
    classes: int


def _find_tail(model: TFLiteModel) -> _Tail:
    ending, beta, pool = "logits", 1.0, None
    tensor = model.outputs[0]
    while True:
        op = model.producer(tensor)
        if op is None or not op.inputs:
            _refuse("the model has no head: its output is its input", "end it in Dense(classes)")
        if op.code in (Op.FULLY_CONNECTED, Op.CONV_2D):
            break
        if op.code in (Op.SOFTMAX, Op.LOGISTIC) and ending == "logits" and pool is None:
            ending = "softmax" if op.code == Op.SOFTMAX else "logistic"
            beta = op.options.real("beta") if op.code == Op.SOFTMAX and op.options is not None else 1.0
        elif op.code in (Op.MEAN, Op.AVERAGE_POOL_2D) and pool is None:
            pool = op
        elif op.code not in _RESHAPES:
            _refuse(
                f"the model ends in {op.name}, which cannot follow a trained head",
                "cut it behind its last Dense layer (logits) or behind its softmax",
                op,
            )
        if len(model.consumers(op.inputs[0])) != 1:
            _refuse(
                f"the input of {op.name} is used elsewhere too", "end the model in one chain of layers", op
            )
        tensor = op.inputs[0]
    logits = model.tensors[op.outputs[0]]
    classes = logits.shape[-1] if logits.shape else 1
    if pool is None and logits.elements != classes:
        _refuse(
            f"the last layer ({op.name}) gives {list(logits.shape)}, not one value a class",
            "end the model in a global pooling and Dense(classes), converted with a batch of 1",
            op,
        )
    if ending == "logistic" and classes != 1:
        _refuse(
            f"the model ends in {classes} independent sigmoids, and a head is trained with one softmax",
            "train it with softmax, or with one sigmoid for two classes",
            op,
        )
    if ending != "logistic" and classes < 2:
        _refuse(
            "the model has one output and no sigmoid: a regression, which is not trained here",
            "end it in Dense(1, activation='sigmoid') for two classes",
            op,
        )
    if not np.isfinite(beta) or beta <= 0:
        _refuse(f"the SOFTMAX has beta {beta}", "use a positive beta", op)
    return _Tail(op, pool, ending, beta, classes)


def _pool_first(model: TFLiteModel, tail: _Tail, notes: list[str]) -> _Tail:
    """Check that a convolutional head can be made dense; a global average after it moves before it.

    A 1x1 convolution and an average over places commute, as both are linear and the one does not look at
    places. The average is then taken of the features, in their own quantization.
    """
    head = tail.head
    x, out = model.tensors[head.inputs[0]], model.tensors[head.outputs[0]]
    if head.code == Op.FULLY_CONNECTED:
        if tail.pool is not None:
            _refuse("an average follows the last Dense layer", "move the pooling before it", tail.pool)
        return tail
    weights = model.tensors[head.inputs[1]]
    advice = "end the model in a global pooling and Dense(classes)"
    if len(x.shape) != 4 or len(weights.shape) != 4 or len(out.shape) != 4 or x.shape[0] != 1:
        _refuse(f"the last convolution maps {list(x.shape)} to {list(out.shape)}", advice, head)
    kernel, places = weights.shape[1:3], x.shape[1:3]
    if weights.shape[3] != x.shape[3]:
        _refuse("the last convolution is grouped", advice, head)
    if tail.pool is None:
        whole = kernel == places and (kernel == (1, 1) or head.option("padding") == _VALID)
        dilated = head.option("dilation_w_factor") != 1 or head.option("dilation_h_factor") != 1
        if not whole or (dilated and kernel != (1, 1)):
            _refuse(f"the last convolution has a kernel of {list(kernel)} on {list(places)}", advice, head)
        notes.append("the last convolution became FULLY_CONNECTED")
        return tail
    pool = tail.pool
    strides = (head.option("stride_h"), head.option("stride_w"))
    if kernel != (1, 1) or strides != (1, 1) or head.option("fused_activation_function"):
        _refuse(
            "the last convolution is followed by an average and is not a plain 1x1 one without activation",
            advice,
            head,
        )
    pooled = model.tensors[pool.outputs[0]]
    whole = pooled.elements == out.shape[3]
    if pool.code == Op.AVERAGE_POOL_2D:
        whole = whole and not pool.option("fused_activation_function")
        whole = whole and (pool.option("filter_height"), pool.option("filter_width")) == places
    else:
        axes = model.tensors[pool.inputs[1]]
        dims = {int(a) % 4 for a in np.ravel(axes.array())} if axes.constant else set()
        whole = whole and dims == {1, 2}
    if not whole:
        _refuse("the average after the last convolution is not over all places", advice, pool)
    notes.append("the last 1x1 convolution became FULLY_CONNECTED, behind the average that followed it")
    return tail


def _master_of(
    model: TFLiteModel, tail: _Tail, notes: list[str]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(W int32 [C, F], b int32 [C]) in trainer's units, of the head as it is in the file."""
    head = tail.head
    x, w = model.tensors[head.inputs[0]], model.tensors[head.inputs[1]]
    if w.type != TensorType.INT8 or not w.constant:
        _refuse(
            f"the head's weights are {type_name(w.type)}, or computed, instead of constant int8",
            "quantize the model to int8 with `kilofed convert`",
            head,
        )
    if head.code == Op.FULLY_CONNECTED and head.option("weights_format"):
        _refuse("the head's weights are shuffled", "convert the model again without optimised weights", head)
    classes = tail.classes
    if len(w.scales) not in (1, classes) or (len(w.scales) > 1 and w.axis != 0) or w.elements % classes:
        _refuse(
            f"the head's weights have {len(w.scales)} scales for {classes} classes", "convert it again", head
        )
    features = w.elements // classes
    if not 1 <= features <= heads.MAX_FEATURES or classes > heads.MAX_CLASSES:
        _refuse(
            f"the head has {classes} classes and {features} features",
            f"use at most {heads.MAX_CLASSES} classes and {heads.MAX_FEATURES} features",
            head,
        )
    if head.code == Op.FULLY_CONNECTED and x.elements != features:
        _refuse(
            f"the head takes {features} features and gets {x.elements}", "convert with a batch of 1", head
        )
    if len(x.scales) != 1 or x.scale <= 0 or np.any(w.scales <= 0):
        _refuse("the head is not quantized", "quantize the model to int8 with `kilofed convert`", head)
    units = x.scale * 2.0**heads.UNIT_BITS
    codes = np.asarray(w.array(), np.int64).reshape(classes, features) - w.zero_points.reshape(-1, 1)
    steps = w.scales.astype(np.float64) * units * tail.beta
    if len(steps) == 1 and steps[0] >= _KEEP_CODES:
        # The nearest whole step for all keeps every code as it is: logits are scaled by a hair, their order
        # stays.
        steps = np.rint(steps)
    weights = codes * steps.reshape(-1, 1)
    bias = np.zeros(classes)
    if len(head.inputs) > 2 and head.inputs[2] >= 0:
        b = model.tensors[head.inputs[2]]
        if b.type != TensorType.INT32 or not b.constant or b.elements != classes:
            _refuse(
                "the head's bias is not constant int32 [C]", "quantize the model with `kilofed convert`", head
            )
        # By the contract of TFLite a bias has the scale s_x * s_w of its channel, whatever the file says.
        bias = np.asarray(b.array(), np.float64).ravel() * steps
    else:
        notes.append("a bias of zeros was added")
    if len(w.scales) > 1:
        notes.append("the head's per-channel weights became per-tensor")
    if tail.beta != 1.0:
        notes.append(f"the SOFTMAX's beta of {tail.beta:g} went into the head")
    if np.abs(weights).max() > heads.WEIGHT_MAX or np.abs(bias).max() > heads.BIAS_MAX:
        _refuse(
            "a weight or bias of the head is too large to be trained "
            f"(above {heads.WEIGHT_MAX} units of 2^-20 logits a feature step, or a bias above 1024)",
            "train the model with some weight decay on its last layer",
            head,
        )
    whole = np.rint(weights).astype(np.int32)
    if tail.ending == "logistic":
        notes.append("one output with LOGISTIC became two classes with SOFTMAX")
        whole = np.concatenate([np.zeros_like(whole), whole])
        bias = np.concatenate([np.zeros(1), bias])
    if head.option("fused_activation_function"):
        notes.append("the head's fused activation was dropped: logits may be negative now")
    return whole, np.rint(bias).astype(np.int32)


def _replace_tail(model: TFLiteModel, tail: _Tail, classes: int, notes: list[str]) -> TFLiteModel:
    """The model with a fresh FULLY_CONNECTED (all zeros) and SOFTMAX in place of its tail."""
    tree, graph = model.tree, model.subgraph
    head = tail.head
    x = model.tensors[head.inputs[0]]
    keep = [op.table for op in model.operators if op.index < head.index]
    if len(keep) + _tail_length(tail, model) != len(model.operators):
        _refuse("operators beside the head run after it", "end the model in one chain of layers", head)
    tensors, buffers = graph.tables("tensors"), tree.tables("buffers")
    if tail.pool is not None:
        x_index = len(tensors)
        old = model.tensors[tail.pool.outputs[0]]
        shape = [*old.shape[:-1], x.shape[3]]
        tensors.append(_activation("features", shape, x.scale, x.zero_point))
        pool = tail.pool.table
        pool.values["inputs"] = np.array([x.index, *tail.pool.inputs[1:]], np.int32)
        pool.values["outputs"] = np.array([x_index], np.int32)
        keep.append(pool)
        features = x.shape[3]
    else:
        x_index, features = x.index, x.elements

    def constant(name: str, kind: TensorType, shape: list[int], data: NDArray[Any]) -> int:
        buffers.append(Table("Buffer", {"data": np.frombuffer(data.tobytes(), np.uint8)}))
        tensors.append(_tensor(name, kind, shape, len(buffers) - 1, 1.0, 0))
        return len(tensors) - 1

    w = constant("head/weights", TensorType.INT8, [classes, features], np.zeros(classes * features, np.int8))
    b = constant("head/bias", TensorType.INT32, [classes], np.zeros(classes, np.int32))
    logits = len(tensors)
    tensors.append(_activation("head/logits", [1, classes], 1.0, 0))
    code = _operator_code(tree, Op.FULLY_CONNECTED, 4)
    keep.append(
        Table(
            "Operator",
            {
                "opcode_index": code,
                "inputs": np.array([x_index, w, b], np.int32),
                "outputs": np.array([logits], np.int32),
                "builtin_options_type": 8,
                "builtin_options": Table("FullyConnectedOptions"),
            },
        )
    )
    output = logits
    if tail.ending != "logits":
        output = len(tensors)
        tensors.append(_activation("probabilities", [1, classes], 1.0 / 256.0, -128))
        keep.append(
            Table(
                "Operator",
                {
                    "opcode_index": _operator_code(tree, Op.SOFTMAX, 2),
                    "inputs": np.array([logits], np.int32),
                    "outputs": np.array([output], np.int32),
                    "builtin_options_type": 9,
                    "builtin_options": Table("SoftmaxOptions", {"beta": 1.0}),
                },
            )
        )
    graph.values |= {"tensors": tensors, "operators": keep, "outputs": np.array([output], np.int32)}
    tree.values["buffers"] = buffers
    entries = tree.tables("metadata")
    drop = (metadata.HEAD, _CONVERTER_ENTRY)
    tree.values["metadata"] = [entry for entry in entries if entry.text("name") not in drop]
    for table in tensors:
        # The converter joins the names of all it fused with ";": kilobytes that a device would keep in flash.
        table.values["name"] = table.text("name").split(";")[0]
        quantization = table.table("quantization")
        if quantization is not None:
            quantization.values.pop(
                "min", None
            )  # of the float tensor, for tools that quantize; nobody reads it now
            quantization.values.pop("max", None)
    return _rewritten(model)


def _tail_length(tail: _Tail, model: TFLiteModel) -> int:
    """How many operators lead from the head to the model's output, both included."""
    length, tensor = 0, model.outputs[0]
    while True:
        op = model.producer(tensor)
        assert op is not None
        length += 1
        if op.index == tail.head.index:
            return length
        tensor = op.inputs[0]


def _quantization(scale: float, zero_point: int) -> Table:
    return Table(
        "QuantizationParameters",
        {"scale": np.array([scale], np.float32), "zero_point": np.array([zero_point], np.int64)},
    )


def _tensor(
    name: str, kind: TensorType, shape: list[int], buffer: int, scale: float, zero_point: int
) -> Table:
    return Table(
        "Tensor",
        {
            "shape": np.array(shape, np.int32),
            "type": int(kind),
            "buffer": buffer,
            "name": name,
            "quantization": _quantization(scale, zero_point),
            "has_rank": True,
        },
    )


def _activation(name: str, shape: list[int], scale: float, zero_point: int) -> Table:
    return _tensor(name, TensorType.INT8, shape, 0, scale, zero_point)


def _operator_code(tree: Table, code: Op, version: int) -> int:
    """The index of an operator code, added when it is not there."""
    codes = tree.tables("operator_codes")
    for index, table in enumerate(codes):
        if max(table.number("deprecated_builtin_code"), table.number("builtin_code")) == code:
            return index
    codes.append(
        Table(
            "OperatorCode",
            {"deprecated_builtin_code": int(code), "version": version, "builtin_code": int(code)},
        )
    )
    tree.values["operator_codes"] = codes
    return len(codes) - 1


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True, eq=False)
class _Wanted:
    labels: Sequence[str] | None
    lr: float | None
    batch: int | None
    epochs: int | None
    old: HeadMeta | None


def calibration(rows: NDArray[np.int8], zp_x: int) -> tuple[int, NDArray[np.int8]]:
    """(ms, calib) of features int8 [N, F]: their mean square in 1/256, and K = clamp(2048 // F, 4, 64)
    telling rows.

    The rows are chosen one by one, each the farthest from those chosen before (the first: from zero), so that
    the corners of the cloud are among them: it is there that a head's logits are largest. Fewer than K when
    there are fewer different ones. Exact in integers, ties go to the first. (Gonzalez, "Clustering to
    minimize the maximum intercluster distance", 1985.)
    """
    x = rows.astype(np.int64) - zp_x
    ms = max(1, int(np.rint(256.0 * float(np.mean(x * x)))))
    count = int(np.clip(2048 // rows.shape[1], 4, 64))
    distance = (x * x).sum(axis=1)
    chosen = [int(distance.argmax())]
    distance = np.full(len(x), np.iinfo(np.int64).max)
    while len(chosen) < count:
        difference = x - x[chosen[-1]]
        distance = np.minimum(distance, (difference * difference).sum(axis=1))
        farthest = int(distance.argmax())
        if distance[farthest] == 0:
            break
        chosen.append(farthest)
    return ms, np.ascontiguousarray(rows[chosen])


def _finish(
    model: TFLiteModel,
    tail: _Tail,
    weights: NDArray[np.int32],
    bias: NDArray[np.int32],
    samples: NDArray[np.int8] | None,
    wanted: _Wanted,
    notes: list[str],
) -> Adapted:
    """Write the head, its calibration and the metadata into a model with an empty head."""
    spec = heads.find_head(model)
    if samples is None and wanted.old is not None:
        ms, calib = wanted.old.ms, wanted.old.calib
    else:
        if samples is None:
            shape = (NOISE_SAMPLES, model.tensors[model.inputs[0]].elements)
            samples = np.random.Generator(np.random.PCG64(NOISE_SEED)).integers(-128, 128, shape, np.int8)
            notes.append(
                "the features were calibrated on noise: give representative data for training to go well"
            )
        ms, calib = calibration(run_features(model.data, samples), spec.zp_x)
    labels = _labels(wanted, spec)
    base = wanted.old or spec
    head = heads.quantise(spec, weights, bias, calib)
    meta = HeadMeta(
        spec.op,
        ms,
        calib,
        base.lr if wanted.lr is None else wanted.lr,
        base.batch if wanted.batch is None else wanted.batch,
        base.epochs if wanted.epochs is None else wanted.epochs,
    )
    payload = metadata.encode_head_meta(meta)
    metadata.decode_head_meta(payload, features=spec.features)  # refuses bad defaults
    data = metadata.write_metadata(heads.write_head(model.data, head), metadata.HEAD, payload)
    data = metadata.write_metadata(data, metadata.LABELS, metadata.encode_labels(labels))
    data = with_plan(data)
    heads.read_head(data)
    return Adapted(data, tuple(notes))


def _labels(wanted: _Wanted, spec: HeadSpec) -> tuple[str, ...]:
    if wanted.labels is None:
        return spec.labels
    labels = tuple(wanted.labels)
    if len(labels) != spec.classes:
        _refuse(f"{len(labels)} labels were given for {spec.classes} classes", "give one label a class")
    if len(set(labels)) != len(labels):
        _refuse("two labels are the same", "give every class a label of its own")
    return labels
