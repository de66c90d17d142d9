"""A Debian userland of another processor, made without root in `build/raspberry/<architecture>`.

apt downloads Python and what it needs, signed, into a folder of its own, dpkg unpacks it, and pip brings the
wheels of that processor. QEMU's user mode runs its programs: each system call is this kernel's, each
instruction the other processor's. About 25 MB are fetched and 10 s pass, once.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "raspberry"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"  # that of Raspberry Pi OS whose Python is 3.11, the last one with tflite-runtime
DOWNLOAD_SECONDS = 300


class Unavailable(Exception):
    """This machine cannot make or run such a userland; says why."""


@dataclass(frozen=True)
class Architecture:
    """A processor: Debian's name, QEMU's program, what `platform.machine()` says, tags of wheels; Debian's
    packages beside Python, and the Python packages to bring with constraints of their own, where PyPI has no
    wheels of the pinned ones.
    """

    name: str
    qemu: str
    machine: str
    platforms: tuple[str, ...]
    packages: tuple[str, ...]
    in_place_of: tuple[str, ...] = ()
    from_debian: tuple[str, ...] = ()


ARM64 = Architecture(
    "arm64",
    "qemu-aarch64-static",
    "aarch64",
    ("manylinux_2_34_aarch64", "manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
    ("python3", "libstdc++6"),
)
ARMHF = Architecture(
    "armhf",
    "qemu-arm-static",
    "armv7l",
    ("manylinux_2_34_armv7l", "manylinux_2_31_armv7l", "manylinux_2_17_armv7l", "manylinux2014_armv7l"),
    ("python3", "libstdc++6", "libatomic1", "python3-numpy", "python3-cffi-backend"),
    in_place_of=("cbor2<6",),
    from_debian=("numpy", "cffi"),
)
WHEELS = (
    "cbor2", "cffi", "click", "cryptography", "flatbuffers", "markdown-it-py", "mdurl", "numpy<2",
    "pycparser", "pygments", "pyserial", "rich", "tflite", "tflite-runtime",
)  # fmt: skip
"""What `kilofed[pi]` installs on Python 3.11: a test compares it with the wheel's own requirements."""


@dataclass(frozen=True)
class Userland:
    """One that is there. root: its files."""

    of: Architecture
    root: Path

    @property
    def site(self) -> Path:
        """Where its wheels are unpacked."""
        return self.root / "opt" / "kilofed"

    def python(self, *arguments: str) -> list[str]:
        """The command that runs its Python with `arguments`."""
        libraries = next((self.root / "usr" / "lib").glob("arm*gnueabihf"), None) or self.root / "usr" / "lib"
        paths = [self.site, self.root / "usr" / "lib" / "python3" / "dist-packages"]
        return [
            self.of.qemu,
            "-L", str(self.root),
            "-E", "PYTHONPATH=" + ":".join(map(str, paths)),
            "-E", f"LD_LIBRARY_PATH={libraries / 'blas'}:{libraries / 'lapack'}",
            str(self.root / "usr" / "bin" / "python3.11"),
            *arguments,
        ]  # fmt: skip


def make(of: Architecture, wheel: Path) -> Userland:
    """The userland, made if it is not there, with kilofed's `wheel` in it. Raises Unavailable."""
    for tool in (of.qemu, "apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {tool} here (Debian packages qemu-user-static, apt, dpkg)")
    if not KEYRING.is_file():
        raise Unavailable(f"no {KEYRING}: this is not Debian (package debian-archive-keyring)")
    PLACE.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(Path(__file__).read_bytes() + (ROOT / "tools" / "constraints.txt").read_bytes())
    with (PLACE / f".{of.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = Userland(of, PLACE / of.name)
        stamp = PLACE / f".{of.name}.stamp"
        if not stamp.is_file() or stamp.read_text() != key.hexdigest():
            stamp.unlink(missing_ok=True)
            shutil.rmtree(place.root, ignore_errors=True)
            _unpack(of, place.root)
            _wheels(of, place.site)
            stamp.write_text(key.hexdigest())
        for old in ("kilofed", "kilofed_pi", "kilofed_tools"):
            shutil.rmtree(place.site / old, ignore_errors=True)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place.site)
    return place


def _unpack(of: Architecture, root: Path) -> None:
    """Debian's packages and all that they depend on, without running anything of theirs."""
    apt = PLACE / f"{of.name}.apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").write_bytes(b"")
    (apt / "sources").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
    settings = {
        "APT::Architecture": of.name,
        "APT::Architectures": of.name,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",  # or, as root, apt would want to write as somebody else
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources",
        "Dir::Etc::sourceparts": "/dev/null",
        "Debug::NoLocking": "true",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    _run(["apt-get", *options, "-q", "update"])
    _run(["apt-get", *options, "-q", "-y", "--download-only", "install", *of.packages])
    root.mkdir(parents=True)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)])
    shutil.rmtree(apt)


def _wheels(of: Architecture, site: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps"]
    where = ["--target", str(site), "--python-version", "3.11", "--implementation", "cp"]
    where += ["--only-binary=:all:", *(f"--platform={tag}" for tag in of.platforms)]
    bare = [name.partition("<")[0] for name in of.in_place_of]
    pinned = [w for w in WHEELS if w.partition("<")[0] not in {*bare, *of.from_debian}]
    _run([*pip, *where, "-c", str(ROOT / "tools" / "constraints.txt"), *pinned])
    if of.in_place_of:
        _run([*pip, *where, *of.in_place_of])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired as late:
        raise Unavailable(f"{command[0]} did not end in {DOWNLOAD_SECONDS} s") from late
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Unavailable(f"{command[0]} failed: {' / '.join(last)}")
