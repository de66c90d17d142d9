"""kilofed-pi as a Raspberry Pi runs it: the wheel of this tree and the processor's own tflite-runtime, on
Debian's Python for 64-bit and 32-bit Arm, in QEMU's user mode.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import userland
from board_line import DIGITS, ROOT
from test_same_bytes import expected, native_device, updates_of
from userland import ARM64, ARMHF, Architecture, Userland

from kilofed import open_run

PROCESSORS = [ARM64, ARMHF]
SECONDS = 120  # for a run of a few rounds, programs starting in an emulator included


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def machines(wheel: Path) -> Iterator[dict[str, Userland]]:
    """The processors' userlands by name."""
    try:
        yield {of.name: userland.make(of, wheel) for of in PROCESSORS}
    except userland.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("of", PROCESSORS, ids=lambda of: of.name)
def test_it_sends_the_bytes_of_the_reference(
    of: Architecture, machines: dict[str, Userland], tmp_path: Path
) -> None:
    machine = machines[of.name]
    asked = machine.python("-c", "import platform; print(platform.machine())")
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == of.machine, "its own Python, and not this machine's"
    with native_device(machine.python("-m", "kilofed_pi"), tmp_path) as line:
        assert updates_of(line) == expected()


def test_both_and_this_machine_learn_together(machines: dict[str, Userland], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    register = ("--fleet", str(tmp_path / "fleet.sqlite"))
    names = {
        "arm64": machines["arm64"].python(),
        "armhf": machines["armhf"].python(),
        "here": [sys.executable],
    }
    path = os.pathsep.join(str(ROOT / part) for part in ("tools", "host", "firmware/pi"))
    code = "from kilofed.cli import main; main()"

    def kilofed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments, *register]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env={**os.environ, "PYTHONPATH": path}
        )

    with ExitStack() as stack:
        for index, (name, python) in enumerate(names.items()):
            folder = tmp_path / name
            made = kilofed(
                "pi", "--name", name, "--samples", "40", "--seed", str(index + 1), "--out", str(folder)
            )
            assert made.returncode == 0, made.stderr
            device = subprocess.Popen(
                [*python, "-m", "kilofed_pi", "--connect", address, "--model", str(DIGITS),
                 "--settings", str(folder / "settings.bin"), "--samples", str(folder / "samples.bin")],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
            stack.callback(device.wait)
            stack.callback(device.kill)
        run = kilofed(
            "run", "--listen", address, "--expect", "3", "--rounds", "3", "--model", str(DIGITS),
            "--out", str(tmp_path / "run"),
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    with open_run(tmp_path / "run") as finished:
        assert [sorted(d.name for d in r.taken) for r in finished.rounds()] == [sorted(names)] * 3


def test_the_wheels_are_those_that_it_asks_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    asked = set()
    for name, condition in re.findall(r"(?m)^Requires-Dist: ([\w-]+)[^;\n]*(?:; (.*))?$", text):
        old = "python_version < '3.11'" in condition or "python_version >= '3.12'" in condition
        if not old and ("extra" not in condition or "extra == 'runtime'" in condition):
            asked.add(name.lower())
    brought = {name.partition("<")[0] for name in userland.WHEELS}
    assert asked and asked <= brought
