"""What a run looks like: in a pipe, on a terminal, for programs."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import replace

import pytest

from kilofed.display import (
    Display,
    JsonDisplay,
    LiveDisplay,
    PlainDisplay,
    duration,
    make_display,
    percent,
    plain_line,
    round_line,
    size,
)
from kilofed.rounds.config import RunConfig
from kilofed.rounds.records import (
    DeviceChanged,
    DeviceDropped,
    DeviceRound,
    DeviceView,
    Ending,
    Kind,
    Note,
    Phase,
    RoundEnded,
    RoundRecord,
    RoundStarted,
    RunEnded,
    RunEvent,
    RunStarted,
)

VIEW = DeviceView("11" * 8, "kitchen", "microbit", Phase.TRAINING, 64, 16, 80, 0.5, 1.25, 900, 12_345)
RECORD = RoundRecord(
    3,
    Kind.TRAIN,
    Ending.QUORUM,
    100.0,
    1.5,
    "ab" * 8,
    (
        DeviceRound("11" * 8, "kitchen", True, "", 64, 16, 0.75, 10, 12, 40, 500, 600, 0, b"blob"),
        DeviceRound("22" * 8, "attic", False, "lost its session (silent)"),
    ),
    0.912,
)
STORY: list[RunEvent] = [
    RunStarted(RunConfig(rounds=20), 2, 2, 10, 32),
    DeviceChanged(VIEW),
    RoundStarted(3, Kind.TRAIN, ("attic", "kitchen")),
    DeviceDropped(3, "attic", "lost its session (silent)"),
    Note("boot 0.1.0", "attic"),
    Note("turned away 33"),
    RoundEnded(RECORD),
    RunEnded(20, 61.25),
    DeviceChanged(replace(VIEW, phase=Phase.ABSENT)),
]


def tell(display: Display) -> None:
    display.step("flashing kitchen")
    for event in STORY:
        display(event)


def test_in_a_pipe_what_matters_is_a_line() -> None:
    stream = io.StringIO()
    with make_display(stream) as display:
        assert isinstance(display, PlainDisplay)
        tell(display)
    assert stream.getvalue().splitlines() == [
        "flashing kitchen",
        "going on after round 2: 20 rounds, 2 devices",
        "  attic does not count in round 3: lost its session (silent)",
        "  attic: boot 0.1.0",
        "  turned away 33",
        "round  3/20: global 91.2 % on the test set, personal 75.0 % held out, loss 0.750, 1 of 2 devices,"
        " ended by quorum, 1.50 s",
        "20 rounds done, 61.2 s",
    ]


def test_for_programs_every_event_is_an_object_without_blobs() -> None:
    stream = io.StringIO()
    with make_display(stream, json_lines=True) as display:
        assert isinstance(display, JsonDisplay)
        tell(display)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["Step", *(type(event).__name__ for event in STORY)]
    record = lines[7]["record"]
    assert (record["kind"], record["ended"], record["accuracy"]) == ("train", "quorum", 0.912)
    assert "update" not in record["devices"][0]
    assert lines[2]["view"]["phase"] == "training"
    assert lines[1]["config"]["deadlines"]["round"] == 180.0


def test_on_a_terminal_a_table_follows_the_run() -> None:
    near, far = os.openpty()
    with os.fdopen(far, "w") as terminal:
        display = make_display(terminal)
        assert isinstance(display, LiveDisplay)
        with display:
            tell(display)
            time.sleep(0.6)
        display.close()
    seen = b""
    while b"kitchen" not in seen or b"\x1b[?25h" not in seen:
        try:
            seen += os.read(near, 65_536)
        except OSError:  # the far end is closed and everything was read
            break
    os.close(near)
    text = seen.decode()
    assert "flashing kitchen" in text
    assert "global 91.2 %, own 75.0 %" in text, "a terminal of 80 columns gets the short line"
    for cell in ("microbit", "64+16", "training", "1.250", "900 B", "12.3 kB"):
        assert cell in text, cell
    assert "absent" not in text, "devices that leave after the end are no news"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (replace(RECORD, accuracy=None), "round     3: personal 75.0 % held out, loss 0.750"),
        (replace(RECORD, kind=Kind.PERSONAL), "personal heads: 75.0 % of their own held-out samples"),
        (replace(RECORD, devices=(), accuracy=0.5), "personal - held out, 0 of 0 devices"),
        (replace(RECORD, ended=Ending.COMPLETE), "1 of 2 devices, 1.50 s"),
    ],
)
def test_a_round_as_a_line(record: RoundRecord, words: str) -> None:
    assert words in round_line(record)


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, accuracy=1.0, seconds=123.4)])
def test_a_round_fits_a_narrow_terminal(record: RoundRecord) -> None:
    line = round_line(record, 10_000, short=True)
    assert len(line) <= 80
    assert f"own {percent(record.own_accuracy)}" in line and ", 1/2" in line


def test_small_formats() -> None:
    assert (percent(None), percent(0.9349), percent(1.0)) == ("-", "93.5 %", "100.0 %")
    assert (size(None), size(0), size(9999.4), size(12_345)) == ("-", "0 B", "9999 B", "12.3 kB")
    assert (duration(0.083), duration(9.5), duration(12.34)) == ("0.08 s", "9.50 s", "12.3 s")
    assert plain_line(DeviceChanged(VIEW)) == ""
