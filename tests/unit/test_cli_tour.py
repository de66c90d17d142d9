"""The CLI as a tour: groups, shared options, completion, settings files, doctor, compare, fedavg."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from tests.memory_fleet import MODEL, model_bytes

from kilofed import doctor
from kilofed.cli import COMMANDS, GROUPS, cli, run
from kilofed.cli.run_command import command as run_command
from kilofed.cli.settings import GROUPS as SETTING_GROUPS
from kilofed.cli.settings import NOT_IN_FILES, settings_of
from kilofed.errors import ConfigError
from kilofed.runfile import Setting, read, template
from kilofed_tools import heads
from kilofed_tools.adapt import adapt
from kilofed_tools.contributions import read_contribution
from kilofed_tools.errors import DataError, ModelContractError, UpdateError
from kilofed_tools.updates import Codec, encode_update

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ROOT / "tests" / "data" / "foreign" / "plain.tflite"
FLOAT = ROOT / "tests" / "data" / "foreign" / "x_float.tflite"


def said(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> Any:
    """Runs a command line and returns its stdout, as JSON if --json was asked for; stderr when it failed."""
    got = run([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert got == status, captured.err
    if status and not captured.out:
        return captured.err
    return json.loads(captured.out) if "--json" in arguments else captured.out


def moved_model(amount: int) -> bytes:
    """The digits model with one weight moved by so many units, times a step that holds it exactly."""
    spec = heads.find_head(model_bytes())
    weights = np.zeros((spec.classes, spec.features), np.int32)
    weights[3, 5] = 127 * amount
    bias = np.zeros(spec.classes, np.int32)
    bias[2] = 5 * amount
    return heads.write_head(model_bytes(), heads.quantise(spec, weights, bias))


# ---- help ------------------------------------------------------------------------------------------


def test_every_command_is_in_one_group_and_a_group_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(len(group) for group in GROUPS.values()) == len(COMMANDS)
    assert all(len(group) <= 6 for group in GROUPS.values())
    text = said(capsys, "--help")
    places = [text.index(f"{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    lines = text.splitlines()
    for name, summary in COMMANDS.items():
        assert any(re.fullmatch(rf"  {name} +{re.escape(summary)}", line) for line in lines), name


def test_the_same_option_is_the_same_everywhere() -> None:
    """One decorator an option: its type and its way to be given do not depend on the command."""
    seen: dict[str, set[tuple[str, bool]]] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                kind = str(parameter.type) if not isinstance(parameter.type, click.Path) else "path"
                seen.setdefault(max(parameter.opts, key=len), set()).add((kind, parameter.is_flag))
    # --samples counts what a device gets, and in compare what is run at most; --native is how many processes,
    # and for the demo, whose fleet is fixed, whether.
    different = {name for name, kinds in seen.items() if len(kinds) > 1}
    assert different <= {"--samples", "--native"}, different
    assert {"--model", "--data", "--seed", "--board", "--out", "--json", "--debug"} <= set(seen)


def test_what_prints_figures_has_json() -> None:
    silent = {"init", "completion", "watch"}
    for name in set(COMMANDS) - silent:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        parts = command.commands.values() if isinstance(command, click.Group) else [command]
        for part in parts:
            assert any("--json" in parameter.opts for parameter in part.params), (name, part.name)


# ---- completion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_and_the_shell_takes_it(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = said(capsys, "completion", shell)
    assert "_KILOFED_COMPLETE" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        flag = "--no-execute" if shell == "fish" else "-n"
        done = subprocess.run([shell, flag, tmp_path / "script"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def complete(words: str) -> list[str]:
    """What bash is told to offer for the last of the words."""
    environment = os.environ | {
        "_KILOFED_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    code = "from kilofed.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_boards_are_completed() -> None:
    assert set(complete("kilofed ")) == set(COMMANDS)
    assert complete("kilofed comp") == ["compare", "completion"]
    assert "--personal-epochs" in complete("kilofed run --p")
    assert complete("kilofed build --board mic") == ["microbit"]
    assert complete("kilofed run --codec t") == ["ternary"]


# ---- settings files --------------------------------------------------------------------------------


def test_a_new_file_has_every_option_and_reads_back_as_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    said(capsys, "init", "--out", path)
    settings = settings_of(run_command)
    options = {max(p.opts, key=len).lstrip("-") for p in run_command.params} - NOT_IN_FILES
    assert {s.name for s in settings} == options
    assert {name for names in SETTING_GROUPS.values() for name in names} <= options
    assert all(s.comment.endswith((".", "]")) for s in settings)
    given = read(path, settings)
    assert set(given) == {s.name for s in settings if s.default is not None}
    for setting in settings:
        if setting.name == "out":
            assert given["out"] == tmp_path / "run", "beside the file, whatever folder that is"
        elif setting.default is not None:
            expected = tmp_path / setting.default if setting.kind == "path" else setting.default
            assert given[setting.name] == expected
    # Without their #, the others are settings too, of the right kind.
    whole = re.sub(r"^#(\S+ = )", r"\1", path.read_text(), flags=re.M)
    path.write_text(whole)
    assert set(read(path, settings)) == options


@pytest.mark.parametrize(
    ("name", "run_folder"), [("run.toml", "run"), ("kitchen.toml", "kitchen"), ("kitchen", "kitchen-run")]
)
def test_a_run_is_named_after_its_settings(
    name: str, run_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "init", "--out", tmp_path / name)
    assert read(tmp_path / name, settings_of(run_command))["out"] == tmp_path / run_folder


def test_a_models_own_defaults_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = tmp_path / "run.toml", tmp_path / "mine.tflite"
    model.write_bytes(model_bytes())
    said(capsys, "init", "--out", path, "--model", model)
    given = read(path, settings_of(run_command))
    spec = heads.find_head(model_bytes())
    assert (given["lr"], given["batch"], given["epochs"]) == (spec.lr, spec.batch, spec.epochs)
    assert given["model"] == model
    assert 'model = "mine.tflite"' in path.read_text(), "relative: the folder may be moved"
    before = path.read_text()
    assert "error 510" in said(capsys, "init", "--out", path, status=1)
    assert path.read_text() == before
    said(capsys, "init", "--out", path, "--replace")
    assert path.read_text() != before


def chosen(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    """The values `kilofed run` would start with."""
    values: dict[str, Any] = {}
    monkeypatch.setattr(run_command, "callback", lambda **given: values.update(given))
    assert run(["run", *map(str, arguments)]) == 0
    return values


def test_options_come_before_the_file_and_the_file_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'rounds = 7\nlr = 1\nport = ["a", "b"]\nlisten = ":7000"\nanybody = true\nout = "here"\n'
        "personal-epochs = 0\n"
    )
    monkeypatch.chdir("/")
    values = chosen(monkeypatch, "--config", path)
    assert (values["rounds"], values["lr"], values["ports"]) == (7, 1.0, ("a", "b"))
    assert (values["listen"], values["anybody"]) == (("127.0.0.1", 7000), True)
    assert values["out"] == tmp_path / "here", "paths count from the file"
    assert (values["personal_epochs"], values["quorum"], values["seed"]) == (0, 1.0, 1)
    values = chosen(
        monkeypatch, "--rounds", 9, "--port", "c", "--registered", "--out", "/there", "--config", path
    )
    assert (values["rounds"], values["ports"], values["anybody"]) == (9, ("c",), False)
    assert (values["out"], values["lr"]) == (Path("/there"), 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rouns = 1", "there is no setting 'rouns': did you mean 'rounds'?"),
        ("zzz = 1", "there is no setting 'zzz': `kilofed init`"),
        ("json = true", "there is no setting 'json'"),
        ("[deadlines]\nround = 1", "there is no setting 'deadlines'"),
        ("rounds = 'many'", "rounds is 'many': give a whole number"),
        ("rounds = true", "rounds is True: give a whole number"),
        ("rounds = 1.5", "rounds is 1.5"),
        ("rounds = 0", "rounds is 0: correct it: 0 is not in the range"),
        ("lr = nan", "lr is nan: give a number"),
        ("port = 'a'", "port is 'a': give a list of texts"),
        ("anybody = 1", "anybody is 1: give true or false"),
        ("codec = 'int9'", "codec is 'int9'"),
        ("listen = 'nowhere'", "listen is 'nowhere'"),
        ("model = 'missing.tflite'", "missing.tflite"),
        ("rounds = ", "cannot be read"),
        ("rounds = 1\nrounds = 2", "cannot be read"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    error = said(capsys, "run", "--config", path, status=1).replace("\nnext: ", ": ")
    assert error.startswith("error 510: run.toml")
    assert words in error


def test_any_text_comes_back_from_a_file(tmp_path: Path) -> None:
    odd = 'a "b" \\ \t \n \x7f é 💡 #'
    settings = [Setting("one", "text", odd, "A text.", "G"), Setting("two", "texts", [odd, ""], "Some.", "G")]
    path = tmp_path / "x.toml"
    path.write_text(template(settings, title="t"), encoding="utf-8")
    assert read(path, settings) == {"one": odd, "two": [odd, ""]}
    path.write_bytes(b"one = '\xff'")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(path, settings)


# ---- doctor ----------------------------------------------------------------------------------------


def test_doctor_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    findings = doctor.examine()
    broken = sum(f.state == "broken" for f in findings)
    out = said(capsys, "doctor", "--json", status=1 if broken else 0)
    assert out["broken"] == broken
    names = [f["name"] for f in out["findings"]]
    assert {"Python", "numpy", "TFLite runtime", "cmake", "qemu-system-arm", "disk"} <= set(names)
    for finding in out["findings"]:
        assert (finding["state"] == "ok") == (finding["next_step"] == ""), finding
        assert "\n" not in finding["next_step"]


def test_doctor_without_tools_is_a_list_of_next_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    text = said(capsys, "doctor", status=1)
    for package in ("gcc-arm-none-eabi", "cmake", "ninja-build", "gcc", "qemu-system-arm"):
        assert f"next: apt-get install {package} (for emulated and real boards)" in text
    for package in ("nodejs", "npm"):
        assert f"next: apt-get install {package} (for emulated Picos)" in text


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_doctor_tells_old_and_lame_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "cmake", "echo cmake version 3.24.9")
    program(tmp_path, "ninja", "exit 1")
    program(tmp_path, "cc", "echo cc 12.2.0")
    program(tmp_path, "arm-none-eabi-gcc", "case $1 in --version) echo 12.2;; *) echo libc_nano.a;; esac")
    program(
        tmp_path, "qemu-system-arm", 'case $1 in --version) echo 7.2.1;; *) echo "microbit  a board";; esac'
    )
    found = {f.name: f for f in [*doctor.toolchain(), doctor.emulator()]}
    assert (found["cmake"].state, found["cmake"].found) == ("broken", "3.24.9")
    assert "3.25 or newer" in found["cmake"].next_step
    assert found["ninja"].found.endswith("does not run")
    assert found["cc"].state == "ok"
    assert found["newlib-nano"].next_step == "apt-get install libnewlib-arm-none-eabi"
    assert found["qemu-system-arm"].state == "broken"
    lacking = "mps2-an385, mps2-an386, mps2-an500, mps2-an505, mps3-an547, stm32f405"
    assert f"without {lacking}" in found["qemu-system-arm"].found


def test_doctor_looks_at_ports(tmp_path: Path) -> None:
    mine = tmp_path / "ttyACM0"
    mine.touch()
    (found,) = doctor.serial_ports(lambda: [str(mine)])
    assert found.state == "ok"
    (found,) = doctor.serial_ports(lambda: [str(tmp_path / "gone")])
    assert found.state == "broken"
    (found,) = doctor.serial_ports(list)
    assert found.state == "optional"


def test_doctor_names_the_group_of_a_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    port = tmp_path / "ttyACM0"
    port.touch()
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    monkeypatch.setattr(os, "getgroups", lambda: [1])
    monkeypatch.setattr(doctor, "_group", lambda number: "daemon" if number == 1 else "dialout")
    (found,) = doctor.serial_ports(lambda: [str(port)])
    assert found.next_step == "sudo usermod -aG dialout $USER, then log in again"
    monkeypatch.setattr(os, "getgroups", lambda: [port.stat().st_gid])
    (found,) = doctor.serial_ports(lambda: [str(port)])
    assert found.next_step == f"sudo chmod g+rw {port}"


def test_doctor_finds_adapters_without_a_driver(tmp_path: Path) -> None:
    for name, vendor, port in (("1-1", "0403", None), ("1-2", "0d28", "tty"), ("1-3", "1234", None)):
        device = tmp_path / name
        device.mkdir()
        (device / "idVendor").write_text(f"{vendor}\n")
        (device / f"{name}:1.0").mkdir()
        if port:
            (device / f"{name}:1.0" / port).mkdir()
    (tmp_path / "usb1").mkdir()
    (found,) = doctor.drivers(tmp_path)
    assert found.name == "FTDI on USB 1-1"
    assert found.next_step == "sudo modprobe ftdi_sio, and plug it in again"


def test_doctor_looks_at_the_disk_and_the_register(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.disk(tmp_path / "not" / "yet").state == "ok"
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 1 << 62)
    assert doctor.disk(tmp_path).next_step.startswith("free ")
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert "may not be written to" in doctor.disk(tmp_path).found
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert doctor.register().state == "ok"
    (tmp_path / "kilofed").mkdir()
    (tmp_path / "kilofed" / "fleet.sqlite").write_bytes(b"no database at all, but long enough to be read" * 9)
    assert doctor.register().state == "broken"


def test_doctor_names_packages_that_are_old_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def version(name: str) -> str:
        if name == "click":
            raise importlib.metadata.PackageNotFoundError
        return {"numpy": "1.2.3"}.get(name, "99")

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {f.name: f for f in doctor.packages()}
    assert found["click"].next_step == "pip install 'click>=8.1'"
    assert found["numpy"].next_step == "pip install --upgrade 'numpy>=1.24'"
    assert found["rich"].state == "ok"
    assert "tensorflow-cpu" not in found, "extras are not required"


# ---- compare ---------------------------------------------------------------------------------------


def test_a_model_is_the_same_as_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the same file" in said(capsys, "compare", MODEL, MODEL, "--samples", 3)
    found = said(capsys, "compare", MODEL, MODEL, "--samples", 3, "--json")
    assert (found["same"], found["same_file"], found["first"], found["differing"]) == (True, True, None, 0)


def test_models_part_where_they_were_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kilofed_tools.evaluate import Runner

    other = tmp_path / "other.tflite"
    other.write_bytes(moved_model(20_000))
    rng = np.random.default_rng(1)
    inputs = rng.integers(-128, 128, (12, 28, 28, 1)).astype(np.int8)
    np.savez(tmp_path / "x.npz", inputs=inputs)
    found = said(capsys, "compare", MODEL, other, "--data", tmp_path / "x.npz", "--json", status=1)
    first = found["layers"][found["first"]]
    assert (first["name"], first["constants"], first["a"], first["b"]) == ("FULLY_CONNECTED", False, 5, 5)
    assert all(layer["same"] for layer in found["layers"][:5])
    # The same figures, from the runtime's outputs alone.
    a, b = (Runner(model).run(inputs).astype(int) for model in (model_bytes(), moved_model(20_000)))
    assert found["samples"] == 12
    assert found["differing"] == np.count_nonzero((a != b).any(axis=1))
    assert found["output"]["share"] == pytest.approx(np.mean(a != b))
    assert found["output"]["steps"] == np.abs(a - b).max()
    assert found["disagreeing"] == np.count_nonzero(a.argmax(axis=1) != b.argmax(axis=1))
    text = said(capsys, "compare", MODEL, other, "--data", tmp_path / "x.npz", status=1)
    assert "they part at FULLY_CONNECTED, operator 5 of the first" in text


def test_noise_repeats_by_its_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.tflite"
    spec = heads.find_head(model_bytes())
    weights = np.random.default_rng(1).integers(-20_000, 20_000, (spec.classes, spec.features), np.int32)
    head = heads.quantise(spec, weights, np.zeros(spec.classes, np.int32))
    other.write_bytes(heads.write_head(model_bytes(), head))
    one, again = (said(capsys, "compare", MODEL, other, "--samples", 5, "--json", status=1) for _ in range(2))
    two = said(capsys, "compare", MODEL, other, "--samples", 5, "--seed", 2, "--json", status=1)
    assert one == again
    assert one["noise"] is True
    assert one["layers"] != two["layers"]


def test_a_float_model_is_laid_beside_an_int8_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "compare", FLOAT, PLAIN, "--json", status=1)
    assert found["samples"] == 100
    assert found["output"]["largest"] > 0
    assert len(found["layers"]) >= 2


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    from kilofed_tools.compare import compare

    plain, floats = PLAIN.read_bytes(), FLOAT.read_bytes()
    with pytest.raises(ModelContractError, match="takes 784 values and the second"):
        compare(model_bytes(), plain)
    with pytest.raises(DataError, match=r"two float models.*--data"):
        compare(floats, floats)
    with pytest.raises(DataError, match="cannot take int8"):
        compare(floats, plain, np.zeros((2, 11), np.int8))
    with pytest.raises(DataError, match="not finite"):
        compare(plain, plain, np.full((2, 11), np.nan))
    with pytest.raises(DataError, match="values a sample"):
        compare(plain, plain, np.zeros((2, 12), np.int8))
    with pytest.raises(DataError, match="type int64"):
        compare(plain, plain, np.zeros((2, 11), np.int64))
    two = (ROOT / "tests/data/foreign/x_two_outputs.tflite").read_bytes()
    with pytest.raises(ModelContractError, match="2 outputs"):
        compare(two, two)
    sixteen = (ROOT / "tests/data/foreign/x_int16.tflite").read_bytes()
    with pytest.raises(ModelContractError, match="something else than int8 or float32"):
        compare(sixteen, sixteen)


# ---- fedavg on any file ----------------------------------------------------------------------------


def test_an_update_a_head_and_a_model_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = moved_model(3)
    head = heads.read_head(moved)
    weights, bias = heads.master(head)
    # The file's own head is zero.
    update, _ = encode_update(weights, bias, np.zeros_like(weights), np.zeros_like(bias), Codec.INT32)
    files = {"a.update": update, "b.head": heads.encode_head(head), "c.tflite": moved}
    results = []
    for name, content in files.items():
        path, out = tmp_path / name, tmp_path / f"{name}.out"
        path.write_bytes(content)
        said(capsys, "fedavg", "--model", MODEL, "--update", path, 64, "--out", out)
        results.append(out.read_bytes())
    assert results[0] == results[1] == results[2]
    # One device alone is added as it is: the result is what it arrived at.
    assert heads.master(heads.read_head(results[0]))[0].tolist() == weights.tolist()


def test_contributions_that_do_not_belong_are_refused() -> None:
    with pytest.raises(UpdateError, match="anna has another backbone") as caught:
        read_contribution(adapt(PLAIN.read_bytes()).model, model_bytes(), "anna")
    assert caught.value.device == "anna"
    with pytest.raises(UpdateError, match=r"neither an update, nor a head, nor a \.tflite"):
        read_contribution(b"", model_bytes(), "anna")
    spec = heads.find_head(model_bytes())
    small = heads.Head(
        3, spec.features, 1, np.zeros((3, spec.features), np.int8), np.zeros(3, np.int32), 1.0, 0
    )
    with pytest.raises(UpdateError, match="the head of anna is"):
        read_contribution(heads.encode_head(small), model_bytes(), "anna")
