"""Compiles the C fuzz targets: with libFuzzer for fuzzing, with a plain main() for the tests.

    python -m tests.fuzz.build model          build/fuzz/model, for libFuzzer: needs clang and its runtime
    python -m tests.fuzz.build --replay model build/fuzz/replay/model, for files: gcc or clang will do

Both run under the address and undefined-behaviour sanitizers. The core, the target and what is not ours are
compiled apart, each only when it or a header has changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "fuzz"
FIRMWARE = ROOT / "firmware"
DEPS = ROOT / "build" / "deps"
OUT = ROOT / "build" / "fuzz"

TARGETS = ("model", "link", "blobs", "device", "mdns")
#: Sources that a target needs besides the core.
MORE = {"mdns": [FIRMWARE / "port" / "posix" / "mdns.c"]}
#: The model behind the targets that need one: 5 classes x 12 features, 704 MACs.
MODEL = ROOT / "tests" / "data" / "foreign" / "plain.tflite"

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def clang() -> str | None:
    """A clang that has libFuzzer's runtime, the newest first."""
    for name in ("clang", *(f"clang-{n}" for n in range(22, 10, -1))):
        path = shutil.which(name)
        if path is None:
            continue
        asked = subprocess.run(
            [path, "-print-file-name=libclang_rt.fuzzer-x86_64.a"], capture_output=True, text=True
        )
        found = subprocess.run([path, "-print-runtime-dir"], capture_output=True, text=True)
        folder = Path(found.stdout.strip())
        if any(folder.glob("libclang_rt.fuzzer*.a")) or Path(asked.stdout.strip()).is_absolute():
            return path
    return None


def build(target: str, *, replay: bool = False) -> Path:
    """The program of a target, made anew when a source is newer. RuntimeError without a compiler for it."""
    compiler = shutil.which("gcc") or clang() if replay else clang()
    if compiler is None:
        wanted = "gcc" if replay else "clang with libFuzzer (tools/bootstrap.sh fuzz installs it)"
        raise RuntimeError(f"no {wanted} here")
    subprocess.run([sys.executable, FIRMWARE / "cmake" / "fetch_sources.py", DEPS], check=True)
    folder = OUT / "replay" if replay else OUT
    program = folder / target
    core = [*sorted(FIRMWARE.glob("src/*/*.c")), *sorted(FIRMWARE.glob("src/nn/plain/*.c"))]
    theirs = [*sorted((DEPS / "zcbor").glob("*.c")), DEPS / "monocypher" / "monocypher.c"]
    own = [HERE / "c" / f"{target}.c", *([HERE / "c" / "replay.c"] if replay else []), *MORE.get(target, [])]
    headers = [
        *FIRMWARE.glob("include/kilofed/*.h"),
        *FIRMWARE.glob("src/*/*.h"),
        *FIRMWARE.glob("port/posix/*.h"),
        *HERE.glob("c/*.h"),
        MODEL,
    ]
    newest_header = max(path.stat().st_mtime for path in headers)

    instrument = [] if replay else ["-fsanitize=fuzzer-no-link"]
    flags = ["-std=c11", "-O1", "-g", *SANITIZE, *instrument]
    include = [f"-I{FIRMWARE}", f"-I{FIRMWARE / 'include'}", f"-I{FIRMWARE / 'src'}"]
    for part in ("zcbor", "monocypher"):
        include += ["-isystem", str(DEPS / part)]
    defines = ["-DBLAKE2_NO_UNROLLING", f'-DFUZZ_MODEL="{MODEL}"']

    def compile_one(source: Path) -> Path:
        made = folder / "objects" / f"{source.parent.name}_{source.stem}.o"
        if made.exists() and made.stat().st_mtime > max(source.stat().st_mtime, newest_header):
            return made
        made.parent.mkdir(parents=True, exist_ok=True)
        # What is not ours is compiled as the firmware does it: without our warnings, and not instrumented.
        how = ["-std=c11", "-O1", "-g", "-w"] if source in theirs else [*flags, *WARNINGS]
        partial = made.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [compiler, *how, *defines, *include, "-c", str(source), "-o", str(partial)], check=True
        )
        partial.replace(made)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, [*own, *core, *theirs]))
    if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in objects):
        partial = program.with_suffix(f".{os.getpid()}")
        link = [compiler, *SANITIZE, *([] if replay else ["-fsanitize=fuzzer"])]
        subprocess.run([*link, *map(str, objects), "-o", str(partial)], check=True)
        partial.replace(program)
    return program


def main() -> None:
    """Builds the targets named and prints their paths."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--replay", action="store_true")
    arguments = parser.parse_args()
    try:
        for target in arguments.targets:
            print(build(target, replay=arguments.replay))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
