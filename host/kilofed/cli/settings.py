"""The options of `kilofed run` as settings of a file, and `--config`, which reads one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kilofed.cli.common import FILE, F
from kilofed.runfile import Kind, Setting

#: Options that make no sense in a file.
NOT_IN_FILES = frozenset({"config", "json", "debug"})

#: Heading -> the settings under it, in the file's order.
GROUPS = {
    "The model and the run's folder": ("model", "out"),
    "Devices": (
        "port", "listen", "announce", "mqtt", "mqtt-password", "mqtt-ca", "mqtt-cert", "mqtt-key", "expect",
        "fleet", "anybody", "insecure", "capture",
    ),
    "Devices started for the run, and what they learn from": (
        "emulate", "board", "link", "native", "data", "test", "samples", "alpha",
    ),
    "Training": ("epochs", "batch", "lr", "prox", "codec", "personal-epochs", "seed"),
    "Rounds": ("rounds", "strategy", "fraction", "quorum", "patience"),
    "Deadlines, in seconds": ("deadline", "gather", "take", "rejoin", "goodbye"),
}  # fmt: skip

#: What the template shows for a setting that has no default of its own.
EXAMPLES = {
    "model": "digits.tflite", "listen": "0.0.0.0:7300", "expect": 4, "fleet": "fleet.sqlite",
    "data": "samples.npz", "test": "test.npz", "samples": 200, "epochs": 2, "batch": 16, "lr": 0.1,
    "capture": "lines.pcapng", "mqtt": "mqtts://kilofed@broker.example/kilofed",
    "mqtt-password": "mqtt.password", "mqtt-ca": "ca.pem", "mqtt-cert": "host.pem", "mqtt-key": "host.key",
}  # fmt: skip


def settings_of(command: click.Command) -> list[Setting]:
    """A command's options as settings, in the order of GROUPS; what no group names comes last."""
    options = {name: p for p in command.params if (name := _name(p)) not in NOT_IN_FILES}
    order = {name: group for group, names in GROUPS.items() for name in names}
    listed = [name for name in order if name in options]
    rest = [name for name in options if name not in order]
    return [_setting(name, options[name], order.get(name, "Further settings")) for name in [*listed, *rest]]


def _name(parameter: click.Parameter) -> str:
    return max(parameter.opts, key=len).lstrip("-")


def _setting(name: str, option: click.Parameter, group: str) -> Setting:
    assert isinstance(option, click.Option)
    kind = _kind(option)
    # click marks "no default" by a value of its own, which is neither a number nor a text.
    given = option.default if isinstance(option.default, (bool, int, float, str, Path)) else None
    default: Any = [] if kind == "texts" else given
    return Setting(name, kind, default, option.help or "", group, EXAMPLES.get(name, ""))


def _kind(option: click.Option) -> Kind:
    if option.multiple:
        return "texts"
    if option.is_flag:
        return "flag"
    if isinstance(option.type, click.Path):
        return "path"
    if isinstance(option.type, (click.IntRange, click.types.IntParamType)):
        return "int"
    if isinstance(option.type, (click.FloatRange, click.types.FloatParamType)):
        return "float"
    return "text"


def config_option(function: F) -> F:
    """--config FILE: what it sets takes the place of the options' defaults; options given come before it."""
    return click.option(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="A file of settings, from `kilofed init`; options given here come before it.",
    )(function)


def _load(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    from kilofed.errors import ConfigError
    from kilofed.runfile import read

    parameters = {_name(p): p for p in ctx.command.params}
    defaults: dict[str, Any] = {}
    for name, value in read(path, settings_of(ctx.command)).items():
        parameter = parameters[name]
        try:
            parameter.type_cast_value(ctx, value)
        except click.BadParameter as error:
            raise ConfigError(
                f"{path.name}: {name} is {_shown(value)}", f"correct it: {error.message}", setting=name
            ) from error
        defaults[parameter.name or name] = value
    ctx.default_map = defaults


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Path) else repr(value)


def template_of(command: click.Command, values: dict[str, Any], *, title: Sequence[str]) -> str:
    """The settings file of a command, with `values` in place of its defaults."""
    from kilofed.runfile import template, values_from

    return template(values_from(values, settings_of(command)), title="\n".join(title))
