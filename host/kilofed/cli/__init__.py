"""The command line: one file a subcommand, each a thin shell over a library call a script could make.

Results go to stdout (`--json` wherever figures are printed), progress to stderr. A failure is one line with a
stable number and the next step; the process exits 0, 1, 2 for wrong usage, or 130 after Ctrl-C. A traceback
is shown with `--debug` only.

Nothing but click is imported until a command runs: `kilofed --help` stays fast.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence

import click

from kilofed.cli import usage

#: What a person does next -> the commands for it, each with the first line of its own help. The module of a
#: command is kilofed.cli.<command>_command.
GROUPS = {
    "First": {
        "demo": "Watch a mixed fleet of emulated boards learn handwritten digits.",
        "doctor": "Say what is missing on this machine, and how to get it.",
    },
    "Bring a model": {
        "quantize": "Quantize a float model, with the accuracy before and after.",
        "convert": "Make a device model from Keras, a SavedModel or an int8 .tflite.",
        "inspect": "Show what a model is, and which boards it fits.",
        "eval": "Measure a model's accuracy.",
        "compare": "Say whether two models give the same outputs, and where not.",
        "cut": "Part a model for a device whose backbone another engine runs.",
    },
    "Measure a model on the boards' cores": {
        "profile": "Show where an inference spends its time and its RAM.",
        "bench": "Measure what one inference takes on each core.",
    },
    "Bring boards": {
        "boards": "List the boards this version knows.",
        "build": "Build a board's firmware with a model inside.",
        "emulate": "Start emulated boards and print their ports, until Ctrl-C.",
        "flash": "Load firmware, model and identity into a board and register it.",
        "pi": "Make what kilofed-pi needs for a Linux device to join.",
    },
    "Keep the fleet": {
        "devices": "List the devices this host knows, or forget one.",
        "fleet": "Name, group and revoke devices, and replace their keys.",
        "label": "Show what a device sees, and put labels on it.",
    },
    "Federate": {
        "init": "Write a settings file for `kilofed run`, all defaults in it.",
        "run": "Run a federation over the devices given.",
    },
    "Use the result": {
        "watch": "Follow a run that another process runs.",
        "monitor": "Show a device's link live: frames, round trips, boot text.",
        "decode": "Show what a capture holds, frame by frame.",
        "report": "Print the figures of a run, and write them as a page.",
        "export": "Take the model of a round out of a run folder.",
        "fedavg": "Average update files into a model, without any device.",
    },
    "Your shell": {
        "completion": "Print what makes a shell complete commands and options.",
    },
}

#: command -> what it does.
COMMANDS = {name: summary for group in GROUPS.values() for name, summary in group.items()}


class LazyGroup(click.Group):
    """Imports a subcommand's module when it is asked for; lists all of them without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"kilofed.cli.{cmd_name}_command")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in commands.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kilofed", message="kilofed %(version)s")
def cli() -> None:
    """Federated learning in kilobytes: int8 models, trained on microcontrollers, averaged here.

    `kilofed COMMAND --help` shows a command's options and an example. A Linux device takes part with a
    program of its own, `kilofed-pi`.

    \b
    Example:
      kilofed demo
      kilofed run --model digits.tflite --port /dev/ttyACM0 --port /dev/ttyACM1
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs the command line and exits."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns the exit status; errors are printed, see above."""
    debug = "--debug" in arguments
    try:
        return _invoke(arguments)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        return 130
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left: nothing more can be said there.
        from kilofed.cli.refusals import drop_output

        drop_output()
        return 1
    except Exception as error:
        if debug:
            raise
        return _failed(error)


def _invoke(arguments: Sequence[str]) -> int:
    """Runs it, and shows what click has to say: that may fail as all output may."""
    try:
        result = cli.main(
            args=list(arguments), prog_name="kilofed", standalone_mode=False, obj=list(arguments)
        )
    except click.ClickException as error:
        return usage.show(error)
    return result if isinstance(result, int) else 0


def _failed(error: Exception) -> int:
    from kilofed_tools.errors import KilofedError

    if isinstance(error, OSError) and not isinstance(error, KilofedError):
        from kilofed.cli.refusals import refused

        error = refused(error)
    with contextlib.suppress(OSError):  # stderr may be what is full
        if isinstance(error, KilofedError):
            click.echo(f"error {error.code}: {error.what}", err=True)
            click.echo(f"next: {error.next_step}", err=True)
        else:
            click.echo(f"error 1: {type(error).__name__}: {error}", err=True)
            click.echo("next: run it again with --debug and report what it prints", err=True)
    return 1
