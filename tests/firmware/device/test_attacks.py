"""What somebody on the line can do to the C core: nothing that firmware/SECURITY.md does not admit.

The same attacks as tests/unit/test_link_attacks.py, against a device of the real core whose host is Python's.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from device_runner import Config, Device, Runner, World
from fleet_of_one import expected, make_head, make_order, make_samples, residual_bytes
from peer import Peer, clear

from kilofed.link.events import Committed, HelloSeen, Lost, Opened, ResultReady, Unproven
from kilofed.link.frames import Direction, FrameType, encode_frame, parse_frame
from kilofed.link.messages import (
    Bye,
    Error,
    Hello,
    Info,
    Ping,
    Probe,
    Reason,
    Status,
    Welcome,
    decode,
    encode,
)
from kilofed.link.secure import EncryptedSession, Keys
from kilofed_tools import heads

HEAD = heads.encode_head(make_head(3))
OTHER_KEY = bytes(range(1, 33))


def device_of(runner: Runner, **changes: object) -> Device:
    device = Device(runner, Config(**changes))  # type: ignore[arg-type]
    make_samples().give(device)
    return device


def play(world: World, round: int = 1) -> None:
    world.host.send_head(HEAD)
    world.host.train(make_order(HEAD, round=round))
    world.wait_for(ResultReady)
    world.host.commit(round)
    world.wait_for(Committed)


def pieces(data: bytes) -> list[bytes]:
    return [piece + b"\0" for piece in data.split(b"\0") if piece]


# ---- replay, order, direction ------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_a_recorded_session_trains_nothing_and_commits_nothing(runner: Runner, reset: bool) -> None:
    """Into the same device while another session runs, and into one that was reset."""
    world = World(device_of(runner))
    record = bytearray()

    def recording(data: bytes) -> bytes:
        record.extend(data)
        return data

    world.down = recording
    world.wait_for(Opened)
    play(world)
    world.down = lambda data: data
    before = world.device.inside()
    if reset:
        world.device = device_of(runner, seed=2)
    else:
        world.new_host()
        world.wait_for(Opened)
    damaged = world.device.inside().damaged
    peer_of = world.device
    for piece in pieces(bytes(record)):
        if piece[1:2] != b"\x18":  # its probes make a device say hello, which is another test
            peer_of.receive(b"\0" + piece, world.now_ms)
    world.settle(3)
    inside = world.device.inside()
    assert inside.damaged > damaged + 5 and inside.state == 1
    if not reset:
        assert (
            inside.residual
            == before.residual
            == residual_bytes(expected(make_samples(), make_head(3), make_order(HEAD)).residual)
        )
    else:
        assert inside.head_in_use == 0 and not any(inside.residual)


def test_a_frame_counts_once_in_its_order_and_direction(runner: Runner) -> None:
    device = device_of(runner)
    peer = Peer(device)
    peer.open()
    assert peer.session is not None
    frames = [peer.session.seal(encode(Ping())) for _ in range(4)]
    before = device.inside().damaged
    for frame, answers in ((frames[0], 1), (frames[0], 0), (frames[2], 1), (frames[1], 0), (frames[3], 1)):
        peer.say_raw(frame)
        assert [type(m) for m in peer.hear()] == [Status] * answers
    assert device.inside().damaged == before + 2
    mirrored = peer.raw  # the device's own status
    for frame in pieces(mirrored):
        peer.say_raw(frame)
        turned = bytearray(frame)
        turned[1] ^= 0x08
        peer.say_raw(bytes(turned))
    assert peer.hear() == [] and device.inside().damaged == before + 4


def test_a_session_goes_on_through_new_keys_both_ways(runner: Runner) -> None:
    device = device_of(runner)
    peer = Peer(device)
    peer.open()
    session = peer.session
    assert session is not None
    for _ in range(2):
        while session._sent % 65536 != 65530:
            batch = b"".join(
                session.seal(b"\x81\x0e") for _ in range(min(2000, (65530 - session._sent) % 65536))
            )
            peer.say_raw(batch)  # a broken error: authentic, and answered with nothing
        for _ in range(12):
            peer.say_raw(session.seal(encode(Ping())))
            assert [type(m) for m in peer.hear()] == [Status]
    assert session._sealing.epoch == 2
    # And the device's own numbers, which only move when it speaks.
    said = 0
    while said < 66000:
        peer.say_raw(session.seal(encode(Ping())))
        said += len(peer.hear())
    assert any(s[Direction.FROM_DEVICE]._opening.epoch == 1 for s in peer.tap._sessions)


# ---- keys and proofs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [[OTHER_KEY], []])
def test_a_host_without_the_key_opens_nothing(runner: Runner, keys: list[bytes]) -> None:
    world = World(device_of(runner), keys=lambda _: keys, insecure=True)
    world.settle(20)
    assert not world.seen(Opened)
    assert world.seen(Unproven) == bool(keys)
    if keys:
        assert world.device.inside().unproven > 3
    else:
        assert {e.refused for e in world.events if isinstance(e, HelloSeen)} == {Reason.WRONG_KEY}


def test_the_key_of_one_device_is_no_use_under_the_name_of_another(runner: Runner) -> None:
    """The device has A's key and says it is B; the host knows both keys."""
    keys = {b"device-A": Config().key, b"device-B": OTHER_KEY}
    world = World(device_of(runner, id=b"device-B"), keys=lambda id: [keys[id]])
    world.settle(10)
    assert not world.seen(Opened)


def test_a_wrong_welcome_leaves_the_running_session_alone(runner: Runner) -> None:
    world = World(device_of(runner))
    world.wait_for(Opened)
    rng = random.Random(3)
    for _ in range(50):
        world.device.receive(clear(Probe()), world.now_ms)
        _, said = world.device.poll(world.now_ms)
        (hello,) = world.messages(said)
        assert isinstance(hello, Hello)
        proofs = (None, bytes(16), b"\xff" * 16, rng.randbytes(16))
        for proof in proofs:
            welcome = Welcome(1, hello.device_nonce, rng.randbytes(8), 128, 2000, proof)
            world.device.receive(clear(welcome), world.now_ms)
    assert world.device.inside().unproven == 150
    play(world)
    assert not world.seen(Lost)


def test_every_byte_of_the_handshake_is_proven(runner: Runner) -> None:
    """A welcome made for another hello, or with another limit, than the one that crossed the line."""
    device = device_of(runner)
    peer = Peer(device)
    (hello,) = peer.hear()
    assert isinstance(hello, Hello)
    for change in (
        {"firmware": 7}, {"board": "poslx"}, {"max_frame": 127}, {"window": 255}, {"flags": 6},
        {"version": 2}, {"device_id": b"device-2"},
    ):  # fmt: skip
        peer.say_raw(peer.welcome(replace(hello, **change)))  # type: ignore[arg-type]
        assert peer.hear() == []
    good = peer.welcome(hello)
    framed = parse_frame(good.strip(b"\0"))
    welcome = decode(framed.message)
    for change in ({"max_frame": 100}, {"heartbeat_ms": 100}, {"host_nonce": b"hostnonx"}):
        peer.say_raw(clear(replace(welcome, **change)))  # type: ignore[arg-type,type-var]
        assert peer.hear() == []
    for at in range(16):
        proof = bytearray(welcome.proof)  # type: ignore[union-attr]
        proof[at] ^= 1
        peer.say_raw(clear(replace(welcome, proof=bytes(proof))))  # type: ignore[type-var]
        assert peer.hear() == []
    peer.say_raw(good)
    assert [type(m) for m in peer.hear()] == [Info]


def test_later_versions_may_add_to_the_welcome(runner: Runner) -> None:
    device = device_of(runner)
    peer = Peer(device)
    (hello,) = peer.hear()
    assert isinstance(hello, Hello)
    from kilofed.link.messages import before_proof
    from kilofed.link.secure import derive

    plain = encode(Welcome(1, hello.device_nonce, b"hostnonc", 128, 2000, bytes(16)))
    longer = bytes([plain[0] + 1]) + plain[1:-17]
    keys = derive(Config().key, encode(hello), longer)
    raw = longer + b"\x50" + keys.proof + b"\xf5"
    assert before_proof(raw) == longer
    peer.say_raw(encode_frame(raw, direction=Direction.FROM_HOST))
    assert device.inside().unproven == 0
    _, said = device.poll(peer.now)
    host = EncryptedSession(keys, role=Direction.FROM_HOST, max_frame=128)
    (info,) = (host.open(parse_frame(piece[:-1])) for piece in pieces(said))
    assert info is not None and isinstance(decode(info), Info)


# ---- downgrade ---------------------------------------------------------------------------------------


def test_a_device_with_a_key_takes_no_session_in_the_clear(runner: Runner) -> None:
    device = device_of(runner)
    peer = Peer(device)
    (hello,) = peer.hear()
    assert isinstance(hello, Hello) and hello.encrypted
    peer.say_raw(clear(Welcome(1, hello.device_nonce, b"hostnonc", 128, 2000)))
    assert peer.hear() == []
    frame = encode_frame(
        encode(Ping()), direction=Direction.FROM_HOST, frame=FrameType.SESSION, session=0, number=1
    )
    peer.say_raw(frame)
    assert peer.hear() == []
    peer.say_raw(peer.welcome(hello))
    peer.hear()
    peer.say_raw(frame)
    assert peer.hear() == [], "nor a frame of one inside an encrypted session"


def test_a_device_without_a_key_takes_no_proof(runner: Runner) -> None:
    device = device_of(runner, key=bytes(32))
    peer = Peer(device)
    (hello,) = peer.hear()
    assert isinstance(hello, Hello) and not hello.encrypted
    peer.say_raw(clear(Welcome(1, hello.device_nonce, b"hostnonc", 128, 2000, bytes(16))))
    assert peer.hear() == []


def test_frames_too_short_for_an_info_are_not_agreed_on(runner: Runner) -> None:
    assert Device(runner, Config(max_frame=71, memory=4096)).status == -1
    device = device_of(runner)
    for max_frame, opens in ((64, False), (71, False), (72, True)):
        peer = Peer(device, max_frame=max_frame)
        peer.say_raw(clear(Probe()))
        (hello,) = peer.hear()
        assert isinstance(hello, Hello)
        peer.say_raw(peer.welcome(hello))
        assert [type(m) for m in peer.hear()] == ([Info] if opens else [])


# ---- a peer with the right key and bad manners -------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"\x9a\xff\xff\xff\xff\x0d",
        b"\x84\x07\x01\x00\x5a\xff\xff\xff\xff",
        b"\x82\x0d" + b"\x81" * 90 + b"\0",
    ],
)
def test_oversized_and_nested_messages_are_answered_with_an_error(runner: Runner, message: bytes) -> None:
    peer = Peer(device_of(runner))
    peer.open()
    peer.say_bytes(message)
    heard = peer.hear()
    assert len(heard) == 1 and isinstance(heard[0], Error) and heard[0].code == 9
    peer.say(Ping())
    assert [type(m) for m in peer.hear()] == [Status]


def test_a_forged_bye_ends_nothing(runner: Runner) -> None:
    peer = Peer(device_of(runner))
    peer.open()
    peer.say_raw(clear(Bye(1)))
    peer.say(Bye(1), id=5)
    assert peer.hear() == []
    peer.say(Ping())
    assert [type(m) for m in peer.hear()] == [Status]


def test_no_key_and_no_blob_crosses_the_line(runner: Runner) -> None:
    world = World(device_of(runner))
    crossed = bytearray()

    def listening(data: bytes) -> bytes:
        crossed.extend(data)
        return data

    world.up = world.down = listening
    world.wait_for(Opened)
    play(world)
    update = expected(make_samples(), make_head(3), make_order(HEAD)).blob
    secrets = [Config().key, HEAD, update]
    for secret in secrets:
        for at in range(0, len(secret) - 6, 3):
            assert secret[at : at + 6] not in crossed or len(set(secret[at : at + 6])) == 1
    assert isinstance(world.host._session, EncryptedSession)
    for way in (world.host._session._sealing, world.host._session._opening):
        assert way._key not in crossed and way._key != bytes(32)


def test_keys_are_wiped_when_a_session_ends(runner: Runner) -> None:
    """What the ended session's keys were opens nothing afterwards, though its numbers go on."""
    peer = Peer(device_of(runner))
    peer.open()
    session = peer.session
    assert session is not None
    peer.say(Bye(1))
    peer.hear()
    peer.say_raw(session.seal(encode(Ping())))
    zero = EncryptedSession(Keys(bytes(32), bytes(32), bytes(16)), role=Direction.FROM_HOST, max_frame=128)
    peer.say_raw(zero.seal(encode(Ping())))
    assert not any(isinstance(m, Status) for m in peer.hear_again())
