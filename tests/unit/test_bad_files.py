"""Bad files through every command that reads a model, and the same files through the C reader.

Promised: one line that says what is wrong and one that says what to do, exit status 1 (2 for wrong usage),
no result, no traceback, and never the "error 1" of a fault of ours. The device's reader gives a status, under
the sanitizers.
"""

from __future__ import annotations

import random
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.memory_fleet import make_devices, model_bytes
from tests.unit.test_rounds import federate

from kilofed.cli import run
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.store import BASE, create_run
from kilofed_pi.cli import main as kilofed_pi
from kilofed_tools import flat, heads
from kilofed_tools.flat import Table
from kilofed_tools.operators import DEVICE_OPERATORS
from kilofed_tools.tflite import FILE_MOST, Op

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ROOT / "tests" / "data" / "foreign"
DIGITS = (ROOT / "models" / "digits" / "digits.tflite").read_bytes()
FLIPS = 24


# ---- the files -----------------------------------------------------------------------------------


def changed(change: Callable[[Table], None], data: bytes = DIGITS) -> bytes:
    """A model with its tree changed, written anew: sound as a flatbuffer, and wrong as a model."""
    tree = flat.read(data)
    change(tree)
    return flat.write(tree)


def graph(tree: Table) -> Table:
    return tree.tables("subgraphs")[0]


def shared_buffers(tree: Table) -> None:
    tensors, last = graph(tree).tables("tensors"), graph(tree).tables("operators")[-1]
    if len(last.numbers("inputs")) < 3:  # a SOFTMAX
        last = graph(tree).tables("operators")[-2]
    weights = tensors[int(last.numbers("inputs")[1])]
    other = next(t for t in tensors if t.number("buffer") not in (0, weights.number("buffer")))
    other.values.update(
        buffer=weights.number("buffer"), shape=weights.numbers("shape"), type=weights.number("type")
    )


def unsupported(tree: Table) -> None:
    for code in tree.tables("operator_codes"):
        if code.number("builtin_code") == Op.CONV_2D:
            code.values.update(builtin_code=Op.CONV_2D + 130, deprecated_builtin_code=127)


def shape(*sizes: int) -> Callable[[Table], None]:
    def change(tree: Table) -> None:
        place = int(graph(tree).tables("operators")[0].numbers("outputs")[0])
        graph(tree).tables("tensors")[place].values["shape"] = np.array(sizes, np.int32)

    return change


def cycle(tree: Table) -> None:
    """The first operator reads what the second one makes."""
    first, second = graph(tree).tables("operators")[:2]
    inputs = np.array(first.numbers("inputs"), np.int32)
    inputs[0] = second.numbers("outputs")[0]
    first.values["inputs"] = inputs


def own_tail(tree: Table) -> None:
    """An operator that reads what it writes."""
    first = graph(tree).tables("operators")[0]
    inputs = np.array(first.numbers("inputs"), np.int32)
    inputs[0] = first.numbers("outputs")[0]
    first.values["inputs"] = inputs


def no_head(tree: Table) -> None:
    """The model is its first convolution."""
    operators = graph(tree).tables("operators")
    graph(tree).values["operators"] = operators[:1]
    graph(tree).values["outputs"] = operators[0].numbers("outputs")


def foreign(name: str) -> bytes:
    return (FOREIGN / f"{name}.tflite").read_bytes()


#: name -> (bytes, what the error line of `inspect` says)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a .tflite|damaged|too short|0 bytes"),
    "one byte": (b"\x1c", "not a .tflite|damaged|too short|1 bytes"),
    "text": (b"this is no model\n" * 9, "not a .tflite|no .tflite|damaged"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 9, 9, 8, 6, 0, 0, 0), "tflite"),
    "identifier only": (b"\x08\0\0\0TFL3", "damaged"),
    "truncated": (DIGITS[: len(DIGITS) // 2], "damaged"),
    "without its end": (DIGITS[:-700], "damaged"),
    "zeros": (DIGITS[:64] + bytes(len(DIGITS) - 64), "damaged"),
    "float": (foreign("x_float"), "float"),
    "hybrid": (foreign("x_hybrid"), "hybrid"),
    "int16": (foreign("x_int16"), "int16"),
    "open batch": (foreign("x_open_batch"), "batch"),
    "two outputs": (foreign("x_two_outputs"), "2 outputs"),
    "regression": (foreign("x_regression"), "class"),
    "no dense head": (changed(no_head), "head|FULLY_CONNECTED"),
    "shared features": (foreign("x_shared_features"), "ends in ADD"),
    "shared buffers": (changed(shared_buffers), "shared|shares|damaged"),
    "unsupported operator": (changed(unsupported), "operator"),
    "shape of 0": (changed(shape(1, 0, 0, 8)), "shape|maps"),
    "shape below 0": (changed(shape(1, -3, 14, 8)), "shape|-3|batch"),
    "shape of 2^62": (changed(shape(2**31 - 1, 2**31 - 1)), "shape|elements|rank|maps"),
    "shape of rank 99": (changed(shape(*[1] * 99)), "shape|rank|dimensions"),
    "cycle": (changed(cycle), "before it is written"),
    "own tail": (changed(own_tail), "before it is written"),
}  # fmt: skip


# ---- the commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files for the other arguments: data and an update."""
    place = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(1)
    np.savez(
        place / "data.npz",
        inputs=rng.integers(-128, 128, (20, 28, 28, 1)).astype(np.int8),
        labels=np.arange(20, dtype=np.uint8) % 10,
    )
    (place / "good.tflite").write_bytes(DIGITS)
    spec = heads.find_head(DIGITS)
    start = struct.pack("<BBBBHHII", 1, 2, 1, 0, spec.classes, spec.features, 1, 1)
    (place / "an.update").write_bytes(start + bytes(spec.classes * spec.features + spec.classes))
    return place


#: The command lines; {bad} is the file, {good} a sound model, {dir} where the others lie.
COMMANDS = {
    "inspect": "inspect {bad}",
    "inspect --board": "inspect {bad} --board microbit",
    "build": "build --board microbit --model {bad}",
    "eval": "eval {bad} --data {dir}/data.npz",
    "convert": "convert {bad} --out {dir}/out.tflite",
    "fedavg": "fedavg --model {bad} --update {dir}/an.update 5 --out {dir}/out.tflite",
    "run": "run --model {bad} --native 2 --samples 20 --rounds 1 --out {dir}/run",
    "run --data": "run --model {bad} --native 2 --data {dir}/data.npz --out {dir}/run",
    "emulate": "emulate --board mps2-an386 --model {bad} --data {dir}/data.npz --folder {dir}/emulated",
    "compare": "compare {bad} {good} --samples 2",
    "compare, second": "compare {good} {bad} --samples 2",
    "init": "init --model {bad} --out {dir}/run.toml --replace",
    "quantize": "quantize {bad} --data {dir}/data.npz --out {dir}/out.tflite",
    "kilofed-pi": "kilofed-pi --connect 127.0.0.1:1 --model {bad} --samples {dir}/an.update --id "
    "00112233445566aa",
    "flash": "flash --board microbit --target 127.0.0.1:1 --name it --fleet {dir}/fleet.db --model {bad}",
}


def line(command: str, bad: Path, folder: Path) -> list[str]:
    """The words of a command line."""
    values = {"bad": bad, "good": folder / "good.tflite", "dir": folder}
    return [word.format(**values) for word in COMMANDS[command].split()]


def perform(words: list[str]) -> int:
    """Runs a command line of either program; its exit status."""
    if words[0] != "kilofed-pi":
        return run(words)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(sys, "argv", words)
        kilofed_pi()
    assert isinstance(left.value.code, int)
    return left.value.code


def refused(status: int, captured: Any, what: str) -> str:
    """That it was refused as promised; the error line."""
    assert status == 1, f"{what}: {captured.out}{captured.err}"
    assert captured.out == ""
    assert "Traceback" not in captured.err
    lines = captured.err.splitlines()
    assert lines[-2].startswith("error "), captured.err
    assert not lines[-2].startswith("error 1:"), captured.err
    assert lines[-1].startswith("next: ")
    assert len(lines[-1]) > len("next: ")
    return str(lines[-2])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_from_every_command(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words = BAD[name]
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(content)
    for command in COMMANDS:
        if (command, name) == ("quantize", "float"):
            continue  # that is what quantize is for
        status = perform(line(command, bad, folder))
        captured = capsys.readouterr()
        if status == 0 and name == "shared buffers" and command in ("convert", "eval"):
            continue  # a runtime may share them, and convert parts them
        if command.startswith("compare") and name in RUNNABLE:
            assert status in (0, 1)
            assert "Traceback" not in captured.err
            assert "error 1:" not in captured.err
            continue
        said = refused(status, captured, f"{command} of {name}")
        # kilofed-pi reads the samples last, and here they are none, so that it never gets to connect.
        assert "placed samples" not in said or name == "shared buffers", said
        if command == "inspect":
            assert re.search(words, said), said


#: Sound models that are merely no device models: `compare` runs them.
RUNNABLE = {
    "float", "hybrid", "int16", "regression", "no dense head", "shared features", "shared buffers",
    "open batch", "two outputs",
}  # fmt: skip


def flips() -> Iterator[tuple[str, bytes]]:
    """The digits model and small ones with one bit or one telling word changed."""
    for name, data in (("digits", DIGITS), ("plain", foreign("plain")), ("whole", foreign("conv_whole"))):
        for seed in range(FLIPS):
            rng = random.Random(f"{name} {seed}")
            out = bytearray(data)
            if seed % 2:
                out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
            else:
                at = rng.randrange(len(out) // 4) * 4
                struct.pack_into("<I", out, at, rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(out)]))
            yield f"{name} {seed}", bytes(out)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c not in ("run", "run --data", "emulate", "flash", "kilofed-pi")]
)
def test_a_flipped_bit_is_a_result_or_one_line(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that would start devices are left out: what they read goes the way of build and eval."""
    bad = tmp_path / "bad.tflite"
    statuses = []
    for name, content in flips():
        bad.write_bytes(content)
        status = perform(line(command, bad, folder))
        captured = capsys.readouterr()
        statuses.append(status)
        if status != 0 and not (command.startswith("compare") and captured.out):
            refused(status, captured, f"{command} of {name}")
        assert "Traceback" not in captured.err
    assert 1 in statuses, "flips that nobody sees prove nothing"


# ---- what is no file -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_and_nothing_at_all(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perform(line(command, tmp_path / "missing.tflite", folder)) == 2
    assert "does not exist" in capsys.readouterr().err
    status = perform(line(command, tmp_path, folder))
    captured = capsys.readouterr()
    if command in ("convert", "quantize"):  # take a SavedModel's folder, and this is none
        assert "nor a SavedModel folder" in refused(status, captured, command)
    else:
        assert status == 2
        assert "is a directory" in captured.err
    assert captured.err.splitlines()[-1].startswith("next: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_huge_file_is_not_read(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = tmp_path / "huge.tflite"
    with huge.open("wb") as file:
        file.write(DIGITS)
        file.truncate(FILE_MOST + 1)  # sparse: no disk is used
    status = perform(line(command, huge, folder))
    assert "268 MB" in refused(status, capsys.readouterr(), command)


def test_the_operators_are_those_of_the_device() -> None:
    source = (ROOT / "firmware" / "src" / "nn" / "ops.def").read_text()
    assert set(re.findall(r"^KF_OP\((\w+),", source, re.MULTILINE)) == {op.name for op in DEVICE_OPERATORS}


def test_usage_is_2_and_debug_shows_where(folder: Path, tmp_path: Path) -> None:
    from kilofed_tools.errors import ModelFormatError

    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"no model")
    with pytest.raises(ModelFormatError):
        run(["inspect", str(bad), "--debug"])
    assert run(["inspect"]) == 2


# ---- a run's own files ---------------------------------------------------------------------------


def test_a_run_folder_with_a_bad_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """export and report say so; a run goes no further."""
    import asyncio

    model = model_bytes()
    config = RunConfig(rounds=1, epochs=1, personal_epochs=0, deadlines=Deadlines(gather=3.0))
    place = tmp_path / "run"
    with create_run(place, config=config, model=model, model_hash=heads.file_hash(model).hex()) as made:
        asyncio.run(federate(make_devices(2), config, ledger=made, tag=made.tag, measure=lambda m: 0.5))
    for content in (b"", model[: len(model) // 2]):
        (place / BASE).write_bytes(content)
        bad = tmp_path / "bad.tflite"
        assert run(["export", str(place), "--round", "0", "--out", str(bad)]) in (0, 1)
        assert "Traceback" not in capsys.readouterr().err
        if bad.exists():
            assert run(["inspect", str(bad)]) == 1
            refused(1, capsys.readouterr(), "inspect")
    (place / BASE).unlink()
    refused(run(["export", str(place), "--round", "0", "--out", str(bad)]), capsys.readouterr(), "export")


# ---- the device's reader -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "tests" / "firmware" / "engine"))
    import engine_runner

    flags = [
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
    ]
    runner = engine_runner.Engine(engine_runner.build("runner-asan", flags=flags))
    yield runner
    runner.close()


#: Sound models that the device may run without being able to train them.
#: The last: its end is our metadata, which the device does not need.
DEVICE_RUNS = {"regression", "no dense head", "shared features", "shared buffers", "without its end"}


@pytest.mark.parametrize("name", BAD)
def test_the_c_reader_gives_a_status(name: str, engine: Any) -> None:
    """KF_ERR_MODEL or KF_ERR_UNSUPPORTED with a fault number; what opens also runs."""
    content, _ = BAD[name]
    opened = engine.open(content)
    assert (opened.status == 0) == (opened.fault == 0)
    if name not in DEVICE_RUNS:
        assert opened.status in (-3, -4), name
    if opened.status == 0:
        assert engine.run(bytes(opened.input_bytes))[0] == 0


def test_the_c_reader_gives_a_status_for_flips(engine: Any) -> None:
    refused = 0
    for name, content in flips():
        opened = engine.open(content)
        assert opened.status in (0, -3, -4), name
        refused += opened.status != 0
        if opened.status == 0 and opened.arena_bytes < 1 << 20:
            assert engine.run(bytes(opened.input_bytes))[0] == 0, name
    assert refused > 0
