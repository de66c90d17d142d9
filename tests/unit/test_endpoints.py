"""Endpoint against endpoint in virtual time: whole rounds, over pipes that lose, damage, repeat and cut.

A failure prints the case's parameters; `pytest tests/unit/test_endpoints.py -k NAME` repeats it (all seeds are fixed
or printed by hypothesis).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilofed.link import events as ev
from kilofed.link.blobs import blob_hash, head_bytes, update_bytes
from kilofed.link.device import DeviceEndpoint, Holding
from kilofed.link.errors import SessionError, StatusCode
from kilofed.link.frames import Direction, FrameType, encode_frame, parse_frame
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import (
    Accept,
    Chunk,
    Error,
    Hello,
    Info,
    Multiplier,
    Offer,
    Probe,
    Reason,
    Result,
    State,
    Train,
    Verdict,
    decode,
    encode,
)
from kilofed.transports.memory import Faults

C, F = 10, 32
HEAD = random.Random(1).randbytes(head_bytes(1, C, F))
UPDATE = random.Random(2).randbytes(update_bytes(1, C, F))
HOLDING = Holding(model=b"m" * 8, classes=C, features=F, capacity=100, train=80, held_out=20)


def order(round: int = 1, head: bytes = HEAD, **fields: object) -> Train:
    made = Train(
        round, blob_hash(head), 7, 3, 16, Multiplier.nearest(0.05), Multiplier.nearest(3.2), Multiplier()
    )
    return replace(made, **fields)  # type: ignore[arg-type]


@dataclass
class World:
    """A host, a device, the pipe between them, and a clock that jumps from deadline to deadline.

    The device's owner here trains for `train_seconds` and answers with `update(order)`.
    """

    up: Faults | None = None
    down: Faults | None = None
    latency: float = 0.002
    train_seconds: float = 3.0
    max_frame: int = 128
    window: int = 512
    seed: int = 0
    heartbeat: float = 2.0
    holding: Holding = HOLDING
    update: Callable[[Train], bytes | None] = lambda order: UPDATE if order.wants_update else None

    now: float = 1000.0
    host_events: list[ev.Event] = field(default_factory=list)
    device_events: list[ev.DeviceEvent] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    head_verdict: int = 0
    trained: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    chunks: list[tuple[str, Chunk]] = field(default_factory=list)
    captured: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.pipe: list[tuple[float, int, str, bytes]] = []
        self.sent = 0
        self.connected = True
        self.training: tuple[Train, float, float] | None = None
        self.bytes = {"up": 0, "down": 0}
        self.owner: Callable[[ev.Event], None] = lambda event: None
        self.cut_after: dict[str, int] = {}
        self.on_cut: Callable[[], None] = lambda: None
        self.new_host()
        self.new_device()

    def new_host(self) -> None:
        self.host = HostEndpoint(rng=self.random.randbytes, heartbeat=self.heartbeat)

    def new_device(self) -> None:
        """A device that was reset: its memory is gone, head included."""
        self.training = None
        self.device = DeviceEndpoint(
            device_id=b"device 1",
            board="pi",
            firmware=0x000100,
            holding=self.holding,
            rng=self.random.randbytes,
            take_head=self._take_head,
            max_frame=self.max_frame,
            window=self.window,
        )

    def _take_head(self, blob: bytes) -> int:
        if self.head_verdict == 0:
            self.heads.append(blob)
        return self.head_verdict

    def flush(self) -> None:
        """Takes what both ends say, and what happened."""
        while True:
            up = self.device.data_to_send()
            down = self.host.data_to_send()
            device_events, host_events = self.device.events(), self.host.events()
            if not (up or down or device_events or host_events):
                return
            self._put("up", up)
            self._put("down", down)
            for device_event in device_events:
                self._device_event(device_event)
            for event in host_events:
                self.host_events.append(event)
                self.owner(event)

    def _put(self, way: str, data: bytes) -> None:
        if not data or not self.connected:
            return
        self.bytes[way] += len(data)
        self.captured += data
        for piece in data.split(b"\0"):
            if piece:
                frame = parse_frame(piece)
                message = decode(frame.message)
                if isinstance(message, Chunk):
                    self.chunks.append((way, message))
        if way in self.cut_after:
            left = self.cut_after[way]
            if len(data) > left:
                data = data[:left]
                del self.cut_after[way]
                if data:
                    self._arrive(way, data)
                self.on_cut()
                return
            self.cut_after[way] = left - len(data)
        faults = self.up if way == "up" else self.down
        data = faults.feed(data) if faults else data
        if data:
            self._arrive(way, data)

    def _arrive(self, way: str, data: bytes) -> None:
        self.sent += 1
        self.pipe.append((self.now + self.latency, self.sent, way, data))

    def _device_event(self, event: ev.DeviceEvent) -> None:
        self.device_events.append(event)
        match event:
            case ev.TrainAsked(order, head):
                assert blob_hash(head) == order.head
                self.training = (order, self.now, self.now + self.train_seconds)
                self.trained.append(order.round)
            case ev.CancelAsked():
                self.training = None
            case ev.CommitAsked(round, 0):
                self.committed.append(round)

    def _train(self) -> None:
        if self.training is None:
            return
        order, began, ends = self.training
        if self.now >= ends:
            self.training = None
            self.device.finish(
                self.update(order), train=80, held_out=20, loss_q12=900, base_correct=9, own_correct=15,
                elapsed_ms=int((ends - began) * 1000),
            )  # fmt: skip
        else:
            self.device.progress(int(1000 * (self.now - began) / (ends - began)), 5000)

    def step(self) -> None:
        """To the next moment at which anything is due."""
        self.flush()
        times = [t for t in (self.host.next_deadline(), self.device.next_deadline()) if t is not None]
        times += [self.pipe[0][0]] if self.pipe else []
        times += [min(self.training[2], self.now + 0.1)] if self.training else []
        self.now = max(self.now, min(times)) + 1e-6
        arrived = [item for item in self.pipe if item[0] <= self.now]
        self.pipe = [item for item in self.pipe if item[0] > self.now]
        for _, _, way, data in arrived:
            (self.host if way == "up" else self.device).receive(data, self.now)
        self._train()
        self.host.poll(self.now)
        self.device.poll(self.now)
        self.flush()

    def run(self, until: Callable[[], bool], *, seconds: float = 600) -> None:
        """Steps until it is so; fails after so many virtual seconds or too many steps."""
        end = self.now + seconds
        spins, mark = 0, self.now
        while not until():
            assert self.now < end, f"not after {seconds} s: {self.host_events[-8:]} {self.device_events[-8:]}"
            self.step()
            spins = spins + 1 if self.now < mark + 0.01 else 0
            mark = mark if spins else self.now
            assert spins < 500, "an endpoint makes its owner spin"

    def disconnect(self) -> None:
        self.pipe.clear()
        self.host.disconnected("unplugged")
        self.device.disconnected()
        self.flush()

    def seen(self, kind: type) -> list[ev.Event]:
        return [event for event in self.host_events if isinstance(event, kind)]

    def kinds(self) -> list[type]:
        return [type(event) for event in self.host_events if not isinstance(event, ev.HelloSeen | ev.Progress | ev.Stray)]

    def open(self) -> None:
        self.run(lambda: bool(self.seen(ev.Opened)))


class Round:
    """The owner on the host's side: wants one round done, whatever happens to sessions."""

    def __init__(self, world: World, round: int = 1, head: bytes = HEAD, **fields: object) -> None:
        self.world = world
        self.order = order(round, head, **fields)
        self.head = head
        self.result: ev.ResultReady | None = None
        self.done = False
        world.owner = self.event
        if world.host.info is not None:
            self.assign()

    def assign(self) -> None:
        if self.result is None:
            self.world.host.send_head(self.head)
            self.world.host.train(self.order)
        elif not self.done:
            self.world.host.commit(self.order.round, 0)

    def event(self, event: ev.Event) -> None:
        match event:
            case ev.Opened():
                self.assign()
            case ev.ResultReady(result, update):
                assert result.round == self.order.round
                assert self.result is None or self.result == event
                self.result = event
                self.world.host.commit(self.order.round, 0)
            case ev.Committed(round):
                assert round == self.order.round
                self.done = True


def finished(world: World, round: int = 1) -> Round:
    """Runs a whole round."""
    job = Round(world, round)
    world.run(lambda: job.done)
    return job


# ---- the good case -----------------------------------------------------------------------------------


def test_a_round_from_probe_to_commit():
    world = World()
    job = finished(world)
    assert world.kinds() == [
        ev.Opened, ev.HeadDelivered, ev.Training, ev.ResultReady, ev.Committed,
    ]  # fmt: skip
    assert world.heads == [HEAD] and world.trained == [1] and world.committed == [1]
    assert job.result is not None and job.result.update == UPDATE
    assert job.result.result == Result(1, blob_hash(UPDATE), len(UPDATE), 80, 20, 900, 9, 15, 3000)
    assert world.device.state is State.IDLE and not world.seen(ev.Stray)
    assert world.host.counters.retries == 0


def test_the_bytes_of_a_round_stay_within_the_budget():
    world = World(train_seconds=5.0)
    job = finished(world)
    before = dict(world.bytes)
    heads = [HEAD, random.Random(3).randbytes(len(HEAD))]
    for round in range(2, 12):
        job = Round(world, round, heads[round % 2])
        world.run(lambda: job.done)
    down = (world.bytes["down"] - before["down"]) / 10
    up = (world.bytes["up"] - before["up"]) / 10
    print(f"{down:.0f} B down, {up:.0f} B up a round")
    assert 376 < down <= 900 and 346 < up <= 800
    assert world.host.counters.bytes_down == world.bytes["down"] == world.device.counters.bytes_down
    assert world.host.counters.bytes_up == world.bytes["up"] == world.device.counters.bytes_up


# ---- a line that fails -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rates=st.tuples(*[st.sampled_from([0.0, 0.0, 0.02, 0.1, 0.25])] * 5),
    max_frame=st.sampled_from([64, 128, 300, 1024]),
    window=st.sampled_from([64, 200, 512, 4096]),
)
def test_a_lossy_line_delays_a_round_and_changes_nothing_else(seed, rates, max_frame, window):
    drop, flip, repeat, noise, cut = rates
    faults = [Faults(seed + way, drop, flip, repeat, noise, cut) for way in (0, 1)]
    world = World(up=faults[0], down=faults[1], max_frame=max_frame, window=window, seed=seed)
    jobs = []
    for round in (1, 2, 3):
        head = random.Random(seed + round).randbytes(len(HEAD))
        jobs.append(Round(world, round, head))
        world.run(lambda: jobs[-1].done, seconds=3000)
    for job in jobs:
        assert job.result is not None and job.result.update == UPDATE
        assert job.head in world.heads
    # Never a double count: what the host took was committed at most once, and nothing else was.
    assert len(world.committed) == len(set(world.committed)) and set(world.committed) <= {1, 2, 3}


def test_ten_percent_of_each_fault_costs_seconds_not_minutes():
    rates = (0.1, 0.1, 0.1, 0.1, 0.1)
    world = World(up=Faults(1, *rates), down=Faults(2, *rates))
    finished(world)
    assert world.now - 1000 < 60


def _cut_run(way: str, after: int) -> World | None:
    """A round with the line cut once, `after` bytes into one direction. None when fewer bytes were sent."""
    world = World(train_seconds=0.5)
    world.cut_after = {way: after}
    cuts = []

    def cut() -> None:
        cuts.append(world.now)
        world.connected = False

    world.on_cut = cut
    job = Round(world)

    def done() -> bool:
        if cuts and not world.connected:
            world.connected = True
            world.disconnect()
        return job.done

    world.run(done)
    assert job.result is not None and job.result.update == UPDATE
    assert world.device.state is State.IDLE
    return world if cuts else None


@pytest.mark.parametrize("way", ["up", "down"])
def test_cut_at_every_byte_a_blob_resumes_where_it_was_accepted(way):
    lengths = 0
    for after in range(0, 2000, 1):
        world = _cut_run(way, after)
        if world is None:
            break
        lengths = after
        assert world.host.counters.sessions + world.device.counters.sessions >= 2
        for direction, blob in (("down", HEAD), ("up", UPDATE)):
            chunks = [chunk for to, chunk in world.chunks if to == direction]
            sent = sum(len(chunk.data) for chunk in chunks)
            # Sent again at most what was under way and not accepted: a window of chunks.
            assert len(blob) <= sent <= len(blob) + 4 * 110
    assert lengths > 500


def _resets(world: World, seed: int) -> Callable[[], None]:
    """Resets a side, or both, at random moments."""
    chance = random.Random(seed)

    def maybe() -> None:
        if chance.random() < 0.02:
            what = chance.choice(["host", "device", "line"])
            if what == "host":
                world.new_host()
            elif what == "device":
                world.new_device()
            else:
                world.disconnect()

    return maybe


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_resets_of_either_side_in_any_state_never_hang_a_round(seed):
    world = World(seed=seed, train_seconds=1.0)
    job = Round(world)
    reset = _resets(world, seed)
    for _ in range(1500):
        world.step()
        reset()
        if job.done:
            break
    world.run(lambda: job.done)
    assert job.result is not None and job.result.update == UPDATE
    assert len(world.committed) <= 1


def _until(world: World, what: str) -> Callable[[], bool]:
    state = {
        "welcomed": lambda: world.device.in_session,
        "open": lambda: world.host.info is not None,
        "head on its way": lambda: any(way == "down" for way, _ in world.chunks),
        "head there": lambda: world.device.head is not None,
        "training": lambda: world.device.state is State.TRAINING,
        "uploading": lambda: world.device.state is State.UPLOADING,
        "update on its way": lambda: any(way == "up" for way, _ in world.chunks),
        "result there": lambda: bool(world.seen(ev.ResultReady)),
    }
    return state[what]


STATES = [
    "welcomed", "open", "head on its way", "head there", "training", "uploading", "update on its way", "result there",
]  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("side", ["host", "device", "both", "line"])
def test_a_reset_in_each_state(state, side):
    world = World()
    job = Round(world)
    world.run(_until(world, state))
    if side in ("host", "both"):
        world.new_host()
    if side in ("device", "both"):
        world.new_device()
    if side == "line":
        world.disconnect()
    began = world.now
    world.run(lambda: job.done)
    assert job.result is not None and job.result.update == UPDATE
    assert world.now - began < 30
    assert world.committed in ([1], [])  # empty: the commit's device was reset, which costs one residual


def test_a_host_that_was_killed_takes_over_within_one_exchange():
    world = World()
    world.open()
    began = world.now
    world.new_host()
    world.host_events.clear()
    world.open()
    assert world.now - began < 0.1


# ---- sessions ----------------------------------------------------------------------------------------


def test_a_silent_device_is_lost_after_three_heartbeats_and_found_again():
    world = World()
    world.open()
    world.connected = False
    began = world.now
    world.run(lambda: bool(world.seen(ev.Lost)))
    assert 6 <= world.now - began < 9
    assert world.seen(ev.Lost) == [ev.Lost(Reason.SILENT, "the device is silent")]
    assert not world.device.in_session or world.now - began < 8
    world.connected = True
    world.host_events.clear()
    world.run(lambda: bool(world.seen(ev.Opened)), seconds=10)


def test_an_idle_session_lives_on_and_costs_little():
    world = World()
    world.open()
    before = dict(world.bytes)
    end = world.now + 600
    world.run(lambda: world.now >= end, seconds=700)
    assert not world.seen(ev.Lost)
    assert world.bytes["down"] - before["down"] < 600 * 11 and world.bytes["up"] - before["up"] < 600 * 15


def test_busy_stretches_the_patience_of_the_host():
    world = World()
    world.open()
    world.device.busy(20_000)
    world.step()
    world.step()
    world.connected = False
    end = world.now + 19
    world.run(lambda: world.now >= end, seconds=30)
    assert not world.seen(ev.Lost)
    world.run(lambda: bool(world.seen(ev.Lost)), seconds=10)


def test_a_host_that_slept_does_not_blame_the_device():
    world = World()
    world.open()
    world.now += 3600
    world.host.poll(world.now)
    world.flush()
    assert not world.seen(ev.Lost)


def test_refused_devices_wait():
    world = World()
    world.host = HostEndpoint(rng=world.random.randbytes, admit=lambda hello: Reason.UNKNOWN_DEVICE, refuse_for=30)
    end = world.now + 60
    world.run(lambda: world.now > end)
    hellos = world.seen(ev.HelloSeen)
    assert 2 <= len(hellos) <= 6 and all(e.refused == Reason.UNKNOWN_DEVICE for e in hellos)  # type: ignore[attr-defined]
    assert not world.seen(ev.Opened)
    assert any(isinstance(e, ev.Refused) and e.wait_ms == 30_000 for e in world.device_events)


def test_close_says_bye_and_ends_for_good():
    world = World()
    world.open()
    world.host.close()
    world.host.close()
    assert world.host.next_deadline() is None
    world.flush()
    world.now += 1
    for _, _, way, data in world.pipe:
        if way == "down":
            world.device.receive(data, world.now)
    assert ev.Lost(Reason.SHUTTING_DOWN, "the host said bye") in world.device.events()
    assert world.seen(ev.Lost)
    world.host.receive(b"anything\0", world.now)
    assert world.host.data_to_send() == b"" and world.host.events() == []


def test_the_bye_of_a_device_ends_the_session():
    world = World()
    world.open()
    world.device.close(Reason.SHUTTING_DOWN)
    world.run(lambda: bool(world.seen(ev.Lost)))
    assert world.seen(ev.Lost) == [ev.Lost(Reason.SHUTTING_DOWN, "the device said bye")]


def test_a_replayed_hello_or_probe_ends_nothing():
    world = World()
    hello = None
    world.open()
    hello = next(e.hello for e in world.host_events if isinstance(e, ev.Opened))
    clear = encode_frame(encode(hello), direction=Direction.FROM_DEVICE)
    probe = encode_frame(encode(Probe()), direction=Direction.FROM_HOST)
    for _ in range(3):
        world.host.receive(clear, world.now)
        world.device.receive(probe, world.now)
        end = world.now + 5
        world.run(lambda: world.now > end)  # noqa: B023
    sessions = world.host.counters.sessions
    finished(world)
    # A probe gets a hello with a fresh nonce, which the host answers with a new session; none was lost in silence.
    assert world.host.counters.sessions == sessions
    assert all(e.reason != Reason.SILENT for e in world.seen(ev.Lost))  # type: ignore[attr-defined]


def test_commands_need_a_session():
    world = World()
    for command in (
        lambda: world.host.send_head(HEAD),
        lambda: world.host.train(order()),
        lambda: world.host.commit(1),
        lambda: world.host.cancel(1),
    ):
        with pytest.raises(SessionError, match="wait for Opened"):
            command()


def test_a_lost_info_is_repeated_before_anything_is_said():
    world = World()
    lost = []

    def drop_info(data: bytes) -> bytes:
        out = b""
        for piece in data.split(b"\0")[:-1]:
            message = decode(parse_frame(piece).message) if piece else None
            if isinstance(message, Info) and len(lost) < 3:
                lost.append(world.now)
            else:
                out += piece + b"\0"
        return out

    world.up = Faults()
    world.up.feed = drop_info  # type: ignore[method-assign]
    finished(world)
    assert len(lost) == 3 and lost[2] - lost[0] == pytest.approx(2.0, abs=0.1)


# ---- orders ------------------------------------------------------------------------------------------


def test_a_head_that_is_held_is_not_sent_again():
    world = World()
    finished(world)
    chunks = len(world.chunks)
    world.host_events.clear()
    world.host.send_head(HEAD)
    world.run(lambda: bool(world.seen(ev.HeadDelivered)))
    assert len(world.chunks) == chunks


def test_a_device_that_forgot_its_head_is_given_it_again():
    world = World()
    job = Round(world)
    world.run(lambda: world.device.head is not None)
    world.device._heads.clear()  # as a device does whose storage was wiped
    world.run(lambda: job.done)
    assert world.heads == [HEAD, HEAD]


def test_heads_that_take_turns_are_all_delivered():
    world = World()
    other = random.Random(3).randbytes(len(HEAD))
    for round, head in enumerate([HEAD, other, HEAD, HEAD, other], 1):
        job = Round(world, round, head)
        world.run(lambda: job.done)  # noqa: B023
    assert world.trained == [1, 2, 3, 4, 5] and not world.seen(ev.DeviceError)


def test_going_back_to_the_head_in_use_and_forward_again():
    world = World(train_seconds=20)
    other = random.Random(3).randbytes(len(HEAD))
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(_until(world, "training"))
    for head in (other, HEAD, other):
        world.host.send_head(head)
        world.run(lambda: world.device.head == blob_hash(head))  # noqa: B023
    world.run(lambda: bool(world.seen(ev.ResultReady)))
    world.host.commit(1)
    finished_round = Round(world, 2, other)
    world.run(lambda: finished_round.done)
    assert not world.seen(ev.DeviceError)


def test_an_order_for_a_head_nobody_has_is_an_error():
    world = World()
    world.open()
    world.host.train(order(1, b"another head"))
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    assert world.seen(ev.DeviceError) == [ev.DeviceError(StatusCode.HEAD, 0, "")]


def test_a_head_of_a_wrong_size_is_refused_before_the_first_chunk():
    world = World()
    world.open()
    world.host.send_head(HEAD + b"x")
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    assert world.seen(ev.DeviceError) == [ev.DeviceError(StatusCode.SHAPE, len(HEAD), "")]
    assert not world.chunks and not world.seen(ev.Lost)


def test_a_head_that_does_not_parse_is_offered_three_times():
    world = World(head_verdict=StatusCode.BLOB)
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    (error,) = world.seen(ev.DeviceError)
    assert error.code == StatusCode.BLOB and sum(chunk.offset == 0 for _, chunk in world.chunks) == 3  # type: ignore[attr-defined]
    assert not world.trained


def test_progress_comes_every_two_seconds_at_most():
    world = World(train_seconds=20.0)
    finished(world)
    statuses = world.seen(ev.Progress)
    assert 5 <= len(statuses) <= 12
    permille = [e.status.progress for e in statuses[:-1]]  # type: ignore[attr-defined]
    assert permille == sorted(permille)


def test_cancel_stops_a_training_and_drops_a_result():
    for state in ("training", "result there"):
        world = World(train_seconds=3.0)
        world.open()
        world.host.send_head(HEAD)
        world.host.train(order(4))
        world.run(_until(world, state))
        world.host.cancel(4)
        world.run(lambda: world.device.state is State.IDLE)  # noqa: B023
        assert ev.CancelAsked(4) in world.device_events
        assert not world.committed
        finished(world, 5)


def test_cancel_of_another_round_changes_nothing():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(4))
    world.run(_until(world, "training"))
    world.host.cancel(3)
    world.run(lambda: bool(world.seen(ev.ResultReady)))


def test_a_newer_order_replaces_a_running_round_and_a_waiting_result():
    for state in ("training", "result there"):
        world = World()
        world.open()
        world.host.send_head(HEAD)
        world.host.train(order(1))
        world.run(_until(world, state))
        world.host_events.clear()
        finished(world, 2)
        assert ev.CancelAsked(1) in world.device_events and world.committed == [2]


def test_an_order_that_is_repeated_does_not_train_twice():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(_until(world, "training"))
    world.new_host()
    world.host_events.clear()
    finished(world, 1)
    assert world.trained == [1]


def test_a_result_is_fetched_again_by_ordering_it_again():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order(1))
    world.run(lambda: bool(world.seen(ev.ResultReady)))
    chunks = len(world.chunks)
    world.host.train(order(1))
    world.run(lambda: len(world.seen(ev.ResultReady)) == 2)
    first, second = world.seen(ev.ResultReady)
    assert first == second and world.trained == [1] and len(world.chunks) == chunks


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"flags": 1}])
def test_a_result_without_an_update_is_complete_as_it_is(fields):
    world = World()
    job = Round(world, 1, **fields)
    world.run(lambda: job.done)
    assert job.result is not None and job.result.update is None and job.result.result.size == 0
    assert not [chunk for way, chunk in world.chunks if way == "up"]


def test_collecting_devices_are_not_ordered_before_they_are_ready():
    world = World(holding=replace(HOLDING, train=0, held_out=0, collecting=True))
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    end = world.now + 10
    world.run(lambda: world.now > end)
    assert not world.trained and not world.seen(ev.Lost)
    world.device.update(replace(HOLDING, train=10))
    world.run(lambda: bool(world.seen(ev.ResultReady)), seconds=10)
    assert world.seen(ev.InfoChanged)


def test_a_training_that_fails_is_an_error():
    world = World(train_seconds=50)
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    world.run(_until(world, "training"))
    world.training = None
    world.device.fail(StatusCode.STATE, 3)
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    assert world.seen(ev.DeviceError) == [ev.DeviceError(StatusCode.STATE, 3, "")]
    finished(world, 2)


def test_an_update_of_a_wrong_size_is_not_taken():
    world = World(update=lambda order: UPDATE + b"x")
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    end = world.now + 20
    world.run(lambda: world.now > end)
    assert len(world.seen(ev.DeviceError)) == 1 and not [c for way, c in world.chunks if way == "up"]
    world.host.commit(1, StatusCode.BLOB)
    world.run(lambda: bool(world.seen(ev.Committed)))
    assert ev.CommitAsked(1, StatusCode.BLOB) in world.device_events and not world.committed


def test_an_update_whose_hash_is_wrong_is_asked_for_three_times():
    world = World()
    world.open()
    world.host.send_head(HEAD)
    world.host.train(order())
    world.run(_until(world, "uploading"))
    assert world.device._update is not None
    world.device._update.data = bytes(len(UPDATE))
    world.run(lambda: bool(world.seen(ev.DeviceError)))
    assert world.seen(ev.DeviceError) == [ev.DeviceError(StatusCode.BLOB, 0, "an update damaged 3 times")]
    assert sum(way == "up" and chunk.offset == 0 for way, chunk in world.chunks) == 3
    world.host.commit(1, StatusCode.BLOB)
    world.run(lambda: bool(world.seen(ev.Committed)))


# ---- hostile peers -----------------------------------------------------------------------------------


def _session_frame(world: World, side: str, message: bytes) -> bytes:
    """A sound frame from `side` with any message: what a peer that holds the session can send."""
    session = world.device._session if side == "device" else world.host._session
    assert session is not None
    return session.seal(message)


ANY_MESSAGE = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.builds(
        lambda m: encode(m),
        st.one_of(
            st.builds(Accept, st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.sampled_from(Verdict)),
            st.builds(
                Chunk, st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=40)
            ),
            st.builds(Offer, st.sampled_from([1, 2]), st.binary(min_size=8, max_size=8), st.integers(1, 1 << 20)),
            st.builds(Error, st.integers(0, 255), st.integers(0, 2**32 - 1)),
            st.builds(
                Result,
                st.integers(0, 3),
                st.binary(min_size=8, max_size=8),
                st.integers(1, 1 << 20),
                *[st.integers(0, 9)] * 6,
            ),
        ),
    ),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), state=st.sampled_from(STATES[1:]), side=st.sampled_from(["host", "device"]))
def test_nothing_a_peer_says_does_more_than_end_the_session(data, state, side):
    world = World()
    job = Round(world)
    world.run(_until(world, state))
    for _ in range(data.draw(st.integers(1, 6))):
        message = data.draw(ANY_MESSAGE)
        if (world.host if side == "device" else world.device)._session is None:
            break
        if side == "device" and world.device._session is not None:
            world.host.receive(_session_frame(world, side, message), world.now)
        elif side == "host" and world.host._session is not None:
            world.device.receive(_session_frame(world, side, message), world.now)
    assert len(world.host.data_to_send()) < 10_000 and len(world.device.data_to_send()) < 10_000
    world.flush()
    world.disconnect()
    job = Round(world, 9)
    world.run(lambda: job.done)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_are_stray_and_the_next_round_works(pieces):
    world = World()
    world.open()
    for piece in pieces:
        world.host.receive(piece, world.now)
        world.device.receive(piece, world.now)
    finished(world)
    assert world.host.counters.bytes_stray <= sum(map(len, pieces)) + 1100


def test_errors_about_errors_are_not_answered():
    world = World()
    world.open()
    world.flush()
    world.pipe.clear()
    for message in (b"\x82\x0e\x00", b"\x81\x0e"):
        world.host.receive(_session_frame(world, "device", message), world.now)
        world.device.receive(_session_frame(world, "host", message), world.now)
    assert world.device.data_to_send() == b""
    sent = [decode(parse_frame(p).message) for p in world.host.data_to_send().split(b"\0") if p]
    assert not any(isinstance(message, Error) for message in sent)


def test_unknown_messages_are_answered_with_unsupported_and_ignored():
    world = World()
    world.open()
    world.flush()
    world.host.receive(_session_frame(world, "device", b"\x82\x18\x40\x00"), world.now)
    world.device.receive(_session_frame(world, "host", b"\x82\x11\x00"), world.now)
    for end in (world.host, world.device):
        pieces = [piece for piece in end.data_to_send().split(b"\0") if piece]
        assert Error(StatusCode.UNSUPPORTED) in [decode(parse_frame(piece).message) for piece in pieces]
    finished(world)


def test_the_hello_of_a_later_version_is_still_read():
    world = World()
    hello = Hello(9, b"device 2", b"nonce  2", "pi", 1, 128, 512)
    longer = bytes([0x80 | 10]) + encode(hello)[1:] + b"\xf5"
    world.host.receive(encode_frame(longer, direction=Direction.FROM_DEVICE), world.now)
    assert [type(e) for e in world.host.events()] == [ev.HelloSeen]
    assert FrameType.CLEAR == 0
