"""The kernel families of firmware/src/nn on emulated cores: what each board's build links, against TensorFlow
Lite Micro's reference kernels, byte for byte.

The models are drawn as in test_kernels.py, which runs the portable family; the image is the bench's, so the
code is compiled as it is shipped. Skipped without the cross compiler or QEMU.
"""

from __future__ import annotations

import dataclasses
import shutil

import engine_models
import numpy as np
import pytest
from engine_runner import ROOT, oracle, repeat, seeds

from kilofed.boards.build import TOOLS
from kilofed.boards.emulator import QEMU
from kilofed.profiling import engine as emulated

FAMILIES = {"m0": "small", "m3": "thumb2", "m4f": "dsp"}
DRAWN = [("conv", 14), ("depthwise", 14), ("fully_connected", 8), ("chain", 10)]

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in (*TOOLS, QEMU)), reason="install the cross compiler and QEMU"
)


def draw(kind: str, seed: int) -> bytes:
    return engine_models.random_model(seed) if kind == "chain" else engine_models.one_op(kind, seed)


@pytest.mark.parametrize("name", FAMILIES, ids=[f"{core}-{family}" for core, family in FAMILIES.items()])
def test_family(name: str, request: pytest.FixtureRequest) -> None:
    core = next(core for core in emulated.CORES if core.name == name)
    # In a folder of its own: tests of the bench may be building at the same time.
    core = dataclasses.replace(core, name=f"families-{name}")
    image = emulated.image_of(core, ROOT)
    for kind, count in DRAWN:
        for seed in seeds(count):
            model = draw(kind, seed)
            inputs = engine_models.random_inputs(model, seed, 2)
            rows = np.stack([x.view(np.uint8).ravel() for x in inputs])
            answer, found = emulated.run_file(image, core, model, rows)
            got = [row[: answer.outputs].tobytes() for row in found]
            assert got == oracle(model, inputs), f"{kind} {seed}; {repeat(request.node.nodeid, seed)}"
