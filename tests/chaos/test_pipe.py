"""The pipe by itself: what it does to bytes, and when they arrive."""

from __future__ import annotations

import pytest
from tests.chaos.pipe import Medium, Pipe

PIECE = bytes(range(1, 100)) + b"\0"


def all_of(pipe: Pipe, pieces: int = 1) -> bytes:
    for _ in range(pieces):
        pipe.send(PIECE, 0.0)
    return pipe.take(1e9)


def test_a_uart_takes_ten_bits_a_byte_one_piece_after_the_other():
    pipe = Pipe(Medium(baud=1000, delay=0.5))
    pipe.send(PIECE * 2, 1.0)
    assert pipe.free == 3.0 and pipe.busy == 2.0 and pipe.sent == 200
    assert pipe.due == 2.5 and pipe.take(2.4) == b"" and pipe.take(2.5) == PIECE
    assert pipe.due == 3.5 and pipe.take(3.5) == PIECE and pipe.due is None


def test_an_adapter_hands_on_at_its_ticks():
    pipe = Pipe(Medium(delay=0.0, tick=0.25))
    pipe.send(PIECE, 1.1)
    assert pipe.due == 1.25
    pipe.send(PIECE, 1.25)
    assert pipe.take(1.25) == PIECE * 2


@pytest.mark.parametrize(
    ("medium", "made"),
    [
        (Medium(drop=1.0), b""),
        (Medium(repeat=1.0), PIECE * 4),
        (Medium(), PIECE * 2),
    ],
)
def test_what_happens_for_sure(medium, made):
    assert all_of(Pipe(medium), 2) == made


def test_a_piece_comes_after_the_next_one():
    pipe = Pipe(Medium(reorder=1.0))
    pipe.send(b"first\0", 0.0)
    assert pipe.take(9.0) == b""
    pipe.send(b"second\0", 0.0)
    assert pipe.take(9.0) == b"second\0first\0"


def test_bits_flip_as_often_as_is_said():
    """2.4 million bits at 1 in 1000: 2400, with a standard deviation of 49."""
    got = all_of(Pipe(Medium(flip=1e-3), seed=5), 3000)
    flips = sum((a ^ b).bit_count() for a, b in zip(got, PIECE * 3000, strict=True))
    assert abs(flips - 2400) < 5 * 49


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_pieces_are_lost_as_often_as_is_said(share):
    got = all_of(Pipe(Medium(drop=share), seed=6), 10_000)
    sigma = (10_000 * share * (1 - share)) ** 0.5
    assert abs(len(got) / len(PIECE) - 10_000 * (1 - share)) < 5 * sigma


def test_the_same_seed_does_the_same():
    medium = Medium(drop=0.1, repeat=0.1, cut=0.1, noise=0.1, reorder=0.1, flip=1e-3)
    first, again, other = (all_of(Pipe(medium, seed=seed), 300) for seed in (1, 1, 2))
    assert first == again != other


def test_a_cable_is_pulled_at_a_byte_and_put_back():
    pipe = Pipe(Medium())
    pipe.cut_after = 130
    pipe.send(PIECE, 0.0)
    assert not pipe.broken
    pipe.send(PIECE * 2, 0.0)
    assert pipe.broken and pipe.take(9.0) == PIECE + PIECE[:30]
    pipe.clear()
    assert not pipe.broken and all_of(pipe) == PIECE


def test_a_silent_direction_takes_and_gives_nothing():
    pipe = Pipe(Medium())
    pipe.silent = True
    assert all_of(pipe) == b"" and pipe.sent == len(PIECE)
