"""A strategy of one's own: the median of the devices' changes, in place of their mean.

    kilofed run --strategy tools.examples.median:Median ...

in a run (from the folder that holds tools/), or on the files of a round that was:

    python tools/examples/median.py BASE.tflite OUT.tflite FILE...

BASE is what everybody began with, each FILE what one device sent: an update, a head, or a .tflite. The
median, weight by weight, cannot be moved far by a minority of devices, whatever they send (Yin et al. 2018,
arXiv:1803.01498). It does not weigh by sample counts, so none can be exaggerated either.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kilofed_tools import heads, strategies
from kilofed_tools.contributions import read_contribution
from kilofed_tools.updates import Update


def median(updates: Sequence[Update]) -> strategies.Mean:
    """The change that takes each weight's median; of an even number, the middle of the two, rounded up."""
    W = np.median(np.stack([u.W for u in updates]).astype(np.int64), axis=0)
    b = np.median(np.stack([u.b for u in updates]).astype(np.int64), axis=0)
    return strategies.Mean(np.ceil(W).astype(np.int64), np.ceil(b).astype(np.int64))


class Median:
    """The median as a strategy; it keeps nothing from round to round."""

    def combine(
        self, contributions: Sequence[strategies.Contribution], state: bytes
    ) -> tuple[strategies.Mean, bytes]:
        """See kilofed_tools.strategies.Strategy."""
        return median([part.update for part in contributions]), state


def main(base_path: Path, out: Path, files: Sequence[Path]) -> None:
    """Reads, takes the median, and writes the head into the model, in place."""
    base = base_path.read_bytes()
    change = median([read_contribution(path.read_bytes(), base, path.stem) for path in files])
    W, b = strategies.apply(change, *heads.master(heads.read_head(base)))
    out.write_bytes(heads.write_head(base, heads.quantise(heads.find_head(base), W, b)))
    print(f"{out}: the median of {len(files)} devices")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
