"""Flash a board: check that the image is this board's, bring it there, verify it, write the settings page,
start it.

The settings page makes a device of what is written, so it goes first and comes last: a mark takes its place
(kilofed.boards.settings), then the image is written and read back, then the page. Killed anywhere between,
the board does not say hello, and the next flashing says that the last one was interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kilofed.boards import network as networks
from kilofed.boards import settings, uf2, volume
from kilofed.boards.catalogue import SERIAL, Board
from kilofed.boards.elf import Segment
from kilofed.boards.flash_methods import METHODS, FlashMethod, Progress
from kilofed.boards.image import Image, check_board
from kilofed.boards.network import Network
from kilofed.boards.settings import Identity
from kilofed.errors import FitError, FlashError


@dataclass(frozen=True)
class Step:
    """One thing that flashing does: action, in a word; what it is done to; where and how many bytes, None for
    what writes nothing.
    """

    action: str
    what: str
    address: int | None = None
    bytes: int | None = None


def plan(
    board: Board, image: Image, identity: Identity, network: Network | None = None, *, target: str = ""
) -> list[Step]:
    """What `flash` will do, in order, without doing it. Raises what it raises before it touches a board."""
    check_image(board, image)
    mark, content, page = _parts(board, image, identity, network)
    if is_volume(target):
        volume.check_board(board)
        size = len(uf2.encode([*content, page], board.uf2_family, whole=uf2.SECTOR_BYTES))
        return [
            Step("check", f"that {target} is the volume of a {board.name}"),
            Step("copy", f"{volume.FILE}: the image and the settings page, in UF2 blocks", bytes=size),
            Step("wait", "until the board has started and its volume is gone"),
        ]
    options = ", ".join(f"{name} {value}" for name, value in board.flash_method.options.items())
    places = {board.network_address: "the network block: where its host is"}
    steps = [
        Step("connect", f"by {board.flash_method.name}, halt the core, and see that it is a {board.core}"),
        Step("write", "a mark in place of the settings page: half-flashed", mark.address, len(mark.data)),
    ]
    for segment in content:
        what = places.get(segment.address, "the image")
        steps.append(Step("write", f"{what}, and read it back", segment.address, len(segment.data)))
    whose = "the settings page: id, " + ("no key" if identity.key == settings.NO_KEY else "key") + " and name"
    steps.append(Step("write", f"{whose}, and read it back", page.address, len(page.data)))
    return [*steps, Step("start", f"the board ({options})" if options else "the board")]


def flash(
    board: Board,
    image: Image,
    identity: Identity,
    target: str,
    *,
    network: Network | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> int:
    """Write `image` and the settings page of `identity` to the board at `target`, verify both, and start it.

    target: what the board's flash method calls an address: HOST:PORT of a GDB server for "gdb"; or the folder
    of a volume that the board shows (kilofed.boards.volume), which cannot be read back. network:
    where its host is, for a board whose link is Ethernet, which cannot do without.
    notice: told when the last flashing of this board was interrupted. Returns the bytes written.
    Raises FlashError: an image of another board, a connected core that is not this board's, nobody there, a
    failed write or verification; FitError: the image exceeds the board's flash or RAM.
    """
    check_image(board, image)
    mark, content, page = _parts(board, image, identity, network)
    if is_volume(target):
        return volume.write(board, [*content, page], Path(target), progress=progress)
    with _connected(board, target) as method:
        unfinished = settings.interrupted(method.read(page.address, settings.SETTINGS_BYTES))
        if unfinished is not None and notice is not None:
            whose = f" as {unfinished}" if unfinished else ""
            notice(f"flashing the board at {target}{whose} was interrupted; it is written again whole")
        method.program([mark], lambda *_: None)
        before, total = _bytes(content), _bytes([*content, page])
        tell = progress or (lambda *_: None)
        method.program(content, lambda step, done, _: tell(step, done, total))
        method.program([page], lambda step, done, _: tell(step, before + done, total))
        method.run()
    return total


def _parts(
    board: Board, image: Image, identity: Identity, network: Network | None
) -> tuple[Segment, list[Segment], Segment]:
    """What is written first, then, and last: the mark, the image and what goes with it, the settings page."""
    page, *others = pages(board, identity, network)
    digest = hashlib.sha256(b"".join(segment.data for segment in image.segments)).digest()
    mark = Segment(page.address, settings.encode_mark(identity, digest))
    return mark, [*image.segments, *others], page


def pages(board: Board, identity: Identity, network: Network | None) -> list[Segment]:
    """What is written beside the image: the settings page, and the network block of a board on Ethernet.

    Raises FlashError when there is no network for a board that needs one, or one for a board that has none.
    """
    if (network is None) != (board.link == SERIAL):
        raise FlashError(
            f"a {board.name} on {board.link} "
            + ("must be told where its host is" if network is None else "has no use for a host's address"),
            "give the host's address with the link ethernet, and only with that",
            board=board.name,
        )
    found = [Segment(board.settings_address, settings.encode(identity))]
    if network is not None:
        found.append(Segment(board.network_address, networks.encode(network)))
    return found


def is_volume(target: str) -> bool:
    """Whether a target is a folder, and no address."""
    return "/" in target or (target != "" and Path(target).is_dir())


def check_target(board: Board, target: str) -> None:
    """Raises FlashError when nobody is at `target`, or another core than the board's: before what takes time.

    It halts the board, as flashing does; whoever does not flash it afterwards leaves it halted.
    """
    if is_volume(target):
        volume.check(board, Path(target))
        return
    with _connected(board, target):
        pass


def program(
    board: Board, segments: Sequence[Segment], target: str, *, progress: Progress | None = None
) -> int:
    """Write and verify `segments` on the board at `target` and start it. Returns the bytes written. Raises
    FlashError.
    """
    with _connected(board, target) as method:
        method.program(segments, progress or (lambda *_: None))
        method.run()
    return _bytes(segments)


def check_image(board: Board, image: Image) -> None:
    """Raises FlashError for an image of another board, FitError for one that is too big, with the numbers."""
    check_board(image.header, board)
    room = board.image_region
    for segment in image.segments:
        if not room.holds(segment.address, len(segment.data)):
            raise FitError(
                f"the image needs {image.flash_bytes} bytes of flash, {board.name} has {room.size} for it",
                "use a smaller model",
                board=board.name,
                memory="flash",
                needed=image.flash_bytes,
                available=room.size,
            )
    if image.ram_bytes > board.ram.size:
        raise FitError(
            f"the image needs {image.ram_bytes} bytes of RAM, {board.name} has {board.ram.size}",
            "use a smaller model or fewer ring_slots",
            board=board.name,
            memory="ram",
            needed=image.ram_bytes,
            available=board.ram.size,
        )


def _bytes(segments: Sequence[Segment]) -> int:
    return sum(len(segment.data) for segment in segments)


@contextlib.contextmanager
def _connected(board: Board, target: str) -> Iterator[FlashMethod]:
    """The board at `target`, halted, and seen to have the right core; errors get its name."""
    method = _method(board)
    try:
        method.connect(target, board.flash_method.options)
        core = method.core()
        if core and core != board.core:
            raise FlashError(
                f"at {target} is a {core}, {board.name} has a {board.core}",
                "name the right board, or the right address",
            )
        yield method
    except FlashError as error:
        error.board = error.board or board.name
        raise
    finally:
        method.close()


def _method(board: Board) -> FlashMethod:
    name = board.flash_method.name
    if name not in METHODS:
        raise FlashError(
            f"{board.name} is flashed by {name!r}, which this version does not know",
            f"use one of {', '.join(METHODS)} in its data file",
            board=board.name,
        )
    return METHODS[name]()
