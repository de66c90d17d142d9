"""Each kernel family of the trainer on a core that it is for, in QEMU, against the portable one.

The same bits at widths that divide badly and at the ends of every range."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT, SOURCES
from .targets import HERE, KERNELS, TARGETS, TOOLS, compile_image, emulate, kernels

RENAMED = ("kf_forward", "kf_backward", "kf_backward_features")


@pytest.mark.emulated
@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.family])
def test_family_equals_the_portable_one(tmp_path: Path, name: str) -> None:
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    target = TARGETS[name]
    family = tmp_path / "family.o"
    names = [f"-D{function}={function.replace('kf_', 'family_')}" for function in RENAMED]
    include = f"-I{ROOT / 'firmware/include'}"
    compiler = ["arm-none-eabi-gcc", "-std=c11", "-mthumb", *target.flags, include]
    subprocess.run([*compiler, *names, "-c", kernels(target), "-o", family], check=True)
    needed = {KERNELS.name, "move.c", "head.c", "codec.c", "logit.c"}
    portable = [source for source in SOURCES if source.name in needed]
    image = compile_image(tmp_path, target, [HERE / "families.c", family, *portable])
    assert emulate(image, target) == ["00000190 equal"]
