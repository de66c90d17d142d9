"""The C core on tests/vectors/link.json, which another program made from the protocol's text."""

from __future__ import annotations

import hashlib
import json
import struct
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from device_runner import Runner
from link_runner import READY, decode, feed, seal

from kilofed.link.frames import Direction

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "vectors" / "link.json").read_text()
)
SENDERS = {"host": Direction.FROM_HOST, "device": Direction.FROM_DEVICE}


def test_messages(runner: Runner) -> None:
    batch = [bytes.fromhex(case["cbor"]) for case in VECTORS["messages"]]
    for data, (status, type, again) in zip(batch, decode(runner, batch), strict=True):
        assert (status, again) == (0, data)
        assert type == data[1]


def test_accepted(runner: Runner) -> None:
    known = {case["name"]: bytes.fromhex(case["cbor"]) for case in VECTORS["messages"]}
    for case in VECTORS["accepted"]:
        ((status, _, again),) = decode(runner, [bytes.fromhex(case["cbor"])])
        assert (status, again) == (0, known[case["same_as"]]), case["name"]


def test_refused(runner: Runner) -> None:
    for case in VECTORS["refused"]:
        ((status, _, _),) = decode(runner, [bytes.fromhex(case["cbor"])])
        assert status == -case["status"], case["name"]


def test_frames(runner: Runner) -> None:
    for case in VECTORS["frames"]:
        message, wire = bytes.fromhex(case["message"]), bytes.fromhex(case["wire"])
        sender = SENDERS[case["from"]]
        _, sealed = seal(
            runner, message, max_frame=1024, type=case["type"], sender=sender,
            session=case["session"], number=case["number"],
        )  # fmt: skip
        assert sealed == wire, case["name"]
        last = max(case["number"] - 1, 0)
        (got,) = feed(runner, wire, buffer=1024, last=last, sender=sender, session=case["session"])
        assert (got.outcome, got.type, got.number, got.data) == (READY, case["type"], case["number"], message)


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_streams(runner: Runner, cut: int) -> None:
    for case in VECTORS["streams"]:
        got = feed(
            runner, bytes.fromhex(case["bytes"]), buffer=case["max_frame"], last=case["after"],
            sender=SENDERS[case["from"]], session=case["session"], cut=cut,
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


def test_session_ids_are_those_the_session_tests_use() -> None:
    """The formula by which tests/firmware/device opens sessions with the C core."""
    for case in VECTORS["session_ids"]:
        parts = [bytes.fromhex(case[name]) for name in ("host_nonce", "device_nonce", "device_id")]
        digest = hashlib.blake2b(b"kilofed session 1" + b"".join(parts), digest_size=8).digest()
        assert struct.unpack("<I", digest[:4])[0] == case["id"]
