"""`kilofed doctor`: looks at this machine, and says of each thing kilofed needs whether it is there.

A `Finding` is one thing looked at. Its state is

    ok        it is there and works
    optional  it is not there, and only what `needed_for` names goes without it
    broken    it is not there and emulated boards or models need it, or it is there and does not work

and whatever is not ok carries exactly one next step. Nothing is changed, and no program is run but those that
say their version; `examine` takes a second or two.
"""

from __future__ import annotations

import grp
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kilofed.boards import catalogue
from kilofed.boards.build import TOOLS
from kilofed.boards.players import NODE_TOOLS, QEMU, QEMU_PACKAGE
from kilofed.native import TOOLS as NATIVE_TOOLS
from kilofed_tools.errors import KilofedError

State = Literal["ok", "optional", "broken"]

OLDEST = {"cmake": (3, 25)}
"""Oldest versions that will do, where one is known: firmware/CMakePresets.json names CMake's."""

NEEDED_BYTES = 500_000_000
"""What a build of all boards, a virtual environment without TensorFlow, and a long run take."""

TIMEOUT_S = 20.0
_VERSION = re.compile(r"\d+(?:\.\d+)+")

#: USB vendor -> what its serial adapters are called, and the kernel module that makes a port of one.
USB_SERIAL = {
    "0403": ("FTDI", "ftdi_sio"),
    "0483": ("ST-Link", "cdc_acm"),
    "067b": ("Prolific", "pl2303"),
    "0d28": ("DAPLink", "cdc_acm"),
    "10c4": ("CP210x", "cp210x"),
    "1366": ("J-Link", "cdc_acm"),
    "1a86": ("CH340", "ch341"),
    "2e8a": ("RP2040", "cdc_acm"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. name: what. found: what was seen, for people. next_step: "" when it is ok.

    needed_for: what goes without it, "" for everything.
    """

    name: str
    state: State
    found: str
    next_step: str = ""
    needed_for: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def examine(*, folder: Path | None = None, usb: Path = Path("/sys/bus/usb/devices")) -> list[Finding]:
    """All findings, in the order in which a person would mend them.

    folder: where builds and runs go, the checkout's by default. usb: where the kernel lists USB devices.
    """
    root = catalogue.repository()
    return [
        python(),
        *packages(),
        runtime(),
        digits(),
        checkout(root),
        *toolchain(),
        emulator(),
        *extras(),
        tensorflow(),
        *serial_ports(),
        *drivers(usb),
        *_meddlers(),
        disk(folder or root or Path.cwd()),
        register(),
    ]


def _meddlers() -> Iterator[Finding]:
    from kilofed.diagnosis import meddlers

    return meddlers()


# ---- Python ------------------------------------------------------------------------------------------


def python() -> Finding:
    """The interpreter. Older ones than 3.10 do not get this far; 3.11 is the last with a tflite-runtime."""
    return Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})")


def packages() -> Iterator[Finding]:
    """What the distribution requires of itself, without extras, against what is installed."""
    try:
        wanted = importlib.metadata.requires("kilofed") or []
        version = importlib.metadata.version("kilofed")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("kilofed", "broken", "not installed", "install it: pip install -e . in its checkout")
        return
    yield Finding("kilofed", "ok", version)
    for line in wanted:
        name, _, marker = line.partition(";")
        match = re.fullmatch(r"\s*([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)\s*", name)
        if match is None or "extra" in marker or ("python_version" in marker and sys.version_info >= (3, 11)):
            continue
        package, oldest = match.groups()
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "broken", "not installed", f"pip install '{package}>={oldest}'")
            continue
        if _numbers(installed) < _numbers(oldest):
            yield Finding(package, "broken", installed, f"pip install --upgrade '{package}>={oldest}'")
        else:
            yield Finding(package, "ok", installed)


def runtime() -> Finding:
    """A TFLite runtime that really loads: numpy 2 beside tflite-runtime is its usual fault."""
    from kilofed_tools.evaluate import runtime_module

    try:
        module = runtime_module()
    except KilofedError as error:
        return Finding("TFLite runtime", "broken", error.what, error.next_step)
    name = str(module.__name__).partition(".")[0]
    exact = "the boards' bytes" if name == "tflite_runtime" else "may differ from the boards by one"
    return Finding("TFLite runtime", "ok", f"{_version_of(name)} ({exact})")


def digits() -> Finding:
    """The demo's images."""
    from kilofed_tools.digits import data_file

    try:
        return Finding("digits", "ok", str(data_file()))
    except KilofedError as error:
        return Finding("digits", "optional", error.what, error.next_step, "the demo, and runs without --data")


def tensorflow() -> Finding:
    """TensorFlow, by its metadata: importing it takes seconds."""
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            return Finding("TensorFlow", "ok", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(
        "TensorFlow",
        "optional",
        "not installed",
        "pip install 'kilofed[convert]'",
        "`kilofed quantize`, and `kilofed convert` from Keras",
    )


def _version_of(module: str) -> str:
    name = module.replace("_", "-")
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


# ---- toolchain and emulator --------------------------------------------------------------------------


def checkout(root: Path | None) -> Finding:
    """The firmware's sources."""
    if root is None:
        return Finding(
            "firmware sources", "optional", "an installed package has none",
            "clone the repository and run kilofed from there", "building, flashing and emulating boards",
        )  # fmt: skip
    return Finding("firmware sources", "ok", str(root / "firmware"))


def toolchain() -> Iterator[Finding]:
    """Compilers and build tools, each with its version, and the small C library of the boards."""
    for program, package in {**TOOLS, **NATIVE_TOOLS}.items():
        yield _program(program, package, ["--version"])
    compiler = shutil.which("arm-none-eabi-gcc")
    if compiler is not None:
        # Asked by name, the compiler prints a path when it has the file, and the bare name when it has not.
        said = _output([compiler, "-print-file-name=libc_nano.a"])
        if said is not None and "/" in said:
            yield Finding("newlib-nano", "ok", said.strip())
        else:
            yield Finding("newlib-nano", "broken", "not installed", _apt("libnewlib-arm-none-eabi"), _BOARDS)


def emulator() -> Finding:
    """QEMU, its version, and whether it knows every machine of the catalogue."""
    found = _program(QEMU, QEMU_PACKAGE, ["--version"])
    if found.state != "ok":
        return found
    listed = _output([QEMU, "-machine", "help"]) or ""
    known = {line.split()[0] for line in listed.splitlines() if line.strip()}
    lacking = [b.name for b in catalogue.all() if b.qemu and b.qemu not in known]
    if lacking:
        return Finding(
            QEMU, "broken", f"{found.found}, without {', '.join(lacking)}", _apt(QEMU_PACKAGE), _BOARDS
        )
    return found


def extras() -> Iterator[Finding]:
    """What only some of it needs: Node for the emulated Pico, and the package that speaks MQTT."""
    for program, package in NODE_TOOLS.items():
        found = _program(program, package, ["--version"])
        yield found if found.state == "ok" else replace(found, state="optional", needed_for="emulated Picos")
    if importlib.util.find_spec("paho") is None:
        wanted = "pip install 'kilofed[mqtt]'"
        yield Finding("paho-mqtt", "optional", "not installed", wanted, "devices over an MQTT broker")
    else:
        yield Finding("paho-mqtt", "ok", _version_of("paho-mqtt"))


_BOARDS = "emulated and real boards"


def _program(program: str, package: str, ask: list[str]) -> Finding:
    path = shutil.which(program)
    if path is None:
        return Finding(program, "broken", "not installed", _apt(package), _BOARDS)
    said = _output([path, *ask])
    match = _VERSION.search(said or "")
    if match is None:
        return Finding(program, "broken", f"{path} does not run", f"{_apt(package)} --reinstall", _BOARDS)
    oldest = OLDEST.get(program, ())
    if _numbers(match[0]) < oldest:
        wanted = ".".join(map(str, oldest))
        return Finding(
            program, "broken", match[0], f"install version {wanted} or newer of {package}", _BOARDS
        )
    return Finding(program, "ok", match[0])


def _apt(package: str) -> str:
    return f"apt-get install {package}"


def _output(command: list[str]) -> str | None:
    """What a program prints; None when it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


# ---- serial lines ------------------------------------------------------------------------------------


def serial_ports(list_ports: Callable[[], list[str]] | None = None) -> Iterator[Finding]:
    """Each serial port of USB, and whether this user may open it. list_ports: gives paths, for tests."""
    paths = (list_ports or _usb_ports)()
    for path in paths:
        yield may_open(Path(path))
    if not paths:
        yield Finding(
            "serial ports", "optional", "none", "plug a board in; emulated ones need none", "real boards"
        )


def _usb_ports() -> list[str]:
    from serial.tools import list_ports

    return sorted(p.device for p in list_ports.comports() if p.vid is not None)


def may_open(path: Path) -> Finding:
    """Whether a port is there and this user may open it; it is not opened."""
    name = f"port {path}"
    try:
        owner = path.stat().st_gid
    except OSError as error:
        return Finding(
            name, "broken", error.strerror or str(error),
            "unplug it and plug it in again, with another cable: many carry power only. `kilofed doctor`"
            " names drivers that are missing", "this board",
        )  # fmt: skip
    if os.access(path, os.R_OK | os.W_OK):
        return Finding(name, "ok", "may be opened")
    group = _group(owner)
    if group in {_group(g) for g in os.getgroups()} or group == "root":
        return Finding(name, "broken", "may not be opened", f"sudo chmod g+rw {path}", "this board")
    return Finding(
        name, "broken", f"belongs to the group {group}, and you do not",
        f"sudo usermod -aG {group} $USER, then log in again", "this board",
    )  # fmt: skip


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def drivers(usb: Path, names: Mapping[str, tuple[str, str]] = USB_SERIAL) -> Iterator[Finding]:
    """USB devices known to be serial adapters for which the kernel has made no port."""
    for device in sorted(usb.glob("*")):
        try:
            vendor = (device / "idVendor").read_text().strip()
        except OSError:
            continue  # a hub's interface, or nothing we may read
        if vendor not in names:
            continue
        what, module = names[vendor]
        # A port shows as tty/ttyACM0 or ttyUSB0/tty below one of the device's interfaces.
        if any(device.glob(f"{device.name}:*/tty*")):
            continue
        yield Finding(
            f"{what} on USB {device.name}", "broken", "no driver has made a serial port of it",
            f"sudo modprobe {module}, and plug it in again", "this board",
        )  # fmt: skip


# ---- files -------------------------------------------------------------------------------------------


def disk(folder: Path) -> Finding:
    """Room, and the right to write, where builds and runs go."""
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        return Finding("disk", "broken", f"{there} may not be written to", f"chmod u+w {there}")
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.1f} GB free in {there}"
    if free < NEEDED_BYTES:
        return Finding("disk", "broken", found, f"free {NEEDED_BYTES / 1e9:.1f} GB there")
    return Finding("disk", "ok", found)


def register() -> Finding:
    """The user's register of devices: whether it can be read, and how many are in it."""
    from kilofed.fleet import Fleet, default_path

    path = default_path()
    if not path.exists():
        return Finding("register of devices", "ok", f"none yet; it will be {path}")
    try:
        with Fleet(path) as fleet:
            return Finding("register of devices", "ok", f"{len(fleet.all())} in {path}")
    except KilofedError as error:
        return Finding("register of devices", "broken", error.what, error.next_step, "real boards")
