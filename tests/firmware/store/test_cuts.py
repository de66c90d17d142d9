"""Power cuts at every operation of the store, on a model of flash that knows the rules (flash_model.h)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
WRITES = 7


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of cuts.c, under the sanitizers."""
    flags = [*WARNINGS, *SANITIZE]
    target = tmp_path_factory.mktemp("store") / "cuts"
    if os.environ.get(
        "KILOFED_COVERAGE"
    ):  # what is counted lies beside the program, and outlives this folder
        target = ROOT / "build" / "coverage" / "store" / f"cuts-{os.getpid()}" / "cuts"
        target.parent.mkdir(parents=True, exist_ok=True)
        flags += ["--coverage", "-fprofile-update=atomic"]
    sources = [HERE / "cuts.c", ROOT / "firmware/src/store/store.c", ROOT / "firmware/src/link/crc32.c"]
    include = f"-I{ROOT / 'firmware/include'}"
    subprocess.run(["gcc", *flags, include, *map(str, sources), "-o", str(target)], check=True)
    return target


@pytest.mark.parametrize(
    ("page", "pages", "write", "largest"),
    [
        (1024, 8, 4, 1097),  # nRF51: two pages a slot
        (1024, 7, 4, 1004),  # a slot of one page, full to the last byte
        (4096, 2, 256, 1097),  # RP2040, as few pages as there may be
        (256, 9, 1, 523),  # a page that is in no slot
        (256, 6, 16, 1),
        (1024, 5, 64, 700),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_cut_leaves_the_old_record_or_the_new(
    cuts: Path, page: int, pages: int, write: int, largest: int, seed: int
) -> None:
    command = [str(cuts), *map(str, (page, pages, write, largest, seed))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command[1:])}: {done.stderr}"
    # Each write is an erase, content and a header at least, and each of these was cut in three ways.
    assert int(done.stdout) >= WRITES * 3 * 3
