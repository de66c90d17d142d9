"""Export the firmware's core as an Arduino library: one folder to put into Arduino's `libraries`.

    build/venv/bin/python firmware/arduino/export_library.py --out build/arduino/kilofed

The library has the portable kernels, zcbor and Monocypher (fetched and checked by hash, as in every build),
and the example `Federate` with the digits model in it, or with --model's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRMWARE = HERE.parent
DEPS = FIRMWARE.parent / "build" / "deps"
#: Arduino compiles every file below src/: one family of kernels, the one for any core.
FAMILIES = {"dsp", "mve", "small", "thumb2"}
RING_SLOTS = 20
#: For the example, whatever its model: `kilofed inspect` says what one takes.
MEMORY_BYTES = 12288


def export(out: Path, model: bytes, *, input_bytes: int, classes: int) -> None:
    """Write the library into `out`, which must not exist. Raises OSError, subprocess.CalledProcessError."""
    subprocess.run([sys.executable, FIRMWARE / "cmake" / "fetch_sources.py", DEPS], check=True)
    src = out / "src"
    shutil.copytree(FIRMWARE / "src", src, ignore=lambda _, names: FAMILIES & set(names))
    shutil.copytree(FIRMWARE / "include" / "kilofed", src / "kilofed")
    for library in ("zcbor", "monocypher"):
        for path in (DEPS / library).glob("*.[ch]"):
            shutil.copy(path, src)
    # A sketch cannot pass definitions to a library; this one saves 13 kB, see CMakeLists.txt.
    source = src / "monocypher.c"
    source.write_bytes(b"#define BLAKE2_NO_UNROLLING 1\n" + source.read_bytes())
    shutil.copy(HERE / "KilofedLibrary.h", src)
    shutil.copy(HERE / "library.properties", out)
    shutil.copytree(HERE / "examples", out / "examples")
    (out / "examples" / "Federate" / "model.h").write_text(
        f"#define MODEL_INPUT_BYTES {input_bytes}u\n#define MODEL_CLASSES {classes}u\n"
        f"#define MODEL_RING_SLOTS {RING_SLOTS}u\n#define MODEL_MEMORY_BYTES {MEMORY_BYTES}u\n"
        f"alignas(16) static const uint8_t model[] = {{{','.join(map(str, model))}}};\n"
    )


def main() -> int:
    from kilofed_tools.heads import find_head
    from kilofed_tools.tflite import read_model

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the library's folder, made anew")
    default = FIRMWARE.parent / "models" / "digits" / "digits.tflite"
    parser.add_argument("--model", type=Path, default=default, help="the example's device model")
    options = parser.parse_args()
    if options.out.exists():
        print(f"{options.out} is there already: name another folder", file=sys.stderr)
        return 1
    model = options.model.read_bytes()
    size = 1
    parsed = read_model(model)
    for length in parsed.tensors[parsed.inputs[0]].shape:
        size *= int(length)
    export(options.out, model, input_bytes=size, classes=find_head(model).classes)
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
