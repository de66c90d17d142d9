"""Writes host/API.md, the reference of `import kilofed`, from signatures and docstrings.

    build/venv/bin/python host/make_api.py

Run it after changing the docstring of a public name; a test compares the file with what this makes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import kilofed
from kilofed_tools import errors

EXAMPLE = Path(__file__).resolve().parent / "examples" / "digits.py"
TARGET = Path(__file__).resolve().parent / "API.md"

#: Heading, what it is for, and its names: every public name stands in one of them.
SECTIONS = (
    (
        "A run",
        "Devices of this machine (emulated boards, processes) and real ones, from a model to figures.",
        ("run", "RunConfig", "Deadlines", "Place", "make_places", "read_report", "Report"),
    ),
    (
        "Samples",
        "What a laboratory places into its devices, and a test set. A real host has neither.",
        ("Samples", "load_samples", "split_test", "digits_pool", "digits_test", "digits_model_path"),
    ),
    (
        "Models",
        "A model is the path of a .tflite where its type is `Path`, the file's content where it is `bytes`.",
        ("convert", "Adapted", "inspect", "Inspection", "Fit", "accuracy"),
    ),
    (
        "Boards",
        "What `kilofed build`, `flash` and `emulate` do, one by one; `run` does it for its places.",
        ("all_boards", "load_board", "Board", "build", "Image", "Identity", "flash", "Emulator"),
    ),
    (
        "Devices",
        "Who may take part.",
        ("Fleet", "Device", "new_identity"),
    ),
    (
        "A strategy of one's own",
        "`RunConfig.strategy` names it, `module:factory`; tools/GUIDE.md shows one in a run.",
        ("Strategy", "Contribution", "Update", "Mean"),
    ),
    (
        "A run from inside",
        "For a program with an event loop of its own, and for looking at a run folder.",
        (
            "resume_or_create",
            "federate",
            "open_run",
            "Run",
            "RoundRecord",
            "Kind",
            "Ending",
            "DeviceRound",
            "RunEvent",
        ),
    ),
)


def reference() -> str:
    """The text of API.md."""
    parts = [
        "# kilofed as a library",
        "",
        "Made by host/make_api.py from the docstrings; change those. Paths are `pathlib.Path`, arrays",
        "numpy's, times seconds, fractions 0 to 1. This is host/examples/digits.py:",
        "",
        "```python",
        EXAMPLE.read_text(encoding="utf-8").rstrip(),
        "```",
    ]
    for title, purpose, names in SECTIONS:
        parts += ["", f"## {title}", "", purpose]
        for name in names:
            parts += ["", *_entry(name, getattr(kilofed, name))]
    parts += ["", "## Errors", "", "Everything raised on purpose is a `kilofed.KilofedError`.", ""]
    parts += ["```text", *_tree(), "```", "", *_entry("KilofedError", errors.KilofedError)]
    return "\n".join(parts) + "\n"


def _entry(name: str, value: object) -> list[str]:
    if isinstance(value, types.UnionType):
        members = typing.get_args(value)
        listed = [line for m in members for line in _record(m)]
        return [f"### `{name}`", "", "One of these, from `kilofed.rounds.records`:", "", *listed]
    if not isinstance(value, type):
        return [f"### `{name}`", "", "```python", *_signature(name, value), "```", "", *_doc(value)]
    lines = [f"### `{name}`", "", *_doc(value)]
    if issubclass(value, Enum):
        return [*lines, "", "Values: " + ", ".join(f"`{name}.{member.name}`" for member in value) + "."]
    if _is_record(value):
        lines += ["", f"Fields: {_fields(value)}."]
        nested = [line for kind in _nested(value) for line in _record(kind)]
        lines += ["", *nested] if nested else []
    members = list(_members(value))
    return [*lines, "", *members] if members else lines


def _is_record(value: type) -> bool:
    return dataclasses.is_dataclass(value) or typing.is_typeddict(value)


def _record(value: type) -> list[str]:
    """A class of plain fields in one item of a list."""
    fields = _fields(value)
    return [f"- `{value.__name__}`: {_summary(value)}" + (f" Fields: {fields}." if fields else "")]


def _nested(value: type) -> list[type]:
    """The TypedDicts that a TypedDict's fields are made of, in their order."""
    if not typing.is_typeddict(value):
        return []
    kinds: list[type] = []
    for hint in typing.get_type_hints(value).values():
        for kind in (hint, *typing.get_args(hint)):
            if typing.is_typeddict(kind):
                kinds += [kind, *_nested(kind)]
    return list(dict.fromkeys(kinds))


def _members(value: type) -> Iterator[str]:
    """Public methods and properties, in the order of the source, each with what it does."""
    for name, member in vars(value).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"- `.{name}`: {_summary(member)}"
        elif isinstance(member, (types.FunctionType, classmethod, staticmethod)):
            function = member if isinstance(member, types.FunctionType) else member.__func__
            yield f"- `.{_one_line(name, function)}`: {_summary(function)}"


def _fields(value: type) -> str:
    """Names and types, with defaults that are plain values."""
    if not dataclasses.is_dataclass(value):
        hints = value.__annotations__
        return ", ".join(f"`{name}: {_plain(hint)}`" for name, hint in hints.items())
    shown = []
    for field in dataclasses.fields(value):
        default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
        shown.append(f"`{field.name}: {field.type}{default}`")
    return ", ".join(shown)


def _plain(hint: object) -> str:
    return hint.__forward_arg__ if isinstance(hint, typing.ForwardRef) else str(hint)


def _parameters(function: Callable[..., object]) -> list[str]:
    """Each parameter as it is written; a default that is a function is an ellipsis."""
    shown: list[str] = []
    keyword = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            shown.append("*")
            keyword = True
        default = parameter.default
        text = f"{parameter.name}: {parameter.annotation}"
        if isinstance(default, Enum):
            text += f" = {type(default).__name__}.{default.name}"
        elif default is not parameter.empty:
            text += " = ..." if callable(default) else f" = {default!r}"
        shown.append(text)
    return shown


def _one_line(name: str, function: Callable[..., object]) -> str:
    returns = inspect.signature(function).return_annotation
    return f"{name}({', '.join(_parameters(function))}) -> {returns}"


def _signature(name: str, function: object) -> list[str]:
    """In one line, or a line a parameter."""
    assert callable(function)
    line = ("async " if inspect.iscoroutinefunction(function) else "") + "def " + _one_line(name, function)
    if len(line) <= 100:
        return [line]
    head, tail = line.split("(", 1)[0], line.rsplit(") -> ", 1)[1]
    return [f"{head}(", *(f"    {p}," for p in _parameters(function)), f") -> {tail}"]


def _doc(value: object) -> list[str]:
    """The docstring; lines of "name  what it is" become a list."""
    lines = []
    for line in inspect.cleandoc(getattr(value, "__doc__", None) or "").splitlines():
        row = re.fullmatch(r"([a-z_]+(?:, [a-z_]+)*)\s{2,}(\S.*)", line)
        lines.append(f"- `{row[1]}`: {row[2]}" if row else line)
    return lines


def _summary(value: object) -> str:
    """A docstring's first paragraph in one line."""
    text = inspect.cleandoc(getattr(value, "__doc__", None) or "").split("\n\n")[0]
    return " ".join(text.split())


def _tree() -> list[str]:
    """Class names with their numbers and first lines, by inheritance."""
    import kilofed.errors
    import kilofed.link.errors  # noqa: F401  # its classes join the tree

    lines: list[str] = []

    def show(kind: type[errors.KilofedError], depth: int) -> None:
        lines.append(f"{'  ' * depth + kind.__name__:<26} {kind.code}  {_title(kind)}")
        for child in sorted(kind.__subclasses__(), key=lambda c: (c.code, c.__name__)):
            if child.__module__.startswith("kilofed"):
                show(child, depth + 1)

    show(errors.KilofedError, 0)
    return lines


def _title(value: object) -> str:
    """A docstring's first sentence."""
    return re.split(r"(?<=[.]) ", _summary(value))[0]


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"wrote {TARGET}")
