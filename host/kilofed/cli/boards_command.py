"""`kilofed boards`: kilofed.boards.catalogue."""

from __future__ import annotations

import click

from kilofed.cli.common import common_options, json_option, print_json, print_table


@click.command("boards")
@json_option
@common_options
def command(as_json: bool) -> None:
    """List the boards this version knows.

    A board is a data file in firmware/port/boards; firmware/PORTING.md tells how to add one.

    \b
    Example:
      kilofed boards
    """
    from kilofed.boards import catalogue

    boards = catalogue.all()
    if as_json:
        print_json(
            [
                {
                    "name": b.name, "title": b.title, "chip": b.chip, "core": b.core, "links": b.links,
                    "flash_bytes": b.flash.size, "ram_bytes": b.ram.size,
                    "ring_slots": b.ring_slots, "emulator": b.qemu or b.rp2040js or None,
                    "flash_method": b.flash_method.name, "verified": b.verified,
                }
                for b in boards
            ]
        )  # fmt: skip
        return
    print_table(
        (
            "board",
            "chip",
            "core",
            "flash kB",
            "RAM kB",
            "samples",
            "links",
            "flashed by",
            "emulator",
            "verified",
            "title",
        ),
        [
            (
                b.name,
                b.chip,
                b.core,
                b.flash.size // 1024,
                b.ram.size // 1024,
                b.ring_slots,
                ", ".join(b.links),
                b.flash_method.name,
                b.qemu or ("rp2040js" if b.rp2040js else "none"),
                b.verified,
                b.title,
            )
            for b in boards
        ],
    )
