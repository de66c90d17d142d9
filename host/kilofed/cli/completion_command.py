"""`kilofed completion`: click's own shell completion, printed."""

from __future__ import annotations

import click

from kilofed.cli.common import common_options

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
@common_options
def command(shell: str) -> None:
    """Print what makes a shell complete commands and options.

    SHELL is bash, zsh or fish. Put the line below into ~/.bashrc or ~/.zshrc; fish wants
    `kilofed completion fish | source` in its config.fish. Names of boards and files are completed too.

    \b
    Example:
      kilofed completion bash
      eval "$(kilofed completion bash)"
    """
    from click.shell_completion import get_completion_class

    from kilofed.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "kilofed", "_KILOFED_COMPLETE").source())
