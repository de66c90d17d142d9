"""`kilofed run`: kilofed.experiment.run_experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kilofed.cli.common import (
    FILE,
    NEW_FILE,
    board_option,
    command_line,
    common_options,
    data_option,
    fleet_option,
    json_option,
    link_option,
    model_option,
    print_json,
    read_file,
    run_out_option,
    samples_option,
    shown,
    training_options,
)
from kilofed.cli.mqtt import URL, broker_of, mqtt_options
from kilofed.cli.settings import config_option
from kilofed.cli.usage import WrongUsage

#: Options that are deadlines -> their names in kilofed.rounds.config.Deadlines.
_DEADLINES = {
    "deadline": "round",
    "gather": "gather",
    "take": "head",
    "rejoin": "rejoin",
    "goodbye": "goodbye",
}

if TYPE_CHECKING:
    from kilofed.laboratory import Place
    from kilofed.rounds.config import RunConfig
    from kilofed.samples import Samples


class Address(click.ParamType):  # type: ignore[type-arg]
    """HOST:PORT, [IPV6]:PORT, *:PORT; without a host this machine alone."""

    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        from kilofed.transports.tcp import parse_address

        if isinstance(value, tuple):
            return value
        try:
            host, port = parse_address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return host or "127.0.0.1", port


ADDRESS = Address()


@click.command("run")
@model_option()
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="URL",
    help="A serial port, or any URL pyserial knows; once for each device.",
)
@click.option(
    "--listen",
    type=ADDRESS,
    default=None,
    metavar="HOST:PORT",
    help="Take devices over TCP here: an address, an IPv6 one in brackets, or * for all of this machine.",
)
@click.option(
    "--announce/--silent",
    default=False,
    help="Tell the local network where --listen is, by mDNS, for devices that look for it.",
)
@click.option(
    "--mqtt",
    metavar=URL,
    default=None,
    help="Take devices over this broker: kilofed-pi with the same address.",
)
@mqtt_options
@click.option(
    "--expect",
    type=click.IntRange(0, 10_000),
    default=None,
    help="Devices to wait for before the first round.  [default: one a port]",
)
@click.option("--emulate", type=click.IntRange(0, 64), default=0, help="Start so many emulated boards.")
@board_option("Which board to emulate.", default="mps2-an386", show_default=True)
@link_option("How emulated boards reach this host.")
@click.option(
    "--native",
    type=click.IntRange(0, 500),
    default=0,
    help="Start so many native processes of the device core.",
)
@data_option("What started devices learn from, an .npz of inputs and labels.  [default: digits]")
@click.option(
    "--test",
    type=FILE,
    default=None,
    help="An .npz to measure the global head on.  [default: for started devices held-out digits, or a fifth"
    " of --data; for others none]",
)
@samples_option("Samples a started device gets.  [default: as many as there are, up to 200]")
@click.option(
    "--alpha",
    type=float,
    default=0.3,
    show_default=True,
    help="How differently labels are mixed (Dirichlet); large: alike.",
)
@click.option(
    "--anybody/--registered", default=False, help="Let devices in that are not registered, or do not."
)
@click.option(
    "--insecure/--encrypted",
    default=False,
    help="Take sessions in the clear, of devices without a key: for the bench only.",
)
@click.option(
    "--capture",
    type=NEW_FILE,
    default=None,
    help="Write every byte that crosses the lines into this file, for `kilofed decode` and Wireshark.",
)
@run_out_option("build/run")
@training_options
@config_option
@fleet_option
@json_option
@common_options
def command(
    model: Path | None, ports: tuple[str, ...], listen: tuple[str, int] | None, announce: bool,
    mqtt: str | None, mqtt_password: Path | None, mqtt_ca: Path | None, mqtt_cert: Path | None,
    mqtt_key: Path | None, expect: int | None,
    emulate: int, board_name: str, link: str, native: int, data: Path | None, test: Path | None,
    samples: int | None, alpha: float, anybody: bool, insecure: bool, capture: Path | None, out: Path,
    fleet_path: Path | None, as_json: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Run a federation over the devices given.

    Devices are registered by `kilofed flash`, which gives each a key: sessions are encrypted. Those that are
    started here, by --emulate or --native, belong to the run. A run that was stopped goes on from its last
    round when --out names its folder, and begins anew when it had none and settings changed; one that is
    finished is left as it is and shown again (`kilofed demo` moves its own aside and starts anew).

    \b
    Example:
      kilofed run --model digits.tflite --port /dev/ttyACM0 --port /dev/ttyACM1 --rounds 10
      kilofed run --emulate 4 --board mps2-an386 --out build/four
      kilofed run --emulate 4 --board mps2-an386 --link ethernet --out build/four
      kilofed run --listen "*:7300" --announce --expect 5
      kilofed run --mqtt mqtts://kilofed@broker.example --mqtt-password secret --expect 5
      kilofed run --config run.toml --rounds 30
    """
    from kilofed.display import make_display, show_summary
    from kilofed.experiment import run_experiment
    from kilofed.fleet import default_path
    from kilofed.report import report
    from kilofed.samples import digits_model_path, load_samples

    if not ports and listen is None and mqtt is None and not emulate and not native:
        raise WrongUsage("no devices", "give --port, --listen, --mqtt, --emulate or --native")
    if (listen is not None or mqtt is not None) and expect is None:
        raise WrongUsage(
            f"{'--listen' if listen else '--mqtt'} alone does not say how many come",
            "give --expect, the devices to wait for in all",
        )
    files = (mqtt_password, mqtt_ca, mqtt_cert, mqtt_key)
    if mqtt is None and any(files):
        raise WrongUsage("there is no broker to be told that", "give --mqtt, its address")
    broker, warning = (None, "") if mqtt is None else broker_of(mqtt, *files, option="--mqtt")
    if warning:
        click.echo(f"warning: {warning}", err=True)
    if anybody and not insecure:
        raise WrongUsage("who is not registered has no key", "give --insecure with --anybody, for the bench")
    if announce and listen is None:
        raise WrongUsage("--announce tells where --listen is", "give --listen, too")
    model_path = model or digits_model_path()
    content = read_file(model_path)
    config = _config(content, settings)
    boards = [board_name] * emulate + ["posix"] * native
    places, test_set = _laboratory(content, boards, link, data, samples, alpha, config.seed)
    if test is not None:
        test_set = load_samples(test, content)
    with make_display(json_lines=as_json) as display:
        finished = run_experiment(
            out,
            places,
            model=model_path,
            config=config,
            test=test_set,
            ports=ports,
            listen=listen,
            announce=announce,
            mqtt=broker,
            expected=expect,
            fleet=fleet_path or (None if places else default_path()),
            anybody=anybody,
            insecure=insecure,
            capture=capture,
            command=command_line(),
            observers=[display],
            say=display.step,
        )
    if not finished:
        click.echo(
            f"stopped. The same command goes on from the last round; {shown(out)} holds the run", err=True
        )
        raise click.exceptions.Exit(130)
    figures = report(out)
    if as_json:
        print_json(figures)
    else:
        show_summary(figures)


def _config(model: bytes, settings: dict[str, Any]) -> RunConfig:
    """The settings given, and the model's own defaults where none were."""
    from kilofed.rounds.config import Deadlines, RunConfig
    from kilofed.rounds.globalmodel import defaults_of

    values = {name: value for name, value in settings.items() if value is not None}
    deadlines = {name: values.pop(option) for option, name in _DEADLINES.items() if option in values}
    return RunConfig(deadlines=Deadlines(**deadlines), **{**defaults_of(model), **values})


def _laboratory(
    model: bytes,
    boards: list[str],
    link: str,
    data: Path | None,
    samples: int | None,
    alpha: float,
    seed: int,
) -> tuple[list[Place], Samples | None]:
    """Places for the devices to start, and a test set; neither when none is started."""
    from kilofed.experiment import make_places, split_test
    from kilofed.samples import check_digits, digits_pool, digits_test, load_samples

    if not boards:
        return [], None
    if data is None:
        check_digits(model)
        pool, test = digits_pool(), digits_test()
    else:
        pool, test = split_test(load_samples(data, model), seed=seed)
    return make_places(pool, boards, samples=samples, alpha=alpha, seed=seed, link=link), test
