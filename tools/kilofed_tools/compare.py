"""Do two .tflite say the same, and where do they part: the answers of `kilofed compare`, for scripts too.

Both models run the same inputs, every tensor kept, and operators that correspond are compared: their
constants and their outputs. Operators correspond when they stand in the same order, compute the same
operation, and give the same shape; what has no counterpart is listed by itself. Outputs of the same
quantization are compared as integers, others as the real numbers they stand for: a float model and its int8
version can be laid side by side.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilofed_tools.errors import DataError, ModelContractError, ModelError
from kilofed_tools.evaluate import runtime_module
from kilofed_tools.operators import check_operators
from kilofed_tools.tflite import Operator, Tensor, TensorType, TFLiteModel, read_model

NOISE_SAMPLES = 100
MOST_NAMED = 10  # samples that are named, of those that come out differently


@dataclass(frozen=True)
class Difference:
    """How two tensors of the same size differ over all samples.

    share: of the values, 0..1. steps: the largest difference, in steps of the coarser quantization; None
    when neither is quantized. largest: the same as a real number.
    """

    share: float
    steps: float | None
    largest: float

    @property
    def same(self) -> bool:
        """Not one value differs."""
        return self.share == 0.0


@dataclass(frozen=True)
class Layer:
    """Two operators that correspond, or one without a counterpart: then the other's index is None.

    name: the operation. shape: of the output. constants: whether weights, biases and their quantization are
    the same; None when it has none, or no counterpart. output: None without a counterpart, or when one of
    the two is not kept as numbers.
    """

    a: int | None
    b: int | None
    name: str
    shape: tuple[int, ...]
    constants: bool | None
    output: Difference | None

    @property
    def same(self) -> bool:
        """It has a counterpart, and neither constants nor output differ."""
        return (
            None not in (self.a, self.b)
            and self.constants is not False
            and (self.output is None or self.output.same)
        )


@dataclass(frozen=True)
class Comparison:
    """What two models say to the same samples.

    same_file: byte for byte. output: how what they give differs. samples: how many were run. noise: they
    were made up. differing: samples of which any output differs. disagreeing: samples whose largest output
    is another one, of which `named` holds the first few. layers: in order of execution.
    """

    same_file: bool
    samples: int
    noise: bool
    output: Difference
    differing: int
    disagreeing: int
    named: tuple[int, ...]
    layers: tuple[Layer, ...]

    @property
    def same(self) -> bool:
        """Not one output of any sample differs."""
        return self.output.same

    @property
    def first(self) -> Layer | None:
        """The first layer that differs in anything, or None."""
        return next((layer for layer in self.layers if not layer.same), None)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self),
            "same": self.same,
            "named": list(self.named),
            "first": None if self.first is None else self.layers.index(self.first),
            "layers": [
                {**asdict(layer), "shape": list(layer.shape), "same": layer.same} for layer in self.layers
            ],
        }


def compare(
    a: bytes, b: bytes, samples: NDArray[Any] | None = None, *, count: int = NOISE_SAMPLES, seed: int = 1
) -> Comparison:
    """Runs both models on the same samples and says where they differ.

    samples: [N, ...] int8 as both models take them, or floats; without them `count` samples of noise over
    the whole range of the int8 input, the same for the same seed. ModelError: one cannot be read or run.
    ModelContractError: they do not take or give the same number of values, or neither int8 nor float.
    DataError: samples that do not fit.
    """
    probes = (_Probe(a, "the first model"), _Probe(b, "the second model"))
    for end in ("input", "output"):
        sizes = [getattr(probe, end).elements for probe in probes]
        if sizes[0] != sizes[1]:
            what = "takes" if end == "input" else "gives"
            raise ModelContractError(
                f"the first model {what} {sizes[0]} values and the second {sizes[1]}",
                "compare two models of the same task",
            )
    noise = samples is None
    rows = _noise(probes, count, seed) if samples is None else _checked(samples, probes)
    fed = [probe.quantized(rows) for probe in probes]
    pairs = _align(probes[0].model, probes[1].model)
    meters = {pair: _Meter(*_outputs(probes, pair)) for pair in pairs if None not in pair}
    whole = _Meter(probes[0].output, probes[1].output)
    differing, disagreeing = 0, []
    for number, both in enumerate(zip(*fed, strict=True)):
        for probe, row in zip(probes, both, strict=True):
            probe.run(row)
        for meter in meters.values():
            meter.add(probes[0], probes[1])
        differing += whole.add(probes[0], probes[1])
        tops = [int(np.argmax(probe.value(probe.output))) for probe in probes]
        if tops[0] != tops[1]:
            disagreeing.append(number)
    return Comparison(
        same_file=a == b,
        samples=len(rows),
        noise=noise,
        output=whole.difference(),
        differing=differing,
        disagreeing=len(disagreeing),
        named=tuple(disagreeing[:MOST_NAMED]),
        layers=tuple(_layer(probes, pair, meters.get(pair)) for pair in pairs),
    )


# ---------------------------------------------------------------- running


class _Probe:
    """A model that keeps every tensor. which: what to call it in messages."""

    def __init__(self, model: bytes, which: str) -> None:
        self.model = read_model(model)
        check_operators(self.model)
        if len(self.model.inputs) != 1 or len(self.model.outputs) != 1:
            raise ModelContractError(
                f"{which} has {len(self.model.inputs)} inputs and {len(self.model.outputs)} outputs",
                "compare models with one of each",
            )
        self.input = self.model.tensors[self.model.inputs[0]]
        self.output = self.model.tensors[self.model.outputs[0]]
        for end in (self.input, self.output):
            if end.type != TensorType.FLOAT32 and not _is_int8(end):
                raise ModelContractError(
                    f"{which} takes or gives something else than int8 or float32",
                    "bring it into form with `kilofed convert`",
                )
        module = runtime_module()
        try:
            self._interpreter = module.Interpreter(
                model_content=model,
                experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
                experimental_preserve_all_tensors=True,
                num_threads=1,
            )
            self._interpreter.allocate_tensors()
        # The runtime raises RuntimeError or ValueError for a model it refuses, ImportError when its numpy is
        # too new.
        except (RuntimeError, ValueError, ImportError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(f"the TFLite runtime refuses {which} ({text})", "convert it again") from error

    def quantized(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Samples [N, elements] as the input takes them; int8 ones as they are."""
        if not _is_int8(self.input):
            if rows.dtype == np.int8:
                raise DataError("a float model cannot take int8 samples", "give floats")
            return rows.astype(np.float32)
        if rows.dtype == np.int8:
            return rows
        steps = np.rint(rows.astype(np.float64) / self.input.scale) + self.input.zero_point
        clipped: NDArray[Any] = np.clip(steps, -128, 127).astype(np.int8)
        return clipped

    def run(self, row: NDArray[Any]) -> None:
        """One sample [elements]; afterwards `value` has every tensor."""
        self._interpreter.set_tensor(self.model.inputs[0], row.reshape(self.input.shape))
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            text = " ".join(str(error).split())
            raise ModelError(f"the TFLite runtime cannot run it ({text})", "convert it again") from error

    def value(self, tensor: Tensor) -> NDArray[Any]:
        """The tensor's values of the last run, flat, in its own type."""
        values: NDArray[Any] = self._interpreter.get_tensor(tensor.index).ravel()
        return values


def _is_int8(tensor: Tensor) -> bool:
    return tensor.type == TensorType.INT8 and len(tensor.scales) == 1


def _noise(probes: tuple[_Probe, _Probe], count: int, seed: int) -> NDArray[Any]:
    """int8 noise; as real numbers of the int8 input when one of the models takes floats."""
    quantized = [probe.input for probe in probes if _is_int8(probe.input)]
    if not quantized:
        raise DataError("two float models, and nothing says what range their inputs have", "give --data")
    rng = np.random.Generator(np.random.PCG64(seed))
    steps = rng.integers(-128, 128, (count, quantized[0].elements)).astype(np.int8)
    one, two = (probe.input for probe in probes)
    if len(quantized) == 2 and _quantization(one) == _quantization(two):
        return steps
    return (steps.astype(np.float64) - quantized[0].zero_point) * quantized[0].scale


def _checked(samples: NDArray[Any], probes: tuple[_Probe, _Probe]) -> NDArray[Any]:
    elements = probes[0].input.elements
    size = math.prod(samples.shape[1:])
    if not len(samples) or size != elements:
        raise DataError(
            f"samples of shape {list(samples.shape)}; the models take {elements} values a sample",
            "give inputs of the models' own shape",
        )
    if samples.dtype != np.int8 and not np.issubdtype(samples.dtype, np.floating):
        raise DataError(f"samples of type {samples.dtype}", "give int8 or finite floats")
    if samples.dtype != np.int8 and not np.all(np.isfinite(samples)):
        raise DataError("samples that are not finite", "give int8 or finite floats")
    return samples.reshape(len(samples), size)


# ---------------------------------------------------------------- comparing


Pair = tuple[int | None, int | None]


def _align(a: TFLiteModel, b: TFLiteModel) -> list[Pair]:
    """Operators of the two that correspond, in order, each without a counterpart in between."""
    keys = [[(op.name, _out(model, op).shape) for op in model.operators] for model in (a, b)]
    pairs: list[Pair] = []
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if tag == "equal":
            pairs += zip(range(a0, a1), range(b0, b1), strict=True)
        else:
            pairs += [(i, None) for i in range(a0, a1)]
            pairs += [(None, i) for i in range(b0, b1)]
    return pairs


def _out(model: TFLiteModel, op: Operator) -> Tensor:
    return model.tensors[op.outputs[0]]


def _outputs(probes: tuple[_Probe, _Probe], pair: Pair) -> tuple[Tensor, Tensor]:
    one, two = (_out(p.model, p.model.operators[i or 0]) for p, i in zip(probes, pair, strict=True))
    return one, two


def _quantization(tensor: Tensor) -> tuple[int, bytes, bytes]:
    return tensor.type, tensor.scales.tobytes(), tensor.zero_points.tobytes()


class _Meter:
    """Collects how two tensors differ, sample by sample."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self._a, self._b = a, b
        # Integers of the same quantization, and floats, are compared as they are.
        self._plain = _quantization(a) == _quantization(b)
        scales = [t.scale for t in (a, b) if len(t.scales) == 1]
        self._step = max(scales) if scales else None
        self._values = self._differing = 0
        self._largest = 0.0

    def add(self, one: _Probe, two: _Probe) -> bool:
        """Takes the values of the last run; whether any differs."""
        a, b = one.value(self._a), two.value(self._b)
        if not self._plain:
            a, b = _real(self._a, a), _real(self._b, b)
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
        # Two numbers that are no numbers are the same; one alone is not.
        apart = np.where(np.isnan(a) & np.isnan(b), 0.0, np.where(np.isnan(apart), np.inf, apart))
        if self._plain and self._step is not None:
            apart = apart * self._step
        differing = int(np.count_nonzero(apart))
        self._values += apart.size
        self._differing += differing
        self._largest = max(self._largest, float(apart.max(initial=0.0)))
        return differing > 0

    def difference(self) -> Difference:
        """What was collected."""
        steps = None if self._step is None else self._largest / self._step
        return Difference(self._differing / max(1, self._values), steps, self._largest)


def _real(tensor: Tensor, values: NDArray[Any]) -> NDArray[np.float64]:
    if len(tensor.scales) != 1:
        return values.astype(np.float64)
    return (values.astype(np.float64) - tensor.zero_point) * tensor.scale


def _layer(probes: tuple[_Probe, _Probe], pair: Pair, meter: _Meter | None) -> Layer:
    models = (probes[0].model, probes[1].model)
    operators = [None if i is None else m.operators[i] for m, i in zip(models, pair, strict=True)]
    owner = 0 if operators[0] is not None else 1
    op = operators[owner]
    assert op is not None
    constants = None
    if operators[0] is not None and operators[1] is not None:
        both = [_constants(m, o) for m, o in zip(models, operators, strict=True) if o is not None]
        constants = None if not any(both) else both[0] == both[1]
    return Layer(
        pair[0],
        pair[1],
        op.name,
        _out(models[owner], op).shape,
        constants,
        None if meter is None else meter.difference(),
    )


def _constants(model: TFLiteModel, op: Operator) -> list[tuple[object, ...]]:
    """Each constant input: shape, quantization, bytes."""
    inputs = [model.tensors[i] for i in op.inputs if i >= 0]
    return [(t.shape, *_quantization(t), t.data.tobytes()) for t in inputs if t.data is not None]
