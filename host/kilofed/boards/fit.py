"""Whether a model fits a board, and how much it takes, before it is built: the figures of the linker map,
to the byte.

A model adds two things to the bare image and nothing else: its file, aligned to 16, last in flash; and the
device core's one memory block, aligned to 8, behind .bss. So the bare image and the model tell all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kilofed.boards.catalogue import Board
from kilofed.boards.image import Image
from kilofed.errors import FitError

MODEL_ALIGN = 16
POOL_ALIGN = 8


@dataclass(frozen=True)
class Fit:
    """What a model takes of a board, in bytes.

    flash: `flash_bytes` of `flash_limit` (what settings and samples leave), `model_bytes` of it the file.
    RAM: `ram_bytes` of `ram_limit`: static data, `pool_bytes` for the device core, `stack_bytes`;
    `reserve_bytes` must stay free beside them.
    """

    board: Board
    model_bytes: int
    pool_bytes: int
    flash_bytes: int
    ram_bytes: int

    @property
    def flash_limit(self) -> int:
        """Flash that an image may take."""
        return self.board.image_region.size

    @property
    def ram_limit(self) -> int:
        """RAM that an image may take, its stack included."""
        return self.board.ram.size - self.board.reserve_bytes

    @property
    def stack_bytes(self) -> int:
        """RAM kept for the stack."""
        return self.board.stack_bytes

    @property
    def reserve_bytes(self) -> int:
        """RAM that no model may take."""
        return self.board.reserve_bytes

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.flash_bytes <= self.flash_limit and self.ram_bytes <= self.ram_limit

    def check(self) -> None:
        """Raises FitError, with the numbers, when it does not fit."""
        name = self.board.name
        if self.flash_bytes > self.flash_limit:
            raise FitError(
                f"the model needs {self.flash_bytes} bytes of flash, {name} has {self.flash_limit}",
                f"use a model smaller by {self.flash_bytes - self.flash_limit} bytes, or another board",
                board=name,
                memory="flash",
                needed=self.flash_bytes,
                available=self.flash_limit,
            )
        if self.ram_bytes > self.ram_limit:
            kept = f" beside {self.reserve_bytes} kept free" if self.reserve_bytes else ""
            raise FitError(
                f"the model needs {self.ram_bytes} bytes of RAM, {name} has {self.ram_limit}{kept}",
                "use a model with smaller activations, fewer classes or fewer features, or another board",
                board=name,
                memory="ram",
                needed=self.ram_bytes,
                available=self.ram_limit,
            )


def predict(board: Board, model: bytes, *, all_operators: bool = False, out_dir: Path | None = None) -> Fit:
    """What `model`, the bytes of a .tflite, takes of `board` in the image that `build` makes of it.

    Builds the bare image with the same operators when there is none yet.

    Raises what reading the model and building the bare image raise; not FitError: see `Fit.check`.
    """
    from kilofed.boards.build import link, operators_of

    operators = None if all_operators else operators_of(model)
    return from_bare(board, link(board, None, operators=operators, out_dir=out_dir), model)


def from_bare(board: Board, bare: Image, model: bytes) -> Fit:
    """The same from a bare image at hand."""
    pool = pool_bytes(board, model)
    static = bare.ram_bytes - bare.stack_bytes
    return Fit(
        board=board,
        model_bytes=len(model),
        pool_bytes=pool,
        flash_bytes=_align(bare.flash_bytes, MODEL_ALIGN) + len(model),
        ram_bytes=_align(static, POOL_ALIGN) + pool + board.stack_bytes,
    )


def pool_bytes(board: Board, model: bytes) -> int:
    """Bytes of the device core's memory block for `model` on `board`: kf_device_bytes(), computed here.

    Raises ModelError for bytes that are no device model.
    """
    from kilofed_tools import heads, memory, plan, tflite

    parsed = tflite.read_model(model)
    head = heads.find_head(parsed)
    return memory.device_bytes(
        head.classes,
        head.features,
        plan.device_plan(parsed).arena_bytes,
        max_frame=board.max_frame,
        ring_slots=board.ring_slots,
        held_out_every=board.held_out_every,
        max_batch=board.max_batch,
        exact_updates=board.exact_updates,
    )


def _align(number: int, to: int) -> int:
    return -(-number // to) * to
