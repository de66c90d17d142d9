"""Damaged frames, at both languages' decoders: none may be delivered.

python -m tests.chaos.mutants [--frames 10000000] [--python-frames 1000000] [--seed 1]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from pathlib import Path

from tests.chaos.rounds import SANITIZE, build

from kilofed.link.errors import FrameError
from kilofed.link.frames import Direction, Splitter, parse_frame
from kilofed.link.secure import EncryptedSession, Keys

HERE = Path(__file__).resolve().parent
LONGEST = 128


def c_mutants(frames: int, seed: int, *, sanitize: bool) -> tuple[int, int]:
    """(refused, had come whole after all: what was damaged lay beside the frame). AssertionError when one was
    delivered damaged.
    """
    name, flags = ("mutants-sanitized", SANITIZE) if sanitize else ("mutants", ["-O2"])
    program = build(name, [HERE / "mutants.c"], flags=list(flags))
    done = subprocess.run([program, str(frames), str(seed)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    refused, whole = map(int, done.stdout.split())
    assert refused + whole == frames
    return refused, whole


def python_mutants(frames: int, seed: int) -> tuple[int, int]:
    """The same at `kilofed.link`'s, with damage of the same kinds."""
    chance = random.Random(seed)
    keys = Keys(chance.randbytes(32), chance.randbytes(32), b"")
    sealing = EncryptedSession(keys, role=Direction.FROM_HOST, max_frame=LONGEST)
    opening = EncryptedSession(keys, role=Direction.FROM_DEVICE, max_frame=LONGEST)
    refused = 0
    other = b"\x01\0"
    for number in range(frames):
        message = chance.randbytes(chance.randrange(1, LONGEST - 21))
        if chance.random() < 0.25:
            message = bytes(byte & 1 for byte in message)
        wire = sealing.seal(message)
        line = wire
        while line == wire:
            for _ in range(chance.randrange(1, 5)):
                line = _damage(line, other, chance)
        delivered = list(_delivered(line, opening))
        assert delivered in ([], [message]), f"frame {number} was delivered damaged"
        if not delivered:
            assert list(_delivered(wire, opening)) == [message], f"frame {number} is refused undamaged"
        refused += not delivered
        other = wire
    return refused, frames - refused


def _damage(line: bytes, other: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(line))
    kind = chance.randrange(7)
    if kind == 0:
        return line[:at] + bytes((chance.randrange(256),)) + line[at + 1 :]
    if kind == 1:
        return line[:at] + line[at + 1 :] if len(line) > 1 else line
    if kind == 2:
        return line[:at] + bytes((chance.randrange(256),)) + line[at:]
    if kind == 3:
        return line[:at] + other[at:] if at < len(other) else line
    if kind == 4:
        return line[:at] + b"\0"
    return line[:at] + bytes((line[at] ^ 1 << chance.randrange(8),)) + line[at + 1 :]


def _delivered(line: bytes, session: EncryptedSession) -> list[bytes]:
    out = []
    for piece, whole in Splitter(LONGEST).feed(line):
        if not whole:
            continue
        try:
            message = session.open(parse_frame(piece))
        except FrameError:
            continue
        if message is not None:
            out.append(message)
    return out


def main() -> int:
    """Exit status 0 when nothing damaged was delivered."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants", description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000_000, help="at the C decoder")
    parser.add_argument("--python-frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        for name, found in (
            ("C", c_mutants(options.frames, options.seed, sanitize=False)),
            ("Python", python_mutants(options.python_frames, options.seed)),
        ):
            print(f"{name}: {found[0]} refused, {found[1]} whole beside the damage, none damaged", flush=True)
    except AssertionError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
