"""Memory: exactly what is said is enough, and what is too little is refused with the number."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import pytest
from device_runner import ROOT, Config, Device, Runner, World
from fleet_of_one import MODEL, C, F, make_head, make_order

from kilofed.link.events import DeviceError, Opened
from kilofed.link.messages import State
from kilofed_tools import heads

FAILED = 4


def test_what_is_said_is_enough_and_a_byte_less_is_not(runner: Runner) -> None:
    exact = Device(runner, Config())
    assert exact.status == 0 and exact.needed_bytes == exact.exact_bytes == exact.parts["total"]
    assert sum(size for name, size in exact.parts.items() if name != "total") == exact.parts["total"]
    short = Device(runner, Config(memory=exact.exact_bytes - 4))
    assert short.status == -2
    assert short.needed_bytes == short.fault_detail == exact.exact_bytes


def test_the_16_kb_board_s_budget(runner: Runner) -> None:
    """Digits, 80 samples, frames of 128 bytes: struct (976 bytes here, 788 on a 32-bit core) and block."""
    device = Device(runner, Config())
    assert device.parts["ring"] == 80 * 33
    assert device.exact_bytes + 788 <= 9_800


@pytest.mark.parametrize("memory", [264, 300, 4000])
def test_too_little_memory_is_told_to_the_host(runner: Runner, memory: int) -> None:
    need = Device(runner, Config()).exact_bytes
    world = World(Device(runner, Config(memory=memory)))
    info = world.wait_for(Opened).info
    assert info.state is State.FAILED
    error = world.wait_for(DeviceError)
    assert (error.code, error.detail) == (2, need)
    blob = heads.encode_head(make_head())
    world.host.send_head(blob)
    error = world.wait_for(DeviceError)
    assert (error.code, error.detail) == (2, need)
    world.host.train(make_order(blob))
    error = world.wait_for(DeviceError)
    assert (error.code, error.detail) == (2, need)
    world.settle(10)  # and the session lives on
    assert world.host.info is not None


def test_memory_that_does_not_hold_two_frames_is_refused(runner: Runner) -> None:
    assert Device(runner, Config(memory=256)).status == -1


@pytest.mark.parametrize(
    "changes",
    [
        {"max_frame": 63}, {"max_frame": 1025}, {"window": 63}, {"ring_slots": 0}, {"ring_slots": 81},
        {"held_out_every": 1}, {"max_batch": 0}, {"max_batch": 257}, {"board": ""}, {"board": "b" * 25},
    ],
)  # fmt: skip
def test_a_config_outside_its_ranges_is_refused(runner: Runner, changes: dict[str, object]) -> None:
    assert Device(runner, replace(Config(memory=20000), **changes)).status == -1  # type: ignore[arg-type]


def test_a_broken_model_is_told_to_the_host(runner: Runner) -> None:
    wrong_name = MODEL[:4] + b"TFL9" + MODEL[8:]
    for model, code in ((b"\0", 3), (b"\0" * 4000, 3), (MODEL[:5000], 3), (wrong_name, 3)):
        device = Device(runner, Config(model=model, memory=4000))
        assert device.status == -code
        world = World(device)
        opened = world.wait_for(Opened)
        assert opened.info.state is State.FAILED
        assert opened.info.model == heads.file_hash(model)
        error = world.wait_for(DeviceError)
        assert error.code == code and error.detail >> 16 != 0


@pytest.mark.parametrize("slots, batch, held", [(1, 1, 0), (7, 3, 7), (300, 256, 5), (1000, 16, 0)])
def test_parts_by_hand(runner: Runner, slots: int, batch: int, held: int) -> None:
    device = Device(runner, Config(ring_slots=slots, max_batch=batch, held_out_every=held, max_frame=200))
    assert device.status == 0

    def up(n: int) -> int:
        return (n + 3) & ~3

    train = slots - (slots // held if held else 0)
    padded = (batch + 3) & ~3
    logits, errors, places = max(32 * C, 16 * padded), 2 * padded * C, 4 * batch
    work = up(logits + errors + places + train * (1 if slots <= 256 else 2))
    assert device.parts == {
        "receive": 200, "send": 204, "ring": up(slots * (F + 1)), "master": 4 * C * (F + 1),
        "work": max(work, up(16 + C * F + C)), "residual": 2 * C * F + 4 * C,
        "base": 376, "incoming": 376, "personal": 376, "arena": device.parts["arena"],
        "total": device.exact_bytes,
    }  # fmt: skip


def test_settings_pages(runner: Runner) -> None:
    name = "héllo".encode().ljust(12, b"\0")
    body = b"KFI1" + struct.pack("<HH", 1, 64) + b"\x01" * 8 + bytes(range(32)) + name
    page = body + struct.pack("<I", zlib.crc32(body))
    answer = runner.ask("S", page)
    assert answer.number() == 0
    assert answer.rest() == page[8:60]
    for at in range(64):
        bad = bytearray(page)
        bad[at] ^= 0x10
        answer = runner.ask("S", bytes(bad))
        assert answer.number() == -12
        assert not any(answer.rest())
    assert runner.ask("S", b"\xff" * 64).number() == -12


@pytest.mark.parametrize(
    "name, code, detail",
    [("float_ends", 5, 0), ("uint8_ends", 4, 0xFFFF), ("binary_float_ends", 5, 0)],
)
def test_a_model_whose_ends_are_not_int8_is_refused_by_the_device(
    runner: Runner, name: str, code: int, detail: int
) -> None:
    """A sound file that was not brought into form: what a device is given and gives is int8."""
    model = (ROOT / "tests" / "data" / "foreign" / f"{name}.tflite").read_bytes()
    device = Device(runner, Config(model=model))
    assert (device.status, device.fault, device.needed_bytes) == (-code, -code, 0)
    error = World(device).wait_for(DeviceError)
    assert (error.code, error.detail & 0xFFFF) == (code, detail)
