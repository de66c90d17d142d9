"""The errors of the host package: they extend the tree of kilofed_tools.errors, drawn here whole.

    KilofedError                100   anything this project raises on purpose
    +-- (tools)             110-199   models, heads, conversion, data: see kilofed_tools.errors
    +-- (link)              200-299   lines, frames, messages, sessions: see kilofed.link.errors
    +-- BoardError              300   a board: its data, its image, the way to start it and flash it
    |   +-- CatalogueError      310   no such board, or its data file is wrong
    |   +-- BuildError          320   the firmware could not be built
    |   +-- ToolMissingError    330   a compiler or an emulator that is not installed
    |   +-- EmulatorError       340   an emulated board that does not start, or died
    |   +-- FlashError          350   an image that could not be written or verified
    |   +-- FitError            360   a model that does not fit a board
    +-- StoreError              400   files that outlive a process
    |   +-- RunFolderError      410   not a run folder, or of a version this program does not read
    |   +-- RunLockedError      411   another process has the run open
    |   +-- RunMismatchError    412   a run started with another model or other settings
    |   +-- FleetError          420   the register of devices: no such device, a name taken twice
    +-- RoundError              500   the federation itself
    |   +-- ConfigError         510   settings of a run that make no sense
    |   +-- FleetMissingError   520   too few devices came within the time allowed
    |   +-- RoundsFailedError   530   round after round without a single usable update
    +-- MachineError            600   a file, a folder or room that the operating system refuses

`str(error)` is one line: what is wrong, then the next step. Lower exceptions (OSError, sqlite3.Error,
SerialException) are translated where they occur, with their cause kept.
"""

from __future__ import annotations

from kilofed_tools.errors import KilofedError

__all__ = [
    "BoardError",
    "BuildError",
    "CatalogueError",
    "ConfigError",
    "EmulatorError",
    "FitError",
    "FlashError",
    "FleetError",
    "FleetMissingError",
    "KilofedError",
    "MachineError",
    "RoundError",
    "RoundsFailedError",
    "RunFolderError",
    "RunLockedError",
    "RunMismatchError",
    "StoreError",
    "ToolMissingError",
]


class BoardError(KilofedError):
    """Something about a board. ``board`` is its name in the catalogue, "" when unknown."""

    code = 300

    def __init__(self, what: str, next_step: str, *, board: str = "") -> None:
        super().__init__(what, next_step)
        self.board = board


class CatalogueError(BoardError):
    """There is no such board, or its data file is wrong."""

    code = 310


class BuildError(BoardError):
    """The firmware could not be built. ``log`` holds the tool's last lines."""

    code = 320

    def __init__(self, what: str, next_step: str, *, board: str = "", log: str = "") -> None:
        super().__init__(what, next_step, board=board)
        self.log = log


class ToolMissingError(BoardError):
    """A compiler or an emulator is not installed. ``tool`` is the program that was looked for."""

    code = 330

    def __init__(self, what: str, next_step: str, *, board: str = "", tool: str = "") -> None:
        super().__init__(what, next_step, board=board)
        self.tool = tool


class EmulatorError(BoardError):
    """An emulated board did not start, or died. ``log`` holds what it printed last."""

    code = 340

    def __init__(self, what: str, next_step: str, *, board: str = "", log: str = "") -> None:
        super().__init__(what, next_step, board=board)
        self.log = log


class FlashError(BoardError):
    """An image could not be written or verified. ``address`` is where, -1 when unknown."""

    code = 350

    def __init__(self, what: str, next_step: str, *, board: str = "", address: int = -1) -> None:
        super().__init__(what, next_step, board=board)
        self.address = address


class FitError(BoardError):
    """A model does not fit a board. ``needed`` and ``available``: bytes of ``memory``, "flash" or "ram"."""

    code = 360

    def __init__(
        self,
        what: str,
        next_step: str,
        *,
        board: str = "",
        memory: str = "",
        needed: int = 0,
        available: int = 0,
    ) -> None:
        super().__init__(what, next_step, board=board)
        self.memory = memory
        self.needed = needed
        self.available = available


class StoreError(KilofedError):
    """A file that outlives the process cannot be used. ``path`` names it."""

    code = 400

    def __init__(self, what: str, next_step: str, *, path: str = "") -> None:
        super().__init__(what, next_step)
        self.path = path


class RunFolderError(StoreError):
    """Not a run folder, damaged, or of a version this program does not read."""

    code = 410


class RunLockedError(StoreError):
    """Another process has the run open. ``pid`` is that process, 0 when unknown."""

    code = 411

    def __init__(self, what: str, next_step: str, *, path: str = "", pid: int = 0) -> None:
        super().__init__(what, next_step, path=path)
        self.pid = pid


class RunMismatchError(StoreError):
    """The run in the folder was started with another model or other settings."""

    code = 412


class FleetError(StoreError):
    """The register of devices says no. ``device`` is the name or id that was asked for."""

    code = 420

    def __init__(self, what: str, next_step: str, *, path: str = "", device: str = "") -> None:
        super().__init__(what, next_step, path=path)
        self.device = device


class RoundError(KilofedError):
    """The federation cannot go on. ``round`` is the round's number, 0 when none had begun."""

    code = 500

    def __init__(self, what: str, next_step: str, *, round: int = 0) -> None:
        super().__init__(what, next_step)
        self.round = round


class ConfigError(RoundError):
    """A setting of a run makes no sense. ``setting`` is its name."""

    code = 510

    def __init__(self, what: str, next_step: str, *, setting: str = "") -> None:
        super().__init__(what, next_step)
        self.setting = setting


class FleetMissingError(RoundError):
    """Too few devices came within the time allowed. ``present`` and ``wanted`` count them."""

    code = 520

    def __init__(self, what: str, next_step: str, *, present: int = 0, wanted: int = 0) -> None:
        super().__init__(what, next_step)
        self.present = present
        self.wanted = wanted


class RoundsFailedError(RoundError):
    """Round after round brought not one usable update. ``reasons``: device name -> why it was dropped."""

    code = 530

    def __init__(
        self, what: str, next_step: str, *, round: int = 0, reasons: dict[str, str] | None = None
    ) -> None:
        super().__init__(what, next_step, round=round)
        self.reasons = dict(reasons or {})


class MachineError(KilofedError):
    """The operating system refuses a file, a folder, room or another process.

    The command line makes it of an OSError that nothing below it translated. ``path`` is the file's, "" when
    it is about none.
    """

    code = 600

    def __init__(self, what: str, next_step: str, *, path: str = "") -> None:
        super().__init__(what, next_step)
        self.path = path
