"""The C core on tests/vectors/secure.json, which another program made from the protocol's text."""

from __future__ import annotations

import json
import random
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from device_runner import Runner
from link_runner import DAMAGED, READY, feed, seal

from kilofed.link.frames import Direction
from kilofed.link.messages import before_proof
from kilofed.link.secure import next_key

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "vectors" / "secure.json").read_text()
)
SENDERS = {"host": Direction.FROM_HOST, "device": Direction.FROM_DEVICE}


def key_after(case: dict[str, Any], last: int) -> bytes:
    key = bytes.fromhex(case["key"])
    for _ in range(last >> 16):
        key = next_key(key)
    return key


def test_handshakes(runner: Runner) -> None:
    for case in VECTORS["handshakes"]:
        hello, welcome = bytes.fromhex(case["hello"]), before_proof(bytes.fromhex(case["welcome"]))
        key = bytes.fromhex(case["key"])
        answer = runner.ask("K", key, len(hello).to_bytes(2, "little"), hello, welcome)
        assert answer.take(32).hex() == case["from_host"], case["name"]
        assert answer.take(32).hex() == case["from_device"], case["name"]
        assert answer.take(16).hex() == case["proof"], case["name"]
        assert answer.take(32) == next_key(key)


def test_epochs(runner: Runner) -> None:
    for case in VECTORS["epochs"]:
        answer = runner.ask("K", bytes.fromhex(case["key"]), b"\0\0")
        assert answer.rest()[80:].hex() == case["next"]


def test_frames(runner: Runner) -> None:
    for case in VECTORS["frames"]:
        message, wire = bytes.fromhex(case["message"]), bytes.fromhex(case["wire"])
        sender, last = SENDERS[case["from"]], case["number"] - 1
        key = key_after(case, last)
        _, sealed = seal(runner, message, max_frame=1024, sender=sender, number=case["number"], key=key)
        assert sealed == wire, case["name"]
        (got,) = feed(runner, wire, buffer=1024, last=last, sender=sender, key=key)
        assert (got.outcome, got.type, got.number, got.data) == (READY, 2, case["number"], message)
        (not_open,) = feed(runner, wire, buffer=1024, last=last, sender=sender, key=key, open=False)
        assert not_open.outcome == DAMAGED and not_open.data == wire[:-1]


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_streams(runner: Runner, cut: int) -> None:
    for case in VECTORS["streams"]:
        got = feed(
            runner, bytes.fromhex(case["bytes"]), buffer=case["max_frame"], last=case["after"],
            sender=SENDERS[case["from"]], key=key_after(case, case["after"]), cut=cut,
        )  # fmt: skip
        events: list[list[Any]] = []
        for ready, group in groupby(got, lambda g: g.outcome == READY):
            if ready:
                events += [
                    ["frame", g.number, g.data.hex()] if g.type else ["clear", g.data.hex()] for g in group
                ]
                continue
            piece = b""
            for g in group:
                piece += g.data
                if g.outcome != 2:  # the end of a piece
                    events.append(["stray", piece.hex()])
                    piece = b""
        assert events == case["events"], case["name"]


@pytest.mark.parametrize("max_frame", [72, 128, 255, 256, 257, 277, 511, 512, 766, 1023, 1024])
def test_every_length_comes_back(runner: Runner, max_frame: int) -> None:
    rng = random.Random(max_frame)
    key = rng.randbytes(32)
    longest, _ = seal(runner, b"", max_frame=max_frame, key=key)
    assert longest == max_frame - 20 - -(-(max_frame - 1) // 255)
    for size in range(1, longest + 1):
        message, number = rng.randbytes(size), rng.choice((1, 77, 65535))
        _, sealed = seal(runner, message, max_frame=max_frame, sender=1, number=number, key=key)
        assert len(sealed) <= max_frame and 0 not in sealed[:-1]
        (got,) = feed(runner, sealed, buffer=max_frame, last=number - 1, key=key)
        assert (got.outcome, got.number, got.wire, got.data) == (READY, number, len(sealed), message)


def test_no_changed_bit_passes_and_what_came_is_given_back(runner: Runner) -> None:
    key = bytes(range(32))
    _, sealed = seal(runner, bytes(range(30)), sender=1, number=5, key=key)
    for at in range(len(sealed) - 1):
        for bit in range(8):
            broken = bytearray(sealed)
            broken[at] ^= 1 << bit
            got = feed(runner, bytes(broken), last=4, key=key)
            assert all(g.outcome != READY for g in got)
            assert b"".join(g.data for g in got) == bytes(broken).replace(b"\0", b"")
