"""TensorBoard's event files, read back by a parser that shares nothing with the writer, and by TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report_run import BASELINES, HOSTILE, make_run

from kilofed.errors import RunFolderError
from kilofed.store import open_run
from kilofed.tensorboard import Scalars, crc32c, curves, encode_scalars, events_file, record, write_events

# ---- another reader ------------------------------------------------------------------------------


def slow_crc(data: bytes) -> int:
    """CRC-32C by long division, most significant bit first, of the reversed bytes."""
    reverse = lambda value, bits: int(f"{value:0{bits}b}"[::-1], 2)  # noqa: E731
    rest = 0xFFFFFFFF
    for byte in data:
        rest ^= reverse(byte, 8) << 24
        for _ in range(8):
            rest = (rest << 1 ^ (0x1EDC6F41 if rest >> 31 else 0)) & 0xFFFFFFFF
    return reverse(rest ^ 0xFFFFFFFF, 32)


def unmask(masked: int) -> int:
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated << 15 | rotated >> 17) & 0xFFFFFFFF


def records(content: bytes) -> Iterator[bytes]:
    while content:
        (length,) = struct.unpack_from("<Q", content)
        assert unmask(struct.unpack_from("<I", content, 8)[0]) == slow_crc(content[:8])
        data = content[12 : 12 + length]
        assert len(data) == length
        assert unmask(struct.unpack_from("<I", content, 12 + length)[0]) == slow_crc(data)
        yield data
        content = content[16 + length :]


def fields(data: bytes) -> list[tuple[int, float | int | bytes]]:
    found: list[tuple[int, float | int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                found.append((key >> 3, varint()))
            case 1:
                found.append((key >> 3, struct.unpack_from("<d", data, at)[0]))
                at += 8
            case 2:
                size = varint()
                assert at + size <= len(data)
                found.append((key >> 3, data[at : at + size]))
                at += size
            case 5:
                found.append((key >> 3, struct.unpack_from("<f", data, at)[0]))
                at += 4
            case other:
                raise AssertionError(f"wire type {other}")
    return found


def scalars(data: bytes) -> Scalars:
    event = dict(fields(data))
    values = {}
    for number, value in fields(bytes(event[5])):  # type: ignore[arg-type]
        assert number == 1
        entry = dict(fields(value))  # type: ignore[arg-type]
        values[bytes(entry[1]).decode()] = entry[2]  # type: ignore[arg-type]
    return Scalars(event[1], event[2], values)  # type: ignore[arg-type]


# ---- the format ----------------------------------------------------------------------------------


def test_the_checksum_is_castagnolis() -> None:
    # RFC 3720, B.4
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@given(st.binary(max_size=300))
def test_a_record_comes_out_as_it_went_in(data: bytes) -> None:
    assert list(records(record(data))) == [data]


single = st.floats(width=32, allow_nan=False)


@given(
    st.floats(0, 1e12),
    st.integers(0, 2**40),
    st.dictionaries(st.text(max_size=200), single, max_size=5),
)
def test_scalars_come_out_as_they_went_in(time: float, step: int, values: dict[str, float]) -> None:
    assert scalars(encode_scalars(Scalars(time, step, values))) == Scalars(time, step, values)


def test_a_file_opens_with_its_version() -> None:
    first, second = records(events_file(1.5, [Scalars(2.5, 3, {"loss": 0.25})]))
    assert fields(first) == [(1, 1.5), (3, b"brain.Event:2")]
    assert scalars(second) == Scalars(2.5, 3, {"loss": 0.25})


# ---- a run ---------------------------------------------------------------------------------------


def test_the_curves_of_a_run_are_its_records(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with open_run(folder) as run:
        written = write_events(run, tmp_path / "events")
        assert write_events(run, tmp_path / "events") == written, "again into the same files"
        rounds = run.rounds()
        names = set(curves(run))
    assert {str(p.parent.relative_to(tmp_path / "events")) for p in written} == names
    assert all(len(list(p.parent.iterdir())) == 1 + (p.parent.name == "devices") for p in written)
    read = {
        str(p.parent.relative_to(tmp_path / "events")): [
            scalars(r) for r in list(records(p.read_bytes()))[1:]
        ]
        for p in written
    }
    federated = read["federated"]
    assert [s.step for s in federated] == [r.number for r in rounds]
    for step, entry in zip(federated, rounds, strict=True):
        assert step.wall_time == entry.started + entry.seconds
        assert step.values["accuracy/test"] == pytest.approx(entry.accuracy, abs=1e-7)
        assert step.values["accuracy/personal"] == pytest.approx(entry.own_accuracy, abs=1e-7)
        assert step.values["devices/dropped"] == len(entry.dropped)
        assert step.values["bytes/up"] == sum(d.bytes_up for d in entry.taken) / len(entry.taken)
    assert [s.step for s in read["alone"]] == [1, rounds[-1].number]
    assert read["central"][0].values["accuracy/test"] == pytest.approx(BASELINES["central"]["test"])  # type: ignore[index]
    anna = read["devices/anna"]
    assert [s.values["bytes/up"] for s in anna] == [
        d.bytes_up for r in rounds for d in r.taken if d.name == "anna"
    ]


def test_no_name_of_a_device_leaves_the_folder(tmp_path: Path) -> None:
    with open_run(make_run(tmp_path / "run")) as run:
        assert any(d.name == HOSTILE for d in run.devices())
        for path in write_events(run, tmp_path / "a" / "events"):
            relative = path.resolve().relative_to((tmp_path / "a" / "events").resolve())
            assert len(relative.parts) in (2, 3)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "...", "../x", "a/b", "ü", "a b", "\0"])
def test_names_are_made_fit_for_files(name: str) -> None:
    from kilofed.tensorboard import _file_name

    made = _file_name(name)
    assert made.strip(".")
    assert not set(made) & set("/\0 \\")


def test_a_run_without_rounds_has_no_curves(tmp_path: Path) -> None:
    with open_run(make_run(tmp_path / "run", rounds=0)) as run:
        assert write_events(run, tmp_path / "events") == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        open_run(make_run(tmp_path / "run")) as run,
        pytest.raises(RunFolderError, match="cannot be written"),
    ):
        write_events(run, tmp_path / "file")


_READER = """
import json, pathlib, sys
from tensorflow.core.util import event_pb2
from tensorflow.python.summary.summary_iterator import summary_iterator
found = {}
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*tfevents*")):
    steps = []
    for event in summary_iterator(str(path)):
        steps.append([event.wall_time, event.step, event.file_version,
                      {v.tag: v.simple_value for v in event.summary.value}])
    found[str(path.parent.relative_to(sys.argv[1]))] = steps
print(json.dumps(found))
"""


@pytest.mark.tensorflow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_tensorflow_reads_what_we_wrote(tmp_path: Path) -> None:
    with open_run(make_run(tmp_path / "run")) as run:
        write_events(run, tmp_path / "events")
        expected = curves(run)
        created = run.created
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(tmp_path / "events")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(expected)
    for curve, steps in found.items():
        assert steps[0] == [created, 0, "brain.Event:2", {}]
        for got, wanted in zip(steps[1:], expected[curve], strict=True):
            assert got[:2] == [wanted.wall_time, wanted.step]
            assert got[3] == pytest.approx(dict(wanted.values), rel=1e-6)
