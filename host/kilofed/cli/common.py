"""Options that several commands share, each defined once, and how results are printed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: As kilofed.fleet has it, which takes too long to load for a help text.
NAME_RULE = "1 to 12 letters, digits, dots, dashes and underscores, no sign first"

SECONDS = click.FloatRange(0, 86_400, min_open=True)

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)


def common_options(function: F) -> F:
    """--debug, which `kilofed.cli.run` looks for itself."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails."
    )(function)


def json_option(function: F) -> F:
    """--json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(function)


def model_option(*, required: bool = False) -> Callable[[F], F]:
    """--model, a .tflite; without it commands take the digits model of this package's repository."""
    return click.option("--model", type=FILE, required=required, help="The device model, a .tflite.")


def fleet_option(function: F) -> F:
    """--fleet, the register of devices, as `fleet_path` (None: the user's own)."""
    return click.option(
        "--fleet",
        "fleet_path",
        type=NEW_FILE,
        default=None,
        help="The register of devices.  [default: in the user's data folder]",
    )(function)


def board_option(text: str, *, many: bool = False, **settings: Any) -> Callable[[F], F]:
    """--board, a name of `kilofed boards`, as `boards` or `board_name`. settings: of click.option."""
    name = "boards" if many else "board_name"
    return click.option("--board", name, multiple=many, shell_complete=_board_names, help=text, **settings)


def _board_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from kilofed.boards import catalogue

    return [name for name in catalogue.names() if name.startswith(incomplete)]


def link_option(text: str) -> Callable[[F], F]:
    """--link, how a board reaches its host, as `link`."""
    return click.option(
        "--link",
        type=click.Choice(["serial", "ethernet"]),  # kilofed.boards.catalogue.LINKS, slow to load
        default="serial",
        show_default=True,
        help=text,
    )


def name_option(text: str, *, required: bool = False) -> Callable[[F], F]:
    """--name, a device's."""
    return click.option("--name", required=required, default=None, help=f"{text} {NAME_RULE}.")


def replace_option(function: F) -> F:
    """--replace, for a name that is taken."""
    return click.option(
        "--replace", is_flag=True, help="Give the name to this device if another one has it."
    )(function)


def run_argument(function: F) -> F:
    """RUN, the folder of a run, as `run_folder`."""
    return click.argument("run_folder", metavar="RUN", type=NEW_FOLDER)(function)


def run_out_option(default: str) -> Callable[[F], F]:
    """--out, the folder a run is kept in."""
    return click.option(
        "--out", type=NEW_FOLDER, default=Path(default), show_default=True, help="The run's folder."
    )


def rounds_option(function: F) -> F:
    """--rounds."""
    return click.option(
        "--rounds",
        type=click.IntRange(1, 1_000_000),
        default=20,
        show_default=True,
        help="Rounds in all; a run that is resumed goes on up to this number.",
    )(function)


def data_option(text: str, *, required: bool = False) -> Callable[[F], F]:
    """--data, a file of samples; `text` says of which, and what there is without it."""
    return click.option("--data", type=FILE, default=None, required=required, help=text)


def samples_option(text: str) -> Callable[[F], F]:
    """--samples, how many a started device gets."""
    return click.option("--samples", type=click.IntRange(1, 65_535), default=None, help=text)


def seed_option(text: str) -> Callable[[F], F]:
    """--seed, of what `text` says."""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True, help=text)


def model_defaults_options(function: F) -> F:
    """What a device model is to carry: --labels, --lr, --batch, --epochs."""
    for option in reversed(
        [
            click.option("--labels", default=None, help="Names of the classes, separated by commas."),
            click.option("--lr", type=float, default=None, help="Learning rate the model is to carry."),
            click.option("--batch", type=click.IntRange(1, 256), default=None,
                         help="Samples a training step."),
            click.option("--epochs", type=click.IntRange(1, 255), default=None,
                         help="Local epochs a round."),
        ]
    ):  # fmt: skip
        function = option(function)
    return function


def label_names(labels: str | None) -> list[str] | None:
    """--labels as a list."""
    return [label.strip() for label in labels.split(",")] if labels else None


def training_options(function: F) -> F:
    """The settings of a run that shape its rounds; None where the model's own default is meant."""
    for option in reversed(
        [
            rounds_option,
            click.option("--epochs", type=click.IntRange(1, 255), default=None,
                         help="Local epochs a round.  [default: the model's]"),
            click.option("--batch", type=click.IntRange(1, 256), default=None,
                         help="Samples a training step.  [default: the model's]"),
            click.option("--lr", type=float, default=None,
                         help="Learning rate, at features of unit RMS.  [default: the model's]"),
            click.option("--prox", type=float, default=0.0, show_default=True,
                         help="Proximal term mu of FedProx."),
            click.option("--codec", type=click.Choice(["int32", "int8", "int4", "ternary"]), default="int8",
                         show_default=True, help="How devices pack their updates."),
            click.option("--strategy", default="fedavg", show_default=True, metavar="MODULE:FACTORY",
                         help="What makes one change of a round's updates: fedavg, or one of your own."),
            click.option("--fraction", type=float, default=1.0, show_default=True,
                         help="Share of the devices present that a round asks."),
            click.option("--quorum", type=float, default=1.0, show_default=True,
                         help="Share of them whose answers end a round at once."),
            click.option("--patience", type=click.IntRange(1, 100), default=3, show_default=True,
                         help="Rounds in a row without one usable update before the run gives up."),
            click.option("--deadline", type=SECONDS, default=180.0, show_default=True,
                         help="Seconds after which a round ends without the rest."),
            click.option("--gather", type=SECONDS, default=60.0, show_default=True,
                         help="Seconds to wait for the fleet before the first round."),
            click.option("--take", type=SECONDS, default=30.0, show_default=True,
                         help="Seconds for one device to take a round's head."),
            click.option("--rejoin", type=SECONDS, default=20.0, show_default=True,
                         help="Seconds for a device that left in a round to come back to it."),
            click.option("--goodbye", type=SECONDS, default=2.0, show_default=True,
                         help="Seconds for the last messages to leave."),
            click.option("--personal-epochs", type=click.IntRange(0, 255), default=5, show_default=True,
                         help="Epochs of each device's personal head after the last round; 0: none."),
            seed_option("Of everything random in the run."),
        ]
    ):  # fmt: skip
        function = option(function)
    return function


def print_json(value: object) -> None:
    """A result on stdout, for programs."""
    click.echo(json.dumps(value, indent=2))


def print_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A result on stdout, for people: columns as wide as their content, numbers to the right."""
    lines = [[str(cell) for cell in row] for row in rows]
    head = list(header)
    widths = [max([len(name), *(len(row[i]) for row in lines)]) for i, name in enumerate(head)]
    right = [bool(lines) and all(_is_number(row[i]) for row in lines) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return "  ".join(parts).rstrip()

    click.echo(line(head))
    for row in lines:
        click.echo(line(row))


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace(" %", "").isdigit() or text == "-"


def command_line() -> str:
    """The command line that is running, as a person would type it again."""
    context = click.get_current_context().find_root()
    return shlex.join(["kilofed", *(context.obj or [])])


def read_file(path: Path) -> bytes:
    """The bytes of a model or an update. ModelError when it cannot be read, or is too large to be one."""
    from kilofed_tools import tflite

    return tflite.read_file(path)


def read_inputs(path: Path) -> NDArray[Any]:
    """The inputs [N, ...] of an .npy, or of an .npz with `inputs`. DataError when it is neither."""
    return read_inputs_and_labels(path)[0]


def read_inputs_and_labels(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The inputs [N, ...] as above, and the labels [N] when the .npz has `labels`."""
    import zipfile

    import numpy as np

    from kilofed_tools.errors import DataError

    form = "give an .npy of inputs [N, ...], or an .npz with `inputs`"
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded as arrays:
            if "inputs" not in arrays.files:
                raise DataError(f"{path.name} has no `inputs`", form)
            return arrays["inputs"], arrays["labels"] if "labels" in arrays.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name} cannot be read ({error})", form) from error


def write_file(path: Path, content: bytes) -> None:
    """Writes a result to a file, whole or not at all; says so when that makes a folder. StoreError."""
    from kilofed.errors import StoreError
    from kilofed.store import write_atomically

    new = not path.parent.exists()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror})", "choose another place", path=str(path)
        ) from error
    if new:
        click.echo(f"note: made the folder {shown(path.parent)}", err=True)


def shown(path: Path) -> str:
    """A path as people want to read it: relative when that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
