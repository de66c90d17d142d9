"""The errors of the tools package: one tree, drawn here.

    KilofedError                100   anything this project raises on purpose
    +-- ModelError              110   a .tflite that cannot be used
    |   +-- ModelFormatError    111   not a .tflite, cut short, or an offset in it leads nowhere
    |   +-- ModelContractError  112   a sound .tflite that does not meet the contract of a device model
    |   +-- HeadError           113   a head, or a head blob, that is damaged or does not fit the model
    +-- ConvertError            120   Keras, SavedModel or the converter said no
    +-- DataError               130   a data set that is missing or not what it should be
    +-- TrainError              140   a training whose configuration or samples make no sense
    +-- UpdateError             150   an update blob that is damaged, out of range, or of another shape
    +-- StrategyError           160   an update or a weight that an average cannot take

Every error says what is wrong and what to do next, in one line: ``str(error)`` is both. ``code`` is stable,
grouped by component in tens (100-199 belong to the tools), and is what the command line prints beside the
text.
"""

from __future__ import annotations

from typing import ClassVar


def _one_line(text: str, limit: int = 300) -> str:
    line = "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."


class KilofedError(Exception):
    """Base of every error raised on purpose.

    what: what is wrong, without a full stop. next_step: what the user can do about it, an imperative sentence
    part. Both are kept to one line of printable text, `what` to 300 characters: names in them may come from a
    hostile file.
    """

    code: ClassVar[int] = 100

    def __init__(self, what: str, next_step: str) -> None:
        self.what = _one_line(what)
        self.next_step = _one_line(next_step)
        super().__init__(what, next_step)

    def __str__(self) -> str:
        return f"{self.what}: {self.next_step}"


class ModelError(KilofedError):
    """A .tflite that cannot be used."""

    code = 110


class ModelFormatError(ModelError):
    """The bytes are not a sound .tflite. ``position`` is the byte where reading failed, -1 when unknown."""

    code = 111

    def __init__(self, what: str, next_step: str, *, position: int = -1) -> None:
        super().__init__(what, next_step)
        self.position = position


class ModelContractError(ModelError):
    """A sound .tflite outside the contract. ``operator``: index of the operator to blame, -1: none."""

    code = 112

    def __init__(self, what: str, next_step: str, *, operator: int = -1) -> None:
        super().__init__(what, next_step)
        self.operator = operator


class HeadError(ModelError):
    """A head or a head blob that is damaged, out of range, or of another shape than the model's."""

    code = 113


class ConvertError(KilofedError):
    """A model could not be converted. ``log`` holds the last lines the converter printed, for --verbose."""

    code = 120

    def __init__(self, what: str, next_step: str, *, log: str = "") -> None:
        super().__init__(what, next_step)
        self.log = log


class DataError(KilofedError):
    """A data set that is missing or not what it should be."""

    code = 130


class TrainError(KilofedError):
    """A training whose configuration, parameters or samples are out of range."""

    code = 140


class UpdateError(KilofedError):
    """An update blob that cannot be used. ``device``: the name of who sent it."""

    code = 150

    def __init__(self, what: str, next_step: str, *, device: str = "") -> None:
        super().__init__(what, next_step)
        self.device = device


class StrategyError(KilofedError):
    """An update or a weight that an average cannot take. ``device``: who it came from, empty: nobody's
    fault."""

    code = 160

    def __init__(self, what: str, next_step: str, *, device: str = "") -> None:
        super().__init__(what, next_step)
        self.device = device
