"""What the boot ROM of an RP2040 looks at: the second stage, its CRC, and the UF2 file it comes in."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kilofed.boards import build, load, uf2
from kilofed.boards.build import TOOLS, link

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def crc() -> ModuleType:
    spec = importlib.util.spec_from_file_location("crc", ROOT / "firmware" / "port" / "rp2040" / "crc.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crc"] = module
    spec.loader.exec_module(module)
    return module


def test_the_crc_is_the_one_without_reflection(crc: ModuleType) -> None:
    """CRC-32/MPEG-2 in the catalogue of CRC algorithms (reveng.sourceforge.io): its check value."""
    assert crc.crc32(b"123456789") == 0x0376E6E7
    assert crc.crc32(b"") == 0xFFFFFFFF


@pytest.mark.parametrize("size", [0, 1, 251, 252])
def test_a_sealed_stage_leaves_no_remainder(crc: ModuleType, size: int) -> None:
    """A CRC of this kind over data and its own big-endian bytes is zero."""
    sealed = crc.sealed(bytes(range(size)))
    assert len(sealed) == 256
    assert sealed[:size] == bytes(range(size)) and sealed[size:252] == bytes(252 - size)
    assert crc.crc32(sealed[:252] + sealed[:-5:-1]) == 0


def test_a_stage_too_long_is_refused(crc: ModuleType) -> None:
    with pytest.raises(ValueError, match="253 bytes, and room for 252"):
        crc.sealed(bytes(253))


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason="no cross compiler")
def test_the_build_puts_a_uf2_file_beside_the_image(crc: ModuleType) -> None:
    board = load("pico")
    image = build(board)
    start = image.segments[0]
    assert start.address == board.flash.origin
    assert crc.crc32(start.data[:252]) == struct.unpack_from("<I", start.data, 252)[0]
    stack, reset = struct.unpack_from("<2I", start.data, 256)
    assert stack == board.ram.end
    assert reset & 1 and board.flash.holds(reset)
    memory = bytearray(b"\xff" * board.flash.size)
    for segment in uf2.decode(image.elf.with_suffix(".uf2").read_bytes(), family=uf2.RP2040):
        at = segment.address - board.flash.origin
        memory[at : at + len(segment.data)] = segment.data
    for segment in image.segments:
        at = segment.address - board.flash.origin
        assert memory[at : at + len(segment.data)] == segment.data
    assert not link(load("microbit"), None).elf.with_suffix(".uf2").exists()
