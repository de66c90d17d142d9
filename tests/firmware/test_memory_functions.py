"""What images have for a C library (firmware/port/bare/memory.c), against Python's own slices."""

import ctypes
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "firmware/port/bare/memory.c"
NAMES = ("memcpy", "memmove", "memset", "memcmp")
ROOM = 64


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The functions under names of their own: this process has others."""
    built = tmp_path_factory.mktemp("memory") / "memory.so"
    renamed = [f"-D{name}=kf_{name}" for name in NAMES]
    flags = [
        "-std=c11",
        "-Os",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wpedantic",
        "-Werror",
        "-shared",
        "-fPIC",
    ]
    flags += ["-fno-builtin", "-fno-tree-loop-distribute-patterns"]
    subprocess.run(["cc", *flags, *renamed, "-o", str(built), str(SOURCE)], check=True)
    return ctypes.CDLL(str(built))


def _block() -> tuple[ctypes.Array[ctypes.c_char], int]:
    block = ctypes.create_string_buffer(bytes(range(1, ROOM + 1)), ROOM)
    return block, ctypes.addressof(block)


@pytest.mark.parametrize("name", ["memcpy", "memmove"])
def test_copies(library: ctypes.CDLL, name: str) -> None:
    copy = getattr(library, f"kf_{name}")
    copy.restype = ctypes.c_void_p
    for size in range(20):
        for to in range(32):
            for start in range(8) if name == "memcpy" else range(32):
                if name == "memcpy" and to < start + size:
                    continue
                block, at = _block()
                expected = bytearray(block.raw)
                expected[to : to + size] = block.raw[start : start + size]
                found = copy(ctypes.c_void_p(at + to), ctypes.c_void_p(at + start), ctypes.c_size_t(size))
                assert block.raw == bytes(expected), (to, start, size)
                assert found == at + to


def test_sets(library: ctypes.CDLL) -> None:
    library.kf_memset.restype = ctypes.c_void_p
    for size in range(20):
        for to in range(8):
            for value in (0, 0x5A, -1, 0x1FF):
                block, at = _block()
                expected = bytearray(block.raw)
                expected[to : to + size] = bytes([value & 0xFF]) * size
                assert library.kf_memset(ctypes.c_void_p(at + to), value, ctypes.c_size_t(size)) == at + to
                assert block.raw == bytes(expected), (to, size, value)


def test_compares(library: ctypes.CDLL) -> None:
    for left, right in (
        (b"", b""),
        (b"abcd", b"abcd"),
        (b"abcd", b"abce"),
        (b"\xff", b"\x01"),
        (b"a\0c", b"a\0b"),
    ):
        said = library.kf_memcmp(left, right, ctypes.c_size_t(len(left)))
        assert (said > 0) - (said < 0) == (left > right) - (left < right)
