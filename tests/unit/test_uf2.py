"""UF2 files: written as the format's page says, read back, and damaged in every place."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilofed.boards import uf2
from kilofed.boards.elf import Segment


def test_one_block_is_what_the_format_says() -> None:
    """Each field at the place that the format's page gives it, written out by hand."""
    block = uf2.encode([Segment(0x10000100, b"\1\2\3")], uf2.RP2040)
    assert len(block) == 512
    assert block[:8] == b"UF2\n\x57\x51\x5d\x9e"
    assert struct.unpack_from("<6I", block, 8) == (0x2000, 0x10000100, 256, 0, 1, 0xE48BFF56)
    assert block[32:288] == b"\1\2\3" + b"\xff" * 253
    assert block[288:508] == bytes(220)
    assert block[508:] == b"\x30\x6f\xb1\x0a"


def test_pages_are_whole_aligned_and_in_order() -> None:
    data = uf2.encode([Segment(0x10001FFF, b"ab"), Segment(0x10000010, b"c")], uf2.RP2040, fill=0)
    addresses = [struct.unpack_from("<I", data, at + 12)[0] for at in range(0, len(data), 512)]
    assert addresses == [0x10000000, 0x10001F00, 0x10002000]
    first, second = uf2.decode(data)
    assert first == Segment(0x10000000, bytes(16) + b"c" + bytes(239))
    assert second == Segment(0x10001F00, bytes(255) + b"ab" + bytes(255))


@given(
    st.lists(st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=700)), min_size=1, max_size=5),
    st.integers(0, 0xFFFFFFFF),
    st.randoms(use_true_random=False),
)
def test_what_is_written_is_read(gaps: list[tuple[int, bytes]], family: int, rng: random.Random) -> None:
    segments, at = [], 0x10000000
    for gap, part in gaps:
        segments.append(Segment(at + gap, part))
        at += gap + len(part)
    shuffled = list(segments)
    rng.shuffle(shuffled)
    data = uf2.encode(shuffled, family)
    blocks = [data[i : i + 512] for i in range(0, len(data), 512)]
    rng.shuffle(blocks)  # a bootloader gets them in any order
    memory = bytearray(b"\xff" * (at - 0x10000000 + 512))
    for segment in uf2.decode(b"".join(blocks), family=family):
        start = segment.address - 0x10000000
        memory[start : start + len(segment.data)] = segment.data
    expected = bytearray(b"\xff" * len(memory))
    for segment in segments:
        start = segment.address - 0x10000000
        expected[start : start + len(segment.data)] = segment.data
    assert memory == expected


def test_other_families_and_other_places_are_passed_by() -> None:
    mine = uf2.encode([Segment(0, b"m" * 256)], 7)
    other = uf2.encode([Segment(0, b"o" * 256)], 8)
    comment = bytearray(uf2.encode([Segment(0, b"c" * 256)], 7))
    comment[8] |= 1
    assert uf2.decode(other + bytes(comment) + mine, family=7) == (Segment(0, b"m" * 256),)
    with pytest.raises(ValueError, match="two blocks want"):
        uf2.decode(other + mine)
    with pytest.raises(ValueError, match="no block is for"):
        uf2.decode(other, family=7)
    untold = bytearray(other)
    untold[9] &= ~0x20 & 0xFF
    assert uf2.decode(bytes(untold)) == (Segment(0, b"o" * 256),)
    with pytest.raises(ValueError, match="no block is for"):
        uf2.decode(bytes(untold), family=8)


def test_payloads_of_up_to_476_bytes_are_read() -> None:
    block = bytearray(uf2.encode([Segment(0x1000, b"x" * 256)], 7))
    block[32:508] = b"y" * 476
    for size, holds in ((476, True), (477, False), (0xFFFFFFFF, False)):
        struct.pack_into("<I", block, 16, size)
        if holds:
            assert uf2.decode(bytes(block)) == (Segment(0x1000, b"y" * 476),)
        else:
            with pytest.raises(ValueError, match="bytes for"):
                uf2.decode(bytes(block))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: b"", "no UF2 file"),
        (lambda d: d[:-1], "no UF2 file"),
        (lambda d: b"X" + d[1:], "block 0 is no UF2 block"),
        (lambda d: d[:-1] + b"X", "block 2 is no UF2 block"),
        (lambda d: d[512:], "2 of 3 blocks"),
        (lambda d: d[:1024], "2 of 3 blocks"),
        (lambda d: d + d[:512], "number 0 of 3"),
        (lambda d: d[:512] + d[512:1024].replace(b"\3\0\0\0", b"\4\0\0\0") + d[1024:], "number 1 of 4"),
    ],
)
def test_damage_is_told(change: object, said: str) -> None:
    data = uf2.encode([Segment(0, b"a" * 700)], 0x77777777)
    assert callable(change)
    with pytest.raises(ValueError, match=said):
        uf2.decode(change(data))


def test_what_cannot_be_written_is_refused() -> None:
    for segments, said in (
        ([], "nothing to write"),
        ([Segment(5, b"")], "nothing to write"),
        ([Segment(5, b"ab"), Segment(6, b"c")], "two segments want the bytes at 0x6"),
        ([Segment(0xFFFFFFFF, b"ab")], "leaves 32 bits"),
    ):
        with pytest.raises(ValueError, match=said):
            uf2.encode(segments, 1)
    assert uf2.decode(uf2.encode([Segment(0xFFFFFFFF, b"a")], 1))[0].address == 0xFFFFFF00
