"""What a model is and what it takes: the answers of `kilofed inspect`, for scripts too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kilofed.arena import ArenaMap, arena_of
from kilofed.boards import Fit, catalogue, predict
from kilofed.errors import BuildError, ToolMissingError
from kilofed_tools import heads, metadata
from kilofed_tools.errors import ModelError
from kilofed_tools.tflite import Op, TFLiteModel, op_name, read_model
from kilofed_tools.updates import Codec, update_bytes


@dataclass(frozen=True)
class Inspection:
    """A model, looked at. head: bytes of the int8 head blob; updates: bytes of an update by codec.

    arena: the memory plan, None when a device cannot make one. macs: multiply-accumulates of one inference.
    fits: a board each, empty when they could not be had: then `notes` says why.
    """

    bytes: int
    hash: str
    backbone: str
    input_shape: tuple[int, ...]
    operators: tuple[tuple[str, int], ...]
    macs: int
    classes: int
    features: int
    labels: tuple[str, ...]
    lr: float
    batch: int
    epochs: int
    calibration: int
    planned: bool
    arena: ArenaMap | None
    head: int
    updates: dict[str, int]
    fits: tuple[Fit, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "bytes": self.bytes,
            "hash": self.hash,
            "backbone": self.backbone,
            "input_shape": list(self.input_shape),
            "operators": [{"name": name, "count": count} for name, count in self.operators],
            "macs": self.macs,
            "head": {"classes": self.classes, "features": self.features, "labels": list(self.labels)},
            "train": {"lr": self.lr, "batch": self.batch, "epochs": self.epochs},
            "calibration": self.calibration,
            "memory_plan": self.planned,
            "arena": None if self.arena is None else self.arena.as_json(),
            "head_bytes": self.head,
            "update_bytes": self.updates,
            "boards": [
                {
                    "board": fit.board.name,
                    "fits": fit.fits,
                    "flash_bytes": fit.flash_bytes,
                    "flash_limit": fit.flash_limit,
                    "ram_bytes": fit.ram_bytes,
                    "ram_limit": fit.ram_limit,
                    "pool_bytes": fit.pool_bytes,
                    "stack_bytes": fit.stack_bytes,
                    "reserve_bytes": fit.reserve_bytes,
                }
                for fit in self.fits
            ],
            "notes": list(self.notes),
        }

    def summary(self) -> list[tuple[str, str]]:
        """Name and value of each line that people read."""
        updates = ", ".join(f"{name} {size}" for name, size in self.updates.items())
        shape = " x ".join(str(n) for n in self.input_shape)
        operators = ", ".join(name if count == 1 else f"{name} x{count}" for name, count in self.operators)
        return [
            ("file", f"{self.bytes} B, hash {self.hash}, backbone {self.backbone}"),
            ("input", f"int8 {shape}"),
            ("operators", operators),
            ("work", f"{self.macs} multiply-accumulates an inference"),
            ("head", f"{self.classes} classes x {self.features} features: {', '.join(self.labels)}"),
            ("training", f"lr {self.lr:g}, batch {self.batch}, {self.epochs} epochs a round"),
            ("calibrated", f"with {self.calibration} features" if self.calibration else "no"),
            ("plan", "none" if self.arena is None else self.arena.summary()),
            ("a round", f"{self.head} B down, up by codec: {updates} B (before framing)"),
        ]

    def fit_rows(self) -> list[tuple[object, ...]]:
        """Rows of the table of boards."""
        return [
            (
                fit.board.name,
                fit.flash_bytes,
                fit.flash_limit,
                fit.ram_bytes,
                fit.ram_limit,
                "fits" if fit.fits else "too big",
            )
            for fit in self.fits
        ]


def inspect(
    model: bytes, *, boards: Sequence[str] | None = None, progress: Callable[[str], None] | None = None
) -> Inspection:
    """Looks at a device model. boards: names of those to fit it on, all by default.

    Raises ModelError for what is no device model, CatalogueError for a board that is not there. A missing
    compiler is a note unless boards were named: then it is the ToolMissingError that it is.
    """
    parsed = read_model(model)
    spec = heads.find_head(parsed)
    counts: dict[str, int] = {}
    for operator in parsed.operators:
        name = op_name(operator.code)
        counts[name] = counts.get(name, 0) + 1
    try:
        arena = arena_of(parsed)
    except ModelError:
        arena = None  # what is wrong with the model, the boards say
    fits, notes = _fits(model, boards, progress)
    return Inspection(
        bytes=len(model),
        hash=heads.file_hash(model).hex(),
        backbone=heads.backbone_hash(model).hex(),
        input_shape=tuple(parsed.tensors[parsed.inputs[0]].shape),
        operators=tuple(counts.items()),
        macs=_macs(parsed),
        classes=spec.classes,
        features=spec.features,
        labels=spec.labels,
        lr=spec.lr,
        batch=spec.batch,
        epochs=spec.epochs,
        calibration=len(spec.calib),
        planned=any(metadata.read_metadata(parsed, name) is not None for name in metadata.PLANS),
        arena=arena,
        head=len(heads.encode_head(heads.read_head(parsed))),
        updates={c.name.lower(): update_bytes(c, spec.classes, spec.features) for c in Codec},
        fits=fits,
        notes=notes,
    )


def _fits(
    model: bytes, boards: Sequence[str] | None, progress: Callable[[str], None] | None
) -> tuple[tuple[Fit, ...], tuple[str, ...]]:
    chosen = catalogue.all() if boards is None else [catalogue.load(name) for name in boards]
    fits = []
    for board in chosen:
        try:
            fits.append(predict(board, model))
        except (ToolMissingError, BuildError) as error:
            if boards is not None:
                raise
            return tuple(fits), (f"which boards it fits is unknown: {error}",)
    return tuple(fits), ()


def _macs(model: TFLiteModel) -> int:
    """Multiply-accumulates of one inference: outputs times the weights behind each."""
    total = 0
    for operator in model.operators:
        if operator.code not in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED):
            continue
        weights = model.tensors[operator.inputs[1]]
        outputs = model.tensors[operator.outputs[0]].elements
        if operator.code == Op.DEPTHWISE_CONV_2D:
            total += outputs * weights.shape[1] * weights.shape[2]
        else:
            total += outputs * (weights.elements // weights.shape[0])
    return total
