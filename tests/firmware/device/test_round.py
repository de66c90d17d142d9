"""Rounds end to end: the C device against the Python host, its results against the Python trainer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from device_runner import Config, Device, Runner, World
from fleet_of_one import MODEL, SPEC, C, F, expected, make_head, make_order, make_samples, residual_bytes

from kilofed.link.events import (
    Committed,
    DeviceError,
    HeadDelivered,
    InfoChanged,
    Lost,
    Opened,
    Progress,
    ResultReady,
    Training,
)
from kilofed.link.messages import PERSONALISE, BlobKind, Chunk, Multiplier, Offer, State
from kilofed_tools import evaluate, heads, trainer, updates

IDLE, TRAINING, UPLOADING = 1, 2, 3


@pytest.fixture
def world(runner: Runner) -> World:
    """A digits device with 60 samples, in an open session."""
    device = Device(runner, Config())
    assert device.status == 0
    make_samples().give(device)
    world = World(device)
    world.wait_for(Opened)
    return world


def fresh_host(world: World, *, seed: int = 99) -> None:
    """The host was killed and started again."""
    again = World(world.device, seed=seed, now=world.now, max_macs=world.max_macs)
    world.host, world.rng, world.events = again.host, again.rng, []
    world.wait_for(Opened)


@pytest.mark.parametrize("codec", [1, 2, 3])
def test_two_rounds_give_the_reference_s_bytes(world: World, codec: int) -> None:
    samples = make_samples()
    residual = None
    for number, head in enumerate((make_head(3), make_head(4)), start=1):
        blob = heads.encode_head(head)
        order = make_order(blob, round=number, codec=codec)
        want = expected(samples, head, order, residual)
        world.host.send_head(blob)
        world.host.train(order)
        assert world.wait_for(HeadDelivered).hash == heads.head_hash(blob)
        assert world.wait_for(Training).status.round == number
        ready = world.wait_for(ResultReady)
        assert ready.update == want.blob
        result = ready.result
        assert (result.train, result.held_out) == (want.train, want.held_out)
        assert (result.base_correct, result.own_correct) == (want.base_correct, want.own_correct)
        assert result.loss_q12 == want.loss_q12
        before = residual_bytes(residual) if residual else bytes(4 * C + 2 * C * F)
        assert world.device.inside().residual == before, "the residual changes at the commit and not before"
        world.host.commit(number)
        world.wait_for(Committed)
        residual = want.residual
        inside = world.device.inside()
        assert inside.residual == residual_bytes(residual)
        assert inside.state == IDLE and inside.locks == 0
    assert residual is not None and np.any(residual.W)


def test_an_exact_update_needs_room_for_it(runner: Runner) -> None:
    blob = heads.encode_head(make_head(3))
    order = make_order(blob, codec=0)
    for exact in (False, True):
        device = Device(runner, Config(exact_updates=exact))
        make_samples().give(device)
        world = World(device)
        world.wait_for(Opened)
        world.host.send_head(blob)
        world.host.train(order)
        if exact:
            assert world.wait_for(ResultReady).update == expected(make_samples(), make_head(3), order).blob
        else:
            error = world.wait_for(DeviceError)
            assert (error.code, error.detail) == (2, updates.update_bytes(updates.Codec.INT32, C, F))


@pytest.mark.parametrize("max_macs", [1, 7, 333, 10**9])
def test_slices_change_no_byte(runner: Runner, max_macs: int) -> None:
    device = Device(runner, Config())
    make_samples().give(device)
    world = World(device, max_macs=max_macs)
    world.wait_for(Opened)
    head = make_head(3)
    blob = heads.encode_head(head)
    order = make_order(blob, epochs=1, prox=Multiplier(20000, 18))
    world.host.send_head(blob)
    world.host.train(order)
    assert world.wait_for(ResultReady).update == expected(make_samples(), head, order).blob
    assert device.polls > (1000 if max_macs == 1 else 3)


def test_a_result_of_a_personal_round_has_no_update_and_changes_the_head_in_use(world: World) -> None:
    samples, head = make_samples(), make_head(3)
    blob = heads.encode_head(head)
    order = make_order(blob, flags=PERSONALISE, epochs=5)
    want = expected(samples, head, order)
    world.host.send_head(blob)
    world.host.train(order)
    ready = world.wait_for(ResultReady)
    assert ready.update is None and ready.result.size == 0
    assert (ready.result.base_correct, ready.result.own_correct) == (want.base_correct, want.own_correct)
    world.host.commit(order.round)
    world.wait_for(Committed)
    inside = world.device.inside()
    assert inside.head_in_use == 2
    assert not any(inside.residual)


def test_no_epochs_measure_and_train_nothing(world: World) -> None:
    head = make_head(3)
    blob = heads.encode_head(head)
    world.host.send_head(blob)
    world.host.train(make_order(blob, epochs=0))
    ready = world.wait_for(ResultReady)
    want = expected(make_samples(), head, make_order(blob, epochs=1))
    assert ready.update is None
    assert ready.result.base_correct == ready.result.own_correct == want.base_correct
    assert ready.result.held_out == 12


def test_a_refused_update_leaves_the_residual(world: World) -> None:
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    world.wait_for(ResultReady)
    world.host.commit(1, 6)
    world.wait_for(Committed)
    inside = world.device.inside()
    assert not any(inside.residual) and inside.state == IDLE


def test_a_result_waits_for_the_next_session_and_is_not_sent_twice(world: World) -> None:
    head = make_head(3)
    blob = heads.encode_head(head)
    order = make_order(blob)
    world.host.send_head(blob)
    world.host.train(order)
    world.wait_for(ResultReady)
    fresh_host(world)
    info = world.host.info
    assert info is not None and info.state is State.UPLOADING and info.round == 1
    assert info.head == heads.head_hash(blob)
    world.host.train(order)
    assert world.wait_for(ResultReady).update == expected(make_samples(), head, order).blob
    world.host.commit(1)
    world.wait_for(Committed)


def test_training_goes_on_without_a_session(world: World) -> None:
    head = make_head(3)
    blob = heads.encode_head(head)
    order = make_order(blob, epochs=200)
    world.host.send_head(blob)
    world.host.train(order)
    world.wait_for(Training)
    world.up = lambda data: b""
    world.down = lambda data: b""
    world.wait_for(Lost)
    assert world.device.inside().state == UPLOADING
    world.up = world.down = lambda data: data
    world.wait_for(Opened)
    world.host.train(order)
    assert world.wait_for(ResultReady).update == expected(make_samples(), head, order).blob


def test_cancel_stops_training_and_drops_a_result(world: World) -> None:
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.wait_for(HeadDelivered)
    for until, state in ((Training, TRAINING), (ResultReady, UPLOADING)):
        world.max_macs = 1 if until is Training else 2000
        world.host.train(make_order(blob, round=state))
        # A single slice at a time, or the training would be over before the cancel is said.
        while not world.seen(until):
            world.host.poll(world.now)
            world.device.receive(world.host.data_to_send(), world.now_ms)
            _, said = world.device.poll(world.now_ms, max_macs=world.max_macs, polls=20)
            world.host.receive(said, world.now)
            world.events += world.host.events()
            world.now += 0.01
        assert world.device.inside().state == state
        world.host.cancel(state + 100)  # another round: nothing happens to this one
        world.host.poll(world.now)
        world.device.receive(world.host.data_to_send(), world.now_ms)
        assert world.device.inside().state == state
        _, said = world.device.poll(world.now_ms, max_macs=1, polls=3)
        world.host.receive(said, world.now)
        world.host.cancel(state)
        world.host.poll(world.now)
        world.device.receive(world.host.data_to_send(), world.now_ms)
        inside = world.device.inside()
        assert inside.state == IDLE and inside.locks == 0 and not any(inside.residual)
        world.settle(3)
        world.events.clear()


def test_an_order_without_its_head_is_answered_with_error_5(world: World) -> None:
    world.host.train(make_order(heads.encode_head(make_head(3))))
    error = world.wait_for(DeviceError)
    assert error.code == 5


def test_an_order_beyond_the_memory_is_answered_with_the_number(world: World) -> None:
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.host.train(make_order(blob, batch=17))
    error = world.wait_for(DeviceError)
    assert (error.code, error.detail) == (2, trainer.train_bytes(C, 17, 80, 5))


def test_an_order_without_samples_is_refused(runner: Runner) -> None:
    world = World(Device(runner, Config()))
    world.wait_for(Opened)
    blob = heads.encode_head(make_head())
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    assert world.wait_for(DeviceError).code == 7


def test_a_rate_outside_the_trainer_s_range_ends_the_round_with_an_error(world: World) -> None:
    blob = heads.encode_head(make_head())
    world.host.send_head(blob)
    world.host.train(make_order(blob, lr_weights=Multiplier(20000, 39)))
    world.wait_for(Training)
    assert world.wait_for(DeviceError).code == 9
    assert world.device.inside().state == IDLE


def test_a_new_head_may_arrive_while_a_result_waits(world: World) -> None:
    """The host's own link waits with it; another host may not. The old head stays until the round is over."""
    samples, head, other = make_samples(), make_head(3), make_head(4)
    blob, next_blob = heads.encode_head(head), heads.encode_head(other)
    order = make_order(blob)
    world.host.send_head(blob)
    world.host.train(order)
    world.wait_for(ResultReady)
    deliver(world, next_blob)
    assert world.device.inside().state == UPLOADING
    world.host.commit(1)
    world.wait_for(Committed)
    want = expected(samples, head, order)
    assert world.device.inside().residual == residual_bytes(want.residual), "made with the head of its round"
    again = make_order(next_blob, round=2)
    world.host.train(again)
    assert world.wait_for(ResultReady).update == expected(samples, other, again, want.residual).blob


def deliver(world: World, blob: bytes) -> None:
    """A head past the host's own order of things."""
    hash = heads.head_hash(blob)
    world.host._say(Offer(BlobKind.HEAD, hash, len(blob)))
    for at in range(0, len(blob), 90):
        world.host._say(Chunk(int.from_bytes(hash[:2], "big"), at, blob[at : at + 90]))
    world.settle(0.5)


@pytest.mark.parametrize("offered_again", [False, True])
def test_the_old_head_stays_for_who_wants_it_though_a_newer_one_has_arrived(
    world: World, offered_again: bool
) -> None:
    samples, head = make_samples(), make_head(3)
    blob = heads.encode_head(head)
    order = make_order(blob, round=2)
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    world.wait_for(ResultReady)
    deliver(world, heads.encode_head(make_head(4)))
    if offered_again:
        world.host._say(Offer(BlobKind.HEAD, heads.head_hash(blob), len(blob)))
        world.settle(0.5)
        world.host.commit(1, 1)
        world.wait_for(Committed)
        fresh_host(world)
        assert world.host.info is not None and world.host.info.head == heads.head_hash(blob)
    else:
        world.host._say(order)
        world.settle(1)
    world.host.train(order)
    assert world.wait_for(ResultReady).update == expected(samples, head, order).blob
    world.host.commit(2)
    world.wait_for(Committed)
    fresh_host(world)
    assert world.host.info is not None and world.host.info.head == heads.head_hash(blob)


def test_another_round_s_order_drops_a_waiting_result(world: World) -> None:
    samples, head = make_samples(), make_head(3)
    blob = heads.encode_head(head)
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    world.wait_for(ResultReady)
    order = make_order(blob, round=2)
    world.host._say(order)  # past the host's own cancel
    world.settle(1)
    world.host.train(order)
    ready = world.wait_for(ResultReady)
    assert ready.result.round == 2
    assert ready.update == expected(samples, head, order).blob, "and the residual is untouched"


@pytest.mark.parametrize("other", ["seed", "head"])
def test_the_same_number_of_another_run_is_another_round(world: World, other: str) -> None:
    samples, head = make_samples(), make_head(3)
    blob = heads.encode_head(head)
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    world.wait_for(ResultReady)
    if other == "head":
        head = make_head(4)
        blob = heads.encode_head(head)
        world.host.send_head(blob)
        world.wait_for(HeadDelivered)
    order = make_order(blob, seed=4711 if other == "seed" else 78)
    world.host._say(order)  # past the host's own cancel
    world.settle(1)
    world.host.train(order)
    ready = world.wait_for(ResultReady)
    assert ready.update == expected(samples, head, order).blob, "and the residual is untouched"


def test_progress_is_reported_at_most_every_two_seconds(runner: Runner) -> None:
    device = Device(runner, Config())
    make_samples().give(device)
    world = World(device, max_macs=200)
    world.wait_for(Opened)
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    # Done within ten seconds: after as many, the host asks, and the answer comes whenever that is.
    world.host.train(make_order(blob, epochs=30))
    seen: list[tuple[float, Progress]] = []
    while not world.seen(ResultReady):
        world.host.poll(world.now)
        world.device.receive(world.host.data_to_send(), world.now_ms)
        _, said = device.poll(world.now_ms, max_macs=200, polls=10)
        world.host.receive(said, world.now)
        new = world.host.events()
        seen += [(world.now, event) for event in new if isinstance(event, Progress)]
        world.events += new
        world.now += 0.02
    times = [at for at, _ in seen]
    assert len(times) >= 3
    assert min(b - a for a, b in itertools.pairwise(times)) >= 1.99
    progress = [event.status.progress for _, event in seen]
    assert progress == sorted(progress) and 0 < progress[0] < 1000
    losses = [event.status.loss_q12 for _, event in seen]
    assert losses[-1] < losses[0]


def test_new_samples_are_announced_when_idle(world: World) -> None:
    world.settle(6)
    world.events.clear()
    assert world.device.observe_features(make_samples().q[0], 3) == 0
    info = world.wait_for(InfoChanged, seconds=10).info
    assert info.train + info.held_out == 61


def test_samples_wait_while_a_training_holds_the_ring(world: World) -> None:
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.wait_for(HeadDelivered)
    world.host.train(make_order(blob))
    world.host.poll(world.now)
    world.device.receive(world.host.data_to_send(), world.now_ms)
    world.device.poll(world.now_ms, max_macs=1, polls=5)
    assert world.device.inside().state == TRAINING
    assert world.device.observe_features(make_samples().q[0], 3) == -11
    world.wait_for(ResultReady)
    assert world.device.observe_features(make_samples().q[0], 3) == 0


def test_the_head_in_use_answers(world: World) -> None:
    """kf_classify with the file's head, a received and a personal one: as the runtime with the same head."""
    rng = np.random.default_rng(8)
    inputs = rng.integers(-128, 128, (12, 784)).astype(np.int8)
    runtime = evaluate.Runner(MODEL)
    shape = runtime.input_shape

    def check(model: bytes) -> None:
        outputs = evaluate.Runner(model).run(inputs.reshape(-1, *shape[1:])).reshape(len(inputs), C)
        for sample, output in zip(inputs, outputs, strict=True):
            status, label, scores = world.device.classify(sample)
            assert status == 0
            assert scores == output.tobytes()
            assert label == int(output.argmax())

    check(MODEL)
    head = make_head(3)
    blob = heads.encode_head(head)
    world.host.send_head(blob)
    world.wait_for(HeadDelivered)
    check(heads.write_head(MODEL, head))
    order = make_order(blob, flags=PERSONALISE)
    world.host.train(order)
    world.wait_for(ResultReady)
    want = expected(make_samples(), head, order)
    step = heads.step_for(want.W)
    scale = 2.0**-12
    while 127 * scale < 1.25 * want.peak_q12 / 4096:
        scale *= 2
    codes = ((2 * want.W.astype(np.int64) + step) // (2 * step)).astype(np.int8)
    small = ((2 * want.b.astype(np.int64) + step) // (2 * step)).astype(np.int32)
    check(heads.write_head(MODEL, heads.Head(C, F, step, codes, small, scale, 0)))
    world.host.commit(1)
    world.host.send_head(heads.encode_head(make_head(4)))
    world.wait_for(HeadDelivered)
    check(heads.write_head(MODEL, make_head(4)))


def test_weight_scales_are_the_file_s(world: World) -> None:
    """A received head and the same head in the file have one scale, or outputs would differ."""
    inputs = np.random.default_rng(9).integers(-128, 128, (1, 784)).astype(np.int8)
    shape = evaluate.Runner(MODEL).input_shape
    rng = np.random.default_rng(10)
    for step in (1, 2, 3, 127, 255, 4097, 16385, 2**20 - 1, 2**20, *rng.integers(1, 2**20, 12)):
        weights = rng.integers(-127, 128, (C, F)).astype(np.int8)
        bias = rng.integers(-1000, 1000, C).astype(np.int32)
        scale, zero = heads.output_quantization(weights, bias, int(step), SPEC.zp_x, SPEC.calib)
        head = heads.Head(C, F, int(step), weights, bias, scale, zero)
        world.host.send_head(heads.encode_head(head))
        world.wait_for(HeadDelivered)
        want = evaluate.Runner(heads.write_head(MODEL, head)).run(inputs.reshape(-1, *shape[1:]))
        assert world.device.classify(inputs[0])[2] == want.tobytes()


def test_a_round_s_bytes_stay_within_the_budget(world: World) -> None:
    """Without faults, all included: at most 800 bytes up, 900 down (int8, 10 x 32, frames of 128)."""
    up, down = world.bytes_up, world.bytes_down
    blob = heads.encode_head(make_head(3))
    world.host.send_head(blob)
    world.host.train(make_order(blob))
    world.wait_for(ResultReady)
    world.host.commit(1)
    world.wait_for(Committed)
    assert world.bytes_up - up <= 800
    assert world.bytes_down - down <= 900
