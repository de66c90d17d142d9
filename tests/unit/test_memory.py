"""kilofed_tools.memory: the same numbers as the C core's own, over random shapes and settings."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from kilofed_tools.errors import ModelError
from kilofed_tools.memory import MemoryParts, device_bytes, device_parts

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = ROOT / "firmware"

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include "kilofed/kilofed.h"

static size_t w(void *c, const uint8_t *b, size_t n) { (void)c; (void)b; return n; }
static uint32_t t(void *c) { (void)c; return 0; }

/* The real one needs an opened file; here the numbers are made up, and only memory.c is asked. */
kf_status_t kf_model_need_head(const kf_model_t *m) { (void)m; return KF_OK; }
size_t kf_nn_arena_bytes(const kf_model_t *m) { return m->arena_bytes; }

int main(void) {
    uint32_t a[8];
    static const kf_identity_t who;
    while (fread(a, sizeof a, 1, stdin) == 1) {
        kf_model_t m;
        memset(&m, 0, sizeof m);
        m.head.classes = (uint16_t)a[0];
        m.head.features = (uint16_t)a[1];
        m.arena_bytes = a[2];
        kf_device_config_t c = {.model = (const uint8_t *)"", .identity = &who, .board = "b", .window = 64,
                                .max_frame = (uint16_t)a[3], .ring_slots = (uint16_t)a[4],
                                .held_out_every = (uint8_t)a[5], .max_batch = (uint16_t)a[6],
                                .exact_updates = (uint8_t)a[7], .port = {.write = w, .millis = t}};
        kf_device_parts_t p;
        kf_status_t s = kf_device_parts(&p, &m, &c);
        if (s != KF_OK) { memset(&p, 0, sizeof p); }
        fwrite(&p, sizeof p, 1, stdout);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def c_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that answers with the C core's parts."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("memory")
    main = folder / "main.c"
    main.write_text(PROGRAM)
    ours = ("src/device/memory.c", "src/device/settings.c", "src/link/crc32.c")
    sources = [*(FIRMWARE / name for name in ours), *sorted((FIRMWARE / "src/train").glob("*.c"))]
    program = folder / "parts"
    command = [
        "gcc",
        "-std=c11",
        "-O1",
        f"-I{FIRMWARE / 'include'}",
        str(main),
        *map(str, sources),
        "-o",
        str(program),
    ]
    subprocess.run(command, check=True)
    return program


def test_equal_to_the_core_on_random_shapes(c_parts: Path) -> None:
    rng = random.Random(20)
    cases = []
    frames = (64, 65, 71, 72, 73, 128, 255, 1021, 1024)
    for classes, features in itertools.product(
        (2, 3, 10, 255, 256, 257, 1024), (1, 2, 31, 32, 33, 2047, 2048)
    ):
        for _ in range(6):
            held = rng.choice((0, 2, 3, 5, 7, 255))
            slots = rng.randrange(1, 65535 // max(held, 1) + 1) * max(held, 1)
            if rng.random() < 0.5:
                slots = rng.randrange(1, max(2, 300 // max(held, 1))) * max(held, 1)
            arena = rng.randrange(1, 1 << 20)
            cases.append(
                (
                    classes,
                    features,
                    arena,
                    rng.choice(frames),
                    slots,
                    held,
                    rng.randrange(1, 257),
                    rng.randrange(2),
                )
            )
    data = b"".join(struct.pack("<8I", *case) for case in cases)
    said = subprocess.run([c_parts], input=data, stdout=subprocess.PIPE, check=True).stdout
    assert len(said) == 44 * len(cases)
    for case, numbers in zip(cases, struct.iter_unpack("<11I", said), strict=True):
        classes, features, arena, max_frame, slots, held, batch, exact = case
        parts = device_parts(
            classes, features, arena, max_frame=max_frame, ring_slots=slots, held_out_every=held,
            max_batch=batch, exact_updates=bool(exact),
        )  # fmt: skip
        assert (*(size for _, size in parts.rows()), parts.total) == numbers, case


def test_the_digits_on_the_16_kb_board() -> None:
    parts = device_parts(10, 32, 2496, max_frame=128, ring_slots=80, held_out_every=5, max_batch=16)
    assert parts == MemoryParts(128, 132, 2640, 1320, 768, 680, 376, 376, 376, 2496)
    assert parts.total == 9292
    assert device_bytes(10, 32, 2496, max_frame=128, ring_slots=80, held_out_every=5, max_batch=16) == 9292


@pytest.mark.parametrize(
    "changes",
    [{"max_frame": 63}, {"ring_slots": 0}, {"ring_slots": 81}, {"held_out_every": 1}, {"max_batch": 257}],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, int]) -> None:
    settings = {"max_frame": 128, "ring_slots": 80, "held_out_every": 5, "max_batch": 16} | changes
    with pytest.raises(ModelError):
        device_parts(10, 32, 2496, **settings)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs arm-none-eabi-gcc")
def test_the_struct_s_size_in_the_text_is_the_compiler_s(tmp_path: Path) -> None:
    """kf_device_t on a 32-bit core, as the docstring says."""
    import kilofed_tools.memory as module

    source = tmp_path / "size.c"
    source.write_text('#include "kilofed/device.h"\nchar size_of[sizeof(kf_device_t)];\n')
    target = tmp_path / "size.o"
    command = [
        "arm-none-eabi-gcc",
        "-mcpu=cortex-m0",
        "-mthumb",
        f"-I{FIRMWARE / 'include'}",
        "-c",
        source,
        "-o",
        target,
    ]
    subprocess.run([os.fspath(part) for part in command], check=True)
    listing = subprocess.run(
        ["arm-none-eabi-nm", "-S", target], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    size = next(int(line.split()[1], 16) for line in listing.splitlines() if "size_of" in line)
    assert module.__doc__ is not None and f"{size} bytes on a 32-bit core" in module.__doc__
