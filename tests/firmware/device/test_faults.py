"""Lines that lose, damage, repeat and end; resets in every state; resumption at every byte."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from device_runner import Config, Device, Runner, World
from fleet_of_one import expected, make_head, make_order, make_samples, residual_bytes

from kilofed.link.events import Committed, HeadDelivered, Lost, Opened, ResultReady, Training
from kilofed.link.messages import Accept, Chunk, Error, Hello, Offer, Verdict, encode
from kilofed_tools import heads

IDLE = 1


def fresh(runner: Runner, *, seed: int = 7, **changes: object) -> World:
    device = Device(runner, Config(**changes))  # type: ignore[arg-type]
    make_samples().give(device)
    return World(device, seed=seed)


def play_round(world: World, number: int, *, seconds: float = 300.0) -> bytes | None:
    """A host that wants one round done: after every loss it says again what it wants."""
    blob = heads.encode_head(make_head(3))
    order = make_order(blob, round=number)
    end = world.now + seconds
    update: bytes | None = None
    taken = False

    def want() -> None:
        if world.host.info is None:
            return
        if taken:
            world.host.commit(number)
        else:
            world.host.send_head(blob)
            world.host.train(order)

    want()
    while world.now < end:
        wait, moved = world.exchange()
        events, world.events = world.events, []
        for event in events:
            if isinstance(event, Opened):
                want()
            elif isinstance(event, ResultReady):
                update, taken = event.update, True
                want()
            elif isinstance(event, Committed) and taken:
                return update
        if not moved:
            world.now += max(wait, 0.001)
    raise AssertionError(f"no round within {seconds} s")


class Cut:
    """A cable that is pulled after so many bytes, and put back by the test."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.pulled = False

    def __call__(self, data: bytes) -> bytes:
        if self.pulled or len(data) < self.left:
            self.left -= len(data)
            return b"" if self.pulled else data
        data, self.pulled = data[: self.left], True
        return data


def host_again(world: World) -> None:
    """The host process was killed and started again, on a line that works."""
    again = World(world.device, seed=world.rng.randrange(1 << 30), now=world.now)
    world.host, world.rng, world.events = again.host, again.rng, []
    world.up = world.down = lambda data: data


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_cable_pulled_at_every_byte_of_a_round(runner: Runner, way: str) -> None:
    """Another host finds the device and ends the round: same update, residual committed once."""
    want = expected(make_samples(), make_head(3), make_order(heads.encode_head(make_head(3))))
    whole = fresh(runner)
    whole.wait_for(Opened)
    before = whole.bytes_up if way == "up" else whole.bytes_down
    assert play_round(whole, 1) == want.blob
    total = (whole.bytes_up if way == "up" else whole.bytes_down) - before
    for at in range(total + 1):
        world = fresh(runner)
        world.wait_for(Opened)
        cut = Cut(at)
        if way == "up":
            world.up = cut
        else:
            world.down = cut
        blob = heads.encode_head(make_head(3))
        world.host.send_head(blob)
        world.host.train(make_order(blob))
        committed = False
        for _ in range(400):
            wait, moved = world.exchange()
            for event in world.events:
                if isinstance(event, ResultReady):
                    world.host.commit(1)
            committed = committed or any(isinstance(event, Committed) for event in world.events)
            world.events.clear()
            if cut.pulled:
                break
            if not moved:
                world.now += max(wait, 0.001)
        assert cut.pulled or committed
        # The next host's first byte is a delimiter: it may end a frame that was cut just before its own.
        host_again(world)
        world.wait_for(Opened)
        inside = world.device.inside()
        if inside.residual == residual_bytes(want.residual):
            continue  # the commit had come: the round is over on the device
        assert not any(inside.residual)
        assert play_round(world, 1) == want.blob
        assert world.device.inside().residual == residual_bytes(want.residual)


def test_nothing_that_was_accepted_is_sent_again(runner: Runner) -> None:
    """Cuts all along the head's way down: the next session begins where the device said it is."""
    blob = heads.encode_head(make_head(3))
    for at in range(0, 500, 7):
        world = fresh(runner)
        world.wait_for(Opened)
        cut = Cut(at)
        world.down = cut
        world.host.send_head(blob)
        for _ in range(50):
            wait, moved = world.exchange()
            if cut.pulled or world.seen(HeadDelivered):
                break
            if not moved:
                world.now += max(wait, 0.001)
        host_again(world)
        world.wait_for(Opened)
        before = len(world.log)
        world.host.send_head(blob)
        world.wait_for(HeadDelivered)
        said = world.log[before:]
        sent = [m for way, m in said if way == "down" and isinstance(m, Chunk)]
        accepted = [m.offset for way, m in said if way == "up" and isinstance(m, Accept)]
        first = accepted[0] if accepted else len(blob)
        assert [chunk.offset for chunk in sent] == sorted({chunk.offset for chunk in sent})
        assert sum(len(chunk.data) for chunk in sent) == len(blob) - first
        assert all(chunk.offset >= first for chunk in sent)


def losing(rng: random.Random, share: float) -> Callable[[bytes], bytes]:
    """Loses whole frames."""

    def line(data: bytes) -> bytes:
        return b"".join(p + b"\0" for p in data.split(b"\0")[:-1] if rng.random() >= share)

    return line


def damaging(rng: random.Random, share: float) -> Callable[[bytes], bytes]:
    """Flips, drops, repeats and invents bytes."""

    def line(data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            dice = rng.random()
            if dice < share:
                out.append(byte ^ 1 << rng.randrange(8))
            elif dice < 1.5 * share:
                continue
            elif dice < 2 * share:
                out += bytes([byte, byte])
            elif dice < 2.5 * share:
                out += bytes([byte, rng.randrange(256)])
            else:
                out.append(byte)
        return bytes(out)

    return line


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", [losing, damaging])
def test_rounds_on_bad_lines(
    runner: Runner, kind: Callable[[random.Random, float], Callable[[bytes], bytes]], seed: int
) -> None:
    rng = random.Random(seed)
    world = fresh(runner, seed=seed)
    share = 0.2 if kind is losing else 0.001
    world.up, world.down = kind(rng, share), kind(rng, share)
    residual = None
    for number in (1, 2):
        order = make_order(heads.encode_head(make_head(3)), round=number)
        want = expected(make_samples(), make_head(3), order, residual)
        assert play_round(world, number, seconds=2000) == want.blob
        residual = want.residual
        assert world.device.inside().residual == residual_bytes(residual)


@pytest.mark.parametrize("seed", range(6))
def test_boot_text_and_noise_between_frames(runner: Runner, seed: int) -> None:
    rng = random.Random(seed)
    texts = [b"Booting v1.2\r\n", b"panic: at 0x2000 \x1b[0m\r\n", b"x" * 700, bytes(5), rng.randbytes(90)]

    def noisy(data: bytes) -> bytes:
        """Noise, then a delimiter as the next frame's sender or a reset puts it, then the frames."""
        return b"".join(rng.choice(texts) + b"\0" + p + b"\0" for p in data.split(b"\0")[:-1])

    world = fresh(runner, seed=seed)
    world.up = world.down = noisy
    want = expected(make_samples(), make_head(3), make_order(heads.encode_head(make_head(3))))
    world.run(lambda: world.seen(Opened))
    assert play_round(world, 1) == want.blob
    assert world.device.inside().damaged > 5
    assert b"Booting v1.2\r\n" in world.device.strays or b"panic" in world.device.strays


def test_a_device_reset_in_every_state(runner: Runner) -> None:
    """The board loses its power at every exchange of a round; its samples come back; the round is done."""
    blob = heads.encode_head(make_head(3))
    want = expected(make_samples(), make_head(3), make_order(blob))
    for at in range(40):
        world = fresh(runner, seed=at)
        world.wait_for(Opened)
        world.host.send_head(blob)
        world.host.train(make_order(blob))
        steps = 0
        while steps < at:
            world.device.receive(world.host.data_to_send(), world.now_ms)
            _, said = world.device.poll(world.now_ms, polls=1, max_macs=5000)
            world.host.receive(said, world.now)
            for event in world.host.events():
                if isinstance(event, ResultReady):
                    world.host.commit(1)
            world.now += 0.001 if not said else 0.0
            steps += 1
        device = Device(runner, Config(seed=100 + at), now_ms=world.now_ms)
        make_samples().give(device)
        world.device = device
        opened = world.wait_for(Opened)
        assert opened.info.head is None
        assert play_round(world, 1) == want.blob


def test_an_update_damaged_on_the_way_is_offered_again_three_times(runner: Runner) -> None:
    world = fresh(runner)
    world.wait_for(Opened)
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.wait_for(HeadDelivered)
    world.host.train(make_order(blob))
    world.run(lambda: world.device.state == 3)
    # From here the host is played by hand: it refuses what it gets.
    session = world.host._session
    assert session is not None
    hash = expected(make_samples(), make_head(3), make_order(blob)).blob
    id = int.from_bytes(heads.head_hash(hash)[:2], "big")
    offers = 0
    for _ in range(6):
        world.device.receive(session.seal(encode(Accept(id, 0, Verdict.REFUSED))), world.now_ms)
        world.now += 0.1
        _, said = world.device.poll(world.now_ms)
        offers += sum(type(m).__name__ == "Result" for m in world.messages(said))
    assert offers == 2, "after the first offer, two more"
    world.now += 2
    world.device.receive(session.seal(encode(Accept(id, 0, Verdict.RECEIVING))), world.now_ms)
    _, said = world.device.poll(world.now_ms)
    assert any(isinstance(m, Chunk) for m in world.messages(said)), "a host that asks still gets it"


def test_a_wrong_head_is_refused_and_the_next_one_taken(runner: Runner) -> None:
    world = fresh(runner)
    world.wait_for(Opened)
    good = heads.encode_head(make_head(3))

    def offer(blob: bytes, hash: bytes, *, size: int | None = None) -> list[object]:
        world.host._say(Offer(1, hash, size or len(blob)))  # type: ignore[arg-type]
        before = len(world.log)
        for at in range(0, len(blob), 90):
            world.host._say(Chunk(int.from_bytes(hash[:2], "big"), at, blob[at : at + 90]))
        world.settle(0.2)
        return [m for way, m in world.log[before:] if way == "up" and isinstance(m, Accept | Error)]

    heard = offer(good, bytes(8))
    assert heard[-1] == Accept(0, 0, Verdict.REFUSED) or Accept(0, 0, Verdict.REFUSED) in heard
    assert any(isinstance(m, Error) and m.code == 10 for m in heard)
    for size in (1, len(good) - 1, len(good) + 4, 1 << 20):
        heard = offer(b"", b"sizesize", size=size)
        assert Accept(0x7369, 0, Verdict.REFUSED) in heard
        assert any(isinstance(m, Error) and (m.code, m.detail) == (10, len(good)) for m in heard)
    broken = bytearray(good)
    broken[0] = 2  # the blob's version
    heard = offer(bytes(broken), heads.head_hash(bytes(broken)))
    assert any(isinstance(m, Accept) and m.verdict == 2 for m in heard)
    assert world.device.inside().head_in_use == 0
    world.host.send_head(good)
    world.wait_for(HeadDelivered)
    assert world.device.inside().head_in_use == 1
    world.host.train(make_order(good))
    world.wait_for(Training)


def test_a_silent_receiver_ends_the_session_after_eight_tries(runner: Runner) -> None:
    world = fresh(runner)
    world.wait_for(Opened)
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    world.run(lambda: world.device.state == 3)
    session = world.host._session
    assert session is not None
    id = int.from_bytes(
        heads.head_hash(expected(make_samples(), make_head(3), make_order(blob)).blob)[:2], "big"
    )
    world.device.receive(session.seal(encode(Accept(id, 97, Verdict.RECEIVING))), world.now_ms)
    sent: list[tuple[float, int]] = []
    hello = False
    start = world.now
    while not hello and world.now < start + 60:
        world.device.receive(session.seal(b"\x81\x0d"), world.now_ms)  # it is there, but never accepts
        _, said = world.device.poll(world.now_ms)
        for message in world.messages(said):
            hello = hello or isinstance(message, Hello)
            if isinstance(message, Chunk) and message.offset == 97:
                sent.append((world.now, message.offset))
        world.now += 0.05
    assert hello
    assert len(sent) == 9, "once, and eight times again"
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(sent)]
    assert gaps[0] < 0.7 and max(gaps) < 4.2 and gaps == sorted(gaps)


def test_frames_of_a_dead_session_do_nothing(runner: Runner) -> None:
    """What a killed host had sent, recorded and played into the next session."""
    world = fresh(runner)
    world.wait_for(Opened)
    record = bytearray()

    def down(data: bytes) -> bytes:
        record.extend(data)
        return data

    world.down = down
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    world.wait_for(ResultReady)
    world.host.commit(1)
    world.wait_for(Committed)
    before = world.device.inside()
    host_again(world)
    world.wait_for(Opened)
    damaged = world.device.inside().damaged
    world.device.receive(bytes(record), world.now_ms)
    world.settle(2)
    after = world.device.inside()
    assert after.residual == before.residual and after.state == IDLE
    assert after.damaged > damaged + 5
    assert not world.seen(Lost)


def mutated(rng: random.Random, message: bytes) -> bytes:
    """A message with some bytes changed, dropped and added; at times none."""
    out = bytearray(message)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(out)) if out else 0
        kind = rng.randrange(4)
        if kind == 3 or not out:
            out.insert(at, rng.randrange(256))
        elif kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        else:
            del out[at]
    return bytes(out or b"\0")


@pytest.mark.slow
def test_a_hundred_thousand_frames_of_a_hostile_host(runner: Runner) -> None:
    """Mutated messages in sound frames, and mutated frames, in every state: nothing breaks or hangs."""
    rng = random.Random(2026)
    world = fresh(runner)
    world.wait_for(Opened)
    head = heads.encode_head(make_head(3))
    hash = heads.head_hash(head)
    id = int.from_bytes(hash[:2], "big")
    update = int.from_bytes(
        heads.head_hash(expected(make_samples(), make_head(3), make_order(head)).blob)[:2], "big"
    )
    corpus = [
        *(encode(make_order(head, epochs=epochs, codec=codec)) for epochs, codec in ((3, 1), (1, 2), (0, 3))),
        encode(Offer(1, hash, len(head))),  # type: ignore[arg-type]
        *(encode(Chunk(id, at, head[at : at + 90])) for at in range(0, len(head), 90)),
        *(encode(Accept(update, at, Verdict.RECEIVING)) for at in (0, 109, 346)),
        encode(Accept(update, 0, Verdict.REFUSED)), encode(Error(5)), b"\x81\x0d",
        b"\x83\x0b\x01\x00", b"\x82\x0c\x01",
    ]  # fmt: skip
    reached = set()
    made = taken = 0
    while made < 100_000:
        session = world.host._session
        assert session is not None
        before = world.device.inside().frames_in
        batch = bytearray()
        for _ in range(100):
            made += 1
            frame = bytearray(session.seal(mutated(rng, rng.choice(corpus))[:107]))
            dice = rng.random()
            if dice < 0.05:
                frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            elif dice < 0.06:
                frame += rng.randbytes(rng.randrange(1, 300)) + b"\0"
            batch += frame
        world.device.receive(bytes(batch), world.now_ms)
        _, said = world.device.poll(world.now_ms, polls=rng.choice((1, 5, 50, 5000)))
        inside = world.device.inside()
        taken += inside.frames_in - before
        reached.add(inside.state)
        world.now += 0.25
        if rng.random() < 0.3 or said[:1] == b"\0" or inside.frames_in == before:
            host_again(world)  # the session has ended, or is given up: what waits stays
            world.wait_for(Opened)
    assert taken > 80_000 and reached == {1, 2, 3}
    host_again(world)
    world.wait_for(Opened)
    world.host.send_head(head)
    world.host.train(make_order(head, round=0xFFFFFFF0))
    assert world.wait_for(ResultReady).result.round == 0xFFFFFFF0
    inside = world.device.inside()
    assert inside.count == 60 and inside.locks == 0
