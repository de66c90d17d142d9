"""Serial ports: which are there, and why one cannot be opened."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial

from kilofed.boards import ports


def test_ports_of_usb_are_found_with_what_is_behind_them() -> None:
    def comports() -> list[SimpleNamespace]:
        usb = {"serial_number": "9901", "product": "DAPLink", "location": "1-1.4:1.1"}
        bare = {"serial_number": None, "product": None, "location": None}
        return [
            SimpleNamespace(device="/dev/ttyUSB0", vid=0x1A86, pid=0x7523, **bare),
            SimpleNamespace(device="/dev/ttyS0", vid=None, pid=None, **bare),
            SimpleNamespace(device="/dev/ttyACM0", vid=0x0D28, pid=0x0204, **usb),
        ]

    found = ports.attached(comports)
    assert found == [
        ports.Port("/dev/ttyACM0", 0x0D28, 0x0204, "9901", "DAPLink", "1-1.4"),
        ports.Port("/dev/ttyUSB0", 0x1A86, 0x7523),
    ]
    assert [port.usb for port in found] == ["0d28:0204", "1a86:7523"]
    assert ports.Port("COM1").usb == ""


def test_a_port_nothing_speaks_against_is_not_refused() -> None:
    ours, theirs = pty.openpty()
    try:
        assert ports.refusal(os.ttyname(theirs)) is None, "that we have it open ourselves does not count"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_port_that_is_not_there() -> None:
    found = ports.refusal("/dev/ttyNONE")
    assert found is not None and (found.kind, found.what) == (ports.MISSING, "there is no port /dev/ttyNONE")
    assert ports.explain("/dev/ttyNONE", FileNotFoundError(errno.ENOENT, "no")).kind == ports.MISSING


def test_a_port_of_a_group_one_is_not_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import grp

    port = tmp_path / "tty"
    port.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name="dialout"))
    found = ports.refusal(str(port))
    assert found is not None and found.kind == ports.DENIED
    assert "sudo usermod -aG dialout $USER" in found.next_step
    told = ports.explain(str(port), serial.SerialException(errno.EACCES, "denied"))
    assert (told.kind, told.next_step) == (found.kind, found.next_step)


def test_a_port_that_another_program_has_open_is_refused_with_its_name() -> None:
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"p = open({name!r}, 'rb', 0); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        found = ports.refusal(name)
        assert found is not None and found.kind == ports.BUSY
        assert f"(process {holder.pid})" in found.what
        assert ports.explain(name, serial.SerialException(errno.EBUSY, "busy")) == found
    finally:
        holder.communicate(b"\n")
        os.close(ours)
        os.close(theirs)


def test_what_is_none_of_these_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    found = ports.explain("/dev/ttyACM0", OSError(errno.EIO, "Input/output error"))
    assert found.kind == ports.FAILED and "Input/output error" in found.what
