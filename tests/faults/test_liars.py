"""Devices that lie, say nonsense, say nothing, or say they are somebody else: each among two honest ones.

What they say goes through the link's own device endpoint over TCP, bent on its way out (tests.faults.liar).
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.faults.liar import Liar, Lie, honest, make_liar
from tests.faults.world import CONFIG, DEADLINES, Outcome, World, same_contributions, undisturbed
from tests.memory_fleet import Fault

from kilofed.link.frames import Direction, cobs_decode, cobs_encode, encode_frame
from kilofed.link.messages import (
    Busy,
    Chunk,
    Hello,
    Message,
    Result,
    State,
    Status,
    encode,
)
from kilofed.rounds.config import RunConfig
from kilofed.rounds.records import RoundStarted
from kilofed_tools.updates import DELTA_B_MAX, DELTA_W_MAX

HONEST = ("anna", "bert")
QUICK = replace(CONFIG, rounds=2, deadlines=replace(DEADLINES, head=2.0, round=3.0))
C, F = 10, 32


def run_with(folder: Path, *liars: Liar, config: RunConfig = QUICK, expected: int | None = None) -> Outcome:
    """A run of two honest processes and these, all registered."""
    world = World(folder, config, guests_known=[liar.device for liar in liars])
    world.natives(HONEST)
    return world.run(
        guests=[liar.visit for liar in liars],
        expected=len(HONEST) + len(liars) if expected is None else expected,
    )


def int8_update(
    q: int, step: int, q_b: int = 0, step_b: int = 1, *, shape: tuple[int, int] = (C, F)
) -> bytes:
    """An int8 update blob in which all integers are alike."""
    head = struct.pack("<BBBBHHII", 1, 2, 1, 0, *shape, step, step_b)
    return head + struct.pack("b", q) * (C * F) + struct.pack("b", q_b) * C


def in_results(change: Callable[[Result], Message | bytes]) -> Lie:
    return lambda message: [change(message)] if isinstance(message, Result) else [message]


def twice(message: Message) -> list[Message]:
    return [message, message]


def stale(result: Result) -> Result:
    """The figures and the update of the round before."""
    return replace(result, round=(result.round - 1) % 65536)


def a_million(result: Result) -> bytes:
    """More than the field holds: CBOR has no such limit."""
    right = encode(replace(result, train=0x1234))
    assert right.count(b"\x19\x12\x34") == 1
    return right.replace(b"\x19\x12\x34", b"\x1a" + (1_000_000).to_bytes(4, "big"))


def changes_its_mind(message: Message) -> list[Message]:
    """Announces another update in the middle of one."""
    if isinstance(message, Chunk):
        return [message, Result(1, b"otherone", 346, 32, 8, 0, 0, 0, 0)]
    return [message]


def other_bytes(message: Message) -> list[Message]:
    """Chunks of another blob than was announced, in sound frames."""
    return [replace(message, data=message.data[::-1])] if isinstance(message, Chunk) else [message]


def for_ever_busy(message: Message) -> list[Message]:
    return [Busy(60_000)] if isinstance(message, Status | Result) else [message]


def for_ever_training(message: Message) -> list[Message]:
    if isinstance(message, Status):
        return [replace(message, state=State.TRAINING)] if message.state is State.UPLOADING else [message]
    return [] if isinstance(message, Result) else [message]


def never_done(message: Message) -> list[Message]:
    """Takes the head and never says so."""
    return [] if type(message).__name__ == "Accept" else [message]


@dataclass(frozen=True)
class Case:
    """A lie, and the words in the reason it is dropped for; counted: it is not. note: words in the log."""

    lie: Lie = honest
    fields: dict[str, object] = field(default_factory=dict)
    fault: Fault | None = None
    reason: str = ""
    note: tuple[str, ...] = ()


LARGEST = DELTA_W_MAX // 127
CASES = {
    "the largest change": Case(fault=Fault(update=int8_update(127, LARGEST, -127, DELTA_B_MAX // 127))),
    "the largest change the other way": Case(fault=Fault(update=int8_update(-127, LARGEST, 127, 1 << 20))),
    "beyond the largest change": Case(
        fault=Fault(update=int8_update(127, LARGEST + 1)), reason="larger than any training can make"
    ),
    "the largest step": Case(
        fault=Fault(update=int8_update(1, 0xFFFFFFFF)), reason="larger than any training can make"
    ),
    "an integer int8 training never sends": Case(
        fault=Fault(update=int8_update(-128, 1)), reason="integers outside the range"
    ),
    "a step of zero": Case(fault=Fault(update=int8_update(1, 0)), reason="steps 0 and 1"),
    "another shape": Case(
        fault=Fault(update=int8_update(1, 1, shape=(F, C))),
        reason="a head of 32 x 10, the model's is 10 x 32",
    ),
    "a blob too short": Case(fault=Fault(update=bytes(100)), reason="an update of 100 bytes"),
    "a blob too long": Case(fault=Fault(update=bytes(5000)), reason="an update of 5000 bytes"),
    "another codec": Case(fault=Fault(codec=0), reason="an update of 1336 bytes"),
    "no update": Case(fault=Fault(no_update=True), reason="sent no update"),
    "no samples": Case(fault=Fault(train=0), reason="trained on no samples"),
    "a ring of nothing": Case(fields={"capacity": 0}, reason="ring"),
    "more samples than its ring": Case(
        fault=Fault(train=65_535), note=("claims 65535 samples", "clamped to its ring of 1000")
    ),
    "a million samples": Case(in_results(a_million), reason="malformed", note=("malformed",)),
    "more right answers than questions": Case(
        fault=Fault(own_correct=9), reason="claims 9 right answers of 8"
    ),
    "a stale round": Case(in_results(stale), reason="had not answered after 3 s"),
    "everything twice": Case(twice),
    "another update in the middle of one": Case(changes_its_mind),
    "an update that is not what its hash says": Case(other_bytes, reason="an update damaged 3 times"),
    "busy for ever": Case(for_ever_busy, reason="did not take the head|had not answered|lost its session"),
    "training for ever": Case(for_ever_training, reason="had not answered after 3 s"),
    "a head never taken": Case(never_done, reason="did not take the head within 2 s|lost its session"),
    "an error instead": Case(fault=Fault(error=2), reason="too little memory on the device"),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_device_that_lies_costs_its_own_contribution(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    liar = make_liar(case.lie, fault=case.fault)
    if case.fields:
        liar.hold(**case.fields)
    outcome = run_with(tmp_path, liar)
    outcome.holds()
    same_contributions(outcome, undisturbed(QUICK, HONEST), HONEST, [1])
    assert {who for _, who in outcome.dropped()} <= {"liar"}
    if case.reason:
        reason = outcome.dropped()[1, "liar"]
        assert any(part in reason for part in case.reason.split("|")), reason
        whole = undisturbed(QUICK, HONEST)
        if len(outcome.dropped()) == 2:
            assert outcome.exported == whole.exported, "as if it had not been there"
    else:
        assert not outcome.dropped()
    if case.note:
        outcome.note(*case.note)


# ---- who is who ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["anna", "bert"])
def test_a_device_that_claims_the_id_of_another_is_turned_away(tmp_path: Path, name: str) -> None:
    """Who came first keeps the name: here the device itself, in mid-run."""
    world = World(tmp_path, replace(QUICK, rounds=30))
    victims = world.natives(HONEST)
    real = next(victim for victim in victims if victim.name == name)
    impostor = make_liar(id=real.device.id, fault=Fault(update=int8_update(127, LARGEST)))

    async def come_later(port: int) -> None:
        while not any(isinstance(event, RoundStarted) for event in world.events):
            await asyncio.sleep(0.005)
        await impostor.visit(port)

    outcome = world.run(guests=[come_later], expected=2)
    outcome.holds()
    assert not outcome.dropped()
    assert not impostor.orders, "it was asked for nothing"
    assert outcome.exported == undisturbed(replace(QUICK, rounds=30), HONEST).exported
    outcome.note(real.device.id.hex(), "turned away", "another line")


def test_a_device_that_connects_twice_takes_part_once(tmp_path: Path) -> None:
    config = replace(QUICK, rounds=40)
    first = make_liar()
    second = make_liar()
    outcome = run_with(tmp_path, first, second, config=config, expected=3)
    outcome.holds()
    assert not outcome.dropped()
    assert all([d.name for d in r.taken] == ["anna", "bert", "liar"] for r in outcome.rounds)
    assert not (first.orders and second.orders), "one of the two was asked"
    outcome.note("turned away", "another line")


def test_a_device_nobody_registered_is_turned_away(tmp_path: Path) -> None:
    stranger = make_liar()
    world = World(tmp_path, QUICK)
    world.natives(HONEST)
    outcome = world.run(guests=[stranger.visit], expected=2)
    outcome.holds()
    assert not stranger.orders
    assert outcome.exported == undisturbed(QUICK, HONEST).exported


@pytest.mark.parametrize("firmware", [0x000001, 0x090909])
def test_firmware_of_another_version_takes_part_and_is_listed(tmp_path: Path, firmware: int) -> None:
    liar = make_liar()
    liar.endpoint.greet = lambda hello: replace(hello, firmware=firmware)
    outcome = run_with(tmp_path, liar)
    outcome.holds()
    assert not outcome.dropped()
    shown = {row["name"]: row["firmware"] for row in outcome.report["device_table"]}
    assert shown["liar"] == f"{firmware >> 16}.{firmware >> 8 & 255}.{firmware & 255}"
    assert shown["anna"] != shown["liar"]


def test_a_device_of_an_older_protocol_is_turned_away_and_named(tmp_path: Path) -> None:
    config = replace(QUICK, deadlines=replace(QUICK.deadlines, gather=1.0))
    liar = make_liar()
    liar.endpoint.greet = lambda hello: replace(hello, version=0)
    outcome = run_with(tmp_path, liar, config=config)
    outcome.holds()
    assert not liar.orders
    assert outcome.exported == undisturbed(QUICK, HONEST).exported
    outcome.note("turned away", liar.id.hex(), "protocol version 0")


async def say(port: int, data: bytes, every: float = 0.2) -> None:
    """A peer that says the same again and again, and listens to nothing."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while not reader.at_eof():
                    writer.write(data)
                    await writer.drain()
                    await asyncio.wait([asyncio.ensure_future(reader.read(4096))], timeout=every)
            finally:
                writer.close()
        await asyncio.sleep(0.05)


def frame_of_version(version: int) -> bytes:
    """The hello of a device whose frames carry this version."""
    hello = Hello(version, b"futurist", b"nonce  7", "nextboard", 1 << 16, 256, 512)
    ours = cobs_decode(encode_frame(encode(hello), direction=Direction.FROM_DEVICE).strip(b"\0"))
    covered = bytes((version << 4 | ours[0] & 15,)) + ours[1:-4]
    check = zlib.crc32(covered, zlib.crc32(bytes(8)))
    return b"\0" + cobs_encode(covered + check.to_bytes(4, "little")) + b"\0"


@pytest.mark.parametrize("version", [0, 2, 15])
def test_frames_of_another_protocol_are_named(tmp_path: Path, version: int) -> None:
    config = replace(QUICK, deadlines=replace(QUICK.deadlines, gather=1.0))
    world = World(tmp_path, config)
    world.natives(HONEST)
    outcome = world.run(guests=[lambda port: say(port, frame_of_version(version))], expected=3)
    outcome.holds()
    assert outcome.exported == undisturbed(QUICK, HONEST).exported
    outcome.note(f"protocol version {version}", "speaks 1")
    outcome.note("1 of 3 devices did not come")


def test_a_line_on_which_nobody_speaks_is_named(tmp_path: Path) -> None:
    config = replace(QUICK, deadlines=replace(QUICK.deadlines, gather=1.0))
    world = World(tmp_path, config)
    world.natives(HONEST)
    ports: list[int] = []

    async def mute(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ports.append(writer.get_extra_info("sockname")[1])
        try:
            while await reader.read(4096):
                pass
        finally:
            writer.close()

    outcome = world.run(guests=[mute], expected=3)
    outcome.holds()
    assert outcome.exported == undisturbed(QUICK, HONEST).exported
    outcome.note("1 of 3 devices did not come")
    outcome.note(f"127.0.0.1:{ports[0]}", "no device has answered")


def test_a_flood_of_garbage_fills_no_log(tmp_path: Path) -> None:
    config = replace(QUICK, rounds=30)
    world = World(tmp_path, config)
    world.natives(HONEST)
    noise = bytes(range(1, 256)) * 40 + b"\0"
    outcome = world.run(guests=[lambda port: say(port, noise, every=0.0)] * 3, expected=2)
    outcome.holds()
    assert outcome.exported == undisturbed(config, HONEST).exported
    assert len(outcome.notes) < 100


def test_one_that_reconnects_again_and_again_fills_no_log(tmp_path: Path) -> None:
    config = replace(QUICK, rounds=30)
    world = World(tmp_path, config)
    world.natives(HONEST)

    async def storm(port: int) -> None:
        for _ in range(100):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\n\0" * 5)
                await writer.drain()
                writer.close()

    outcome = world.run(guests=[storm] * 3, expected=2)
    outcome.holds()
    assert outcome.exported == undisturbed(config, HONEST).exported
    assert len(outcome.notes) < 150
    outcome.note("GET / HTTP/1.1")
