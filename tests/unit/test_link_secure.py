"""Encrypted sessions in Python: the vectors, and what a session promises."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.link_vectors import PATH, names, vectors

from kilofed.link.errors import FrameError
from kilofed.link.frames import TAG_BYTES, Direction, Splitter, encode_frame, parse_frame, wire_bound
from kilofed.link.messages import Hello, Welcome, before_proof, decode, encode
from kilofed.link.secure import EncryptedSession, Keys, derive, next_key
from kilofed.link.session import Session

SECURE = PATH.with_name("secure.json")
SENDERS = {"host": Direction.FROM_HOST, "device": Direction.FROM_DEVICE}
KEYS = Keys(bytes(range(32)), bytes(range(1, 33)), bytes(16))


def secure(part: str) -> list[dict]:
    return vectors(part, SECURE)


def listener(case: dict) -> EncryptedSession:
    """A session that opens frames from `case`'s sender, after the number it says."""
    sender = SENDERS[case["from"]]
    key = bytes.fromhex(case["key"])
    keys = Keys(key, key, bytes(16))
    after = case.get("after", case.get("number", 1) - 1)
    session = EncryptedSession(keys, role=Direction(1 - sender), max_frame=1024)
    for _ in range(after >> 16):
        session._opening = session._opening.next()
    session._accepted = after
    return session


def pair(keys: Keys = KEYS) -> tuple[EncryptedSession, EncryptedSession]:
    return (
        EncryptedSession(keys, role=Direction.FROM_HOST, max_frame=128),
        EncryptedSession(keys, role=Direction.FROM_DEVICE, max_frame=128),
    )


def opened(session: Session, wire: bytes) -> bytes | None:
    return session.open(parse_frame(wire.rstrip(b"\0")))


# ---- the vectors -------------------------------------------------------------------------------------


def test_the_vectors_are_what_their_program_makes():
    program = Path(SECURE).with_name("make_secure.py")
    assert subprocess.run([sys.executable, program, "--check"]).returncode == 0


@pytest.mark.parametrize("case", secure("handshakes"), ids=names("handshakes", SECURE))
def test_handshakes(case):
    hello, welcome = bytes.fromhex(case["hello"]), bytes.fromhex(case["welcome"])
    keys = derive(bytes.fromhex(case["key"]), hello, before_proof(welcome))
    assert keys.proof.hex() == case["proof"] and keys.proves(decode(welcome).proof)
    assert (keys.from_host.hex(), keys.from_device.hex()) == (case["from_host"], case["from_device"])
    assert not keys.proves(bytes(16))


def test_epochs():
    for case in secure("epochs"):
        assert next_key(bytes.fromhex(case["key"])).hex() == case["next"]


@pytest.mark.parametrize("case", secure("frames"), ids=names("frames", SECURE))
def test_frames(case):
    wire, message = bytes.fromhex(case["wire"]), bytes.fromhex(case["message"])
    assert opened(listener(case), wire) == message
    sender = SENDERS[case["from"]]
    key = bytes.fromhex(case["key"])
    sealing = EncryptedSession(Keys(key, key, bytes(16)), role=sender, max_frame=1024)
    for _ in range(case["number"] - 1 >> 16):
        sealing._sealing = sealing._sealing.next()
    sealing._sent = case["number"] - 1
    assert sealing.seal(message) == wire
    assert len(wire) <= wire_bound(len(message), TAG_BYTES)


@pytest.mark.parametrize("case", secure("streams"), ids=names("streams", SECURE))
@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_streams(case, cut):
    session, splitter = listener(case), Splitter(case["max_frame"])
    data = bytes.fromhex(case["bytes"])
    events: list[list[object]] = []
    part = b""
    for at in range(0, len(data), cut):
        for piece, whole in splitter.feed(data[at : at + cut]):
            part += piece
            if not whole and len(piece) == case["max_frame"] - 1:
                continue
            events.append(read(session, part) if whole else ["stray", part.hex()])
            part = b""
    assert events == case["events"]


def read(session: EncryptedSession, piece: bytes) -> list[object]:
    try:
        frame = parse_frame(piece)
    except FrameError:
        return ["stray", piece.hex()]
    if frame.type == 0 and frame.matches(0, 0):
        return ["clear", frame.message.hex()]
    message = session.open(frame)
    return ["stray", piece.hex()] if message is None else ["frame", session._accepted, message.hex()]


# ---- sessions ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["pass", "drop", "repeat"]), max_size=40))
def test_each_frame_is_opened_once_and_in_order(fates):
    host, device = pair()
    got, wanted = [], []
    for number, fate in enumerate(fates):
        wire = host.seal(b"message %d" % number)
        times = {"pass": 1, "drop": 0, "repeat": 2}[fate]
        got += [opened(device, wire) for _ in range(times)]
        wanted += [b"message %d" % number, None][:times]
    assert got == wanted


def test_a_session_goes_on_through_new_keys_with_gaps_around_them():
    host, device = pair()
    random_gaps = random.Random(5)
    taken = 0
    for number in range(1, 3 * 65536 + 100):
        wire = host.seal(b"m")
        if random_gaps.random() < 0.001 or number % 65536 >= 65534 or number % 65536 < 3:
            taken += opened(device, wire) == b"m"
            assert device._accepted == number
    assert taken > 100 and device._opening.epoch == host._sealing.epoch == 3


def test_the_key_of_old_numbers_is_forgotten():
    host, device = pair()
    first = host._sealing
    host._sent = device._accepted = 65535
    opened(device, host.seal(b"m"))
    assert (
        host._sealing is not first and host._sealing._key == next_key(KEYS.from_host) == device._opening._key
    )


def test_a_reflected_frame_is_not_opened_even_under_one_key_for_both_ways():
    same = Keys(bytes(32), bytes(32), bytes(16))
    host, device = pair(same)
    sent = host.seal(b"mine")
    assert opened(host, sent) is None
    turned = bytearray(sent)
    turned[1] ^= 0x08  # the direction, inside the COBS code: it is authenticated
    assert opened(host, bytes(turned)) is None
    assert opened(device, sent) == b"mine"


def test_sessions_in_the_clear_and_encrypted_ones_do_not_meet():
    host, device = pair()
    plain = Session(0, role=Direction.FROM_HOST, max_frame=128)
    assert opened(device, plain.seal(b"x")) is None
    assert opened(Session(0, role=Direction.FROM_DEVICE, max_frame=128), host.seal(b"x")) is None
    clear = encode_frame(b"x", direction=Direction.FROM_HOST)
    assert device.open(parse_frame(clear.strip(b"\0"))) is None and not device.received_any


def test_the_same_message_is_never_the_same_bytes():
    host, _ = pair()
    sent = [host.seal(b"\x81\x0d") for _ in range(100)]
    assert len(set(sent)) == 100 and len({wire[3:] for wire in sent}) == 100


@given(
    key=st.binary(min_size=32, max_size=32),
    at=st.integers(0, 10_000),
    bit=st.integers(0, 7),
    which=st.sampled_from(["hello", "welcome", "key"]),
)
def test_another_bit_anywhere_in_a_handshake_gives_other_keys(key, at, bit, which):
    parts = {
        "key": key,
        "hello": encode(Hello(1, b"device 1", b"nonce 01", "board", 1, 128, 256, 2)),
        "welcome": before_proof(encode(Welcome(1, b"nonce 01", b"nonce 02", 128, 2000, bytes(16)))),
    }
    first = derive(parts["key"], parts["hello"], parts["welcome"])
    changed = bytearray(parts[which])
    changed[at % len(changed)] ^= 1 << bit
    parts[which] = bytes(changed)
    second = derive(parts["key"], parts["hello"], parts["welcome"])
    assert not {first.proof, first.from_host, first.from_device} & {
        second.proof, second.from_host, second.from_device,
    }  # fmt: skip


def test_secrets_are_in_no_repr():
    shown = repr(KEYS) + repr(derive(b"\x11" * 32, b"", b""))
    assert KEYS.from_host.hex() not in shown and "\\x11" not in shown and "from_host" not in shown


@pytest.mark.parametrize(("frame", "most"), [(1024, 0.04), (128, 0.25)])
def test_the_overhead_of_a_line_full_of_chunks(frame, most):
    from tests.bench.link import overhead

    assert 0 < overhead(frame) <= most
