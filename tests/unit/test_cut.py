"""A model in two parts does what the whole does, and a head finds its way back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kilofed.cli import cli
from kilofed_tools import cut, digits, heads, metadata
from kilofed_tools.adapt import adapt
from kilofed_tools.errors import ModelContractError
from kilofed_tools.evaluate import Runner
from kilofed_tools.plan import device_plan
from kilofed_tools.tflite import read_model

ROOT = Path(__file__).resolve().parents[2]
DIGITS = (ROOT / "models" / "digits" / "digits.tflite").read_bytes()


def test_both_parts_together_are_the_model() -> None:
    samples = digits.split().test.samples()[:200]
    features = Runner(cut.backbone(DIGITS)).run(samples)
    alone = cut.head(DIGITS)
    assert np.array_equal(Runner(alone).run(features), Runner(DIGITS).run(samples))
    assert len(alone) < len(DIGITS) / 3


def test_the_head_keeps_what_it_is_trained_with() -> None:
    whole, alone = heads.find_head(DIGITS), heads.find_head(cut.head(DIGITS))
    for name in ("classes", "features", "s_x", "zp_x", "labels", "ms", "lr", "batch", "epochs"):
        assert getattr(alone, name) == getattr(whole, name), name
    assert np.array_equal(alone.calib, whole.calib)
    assert heads.encode_head(heads.read_head(cut.head(DIGITS))) == heads.encode_head(heads.read_head(DIGITS))
    parsed = read_model(cut.head(DIGITS))
    assert metadata.read_metadata(parsed, metadata.KILOFED_PLAN) is not None
    assert device_plan(parsed).from_file


def test_a_trained_head_goes_back_in_place() -> None:
    head = heads.read_head(DIGITS)
    changed = heads.Head(
        head.classes, head.features, head.step + 1, np.roll(head.weights, 3), head.bias + 5, head.out_scale, 3
    )
    trained = heads.write_head(cut.head(DIGITS), changed)
    assert cut.join(DIGITS, trained) == heads.write_head(DIGITS, changed)
    assert cut.join(DIGITS, cut.head(DIGITS)) == DIGITS


def test_a_head_behind_another_backbone_is_refused() -> None:
    foreign = adapt((ROOT / "tests" / "data" / "foreign" / "plain.tflite").read_bytes()).model
    with pytest.raises((ModelContractError, heads.HeadError)):
        cut.join(DIGITS, cut.head(foreign))


def test_a_head_alone_can_be_cut_again() -> None:
    alone = cut.head(DIGITS)
    assert heads.read_head(cut.head(alone)).weights.tolist() == heads.read_head(alone).weights.tolist()
    with pytest.raises(ModelContractError, match="nothing but its head"):
        cut.backbone(alone)


def test_the_command(tmp_path: Path) -> None:
    model = ROOT / "models" / "digits" / "digits.tflite"
    parts = ["--backbone", str(tmp_path / "b.tflite"), "--head", str(tmp_path / "h.tflite")]
    told = CliRunner().invoke(cli, ["cut", str(model), *parts, "--json"])
    assert told.exit_code == 0, told.output
    assert [row["bytes"] for row in json.loads(told.stdout)] == [
        len(cut.backbone(DIGITS)), len(cut.head(DIGITS)),
    ]  # fmt: skip
    joined = ["--join", str(tmp_path / "h.tflite"), "--out", str(tmp_path / "w.tflite")]
    assert CliRunner().invoke(cli, ["cut", str(model), *joined]).exit_code == 0
    assert (tmp_path / "w.tflite").read_bytes() == DIGITS
    for wrong in ([], joined[:2], joined[2:]):
        assert CliRunner().invoke(cli, ["cut", str(model), *wrong]).exit_code == 2
