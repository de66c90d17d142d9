"""The device's logic without its line and clock: samples become features, orders become updates.

    device = PiDevice(backbone, device_id=..., rng=os.urandom)
    device.observe(inputs, labels)
    loop:   device.endpoint.receive(...) / .poll(...), device.handle(event) for each of its events
            while device.work(now): one slice each; let the line speak between them

Shapes: N samples, F features, C classes. The arithmetic is kilofed_tools' (trainer, updates, heads), which is
the C core's to the bit; the order of things is firmware/src/device/round.c's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kilofed import __version__
from kilofed.link.device import DeviceEndpoint, Holding
from kilofed.link.errors import StatusCode
from kilofed.link.events import CancelAsked, CommitAsked, DeviceEvent, TrainAsked
from kilofed.link.messages import PERSONALISE, Multiplier, Train
from kilofed_pi.backbone import Backbone
from kilofed_tools import heads, trainer, updates
from kilofed_tools.errors import HeadError, KilofedError

BOARD = "pi"
RING_SLOTS = 1000
MOST_SLOTS = 65535
_OVER = object()


def firmware_version(text: str = __version__) -> int:
    """ "1.2.3" as major << 16 | minor << 8 | patch; what follows a third number is left out."""
    major, minor, patch = (int(part) for part in ([*text.split("."), "0", "0"])[:3])
    return major << 16 | minor << 8 | patch


class Ring:
    """Features and labels of the newest samples; slot i is held out when i % every == every - 1.

    slots: a multiple of `every`, 1..65535. When it is full the oldest goes and its slot keeps its part.
    """

    def __init__(self, slots: int, features: int, *, every: int = trainer.HOLDOUT_DEFAULT) -> None:
        if not 1 <= slots <= MOST_SLOTS or (every and slots % every):
            raise ValueError(f"a ring has 1 to {MOST_SLOTS} slots, a multiple of {every}")
        self.slots = slots
        self.every = every
        self.count = 0
        self._next = 0
        self._features = np.zeros((slots, features), np.int8)
        self._labels = np.zeros(slots, np.int64)

    def push(self, features: npt.NDArray[np.int8], label: int) -> None:
        """Keeps a sample."""
        self._features[self._next] = features
        self._labels[self._next] = label
        self._next = (self._next + 1) % self.slots
        self.count = min(self.count + 1, self.slots)

    def split(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Slots that are trained on, and slots held out."""
        return trainer.split(self.count, self.every)

    def samples(
        self, slots: npt.NDArray[np.int64], zp: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """x = features - zp, [N, F], and labels [N] of these slots: copies."""
        return self._features[slots].astype(np.int64) - zp, self._labels[slots].copy()


class PiDevice:
    """A device, sans-IO. Not for several threads.

    device_id: 8 bytes. key: of its settings page; with one, its sessions are encrypted. rng: gives n random
    bytes. ring_slots: rounded up to a multiple of the held-out
    rule's 5. max_frame, window: what its line takes.

    endpoint: its line's protocol. personal: the head personalised on its samples, None before an order to
    do so. skipped: samples left out because their label is no class of the model.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        device_id: bytes,
        rng: Callable[[int], bytes],
        key: bytes | None = None,
        ring_slots: int = RING_SLOTS,
        max_frame: int = 1024,
        window: int = 4096,
    ) -> None:
        every = trainer.HOLDOUT_DEFAULT
        self._backbone = backbone
        self._ring = Ring(-(-ring_slots // every) * every, backbone.features)
        self._inputs: deque[tuple[npt.NDArray[np.int8], int]] = deque()
        self._job: Generator[None, None, None] | None = None
        self._now = 0.0
        self._residual = updates.Residual.zeros(backbone.classes, backbone.features)
        self._residual_next: updates.Residual | None = None
        self.personal: heads.Head | None = None
        self.skipped = 0
        self._holding = Holding(
            model=backbone.model_hash,
            labels=backbone.labels_hash,
            classes=backbone.classes,
            features=backbone.features,
            capacity=self._ring.slots,
        )
        self.endpoint = DeviceEndpoint(
            device_id=device_id,
            board=BOARD,
            firmware=firmware_version(),
            holding=self._holding,
            rng=rng,
            take_head=self._check_head,
            key=key,
            max_frame=max_frame,
            window=window,
        )

    # ---- samples ---------------------------------------------------------------------------------

    def observe(self, inputs: npt.NDArray[np.int8], labels: npt.NDArray[np.integer[Any]]) -> None:
        """Takes samples, int8 [N, input_bytes], and labels [N]; `work` turns them into features.

        Raises ModelError when they are not of the model's input size.
        """
        if inputs.dtype != np.int8 or inputs.shape[1:] != (self._backbone.input_bytes,):
            raise HeadError(
                f"samples of {inputs.shape[1:]} x {inputs.dtype} are not this model's, of "
                f"{self._backbone.input_bytes} bytes",
                "give the samples made for this model",
            )
        self._inputs.extend((sample, int(label)) for sample, label in zip(inputs, labels, strict=True))
        self._tell()

    def _collect(self) -> None:
        sample, label = self._inputs.popleft()
        if 0 <= label < self._backbone.classes:
            self._ring.push(self._backbone.run(sample), label)
        else:
            self.skipped += 1
        if not self._inputs:
            self._tell()

    def _tell(self) -> None:
        train, held_out = self._ring.split()
        self._holding = replace(
            self._holding, train=len(train), held_out=len(held_out), collecting=bool(self._inputs)
        )
        self.endpoint.update(self._holding)

    @property
    def collected(self) -> int:
        """Samples in the ring."""
        return self._ring.count

    # ---- orders ----------------------------------------------------------------------------------

    def handle(self, event: DeviceEvent) -> None:
        """Takes an event of the endpoint."""
        match event:
            case TrainAsked(order, head):
                self._residual_next = None
                self._job = self._guarded(order, heads.decode_head(head))
            case CancelAsked():
                self._job = None
                self._residual_next = None
            case CommitAsked(_, verdict):
                if verdict == 0 and self._residual_next is not None:
                    self._residual = self._residual_next
                self._residual_next = None
            case _:
                pass  # of the line: nothing to compute

    def work(self, now: float) -> bool:
        """One slice of what there is to do: a sample's inference, or a batch of training. False: nothing.

        now: seconds of a monotonic clock.
        """
        self._now = now
        if self._job is not None:  # a round's samples are one fixed set: others wait
            if next(self._job, _OVER) is _OVER:
                self._job = None
            return True
        if self._inputs:
            self._collect()
            return True
        return False

    def _check_head(self, blob: bytes) -> int:
        try:
            head = heads.decode_head(blob)
        except HeadError:
            return StatusCode.BLOB
        fits = (head.classes, head.features) == (self._backbone.classes, self._backbone.features)
        return StatusCode.OK if fits else StatusCode.SHAPE

    def _guarded(self, order: Train, head: heads.Head) -> Generator[None, None, None]:
        try:
            yield from self._round(order, head)
        except KilofedError:  # an order that the trainer refuses: a rate out of its range
            self.endpoint.fail(order, StatusCode.MESSAGE, Train.TYPE)

    def _round(self, order: Train, head: heads.Head) -> Generator[None, None, None]:
        """A round, cut into slices: train, measure, encode."""
        began = self._now
        train, held_out = self._ring.split()
        if order.epochs and not len(train):
            self.endpoint.fail(order, StatusCode.STATE)
            return
        base = heads.master(head)
        x_held, y_held = self._ring.samples(held_out, self._backbone.zp)
        base_correct = own_correct = trainer.evaluate(*base, x_held, y_held) if len(held_out) else 0
        yield
        update, loss_q12 = None, 0
        if order.epochs:
            result = yield from self._train(order, base, train)
            loss_q12 = result.loss_q12
            own_correct = trainer.evaluate(result.W, result.b, x_held, y_held) if len(held_out) else 0
            if order.flags & PERSONALISE:
                self.personal = heads.quantise(self._backbone.spec, result.W, result.b)
            else:
                codec = updates.Codec(order.codec)
                update, self._residual_next = updates.encode_update(
                    result.W, result.b, *base, codec, self._residual
                )
        self.endpoint.finish(
            order,
            update,
            train=len(train),
            held_out=len(held_out),
            loss_q12=loss_q12,
            base_correct=base_correct,
            own_correct=own_correct,
            elapsed_ms=int(1000 * (self._now - began)),
        )

    def _train(
        self,
        order: Train,
        base: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
        slots: npt.NDArray[np.int64],
    ) -> Generator[None, None, trainer.TrainResult]:
        x, y = self._ring.samples(slots, self._backbone.zp)
        config = trainer.TrainConfig(
            epochs=order.epochs,
            batch=order.batch,
            lr_w=_rate(order.lr_weights),
            lr_b=_rate(order.lr_bias),
            prox=_rate(order.prox),
            seed=order.seed,
        )
        steps = trainer.train_steps(*base, x, y, config, base)
        while True:
            try:
                at = next(steps)
            except StopIteration as stop:
                result: trainer.TrainResult = stop.value
                return result
            self.endpoint.progress(order, 1000 * at.done // at.total, at.loss_q12)
            yield


def _rate(multiplier: Multiplier) -> trainer.Rate:
    return trainer.Rate(multiplier.mantissa, multiplier.shift)
