"""kilofed-pi: join a federation from a Linux machine.

A thin shell: reads the model and the samples, connects, and lets `run` work until it is told to stop.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kilofed.cli import usage
from kilofed.cli.mqtt import URL, broker_of, mqtt_options
from kilofed_tools.errors import KilofedError

if TYPE_CHECKING:  # numpy and the link load after the arguments are known to be right
    from kilofed.link.events import DeviceEvent
    from kilofed.transports.broker import Broker
    from kilofed_pi.agent import PiDevice

RECONNECT_SECONDS = (0.5, 10.0)  # first and longest wait between two attempts
AUTO = "auto"  # in place of an address: the host that announces itself
SLICE_SECONDS = 0.02  # of work between two looks at the line
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def parse_address(text: str) -> tuple[str, int] | None:
    """ "HOST:PORT", "[::1]:PORT" as host and port, "auto" as None. click.BadParameter for anything else."""
    from kilofed.transports import tcp

    if text == AUTO:
        return None
    try:
        host, port = tcp.parse_address(text)
        if not host or not port:
            raise ValueError(f"{text!r} is not HOST:PORT")
    except ValueError as error:
        raise click.BadParameter(f"{error}, nor {AUTO}", param_hint="--connect") from error
    return host, port


def parse_id(text: str) -> bytes:
    """16 hex digits as 8 bytes."""
    try:
        id = bytes.fromhex(text)
    except ValueError:
        id = b""
    if len(id) != 8:
        raise click.BadParameter(f"{text!r} is not 16 hex digits", param_hint="--id")
    return id


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--connect",
    "address",
    required=True,
    metavar="HOST:PORT",
    help="Where the host listens; auto: one that announces itself on the local network is looked for; "
    f"{URL}: the broker it uses.",
)
@mqtt_options
@click.option("--model", type=FILE, required=True, help="The device model, a .tflite.")
@click.option(
    "--samples",
    type=FILE,
    required=True,
    help="This device's own samples, as `kilofed pi` writes them; they stay here.",
)
@click.option(
    "--settings",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The settings page: id, key and name, as `kilofed pi` writes it.",
)
@click.option(
    "--enroll",
    "code",
    metavar="CODE",
    help="Join by the code that `kilofed fleet enroll` shows, and write --settings for all later starts.",
)
@click.option(
    "--id",
    "id_text",
    metavar="HEX",
    help="In place of --settings: the device's id, 16 hex digits; without a key, for the bench.",
)
@click.option("--name", help="In place of --settings: the device's name.  [default: its id]")
@click.option(
    "--fast", is_flag=True, help="Run the backbone with XNNPACK: quicker, but not the boards' bytes."
)
@click.option(
    "--ring", type=click.IntRange(5, 65535), default=1000, show_default=True, help="Samples kept, the newest."
)
@click.option("--unit", is_flag=True, help="Print a systemd unit that runs this at each start, and end.")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(package_name="kilofed", message="kilofed-pi %(version)s")
def cli(
    address: str,
    mqtt_password: Path | None,
    mqtt_ca: Path | None,
    mqtt_cert: Path | None,
    mqtt_key: Path | None,
    model: Path,
    samples: Path,
    settings: Path | None,
    code: str | None,
    id_text: str | None,
    name: str | None,
    fast: bool,
    ring: int,
    unit: bool,
    debug: bool,
) -> None:
    """Train the head of a model on this machine's samples, as a device of a kilofed federation.

    It connects to the host, and again whenever the connection is lost, until it gets SIGTERM or Ctrl-C.

    \b
    Example:
      kilofed-pi --connect gateway:7300 --model digits.tflite --settings attic/settings.bin \\
        --samples attic/samples.bin
    """
    if (settings is None) == (id_text is None):
        raise usage.WrongUsage(
            "--settings and --id say who this device is", "give one of them; `kilofed pi` writes settings"
        )
    joins = settings is not None and code is not None and not settings.exists()
    if settings is not None and not joins and not settings.is_file():
        raise click.BadParameter(
            f"{settings} is not there: `kilofed pi --name NAME` writes it", param_hint="--settings"
        )
    if code is not None and settings is None:
        raise usage.WrongUsage("--enroll keeps a key", "give --settings, the file to keep it in")
    files = (mqtt_password, mqtt_ca, mqtt_cert, mqtt_key)
    where: tuple[str, int] | Broker | None
    if "://" in address:
        where, risk = broker_of(address, *files, option="--connect")
    elif any(files):
        raise usage.WrongUsage("there is no broker to be told that", f"give --connect {URL}")
    else:
        where, risk = parse_address(address), ""
    if unit:
        click.echo(_unit(sys.argv[1:], (model, samples, settings, *files), joins), nl=False)
        return
    from kilofed.boards import placed
    from kilofed.boards import settings as page
    from kilofed.boards.settings import NO_KEY
    from kilofed.enrol import identity_of
    from kilofed.errors import BoardError
    from kilofed.fleet import exposure
    from kilofed.linux import write_private
    from kilofed_pi.agent import PiDevice
    from kilofed_pi.backbone import Backbone
    from kilofed_tools.tflite import read_file

    if joins:
        device_id, key = identity_of(code or "")
        name = name or device_id.hex()[:12]
    elif settings is not None:
        try:
            identity = page.decode(settings.read_bytes())
        except BoardError as error:
            raise BoardError(
                f"{settings}: {error.what}", "`kilofed pi --name NAME` writes the page of a Linux device"
            ) from error
        device_id, key, name = identity.id, identity.key, name or identity.name
    else:
        device_id, key = parse_id(id_text or ""), NO_KEY
        name = name or device_id.hex()
    say = _speaker(name)
    backbone = Backbone(read_file(model), fast=fast)
    if not backbone.exact and not fast:
        say("this runtime has no reference kernels of tflite-runtime: features may differ from a board's")
    if key == NO_KEY:
        say("WARNING: no key: sessions are in the clear, and a host has to be told --insecure to open one")
    elif settings is not None and not joins and (warning := exposure(settings)):
        say(f"warning: {warning}")
    device = PiDevice(backbone, device_id=device_id, key=key, rng=os.urandom, ring_slots=ring)
    device.observe(*placed.decode(samples.read_bytes()))
    who = name

    def keep(made: bytes) -> None:
        assert settings is not None
        write_private(settings, page.encode(page.Identity(device_id, made, who)))
        say(f"enrolled: {settings} holds the key from here on, and the code is void")

    if risk:
        say(f"warning: {risk}")
    asyncio.run(run(device, where, say=say, keep=keep if joins else None))


def _unit(arguments: Sequence[str], files: Sequence[Path | None], joins: bool) -> str:
    """The unit that runs this very command, for the user who asks."""
    import getpass

    from kilofed_pi.service import unit

    absolute = {str(path): str(path.resolve()) for path in files if path is not None}
    command = [sys.executable, "-m", "kilofed_pi"]
    for argument in (a for a in arguments if a != "--unit"):
        option, equals, value = argument.partition("=")
        known = equals and option.startswith("--") and value in absolute
        command.append(f"{option}={absolute[value]}" if known else absolute.get(argument, argument))
    settings = files[2]
    try:
        return unit(
            command,
            user=getpass.getuser(),
            writes=settings.resolve().parent if joins and settings is not None else None,
        )
    except ValueError as error:
        raise usage.WrongUsage(str(error), "rename that file") from error


def _speaker(name: str) -> Callable[[str], None]:
    def say(text: str) -> None:
        click.echo(f"{name}: {text}", err=True)

    return say


async def run(
    device: PiDevice,
    where: tuple[str, int] | Broker | None,
    *,
    say: Callable[[str], None],
    keep: Callable[[bytes], None] | None = None,
) -> None:
    """Serves `device` over TCP or a broker until SIGTERM or SIGINT.

    It connects again, with back-off, when that is lost.

    where: host and port, or a broker; None: the host is looked for by mDNS, again for each connection.
    keep: called once with the key that replaces a code's, when the host has shown that it keeps it too: it
    gives an order, which it does after it has written its register.
    """
    from kilofed.connection import Wake, run_endpoint
    from kilofed.link.errors import TransportError
    from kilofed.link.events import TrainAsked
    from kilofed.transports import mdns, mqtt
    from kilofed.transports.base import Transport
    from kilofed.transports.broker import Broker
    from kilofed.transports.tcp import connect

    loop = asyncio.get_running_loop()
    wake, busy, stop = Wake(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def deliver(events: Sequence[DeviceEvent]) -> None:
        nonlocal keep
        for event in events:
            _report(event, say)
            device.handle(event)
            made = device.endpoint.enrolled
            if keep is not None and made is not None and isinstance(event, TrainAsked):
                keep(made)
                device.endpoint.use_key(made)
                keep = None
        busy.set()

    async def work() -> None:
        busy.set()
        collected = -1
        while True:
            await busy.wait()
            until = loop.time() + SLICE_SECONDS
            while more := device.work(loop.time()):
                if loop.time() >= until:
                    break
            wake.set()
            if not more:
                busy.clear()
                if device.collected != collected:
                    collected = device.collected
                    skipped = f", {device.skipped} with foreign labels left out" if device.skipped else ""
                    say(f"{collected} samples{skipped}")
            await asyncio.sleep(0)

    async def reach() -> Transport:
        if isinstance(where, Broker):
            return await mqtt.connect(where, device.endpoint.device_id)
        return await connect(*(where or await mdns.find()))

    async def serve() -> None:
        wait, trouble = RECONNECT_SECONDS[0], ""
        while True:
            sessions = device.endpoint.counters.sessions
            try:
                transport = await reach()
                say(f"connected to {transport.name}")
                try:
                    await run_endpoint(device.endpoint, transport, wake=wake, deliver=deliver)
                finally:
                    await transport.close()
                trouble = ""
            except TransportError as error:
                if error.what != trouble:
                    trouble = error.what
                    say(f"{error}; trying again")
            if device.endpoint.next_deadline() is None:
                return
            device.endpoint.disconnected()
            await deliver(device.endpoint.events())
            if device.endpoint.counters.sessions > sessions:
                wait = RECONNECT_SECONDS[0]
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))
            wait = min(2 * wait, RECONNECT_SECONDS[1])

    tasks = [asyncio.create_task(job) for job in (work(), serve(), stop.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    device.endpoint.close()
    wake.set()
    await asyncio.wait([tasks[1]], timeout=1.0)  # the bye leaves
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    say("stopped")


def _report(event: DeviceEvent, say: Callable[[str], None]) -> None:
    from kilofed.link import events as ev
    from kilofed.link.errors import explain

    match event:
        case ev.Welcomed():
            say("a session is open")
        case ev.Refused(reason, wait_ms):
            say(f"the host refuses this device (reason {reason}); asking again in {wait_ms / 1000:g} s")
        case ev.Unproven():
            say("a host does not hold this device's key: the wrong host, or a stranger")
        case ev.TrainAsked(order):
            say(f"round {order.round}: training for {order.epochs} epochs")
        case ev.CommitAsked(round, verdict):
            say(f"round {round}: {'taken' if verdict == 0 else 'not taken, ' + explain(verdict)}")
        case ev.CancelAsked(round):
            say(f"round {round}: cancelled")
        case ev.Lost(_, why):
            say(f"the session ended: {why}")
        case _:
            pass


def main() -> None:
    """The entry point. Exits 0 after SIGTERM or Ctrl-C, 1 with an error's number and next step, 2: usage."""
    debug = "--debug" in sys.argv[1:]
    try:
        cli.main(prog_name="kilofed-pi", standalone_mode=False)
    except click.ClickException as error:
        sys.exit(usage.show(error))
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except KilofedError as error:
        if debug:
            raise
        click.echo(f"error {error.code}: {error.what}\nnext: {error.next_step}", err=True)
        sys.exit(1)
