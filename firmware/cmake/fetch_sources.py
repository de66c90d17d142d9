"""Fetch the C sources of the libraries the firmware uses, pinned by hash, into a folder of the build.

    python fetch_sources.py build/deps              zcbor and monocypher, which the core needs
    python fetch_sources.py build/deps lwip

zcbor (CBOR) and Monocypher (BLAKE2b and the cipher) publish their C inside Python source distributions, so
pip brings them from wherever pip is set up to look. lwIP (TCP/IP, for boards on Ethernet) is what Debian and
Ubuntu package: apt's own downloader brings the upstream archive from whatever archive this machine installs
from, without root. Each is checked against the SHA-256 below; only the C files named below are unpacked.
Nothing is done when they are there already, so that every build may call this. An archive that was put into
the folder by hand is taken. Exit status 1, with what to do, when one cannot be had.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One library: the distribution that carries it, and ``files``: path in the archive -> name in its
    folder; a path that ends in "/" is a folder, of which the C files and headers are meant.
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


@dataclass(frozen=True)
class DebianSource(Source):
    """One that Debian packages. version: upstream's; ``suffix``: what Debian adds to it."""

    suffix: str = ""

    @property
    def archive(self) -> str:
        return f"{self.distribution}_{self.version}{self.suffix}.orig.tar.xz"

    @property
    def pool(self) -> list[str]:
        """Where it lies below an archive's root: Debian's place, and Ubuntu's."""
        return [f"pool/{part}/{self.distribution[0]}/{self.distribution}" for part in ("main", "universe")]


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
    DebianSource(
        "lwip",
        "lwip",
        "2.1.3",
        "0a8276d09fc4e97bbba2f953d74af2388fc2195ea156be9d7589e297a68fde24",
        {
            "src/core/": "src/core",
            "src/netif/ethernet.c": "src/netif/ethernet.c",
            "src/include/lwip/": "src/include/lwip",
            "src/include/netif/": "src/include/netif",
            "COPYING": "COPYING",
        },
        "+dfsg1",
    ),
)


#: What every build needs.
CORE = ("zcbor", "monocypher")


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


def download_from_debian(source: DebianSource, deps: Path) -> None:
    """Bring the archive of ``source`` into ``deps`` with apt's downloader. Raises OSError: there is none, or
    no archive that this machine knows has it.
    """
    helper = shutil.which("apt-helper", path="/usr/lib/apt:/usr/libexec/apt")
    roots = ""
    if helper is not None and shutil.which("apt-get") is not None:
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
        roots = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    said = "apt is not here" if helper is None else "apt knows no archive"
    for root in dict.fromkeys(roots.split()):
        for folder in source.pool:
            part = deps / f".{source.archive}"
            uri = f"{root.rstrip('/')}/{folder}/{source.archive}"
            command = [str(helper), "download-file", uri, str(part), f"SHA256:{source.sha256}"]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                part.replace(deps / source.archive)
                return
            said = (done.stderr.strip().splitlines() or [f"apt-helper ended with {done.returncode}"])[0]
            part.unlink(missing_ok=True)
    raise OSError(f"{source.archive}: {said}")


def _wanted(source: Source, name: str) -> str | None:
    """What a member of the archive is called in the library's folder; None: it stays where it is."""
    inside = name.partition("/")[2]
    if inside in source.files:
        return source.files[inside]
    for folder, place in source.files.items():
        if folder.endswith("/") and inside.startswith(folder) and inside.endswith((".c", ".h")):
            return f"{place}/{inside.removeprefix(folder)}"
    return None


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
    found = set()
    with tarfile.open(archive) as tar:
        for member in tar:
            place = _wanted(source, member.name)
            if place is None or not member.isfile() or ".." in Path(place).parts:
                continue
            content = tar.extractfile(member)
            assert content is not None  # as it is a file
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content.read())
            found.add(place)
    for inside, place in source.files.items():
        if not any(name == place or name.startswith(f"{place}/") for name in found):
            raise ValueError(f"{archive} has no {inside}")
    (folder / ".stamp").write_text(source.stamp)


def fetch(deps: Path, names: list[str]) -> None:
    """Make the libraries ``names`` present under ``deps``. Safe to call from several builds at once."""
    sources = [source for source in SOURCES if source.folder in names]
    if all(present(source, deps) for source in sources):
        return
    deps.mkdir(parents=True, exist_ok=True)
    with (deps / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [source for source in sources if not present(source, deps)]
        absent = [source for source in missing if not (deps / source.archive).is_file()]
        with_pip = [source for source in absent if not isinstance(source, DebianSource)]
        if with_pip:
            download(with_pip, deps)
        for source in absent:
            if isinstance(source, DebianSource):
                download_from_debian(source, deps)
        for source in missing:
            unpack(source, deps)


def main() -> int:
    known = [source.folder for source in SOURCES]
    names = sys.argv[2:] or list(CORE)
    if len(sys.argv) < 2 or not set(names) <= set(known):
        print(f"usage: fetch_sources.py FOLDER [LIBRARY...], of {', '.join(known)}", file=sys.stderr)
        return 2
    deps = Path(sys.argv[1]).resolve()
    try:
        fetch(deps, names)
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        archives = [source.archive for source in SOURCES if source.folder in names]
        said = (getattr(error, "stdout", None) or "").strip()
        print(
            f"{said}\nfetch_sources.py: {error}\nnot all C sources could be had: check that "
            f"`{sys.executable} -m pip download --no-deps zcbor` works here"
            + (" and that apt installs from an archive with the source package lwip" * ("lwip" in names))
            + f", or put {' and '.join(archives)} into {deps}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
