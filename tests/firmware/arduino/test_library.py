"""The Arduino library: exported, compiled as Arduino compiles one, its example federated by a host."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kilofed

HERE = Path(__file__).resolve().parent
EXPORT = HERE.parents[2] / "firmware" / "arduino" / "export_library.py"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder."""
    out = tmp_path_factory.mktemp("arduino") / "kilofed"
    subprocess.run([sys.executable, EXPORT, "--out", out], check=True, capture_output=True)
    return out


def compile_all(library: Path, out: Path, prefix: str, flags: list[str]) -> list[Path]:
    """Every source below src/ as C, with only src/ to include from, and the sketch as C++. Their objects."""
    common = [*flags, f"-I{library / 'src'}", f"-I{HERE}", "-c", "-ffunction-sections", "-w"]
    sources = sorted((library / "src").rglob("*.c"))
    out.mkdir()
    objects = [out / f"{'-'.join(s.relative_to(library).parts)}.o" for s in sources]
    for source, made in zip(sources, objects, strict=True):
        subprocess.run([f"{prefix}gcc", "-std=gnu11", *common, source, "-o", made], check=True)
    sketch = library / "examples" / "Federate" / "Federate.ino"
    made = out / "sketch.o"
    strict = ["-std=gnu++17", "-Wall", "-Wextra", "-Werror", "-x", "c++"]
    subprocess.run([f"{prefix}g++", *common[:-1], *strict, sketch, "-o", made], check=True)
    return [*objects, made]


@pytest.mark.skipif(shutil.which("arm-none-eabi-g++") is None, reason="not installed: arm-none-eabi-g++")
def test_it_compiles_for_a_board(library: Path, tmp_path: Path) -> None:
    objects = compile_all(
        library, tmp_path / "arm", "arm-none-eabi-", ["-mcpu=cortex-m0plus", "-mthumb", "-Os"]
    )
    assert len(objects) > 50


@pytest.mark.skipif(shutil.which("g++") is None, reason="not installed: g++")
async def test_its_example_takes_part_in_a_round(library: Path, tmp_path: Path) -> None:
    objects = compile_all(library, tmp_path / "native", "", ["-O1"])
    program = tmp_path / "sketch"
    subprocess.run(["g++", HERE / "arduino.cpp", *objects, "-o", program], check=True)
    started: list[subprocess.Popen[bytes]] = []
    model = kilofed.digits_model_path().read_bytes()
    run, _ = kilofed.resume_or_create(
        tmp_path / "run", config=kilofed.RunConfig(rounds=2, epochs=2), model=model
    )
    try:
        with run:
            await kilofed.federate(
                run,
                expected=1,
                listen=("127.0.0.1", 0),
                on_listening=lambda port: started.append(subprocess.Popen([program, str(port)])),
            )
            rounds, devices = run.rounds(), run.devices()
        assert [process.wait(timeout=20) for process in started] == [0]
    finally:
        for process in started:
            process.kill()
    assert {device.board for device in devices} == {"arduino"}
    assert [len(record.taken) for record in rounds] == [1, 1]
    # The first order may come before the sketch has shown all its samples.
    assert 0 < rounds[-1].taken[0].samples <= 16
