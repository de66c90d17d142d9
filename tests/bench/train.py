"""`train.<core>.*`: the head's training as machine code of each core.

The job is the 16 KB board's: ten classes, 32 features, 80 slots, batch 16, half of the features zero.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.firmware.train import targets

from kilofed.boards import catalogue
from kilofed.profiling import engine

from .figure import BenchError, Figure

COMMAND = "python -m tests.bench --only train"


def figures(root: Path) -> Iterator[Figure]:
    """Instructions a multiply-accumulate; a sample takes 2 C F of those, C F forward and as many backward.

    The code is the library that the boards' images are linked with. BenchError when the update of a core is
    not the numpy trainer's.
    """
    case = targets.small_board_round()
    update = targets.expected_update(case)
    for core in engine.CORES:
        if core.name not in targets.TARGETS:
            continue
        engine.image_of(core, root)
        target = targets.TARGETS[core.name]
        with tempfile.TemporaryDirectory(prefix="kilofed-bench-") as folder:
            image = targets.build_image(
                Path(folder),
                target,
                [case],
                flags=["-O2", *catalogue.load(core.board).flags],
                code=[engine.build_folder(core, root) / "libkilofed.a"],
            )
            results = targets.run_image(image, target)
        if [result.update for result in results] != [update]:
            raise BenchError(
                f"the training on {core.name} gives another update than numpy, so the count is worth nothing;"
                " see: pytest tests/firmware/train"
            )
        per_mac = round(results[0].instructions / targets.macs(case), 2)
        yield Figure(f"train.{core.name}.instructions_per_mac", per_mac, "instructions", COMMAND)
