"""Sessions: who ends what, silence, probes, refusals, busy, and a clock that wraps."""

from __future__ import annotations

import itertools

import pytest
from device_runner import Config, Device, Runner, World
from fleet_of_one import expected, make_head, make_order, make_samples
from peer import Peer, clear, session_frame

from kilofed.link.events import Committed, HelloSeen, Lost, Opened, ResultReady
from kilofed.link.frames import Direction
from kilofed.link.messages import (
    Accept,
    Busy,
    Bye,
    Error,
    Hello,
    Info,
    Ping,
    Probe,
    Reason,
    Refuse,
    Result,
    Status,
    Verdict,
    Welcome,
    encode,
)
from kilofed.link.secure import NO_KEY
from kilofed_tools import heads


@pytest.fixture(params=[NO_KEY, Config().key], ids=["clear", "encrypted"])
def peer(runner: Runner, request: pytest.FixtureRequest) -> Peer:
    return Peer(Device(runner, Config(key=request.param)))


@pytest.fixture
def clear_peer(runner: Runner) -> Peer:
    """Of a device without a key: its frames can be made by hand."""
    return Peer(Device(runner, Config(key=NO_KEY)))


def test_hello_is_repeated_with_jitter_and_one_nonce(peer: Peer) -> None:
    nonces, times = set(), []
    for _ in range(20):
        (hello,) = peer.hear()
        assert isinstance(hello, Hello)
        nonces.add(hello.device_nonce)
        times.append(peer.now)
        peer.now += peer.wait
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(nonces) == 1
    assert all(1000 <= gap <= 1250 for gap in gaps) and len(set(gaps)) > 2
    assert peer.raw[0] == 0, "a clear frame is preceded by a delimiter"


def test_hello_says_what_the_config_says(runner: Runner) -> None:
    for key, max_frame, flags in ((NO_KEY, 64, 0), (Config().key, 72, 2), (b"\0" * 31 + b"\1", 1024, 2)):
        config = Config(
            board="b" * 24, max_frame=max_frame, window=65535, firmware=0xFFFFFFFF, ring_slots=5, key=key
        )
        (hello,) = Peer(Device(runner, config)).hear()
        assert isinstance(hello, Hello)
        nonce = hello.device_nonce
        assert hello == Hello(1, b"device-1", nonce, config.board, 0xFFFFFFFF, max_frame, 65535, flags)


def test_a_probe_is_answered_at_once_with_a_fresh_nonce_and_ends_nothing(peer: Peer) -> None:
    peer.open()
    peer.say(Ping())
    (status,) = peer.hear()
    assert isinstance(status, Status)
    seen = set()
    for _ in range(5):
        peer.say_raw(clear(Probe()))
        (hello,) = peer.hear()
        assert isinstance(hello, Hello)
        seen.add(hello.device_nonce)
    assert len(seen) == 5
    peer.say(Ping())
    assert isinstance(peer.hear()[0], Status), "the old session goes on"
    peer.now += 1500
    peer.say(Ping())
    assert len(peer.hear()) == 1, "and no hello is repeated in it"
    peer.say_raw(peer.welcome(hello))
    assert isinstance(peer.hear()[0], Info), "until a welcome echoes the newest nonce"


def test_a_welcome_counts_once_and_only_for_the_newest_hello(peer: Peer) -> None:
    (first,) = peer.hear()
    peer.say_raw(clear(Probe()))
    (second,) = peer.hear()
    assert isinstance(first, Hello) and isinstance(second, Hello)
    peer.say_raw(peer.welcome(first))
    assert peer.hear() == []
    welcome = peer.welcome(second)
    peer.say_raw(welcome)
    assert isinstance(peer.hear()[0], Info)
    peer.say(Ping())
    assert isinstance(peer.hear()[0], Status)
    peer.say_raw(welcome)  # said twice
    assert peer.hear() == []
    peer.say(Ping())
    assert isinstance(peer.hear()[0], Status)


def test_a_welcome_of_another_version_is_ignored(peer: Peer) -> None:
    (hello,) = peer.hear()
    assert isinstance(hello, Hello)
    peer.say_raw(clear(Welcome(2, hello.device_nonce, b"hostnonc", 128, 2000)))
    assert peer.hear() == []


def test_info_is_repeated_until_the_host_is_heard(peer: Peer) -> None:
    info = peer.open()
    for _ in range(3):
        peer.now += 1000
        assert peer.hear() == [info]
    peer.say(Ping())
    peer.hear()
    peer.now += 1500
    peer.say(Ping())
    assert [type(m) for m in peer.hear()] == [Status]


def test_a_waiting_result_is_said_with_the_next_session_and_again_until_it_is_heard(runner: Runner) -> None:
    device = Device(runner, Config())
    make_samples().give(device)
    world = World(device)
    world.wait_for(Opened)
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    world.wait_for(ResultReady)
    peer = Peer(device)
    peer.now = world.now_ms
    for _ in range(2):  # the second host, too, has to be told
        peer.say_raw(clear(Probe()))
        (hello,) = peer.hear()
        assert isinstance(hello, Hello)
        peer.say_raw(peer.welcome(hello))
        assert [type(m) for m in peer.hear()] == [Info, Result]
        peer.say(Ping())
        peer.hear()
        for _ in range(3):
            peer.now += 1000
            peer.say(Ping())
            assert [type(m) for m in peer.hear()] == [Status, Result]
        (result,) = (m for m in peer.hear_again() if isinstance(m, Result))
        assert result.update is not None
        peer.say(Accept(int.from_bytes(result.update[:2], "big"), result.size, Verdict.COMPLETE))
        peer.now += 5000
        peer.say(Ping())
        assert [type(m) for m in peer.hear()] == [Status]


def test_silence_ends_a_session_after_three_heartbeats(peer: Peer) -> None:
    peer.open()
    peer.now += 100
    peer.say(Ping())
    peer.hear()
    peer.now += 5999
    assert peer.hear() == []
    peer.now += 1
    (hello,) = peer.hear()
    assert isinstance(hello, Hello)
    assert peer.wait >= 1000


def test_busy_stretches_patience_on_both_sides(runner: Runner) -> None:
    device = Device(runner, Config())
    world = World(device)
    world.wait_for(Opened)
    device.busy(20000)
    world.settle(0.5)
    world.up = lambda data: b""
    world.settle(19)
    world.up = lambda data: data
    world.settle(10)
    assert not world.seen(Lost) and not world.seen(HelloSeen)


def test_a_frame_in_between_does_not_shorten_a_busy(peer: Peer) -> None:
    peer.open()
    peer.device.busy(20000)
    assert peer.hear() == [Busy(20000)]
    peer.now += 1000
    peer.say(Ping())
    assert [type(m) for m in peer.hear()] == [Status]
    peer.now += 24000
    assert peer.hear() == []
    peer.now += 2000
    assert [type(m) for m in peer.hear()] == [Hello]


def test_bye_from_either_side(runner: Runner) -> None:
    device = Device(runner, Config())
    world = World(device)
    world.wait_for(Opened)
    device.leave(Reason.SHUTTING_DOWN)
    lost = world.wait_for(Lost)
    assert lost.reason == Reason.SHUTTING_DOWN
    world.wait_for(Opened)
    world.host._say(Bye(Reason.SHUTTING_DOWN))
    world.wait_for(Opened, seconds=5)


def test_refuse_silences_the_timer_and_not_the_probe(peer: Peer) -> None:
    (hello,) = peer.hear()
    assert isinstance(hello, Hello)
    peer.say_raw(clear(Refuse(b"another1", 6, 50000)))
    peer.now += 1250
    assert len(peer.hear()) == 1, "for another hello"
    peer.say_raw(clear(Refuse(hello.device_nonce, 6, 50000)))
    peer.now += 49999
    assert peer.hear() == []
    peer.say_raw(clear(Probe()))
    (again,) = peer.hear()
    assert isinstance(again, Hello) and again.device_nonce != hello.device_nonce
    peer.say_raw(clear(Refuse(again.device_nonce, 6, 0xFFFFFFFF)))
    longest = 1 << 30 if peer.key is None else 60_000  # with a key it may be a stranger who refuses
    assert peer.hear() == [] and peer.wait == longest


def test_frames_with_another_id_number_or_sender_are_noise(clear_peer: Peer) -> None:
    peer = clear_peer
    peer.open()
    peer.say(Ping())
    peer.hear()
    before = peer.device.inside().damaged
    peer.say(Ping(), number=1)  # repeated
    peer.say(Ping(), id=peer.id ^ 1)
    peer.say_raw(session_frame(encode(Ping()), peer.id, 2, Direction.FROM_DEVICE))
    assert peer.hear() == []
    assert peer.device.inside().damaged == before + 3
    for number in (60000, 65536, 65536 + 65536, 65536 + 65541):  # gaps below 2^16 are ordinary
        peer.say(Ping(), number=number)
        assert len(peer.hear()) == 1
    for number in (65536 + 65541, 65536 + 65540, 65541, 5, 65536 + 65541 + 65537):
        peer.say(Ping(), number=number)
        assert peer.hear() == []


def test_a_session_ends_with_its_last_number(clear_peer: Peer) -> None:
    peer = clear_peer
    peer.open()
    number = 0
    while number < 2**32 - 1:
        number = min(number + 65536, 2**32 - 1)
        peer.sent = number
        peer.say(Ping(), number=number)
        if number % (1 << 24) == 0:
            assert len(peer.hear()) == 1
    assert isinstance(peer.hear()[0], Hello)


def test_unknown_and_broken_messages_inside_a_session(peer: Peer) -> None:
    peer.open()

    def say(data: bytes) -> list[object]:
        peer.say_bytes(data)
        return peer.hear()

    assert say(b"\x81\x14") == [Error(4, 20)]
    assert say(b"\x81\x18\x40") == [Error(4, 64)]
    assert say(b"\x81\x0b") == [Error(9, 11)]
    assert say(b"\xff") == [Error(9, 255)]
    assert say(b"\x81\x0e") == [], "an error is never answered with an error"
    assert say(b"\x82\x0d\xf6") == [Status(1, 0, 0, 0)], "elements after the known ones are ignored"
    assert say(encode(Probe())) == [Error(9, 0)], "a clear message in a session"
    assert say(encode(Status(1, 0, 0, 0))) == [Error(9, 9)], "a device's own"


def test_without_entropy_hello_says_so_and_nonces_differ(runner: Runner) -> None:
    nonces = set()
    for id in (b"device-1", b"device-2"):
        for at in (0, 17):
            device = Device(runner, Config(entropy=False, id=id), now_ms=at)
            peer = Peer(device)
            peer.now = at
            for _ in range(3):
                peer.say_raw(clear(Probe()))
                (hello,) = peer.hear()
                assert isinstance(hello, Hello) and hello.flags == 3
                nonces.add(hello.device_nonce)
    assert len(nonces) == 12


def test_the_clock_may_wrap_in_the_middle_of_a_round(runner: Runner) -> None:
    start = 2**32 - 2500
    device = Device(runner, Config(), now_ms=start)
    samples, head = make_samples(), make_head(3)
    samples.give(device)
    world = World(device, now=start / 1000)
    world.wait_for(Opened)
    blob = heads.encode_head(head)
    for number in range(1, 4):
        world.host.send_head(blob)
        world.host.train(make_order(blob, round=number))
        ready = world.wait_for(ResultReady)
        assert ready.result.elapsed_ms < 1000
        world.settle(2)
        world.host.commit(number)
        world.wait_for(Committed)
    assert world.now_ms > 2**32 + 1000
    assert not world.seen(Lost)
    assert ready.update is not None and len(ready.update) == 346


def test_a_full_port_loses_nothing(runner: Runner) -> None:
    """A line that takes three bytes at a time."""
    device = Device(runner, Config())
    samples, head = make_samples(), make_head(3)
    samples.give(device)
    world = World(device)
    blob = heads.encode_head(head)

    def turn() -> None:
        world.host.poll(world.now)
        device.receive(world.host.data_to_send(), world.now_ms)
        _, said = device.poll(world.now_ms, room=3, polls=5)
        assert len(said) <= 3
        world.host.receive(said, world.now)
        world.events += world.host.events()
        world.now += 3 / 11520

    while not world.seen(Opened):
        turn()
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    while not world.seen(ResultReady):
        turn()
    (ready,) = [event for event in world.events if isinstance(event, ResultReady)]
    assert ready.update == expected(samples, head, make_order(blob)).blob
    assert not world.seen(Lost)
