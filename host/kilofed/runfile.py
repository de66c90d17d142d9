"""Settings files of runs: TOML, as `kilofed init` writes it and `kilofed run --config` reads it.

    # Rounds in all; a run that is resumed goes on up to this number.
    rounds = 20

What settings there are is said by the caller, as a list of `Setting`: the command line makes it from the
options of `kilofed run`, so that file and options cannot come apart. A file is checked whole before anything
is done with it, and its paths count from the folder it lies in.
"""

from __future__ import annotations

import difflib
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kilofed.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["int", "float", "text", "texts", "path", "flag"]

_FORMS = {
    "int": "a whole number",
    "float": "a number",
    "text": 'a text in "quotes"',
    "texts": 'a list of texts, ["a", "b"]',
    "path": 'a path in "quotes"',
    "flag": "true or false",
}
WIDTH = 100  # of a comment line


@dataclass(frozen=True)
class Setting:
    """One setting. name: as in the file. kind: what it holds. group: the heading it stands under.

    default: the value it has when nobody gives one; None: it depends on something else, and `example` is what
    the template shows behind a #. comment: what it means, a sentence.
    """

    name: str
    kind: Kind
    default: Any
    comment: str
    group: str
    example: Any = None


def template(settings: Sequence[Setting], *, title: str) -> str:
    """The text of a settings file with every default in it. title: the comment at its top, a line each."""
    lines = [f"# {line}".rstrip() for line in title.splitlines()]
    group = ""
    for setting in settings:
        if setting.group != group:
            group = setting.group
            lines += ["", "", f"# ---- {group} ".ljust(WIDTH, "-")]
        lines.append("")
        lines += textwrap.wrap(
            setting.comment, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
        if setting.default is None:
            lines.append(f"#{setting.name} = {_toml(setting.example)}")
        else:
            lines.append(f"{setting.name} = {_toml(setting.default)}")
    return "\n".join(lines) + "\n"


def read(path: Path, settings: Sequence[Setting]) -> dict[str, Any]:
    """name -> value of what a settings file gives. Paths come back as Path, from the file's own folder on.

    ConfigError, with the file and the name: not TOML, no such setting, a value of the wrong kind.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path.name} cannot be read ({error})", "correct it, or write a new one with `kilofed init`"
        ) from error
    known = {setting.name: setting for setting in settings}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"{path.name}: there is no setting {name!r}",
                f"did you mean {near[0]!r}?" if near else "`kilofed init` writes a file with all there are",
                setting=name,
            )
    return {name: _checked(path, known[name], value) for name, value in values.items()}


def _checked(path: Path, setting: Setting, value: Any) -> Any:
    kind = setting.kind
    if kind == "float" and _is_int(value):
        return float(value)
    right = {
        "int": _is_int(value),
        "float": isinstance(value, float) and math.isfinite(value),
        "text": isinstance(value, str),
        "texts": isinstance(value, list) and all(isinstance(item, str) for item in value),
        "path": isinstance(value, str) and value != "",
        "flag": isinstance(value, bool),
    }
    if not right[kind]:
        raise ConfigError(
            f"{path.name}: {setting.name} is {value!r}", f"give {_FORMS[kind]}", setting=setting.name
        )
    return path.parent / value if kind == "path" else value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, (str, Path)):
        # Quotes, backslashes and control characters are what a basic string of TOML cannot hold as they are.
        escaped = "".join(
            f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else f"\\{c}" if c in '"\\' else c
            for c in str(value)
        )
        return f'"{escaped}"'
    return repr(value)


def values_from(mapping: Mapping[str, Any], settings: Sequence[Setting]) -> list[Setting]:
    """The settings with other defaults: those of `mapping`, where it has them."""
    return [
        Setting(s.name, s.kind, mapping.get(s.name, s.default), s.comment, s.group, s.example)
        for s in settings
    ]
