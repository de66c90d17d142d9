"""Minimises what fuzzing found into the committed corpus.

    python -m tests.fuzz.merge [TARGET...]

libFuzzer's -merge=1 keeps the smallest set of inputs that covers the same. Of that set the corpus takes,
small files first, what fits 95 kB a target, with no file above 20 kB; files named `found-...` are findings
that were mended, and stay.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.build import HERE, OUT, ROOT
from tests.fuzz.seeds import SIZE_MOST, TARGETS

CORPUS = HERE / "corpus"
BYTES_MOST = 95_000  # of a target's files


def program(target: str) -> list[str]:
    """The command line of a target, without options."""
    kind, _, name = target.partition("-")
    return [str(OUT / name)] if kind == "c" else [sys.executable, "-m", "tests.fuzz.python", name]


def merge(target: str) -> tuple[int, int]:
    """Rewrites a target's corpus; (files, bytes) of it."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    sources = [p for p in (folder, OUT / "work" / target, OUT / "seeds" / target) if p.is_dir()]
    with tempfile.TemporaryDirectory(dir=OUT) as temporary:
        subprocess.run(
            [
                *program(target),
                "-merge=1",
                f"-max_len={SIZE_MOST}",
                "-timeout=20",
                temporary,
                *map(str, sources),
            ],
            check=True,
            cwd=ROOT,
            capture_output=True,
        )
        kept = {path.name: path.read_bytes() for path in Path(temporary).iterdir()}
    found = {path.name: path.read_bytes() for path in folder.glob("found-*")}
    left = BYTES_MOST - sum(map(len, found.values()))
    for path in folder.iterdir():
        if path.name not in found:
            path.unlink()
    count = len(found)
    for name, content in sorted(kept.items(), key=lambda item: (len(item[1]), item[0])):
        if content in found.values() or len(content) > min(left, SIZE_MOST):
            continue
        (folder / name[:16]).write_bytes(content)
        left -= len(content)
        count += 1
    return count, BYTES_MOST - left


if __name__ == "__main__":
    for name in sys.argv[1:] or TARGETS:
        files, size = merge(name)
        print(f"tests/fuzz/corpus/{name}: {files} files, {size} bytes")
