"""Hosts that are found by mDNS: two machines, played by two network namespaces with a wire between them.

Where namespaces cannot be made (no root, no `ip`), the tests that need them are skipped and say so.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilofed.link.errors import ConnectError
from kilofed.native import TOOLS, build_native
from kilofed.transports import mdns

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits" / "digits.tflite"
KILOFED = [sys.executable, "-c", "from kilofed.cli import main; main()"]
PI = [sys.executable, "-m", "kilofed_pi"]
PORT = 7300


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[tuple[list[str], list[str]]]:
    """How commands begin that run on either of two machines, 10.77.0.1 (fd77::1) and 10.77.0.2 (fd77::2)."""
    if shutil.which("ip") is None:
        pytest.skip("not installed: ip (of iproute2)")
    names = [f"kf{os.getpid()}{side}" for side in "ab"]
    wires = [f"v{os.getpid()}{side}" for side in "ab"]
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", wires[0], "type", "veth", "peer", "name", wires[1])
        for number, (name, wire) in enumerate(zip(names, wires, strict=True), 1):
            ip("link", "set", wire, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", wire)
            ip("-n", name, "-6", "addr", "add", f"fd77::{number}/64", "dev", wire, "nodad")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", wire, "up")
        yield ["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def device(folder: Path) -> list[str]:
    """A registered device's options; its register is folder/fleet.sqlite."""
    made = [*KILOFED, "pi", "--name", "attic", "--samples", "60", "--out", str(folder / "attic")]
    subprocess.run([*made, "--fleet", str(folder / "fleet.sqlite")], check=True, capture_output=True)
    files = folder / "attic"
    return [
        "--model", str(DIGITS), "--settings", str(files / "settings.bin"),
        "--samples", str(files / "samples.bin"),
    ]  # fmt: skip


def serve(machine: list[str], folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [*machine, *KILOFED, "run", "--expect", "1", "--rounds", "2", "--json", *options]
    command += ["--fleet", str(folder / "fleet.sqlite"), "--out", str(folder / "run")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def join(machine: list[str], connect: str, options: list[str]) -> subprocess.Popen[str]:
    command = [*machine, *PI, "--connect", connect, *options]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def rounds_of(host: subprocess.Popen[str], joined: subprocess.Popen[str]) -> str:
    """Waits for the run, ends the device, and returns what that said."""
    try:
        out, err = host.communicate(timeout=90)
        assert host.returncode == 0, err
        assert json.loads(out)["rounds"] == 2
    finally:
        host.kill()
        joined.terminate()
        said = joined.communicate(timeout=20)[1]
    return str(said)


def test_a_device_finds_the_host_that_announces_itself(
    machines: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    options = device(tmp_path)
    joined = join(machines[1], "auto", options)
    host = serve(machines[0], tmp_path, "--listen", f"*:{PORT}", "--announce")
    assert f"connected to 10.77.0.1:{PORT}" in rounds_of(host, joined)


@pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"not installed: {', '.join(TOOLS)}"
)
def test_the_core_as_a_process_finds_it_too(machines: tuple[list[str], list[str]], tmp_path: Path) -> None:
    options = device(tmp_path)
    command = [*machines[1], str(build_native()), "--connect", "auto", *options]
    joined = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    host = serve(machines[0], tmp_path, "--listen", f"*:{PORT}", "--announce")
    assert f"found 10.77.0.1:{PORT}" in rounds_of(host, joined)


@pytest.mark.parametrize(
    ("listen", "connect"),
    [("[::]", "[fd77::1]"), ("[fd77::1]", "[fd77::1]"), ("*", "[fd77::1]"), ("*", "10.77.0.1")],
)
def test_both_families_carry_a_run(
    machines: tuple[list[str], list[str]], tmp_path: Path, listen: str, connect: str
) -> None:
    options = device(tmp_path)
    host = serve(machines[0], tmp_path, "--listen", f"{listen}:{PORT}")
    joined = join(machines[1], f"{connect}:{PORT}", options)
    assert f"connected to {connect}:{PORT}" in rounds_of(host, joined)


async def test_an_address_of_this_machine_only_is_not_announced() -> None:
    with pytest.raises(ConnectError, match=r"nobody else reaches 127\.0\.0\.1"):
        async with mdns.announce("127.0.0.1", PORT):
            pass


def test_what_others_reach() -> None:
    assert mdns.reachable("127.0.0.1") == []
    assert mdns.reachable("::1") == []
    assert mdns.reachable("203.0.113.9") == [ipaddress.ip_address("203.0.113.9")]
    everywhere = mdns.reachable("*")
    assert not any(ip.is_loopback for ip in everywhere)
    assert set(mdns.reachable("0.0.0.0")) == {ip for ip in everywhere if ip.version == 4}
    with pytest.raises(ConnectError, match="no address of this machine"):
        mdns.reachable("no.such.name.invalid")


async def test_without_the_library_the_step_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf.asyncio", None)
    with pytest.raises(ConnectError, match=r"install it: pip install 'kilofed\[net\]'"):
        await mdns.find()
    with pytest.raises(ConnectError, match="needs the package zeroconf"):
        async with mdns.announce("*", PORT):
            pass
