"""Fetch the C sources of the two libraries the firmware uses, pinned by hash, into a folder of the build.

    python fetch_sources.py build/deps

zcbor (CBOR) and Monocypher (BLAKE2b and the cipher) publish their C inside Python source distributions,
so pip brings them from wherever pip is set up to look. Each archive is checked against the SHA-256 below,
both by pip and here; only the C files named below are unpacked. Nothing is done when they are there
already, so that every build may call this. Exit status 1, with what to do, when an archive cannot be had.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One library: the distribution that carries it, and ``files``: path in the archive -> name in its
    folder.
    """

    folder: str
    distribution: str
    version: str
    sha256: str
    files: dict[str, str]

    @property
    def archive(self) -> str:
        return f"{self.distribution}-{self.version}.tar.gz"

    @property
    def stamp(self) -> str:
        """What says, written last, that the folder holds these files of this archive."""
        return "\n".join([self.sha256, *self.files.values()])


SOURCES = (
    Source(
        "zcbor",
        "zcbor",
        "0.9.1",
        "c04918392e2dbb14c6f038d776e2ea6b09c34ba1028b045aadd7c3a95616bc38",
        {
            **{f"src/zcbor_{part}.c": f"zcbor_{part}.c" for part in ("common", "decode", "encode")},
            **{
                f"include/zcbor_{part}.h": f"zcbor_{part}.h"
                for part in ("common", "decode", "encode", "print", "tags")
            },
        },
    ),
    Source(
        "monocypher",
        "pymonocypher",
        "4.0.3.4",
        "5e56e3d3eb770a53e0b9f6274146663c11a11f3d0de5cd48e3be0428d1b07a4a",
        {"monocypher.c": "monocypher.c", "monocypher.h": "monocypher.h"},
    ),
)


def present(source: Source, deps: Path) -> bool:
    """Whether ``source`` was unpacked whole."""
    stamp = deps / source.folder / ".stamp"
    return stamp.is_file() and stamp.read_text() == source.stamp


def download(sources: list[Source], deps: Path) -> None:
    """Bring the archives of ``sources`` into ``deps``, with pip. Raises subprocess.CalledProcessError."""
    lines = [f"{s.distribution}=={s.version} --hash=sha256:{s.sha256}\n" for s in sources]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.writelines(lines)
        requirements.flush()
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        # pip asks a source distribution for its metadata before it keeps it. With setuptools at hand, and the
        # `bdist_wheel` that a fresh environment's old setuptools lacks without `wheel`, that is quick;
        # otherwise pip makes itself an environment. Only the two are built from source, not what builds them.
        command += ["--no-binary", ",".join(s.distribution for s in sources)]
        if importlib.util.find_spec("setuptools") and importlib.util.find_spec("wheel"):
            command.append("--no-build-isolation")
        # The C needs no Python at all, so the distribution's own demand on its version does not count.
        command += ["--ignore-requires-python"]
        command += ["--require-hashes", "--requirement", requirements.name, "--dest", str(deps)]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def unpack(source: Source, deps: Path) -> None:
    """Check the archive of ``source`` and write its C files. Raises ValueError on a wrong hash or a missing
    file.
    """
    archive = deps / source.archive
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != source.sha256:
        archive.unlink()
        raise ValueError(f"{archive} had SHA-256 {digest}, not {source.sha256}; it was removed: build again")
    folder = deps / source.folder
    folder.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        for inside, name in source.files.items():
            try:
                member = tar.extractfile(f"{source.distribution}-{source.version}/{inside}")
            except KeyError:
                member = None
            if member is None:
                raise ValueError(f"{archive} has no {inside}")
            (folder / name).write_bytes(member.read())
    (folder / ".stamp").write_text(source.stamp)


def fetch(deps: Path) -> None:
    """Make every library of ``SOURCES`` present under ``deps``. Safe to call from several builds at once."""
    if all(present(source, deps) for source in SOURCES):
        return
    deps.mkdir(parents=True, exist_ok=True)
    with (deps / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [source for source in SOURCES if not present(source, deps)]
        absent = [source for source in missing if not (deps / source.archive).is_file()]
        if absent:
            download(absent, deps)
        for source in missing:
            unpack(source, deps)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: fetch_sources.py FOLDER", file=sys.stderr)
        return 2
    try:
        fetch(Path(sys.argv[1]).resolve())
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        names = " and ".join(source.archive for source in SOURCES)
        said = (getattr(error, "stdout", None) or "").strip()
        print(
            f"{said}\nfetch_sources.py: {error}\nthe C sources of {names} could not be had: check that "
            f"`{sys.executable} -m pip download --no-deps zcbor` works here, or put the two archives into "
            f"{sys.argv[1]}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
