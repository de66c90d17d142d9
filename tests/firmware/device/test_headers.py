"""What the house promises of the core, asked of compilers.

Each header stands alone, the quick start compiles, and the objects have no heap, no state and no floats.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from device_runner import FIRMWARE, ROOT, WARNINGS

INCLUDE = f"-I{FIRMWARE / 'include'}"
HEADERS = sorted((FIRMWARE / "include" / "kilofed").glob("*.h"))
ARM = "arm-none-eabi-gcc"

# What the quick start leaves to the board.
BOARD = """
#define SETTINGS_ADDRESS 0x1000
#define INPUT_BYTES 784
static size_t line_read(uint8_t *bytes, size_t size) { (void)bytes; (void)size; return 0; }
static int button_pressed(void) { return 0; }
static uint16_t which_button(void) { return 0; }
static const int8_t *sensor_read(void) { static int8_t sample[INPUT_BYTES]; return sample; }
static void sleep_until_bytes_or(uint32_t ms) { (void)ms; }
static size_t line_write(void *c, const uint8_t *bytes, size_t size) { (void)c; (void)bytes; return size; }
static uint32_t clock_ms(void *context) { (void)context; return 0; }
"""


def compile_text(compiler: str, text: str, suffix: str, tmp_path: Path, *flags: str) -> None:
    source = tmp_path / f"text{suffix}"
    source.write_text(text)
    done = subprocess.run(
        [compiler, *flags, INCLUDE, "-fsyntax-only", str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
@pytest.mark.parametrize("compiler", ["gcc", "clang-14"])
def test_a_header_stands_alone(header: Path, compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    text = f'#include "kilofed/{header.name}"\n#include "kilofed/{header.name}"\n'
    compile_text(compiler, text, ".c", tmp_path, *WARNINGS)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_umbrella_header_is_c_plus_plus_too(tmp_path: Path) -> None:
    text = '#include "kilofed/kilofed.h"\nint main() { return (int)KF_VERSION == 0; }\n'
    compile_text("g++", text, ".cpp", tmp_path, "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror")


def test_the_quick_start_compiles(tmp_path: Path) -> None:
    header = (FIRMWARE / "include" / "kilofed" / "kilofed.h").read_text()
    lines = [line[7:] for line in header.splitlines() if line.startswith(" *     ") or line == " *"]
    include, rest = "\n".join(lines).lstrip().split("\n", 1)
    assert include == '#include "kilofed/kilofed.h"' and "kf_poll(&device" in rest
    text = f"{include}\n{BOARD}\n{rest}\nconst uint8_t model[4] = {{0}};\nconst uint32_t model_bytes = 4;\n"
    compile_text("gcc", text, ".c", tmp_path, "-std=c11", "-Wall", "-Wextra", "-Werror")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str]]]:
    """Object file -> its (kind, symbol), compiled for a Cortex-M0."""
    if shutil.which(ARM) is None:
        pytest.skip(f"needs {ARM}")
    deps = ROOT / "build" / "deps"
    subprocess.run([sys.executable, FIRMWARE / "cmake" / "fetch_sources.py", deps], check=True)
    folder = tmp_path_factory.mktemp("m0")
    out = {}
    include = [INCLUDE, "-isystem", str(deps / "zcbor"), "-isystem", str(deps / "monocypher")]
    for source in sorted(FIRMWARE.glob("src/*/*.c")):
        made = folder / f"{source.parent.name}_{source.stem}.o"
        flags = ["-mcpu=cortex-m0", "-mthumb", "-Os", "-ffreestanding", *WARNINGS]
        subprocess.run([ARM, *flags, *include, "-c", str(source), "-o", str(made)], check=True)
        listing = subprocess.run(
            ["arm-none-eabi-nm", made], stdout=subprocess.PIPE, check=True, text=True
        ).stdout
        out[made.name] = [(parts[-2], parts[-1]) for parts in (line.split() for line in listing.splitlines())]
    return out


def test_the_core_keeps_no_state(objects: dict[str, list[tuple[str, str]]]) -> None:
    kept = [
        (name, symbol) for name, table in objects.items() for kind, symbol in table if kind in "BbDdCGgSs"
    ]
    assert kept == []


def test_the_core_takes_no_heap_and_no_floats(objects: dict[str, list[tuple[str, str]]]) -> None:
    asked = {symbol for table in objects.values() for kind, symbol in table if kind == "U"}
    assert not {"malloc", "calloc", "realloc", "free"} & asked
    floats = {s for s in asked if re.match(r"__aeabi_(f|d|cf|cd|[a-z0-9]*2[fd])", s)} - {"__aeabi_idivmod"}
    assert floats == set()
    assert all(
        re.match(r"__aeabi_|kf_|zcbor_|crypto_|mem(cpy|cmp|set|move)$|strlen$|__gnu_thumb1_", s)
        for s in asked
    ), asked


def test_only_our_prefix_is_exported(objects: dict[str, list[tuple[str, str]]]) -> None:
    names = [symbol for table in objects.values() for kind, symbol in table if kind in "TRV"]
    assert all(name.startswith("kf_") for name in names)
    assert len(names) == len(set(names))
