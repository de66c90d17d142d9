"""`kilofed demo`: kilofed.demo.run_demo."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from kilofed.cli.common import (
    command_line,
    common_options,
    json_option,
    print_json,
    rounds_option,
    run_out_option,
    seed_option,
    shown,
)


@click.command("demo")
@run_out_option("build/demo")
@rounds_option
@seed_option("Of the samples' dealing and of everything random in the run.")
@click.option("--native", is_flag=True, help="No emulator: the boards are native processes of the same core.")
@click.option("--fresh", is_flag=True, help="Move an unfinished run aside instead of going on with it.")
@json_option
@common_options
def command(out: Path, rounds: int, seed: int, native: bool, fresh: bool, as_json: bool) -> None:  # fmt: skip
    """Watch a mixed fleet of emulated boards learn handwritten digits.

    Four Cortex-M4F boards, one 16 KB Cortex-M0 board and one Linux device; none of them has all the digits.
    Stop it with Ctrl-C, and the same command goes on from the last round. A demo that is finished is moved
    aside (build/demo-1, -2, ...) and the next begins anew.

    \b
    Example:
      kilofed demo
    """
    from kilofed import demo
    from kilofed.display import make_display, show_summary
    from kilofed.report import report

    demo.check_parts()
    with make_display(json_lines=as_json) as display:
        if not native:
            lacking = demo.missing_tools()
            if lacking:
                names = ", ".join(m.program for m in lacking)
                packages = " ".join(sorted({m.package for m in lacking}))
                display.step(f"no emulated boards: {names} not installed (apt-get install {packages})")
                native = True
        if native:
            lacking = demo.missing_tools(native=True)
            what = (
                "Linux devices, for want of a C compiler" if lacking else "native processes of the same core"
            )
            display.step(f"in place of emulated boards there are {what}")
        if fresh and out.exists():
            display.step(f"what was in {shown(out)} is now {shown(demo.move_aside(out))}")
        config = dataclasses.replace(demo.CONFIG, rounds=rounds, seed=seed)
        finished = demo.run_demo(
            out,
            config=config,
            native=native,
            command=command_line(),
            observers=[display],
            say=display.step,
        )
    if not finished:
        same = "The same command without --fresh" if fresh else "The same command"
        click.echo(f"stopped. {same} goes on from the last round; {shown(out)} holds the run", err=True)
        raise click.exceptions.Exit(130)
    figures = report(out)
    if as_json:
        print_json(figures)
    else:
        show_summary(figures)
