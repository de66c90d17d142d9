"""The key of a board: replaced over its programmer, and what its line says with and without the right one."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from board_line import DIGITS, Line

from kilofed.boards import Emulator, Identity, build, catalogue
from kilofed.cli import run as kilofed
from kilofed.fleet import NO_KEY, Fleet, new_identity
from kilofed.link.events import HelloSeen, Opened, Unproven
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import FLAG_NO_ENTROPY, Reason


def host(*keys: bytes, insecure: bool = False) -> HostEndpoint:
    return HostEndpoint(rng=secrets.token_bytes, keys=lambda _: keys, insecure=insecure)


@pytest.mark.parametrize(("name", "entropy"), [("microbit", True), ("mps2-an386", False)])
def test_a_key_is_replaced_over_the_programmer_and_the_old_one_opens_nothing(
    tmp_path: Path, name: str, entropy: bool
) -> None:
    register = tmp_path / "fleet.sqlite"
    board = catalogue.load(name)
    device = new_identity("kitchen", name)
    with Fleet(register) as fleet, Emulator(board, tmp_path / "board") as emulated:
        fleet.add(device)
        emulated.flash(build(board, DIGITS), Identity(device.id, device.key, device.name))
        line = Line.to(emulated)
        line.endpoint = host(device.key)
        opened = line.event(Opened)
        assert opened.hello.encrypted and line.endpoint.key == device.key
        assert bool(opened.hello.flags & FLAG_NO_ENTROPY) is not entropy
        where = ["--target", emulated.gdb, "--fleet", str(register)]
        assert kilofed(["fleet", "rotate", "kitchen", *where]) == 0
        new = fleet.find("kitchen").next_key
        assert new is not None
        line.reconnect()
        line.endpoint = host(device.key)
        line.event(Unproven)
        line.reconnect()
        line.endpoint = host(new, device.key)
        line.event(Opened)
        assert line.endpoint.key == new
        assert emulated.stack_used() < board.stack_bytes
        line.close()


def test_a_board_without_a_key_is_taken_with_insecure_only(tmp_path: Path) -> None:
    board = catalogue.load("mps2-an386")
    with Emulator(board, tmp_path / "board") as emulated:
        emulated.flash(build(board, DIGITS), Identity(b"bare one", NO_KEY, "bench"))
        line = Line.to(emulated)
        line.endpoint = host()
        seen = line.event(HelloSeen)
        assert not seen.hello.encrypted and seen.refused == Reason.INSECURE
        line.reconnect()
        line.endpoint = host(insecure=True)
        assert not line.event(Opened).hello.encrypted and line.endpoint.key is None
        line.close()
