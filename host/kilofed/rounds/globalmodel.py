"""The model a run trains: a .tflite that stays, and a head that moves.

The master (int32 [C, F] and [C], trainer's units: kilofed_tools.heads) takes the exact average of each round.
What goes down to devices is its int8 form; what is measured and exported is the file with that int8 form in
place. So the host's accuracy is the file's, and devices start from the very head that was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kilofed.link.messages import NO_HASH, PERSONALISE, Multiplier, TrainOrder
from kilofed.rounds.config import RunConfig, device_seed
from kilofed.rounds.records import Kind
from kilofed_tools import heads, metadata
from kilofed_tools.errors import ModelContractError
from kilofed_tools.strategies import FedAvg, Gathered, Strategy
from kilofed_tools.trainer import Rate, lr_multipliers

#: Added to the numbers of personal rounds on the wire, so that they meet no training round's.
_PERSONAL_OFFSET = 1 << 15


class GlobalModel:
    """A device model with its master head.

    model: the .tflite all devices of the run hold; ModelError when it is none, ModelContractError when it
    carries no calibration (then it was never made or brought into form by `kilofed convert`). master: an
    earlier `master_blob`, to go on from; the file's own head by default. use() changes how updates are
    averaged.
    """

    def __init__(self, model: bytes, master: bytes | None = None) -> None:
        self._model = model
        self.spec = heads.find_head(model)
        if len(self.spec.calib) == 0 or self.spec.ms == 0:
            raise ModelContractError(
                "the model carries no calibration features, which new heads are scaled by",
                "bring it into form with `kilofed convert`",
            )
        self.hash = heads.file_hash(model)
        labels = metadata.read_metadata(model, metadata.LABELS)
        self.labels_hash = NO_HASH if labels is None else hashlib.blake2b(labels, digest_size=8).digest()
        head = heads.read_head(model) if master is None else heads.decode_head(master)
        self._weights, self._bias = heads.master(head)
        self._head = heads.quantise(self.spec, self._weights, self._bias)
        self._strategy: tuple[Strategy, str] | None = None
        self._state = b""

    def use(self, strategy: Strategy, name: str, state: bytes = b"") -> None:
        """From now on `strategy` makes the change of a round, in place of FedAvg.

        name: what to call it in errors. state: what it returned in the last round.
        """
        self._strategy = (strategy, name)
        self._state = state

    @property
    def strategy_state(self) -> bytes:
        """What the strategy wants to find again in the next round; b"" for FedAvg."""
        return self._state

    @property
    def classes(self) -> int:
        """C."""
        return self.spec.classes

    @property
    def features(self) -> int:
        """F."""
        return self.spec.features

    @property
    def head(self) -> heads.Head:
        """The int8 head that devices start from."""
        return self._head

    def head_blob(self) -> bytes:
        """The int8 head as it travels."""
        return heads.encode_head(self._head)

    def master_blob(self) -> bytes:
        """The master, exactly, as an int32 head blob with step 1: what the store keeps."""
        exact = heads.Head(self.classes, self.features, 1, self._weights, self._bias, 1.0, 0)
        return heads.encode_head(exact, heads.CODEC_INT32)

    def master(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(W [C, F], b [C]) in trainer's units."""
        return self._weights.copy(), self._bias.copy()

    def export(self) -> bytes:
        """The .tflite with the int8 head in place."""
        return heads.write_head(self._model, self._head)

    def average(self) -> FedAvg:
        """An empty sum for a round's updates, or what gathers them for the strategy in use."""
        if self._strategy is None:
            return FedAvg(self.classes, self.features)
        return Gathered(self.classes, self.features, *self._strategy, self._state)

    def apply(self, average: FedAvg) -> None:
        """Moves the master by a round's average.

        StrategyError, and nothing has changed, when nothing was added to it or the strategy in use failed.
        """
        self._weights, self._bias = average.finish(self._weights, self._bias)
        if isinstance(average, Gathered):
            self._state = average.state
        self._head = heads.quantise(self.spec, self._weights, self._bias)

    def order(
        self, config: RunConfig, number: int, kind: Kind, device_id: bytes, *, tag: int, head_hash: bytes
    ) -> TrainOrder:
        """What one device is told for one round. head_hash: of the `head_blob` that goes with it."""
        rates = lr_multipliers(config.lr, self.spec.ms, config.prox)
        personal = kind is Kind.PERSONAL
        return TrainOrder(
            round=round_on_wire(tag, number, kind),
            head=head_hash,
            seed=device_seed(config.seed, number, device_id),
            epochs=config.personal_epochs if personal else config.epochs,
            batch=config.batch,
            lr_weights=_multiplier(rates.lr_w),
            lr_bias=_multiplier(rates.lr_b),
            prox=_multiplier(rates.prox),
            codec=config.codec_number,
            flags=PERSONALISE if personal else 0,
        )


def round_on_wire(tag: int, number: int, kind: Kind) -> int:
    """The number of a round as devices hear it, u16.

    A device keeps a result until the round it belongs to is settled, also over a change of hosts. The run's
    own tag sees to it that a result left over from another run is not taken for this one's, while a host that
    was killed and started again finds the results of the round it was in.
    """
    return (tag + number + (_PERSONAL_OFFSET if kind is Kind.PERSONAL else 0)) & 0xFFFF


def defaults_of(model: bytes) -> Mapping[str, float | int]:
    """The training defaults a model carries: lr, batch, epochs."""
    spec = heads.find_head(model)
    return {"lr": spec.lr, "batch": spec.batch, "epochs": spec.epochs}


def _multiplier(rate: Rate) -> Multiplier:
    return Multiplier(rate.mantissa, rate.shift)
