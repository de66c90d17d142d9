"""Blobs: sender against receiver without frames, and against receivers and senders that lie."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilofed.link.blobs import (
    MOST_REFUSALS,
    BlobReceiver,
    BlobSender,
    blob_hash,
    blob_id,
    head_bytes,
    update_bytes,
)
from kilofed.link.errors import BlobError
from kilofed.link.frames import Direction, FrameType, encode_frame
from kilofed.link.messages import MAX_BLOB, Accept, BlobKind, Chunk, Offer, Verdict, encode
from kilofed.link.session import TRIES
from kilofed_tools import heads, updates

BLOB = random.Random(7).randbytes(1000)


def sender(
    data: bytes = BLOB, *, max_frame: int = 128, window: int = 512, announce: bool = True
) -> BlobSender:
    return BlobSender(BlobKind.HEAD, data, max_frame=max_frame, window=window, announce=announce)


def wire(chunk: Chunk) -> int:
    return len(
        encode_frame(
            encode(chunk),
            direction=Direction.FROM_HOST,
            frame=FrameType.SESSION,
            session=1,
            number=0x01010101,
        )
    )


def move(out: BlobSender, into: BlobReceiver, now: float = 0.0) -> list[Chunk]:
    """Lets them talk until nothing more is to be said at `now`."""
    chunks = []
    while messages := out.poll(now):
        for message in messages:
            if isinstance(message, Offer):
                answer: Accept | None = into.offer(message.hash, message.size)
            else:
                chunks.append(message)
                answer = into.chunk(message, wire(message), now)
            if answer is not None:
                out.accept(answer, now)
    return chunks


def test_hash_and_id():
    assert blob_hash(b"") == bytes.fromhex("e4a6a0577479b2b4")
    assert blob_id(bytes.fromhex("e4a6a0577479b2b4")) == 0xE4A6


@pytest.mark.parametrize("codec", range(4))
@pytest.mark.parametrize(("classes", "features"), [(2, 1), (3, 5), (10, 32), (11, 37), (1000, 1280)])
def test_sizes_are_those_of_the_codecs(codec, classes, features):
    assert update_bytes(codec, classes, features) == updates.update_bytes(
        updates.Codec(codec), classes, features
    )
    if codec < 3:
        weights = np_zeros(classes, features, codec)
        head = heads.Head(classes, features, 1, weights, weights[:, 0].astype("int32"), 1.0, 0)
        assert head_bytes(codec, classes, features) == len(heads.encode_head(head, codec))


def np_zeros(classes: int, features: int, codec: int):
    import numpy as np

    return np.zeros((classes, features), np.int32 if codec == 0 else np.int8)


@given(
    st.binary(min_size=1, max_size=3000),
    st.sampled_from([64, 65, 128, 300, 1024]),
    st.sampled_from([64, 100, 512, 5000]),
)
def test_a_blob_arrives_and_no_byte_is_sent_twice(data, max_frame, window):
    out, into = sender(data, max_frame=max_frame, window=window), BlobReceiver(window=window)
    chunks = move(out, into)
    assert out.done and into.complete and into.data == data
    assert b"".join(chunk.data for chunk in chunks) == data
    assert all(wire(chunk) <= min(max_frame, max(window, 64)) for chunk in chunks)


@given(st.integers(64, 1024), st.integers(64, 65535))
def test_no_more_than_a_window_is_under_way(max_frame, window):
    out = sender(bytes(70_000), max_frame=max_frame, window=window)
    (offer,) = out.poll(0)
    assert isinstance(offer, Offer)
    out.accept(Accept(out.id, 0, Verdict.RECEIVING), 0)
    chunks = out.poll(0)
    assert chunks and sum(wire(chunk) for chunk in chunks) <= window
    assert out.poll(0) == []


def test_chunks_of_the_small_board_carry_109_to_111_bytes():
    out, into = sender(), BlobReceiver(window=512)
    sizes = [len(chunk.data) for chunk in move(out, into)]
    assert sizes == [111, 110, 110, 109, 109, 109, 109, 109, 109, 15]  # as the offset takes 1, 2 or 3 bytes


def test_accepts_come_at_half_a_window_or_four_chunks():
    into = BlobReceiver(window=5000)
    into.offer(blob_hash(BLOB), len(BLOB))
    answers = [
        into.chunk(Chunk(blob_id(blob_hash(BLOB)), 10 * i, BLOB[10 * i : 10 * i + 10]), 28, 0)
        for i in range(8)
    ]
    assert [answer is not None for answer in answers] == [False, False, False, True] * 2
    into = BlobReceiver(window=204)
    into.restart(window=204, max_frame=51)
    into.offer(blob_hash(BLOB), len(BLOB))
    answers = [
        into.chunk(Chunk(blob_id(blob_hash(BLOB)), 10 * i, BLOB[10 * i : 10 * i + 10]), 51, 0)
        for i in range(4)
    ]
    assert [answer is not None for answer in answers] == [False, True] * 2


@pytest.mark.parametrize(("window", "max_frame"), [(127, 64), (255, 128), (256, 129), (2047, 1024)])
def test_no_window_makes_a_sender_wait_for_its_time_out(window, max_frame):
    """One frame fits, it is a little shorter than half the window, and the next waits for an accept."""
    blob = bytes(range(256)) * 20
    out, into = sender(blob, max_frame=max_frame, window=window), BlobReceiver(window=64)
    into.restart(window=window, max_frame=max_frame)
    move(out, into)
    assert into.data == blob and out.done and not out.chunks_repeated


@given(st.integers(0, 1000))
def test_after_a_new_session_nothing_accepted_is_sent_again(upto):
    into = BlobReceiver(window=512)
    into.offer(blob_hash(BLOB), len(BLOB))
    if upto:
        into._data += BLOB[:upto]  # what an earlier session brought
        if upto == len(BLOB):
            into.complete = True
    out = sender()
    chunks = move(out, into)
    assert out.done and into.data == BLOB
    assert b"".join(chunk.data for chunk in chunks) == BLOB[upto:]


def test_restart_asks_again_and_goes_on():
    out, into = sender(), BlobReceiver(window=512)
    out.accept(into.offer(out.hash, len(BLOB)), 0)
    for chunk in out.poll(0):
        answer = into.chunk(chunk, wire(chunk), 0)
    assert answer is not None and into.data == BLOB[: answer.offset]
    out.restart(max_frame=64, window=64)
    into.restart(window=64, max_frame=64)
    chunks = move(out, into)
    assert chunks[0].offset == answer.offset and out.done


def test_another_hash_drops_what_was_there():
    into = BlobReceiver(window=512)
    into.offer(blob_hash(BLOB), len(BLOB))
    into._data += BLOB[:300]
    assert into.offer(b"another!", 700) == Accept(blob_id(b"another!"), 0, Verdict.RECEIVING)
    assert into.data == b""
    assert into.offer(b"another!", 701).offset == 0  # the same hash of another size is another blob


def test_a_lost_chunk_is_asked_for_at_once_but_not_for_each_that_follows():
    out, into = sender(), BlobReceiver(window=512)
    out.accept(into.offer(out.hash, len(BLOB)), 0)
    first, lost, *more = out.poll(0)
    assert into.chunk(first, wire(first), 0) is None
    answers = [into.chunk(chunk, wire(chunk), 0.01) for chunk in more]
    assert answers[0] == Accept(out.id, len(first.data), Verdict.RECEIVING) and set(answers[1:]) <= {None}
    assert into.chunk(more[0], wire(more[0]), 0.2) == answers[0]  # a tenth of a second later it says it again
    out.accept(answers[0], 0.01)  # to the sender this is progress: the first chunk has arrived
    assert out.poll(0.01)[0].offset > lost.offset
    out.accept(answers[0], 0.2)  # and this is not: something was lost
    assert out.poll(0.2)[0] == Chunk(out.id, lost.offset, BLOB[lost.offset : lost.offset + len(lost.data)])


def test_the_same_accept_twice_goes_back_once():
    out = sender()
    out.poll(0)
    out.accept(Accept(out.id, 0, Verdict.RECEIVING), 0)
    sent = len(out.poll(0))
    for _ in range(5):
        out.accept(Accept(out.id, 0, Verdict.RECEIVING), 0)
        out.poll(0)
    assert out.chunks_sent == 2 * sent and out.chunks_repeated == sent


def test_silence_is_answered_by_going_back_with_doubled_waits_and_then_by_failing():
    out = sender(window=576)  # RTO 0.55 s
    out.poll(0)
    out.accept(Accept(out.id, 0, Verdict.RECEIVING), 0)
    first = out.poll(0)
    times = []
    now = 0.0
    while not out.failed:
        assert out.deadline is not None
        now = out.deadline
        if again := out.poll(now):
            times.append(round(now, 2))
            assert again == first
    assert times == [0.55, 1.65, 3.85, 7.85, 11.85, 15.85, 19.85, 23.85]
    assert len(times) == TRIES and out.failed == "no progress at byte 0 of 1000"
    assert out.poll(now + 10) == [] and out.deadline is None


def test_an_offer_is_repeated_too():
    out = sender()
    times = []
    while not out.failed:
        assert out.deadline is not None
        now = max(0.0, out.deadline)
        if messages := out.poll(now):
            assert messages == [Offer(BlobKind.HEAD, out.hash, 1000)]
            times.append(now)
    assert len(times) == TRIES + 1


def test_progress_renews_the_tries():
    out, into = sender(bytes(5000)), BlobReceiver(window=512)
    (offer,) = out.poll(0)
    out.accept(into.offer(offer.hash, offer.size), 0)
    now = 0.0
    while not out.done:  # of each window only the first chunk arrives
        chunks = out.poll(now)
        answer = into.chunk(chunks[0], wire(chunks[0]), now)
        assert not out.failed
        if answer is not None:
            out.accept(answer, now)
        if out.deadline is not None:
            now = max(now, out.deadline)
    assert into.complete


def test_refused_three_times_is_failed():
    out = sender()
    for count in range(MOST_REFUSALS):
        assert out.failed == "" and out.poll(float(count)) == [Offer(BlobKind.HEAD, out.hash, 1000)]
        out.accept(Accept(out.id, 0, Verdict.REFUSED), float(count))
    assert out.failed == "refused 3 times" and out.poll(99) == []


def test_a_receiver_that_had_all_and_lost_it_is_given_it_again():
    out, into = sender(announce=False), BlobReceiver(window=512)
    for _ in range(3):
        out.accept(into.offer(out.hash, len(BLOB)), 0)
        move(out, into)
        assert out.done and into.data == BLOB
        into.clear()
    out.restart(max_frame=64, window=64)
    into.restart(window=64, max_frame=64)
    assert not out.done and out.deadline is None
    out.accept(into.offer(out.hash, len(BLOB)), 0)
    move(out, into)
    assert out.done and into.data == BLOB


def test_one_that_does_not_announce_waits_to_be_asked():
    out = sender(announce=False)
    assert out.deadline is None and out.poll(1000) == []
    out.accept(Accept(out.id, 0, Verdict.RECEIVING), 1000)
    assert isinstance(out.poll(1000)[0], Chunk)


def test_the_last_accept_may_be_lost():
    out, into = sender(), BlobReceiver(window=512)
    out.accept(into.offer(out.hash, len(BLOB)), 0)
    while not into.complete:
        for chunk in out.poll(0):
            answer = into.chunk(chunk, wire(chunk), 0)
            if answer is not None and not into.complete:
                out.accept(answer, 0)
    assert not out.done and out.deadline is not None
    move(out, into, out.deadline)
    assert out.done


def test_all_accepted_without_a_verdict_makes_it_ask():
    out = sender()
    out.poll(0)
    out.accept(Accept(out.id, 1000, Verdict.RECEIVING), 0)
    assert out.poll(0) == [] and out.deadline is not None
    (chunk,) = out.poll(out.deadline)
    assert chunk == Chunk(out.id, 999, BLOB[999:])


def test_a_wrong_hash_drops_the_blob():
    into = BlobReceiver(window=5000)
    into.offer(blob_hash(BLOB), 5)
    id = blob_id(blob_hash(BLOB))
    assert into.chunk(Chunk(id, 0, BLOB[:5]), 30, 0) == Accept(id, 0, Verdict.REFUSED)
    assert into.damaged == 1 and not into.complete and into.data == b""
    assert into.chunk(Chunk(id, 0, BLOB[:5]), 30, 0) is None


def test_a_chunk_past_the_end_drops_the_blob():
    into = BlobReceiver(window=5000)
    into.offer(blob_hash(BLOB), 5)
    answer = into.chunk(Chunk(blob_id(blob_hash(BLOB)), 0, BLOB[:6]), 30, 0)
    assert answer is not None and answer.verdict is Verdict.REFUSED and into.damaged == 1


@pytest.mark.parametrize("size", [0, MAX_BLOB + 1])
def test_blobs_of_impossible_size_are_not_sent(size):
    with pytest.raises(BlobError, match="send 1 to"):
        sender(bytes(size))


@given(st.lists(st.tuples(st.integers(0, 1100), st.sampled_from(Verdict), st.booleans()), max_size=60))
def test_a_receiver_that_lies_cannot_make_a_sender_send_for_ever(answers):
    out = sender()
    now = 0.0
    for offset, verdict, wait in answers:
        if wait and out.deadline is not None:
            now = max(now, out.deadline)
        sent = out.poll(now)
        assert sum(wire(chunk) for chunk in sent if isinstance(chunk, Chunk)) <= 512
        out.accept(Accept(out.id, offset, verdict), now)
    for _ in range(100):  # it falls silent
        if out.done or out.failed:
            break
        assert out.deadline is not None
        now = max(now, out.deadline)
        out.poll(now)
    assert out.done or out.failed


def test_a_receiver_that_keeps_losing_what_it_had_is_given_up():
    out = sender()
    out.poll(0)
    rounds = 0
    while not out.failed:
        out.accept(Accept(out.id, 200 if rounds % 2 else 0, Verdict.RECEIVING), 0)
        out.poll(0)
        rounds += 1
        assert rounds < 100
    assert "losing" in out.failed


@given(st.lists(st.tuples(st.integers(0, 1100), st.binary(min_size=1, max_size=120)), max_size=40))
def test_a_receiver_holds_no_more_than_was_offered(chunks):
    into = BlobReceiver(window=512)
    id = blob_id(blob_hash(BLOB))
    into.offer(blob_hash(BLOB), 200)
    for offset, data in chunks:
        into.chunk(Chunk(id, offset, data), len(data) + 18, 0)
        assert len(into.data) <= 200
        assert not into.complete
