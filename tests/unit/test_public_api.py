"""`import kilofed`: its names are these, each is typed and documented, and host/API.md says what they say."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType

import pytest

import kilofed

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tools/kilofed_tools", "host/kilofed", "firmware/pi/kilofed_pi")

PUBLIC = {
    "Adapted", "Board", "Contribution", "Deadlines", "Device", "DeviceRound", "Emulator", "Ending", "Fit",
    "Fleet", "Identity", "Image", "Inspection", "KilofedError", "Kind", "Mean", "Place", "Report",
    "RoundRecord", "Run", "RunConfig", "RunEvent", "Samples", "Strategy", "Update", "__version__",
    "accuracy", "all_boards", "build", "convert", "digits_model_path", "digits_pool", "digits_test",
    "federate", "flash", "inspect", "load_board", "load_samples", "make_places", "new_identity", "open_run",
    "read_report", "resume_or_create", "run", "split_test",
}  # fmt: skip


@pytest.fixture(scope="module")
def make_api() -> ModuleType:
    """host/make_api.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "host" / "make_api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values() -> dict[str, object]:
    return {name: getattr(kilofed, name) for name in kilofed.__all__ if name != "__version__"}


def functions() -> Iterator[tuple[str, types.FunctionType]]:
    """Public functions, and the public methods and properties of public classes."""
    for name, value in values().items():
        if isinstance(value, types.FunctionType):
            yield name, value
        if isinstance(value, type) and value.__module__.startswith("kilofed"):
            for member, found in vars(value).items():
                found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
                if isinstance(found, types.FunctionType) and not member.startswith("_"):
                    yield f"{name}.{member}", found


def test_the_list_is_exact() -> None:
    assert set(kilofed.__all__) == PUBLIC
    assert len(kilofed.__all__) == len(PUBLIC)
    assert set(dir(kilofed)) == PUBLIC, "no modules and imports among what a person is shown"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kilofed.nothing


def test_no_public_name_is_a_modules() -> None:
    modules = {module.name for module in pkgutil.iter_modules(kilofed.__path__)}
    assert not modules & PUBLIC, "importing the module would put it in the name's place"


def test_a_public_name_is_the_same_wherever_it_is_imported_from() -> None:
    for name, value in values().items():
        home = getattr(value, "__module__", "")
        if home.startswith("kilofed") and isinstance(value, (type, types.FunctionType)):
            assert getattr(sys.modules[home], value.__name__) is value, name


def test_everything_is_documented() -> None:
    for name, value in values().items():
        if not isinstance(value, types.UnionType):
            assert (value.__doc__ or "").strip(), name
            # A dataclass without a docstring is given its signature for one.
            assert not (value.__doc__ or "").startswith(f"{name}("), name
    for name, function in functions():
        assert (function.__doc__ or "").strip(), name
    for event in typing.get_args(kilofed.RunEvent):
        assert not event.__doc__.startswith(f"{event.__name__}("), event


def test_everything_is_typed() -> None:
    for name, function in functions():
        signature = inspect.signature(function)
        assert signature.return_annotation is not signature.empty, name
        for parameter in signature.parameters.values():
            assert parameter.name in ("self", "cls") or parameter.annotation is not parameter.empty, name
            assert parameter.kind is not parameter.VAR_KEYWORD, f"{name} passes on options unseen"


def test_every_package_says_that_it_is_typed() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file(), package


def test_records_are_frozen() -> None:
    for name, value in values().items():
        if dataclasses.is_dataclass(value) and isinstance(value, type):
            assert value.__dataclass_params__.frozen, name  # type: ignore[attr-defined]


def test_the_page_is_what_the_docstrings_make(make_api: ModuleType) -> None:
    page = (ROOT / "host" / "API.md").read_text(encoding="utf-8")
    assert page == make_api.reference(), "run build/venv/bin/python host/make_api.py and commit host/API.md"


def test_the_page_has_every_name_once(make_api: ModuleType) -> None:
    listed = [name for _, _, names in make_api.SECTIONS for name in names]
    assert sorted([*listed, "KilofedError", "__version__"]) == sorted(PUBLIC)


def test_the_page_shows_defaults_and_kinds_of_parameters(make_api: ModuleType) -> None:
    page = make_api.reference()
    assert "def split_test(samples: Samples, *, seed: int = 1) -> tuple[Samples, Samples]" in page
    assert "async def federate(" in page
    assert "`.note(text: str, *, device: str = '') -> None`" in page
    assert "`.rounds(kind: Kind = Kind.TRAIN" in page
    assert "<" not in "".join(line for line in page.splitlines() if line.startswith(("def", "- `.")))
    assert [kind.name for kind in kilofed.Kind] == ["TRAIN", "PERSONAL"] and issubclass(kilofed.Kind, Enum)


def test_the_shortest_program_is_twenty_lines_and_type_checks() -> None:
    example = ROOT / "host" / "examples" / "digits.py"
    lines = [line for line in example.read_text().splitlines() if line.strip() and not line.startswith('"""')]
    assert len(lines) <= 20
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", ROOT / "pyproject.toml", example],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
