"""Lines that are noisy, bent, cut or repeat themselves: no byte of a run may change."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from tests.faults.liar import Liar, Lie, Said, make_liar
from tests.faults.proxy import Hook, Piece, Proxy
from tests.faults.world import CONFIG, DEADLINES, Guest, World, same_contributions, undisturbed

from kilofed.link.errors import StatusCode
from kilofed.link.messages import Busy, Error, Message, Result
from kilofed.rounds.records import RoundStarted

#: Every kind of message that an ordinary run sends, by its way: one device of the fleet below for each.
UP = ("hello", "info", "accept", "status", "result", "chunk")
DOWN = ("probe", "welcome", "offer", "chunk", "train", "accept", "commit")
SMALL = ("--max-frame", "128")
BOOT = b"\r\nBOOT v2.1: brown-out detected\r\nassertion failed: 0x2000beef\r\n"


def test_boot_text_and_garbage_between_frames_change_nothing_and_are_noted(tmp_path: Path) -> None:
    chance = random.Random(4)

    def noisy(piece: Piece) -> bytes:
        noise = BOOT if chance.random() < 0.2 else chance.randbytes(chance.randrange(40))
        # Without a delimiter of its own the noise takes the frame with it; the link then says it again.
        return noise + (b"\0" if chance.random() < 0.97 else b"") + piece.data

    config = replace(CONFIG, deadlines=replace(DEADLINES, head=15.0, round=30.0, rejoin=10.0))
    world = World(tmp_path, config)
    for victim in world.natives():
        victim.proxy.hook = noisy
    outcome = world.run()
    outcome.holds()
    assert not outcome.dropped()
    assert outcome.exported == undisturbed().exported
    outcome.note("brown-out detected")


class FlipOne:
    """Flips one bit in the first message of a kind that passes, and lets the rest alone."""

    def __init__(self, kind: str, up: bool, chance: random.Random) -> None:
        self.kind, self.up, self._chance = kind, up, chance
        self.flipped = ""

    def __call__(self, piece: Piece) -> bytes:
        if self.flipped or (piece.kind, piece.up) != (self.kind, self.up):
            return piece.data
        bent = bytearray(piece.data)
        position, bit = self._chance.randrange(len(bent)), self._chance.randrange(8)
        bent[position] ^= 1 << bit
        self.flipped = f"bit {bit} of byte {position} of {len(bent)}"
        return bytes(bent)


@pytest.mark.parametrize("clear", [False, True], ids=["keyed", "clear"])
@pytest.mark.parametrize("seed", range(3))
def test_one_flipped_bit_in_every_kind_of_message(tmp_path: Path, seed: int, clear: bool) -> None:
    """Thirteen devices in one run, each with its own kind bent; position and bit differ by seed.

    With a key the tag finds it, in the clear the CRC and the checks of each message.
    """
    chance = random.Random(seed)
    wanted = [(kind, True) for kind in UP] + [(kind, False) for kind in DOWN]
    names = tuple(f"{'up' if up else 'down'}-{kind}" for kind, up in wanted)
    config = replace(CONFIG, rounds=2, deadlines=replace(DEADLINES, head=10.0, round=20.0))
    world = World(tmp_path, config, samples=30, clear=clear)
    hooks = []
    for victim, (kind, up) in zip(world.natives(names, *SMALL), wanted, strict=True):
        hooks.append(FlipOne(kind, up, chance))
        victim.proxy.hook = hooks[-1]
    outcome = world.run()
    outcome.holds()
    for name, hook in zip(names, hooks, strict=True):
        assert hook.flipped, f"no {name} passed"
    assert not outcome.dropped(), {name: hook.flipped for name, hook in zip(names, hooks, strict=True)}
    assert outcome.exported == undisturbed(config, names, *SMALL, samples=30).exported
    assert any("its session is in the clear" in note for note in outcome.notes) is clear


@pytest.mark.parametrize("clear", [False, True], ids=["keyed", "clear"])
def test_one_flipped_bit_in_every_kind_that_an_ordinary_run_does_not_send(
    tmp_path: Path, clear: bool
) -> None:
    """Pings while all wait for one that never ends, its cancel, a refusal, a busy, an error, and the bye."""
    chance = random.Random(7)
    hooks = {
        name: FlipOne(name, name in ("busy", "error"), chance)
        for name in ("ping", "bye", "cancel", "refuse", "busy", "error")
    }
    said: set[str] = set()

    def once(message: Message) -> Lie:
        def lie(outgoing: Message) -> Said:
            name = type(message).__name__
            if not isinstance(outgoing, Result) or name in said:
                return [outgoing]
            said.add(name)
            return [message, outgoing]

        return lie

    def guest(name: str, number: int, lie: Lie) -> Liar:
        liar = make_liar(id=bytes([number]) * 8)
        if clear:
            liar.lock(None)
        liar.endpoint.lie = lie
        lines[name] = liar
        return liar

    def by_way_of(name: str) -> Guest:
        async def visit(port: int) -> None:
            async with Proxy(hooks[name], key=lines[name].key) as proxy:
                proxy.target = ("127.0.0.1", port)
                await lines[name].visit(proxy.port)

        return visit

    lines: dict[str, Liar] = {}
    guest("cancel", 0xC0, lambda message: [] if isinstance(message, Result) else [message])
    guest("busy", 0xC1, once(Busy(50)))
    guest("error", 0xC2, once(Error(StatusCode.MEMORY)))
    known = [liar.device for liar in lines.values()]
    stranger = guest("refuse", 0xC3, lambda message: [message])
    config = replace(CONFIG, rounds=2, deadlines=replace(DEADLINES, round=3.5))
    world = World(tmp_path, config, guests_known=known, clear=clear)
    for victim, name in zip(world.natives(("anna", "bert")), ("ping", "bye"), strict=True):
        victim.proxy.hook = hooks[name]
    outcome = world.run(guests=[by_way_of(name) for name in lines], expected=5)
    outcome.holds()
    assert [name for name, hook in hooks.items() if not hook.flipped] == []
    assert outcome.dropped() == {(number, "liar-c0"): "had not answered after 4 s" for number in (1, 2)}
    assert not stranger.orders
    outcome.note("turned away", stranger.id.hex())
    assert any("its session is in the clear" in note for note in outcome.notes) is clear


def test_every_frame_said_twice_is_taken_once(tmp_path: Path) -> None:
    """So is every update."""
    world = World(tmp_path)
    for victim in world.natives():
        victim.proxy.hook = lambda piece: piece.data * 2
    outcome = world.run()
    outcome.holds()
    assert not outcome.dropped()
    assert outcome.exported == undisturbed().exported


def test_lost_frames_are_said_again(tmp_path: Path) -> None:
    """One in ten, and the first order to train of each device, so that something is lost for certain."""
    config = replace(CONFIG, rounds=1, deadlines=replace(DEADLINES, head=15.0, round=30.0, rejoin=10.0))
    world = World(tmp_path, config)

    def lossy(index: int) -> Hook:
        chance, heard = random.Random(index), False

        def hook(piece: Piece) -> bytes:
            nonlocal heard
            first, heard = piece.kind == "train" and not heard, heard or piece.kind == "train"
            return b"" if first or chance.random() < 0.1 else piece.data

        return hook

    for index, victim in enumerate(world.natives()):
        victim.proxy.hook = lossy(index)
    outcome = world.run()
    outcome.holds()
    assert not outcome.dropped()
    assert outcome.exported == undisturbed(config).exported
    assert all(d.retries > 0 for r in outcome.rounds for d in r.devices)


def test_a_cable_pulled_at_random_moments_changes_no_byte(tmp_path: Path) -> None:
    """The devices live on: what they have of a head or of a training is gone on with."""
    chance = random.Random(11)
    config = replace(CONFIG, rounds=8, deadlines=replace(DEADLINES, rejoin=10.0))
    world = World(tmp_path, config)
    pulled = 0

    def loose(index: int) -> Hook:
        def hook(piece: Piece) -> bytes:
            nonlocal pulled
            if pulled < 10 and chance.random() < 0.04:
                pulled += 1
                world.victims[index].proxy.cut_soon()
                return b""
            return piece.data

        return hook

    for index, victim in enumerate(world.natives()):
        victim.proxy.hook = loose(index)
    outcome = world.run()
    outcome.holds()
    assert pulled >= 5
    assert not outcome.dropped()
    assert outcome.exported == undisturbed(config).exported


def test_a_line_that_goes_dead_in_one_way_costs_its_device_only(tmp_path: Path) -> None:
    """The host still hears the device, and the device hears nothing: as with a broken wire."""
    world = World(tmp_path)
    victim = world.natives()[2]

    def broken(piece: Piece) -> bytes:
        begun = any(isinstance(event, RoundStarted) and event.number == 2 for event in world.events)
        return b"" if begun and not piece.up else piece.data

    victim.proxy.hook = broken
    outcome = world.run()
    outcome.holds()
    assert [name for _, name in outcome.dropped()][:1] == ["carl"]
    assert {name for _, name in outcome.dropped()} == {"carl"}
    same_contributions(outcome, undisturbed(), ["anna", "bert"], [1, 2])
