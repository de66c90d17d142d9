"""Captures: written, cut anywhere, read back, and told as what crossed the line."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tests.captured import HEAD, ID, crossing
from tests.link_world import KEY

from kilofed.capture import CaptureReader, CaptureWriter, Packet, follow_capture, read_capture
from kilofed.cli import run as kilofed
from kilofed.errors import StoreError
from kilofed.fleet import Device, Fleet
from kilofed.link.frames import Direction, encode_frame
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Chunk, Hello, Info, Status
from kilofed.link.tap import Seen, Tap

ROOT = Path(__file__).resolve().parents[2]
DISSECTOR = ROOT / "tools" / "wireshark" / "kilofed.lua"


def seen(crossed: list[tuple[float, bool, bytes]], tap: Tap) -> list[Seen]:
    return [one for at, up, data in crossed for one in tap.feed(at, up, data)]


def write(path: Path, crossed: list[tuple[float, bool, bytes]], line: str = "/dev/ttyACM0") -> None:
    times = iter(at for at, _, _ in crossed)
    with CaptureWriter(path, clock=lambda: next(times)) as capture:
        for _, up, data in crossed:
            capture(line, up, data)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "it.pcapng"
    long = random.Random(2).randbytes(70_000)
    with CaptureWriter(path, clock=lambda: 1234567890.123456) as capture:
        capture("/dev/ttyACM0", True, b"up")
        capture("[::1]:7300", False, b"down")
        capture("/dev/ttyACM0", False, long)
    packets = list(read_capture(path))
    assert packets[:2] == [
        Packet(1234567890.123456, "/dev/ttyACM0", True, b"up"),
        Packet(1234567890.123456, "[::1]:7300", False, b"down"),
    ]
    assert b"".join(packet.data for packet in packets[2:]) == long
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_capture_cut_at_any_byte_is_read_to_its_last_whole_block(tmp_path: Path) -> None:
    path, cut = tmp_path / "whole.pcapng", tmp_path / "cut.pcapng"
    write(path, [(float(n), n % 2 == 0, bytes(n)) for n in range(1, 8)])
    content, whole = path.read_bytes(), list(read_capture(path))
    before = 0
    for size in range(44, len(content)):  # behind the section
        cut.write_bytes(content[:size])
        left: list[int] = []
        packets = list(read_capture(cut, on_cut=left.append))
        assert packets == whole[: len(packets)]
        assert len(packets) >= before
        before = len(packets)
        reader = CaptureReader()
        assert [p for at in range(size) for p in reader.feed(content[at : at + 1])] == packets
        assert left == ([reader.cut] if reader.cut else [])
        assert reader.whole + reader.cut == size
    assert before == 6


def test_a_file_that_is_there_goes_on_behind_its_last_whole_block(tmp_path: Path) -> None:
    path = tmp_path / "it.pcapng"
    write(path, [(1.0, True, b"before")])
    path.chmod(0o644)
    with path.open("ab") as stream:
        stream.write(b"\6\0\0\0\x40\0\0")  # a block that a kill cut
    write(path, [(2.0, False, b"after")], line="other")
    assert [(p.line, p.data) for p in read_capture(path)] == [
        ("/dev/ttyACM0", b"before"),
        ("other", b"after"),
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("what I wanted to remember about the garden")
    with pytest.raises(StoreError, match="no capture"):
        CaptureWriter(path)
    assert path.read_text().startswith("what I")
    with pytest.raises(StoreError, match="no capture"):
        list(read_capture(path))
    with pytest.raises(StoreError, match="cannot be written"):
        CaptureWriter(tmp_path / "nowhere" / "it.pcapng")
    with pytest.raises(StoreError, match="cannot be read"):
        list(read_capture(tmp_path / "nothing.pcapng"))


def test_a_full_disk_ends_the_capture_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said, room = tmp_path / "it.pcapng", [], [150]
    real = os.write

    def write_some(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(room[0], len(data))
        room[0] -= taken
        return real(fd, data[:taken])

    with CaptureWriter(path, on_trouble=said.append) as capture:
        monkeypatch.setattr(os, "write", write_some)
        for number in range(10):
            capture("line", True, bytes([number]) * 20)
    monkeypatch.undo()
    assert said == [f"the capture {path} ends here: No space left on device"] == [capture.trouble]
    left: list[int] = []
    assert [p.data for p in read_capture(path, on_cut=left.append)] == [bytes(20)]
    assert not left


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "it.pcapng"
    write(path, [(1.0, True, b"one"), (2.0, True, b"two")])
    content = bytearray(path.read_bytes())
    content[-4:] = struct.pack("<I", 8)  # the closing size of the last block
    path.write_bytes(content)
    packets = read_capture(path)
    assert next(packets).data == b"one"
    with pytest.raises(StoreError, match=r"damaged at byte \d+"):
        next(packets)


def test_a_capture_is_followed_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "it.pcapng"
    todo = [b"two", b"three"]
    with CaptureWriter(path) as capture:
        capture("line", True, b"one")

        def wait() -> bool:
            if todo:
                capture("line", True, todo.pop(0))
                return True
            return False

        assert [p.data for p in follow_capture(path, wait=wait)] == [b"one", b"two", b"three"]


# ---- what it says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "clear"])
def test_a_session_is_told_from_its_bytes(key: bytes | None) -> None:
    tap = Tap(keys=lambda device_id: [bytes(32), KEY] if device_id == ID else [])
    found = seen(crossing(key), tap)
    frames = [one for one in found if one.kind != "stray"]
    (boot,) = (one for one in found if one.kind == "stray")
    assert boot.text.endswith(r"boot: kilofed 0.1\r\n")
    assert all(one.message is not None and not one.why for one in frames)
    assert {type(one.message) for one in frames} >= {Hello, Info, Chunk, Status}
    chunk = [one for one in found if isinstance(one.message, Chunk)][-1]
    assert chunk.note.endswith("whole: the hash is right")
    assert chunk.kind == ("encrypted" if key else "session")
    figures = tap.figures
    assert figures.sessions == 1 and figures.device == ID.hex() and figures.board == "posix"
    assert figures.damaged == 1 and figures.retries == 0
    assert figures.rtt is not None and 0 <= figures.rtt < 0.1
    assert figures.frames_up + figures.frames_down == len(frames)
    assert figures.bytes_up + figures.bytes_down == sum(len(data) for _, _, data in crossing(key))


@pytest.mark.parametrize("keys", [[], [bytes(32)]])
def test_without_its_key_an_encrypted_session_is_sizes_only(keys: list[bytes]) -> None:
    crossed = crossing(KEY)
    found = seen(crossed, Tap(keys=lambda _: keys))
    closed = [one for one in found if one.kind == "encrypted"]
    assert closed and all(one.message is None for one in closed)
    assert all("no key" in one.why and "bytes" in one.why for one in closed)
    assert KEY.hex() not in "".join(one.text + json.dumps(one.as_json()) for one in found)


def test_why_a_frame_is_none() -> None:
    crossed = crossing(None)
    up = next(data for _, from_device, data in crossed[3:] if from_device)
    frame = up[: up.index(0) + 1]
    turned = bytearray(frame)
    turned[-3] ^= 4
    tap = Tap()
    seen(crossed, tap)
    cases = [
        (True, frame, "for the second time"),
        (True, bytes(turned), "its check is wrong"),
        (False, frame, "of the other direction"),
        (True, b"\xff\1\0", "broken COBS"),
        (True, b"hi there\0", "broken COBS"),
        (True, bytes([3, 7, 7, 0]), "too short"),
        (True, b"\1" * 1100 + b"\0", "longer than any frame"),
    ]
    for from_device, data, why in cases:
        assert why in tap.feed(9.0, from_device, data)[0].why
    assert tap.figures.damaged == 1 + 6 + 2  # the longest one comes in two parts
    late = seen(crossed[6:], Tap())
    assert late and all("its session began before" in one.why for one in late if one.kind != "stray")


def test_a_repeat_is_called_one() -> None:
    host = HostEndpoint(rng=random.Random(1).randbytes, insecure=True)
    host.poll(1.0)
    tap = Tap()
    tap.feed(1.0, False, host.data_to_send())
    tap.feed(2.0, True, b"half a wo")
    assert [one.why for one in tap.rest(3.0)] == ["nothing ends it"]
    assert tap.rest(4.0) == []


def test_decode_prints_lines_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, register = tmp_path / "it.pcapng", tmp_path / "fleet.sqlite"
    write(path, crossing(KEY))
    with Fleet(register) as fleet:
        fleet.add(Device(ID, "kitchen", "posix", KEY, 0.0))
    assert kilofed(["decode", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("hello version=1" in line for line in lines)
    assert any("no key for this device" in line for line in lines)
    assert not any("chunk" in line for line in lines)
    assert kilofed(["decode", str(path), "--fleet", str(register), "--json"]) == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(made) == len(lines)
    chunk = next(one for one in made if one.get("message") == "chunk")
    assert chunk["fields"]["data"] == HEAD.hex() and chunk["line"] == "/dev/ttyACM0"
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    assert kilofed(["decode", str(path)]) == 0
    assert "the last block is cut" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("tshark") is None, reason="not installed: tshark")
def test_wireshark_reads_it_with_our_dissector(tmp_path: Path) -> None:
    path = tmp_path / "it.pcapng"
    crossed = crossing(None)
    pieces = [(at, up, data[i : i + 5]) for at, up, data in crossed for i in range(0, len(data), 5)]
    clear = encode_frame(b"\x82\x00\x01", direction=Direction.FROM_HOST)
    write(path, [*pieces, (9.0, True, clear)])  # a probe that came back
    fields = ["kilofed.message", "kilofed.stray.why", "kilofed.check.good", "_ws.malformed"]
    done = subprocess.run(
        ["tshark", "-X", f"lua_script:{DISSECTOR}", "-r", str(path), "-T", "fields",
         *[word for name in fields for word in ("-e", name)]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "rror" not in done.stderr.replace("Running as user", "")
    rows = [row.split("\t") for row in done.stdout.splitlines()]
    assert len(rows) == len(pieces) + 1
    told = [name for row in rows for name in row[0].split(",") if name]
    tap = seen(crossed, Tap())
    assert sorted(told) == sorted(one.name for one in tap if one.kind != "stray")
    why = [row[1] for row in rows if row[1]]
    assert len(why) == 2 and why[-1] == "a frame of the other direction, come back"
    assert not any(row[3] for row in rows if len(row) > 3)
