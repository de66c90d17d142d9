"""Blobs at the device, chunk by chunk: when it accepts, when it goes back, what it refuses."""

from __future__ import annotations

import pytest
from device_runner import Config, Device, Runner
from fleet_of_one import expected, make_head, make_order, make_samples
from peer import Peer

from kilofed.link.messages import (
    Accept,
    BlobKind,
    Chunk,
    Commit,
    Error,
    Info,
    Offer,
    Ping,
    Result,
    Status,
    Verdict,
)
from kilofed.link.secure import NO_KEY
from kilofed_tools import heads

HEAD = heads.encode_head(make_head(3))
HASH = heads.head_hash(HEAD)
ID = int.from_bytes(HASH[:2], "big")
KEY = Config().key


def connect(runner: Runner, *, window: int = 256, max_frame: int = 128, key: bytes = KEY) -> Peer:
    device = Device(runner, Config(window=window, max_frame=max_frame, key=key))
    make_samples().give(device)
    peer = Peer(device)
    peer.open()
    peer.say(Ping())
    assert [type(m) for m in peer.hear()] == [Status]
    return peer


def ask(peer: Peer, message: object) -> list[object]:
    peer.say(message)
    return peer.hear()


def chunk(at: int, size: int) -> Chunk:
    return Chunk(ID, at, HEAD[at : at + size])


@pytest.mark.parametrize(
    "key, window, size, offsets",
    [
        (NO_KEY, 4096, 50, [200, 376]),
        (NO_KEY, 512, 109, [218, 376]),  # four frames fit, two chunks are a little less than half of it
        (NO_KEY, 540, 70, [140, 280, 376]),
        (NO_KEY, 400, 50, [50, 100, 150, 200, 250, 300, 350, 376]),
        (NO_KEY, 255, 109, [109, 218, 327, 376]),  # one frame fits, a little shorter than half of it
        (KEY, 4096, 50, [200, 376]),
        (KEY, 512, 97, [194, 376]),
        (KEY, 256, 97, [97, 194, 291, 376]),
        (KEY, 255, 97, [97, 194, 291, 376]),
    ],
)
def test_accepts_come_after_half_a_window_or_four_chunks_or_half_of_those_that_fit(
    runner: Runner, key: bytes, window: int, size: int, offsets: list[int]
) -> None:
    peer = connect(runner, window=window, key=key)
    assert ask(peer, Offer(BlobKind.HEAD, HASH, len(HEAD))) == [Accept(ID, 0, Verdict.RECEIVING)]
    heard = [m for at in range(0, len(HEAD), size) for m in ask(peer, chunk(at, size))]
    assert heard == [
        Accept(ID, at, Verdict.COMPLETE if at == len(HEAD) else Verdict.RECEIVING) for at in offsets
    ]


def test_a_chunk_elsewhere_is_answered_once_in_a_tenth_of_a_second(runner: Runner) -> None:
    peer = connect(runner, window=4096)
    ask(peer, Offer(BlobKind.HEAD, HASH, len(HEAD)))
    assert ask(peer, chunk(0, 50)) == []
    for _ in range(3):
        assert ask(peer, chunk(100, 50)) == [Accept(ID, 50, Verdict.RECEIVING)]
        for _ in range(9):
            peer.now += 11
            assert ask(peer, chunk(150, 50)) == []
        peer.now += 1
    assert ask(peer, chunk(50, 50)) == []
    assert ask(peer, chunk(50, 50)) == [Accept(ID, 100, Verdict.RECEIVING)], (
        "another offset is answered at once"
    )


def test_a_head_it_holds_is_not_sent_again(runner: Runner) -> None:
    peer = connect(runner)
    ask(peer, Offer(BlobKind.HEAD, HASH, len(HEAD)))
    for at in range(0, len(HEAD), 90):
        ask(peer, chunk(at, 90))
    whole = [Accept(ID, len(HEAD), Verdict.COMPLETE)]
    assert ask(peer, Offer(BlobKind.HEAD, HASH, len(HEAD))) == whole
    assert ask(peer, chunk(0, 90)) == whole, "a repeated chunk"
    assert peer.device.inside().head_in_use == 1


def test_a_chunk_beyond_the_end_takes_nothing_away(runner: Runner) -> None:
    """Of a head that has arrived and waits for the end of a round; one with a wrong end is refused."""
    other = heads.encode_head(make_head(4))
    first = heads.head_hash(other)
    peer = connect(runner)
    ask(peer, Offer(BlobKind.HEAD, first, len(other)))
    for at in range(0, len(other), 90):
        ask(peer, Chunk(int.from_bytes(first[:2], "big"), at, other[at : at + 90]))
    assert any(isinstance(m, Result) for m in ask(peer, make_order(other)))
    ask(peer, Offer(BlobKind.HEAD, HASH, len(HEAD)))
    for at in range(0, len(HEAD), 90):
        ask(peer, chunk(at, 90))
    peer.now += 500
    assert ask(peer, Chunk(ID, len(HEAD), b"x")) == [Accept(ID, len(HEAD), Verdict.COMPLETE)]
    ask(peer, Commit(1, 0))
    peer.say_probe_and_open()
    assert isinstance(peer.info, Info) and peer.info.head == HASH
    ask(peer, Offer(BlobKind.HEAD, first, len(other)))
    id = int.from_bytes(first[:2], "big")
    for at in range(0, 300, 75):
        ask(peer, Chunk(id, at, other[at : at + 75]))
    heard = ask(peer, Chunk(id, 300, bytes(len(HEAD) - 300 + 1)))
    assert heard == [Error(10, 0), Accept(id, 0, Verdict.REFUSED)]
    assert ask(peer, Chunk(id, 300, other[300:])) == [Error(10, 0), Accept(id, 0, Verdict.REFUSED)]
    assert ask(peer, Offer(BlobKind.HEAD, first, len(other))) == [Accept(id, 0, Verdict.RECEIVING)]


def test_chunks_of_a_head_nobody_offered_are_refused(runner: Runner) -> None:
    peer = connect(runner)
    assert ask(peer, chunk(0, 50)) == [Error(10, 0), Accept(ID, 0, Verdict.REFUSED)]


def test_the_sender_goes_back_once_for_a_lost_chunk_and_again_after_its_time(runner: Runner) -> None:
    peer = connect(runner, window=4096)
    ask(peer, Offer(BlobKind.HEAD, HASH, len(HEAD)))
    for at in range(0, len(HEAD), 90):
        ask(peer, chunk(at, 90))
    heard = ask(peer, make_order(HEAD))
    (result,) = (m for m in heard if isinstance(m, Result))
    assert result.update is not None
    blob = expected(make_samples(), make_head(3), make_order(HEAD)).blob
    id = int.from_bytes(result.update[:2], "big")

    def offsets(messages: list[object]) -> list[int]:
        chunks = [m for m in messages if isinstance(m, Chunk)]
        assert all(m.data == blob[m.offset : m.offset + len(m.data)] for m in chunks)
        return [m.offset for m in chunks]

    everything = [0, 97, 194, 291]
    assert offsets(ask(peer, Accept(id, 0, Verdict.RECEIVING))) == everything
    assert offsets(ask(peer, Accept(id, 97, Verdict.RECEIVING))) == []
    assert offsets(ask(peer, Accept(id, 97, Verdict.RECEIVING))) == everything[1:], "the second was lost"
    assert offsets(ask(peer, Accept(id, 97, Verdict.RECEIVING))) == [], "those behind it say so too"
    peer.now += 500 + 4096 * 1000 // 11520 + 1
    assert offsets(ask(peer, Ping())) == everything[1:], "nothing came for its time"
    assert offsets(ask(peer, Accept(id, 97, Verdict.RECEIVING))) == everything[1:], "and may be lost again"
    assert offsets(ask(peer, Accept(id, 50, Verdict.RECEIVING)))[0] == 50, "the receiver has lost something"
    assert offsets(ask(peer, Accept(id, 9999, Verdict.RECEIVING))) == [], "which cannot be"
    assert offsets(ask(peer, Accept(id ^ 1, 0, Verdict.RECEIVING))) == [], "of another blob"
    ask(peer, Accept(id, 51, Verdict.RECEIVING))
    for at in range(52, 64):
        peer.now += 900
        assert offsets(ask(peer, Ping()))[0] == at - 1, "progress makes it patient again"
        ask(peer, Accept(id, at, Verdict.RECEIVING))
    peer.say_probe_and_open()
    assert offsets(ask(peer, Accept(id, 97, Verdict.RECEIVING))) == everything[1:], (
        "another receiver has more"
    )
    assert offsets(ask(peer, Accept(id, len(blob), Verdict.COMPLETE))) == []
    peer.now += 5000
    assert offsets(ask(peer, Ping())) == []
    peer.say_probe_and_open()
    assert offsets(ask(peer, Ping())) == [], "a new receiver has to say where it is"
    assert offsets(ask(peer, Accept(id, 194, Verdict.RECEIVING))) == [194, 291]
    ask(peer, Accept(id, 291, Verdict.RECEIVING))
    order = make_order(HEAD)
    peer.say(order)
    peer.say(Commit(1, 0))
    assert [type(m) for m in peer.hear()] == [Status], "a result that is over is not said any more"
    peer.now += 5000
    assert offsets(ask(peer, Ping())) == [], "and not sent"


def test_the_window_bounds_what_is_on_its_way(runner: Runner) -> None:
    peer = connect(runner, window=256)
    ask(peer, Offer(BlobKind.HEAD, HASH, len(HEAD)))
    for at in range(0, len(HEAD), 90):
        ask(peer, chunk(at, 90))
    (result,) = (m for m in ask(peer, make_order(HEAD)) if isinstance(m, Result))
    assert result.update is not None
    id = int.from_bytes(result.update[:2], "big")
    seen = []
    for at in (0, 97, 194):
        seen.append([m.offset for m in ask(peer, Accept(id, at, Verdict.RECEIVING)) if isinstance(m, Chunk)])
        assert len(peer.raw) <= 256
    assert seen == [[0, 97], [194], [291]]


@pytest.mark.parametrize(
    "key, max_frame",
    [
        *((NO_KEY, size) for size in (64, 65, 100, 266, 1024)),
        *((KEY, size) for size in (72, 73, 100, 266, 278, 1024)),
    ],
)
def test_frames_of_any_size_carry_both_blobs(runner: Runner, key: bytes, max_frame: int) -> None:
    """The longest chunks that fit, both ways."""
    peer = connect(runner, window=1024, max_frame=max_frame, key=key)
    peer_longest = max_frame
    ask(peer, Offer(BlobKind.HEAD, HASH, len(HEAD)))
    size = min(max_frame - (9 if key == NO_KEY else 21) - 13, 376)
    for at in range(0, len(HEAD), size):
        ask(peer, chunk(at, size))
    (result,) = (m for m in ask(peer, make_order(HEAD)) if isinstance(m, Result))
    assert result.update is not None
    id = int.from_bytes(result.update[:2], "big")
    got = b""
    while len(got) < result.size:
        heard = [m for m in ask(peer, Accept(id, len(got), Verdict.RECEIVING)) if isinstance(m, Chunk)]
        assert all(len(piece) + 1 <= peer_longest for piece in peer.raw.split(b"\0"))
        for m in heard:
            if m.offset == len(got):
                got += m.data
    assert got == expected(make_samples(), make_head(3), make_order(HEAD)).blob
