"""Every command line of README and guides is run, in the order of its document, as a reader would run it.

A document is one session: a fresh folder with the checkout's content in it, the environment's programs first
on the path. What is not run is in NOT_RUN, with the reason. Command lines within sentences and in the help
texts are parsed: the command exists, and so does each option.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import click
import pytest
from tests.docs.conftest import GUIDES, ROOT, Line, command_lines, documents, inline_commands

from kilofed.boards.build import TOOLS
from kilofed.boards.players import QEMU
from kilofed.cli import COMMANDS, cli
from kilofed.native import TOOLS as NATIVE_TOOLS

#: How a command line begins -> why it is not run here.
NOT_RUN = {
    "git clone": "the checkout under test is the clone",
    "cd kilofed": "the session begins there",
    "make setup": "installs system packages; the tests run in the environment that it makes",
    ". build/venv/bin/activate": "the session has the same programs first on its path",
    "pip install": "installs from the network; without TensorFlow the document's test is skipped",
    "make demo": "tests/emulated/test_demo.py runs the whole demo, and stops and kills it",
    "make test": "this is a part of it",
    "make bench": "takes minutes and asserts nothing; tests/unit/test_bench.py tries its parts",
    "make fuzz": "takes an hour; tests/fuzz replays its corpora",
    "make soak": "takes as long as asked; tests/soak has a short one",
}

#: How a command line begins -> exit statuses that the document announces, besides 0.
STATUSES = {"kilofed compare": {1}, "kilofed doctor": {1}}

TIMEOUT_S = 400.0

#: Where the documents have a host listen.
PORT = 7300

#: A session -> the processes that play its Linux devices, as another terminal would.
DEVICES: dict[Path, list[subprocess.Popen[str]]] = {}

_MARKS = {
    "models/GUIDE.md": [pytest.mark.tensorflow, pytest.mark.emulated, pytest.mark.slow],
    "README.md": [pytest.mark.emulated, pytest.mark.slow],
    "firmware/port/boards/README.md": [pytest.mark.emulated],
    "host/GUIDE.md": [pytest.mark.emulated, pytest.mark.slow],
}


def _missing(document: str) -> list[str]:
    marks = {mark.name for mark in _MARKS.get(document, [])}
    tools = [*NATIVE_TOOLS, *(TOOLS if "emulated" in marks else ()), *([QEMU] if "emulated" in marks else ())]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if "tensorflow" in marks and importlib.util.find_spec("tensorflow") is None:
        missing.append("tensorflow")
    return missing


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Path]:
    """A folder that looks like the checkout, with a build/ of its own; stops the devices started in it."""
    for entry in ROOT.iterdir():
        if entry.name not in ("build", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    yield tmp_path
    for process in DEVICES.pop(tmp_path, []):
        process.send_signal(signal.SIGINT)
        try:
            said = process.communicate(timeout=30)[1]
        finally:
            process.kill()
        assert process.returncode == 0, said
        assert ": taken" in said, said


def _environment(folder: Path) -> dict[str, str]:
    programs = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "XDG_DATA_HOME": str(folder / "build" / "data"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "COLUMNS": "100",
    }


@cache
def _free_port(folder: Path) -> int:
    """In place of PORT, which another session on this machine may have; one a session."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def perform(line: Line, folder: Path) -> str:
    """Runs one command line in a shell; its stdout.

    An emulate is stopped once it says that it runs, a Linux device when the session ends.
    """
    options = {"cwd": folder, "env": _environment(folder), "text": True}
    line = replace(line, text=line.text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{_free_port(folder)}"))
    if line.text.startswith("kilofed-pi"):
        process = subprocess.Popen(
            shlex.split(line.text), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
        )  # type: ignore[call-overload]
        DEVICES.setdefault(folder, []).append(process)
        return ""
    if line.text.startswith("kilofed emulate"):
        return _perform_until_ready(line, options)
    done = subprocess.run(
        ["bash", "-c", line.text], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, **options
    )
    announced = next((s for begin, s in STATUSES.items() if line.text.startswith(begin)), set())
    assert done.returncode in {0, *announced}, f"{line}: {line.text}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, f"{line}: {line.text}\n{done.stderr}"
    return done.stdout


def _perform_until_ready(line: Line, options: dict[str, object]) -> str:
    with subprocess.Popen(
        shlex.split(line.text), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    ) as process:  # type: ignore[call-overload]
        timer = threading.Timer(TIMEOUT_S, process.kill)
        timer.start()
        assert process.stderr is not None
        said = next((text for text in process.stderr if "running until Ctrl-C" in text), "")
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate()
        timer.cancel()
        assert said, f"{line}: {rest}"
        assert process.returncode == 0, f"{line}: {rest}"
        return str(out)


def ten_commands() -> list[Line]:
    """From a clone to one's own model: run as the guide's, and shown in the README too."""
    return command_lines("models/GUIDE.md")[:10]


def lines_to_run(document: str) -> list[Line]:
    elsewhere = {line.text for line in ten_commands()} if document == "README.md" else set()
    return [
        line
        for line in command_lines(document)
        if not line.text.startswith(tuple(NOT_RUN)) and line.text not in elsewhere
    ]


@pytest.mark.parametrize(
    "document",
    [pytest.param(d, marks=_MARKS.get(d, [])) for d in GUIDES if d != "models/GUIDE.md"],
)
def test_each_command_line_of_a_document_runs(document: str, session: Path) -> None:
    missing = _missing(document)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    for line in lines_to_run(document):
        perform(line, session)


@pytest.mark.tensorflow
@pytest.mark.emulated
@pytest.mark.slow
def test_ones_own_keras_model_is_federated_on_emulated_boards_in_ten_commands(session: Path) -> None:
    document = "models/GUIDE.md"
    way = ten_commands()
    assert way[0].text.startswith("git clone")
    assert way[-1].text.startswith("kilofed report")
    assert [line.number for line in way] == list(range(way[0].number, way[0].number + 10)), "one block"
    shown = [line.text for line in command_lines("README.md")]
    first = shown.index("make setup") - 2
    assert shown[first : first + 10] == [line.text for line in way]
    missing = _missing(document)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    said = {line.text: perform(line, session) for line in lines_to_run(document)}
    # What the guide's table promises, with room for another TensorFlow on another processor.
    quantized = next(out for text, out in said.items() if text.startswith("kilofed quantize"))
    found = re.search(r"accuracy  ([\d.]+) % before, ([\d.]+) % after", quantized)
    assert found is not None
    before, after = float(found[1]), float(found[2])
    assert abs(before - after) < 3
    assert abs(before - 77) < 8
    report = perform(Line(document, 0, "kilofed report build/gestures/run --json"), session)
    accuracy = json.loads(report)["accuracy"]
    for name, promised in (("alone", 0.78), ("federated", 0.85), ("central", 0.88)):
        assert abs(accuracy[name] - promised) < 0.08, f"{name}: {accuracy[name]}"
    assert accuracy["federated"] > max(accuracy["alone"], after / 100) + 0.03
    assert accuracy["exported"] == accuracy["federated"]


def test_the_guides_have_command_lines_and_the_list_of_exceptions_is_used() -> None:
    every = [line for document in GUIDES for line in command_lines(document)]
    assert {line.document for line in every} == set(GUIDES)
    exceptions = [line for line in every if line.text.startswith(tuple(NOT_RUN))]
    assert len(exceptions) < len(every) / 2
    assert not any(line.text.startswith("kilofed ") for line in exceptions)


def test_reasons_that_the_guide_explains_are_given_by_the_program() -> None:
    guide = (ROOT / "host" / "GUIDE.md").read_text(encoding="utf-8")
    table = guide.partition("| it says |")[2].partition("\n\n")[0]
    reasons = re.findall(r'"([^"]+)"', table)
    assert len(reasons) >= 6
    folders = (ROOT / "host" / "kilofed", ROOT / "tools" / "kilofed_tools")
    source = "".join(p.read_text(encoding="utf-8") for folder in folders for p in folder.rglob("*.py"))
    assert [reason for reason in reasons if reason not in source] == []


# ---- command lines that are parsed ---------------------------------------------------------------


def parse(text: str) -> None:
    """Asks click whether a command line makes sense, files left out. AssertionError with its words."""
    words = shlex.split(text, comments=True)
    assert words[0] == "kilofed"
    if len(words) == 1 or words[1] in ("--help", "--version", "COMMAND"):
        return
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None, f"{text}: there is no command {words[1]}"
    rest = words[2:]
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{text}: {words[1]} has no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    context = click.Context(command, info_name=words[1])
    try:
        values, _, _ = command.make_parser(context).parse_args(rest)
        for parameter in command.params:
            value = values.get(parameter.name)
            plain = not isinstance(parameter.type, (click.Path, click.Tuple))
            if plain and isinstance(value, str) and not re.fullmatch(r"[A-Z:]+", value):
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        raise AssertionError(f"{text}: {error.format_message()}") from error


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_example_of_a_help_text_parses(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help is not None
    examples = re.findall(r"^ +(kilofed .*)$", command.help.partition("Example:")[2], re.M)
    assert examples, f"{name} has no example"
    assert any(example.split()[1] == name for example in examples)
    for example in examples:
        parse(example)


def test_the_examples_of_the_tool_itself_parse() -> None:
    assert cli.help is not None
    examples = re.findall(r"^ +(kilofed .*)$", cli.help, re.M)
    assert len(examples) >= 2
    for example in examples:
        parse(example)


@pytest.mark.parametrize("document", [str(p.relative_to(ROOT)) for p in documents()])
def test_each_command_within_a_sentence_parses(document: str) -> None:
    for line in inline_commands(document):
        parse(line.text)


@pytest.mark.parametrize("text", ["kilofed fly", "kilofed run --nothing 1", "kilofed run --rounds many"])
def test_a_command_line_that_makes_no_sense_is_found(text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        parse(text)
