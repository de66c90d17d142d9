"""Writes the file that the example's camera shows: handwritten digits, each with the button of its label.

build/venv/bin/python firmware/examples/sensor/make_frames.py FRAMES [COUNT [SEED]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import kilofed


def frames(count: int, seed: int = 1) -> bytes:
    """`count` records of camera.h's format, of the digits that are dealt to devices."""
    pool = kilofed.digits_pool()
    chosen = pool.take(np.random.default_rng(seed).permutation(len(pool))[:count])
    rows = zip(chosen.labels, chosen.inputs, strict=True)
    return b"".join(bytes([int(label)]) + pixels.tobytes() for label, pixels in rows)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(frames(*(int(argument) for argument in sys.argv[2:4] or ["150"])))
