"""`train.<core>.*`: the head's training as machine code of each core.

The job is the 16 KB board's: ten classes, 32 features, 80 slots, batch 16, half of the features zero; and the
same with 64 features, as heads of larger models have.
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
    cases = {"instructions_per_mac": targets.small_board_round()}
    cases["instructions_per_mac_of_64_features"] = targets.small_board_round(64)
    updates = [targets.expected_update(case) for case in cases.values()]
    for core in engine.CORES:
        engine.image_of(core, root)
        target = targets.TARGETS[core.name]
        with tempfile.TemporaryDirectory(prefix="kilofed-bench-") as folder:
            image = targets.build_image(
                Path(folder),
                target,
                list(cases.values()),
                flags=["-O2", *catalogue.load(core.board).flags],
                code=[engine.build_folder(core, root) / "libkilofed.a"],
            )
            results = targets.run_image(image, target)
        if [result.update for result in results] != updates:
            raise BenchError(
                f"the training on {core.name} gives another update than numpy, so the count is worth nothing;"
                " see: pytest tests/firmware/train"
            )
        for (name, case), result in zip(cases.items(), results, strict=True):
            per_mac = round(result.instructions / targets.macs(case), 2)
            yield Figure(f"train.{core.name}.{name}", per_mac, "instructions", COMMAND)
