"""The boards' data files, and what is made of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kilofed.boards import catalogue
from kilofed.errors import CatalogueError


def test_the_eight_boards_are_there() -> None:
    mps = ["mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547"]
    assert catalogue.names() == ["microbit", *mps, "pico", "stm32f405"]
    assert [board.name for board in catalogue.all()] == catalogue.names()


def test_the_small_board_is_small() -> None:
    board = catalogue.load("microbit")
    assert (board.core, board.ram.size, board.flash.size) == ("cortex-m0", 16 * 1024, 256 * 1024)
    assert board.reserve_bytes >= 2048, "an application needs something beside the device"
    assert board.ring_slots >= 64
    assert board.image_region.end == board.samples.origin
    assert board.samples_in_flash


@pytest.mark.parametrize("name", [name for name in catalogue.names() if name.startswith("mps")])
def test_the_large_boards_keep_samples_out_of_flash(name: str) -> None:
    board = catalogue.load(name)
    assert not board.samples_in_flash
    assert board.image_region.end == board.settings_address


def test_every_number_has_a_reason() -> None:
    for path in catalogue.boards_dir().glob("*.json"):
        for entry, value in json.loads(path.read_text()).items():
            assert isinstance(value, str) or len(value["why"]) > 15, f"{path.name}: {entry}"


def test_an_unknown_board_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CatalogueError, match="choose one of microbit, mps2-an385"):
        catalogue.load("arduino")


WRONG: list[tuple[str, Any, str]] = [
    ("name", "other", "name is 'other', which must be the file's own"),
    ("stack_bytes.value", 2044, "stack_bytes must be a multiple of 8"),
    ("stack_bytes.value", 16384, "exceed ram.size"),
    ("max_frame.value", 71, "max_frame must lie in 72 .. 1024"),
    ("rx_ring.value", 300, "rx_ring must be a power of two"),
    ("rx_ring.value", 64, "rx_ring must hold one frame"),
    ("ring_slots.value", 81, "ring_slots must be a multiple of held_out_every"),
    ("held_out_every.value", 1, "held_out_every must be 0 or lie in 2 .. 255"),
    ("max_batch.value", 0, "max_batch must lie in 1 .. 256"),
    ("settings_address.value", "0x00040000", "settings_address lies outside flash"),
    ("settings_address.value", "0x00030000", "samples and settings overlap"),
    ("samples.address", "0x00000000", "leave no flash for an image"),
    ("clock_hz.value", "fast", "invalid literal"),
    ("clock_hz.value", True, "not a number"),
    ("uart.why", "  ", "a reason (why) is empty"),
    ("uart.why", None, "no entry 'why'"),
    ("core", None, "no entry 'core'"),
]


@pytest.mark.parametrize(("entry", "value", "message"), WRONG, ids=lambda v: str(v)[:30])
def test_a_wrong_data_file_names_the_entry(tmp_path: Path, entry: str, value: Any, message: str) -> None:
    entries = json.loads((catalogue.boards_dir() / "microbit.json").read_text())
    *path, last = entry.split(".")
    holder = entries
    for name in path:
        holder = holder[name]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    file = tmp_path / "microbit.json"
    file.write_text(json.dumps(entries))
    with pytest.raises(CatalogueError) as caught:
        catalogue.read(file)
    assert message in str(caught.value)
    assert caught.value.board == "microbit"


STORAGE: dict[str, Any] = {
    "address": "0x0002c000", "size": 4096, "page": 1024, "write": 4, "erase_ms": 22, "endurance": 20000,
    "why": "made up",
}  # fmt: skip


def with_storage(tmp_path: Path, **changed: Any) -> Path:
    entries = json.loads((catalogue.boards_dir() / "microbit.json").read_text())
    entries["storage"] = {**STORAGE, **changed}
    file = tmp_path / "microbit.json"
    file.write_text(json.dumps(entries))
    return file


def test_storage_ends_the_image(tmp_path: Path) -> None:
    board = catalogue.read(with_storage(tmp_path))
    assert board.storage == catalogue.Storage(catalogue.Region(0x2C000, 4096), 1024, 4, 22, 20000)
    assert board.image_region == catalogue.Region(0, 0x2C000)
    assert board.why["storage"] == "made up"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"page": 1000}, "storage.page: a power of two"),
        ({"page": 128}, "storage.page: a power of two"),
        ({"write": 512}, "storage.write: a power of two"),
        ({"write": 0}, "storage.write: a power of two"),
        ({"size": 1024}, "two whole pages or more"),
        ({"address": "0x0002c200"}, "two whole pages or more"),
        ({"size": 20480}, "storage overlaps"),
        ({"address": "0x0003f800", "size": 2048}, "storage overlaps"),
        ({"address": "0x20000000"}, "storage overlaps"),
    ],
)
def test_storage_that_cannot_be_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        catalogue.read(with_storage(tmp_path, **changed))


def test_an_installed_package_reads_its_own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kilofed"
    (package / "boards").mkdir(parents=True)
    copy = package / "_boards"
    copy.mkdir()
    (copy / "microbit.json").write_bytes((catalogue.boards_dir() / "microbit.json").read_bytes())
    monkeypatch.setattr(catalogue, "__file__", str(package / "boards" / "catalogue.py"))
    assert catalogue.repository() is None
    assert catalogue.boards_dir() == copy
    assert catalogue.names() == ["microbit"]
    (copy / "microbit.json").unlink()
    copy.rmdir()
    with pytest.raises(CatalogueError, match="no data files"):
        catalogue.boards_dir()
