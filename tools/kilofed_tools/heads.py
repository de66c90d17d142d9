"""The head: the last FULLY_CONNECTED of a model, the part that is trained, sent and written back.

C classes, F features. The head of a *device model* computes, for features q (int8 [F], zero point zp_x, scale
s_x):

    logit[c] = step * 2^-20 * (sum over f of weights[c, f] * (q[f] - zp_x)  +  bias[c])

Everything is counted in the trainer's units: 2^-20 / s_x for weights, 2^-20 for biases. A head's *step* S
says how many of these units one int8 code is worth, so that master = code * S is exact. In the .tflite the
same numbers read as

    weight scale s_w = float32(S * 2^-20 / s_x)   computed in double, rounded once; zero point 0
    bias scale       = float32(s_x * s_w)         a float32 product, as TFLite checks
    output scale and zero point                   chosen by `quantise` from the calibration features

A *master* is (W int32 [C, F], b int32 [C]) in trainer's units: what the host averages. A *head blob* is what
travels:

    0 u8 version 1 | 1 u8 kind 1 | 2 u8 codec (0 int32, 1 int8, 2 int4) | 3 i8 out_zp | 4 u16 C | 6 u16 F | 8
    u32 step | 12 f32 out_scale | 16 weights [C][F] in the codec | zeros to a multiple of 4 | i32 bias[C]

little endian; int4 are two's complement nibbles, the low one first, over the whole array (an odd last one has
a zero high nibble). 376 bytes for 10 x 32 in int8.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import flat, metadata
from kilofed_tools.errors import HeadError, ModelContractError
from kilofed_tools.metadata import HeadMeta
from kilofed_tools.operators import DEVICE_OPERATORS, check_operators
from kilofed_tools.prune import prune
from kilofed_tools.tflite import Op, Operator, Tensor, TensorType, TFLiteModel, patch, read_model, type_name

MAX_CLASSES = 1024
MAX_FEATURES = 2048
WEIGHT_MAX = (1 << 23) - 129  # of |W|: the dot product takes W rounded by 8 bits as an int16
BIAS_MAX = 1 << 30  # of |b|
STEP_MAX = -(-WEIGHT_MAX // 7)  # of an int4 head whose largest weight is WEIGHT_MAX
UNIT_BITS = 20  # trainer's units are 2^-20 (/ s_x for weights)
# The finest output scale: about the trainer's own logits of 2^-12, below which nothing shows. Not a power of
# two: its ratio to a step of 2^-20 would be one too, so that one sum in 256 is a tie, and TFLite and TFLite
# Micro, which multiply the scales in float32 and in double, round ties differently.
MIN_OUT_SCALE = 1.0 / 4000.0
SCALE_MIN = (
    2.0**-40
)  # of features and logits, and 1 / it at most: weight scales then stay normal float32 values
CODEC_INT32, CODEC_INT8, CODEC_INT4 = 0, 1, 2
DEFAULT_LR, DEFAULT_BATCH, DEFAULT_EPOCHS = 0.1, 16, 2

_BLOB_HEADER = struct.Struct("<BBBbHHIf")
_BRING = "bring it into form with `kilofed convert`"


@dataclass(frozen=True, eq=False)
class Head:
    """A quantized head.

    classes 2..1024, features 1..2048, step 1..STEP_MAX. weights: int8 [C, F] (int32 only when decoded from
    codec 0). bias: int32 [C]. out_scale: a float32 value, finite and positive; out_zp: -128..127.
    """

    classes: int
    features: int
    step: int
    weights: NDArray[Any]
    bias: NDArray[np.int32]
    out_scale: float
    out_zp: int


@dataclass(frozen=True, eq=False)
class HeadSpec:
    """Where the head is in a model, and what it expects.

    op, softmax: operator indices, softmax None when the model ends in logits. features_tensor,
    weights_tensor, bias_tensor, out_tensor: tensor indices. classes C, features F. s_x, zp_x: scale (a
    float32 value) and zero point of the features. labels: C texts, "0".."C-1" when the model does not say.
    ms: mean square of q - zp_x in 1/256, 0 when unknown. calib: int8 [K, F], K = 0 when unknown. lr, batch,
    epochs: training defaults. places: name -> (position, bytes) of what a new head overwrites: weights, bias,
    w_scale, b_scale, out_scale, out_zp.
    """

    op: int
    softmax: int | None
    features_tensor: int
    weights_tensor: int
    bias_tensor: int
    out_tensor: int
    classes: int
    features: int
    s_x: float
    zp_x: int
    labels: tuple[str, ...]
    ms: int
    calib: NDArray[np.int8]
    lr: float
    batch: int
    epochs: int
    places: dict[str, tuple[int, int]]


# ---------------------------------------------------------------- blobs


def _check_head(head: Head) -> None:
    if not (2 <= head.classes <= MAX_CLASSES and 1 <= head.features <= MAX_FEATURES):
        raise HeadError(
            f"a head of {head.classes} x {head.features} is out of range",
            f"use 2 to {MAX_CLASSES} classes and at most {MAX_FEATURES} features",
        )
    if head.weights.shape != (head.classes, head.features) or head.bias.shape != (head.classes,):
        raise HeadError(
            f"weights {head.weights.shape} and bias {head.bias.shape} are not a head of "
            f"{head.classes} x {head.features}",
            "send the head of the model that is in use",
        )
    if not 1 <= head.step <= STEP_MAX:
        raise HeadError(
            f"the step {head.step} is outside 1 to {STEP_MAX}", "make the head again from its master"
        )
    scale = np.float32(head.out_scale)
    if not (np.isfinite(scale) and scale >= np.finfo(np.float32).tiny and -128 <= head.out_zp <= 127):
        raise HeadError(
            f"the output quantization ({head.out_scale}, {head.out_zp}) is out of range",
            "make the head again from its master",
        )
    top = int(np.abs(head.bias.astype(np.int64)).max()) * head.step
    if top > BIAS_MAX + head.step:
        raise HeadError(
            f"a bias of {top} units is above {BIAS_MAX}", "lower the learning rate and train again"
        )


def encode_head(head: Head, codec: int = CODEC_INT8) -> bytes:
    """The blob of a head. HeadError when it is out of range or a code does not fit the codec."""
    _check_head(head)
    ranges = {CODEC_INT32: (-(2**31), 2**31 - 1), CODEC_INT8: (-128, 127), CODEC_INT4: (-8, 7)}
    if codec not in ranges:
        raise HeadError(f"unknown head codec {codec}", "use 0 (int32), 1 (int8) or 2 (int4)")
    codes = head.weights.astype(np.int64).ravel()
    low, high = ranges[codec]
    if codes.min() < low or codes.max() > high:
        raise HeadError(
            f"a weight code is outside {low} to {high}", "quantise the master for this codec first"
        )
    if codec == CODEC_INT32:
        packed = codes.astype("<i4").tobytes()
    elif codec == CODEC_INT8:
        packed = codes.astype(np.int8).tobytes()
    else:
        nibbles = np.append(codes, np.zeros(len(codes) % 2, np.int64)).astype(np.uint8) & 15
        packed = (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes()
    start = _BLOB_HEADER.pack(
        1, 1, codec, head.out_zp, head.classes, head.features, head.step, head.out_scale
    )
    return start + packed + bytes(-len(packed) % 4) + head.bias.astype("<i4").tobytes()


def decode_head(blob: bytes) -> Head:
    """The head of a blob. HeadError when it is not one, to the byte."""
    again = "send it again, or make it again with `encode_head`"
    if len(blob) < _BLOB_HEADER.size:
        raise HeadError(f"{len(blob)} bytes are too short for a head", again)
    version, kind, codec, out_zp, classes, features, step, out_scale = _BLOB_HEADER.unpack_from(blob)
    if version != 1 or kind != 1:
        raise HeadError(f"blob version {version} kind {kind} is not a head of version 1", again)
    if codec not in (CODEC_INT32, CODEC_INT8, CODEC_INT4):
        raise HeadError(f"unknown head codec {codec}", "update kilofed on this machine")
    count = classes * features
    length = {CODEC_INT32: 4 * count, CODEC_INT8: count, CODEC_INT4: (count + 1) // 2}[codec]
    start = _BLOB_HEADER.size + length
    total = start + -length % 4 + 4 * classes
    if len(blob) != total:
        raise HeadError(f"a head of {classes} x {features} has {total} bytes, not {len(blob)}", again)
    raw = np.frombuffer(blob, np.uint8, length, _BLOB_HEADER.size)
    weights: NDArray[Any]
    if codec == CODEC_INT32:
        weights = raw.view("<i4").astype(np.int32)
    elif codec == CODEC_INT8:
        weights = raw.view(np.int8).copy()
    else:
        nibbles = np.stack([raw & 15, raw >> 4], axis=1).ravel().astype(np.int8)
        if count % 2 and nibbles[-1]:
            raise HeadError("the unused last nibble is not zero", again)
        weights = ((nibbles[:count] ^ 8) - 8).astype(np.int8)
    if any(blob[start : start + -length % 4]):
        raise HeadError("the padding is not zero", again)
    bias = np.frombuffer(blob, "<i4", classes, total - 4 * classes).astype(np.int32)
    head = Head(classes, features, step, weights.reshape(classes, features), bias, out_scale, out_zp)
    _check_head(head)
    return head


def _hash8(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def head_hash(blob: bytes) -> bytes:
    """BLAKE2b of a blob, 8 bytes: its name on the link and in the store."""
    return _hash8(blob)


def labels_hash(labels: tuple[str, ...] | list[str]) -> bytes:
    """BLAKE2b, 8 bytes, of the labels in UTF-8 joined by NUL: devices and host must mean the same classes."""
    return _hash8(metadata.encode_labels(labels))


def file_hash(model: bytes) -> bytes:
    """BLAKE2b of a whole model file, 8 bytes: what a device reports of the file it was flashed with."""
    return _hash8(model)


# ---------------------------------------------------------------- masters


def master(head: Head) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(W int32 [C, F], b int32 [C]) in trainer's units: codes times step, saturated as the device does it."""
    weights = np.clip(head.weights.astype(np.int64) * head.step, -WEIGHT_MAX, WEIGHT_MAX)
    bias = np.clip(head.bias.astype(np.int64) * head.step, -BIAS_MAX, BIAS_MAX)
    return weights.astype(np.int32), bias.astype(np.int32)


def step_for(weights: NDArray[np.int32], top: int = 127) -> int:
    """The step for a master's weights: the smallest that brings every code to at most `top`."""
    largest = int(np.abs(weights.astype(np.int64)).max(initial=0))
    return max(1, -(-largest // top))


def _divide(values: NDArray[np.int32], step: int) -> NDArray[np.int64]:
    # floor((2 v + S) / (2 S)): to the nearest, halves upwards, in exact integers: |2 v + S| < 2^33
    return (2 * values.astype(np.int64) + step) // (2 * step)


def weight_scale(step: int, s_x: float) -> float:
    """float32(step * 2^-20 / s_x), computed in double and rounded once."""
    return float(np.float32(step * 2.0**-UNIT_BITS / s_x))


def bias_scale(step: int, s_x: float) -> float:
    """float32(s_x * s_w): a product of two float32, rounded to float32."""
    return float(np.float32(s_x) * np.float32(weight_scale(step, s_x)))


def output_quantization(
    weights: NDArray[Any], bias: NDArray[np.int32], step: int, zp_x: int, calib: NDArray[np.int8]
) -> tuple[float, int]:
    """(scale, zero point) that hold the logits of the calibration features with a quarter to spare on either
    side.

    The range always contains 0; its scale is at least MIN_OUT_SCALE. float64 on exact
    integers, so every machine gets the same.
    """
    codes = (calib.astype(np.int64) - zp_x) @ weights.astype(np.int64).T + bias.astype(np.int64)
    unit = step * 2.0**-UNIT_BITS
    low = 1.25 * unit * min(0, int(codes.min()))
    high = 1.25 * unit * max(0, int(codes.max()))
    scale = float(np.float32(max((high - low) / 255.0, MIN_OUT_SCALE)))
    zero_point = int(np.clip(np.rint(-128.0 - low / scale), -128, 127))
    return scale, zero_point


def quantise(
    spec: HeadSpec,
    weights: NDArray[np.int32],
    bias: NDArray[np.int32],
    calib: NDArray[np.int8] | None = None,
    *,
    codec: int = CODEC_INT8,
) -> Head:
    """The int8 (or int4) head of a master.

    weights: int32 [C, F], |W| <= WEIGHT_MAX; bias: int32 [C], |b| <= BIAS_MAX, both in trainer's units.
    calib: int8 [K, F], the model's own by default. HeadError on other shapes, values out of range, or when
    there is no calibration.
    """
    features = spec.calib if calib is None else calib
    if weights.shape != (spec.classes, spec.features) or bias.shape != (spec.classes,):
        raise HeadError(
            f"a master of {weights.shape} and {bias.shape} does not fit the model's head of "
            f"{spec.classes} x {spec.features}",
            "use the run's own model",
        )
    if features.ndim != 2 or features.shape[1] != spec.features or len(features) == 0:
        raise HeadError(
            f"calibration features of shape {features.shape} do not fit {spec.features} features", _BRING
        )
    if int(np.abs(weights.astype(np.int64)).max()) > WEIGHT_MAX:
        raise HeadError(f"a weight is above {WEIGHT_MAX} units", "lower the learning rate and train again")
    if int(np.abs(bias.astype(np.int64)).max()) > BIAS_MAX:
        raise HeadError(f"a bias is above {BIAS_MAX} units", "lower the learning rate and train again")
    step = step_for(weights, 7 if codec == CODEC_INT4 else 127)
    codes = _divide(weights, step).astype(np.int8)
    small = _divide(bias, step).astype(np.int32)
    scale, zero_point = output_quantization(codes, small, step, spec.zp_x, features)
    return Head(spec.classes, spec.features, step, codes, small, scale, zero_point)


# ---------------------------------------------------------------- the head in the file


def _outside(what: str, next_step: str = _BRING, *, operator: int = -1) -> NoReturn:
    raise ModelContractError(what, next_step, operator=operator)


def head_operators(model: TFLiteModel) -> tuple[Operator, Operator | None]:
    """(the FULLY_CONNECTED that ends the model, the SOFTMAX after it or None), or ModelContractError."""
    last = model.operators[-1]
    softmax: Operator | None = None
    if last.code == Op.SOFTMAX:
        softmax = last
        found = model.producer(last.inputs[0]) if last.inputs else None
        last = last if found is None else found
    if last.code != Op.FULLY_CONNECTED:
        kinds = f"{last.name} then SOFTMAX" if softmax is not None and last is not softmax else last.name
        _outside(
            f"the model ends in {kinds}, not in FULLY_CONNECTED with or without SOFTMAX", operator=last.index
        )
    if last.index != len(model.operators) - (1 if softmax is None else 2):
        _outside("the head is not the last operator of the model", operator=last.index)
    return last, softmax


def check_int8(model: TFLiteModel) -> None:
    """ModelContractError unless the model has one int8 input, one int8 output, and only int8 activations."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        _outside(
            f"the model has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            "convert a model with one of each",
        )
    quantize = "quantize it to int8 with representative data: `kilofed convert`"
    floats = (TensorType.FLOAT32, TensorType.FLOAT16)
    for op in model.operators:
        if op.name == "SHAPE":
            _outside(
                "the model was converted with an open batch",
                "convert it with a batch of 1",
                operator=op.index,
            )
        if op.code not in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED):
            continue
        x, w = model.tensors[op.inputs[0]], model.tensors[op.inputs[1]]
        if x.type in floats:
            kind = "float" if w.type in floats else f"float with {type_name(w.type)} weights (hybrid)"
            _outside(f"the model computes in {kind}", quantize, operator=op.index)
        if x.type != TensorType.INT8:
            _outside(f"the model has {type_name(x.type)} activations, not int8", quantize, operator=op.index)
        if np.any(w.zero_points != 0):  # no kernel subtracts them, and the device refuses them
            _outside(f"the weights of operator {op.index} ({op.name}) are not quantized around 0", quantize)
    for tensor in model.tensors:
        used = model.producer(tensor.index) is not None or tensor.index in model.inputs
        if not tensor.constant and used and tensor.type != TensorType.INT8:
            where = "input" if tensor.index in model.inputs else "activation"
            where = "output" if tensor.index in model.outputs else where
            _outside(f"the {where} {tensor.name!r} is {type_name(tensor.type)}, not int8")
    for tensor in model.tensors:
        if tensor.type == TensorType.INT8 and not tensor.constant and len(tensor.scales) != 1:
            _outside(f"the activation {tensor.name!r} has {len(tensor.scales)} scales instead of 1")
        if tensor.type == TensorType.INT8 and not all(-128 <= zero <= 127 for zero in tensor.zero_points):
            _outside(f"the tensor {tensor.name!r} has a zero point outside -128 to 127", quantize)


def _place(tensor: Tensor, name: str, size: int, what: str) -> tuple[int, int]:
    quantization = tensor.table.table("quantization")
    if quantization is None or len(quantization.numbers(name)) != 1:
        _outside(f"the head's {what} is not written out in the file")
    return quantization.at[name], size


def _check_unshared(model: TFLiteModel, places: dict[str, tuple[int, int]]) -> None:
    spans = sorted((start, start + size, name) for name, (start, size) in places.items())
    regions = sorted(flat.regions(model.tree))
    for start, end, name in spans:
        owners = [r for r in regions if r[0] < end and start < r[1]]
        if len(owners) != 1:
            _outside(f"the bytes of the head's {name} are shared with something else in the file")


def _check_computed(model: TFLiteModel) -> None:
    foreign = [op for op in model.operators if op.code not in DEVICE_OPERATORS]
    if foreign:
        named = ", ".join(f"{op.index} ({op.name})" for op in foreign)
        _outside(
            f"no device computes operator{'s' * (len(foreign) > 1)} {named}",
            "build the model from other layers, or add the operator: firmware/PORTING.md shows how",
            operator=foreign[0].index,
        )


def find_head(model: TFLiteModel | bytes) -> HeadSpec:
    """Find and check the head of a device model (the contract at the top of this file).

    ModelContractError says what is missing when the model is sound but not a device model: then
    `kilofed_tools.adapt` may bring it into form. A model without the entry ``kilofed.head`` is taken, with ms
    = 0 and no calibration.
    """
    model = read_model(model) if isinstance(model, bytes) else model
    check_operators(model)
    check_int8(model)
    _check_computed(model)
    op, softmax = head_operators(model)
    if (softmax or op).outputs != model.outputs:
        _outside("the model's output is not that of its head", operator=op.index)
    if softmax is not None and (softmax.options is None or softmax.options.real("beta") != 1.0):
        _outside("the SOFTMAX after the head has a beta other than 1", operator=softmax.index)
    if op.options is None or op.option("fused_activation_function"):
        _outside("the head has a fused activation", operator=op.index)
    if op.option("weights_format"):
        _outside("the head's weights are shuffled", "convert the model again without optimised weights")
    if len(op.inputs) < 3 or op.inputs[2] < 0:
        _outside("the head has no bias", operator=op.index)
    x, w, b, out = (model.tensors[i] for i in (*op.inputs[:3], op.outputs[0]))
    if w.type != TensorType.INT8 or not w.constant or len(w.shape) != 2:
        _outside(f"the head's weights are {type_name(w.type)} {list(w.shape)}, not constant int8 [C, F]")
    classes, features = w.shape
    if not (2 <= classes <= MAX_CLASSES and 1 <= features <= MAX_FEATURES):
        _outside(
            f"the head has {classes} classes and {features} features",
            f"use 2 to {MAX_CLASSES} classes and at most {MAX_FEATURES} features",
        )
    if len(w.scales) != 1 or w.zero_point != 0:
        _outside("the head's weights are not quantized per tensor around 0", operator=op.index)
    if b.type != TensorType.INT32 or not b.constant or b.shape != (classes,) or len(b.scales) != 1:
        _outside("the head's bias is not constant int32 [C] with one scale", operator=op.index)
    if x.elements != features or out.elements != classes:
        _outside(
            f"the head maps {x.elements} values to {out.elements} and its weights are {classes} x {features}",
            "convert the model with a fixed batch of 1",
        )
    if not SCALE_MIN <= x.scale <= 1 / SCALE_MIN or not SCALE_MIN <= out.scale <= 1 / SCALE_MIN:
        _outside(f"a scale of the head is out of range ({x.scale:.3g} in, {out.scale:.3g} out)")
    if model.consumers(x.index) != [op]:
        _outside("the features are read by more than the head", operator=op.index)
    places = {
        "weights": (model.buffer_at(w.buffer), classes * features),
        "bias": (model.buffer_at(b.buffer), 4 * classes),
        "w_scale": _place(w, "scale", 4, "weight scale"),
        "b_scale": _place(b, "scale", 4, "bias scale"),
        "out_scale": _place(out, "scale", 4, "output scale"),
        "out_zp": _place(out, "zero_point", 8, "output zero point"),
    }
    for name in ("weights", "bias"):
        if places[name][0] % flat.DATA_ALIGN:
            _outside(f"the buffer of the head's {name} is not aligned to {flat.DATA_ALIGN} bytes in the file")
    buffers = [t.buffer for t in model.tensors]
    if buffers.count(w.buffer) != 1 or buffers.count(b.buffer) != 1:
        _outside("the head shares a buffer with another tensor", operator=op.index)
    _check_unshared(model, places)
    meta = read_meta(model, features)
    if meta is not None and meta.op != op.index:
        _outside(f"the entry {metadata.HEAD} names operator {meta.op} and the head is operator {op.index}")
    return HeadSpec(
        op=op.index,
        softmax=None if softmax is None else softmax.index,
        features_tensor=x.index,
        weights_tensor=w.index,
        bias_tensor=b.index,
        out_tensor=out.index,
        classes=classes,
        features=features,
        s_x=x.scale,
        zp_x=x.zero_point,
        labels=read_labels(model, classes) or tuple(str(c) for c in range(classes)),
        ms=meta.ms if meta else 0,
        calib=meta.calib if meta else np.zeros((0, features), np.int8),
        lr=meta.lr if meta else DEFAULT_LR,
        batch=meta.batch if meta else DEFAULT_BATCH,
        epochs=meta.epochs if meta else DEFAULT_EPOCHS,
        places=places,
    )


def read_meta(model: TFLiteModel, features: int) -> HeadMeta | None:
    """The decoded entry ``kilofed.head``, None when there is none."""
    payload = metadata.read_metadata(model, metadata.HEAD)
    return None if payload is None else metadata.decode_head_meta(payload, features=features)


def read_labels(model: TFLiteModel, classes: int) -> tuple[str, ...] | None:
    """The decoded entry ``kilofed.labels``, None when there is none."""
    payload = metadata.read_metadata(model, metadata.LABELS)
    return None if payload is None else metadata.decode_labels(payload, classes=classes)


def read_head(model: TFLiteModel | bytes) -> Head:
    """The head in the file. ModelContractError when its scales are not a whole step of trainer's units."""
    model = read_model(model) if isinstance(model, bytes) else model
    spec = find_head(model)
    w, b, out = (model.tensors[i] for i in (spec.weights_tensor, spec.bias_tensor, spec.out_tensor))
    step = round(w.scale * spec.s_x * 2.0**UNIT_BITS)
    if not 1 <= step <= STEP_MAX or w.scale != weight_scale(step, spec.s_x):
        _outside("the head's weight scale is not a whole step of the trainer's units", operator=spec.op)
    if b.scale != bias_scale(step, spec.s_x):
        _outside("the head's bias scale is not the product of its input and weight scales", operator=spec.op)
    weights = w.array().astype(np.int8)
    bias = b.array().astype(np.int32)
    head = Head(spec.classes, spec.features, step, weights, bias, out.scale, out.zero_point)
    _check_head(head)
    return head


def write_head(model: bytes, head: Head) -> bytes:
    """The model with another head, in place: the same length, the same bytes everywhere else.

    The output tensor of the head is the input tensor of the SOFTMAX, so the SOFTMAX's scale goes with it.
    HeadError when the head is of another shape or holds codes that are not int8.
    """
    spec = find_head(model)
    _check_head(head)
    if (head.classes, head.features) != (spec.classes, spec.features):
        raise HeadError(
            f"a head of {head.classes} x {head.features} does not fit the model's "
            f"{spec.classes} x {spec.features}",
            "use the head of this model",
        )
    if int(head.weights.min()) < -128 or int(head.weights.max()) > 127:
        raise HeadError("weight codes are not int8", "quantise the master first")
    new = {
        "weights": head.weights.astype(np.int8).tobytes(),
        "bias": head.bias.astype("<i4").tobytes(),
        "w_scale": struct.pack("<f", weight_scale(head.step, spec.s_x)),
        "b_scale": struct.pack("<f", bias_scale(head.step, spec.s_x)),
        "out_scale": struct.pack("<f", head.out_scale),
        "out_zp": struct.pack("<q", head.out_zp),
    }
    return patch(model, [(spec.places[name][0], value) for name, value in new.items()])


def backbone_hash(model: bytes) -> bytes:
    """BLAKE2b, 8 bytes, of the file with all that a head overwrites zeroed: the same whatever the head."""
    spec = find_head(model)
    return _hash8(patch(model, [(start, bytes(size)) for start, size in spec.places.values()]))


# ---------------------------------------------------------------- cutting


def backbone(model: bytes) -> bytes:
    """The model cut before its head: a .tflite of its own whose output is the features, int8.

    Without the head's entry and without a memory plan (which counts tensors that are gone).
    ModelContractError when the model has no backbone: its input are the features.
    """
    parsed = read_model(model)
    spec = find_head(parsed)
    if spec.features_tensor in parsed.inputs:
        _outside("the model is nothing but its head", "use its input as the features")
    graph = parsed.subgraph
    keep = [op.table for op in parsed.operators if op.index < spec.op]
    graph.values["operators"] = keep
    graph.values["outputs"] = np.array([spec.features_tensor], np.int32)
    entries = parsed.tree.tables("metadata")
    drop = (metadata.HEAD, *metadata.PLANS)
    parsed.tree.values["metadata"] = [entry for entry in entries if entry.text("name") not in drop]
    return flat.write(prune(parsed.tree))
