"""Placed and observed samples: their features are the runtime's, and broken ones do no harm."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from device_runner import Config, Device, Runner, World
from fleet_of_one import MODEL, SPEC, C, F, make_head, make_order

from kilofed.link.events import DeviceError, InfoChanged, Opened, ResultReady
from kilofed.link.messages import State
from kilofed_tools import evaluate, heads

INPUT = 784


def place(inputs: npt.NDArray[np.int8], labels: npt.NDArray[np.int64], **changes: int | bytes) -> bytes:
    """A placed-samples file."""
    body = inputs.astype(np.int8).tobytes() + labels.astype("<u2").tobytes()
    fields: dict[str, int | bytes] = {
        "magic": b"KFS1", "count": len(labels), "input_bytes": inputs.shape[1], "crc": zlib.crc32(body)
    }  # fmt: skip
    fields |= changes
    return struct.pack("<4sIII", *(fields[k] for k in ("magic", "count", "input_bytes", "crc"))) + body  # type: ignore[arg-type]


def make(n: int, seed: int = 2) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (n, INPUT)).astype(np.int8), rng.integers(0, C, n)


def reference(inputs: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    shape = evaluate.Runner(MODEL).input_shape
    return evaluate.features(MODEL, inputs.reshape(-1, *shape[1:])).reshape(len(inputs), F)


def few_slices(world: World) -> None:
    """A moment in which the link gets on and the samples hardly do."""
    world.host.poll(world.now)
    world.device.receive(world.logged("down", world.host.data_to_send()), world.now_ms)
    _, said = world.device.poll(world.now_ms, max_macs=500, polls=2)
    world.host.receive(world.logged("up", said), world.now)
    world.events += world.host.events()
    world.now += 0.01


def test_placed_samples_become_the_runtime_s_features(runner: Runner) -> None:
    inputs, labels = make(23)
    world = World(Device(runner, Config(samples=place(inputs, labels))), max_macs=500)
    assert world.device.status == 0 and world.device.fault == 0
    _, said = world.device.poll(0, max_macs=500, polls=1)
    world.host.receive(world.logged("up", said), 0.0)
    # a few slices only: still collecting when the session opens
    while not world.seen(Opened):
        few_slices(world)
    info = world.wait_for(Opened).info
    assert info.state is State.COLLECTING
    blob = heads.encode_head(make_head())
    world.host.send_head(blob)
    world.host.train(make_order(blob))  # the host waits with it
    info = world.wait_for(InfoChanged).info
    assert info.state is State.IDLE
    assert (info.train, info.held_out) == (19, 4)
    inside = world.device.inside()
    assert inside.ring[: 23 * F] == reference(inputs).tobytes()
    assert world.wait_for(ResultReady).result.train == 19


def test_more_samples_than_slots_keep_the_last(runner: Runner) -> None:
    inputs, labels = make(13)
    world = World(Device(runner, Config(samples=place(inputs, labels), ring_slots=5)))
    world.settle(5)
    info = world.host.info
    assert info is not None and (info.train, info.held_out) == (4, 1)
    rows = reference(inputs)
    assert world.device.inside().ring == np.concatenate([rows[10:13], rows[8:10]]).tobytes()


@pytest.mark.parametrize(
    "changes, code, detail",
    [
        ({"input_bytes": INPUT - 1}, 6, INPUT - 1),
        ({"crc": 5}, 10, 0),
        ({"count": 8}, 10, 0),
        ({"count": 0xFFFFFFFF}, 10, 0),
        ({"count": 0x08000001}, 10, 0),
    ],
)
def test_damaged_samples_are_left_out_and_reported(
    runner: Runner, changes: dict[str, int], code: int, detail: int
) -> None:
    world = World(Device(runner, Config(samples=place(*make(7), **changes))))
    assert world.device.status == 0
    info = world.wait_for(Opened).info
    assert info.state is State.IDLE and info.train == 0
    error = world.wait_for(DeviceError)
    assert (error.code, error.detail) == (code, detail)


def test_no_magic_means_no_samples(runner: Runner) -> None:
    for samples in (b"", b"KFS1", b"\xff" * 100, place(*make(3), magic=b"KFS2"), place(*make(0))):
        world = World(Device(runner, Config(samples=samples)))
        assert world.device.fault == 0
        info = world.wait_for(Opened).info
        assert info.state is State.IDLE and info.train == 0
        world.settle(1)
        assert not world.seen(DeviceError)


def test_a_label_that_no_class_has_is_left_out(runner: Runner) -> None:
    inputs, labels = make(6)
    labels[2] = C
    world = World(Device(runner, Config(samples=place(inputs, labels))))
    world.settle(5)
    inside = world.device.inside()
    assert inside.count == 5
    assert inside.ring[: 5 * F] == reference(np.delete(inputs, 2, axis=0)).tobytes()


def test_observed_samples(runner: Runner) -> None:
    inputs, labels = make(3)
    device = Device(runner, Config())
    for number, (sample, label) in enumerate(zip(inputs, labels, strict=True)):
        assert device.observe(sample, int(label)) == 0
        assert device.observe(sample, int(label)) == -11, "one at a time"
        if number == 1:  # an answer in between finishes it first
            assert device.classify(inputs[0])[0] == 0
        device.poll(0)
    assert device.observe(inputs[0][:-1], 0) == -6
    assert device.observe(inputs[0], C) == -1
    assert device.observe_features(np.zeros(F - 1, np.int8), 0) == -6
    assert device.observe_features(np.zeros(F, np.int8), C) == -1
    assert device.inside().ring[: 3 * F] == reference(inputs).tobytes()


def test_an_order_waits_for_the_sample_under_way(runner: Runner) -> None:
    inputs, labels = make(11)
    device = Device(runner, Config())
    for sample, label in zip(inputs[:10], labels, strict=False):
        assert device.observe(sample, int(label)) == 0
        device.poll(0)
    world = World(device, max_macs=100)
    world.wait_for(Opened)
    blob = heads.encode_head(make_head())
    world.host.send_head(blob)
    world.settle(1)
    assert device.observe(inputs[10], int(labels[10])) == 0
    world.host.train(make_order(blob))
    ready = world.wait_for(ResultReady)
    assert ready.result.train + ready.result.held_out == 11
    assert SPEC.features == F


def test_a_head_that_no_model_runs_with_is_refused_and_costs_no_sample(runner: Runner) -> None:
    """Its hash, sizes and ranges are right, but no multiplier follows from such a scale of logits."""
    inputs, labels = make(23)
    world = World(Device(runner, Config(samples=place(inputs, labels))), max_macs=500)
    while not world.seen(Opened):
        few_slices(world)
    assert world.wait_for(Opened).info.state is State.COLLECTING
    blob = bytearray(heads.encode_head(make_head(3)))
    struct.pack_into("<I", blob, 12, 0x00800000)  # the smallest normal float32
    world.host.send_head(bytes(blob))
    while world.device.state == State.COLLECTING and not world.seen(DeviceError):
        few_slices(world)
    assert world.wait_for(DeviceError).code == 10
    world.settle(10)
    inside = world.device.inside()
    assert (inside.count, inside.head_in_use) == (23, 0)
    assert world.device.observe(inputs[0], int(labels[0])) == 0
