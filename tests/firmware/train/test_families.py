"""Each kernel family of the trainer on a core that it is for, in QEMU, against the portable one.

The same bits at widths that divide badly and at the ends of every range."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT, SOURCES
from .targets import HERE, TARGETS, TOOLS, compile_image, emulate, kernels

RENAMED = ("kf_forward", "kf_backward", "kf_backward_features", "kf_exponentials")


@pytest.mark.emulated
@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.family])
def test_family_equals_the_portable_one(tmp_path: Path, name: str) -> None:
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    target = TARGETS[name]
    names = [f"-D{function}={function.replace('kf_', 'family_')}" for function in RENAMED]
    include = f"-I{ROOT / 'firmware/include'}"
    compiler = ["arm-none-eabi-gcc", "-std=c11", "-mthumb", *target.flags, include]
    family = [tmp_path / f"{path.stem}.o" for path in kernels(target)]
    for path, object_ in zip(kernels(target), family, strict=True):
        subprocess.run([*compiler, *names, "-c", path, "-o", object_], check=True)
    own = [path.name for path in kernels(target)]
    flags = [*target.flags, *([] if "exp.c" in own else ["-Dfamily_exponentials=kf_exponentials"])]
    image = compile_image(tmp_path, target, [HERE / "families.c", *family, *SOURCES], flags)
    assert emulate(image, target) == ["00000190 equal"]
