"""The C core's promises call by call, and what a Cortex-M0 build of it may contain."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ROOT, WARNINGS, build
from .targets import TARGETS, sources

HERE = Path(__file__).parent
FLASH_LIMIT = 10496  # bytes of code and tables of the whole training core, measured 10.3 kB with GCC 12.2
STACK_LIMIT = 192  # bytes of the deepest single frame, measured 192


@pytest.mark.parametrize("names", [["gcc"], ["clang", "clang-14"]], ids=["gcc", "clang"])
def test_contract(tmp_path: Path, names: list[str]) -> None:
    compiler = next((name for name in names if shutil.which(name)), None)
    if compiler is None:
        pytest.skip(f"no {names[0]} here")
    program = build(tmp_path / "contract", HERE / "contract.c", compiler)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_vectors_are_what_their_generator_makes() -> None:
    generator = ROOT / "tests/vectors/make_training.py"
    done = subprocess.run([sys.executable, generator, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def m0_objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The core compiled as the smallest board compiles it; beside each object its .su with the frames."""
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("no arm-none-eabi-gcc here")
    where = tmp_path_factory.mktemp("m0")
    target = ["-mcpu=cortex-m0", "-mthumb", "-ffunction-sections", "-fstack-usage"]
    include = f"-I{ROOT / 'firmware/include'}"
    objects = []
    for source in sources(TARGETS["m0"]):
        out = where / f"{source.stem}.o"
        level = (
            "-O2" if source.name in ("kernels.c", "exp.c", "softmax.c") else "-Os"
        )  # as CMakeLists.txt has it
        command = ["arm-none-eabi-gcc", *WARNINGS, *target, level, include, "-c", source, "-o", out]
        subprocess.run(command, check=True)
        objects.append(out)
    return objects


def test_m0_build_calls_no_floating_point(m0_objects: list[Path]) -> None:
    listing = subprocess.run(
        ["arm-none-eabi-nm", "-u", *m0_objects], capture_output=True, text=True, check=True
    )
    wanted = set(re.findall(r"U (\S+)", listing.stdout))
    helpers = {name for name in wanted if name.startswith("__")}
    # Integer division, 64-bit products and shifts; soft float would be __aeabi_f*, __aeabi_d*, *2f, *2d.
    allowed = {"idiv", "idivmod", "uidiv", "uidivmod", "uldivmod", "lmul", "lasr", "llsl", "llsr"}
    assert helpers <= {f"__aeabi_{name}" for name in allowed} | {"__gnu_thumb1_case_uqi"}
    assert {name for name in wanted - helpers if not name.startswith("kf_")} <= {"memcpy", "memset"}


def test_m0_build_keeps_no_state(m0_objects: list[Path]) -> None:
    """No variable outlives a call: data and bss are empty."""
    listing = subprocess.run(["arm-none-eabi-size", *m0_objects], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listing.stdout.splitlines()[1:]]
    assert len(rows) == len(m0_objects)
    assert sum(int(row[1]) + int(row[2]) for row in rows) == 0


def test_m0_build_stays_small(m0_objects: list[Path], record_property: Callable[[str, object], None]) -> None:
    listing = subprocess.run(["arm-none-eabi-size", *m0_objects], capture_output=True, text=True, check=True)
    flash = sum(int(line.split()[0]) for line in listing.stdout.splitlines()[1:])
    frames = {}
    for path in m0_objects:
        for line in path.with_suffix(".su").read_text().splitlines():
            place, size, kind = line.split("\t")
            assert kind == "static", f"{place} has a frame that depends on its input"
            frames[place.rsplit(":", 1)[-1]] = int(size)
    record_property("flash", flash)
    record_property("deepest_frame", max(frames.values()))
    print(f"training core on Cortex-M0: {flash} B of flash, deepest frame {max(frames.values())} B")
    assert flash <= FLASH_LIMIT
    assert max(frames.values()) <= STACK_LIMIT
