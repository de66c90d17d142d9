"""What `kilofed flash --plan` prints is what flashing does: a method that writes down what it is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from kilofed.boards import Identity, Network, build, flash, load
from kilofed.boards import flash_methods as methods
from kilofed.boards.build import TOOLS
from kilofed.boards.elf import Segment
from kilofed.boards.flash import plan
from kilofed.boards.network import parse
from kilofed.boards.settings import NO_KEY
from kilofed.cli import cli
from kilofed.errors import FlashError

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="no compiler for the boards"
)
DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits" / "digits.tflite"
IDENTITY = Identity(b"kitchen1", bytes(range(32)), "kitchen")


class Diary:
    """A flash method whose board is this list of what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int | None, int | None]] = []

    def connect(self, target: str, options: Mapping[str, str]) -> None:
        self.told.append(("connect", None, None))

    def core(self) -> str:
        return ""

    def read(self, address: int, size: int) -> bytes:
        return b"\xff" * size

    def program(self, segments: Sequence[Segment], progress: methods.Progress) -> None:
        self.told += [("write", segment.address, len(segment.data)) for segment in segments]

    def run(self) -> None:
        self.told.append(("start", None, None))

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "link", "network"),
    [
        ("microbit", "serial", None),
        ("mps2-an386", "ethernet", parse("10.0.2.2:7300", address=None, gateway=None)),
    ],
)
def test_what_is_printed_is_what_is_done(
    name: str, link: str, network: Network | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = load(name, link=link)
    image = build(board, DIGITS)
    diary = Diary()
    monkeypatch.setitem(methods.METHODS, "gdb", lambda: diary)  # type: ignore[arg-type]
    flash(board, image, IDENTITY, "nowhere", network=network)
    steps = plan(board, image, IDENTITY, network)
    assert [(step.action, step.address, step.bytes) for step in steps] == diary.told
    assert (steps[1].address, steps[-2].address) == (board.settings_address, board.settings_address)


def test_no_plan_is_made_that_flashing_refuses(tmp_path: Path) -> None:
    microbit, pico = load("microbit"), load("pico")
    with pytest.raises(FlashError, match="shows no volume"):
        plan(microbit, build(microbit, DIGITS), IDENTITY, target=str(tmp_path))
    steps = plan(pico, build(pico, DIGITS), IDENTITY, target=str(tmp_path))
    assert [step.action for step in steps] == ["check", "copy", "wait"]


def test_a_device_without_a_key_is_called_so() -> None:
    board = load("microbit")
    image = build(board, DIGITS)
    assert "no key" in plan(board, image, Identity(b"kitchen1", NO_KEY, "kitchen"))[-2].what
    assert "no key" not in plan(board, image, IDENTITY)[-2].what


def test_the_command_needs_no_board_for_it(tmp_path: Path) -> None:
    run = CliRunner()
    register = ["--fleet", str(tmp_path / "fleet.sqlite")]
    told = run.invoke(cli, ["flash", "--board", "microbit", "--name", "a", "--plan", "--json", *register])
    assert told.exit_code == 0, told.output
    assert [step["action"] for step in json.loads(told.stdout)] == [
        "connect",
        "write",
        "write",
        "write",
        "start",
    ]
    assert not (tmp_path / "fleet.sqlite").exists(), "nobody was registered"
    assert run.invoke(cli, ["flash", "--board", "microbit", "--name", "a", *register]).exit_code == 2
