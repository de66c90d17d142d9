"""Many models in one run of an emulated core: the engine's library as the core's board builds it, in a bare
image with the models in it."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine_runner import BUILD, HERE, ROOT, Bytes

from kilofed.boards import catalogue
from kilofed.boards.build import TOOLS
from kilofed.boards.players import QEMU

BATCH_BYTES = 380_000  # the smallest of the memories for code has 512 KB
MISSING = [tool for tool in (*TOOLS, QEMU) if shutil.which(tool) is None]


class Core(NamedTuple):
    """The board whose flags and kernels a core's code is built with, and the board that runs it."""

    board: str
    machine: str


#: The micro:bit has no room for most models; the AN385's Cortex-M3 executes a Cortex-M0's code unchanged.
CORES = {
    "m0": Core("microbit", "mps2-an385"),
    "m3": Core("mps2-an385", "mps2-an385"),
    "m4f": Core("mps2-an386", "mps2-an386"),
    "m7": Core("mps2-an500", "mps2-an500"),
    "m33": Core("mps2-an505", "mps2-an505"),
    "m55": Core("mps3-an547", "mps3-an547"),
}


@dataclass(frozen=True)
class Case:
    """A model and its inputs, for `run`. kept: whether states go on from one input to the next."""

    model: bytes
    inputs: Sequence[Bytes]
    kept: bool = False

    def packed(self) -> bytes:
        """As target.c reads it."""
        parts = [struct.pack("<3I", len(self.model), len(self.inputs), self.kept), _padded(self.model)]
        return b"".join([*parts, *(_padded(x.tobytes()) for x in self.inputs)])


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


_SCRIPT = """
MEMORY {{
    flash (rx) : ORIGIN = {flash:#x}, LENGTH = {flash_bytes:#x}
    ram (rw) : ORIGIN = {ram:#x}, LENGTH = {ram_bytes:#x}
}}
ENTRY(reset)
SECTIONS {{
    .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) }} > flash
    .bss (NOLOAD) : {{ *(.bss*) *(COMMON) }} > ram
    .ARM.exidx : {{ *(.ARM.exidx*) }} > flash
    stack_top = ORIGIN(ram) + LENGTH(ram);
}}
"""
_BATCH = '.section .rodata\n.balign 4\n.global batch\nbatch:\n.incbin "batch.bin"\n'


def library(name: str) -> Path:
    """The core's library, built by CMake in a folder of the tests' own."""
    folder = BUILD / f"core-{name}"
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    for command in (
        ["cmake", "--preset", CORES[name].board, "-B", str(folder), python],
        ["cmake", "--build", str(folder), "--target", "kilofed"],
    ):
        subprocess.run(command, cwd=ROOT / "firmware", check=True, capture_output=True)
    return folder / "libkilofed.a"


def run(name: str, cases: Sequence[Case], folder: Path) -> list[list[str]]:
    """Every case's outputs in hex, an input each; from one start of QEMU. `folder`: for what is made on the
    way. The last line is short and begins with "refused" or "fault" when the engine said no, or crashed."""
    batch = struct.pack("<I", len(cases)) + b"".join(case.packed() for case in cases)
    assert len(batch) <= BATCH_BYTES, f"a batch of {len(batch)} bytes; draw smaller models"
    (folder / "batch.bin").write_bytes(batch)
    (folder / "batch.S").write_text(_BATCH)
    machine = catalogue.load(CORES[name].machine)
    flags = catalogue.load(CORES[name].board).flags
    (folder / "target.ld").write_text(
        _SCRIPT.format(
            flash=machine.flash.origin,
            flash_bytes=machine.flash.size,
            ram=machine.ram.origin,
            ram_bytes=machine.ram.size,
        )
    )
    image = folder / "image.elf"
    command = ["arm-none-eabi-gcc", *flags, "-O1", "-ffreestanding", "-nostartfiles", "--specs=nosys.specs"]
    command += ["-DTIMER_BASE=0x40000000u", "-DTIMER_IS_NRF=0", f"-I{ROOT / 'firmware' / 'include'}"]
    command += ["-Wl,--gc-sections", "-Ttarget.ld", str(HERE / "target.c"), "batch.S", str(library(name))]
    subprocess.run([*command, "-o", str(image)], cwd=folder, check=True)
    emulate = [QEMU, "-M", CORES[name].machine, "-kernel", str(image), "-display", "none", "-monitor", "none"]
    emulate += ["-serial", "none", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(emulate, capture_output=True, text=True, timeout=300, check=True)
    return [line.split() for line in (done.stdout + done.stderr).splitlines()]
