"""What somebody on the line can do to the Python endpoints: nothing that firmware/SECURITY.md does not admit.

Both ways round: a host endpoint against whoever plays its device, a device endpoint against whoever plays its
host. tests/firmware/device/test_attacks.py does the same to the C core.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from tests.link_world import HEAD, HOLDING, KEY, Round, World, finished, order

from kilofed.link import events as ev
from kilofed.link.device import MOST_REFUSED, DeviceEndpoint
from kilofed.link.frames import Direction, FrameType, encode_frame, parse_frame
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import FLAG_ENCRYPTED, Hello, Message, Reason, Refuse, Welcome, decode, encode

OTHER_KEY = bytes(range(32))


@dataclass
class Man:
    """In the middle of one way of a line: `change` gets each frame's bytes and gives what goes on."""

    change: Callable[[bytes], bytes]

    def feed(self, data: bytes) -> bytes:
        return b"".join(self.change(piece) for piece in data.split(b"\0") if piece)


def on_clear(kind: type, change: Callable[[Message], Message]) -> Callable[[bytes], bytes]:
    """Changes the clear messages of a kind, and makes their check right again."""

    def changed(piece: bytes) -> bytes:
        frame = parse_frame(piece)
        if frame.type is FrameType.CLEAR:
            message = decode(frame.message)
            if isinstance(message, kind):
                return encode_frame(encode(change(message)), direction=frame.direction)
        return b"\0" + piece + b"\0"

    return changed


def never_opens(world: World, *, seconds: float = 30) -> None:
    end = world.now + seconds
    world.run(lambda: world.now > end, seconds=seconds + 10)
    assert not world.seen(ev.Opened)
    assert not world.device.in_session or world.device._session is None


class Recorder(World):
    """A world whose line is recorded, frame by frame, each way."""

    def __post_init__(self) -> None:
        self.record: dict[str, list[bytes]] = {"up": [], "down": []}
        super().__post_init__()

    def _put(self, way: str, data: bytes) -> None:
        self.record[way] += [piece + b"\0" for piece in data.split(b"\0") if piece]
        super()._put(way, data)


def recorded() -> Recorder:
    world = Recorder()
    finished(world)
    return world


# ---- replay ------------------------------------------------------------------------------------------


def test_a_recorded_device_opens_no_session_with_a_host():
    past = recorded()
    host = HostEndpoint(rng=random.Random(99).randbytes, keys=lambda _: [KEY])
    for frame in past.record["up"]:
        host.receive(b"\0" + frame, past.now)
    events = host.events()
    assert not any(isinstance(event, ev.Opened) for event in events)
    assert host.info is None and host.counters.sessions == 0
    kept = [event for event in events if not isinstance(event, ev.Stray)]
    assert {type(event) for event in kept} == {ev.HelloSeen}
    assert host._session is None


def test_a_recorded_host_opens_no_session_with_a_device_and_trains_nothing():
    past = recorded()
    past.new_device()
    for frame in past.record["down"]:
        past.device.receive(b"\0" + frame, past.now)
    events = past.device.events()
    assert not past.device.in_session and past.device.counters.sessions == 0
    assert not any(isinstance(event, ev.TrainAsked | ev.HeadReceived) for event in events)


def test_a_recorded_session_played_into_a_running_one_changes_no_result():
    """Its probes and hellos may make the two begin anew, with each other: nothing is lost by that."""
    past = recorded()
    job = Round(past, 2, random.Random(8).randbytes(len(HEAD)))
    played = iter(list(zip(past.record["up"], past.record["down"], strict=False)))

    def with_the_past(way: int) -> Callable[[bytes], bytes]:
        def change(piece: bytes) -> bytes:
            old = next(played, (b"", b""))[way]
            return b"\0" + old + piece + b"\0" + old

        return change

    past.up = Man(with_the_past(0))  # type: ignore[assignment]
    past.down = Man(with_the_past(1))  # type: ignore[assignment]
    past.run(lambda: job.done)
    assert past.trained == [1, 2] and past.committed == [1, 2] and past.heads == [HEAD, job.head]
    assert past.device.counters.damaged > 0 and past.host.counters.damaged > 0


# ---- order and direction -----------------------------------------------------------------------------


def test_frames_that_come_again_or_late_or_back_count_once():
    world = World()
    world.open()
    held: list[bytes] = []
    rng = random.Random(4)

    def mix(piece: bytes) -> bytes:
        """Now and then a frame is held back, comes twice, or something older comes after it."""
        frame = piece + b"\0"
        held.append(frame)
        fate = rng.random()
        if fate < 0.15:
            return b""  # late: after the next one
        return frame + (frame if fate < 0.4 else b"") + (rng.choice(held[-4:]) if fate > 0.7 else b"")

    world.up, world.down = Man(mix), Man(mix)  # type: ignore[assignment]
    for round in (1, 2, 3):
        job = Round(world, round, random.Random(round).randbytes(len(HEAD)))
        world.run(lambda: job.done, seconds=3000)  # noqa: B023
    assert world.trained == [1, 2, 3] and world.committed == [1, 2, 3]


def test_reflected_frames_are_noise():
    world = World()
    world.open()
    sent: dict[str, list[bytes]] = {"up": [], "down": []}

    def mirror(way: str, other: str) -> Callable[[bytes], bytes]:
        def change(piece: bytes) -> bytes:
            sent[way].append(piece)
            back = sent[other][-1] if sent[other] else b""
            return piece + b"\0" + back + b"\0"

        return change

    world.up = Man(mirror("up", "down"))  # type: ignore[assignment]
    world.down = Man(mirror("down", "up"))  # type: ignore[assignment]
    job = Round(world, 1)
    world.run(lambda: job.done)
    assert world.trained == [1] and not world.seen(ev.DeviceError) and not world.seen(ev.Lost)


# ---- keys --------------------------------------------------------------------------------------------


def test_a_host_with_a_wrong_key_opens_nothing_and_each_side_says_so_once_a_hello():
    world = World()
    world.new_host(keys=lambda _: [OTHER_KEY])
    never_opens(world)
    hellos = [event for event in world.host_events if isinstance(event, ev.HelloSeen)]
    doubts = world.seen(ev.Unproven)
    assert 1 <= len(doubts) <= len(hellos)
    assert doubts[0] == ev.Unproven(b"device 1")
    device_doubts = [event for event in world.device_events if isinstance(event, ev.Unproven)]
    assert 1 <= len(device_doubts) <= len(hellos)


def test_the_key_of_one_device_is_no_use_under_the_name_of_another():
    keys = {b"device A": KEY, b"device 1": OTHER_KEY}  # the world's device holds A's key and says it is 1
    world = World()
    world.new_host(keys=lambda id: [keys[id]])
    never_opens(world)


def test_a_host_without_the_device_s_key_refuses_it():
    world = World()
    world.new_host(keys=lambda _: [], insecure=True)
    never_opens(world)
    assert {event.refused for event in world.seen(ev.HelloSeen)} == {Reason.WRONG_KEY}


def test_a_key_that_is_revoked_meanwhile_opens_nothing_more():
    world = World()
    known = [KEY]
    world.new_host(keys=lambda _: known)
    world.host.poll(world.now)
    world.device.poll(world.now)
    hello = world.device.data_to_send()
    world.host.receive(hello, world.now)
    known.clear()
    world.host.data_to_send()
    world.host.receive(hello, world.now)  # the same again
    (frame,) = [parse_frame(piece) for piece in world.host.data_to_send().split(b"\0") if piece]
    assert decode(frame.message).reason == Reason.WRONG_KEY


def test_a_key_under_replacement_opens_with_either():
    for held in (KEY, OTHER_KEY):
        world = World(key=held)
        world.new_host(keys=lambda _: [OTHER_KEY, KEY])
        world.open()
        assert world.host.key == held
        finished(world)


# ---- downgrade ---------------------------------------------------------------------------------------


def test_a_hello_whose_flag_was_cleared_is_refused():
    world = World()
    clear = on_clear(Hello, lambda hello: replace(hello, flags=hello.flags & ~FLAG_ENCRYPTED))
    world.up = Man(clear)  # type: ignore[assignment]
    never_opens(world)
    assert {event.refused for event in world.seen(ev.HelloSeen)} == {Reason.INSECURE}


def test_even_a_host_that_takes_the_clear_does_not_get_it_from_a_device_with_a_key():
    world = World()
    world.new_host(insecure=True)
    world.up = Man(on_clear(Hello, lambda hello: replace(hello, flags=0)))  # type: ignore[assignment]
    never_opens(world)


def test_a_welcome_without_its_proof_is_ignored():
    world = World()
    world.down = Man(on_clear(Welcome, lambda welcome: replace(welcome, proof=None)))  # type: ignore[assignment]
    never_opens(world)


def test_a_device_without_a_key_ignores_a_welcome_with_a_proof():
    world = World(key=None)
    proof = on_clear(Welcome, lambda welcome: replace(welcome, proof=bytes(16)))
    world.down = Man(proof)  # type: ignore[assignment]
    never_opens(world)


@pytest.mark.parametrize(
    "kind, fields",
    [
        (Hello, {"version": 2}),
        (Hello, {"firmware": 7}),
        (Hello, {"board": "pj"}),
        (Hello, {"max_frame": 100}),
        (Hello, {"window": 511}),
        (Hello, {"flags": FLAG_ENCRYPTED | 1}),
        (Hello, {"device_nonce": b"another1"}),
        (Welcome, {"max_frame": 100}),
        (Welcome, {"heartbeat_ms": 65535}),
        (Welcome, {"host_nonce": b"another1"}),
    ],
)
def test_whoever_changes_a_word_of_the_handshake_gets_no_session(kind, fields):
    world = World()
    man = Man(on_clear(kind, lambda message: replace(message, **fields)))
    if kind is Hello:
        world.up = man  # type: ignore[assignment]
    else:
        world.down = man  # type: ignore[assignment]
    never_opens(world)


# ---- what is in the clear ----------------------------------------------------------------------------


def forged(message: Message, direction: Direction) -> bytes:
    return encode_frame(encode(message), direction=direction)


def test_forged_hellos_and_welcomes_do_not_end_a_session():
    world = World(train_seconds=20)
    job = Round(world, 1)
    world.open()
    rng = random.Random(6)
    for _ in range(200):
        hello = replace(world.device._hello, device_nonce=rng.randbytes(8))
        world.host.receive(forged(hello, Direction.FROM_DEVICE), world.now)
        welcome = Welcome(1, world.device._hello.device_nonce, rng.randbytes(8), 128, 100, rng.randbytes(16))
        world.device.receive(forged(welcome, Direction.FROM_HOST), world.now)
        plain = replace(welcome, proof=None)
        world.device.receive(forged(plain, Direction.FROM_HOST), world.now)
        world.host.data_to_send()
        world.device.data_to_send()
    world.host.events()
    world.run(lambda: job.done)
    assert not world.seen(ev.Lost)
    assert world.host.counters.sessions == world.device.counters.sessions == 1


def test_a_forged_refuse_silences_a_device_for_a_minute_at_most():
    device = DeviceEndpoint(
        device_id=b"device 1", board="pi", firmware=1, holding=HOLDING, rng=random.Random(1).randbytes,
        take_head=lambda _: 0, key=KEY,
    )  # fmt: skip
    device.poll(100.0)
    refuse = Refuse(device._hello.device_nonce, Reason.TOO_MANY, 2**32 - 1)
    device.receive(forged(refuse, Direction.FROM_HOST), 100.0)
    assert device.next_deadline() == 100.0 + MOST_REFUSED


def test_a_forged_bye_in_the_clear_ends_nothing():
    world = World()
    world.open()
    from kilofed.link.messages import Bye

    world.device.receive(forged(Bye(1), Direction.FROM_HOST), world.now)
    world.host.receive(forged(Bye(1), Direction.FROM_DEVICE), world.now)
    job = Round(world, 1)
    world.run(lambda: job.done)
    assert not world.seen(ev.Lost)


# ---- a peer with the right key and bad manners -------------------------------------------------------

NESTED = b"\x82\x0d" + b"\x81" * 200 + b"\x00"
HUGE = [
    b"\x9a\xff\xff\xff\xff\x0d",
    b"\x9b" + b"\xff" * 8 + b"\x0d",
    b"\x84\x07\x01\x00\x5a\xff\xff\xff\xff",
    NESTED,
]


@pytest.mark.parametrize("message", HUGE, ids=range(len(HUGE)))
def test_oversized_and_nested_messages_cost_an_error_and_no_memory(message):
    world = World()
    world.open()
    world.host.receive(world.device._session.seal(message), world.now)
    world.device.receive(world.host._session.seal(message), world.now)
    assert len(world.host.data_to_send()) < 200 and len(world.device.data_to_send()) < 200
    job = Round(world, 1)
    world.run(lambda: job.done)
    assert not world.seen(ev.Lost) and len(world.seen(ev.Malformed)) == 1


def test_an_order_for_a_device_is_not_taken_from_a_device():
    """An authentic message of the wrong side: answered with an error, and without effect."""
    world = World()
    world.open()
    world.host.receive(world.device._session.seal(encode(order())), world.now)
    assert world.host.info is not None
    job = Round(world, 1)
    world.run(lambda: job.done)


def test_keys_are_never_told():
    world = World()
    world.new_host(keys=lambda _: [OTHER_KEY])
    never_opens(world)
    shown = repr(world.host_events) + repr(world.device_events) + repr(world.host._pending)
    for key in (KEY, OTHER_KEY):
        assert key.hex() not in shown and repr(key)[2:-1] not in shown
    assert KEY not in bytes(world.captured) and HEAD[:8] not in bytes(world.captured)


def test_hellos_that_waited_for_a_busy_host_are_no_doubt_about_its_key() -> None:
    """A device says the same hello every second; a host that reads six of them at once has answered none."""
    host = HostEndpoint(rng=bytes, keys=lambda _: [KEY])
    hello = Hello(1, b"device 1", b"a nonce.", "posix", 1, 1024, 4096, FLAG_ENCRYPTED)
    frame = encode_frame(encode(hello), direction=Direction.FROM_DEVICE)
    host.receive(frame * 6, 1.0)
    assert not [event for event in host.events() if isinstance(event, ev.Unproven)]
    for second in range(2, 6):
        host.receive(frame, float(second))
    assert [event for event in host.events() if isinstance(event, ev.Unproven)] == [ev.Unproven(b"device 1")]
