"""The byte formats a board finds in its memory: settings page, placed samples, image header."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from kilofed.boards import catalogue, image, placed, settings
from kilofed.boards.settings import Identity
from kilofed.errors import BoardError, FlashError

IDENTITY = Identity(bytes(range(8)), bytes(range(32)), "Küche 3")


def test_a_settings_page_is_what_its_format_says() -> None:
    page = settings.encode(IDENTITY)
    assert len(page) == 64
    assert page[:8] == b"KFI1\x01\x00\x40\x00"
    assert page[8:16] == IDENTITY.id
    assert page[16:48] == IDENTITY.key
    assert page[48:60] == "Küche 3".encode().ljust(12, b"\0")
    assert struct.unpack("<I", page[60:]) == (zlib.crc32(page[:60]),)
    assert settings.decode(page) == IDENTITY
    assert settings.decode(page + b"whatever follows in flash") == IDENTITY


@pytest.mark.parametrize("page", [b"", b"\xff" * 64, b"\0" * 64])
def test_an_erased_page_is_no_identity(page: bytes) -> None:
    with pytest.raises(BoardError, match=r"no settings page.*kilofed flash"):
        settings.decode(page)


def test_each_damaged_bit_of_a_page_is_noticed() -> None:
    page = settings.encode(IDENTITY)
    for bit in range(len(page) * 8):
        damaged = bytearray(page)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BoardError):
            settings.decode(bytes(damaged))


def test_a_page_of_another_version_is_refused_as_that() -> None:
    page = bytearray(settings.encode(IDENTITY))
    page[4] = 2
    page[60:] = struct.pack("<I", zlib.crc32(page[:60]))
    with pytest.raises(BoardError, match="version 2 and 64 bytes"):
        settings.decode(bytes(page))


@pytest.mark.parametrize("name", ["", "thirteen bytes", "with\0nul", "üüüüüüü"])
def test_a_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(BoardError, match="no name for a device"):
        Identity(bytes(8), bytes(32), name)


@pytest.mark.parametrize(("id_", "key"), [(7, 32), (8, 31)])
def test_an_identity_has_fixed_sizes(id_: int, key: int) -> None:
    with pytest.raises(BoardError, match="id of 8 and a key of 32"):
        Identity(bytes(id_), bytes(key), "a")


def test_a_key_is_not_in_the_text_of_an_identity() -> None:
    assert "key" not in repr(IDENTITY)


def test_placed_samples_are_what_their_format_says() -> None:
    inputs = np.arange(-12, 12, dtype=np.int8).reshape(4, 3, 2)
    labels = np.array([0, 513, 2, 65535])
    data = placed.encode(inputs, labels)
    assert data[:12] == b"KFS1" + struct.pack("<II", 4, 6)
    assert struct.unpack_from("<I", data, 12) == (zlib.crc32(data[16:]),)
    assert data[16:40] == inputs.tobytes()
    assert data[40:] == struct.pack("<4H", 0, 513, 2, 65535)
    back, back_labels = placed.decode(data + b"more memory")
    np.testing.assert_array_equal(back, inputs.reshape(4, 6))
    np.testing.assert_array_equal(back_labels, labels)


def test_no_samples_are_a_file_too() -> None:
    inputs, labels = placed.decode(placed.encode(np.zeros((0, 7), np.int8), np.zeros(0, int)))
    assert inputs.shape == (0, 7)
    assert labels.shape == (0,)


@pytest.mark.parametrize("cut", [0, 3, 15, 16, 39, 47])
def test_cut_or_damaged_samples_are_refused(cut: int) -> None:
    data = placed.encode(np.ones((4, 6), np.int8), np.arange(4))
    with pytest.raises(BoardError):
        placed.decode(data[:cut])
    damaged = bytearray(data)
    damaged[cut] ^= 0x40
    with pytest.raises(BoardError):
        placed.decode(bytes(damaged))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros(2, int), "dtype uint8"),
        (np.zeros((2, 3), np.int8), np.zeros(3, int), "labels of shape"),
        (np.zeros((2, 3), np.int8), np.array([0, 65536]), "outside 0 .. 65535"),
        (np.zeros((2, 3), np.int8), np.array([-1, 0]), "outside 0 .. 65535"),
    ],
)
def test_samples_of_another_form_are_refused(inputs: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(BoardError, match=message):
        placed.encode(inputs, labels)


def test_the_room_for_samples_is_kept_to_the_byte() -> None:
    board = catalogue.load("microbit")
    fits = placed.capacity(board, 784)
    assert fits == (0xFC00 - 16) // 786 >= 80
    placed.check(board, placed.encode(np.zeros((fits, 784), np.int8), np.zeros(fits, int)))
    with pytest.raises(BoardError, match=f"83 samples of 784 bytes.*at most {fits}"):
        placed.check(board, placed.encode(np.zeros((83, 784), np.int8), np.zeros(83, int)))


def header(**changed: object) -> bytes:
    """An image header for the microbit, as startup.c lays it out."""
    fields: dict[str, object] = {
        "magic": b"KFH1", "version": 1, "bytes": 56, "board": b"microbit", "firmware": 0x00010203,
        "model": 0xA000, "model_end": 0xB001, "pool": 0x20000500, "pool_end": 0x20002500, "settings": 0x3FC00,
    }  # fmt: skip
    return struct.pack("<4sHH24s6I", *(fields | changed).values())


def test_a_header_is_found_through_the_reserved_vector() -> None:
    memory = bytearray(200)
    struct.pack_into("<I", memory, 32, 0x1000 + 100)
    memory[100:156] = header()
    found = image.find_header(lambda at, size: bytes(memory[at - 0x1000 : at - 0x1000 + size]), 0x1000)
    assert found == image.Header("microbit", 0x00010203, 0xA000, 0xB001, 0x20000500, 0x20002500, 0x3FC00)


@pytest.mark.parametrize("changed", [{"magic": b"KFH2"}, {"version": 2}, {"bytes": 60}])
def test_another_header_is_none(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no image header"):
        image.decode_header(header(**changed))


def test_an_image_of_another_board_is_refused_by_name() -> None:
    with pytest.raises(FlashError, match=r"built for mps2-an385, the board is a microbit.*--board microbit"):
        image.check_board(image.decode_header(header(board=b"mps2-an385")), catalogue.load("microbit"))


def test_an_image_with_other_settings_is_refused() -> None:
    with pytest.raises(FlashError, match=r"settings at 0x1000.*0x3fc00.*build the image again"):
        image.check_board(image.decode_header(header(settings=0x1000)), catalogue.load("microbit"))
