"""The options that say how to reach a broker, the same for `kilofed run` and kilofed-pi."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from kilofed.cli.usage import WrongUsage

if TYPE_CHECKING:
    from kilofed.transports.broker import Broker

F = TypeVar("F", bound=Callable[..., object])
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
URL = "mqtt[s]://[USER@]BROKER[:PORT][/PREFIX]"

_OPTIONS = (
    (
        "--mqtt-password",
        "mqtt_password",
        "A file with the user's password at the broker, for nobody else to read.",
    ),
    (
        "--mqtt-ca",
        "mqtt_ca",
        "The certificate of who vouches for the broker (mqtts), where the system does not.",
    ),
    ("--mqtt-cert", "mqtt_cert", "A certificate that says who we are, where the broker wants one."),
    ("--mqtt-key", "mqtt_key", "The key of --mqtt-cert."),
)


def mqtt_options(function: F) -> F:
    """--mqtt-password, --mqtt-ca, --mqtt-cert and --mqtt-key, each a file or None."""
    for flag, name, text in reversed(_OPTIONS):
        function = click.option(flag, name, type=FILE, default=None, help=text)(function)
    return function


def broker_of(
    url: str, password: Path | None, ca: Path | None, cert: Path | None, key: Path | None, *, option: str
) -> tuple[Broker, str]:
    """The broker that the options mean, and a warning about the password's file, "" for none.

    option: the name of the one that holds `url`. Raises click.BadParameter and WrongUsage.
    """
    from kilofed.fleet import exposure
    from kilofed.transports.broker import parse_url

    try:
        broker = parse_url(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
    if (cert is None) != (key is None):
        raise WrongUsage(
            "a certificate is of no use without its key", "give --mqtt-cert and --mqtt-key, or neither"
        )
    if not broker.tls and (ca or cert):
        raise WrongUsage(
            "without TLS there are no certificates", f"give mqtts:// in {option}, or leave them out"
        )
    if password is not None and not broker.user:
        raise WrongUsage("a password is somebody's", f"name the user in {option}: {URL}")
    secret = "" if password is None else password.read_text(encoding="utf-8").rstrip("\r\n")
    full = replace(broker, password=secret, ca=ca, certificate=cert, key=key)
    return full, "" if password is None else exposure(password)
