"""The wheel and the sdist: built from a clean export, installed where nothing else is, and run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

import kilofed

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
DIGITS = ROOT / "models" / "digits" / "digits.tflite"
VERSION = kilofed.__version__

Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


def export(folder: Path) -> Path:
    """The tree as a commit of it would be: what git knows or would add; without git, all but build/."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
        for name in sorted({os.fsdecode(name) for name in listed if name}):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
    else:
        unwanted = shutil.ignore_patterns("build", ".*_cache", ".hypothesis", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=unwanted, dirs_exist_ok=True)
    return folder


def build(source: Path, out: Path, *kinds: str) -> list[Path]:
    """Distributions of `source`, in the order of their names: the wheel, and the sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(out.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(wheel, sdist, tree); the wheel was built from the sdist, and that from the exported tree."""
    folder = tmp_path_factory.mktemp("built")
    tree = export(folder / "tree")
    wheel, sdist = build(tree, folder / "dist")
    assert wheel.name == f"kilofed-{VERSION}-py3-none-any.whl"
    assert sdist.name == f"kilofed-{VERSION}.tar.gz"
    return wheel, sdist, tree


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs a program of an environment that holds the wheel and what it asks for, far from any checkout."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"}

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [folder / "venv" / "bin" / program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean)

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    install = ["--python", folder / "venv", "install", "--no-compile", "--constraint", CONSTRAINTS, built[0]]
    done = subprocess.run([*pip, *install], capture_output=True, text=True)
    assert done.returncode == 0, f"the wheel's dependencies come from the package index: {done.stderr}"
    return run


def content(wheel: Path) -> dict[str, str]:
    """Name -> hash of every file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {n: hashlib.sha256(archive.read(n)).hexdigest() for n in archive.namelist()}


def test_every_place_that_names_the_version_agrees() -> None:
    header = (ROOT / "firmware" / "include" / "kilofed" / "kilofed.h").read_text()
    found = [re.search(rf"#define KF_VERSION_{part} (\d+)u", header) for part in ("MAJOR", "MINOR", "PATCH")]
    assert ".".join(match[1] for match in found if match) == VERSION
    project = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'(?m)^version = "(.+)"$', project) == [VERSION]
    cmake = (ROOT / "firmware" / "CMakeLists.txt").read_text()
    assert re.findall(r"project\(kilofed VERSION (\S+)", cmake) == [VERSION]


def test_the_wheel_holds_the_packages_and_nothing_else(built: tuple[Path, Path, Path]) -> None:
    names = content(built[0])
    tops = {name.split("/")[0] for name in names}
    assert tops == {"kilofed", "kilofed_pi", "kilofed_tools", f"kilofed-{VERSION}.dist-info"}
    for package in ("kilofed", "kilofed_pi", "kilofed_tools"):
        assert f"{package}/py.typed" in names
    for board in (ROOT / "firmware" / "port" / "boards").glob("*.json"):
        assert f"kilofed/_boards/{board.name}" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert built[0].stat().st_size < 1_000_000


def test_the_sdist_holds_the_whole_tree_and_builds_the_same_wheel(
    built: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / f"kilofed-{VERSION}"
    for needed in (
        "LICENSE", "Makefile", "firmware/CMakeLists.txt", "firmware/src/nn/conv.c", "host/API.md",
        "models/digits/digits.tflite", "tests/conftest.py", "tools/constraints.txt",
    ):  # fmt: skip
        assert (tree / needed).is_file(), needed
    (again,) = build(tree, tmp_path / "dist", "--wheel")
    (straight,) = build(built[2], tmp_path / "straight", "--wheel")
    assert content(again) == content(straight) == content(built[0])


def test_the_wheel_alone_shows_help_boards_and_models(installed: Command) -> None:
    done = installed("kilofed", "--help")
    assert done.returncode == 0 and "kilofed" in done.stdout and done.stderr == ""
    assert installed("kilofed", "--version").stdout == f"kilofed {VERSION}\n"
    done = installed("kilofed", "boards", "--json")
    assert done.returncode == 0, done.stderr
    assert {board["board"] if "board" in board else board["name"] for board in json.loads(done.stdout)} == {
        path.stem for path in (ROOT / "firmware" / "port" / "boards").glob("*.json")
    }
    done = installed("kilofed", "inspect", DIGITS, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["head"]["classes"], figures["head"]["features"], figures["head_bytes"]) == (10, 32, 376)
    assert "clone the repository" in " ".join(figures["notes"]), "which boards it fits needs the sources"


def test_every_command_of_the_wheel_has_its_help(installed: Command) -> None:
    code = "from kilofed.cli import COMMANDS, run; assert not any(run([name, '--help']) for name in COMMANDS)"
    done = installed("python", "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert installed("kilofed-pi", "--help").returncode == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("build", "--board", "microbit", "--model", DIGITS), "clone the repository"),
        (("demo",), "next: run `make demo` in a clone of the repository"),
        (("run", "--native", "1"), "clone of the repository"),
        (("eval", DIGITS), "pip install"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_what_needs_sources_or_extras_says_so(
    installed: Command, arguments: tuple[object, ...], words: str
) -> None:
    done = installed("kilofed", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("next: ") == 1
    assert "Traceback" not in done.stderr


def test_the_public_names_of_the_wheel_import_without_extras(installed: Command) -> None:
    code = "import kilofed\nfor name in kilofed.__all__: getattr(kilofed, name)\nprint(kilofed.__file__)"
    done = installed("python", "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout


def test_every_dependency_is_pinned_for_every_python_it_is_for() -> None:
    """An install with tools/constraints.txt takes tested versions, also of what an older Python needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    oldest = re.search(r"\d+\.(\d+)", project["requires-python"])
    assert oldest is not None
    asked = project["dependencies"] + [
        r for extra in project["optional-dependencies"].values() for r in extra
    ]
    for text in asked:
        wanted = Requirement(text)
        if wanted.name == "kilofed":
            continue
        for minor in range(int(oldest[1]), 14):
            python = {"python_version": f"3.{minor}"}
            if wanted.marker is not None and not wanted.marker.evaluate(python):
                continue
            found = [
                pin
                for pin in pins
                if pin.name.lower().replace("_", "-") == wanted.name.lower().replace("_", "-")
                and (pin.marker is None or pin.marker.evaluate(python))
            ]
            assert len(found) == 1, f"{text} on Python 3.{minor}: {[str(pin) for pin in found]}"
            version = str(found[0].specifier).removeprefix("==")
            assert wanted.specifier.contains(version, prereleases=True), f"{text}: {version}"
