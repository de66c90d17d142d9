"""The boards this project knows, read from the data files that the firmware build reads too.

One JSON file a board, in `firmware/port/boards/`. Each number there has a `why` beside it: a datasheet's
section, or the reasoning. Here they become a `Board`, with everything checked that would otherwise fail
late and strangely.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kilofed.boards import network
from kilofed.errors import CatalogueError

SERIAL = "serial"
ETHERNET = "ethernet"
LINKS = (SERIAL, ETHERNET)
"""How a board may reach its host."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,22}")


@dataclass(frozen=True)
class Region:
    """A piece of address space: the first byte's address, and bytes."""

    origin: int
    size: int

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.origin + self.size

    def holds(self, address: int, size: int = 1) -> bool:
        """Whether `size` bytes at `address` lie inside."""
        return self.origin <= address and address + size <= self.end


@dataclass(frozen=True)
class FlashMethod:
    """How a board is flashed: a name of `kilofed.boards.flash_methods`, and the options of that method."""

    name: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Ethernet:
    """A board's Ethernet controller: the folder of its driver under firmware/port, its address, its IRQ."""

    controller: str
    address: int
    irq: int


@dataclass(frozen=True)
class Storage:
    """Flash that a running device may write (kilofed/flash.h).

    region: whole pages that hold nothing else. page_bytes: what one erase takes. write_bytes: what one write
    takes at least. erase_ms: a page, at most. endurance: erases of a page that the datasheet promises, 0: no
    limit.
    """

    region: Region
    page_bytes: int
    write_bytes: int
    erase_ms: int
    endurance: int


@dataclass(frozen=True)
class Board:
    """One board. Sizes in bytes, addresses as the core sees them.

    port: folder under firmware/port. core: GCC's name of it; flags: its compiler flags. stack_bytes: kept
    for the stack at the end of RAM. reserve_bytes: of RAM that no model may use. rx_ring: receive buffer,
    and so the link's window. ring_slots: samples kept; max_batch: of a training order. exact_updates:
    whether the memory block has room for an int32 update. samples: where private samples are placed.
    storage: flash that the device may write, None when it has none. qemu: QEMU's machine, "" when it has
    none; rp2040js: the board that rp2040js plays it as. uf2_family: of the UF2 file that its bootloader
    takes, 0 when it takes none. ethernet: its controller, None when it has none. verified: how far this
    data file was tried. why: the reason of each entry, by its name in the file. link: how an image for it
    reaches the host, "serial" or "ethernet".
    """

    name: str
    title: str
    chip: str
    port: str
    core: str
    flags: tuple[str, ...]
    clock_hz: int
    flash: Region
    ram: Region
    stack_bytes: int
    reserve_bytes: int
    uart: str
    baud: int
    max_frame: int
    rx_ring: int
    tx_ring: int
    ring_slots: int
    held_out_every: int
    max_batch: int
    exact_updates: bool
    settings_address: int
    samples: Region
    storage: Storage | None
    flash_method: FlashMethod
    qemu: str
    rp2040js: str
    uf2_family: int
    ethernet: Ethernet | None
    verified: str
    why: Mapping[str, str] = field(repr=False, compare=False)
    link: str = SERIAL

    @property
    def links(self) -> tuple[str, ...]:
        """The links that images for it can be built with."""
        return LINKS if self.ethernet is not None else (SERIAL,)

    @property
    def variant(self) -> str:
        """The board's name, with the link when that is not serial: for folders, and for people."""
        return self.name if self.link == SERIAL else f"{self.name}-{self.link}"

    @property
    def network_address(self) -> int:
        """Where the network block lies."""
        return self.settings_address + network.OFFSET

    @property
    def image_region(self) -> Region:
        """Where an image may lie: flash, up to the first thing that is placed in it beside the image."""
        addresses = [self.settings_address, self.samples.origin]
        if self.storage is not None:
            addresses.append(self.storage.region.origin)
        placed = [a for a in addresses if self.flash.holds(a)]
        return Region(self.flash.origin, min([self.flash.end, *placed]) - self.flash.origin)

    @property
    def samples_in_flash(self) -> bool:
        """Whether placed samples take flash (they survive a power cut, and are erased with it)."""
        return self.flash.holds(self.samples.origin)


def repository() -> Path | None:
    """The checkout this package runs from; None for an installed wheel, which carries no firmware sources."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "firmware" / "CMakeLists.txt").is_file() else None


def boards_dir() -> Path:
    """The folder of data files: the checkout's own, else the copy inside the installed package.

    Raises CatalogueError when there is neither.
    """
    root = repository()
    candidates = [Path(__file__).resolve().parents[1] / "_boards"]
    if root is not None:
        candidates.insert(0, root / "firmware" / "port" / "boards")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise CatalogueError(
        "this installation has no data files of boards", "install kilofed again, or run it from a checkout"
    )


def names() -> list[str]:
    """The boards there are, sorted."""
    return sorted(path.stem for path in boards_dir().glob("*.json"))


def load(name: str, *, link: str = SERIAL) -> Board:
    """The board called `name`, to reach its host over `link`, one of LINKS.

    Raises CatalogueError: no such board, no such link on it, or a data file that cannot be right.
    """
    known = names()
    if name not in known:
        raise CatalogueError(f"there is no board {name!r}", f"choose one of {', '.join(known)}", board=name)
    board = read(boards_dir() / f"{name}.json")
    if link not in board.links:
        able = [board.name for board in all() if link in board.links]
        raise CatalogueError(
            f"{name} has no link {link!r}",
            f"use {' or '.join(board.links)}" + (f", or one of {', '.join(able)}" if able else ""),
            board=name,
        )
    return replace(board, link=link)


def all() -> list[Board]:
    """Every board, sorted by name. Raises CatalogueError as `load` does."""
    return [load(name) for name in names()]


def read(path: Path) -> Board:
    """The board of one data file. Raises CatalogueError with the entry that is missing or wrong."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        board = _board(entries)
        _check(board, path.stem)
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise CatalogueError(
            f"{path.name} is wrong: {reason}",
            "mend the data file; firmware/PORTING.md lists its entries",
            board=path.stem,
        ) from error
    return board


def _board(entries: dict[str, Any]) -> Board:
    def number(name: str, member: str = "value") -> int:
        value = entries[name][member]
        result = int(value, 0) if isinstance(value, str) else value
        if not isinstance(result, int) or isinstance(result, bool) or result < 0:
            raise ValueError(f"{name}.{member} is {value!r}, not a number from 0 on")
        return result

    method = entries["flash_method"]
    ethernet = None
    if "ethernet" in entries:
        ethernet = Ethernet(
            entries["ethernet"]["controller"], number("ethernet", "address"), number("ethernet", "irq")
        )
    storage = None
    if "storage" in entries:
        storage = Storage(
            Region(number("storage", "address"), number("storage", "size")),
            *(number("storage", member) for member in ("page", "write", "erase_ms", "endurance")),
        )
    return Board(
        name=entries["name"],
        title=entries["title"],
        chip=entries["chip"],
        port=entries["port"],
        core=entries["core"]["name"],
        flags=tuple(entries["core"]["flags"]),
        clock_hz=number("clock_hz"),
        flash=Region(number("flash", "origin"), number("flash", "size")),
        ram=Region(number("ram", "origin"), number("ram", "size")),
        stack_bytes=number("stack_bytes"),
        reserve_bytes=number("reserve_bytes"),
        uart=entries["uart"]["name"],
        baud=number("uart", "baud"),
        max_frame=number("max_frame"),
        rx_ring=number("rx_ring"),
        tx_ring=number("tx_ring"),
        ring_slots=number("ring_slots"),
        held_out_every=number("held_out_every"),
        max_batch=number("max_batch"),
        exact_updates=bool(number("exact_updates")),
        settings_address=number("settings_address"),
        samples=Region(number("samples", "address"), number("samples", "size")),
        storage=storage,
        flash_method=FlashMethod(
            method["name"], {k: v for k, v in method.items() if k not in ("name", "why")}
        ),
        qemu=entries.get("emulator", {}).get("qemu", ""),
        rp2040js=entries.get("emulator", {}).get("rp2040js", ""),
        uf2_family=number("uf2", "family") if "uf2" in entries else 0,
        ethernet=ethernet,
        verified=entries["verified"],
        why={name: entry["why"] for name, entry in entries.items() if isinstance(entry, dict)},
    )


def _check(board: Board, stem: str) -> None:
    """Raises ValueError naming the first rule that `board` breaks."""
    from kilofed.boards.settings import SETTINGS_BYTES

    power_of_two = {"rx_ring": board.rx_ring, "tx_ring": board.tx_ring}
    rules = [
        (board.name == stem, f"name is {board.name!r}, which must be the file's own"),
        (_NAME.fullmatch(board.name) is not None, f"name {board.name!r}: up to 23 of a-z, 0-9 and -"),
        (all_text(board.why), "a reason (why) is empty"),
        (board.stack_bytes % 8 == 0, "stack_bytes must be a multiple of 8"),
        (
            board.stack_bytes + board.reserve_bytes < board.ram.size,
            "stack_bytes and reserve_bytes exceed ram.size",
        ),
        (72 <= board.max_frame <= 1024, "max_frame must lie in 72 .. 1024, for encrypted sessions"),
        *((n & (n - 1) == 0 and n > 0, f"{name} must be a power of two") for name, n in power_of_two.items()),
        (board.max_frame <= board.rx_ring <= 65535, "rx_ring must hold one frame, and at most 65535 bytes"),
        (1 <= board.ring_slots <= 65535, "ring_slots must lie in 1 .. 65535"),
        (
            board.held_out_every == 0 or 2 <= board.held_out_every <= 255,
            "held_out_every must be 0 or lie in 2 .. 255",
        ),
        (
            board.held_out_every == 0 or board.ring_slots % board.held_out_every == 0,
            "ring_slots must be a multiple of held_out_every",
        ),
        (1 <= board.max_batch <= 256, "max_batch must lie in 1 .. 256"),
        (board.flash.holds(board.settings_address, SETTINGS_BYTES), "settings_address lies outside flash"),
        (
            board.ethernet is None
            or (
                board.flash.holds(board.network_address, network.NETWORK_BYTES)
                and not board.samples.holds(board.network_address)
            ),
            f"the network block, {network.OFFSET} bytes behind settings_address, is not in flash of its own",
        ),
        (board.image_region.size > 0, "settings or samples leave no flash for an image"),
        (
            not board.samples.holds(board.settings_address)
            and not (
                board.settings_address <= board.samples.origin < board.settings_address + SETTINGS_BYTES
            ),
            "samples and settings overlap",
        ),
    ]
    if board.storage is not None:
        rules += _storage_rules(board, board.storage)
    for holds, message in rules:
        if not holds:
            raise ValueError(message)


def _storage_rules(board: Board, storage: Storage) -> list[tuple[bool, str]]:
    """The rules of a board's `storage` entry: those of kilofed/flash.h, and that it is nobody else's."""
    from kilofed.boards.settings import SETTINGS_BYTES

    region, page, write = storage.region, storage.page_bytes, storage.write_bytes
    others = [Region(board.settings_address, SETTINGS_BYTES), board.samples, board.ram]
    if board.ethernet is not None:
        others.append(Region(board.network_address, network.NETWORK_BYTES))
    return [
        (256 <= page <= 131072 and page & (page - 1) == 0, "storage.page: a power of two, 256 to 131072"),
        (1 <= write <= 256 and write & (write - 1) == 0, "storage.write: a power of two, 1 to 256"),
        (
            page > 0 and region.origin % page == 0 and region.size % page == 0 and region.size >= 2 * page,
            "storage must be two whole pages or more",
        ),
        (
            not any(region.origin < other.end and other.origin < region.end for other in others),
            "storage overlaps settings, samples, the network block or RAM",
        ),
    ]


def all_text(reasons: Mapping[str, str]) -> bool:
    """Whether every reason says something."""
    return min((len(reason.strip()) for reason in reasons.values()), default=0) > 0
