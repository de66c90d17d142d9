"""`kilofed profile` and `kilofed bench`: what they print, that it adds up, how they say no."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_bad_files import BAD

from kilofed.boards import load
from kilofed.boards.build import TOOLS
from kilofed.boards.players import QEMU
from kilofed.cli import run
from kilofed.cli.bench_command import CORES
from kilofed.errors import BuildError, EmulatorError
from kilofed.profiling import counts, drawing, engine, profile
from kilofed.profiling.counts import Cost
from kilofed.profiling.cycles import M4
from kilofed.profiling.profile import OperatorProfile, Profile
from kilofed_tools.plan import device_plan, with_plan
from kilofed_tools.tflite import read_model

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits" / "digits.tflite"

needs_boards = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in (*TOOLS, QEMU, "cc")), reason="no cross compiler or QEMU here"
)


def made() -> Profile:
    """Two operators, by hand."""
    first = {"kf_convolve": Cost(900, {"own": 1200}), "finish <&>": Cost(100, {"own": 100})}
    operators = (
        OperatorProfile(0, "CONV_2D", (1, 4, 4, 8), 500, 1500, first),
        OperatorProfile(1, "SOFTMAX", (1, 8), 0, 64, {"kf_convolve": Cost(50, {"own": 70})}),
    )
    return Profile("here", M4, operators, {"run": Cost(7, {"own": 9})}, {"load": 57}, 1600, "no wheel")


def test_a_profile_adds_up() -> None:
    found = made()
    assert found.cost == Cost(1057, {"own": 1379})
    assert list(found.functions) == ["kf_convolve", "finish <&>", "run"]
    assert found.functions["kf_convolve"].instructions == 950
    assert found.peak.index == 0 and found.macs == 500
    plain = json.loads(json.dumps(found.as_json()))
    assert plain["instructions"] == 1057 and plain["cycles_model"] == 1379
    assert [operator["arena_in_use"] for operator in plain["operators"]] == [1500, 64]
    assert plain["outputs_equal_tflite_micro"] is None and plain["notes"] == ["no wheel"]


def test_a_profile_is_drawn() -> None:
    text = drawing.svg(made())
    root = ET.fromstring(text)
    assert root.tag.endswith("svg") and float(root.attrib["height"]) > 200
    said = [element.text for element in root.iter() if element.text]
    assert "finish <&>" in said, "a function of any name"
    assert "0 conv" in said and "1 softmax" in said
    assert any("1600 bytes" in line for line in said)


def test_ram_in_use_is_that_of_the_plan() -> None:
    model = with_plan(MODEL.read_bytes())
    plan = device_plan(model)
    used = [profile.in_use(plan, operator.index) for operator in read_model(model).operators]
    assert plan.bound_bytes <= max(used) <= plan.tensor_bytes
    assert min(used) > 0
    assert profile._covered([(0, 4), (2, 4), (10, 2), (10, 0)]) == 8


def test_the_cores_of_the_command_are_those_of_the_engine() -> None:
    assert tuple(core.name for core in engine.CORES) == CORES
    with pytest.raises(KeyError):
        engine.core("m85")


def test_the_plugin_is_made_for_the_qemu_that_is_there() -> None:
    assert engine.api_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\n") == 1
    assert engine.api_version("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)\n") == 1
    assert engine.api_version("QEMU emulator version 10.0.2\n") == 2
    assert engine.api_version("nothing of use") == 1


def test_a_board_of_an_unknown_core(monkeypatch: pytest.MonkeyPatch) -> None:
    board = load("mps2-an386")
    assert engine.core_of(board).timings == ("m4f",)
    monkeypatch.setattr(engine, "_OF_GCC", {"cortex-m3": "m3"})
    with pytest.raises(BuildError, match="mps2-an386 has a cortex-m4"):
        engine.core_of(board)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    assert run(list(words)) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


@needs_boards
@pytest.mark.emulated
def test_profile_and_bench_count_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """By operator and by function, the parts are the whole, to the instruction: the bench's own figure."""
    drawn = tmp_path / "digits.svg"
    out, err = said(capsys, "profile", str(MODEL), "--board", "mps2-an386", "--out", str(drawn), "--json")
    found: dict[str, Any] = json.loads(out)
    out, _ = said(capsys, "bench", str(MODEL), "--core", "m4f", "--json")
    whole: dict[str, Any] = json.loads(out)
    assert (
        found["instructions"] == whole["instructions"] == sum(f["instructions"] for f in found["functions"])
    )
    operators = found["operators"]
    start = found["instructions"] - sum(operator["instructions"] for operator in operators)
    assert 0 < start < 200, "what is not an operator's"
    assert [operator["name"] for operator in operators][:3] == ["CONV_2D"] * 3
    assert all(operator["instructions"] > operator["macs"] for operator in operators)
    assert sum(found["kinds"].values()) == found["instructions"]
    assert found["kinds"]["data processing"] > found["kinds"]["load"] > found["kinds"]["divide"] > 0
    assert abs(found["cycles_model"] / whole["cycles_model"] - 1) < 0.02, "code lies elsewhere by a few bytes"
    assert whole["macs"] == found["macs"] == sum(operator["macs"] for operator in operators)
    assert found["arena"] <= whole["arena"]
    assert found["outputs_equal_tflite_micro"] is whole["outputs_equal_tflite_micro"]
    assert "drawn: " in err and ET.parse(drawn).getroot().tag.endswith("svg")


@needs_boards
@pytest.mark.emulated
@pytest.mark.parametrize("name", ["microbit", "mps3-an547"])
def test_the_tables_of_a_profile(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "profile", str(MODEL), "--board", name)
    core = load(name).core.removeprefix("cortex-m")
    assert out.startswith(f"{name}, Cortex-M{core}\n")
    rows = [line.split() for line in out.splitlines() if line.split() and line.split()[0].isdigit()]
    operators = [row for row in rows if len(row) > 7]
    assert [row[1] for row in operators] == ["CONV_2D"] * 3 + ["MEAN"] + ["FULLY_CONNECTED"] * 2 + ["SOFTMAX"]
    assert all(int(row[4]) > 0 and int(row[6]) > 0 for row in operators)
    assert all(row[-1].strip("#") == "" for row in operators[:3]), "bars"


@needs_boards
@pytest.mark.emulated
def test_what_they_say_when_it_cannot_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"not a model at all")

    def refused(*words: str) -> str:
        assert run(list(words)) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        error, step = captured.err.splitlines()[-2:]
        assert step.startswith("next: ")
        return error

    assert refused("profile", str(bad)).startswith("error 111")
    assert refused("bench", str(bad), "--core", "m3").startswith("error 111")
    assert refused("profile", str(MODEL), "--board", "arduino").startswith("error 310")
    other_type = "has a type that the engine does not compute; it computes int8"
    for name, words in {
        "unsupported operator": "operator 0 (IMAG) is none that the engine computes",
        "hybrid": f"operator 0 (FULLY_CONNECTED) {other_type}",
        "two outputs": "the memory plan takes models of one input, one output",
    }.items():
        bad.write_bytes(BAD[name][0])
        assert refused("bench", str(bad), "--core", "m3") == f"error 112: {words}"

    # A plugin that counts nothing, and a count that is wrong, are found.
    monkeypatch.setattr(counts, "read", lambda path: {})
    assert "counts nothing" in refused("bench", str(MODEL), "--core", "m3")
    wrong = {number: {0: counts.Part()} for number in range(3)}
    monkeypatch.setattr(counts, "read", lambda path: wrong)
    with pytest.raises(EmulatorError, match="counts 0 for 20000"):
        engine.run(*_arguments())

    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == QEMU else f"/usr/bin/{tool}")
    assert refused("bench", str(MODEL), "--core", "m3") == f"error 330: {QEMU} is not installed"
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert refused("profile", str(MODEL)) == "error 330: arm-none-eabi-gcc is not installed"


def _arguments() -> tuple[Any, ...]:
    core = engine.core("m3")
    model = MODEL.read_bytes()
    return engine.image_of(core), core, model, engine.random_inputs(model, 2)
