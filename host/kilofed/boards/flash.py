"""Flash a board: check that the image is this board's, bring it there, verify it, write the settings page,
start it.
"""

from __future__ import annotations

from collections.abc import Sequence

from kilofed.boards import network as networks
from kilofed.boards import settings
from kilofed.boards.catalogue import SERIAL, Board
from kilofed.boards.elf import Segment
from kilofed.boards.flash_methods import METHODS, FlashMethod, Progress
from kilofed.boards.image import Image, check_board
from kilofed.boards.network import Network
from kilofed.boards.settings import Identity
from kilofed.errors import FitError, FlashError


def flash(
    board: Board,
    image: Image,
    identity: Identity,
    target: str,
    *,
    network: Network | None = None,
    progress: Progress | None = None,
) -> int:
    """Write `image` and the settings page of `identity` to the board at `target`, verify both, and start it.

    target: what the board's flash method calls an address: HOST:PORT of a GDB server for "gdb". network:
    where its host is, for a board whose link is Ethernet, which cannot do without. Returns the bytes written.
    Raises FlashError: an image of another board, a connected core that is not this board's, nobody there, a
    failed write or verification; FitError: the image exceeds the board's flash or RAM.
    """
    check_image(board, image)
    return program(board, [*image.segments, *pages(board, identity, network)], target, progress=progress)


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


def check_target(board: Board, target: str) -> None:
    """Raises FlashError when nobody is at `target`, or another core than the board's: before what takes time.

    It halts the board, as flashing does; whoever does not flash it afterwards leaves it halted.
    """
    method = _method(board)
    try:
        _connect(method, board, target)
    finally:
        method.close()


def program(
    board: Board, segments: Sequence[Segment], target: str, *, progress: Progress | None = None
) -> int:
    """Write and verify `segments` on the board at `target` and start it. Returns the bytes written. Raises
    FlashError.
    """
    method = _method(board)
    try:
        _connect(method, board, target)
        method.program(segments, progress or (lambda *_: None))
        method.run()
    except FlashError as error:
        error.board = error.board or board.name
        raise
    finally:
        method.close()
    return sum(len(segment.data) for segment in segments)


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


def _connect(method: FlashMethod, board: Board, target: str) -> None:
    try:
        method.connect(target, board.flash_method.options)
        core = method.core()
    except FlashError as error:
        error.board = error.board or board.name
        raise
    if core and core != board.core:
        raise FlashError(
            f"at {target} is a {core}, {board.name} has a {board.core}",
            "name the right board, or the right address",
            board=board.name,
        )


def _method(board: Board) -> FlashMethod:
    name = board.flash_method.name
    if name not in METHODS:
        raise FlashError(
            f"{board.name} is flashed by {name!r}, which this version does not know",
            f"use one of {', '.join(METHODS)} in its data file",
            board=board.name,
        )
    return METHODS[name]()
