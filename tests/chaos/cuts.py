"""A cable that is pulled at one byte, and put back.

python -m tests.chaos.cuts [--offsets 1000] [--seed 1]       every offset with either language's device
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.chaos.line import KEY, Line
from tests.chaos.rounds import WIDE, Maker, core, core_device, head, order, python_device, serial

WINDOW = 4096
BAUD = 921600


def whole(maker: Maker, way: str) -> int:
    """Bytes of a round that go this way when nothing happens, the opening of the session included."""
    return _round(maker, way, None)[0].pipes[way].sent


def cut(maker: Maker, way: str, after: int) -> Line:
    """A round whose cable is pulled after so many bytes. AssertionError when something did not hold."""
    line, expected = _round(maker, way, after)
    assert line.cuts == 1, f"{line.cuts} cuts"
    assert line.host.counters.sessions <= 2, f"{line.host.counters.sessions} sessions"
    for direction in ("down", "up"):
        assert line.sent_again(direction) == 0, "what was accepted was sent again"
    down = sum(len(chunk.data) for chunk in line.chunks("down"))
    up = sum(len(chunk.data) for chunk in line.chunks("up"))
    # What was under way is sent again, and no more of it than a window.
    assert down <= len(head(WIDE)) + WINDOW, f"{down} bytes of head"
    assert up <= len(expected) + WINDOW, f"{up} bytes of update"
    return line


def _round(maker: Maker, way: str, after: int | None) -> tuple[Line, bytes]:
    far, update = maker()
    line = Line(far, *serial(BAUD), key=KEY)
    line.pipes[way].cut_after = after
    assert line.round(head(WIDE), order(WIDE)) == update, "another update"
    return line, update


def offsets(maker: Maker, way: str, count: int, chance: random.Random) -> list[int]:
    """Where to pull it: anywhere in a round."""
    total = whole(maker, way)
    return [chance.randrange(total) for _ in range(count)]


def main() -> int:
    """Exit status 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.cuts", description=__doc__)
    parser.add_argument("--offsets", type=int, default=1000, help="in each direction and language")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    runner = core()
    for name, maker in (("python", python_device(WIDE)), ("core", core_device(runner, WIDE))):
        for way in ("down", "up"):
            for after in offsets(maker, way, options.offsets, chance):
                try:
                    cut(maker, way, after)
                except AssertionError as error:
                    print(f"FAILED: {name}, {way}, cut after {after} bytes: {error}", file=sys.stderr)
                    return 1
            print(f"{name}, {way}: {options.offsets} offsets", flush=True)
    runner.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
