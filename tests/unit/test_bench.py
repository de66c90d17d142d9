"""The bench: what it writes, what it refuses, and that its counts are exact where they can be checked."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.bench import __main__ as bench
from tests.bench import alikes, infer
from tests.bench.figure import Figure

from kilofed.errors import EmulatorError
from kilofed.profiling import engine
from kilofed.profiling.figures import Measured
from kilofed.profiling.yardstick import YARDSTICKS
from kilofed_tools.errors import ModelContractError

MODEL = bench.ROOT / "models" / "digits" / "digits.tflite"
README = bench.ROOT / "tests" / "bench" / "README.md"
UP, DOWN = 800, 900  # bytes a device and round that int8 may take


def made_run(**changes: Any) -> engine.Run:
    rows = np.zeros((2, 3), np.uint8)
    run = engine.Run(
        instructions=5_000_000,
        cycles={"m0": 7_000_000, "m0plus": 6_000_000, "m3": 8_000_000, "m4f": 6_500_000},
        macs=1_000_000,
        arena=2000,
        stack=700,
        flash=15_000,
        outputs=rows,
        features=rows,
    )
    return dataclasses.replace(run, **changes)


def give(monkeypatch: pytest.MonkeyPatch, *found: Figure) -> None:
    """Makes every topic give these figures."""

    def figures(root: Path) -> Iterator[Figure]:
        assert root == bench.ROOT
        yield from found

    module = SimpleNamespace(figures=figures)
    monkeypatch.setattr(bench, "importlib", SimpleNamespace(import_module=lambda name, package: module))


def test_a_topic_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The link's topic, whole: the file, the table, and the issue's limits on a round."""
    out = tmp_path / "deep" / "bench.json"
    assert bench.main(["--only", "link", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())
    printed = capsys.readouterr().out
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        assert list(row) == ["name", "value", "unit", "command"]
        if row["name"].startswith(("link.overhead", "link.utilisation")):
            assert 0 < row["value"] <= 1 and row["unit"].startswith("of ")
        else:
            assert type(row["value"]) is int and row["value"] > 0 and row["unit"] == "B"
        assert row["command"] == "python -m tests.bench --only link"
        assert row["name"] in printed
    value = {row["name"]: row["value"] for row in rows}
    for frame in (128, 1024):
        assert value["link.update_bytes.int8"] < value[f"link.bytes_per_round.up.int8.frame_{frame}"] <= UP
        assert value["link.head_bytes.int8"] < value[f"link.bytes_per_round.down.int8.frame_{frame}"] <= DOWN
    assert value["link.update_bytes.int8"] == 346
    assert value["link.overhead.1024"] <= 0.04 and value["link.overhead.128"] <= 0.25
    assert value["link.utilisation.115200.128"] >= 0.90
    assert min(value["link.utilisation.115200.1024"], value["link.utilisation.921600.1024"]) >= 0.95


def test_only_all_topics_write_the_whole_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "TOPICS", ("link",))
    give(monkeypatch, Figure("a.b", 1.5, "B", "c"))
    assert bench.main(["--only", "link"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert bench.main([]) == 0
    written = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert written == [{"name": "a.b", "value": 1.5, "unit": "B", "command": "c"}]


def test_two_figures_of_one_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = Figure("a.b", 1, "B", "c")
    give(monkeypatch, figure, Figure("a.c", 1, "B", "c"), figure)
    out = tmp_path / "bench.json"
    assert bench.main(["--only", "infer", "--out", str(out)]) == 1
    assert "two figures are called a.b" in capsys.readouterr().err
    assert not out.exists()


def named(name: str, core: str) -> dict[str, float | int | None]:
    found = Measured(engine.core(core), made_run(), "")
    return {figure.name: figure.value for figure in infer.figures_of(f"infer.{name}.{core}", found)}


def test_what_is_called_what() -> None:
    """Names and ratios of a model with a yardstick, and of one without."""
    found = named("kws", "m4f")
    assert found["infer.kws.m4f.instructions"] == 5_000_000
    assert found["infer.kws.m4f.instructions_per_mac"] == 5.0
    assert found["infer.kws.m4f.cycles_model"] == 6_500_000
    assert found["infer.kws.m4f.ratio_to_cmsis_nn"] == round(5_000_000 / 7_230_000, 3)
    assert found["infer.kws.m4f.cycles_ratio_to_cmsis_nn"] == round(6_500_000 / 9_100_000, 3)
    assert found["infer.kws.m4f.cycles_ratio_to_record"] == round(6_500_000 / 5_180_000, 3)
    assert found["infer.kws.m4f.arena_ratio_to_cmsis_nn"] == round(2000 / 22_820, 3)
    assert found["infer.kws.m4f.flash_ratio_to_cmsis_nn"] == round(15_000 / 53_488, 3)
    assert found["infer.kws.m4f.arena"] == 2000 and found["infer.kws.m4f.flash"] == 15_000
    parts = ("instructions", "instructions_per_mac", "cycles_model", "arena", "stack", "flash")
    assert list(named("x", "m3")) == [f"infer.x.m3.{part}" for part in parts]
    assert named("x", "m0")["infer.x.m0.cycles_model_m0plus"] == 6_000_000


def test_an_alike_is_held_to_the_original() -> None:
    assert named("ad_alike", "m0")["infer.ad_alike.m0.ratio_to_cmsis_nn"] == round(5_000_000 / 1_763_000, 3)
    assert set(alikes.SHAPES) < set(YARDSTICKS) == {*infer.FOREIGN, "mnist"}
    for yardstick in YARDSTICKS.values():
        assert set(yardstick.instructions) == {core.name for core in engine.CORES} - {"m33"}
        assert yardstick.arena_of("m0") == yardstick.arena["m4f"]
        assert yardstick.flash_of("m33") == yardstick.flash["m4f"]


@pytest.mark.tensorflow
@pytest.mark.slow
def test_alikes_have_the_work_of_the_originals() -> None:
    """Within what a title's rounding leaves; made on the first run."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("no TensorFlow here")
    made = dict(alikes.models(bench.ROOT))
    assert set(made) == {f"{name}_alike" for name in alikes.SHAPES}
    for name, model in made.items():
        wanted = YARDSTICKS[alikes.original(name)].macs
        assert abs(engine.macs(model) / wanted - 1) < 0.002, name


def test_benchmark_models_that_are_not_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KILOFED_SHARED", str(tmp_path))
    monkeypatch.setattr(alikes, "SHAPES", {})
    folder = tmp_path / "data" / "models"
    folder.mkdir(parents=True)
    (folder / infer.FOREIGN["ic"]).write_bytes(b"ic")
    assert [(name, len(model) > 2) for name, model in infer.models(bench.ROOT)] == [
        ("digits", True),
        ("ic", False),
    ]
    said = capsys.readouterr().err
    assert [name for name, file in infer.FOREIGN.items() if file in said] == ["kws", "ad", "vww"]


def test_the_readme_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = [
        Figure("board.b.flash", 12_345, "B", "c"),
        Figure("infer.kws.m4f.instructions", 5_000_000, "instructions", "c"),
        Figure("infer.kws.m4f.ratio_to_cmsis_nn", 0.692, "ratio", "c"),
        Figure("infer.ic.m0.instructions", 97_000_000, "instructions", "c"),
        Figure("infer.ic.m0.flash", 17_000, "B", "c"),
        Figure("train.m3.instructions_per_mac", 5.9, "instructions", "c"),
    ]
    file = tmp_path / "bench.json"
    file.write_text(json.dumps([dataclasses.asdict(figure) for figure in figures]))
    assert bench.main(["--markdown", "--read", str(file)]) == 0
    boards, speed, size, train = capsys.readouterr().out.strip().split("\n\n")
    assert boards.splitlines()[-1] == "| b | 12 345 | - | - |"
    assert speed.splitlines()[2:] == [
        "| KWS: million instructions | - | - | 5.000 | - | - | - |",
        "| by CMSIS-NN's | - | - | 0.692 | - | - | - |",
        "| IC: million instructions | 97.00 | - | - | - | - | - |",
    ]
    assert size.splitlines()[-1] == "| flash | 17 000 | - | - | - | - | - |"
    assert train.splitlines()[-1] == "| 32 features | - | 5.9 | - | - | - | - |"
    assert bench.main(["--read", str(tmp_path / "none")]) == 1
    assert "make bench" in capsys.readouterr().err


def test_a_wrong_byte_is_found() -> None:
    """The oracle accepts its own answer and refuses any other, in outputs and in features."""
    pytest.importorskip("tflite_micro")
    model = MODEL.read_bytes()
    inputs = engine.random_inputs(model, 2)
    right = made_run(
        outputs=engine.reference(model, inputs), features=engine.reference_features(model, inputs)
    )
    engine.verify(model, inputs, right, "here")
    for part in ("outputs", "features"):
        wrong = getattr(right, part).copy()
        wrong[-1, -1] ^= 1
        with pytest.raises(EmulatorError, match=f"1 of .* {part} on here"):
            engine.verify(model, inputs, dataclasses.replace(right, **{part: wrong}), "here")


def test_macs() -> None:
    """By hand: three 3x3 convolutions of stride 2 over 28x28, then two dense layers."""
    by_hand = 14 * 14 * 8 * 9 + 7 * 7 * 16 * 72 + 4 * 4 * 32 * 144 + 32 * 32 + 10 * 32
    assert engine.macs(MODEL.read_bytes()) == by_hand


def test_readme_names_every_topic() -> None:
    text = README.read_text()
    assert [topic for topic in bench.TOPICS if f"## {topic}" not in text] == []


@pytest.mark.emulated
def test_a_count_repeats() -> None:
    """The digits on Cortex-M0 code: TFLite Micro's bytes, and the same count whenever it is taken."""
    for tool in ("arm-none-eabi-gcc", "cmake", "ninja", "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    pytest.importorskip("tflite_micro")
    model = MODEL.read_bytes()
    inputs = engine.random_inputs(model, 2)
    core = engine.core("m0")
    image = engine.image_of(core, bench.ROOT)
    first = engine.run(image, core, model, inputs)
    engine.verify(model, inputs, first, core.name)
    again = engine.run(image, core, model, np.concatenate([inputs[:1], inputs]))
    assert again.instructions == first.instructions > first.macs
    assert again.cycles == first.cycles and first.instructions < first.cycles["m0plus"] < first.cycles["m0"]
    assert (again.arena, again.flash) == (first.arena, first.flash)
    with pytest.raises(ModelContractError, match=r"the model is no \.tflite"):
        engine.run_file(image, core, b"\0" * 64, inputs)
