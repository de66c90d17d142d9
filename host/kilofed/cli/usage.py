"""Wrong usage (exit status 2), said as every other error is: what is wrong, then the next step."""

from __future__ import annotations

import click

#: What click raises for a group alone, () in versions before 8.2: those print the help themselves.
_NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


class WrongUsage(click.UsageError):
    """Options that make no sense together. next_step: what to give instead, an imperative sentence part."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next_step = next_step


def show(error: click.ClickException) -> int:
    """Prints an error of click's on stderr, and returns the exit status it stands for."""
    if isinstance(error, _NO_ARGUMENTS):
        click.echo(error.format_message())  # a group was named and nothing of it: its help is the answer
        return 0
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(context.get_usage(), err=True)
    what = " ".join(error.format_message().split()).removesuffix(".")
    click.echo(f"error {error.exit_code}: {what[:1].lower()}{what[1:]}", err=True)
    click.echo(f"next: {_next_step(error, context)}", err=True)
    return error.exit_code


def _next_step(error: click.ClickException, context: click.Context | None) -> str:
    if isinstance(error, WrongUsage):
        return error.next_step
    path = "kilofed" if context is None else context.command_path
    listed = "commands" if context is not None and isinstance(context.command, click.Group) else "options"
    return f"`{path} --help` shows the {listed} and an example"
