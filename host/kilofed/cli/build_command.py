"""`kilofed build`: kilofed.boards.build.build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kilofed.cli.common import (
    board_option,
    common_options,
    json_option,
    link_option,
    model_option,
    print_json,
    print_table,
    shown,
)
from kilofed.cli.usage import WrongUsage

if TYPE_CHECKING:
    from kilofed.boards import Board, Image
    from kilofed.boards.share import Share


@click.command("build")
@board_option("The board to build for; may be given more than once.", many=True)
@click.option("--all", "every", is_flag=True, help="Every board there is, with every link it has.")
@link_option("How the boards named are to reach their host.")
@model_option()
@click.option("--modules", is_flag=True, help="Show what each module takes of flash and RAM.")
@click.option("--check", is_flag=True, help="Fail when an image outgrew the sizes agreed on.")
@click.option("--record", metavar="WHY", help="Agree on these sizes, for this reason.")
@click.option("--all-operators", is_flag=True, help="Link all operators, not only the model's.")
@json_option
@common_options
def command(
    boards: tuple[str, ...],
    every: bool,
    link: str,
    model: Path | None,
    modules: bool,
    check: bool,
    record: str | None,
    all_operators: bool,
    as_json: bool,
) -> None:
    """Build a board's firmware with a model inside.

    Prints the flash and RAM the image takes, and the deepest stack its code can reach, interrupt included. A
    model that does not fit is refused with the number. Without --model it is the digits model. The image
    computes the operators that the model uses; --all-operators is for a model that comes later, another way.
    On Ethernet, what of the image is lwIP's is told beside.

    What each board's image with the digits model takes was agreed on in firmware/sizes.json: --check refuses
    growth of more than 2 % in flash or RAM, --record WHY agrees on it.

    \b
    Example:
      kilofed build --board microbit --model digits.tflite
      kilofed build --board mps2-an386 --link ethernet
      kilofed build --all --modules --check
    """
    from kilofed.boards import catalogue, load, sizes
    from kilofed.boards.build import build, sources
    from kilofed.boards.share import of_modules
    from kilofed.samples import digits_model_path

    if bool(boards) == every:
        raise WrongUsage("it is one or more boards, or all", "give --board NAME or --all")
    if (check or record is not None) and (model is not None or all_operators):
        raise WrongUsage(
            "sizes were agreed on for the digits model", "leave --model and --all-operators out, or --check"
        )
    if record is not None and not record.strip():
        raise WrongUsage("growth wants a reason", "say after --record why the images grew")
    path = model or digits_model_path()
    if every:
        chosen = [load(board.name, link=way) for board in catalogue.all() for way in board.links]
    else:
        chosen = [load(name, link=link) for name in boards]
    images = []
    for board in chosen:
        image = build(
            board, path, all_operators=all_operators, progress=lambda text: click.echo(text, err=True)
        )
        images.append((board, image, of_modules(image)))
    ledger = sources().joinpath(sizes.FILE)
    grown = []
    if check or record is not None:
        grown = sizes.compare(
            sizes.load(ledger), {board.variant: sizes.measure(image) for board, image, _ in images}
        )
    if as_json:
        print_json([_figures(*row) for row in images])
    else:
        _print(images, modules)
    if record is not None:
        sizes.record(ledger, grown, record.strip())
        click.echo(f"agreed on, in {shown(ledger)}", err=True)
    elif check:
        for one in grown:
            if not one.comparable:
                against = "nothing" if one.agreed is None else f"those of GCC {one.agreed.compiler}"
                click.echo(f"{one.variant}: not compared, as {against} was agreed on", err=True)
        sizes.check(grown)


def _print(images: Sequence[tuple[Board, Image, Mapping[str, Share]]], modules: bool) -> None:
    from kilofed.boards.share import Share

    nothing = Share(0, 0)
    print_table(
        ("board", "link", "flash B", "of", "lwIP", "RAM B", "of", "lwIP", "stack B", "of", "image"),
        [
            (
                board.name, board.link, image.flash_bytes, board.image_region.size,
                parts.get("lwip", nothing).flash,
                image.ram_bytes, board.ram.size - board.reserve_bytes, parts.get("lwip", nothing).ram,
                image.stack.bytes if image.stack else "-", image.stack_bytes, shown(image.elf),
            )
            for board, image, parts in images
        ],
    )  # fmt: skip
    if not modules:
        return
    names = list(dict.fromkeys(name for _, _, parts in images for name in parts))
    for kind, title in (("flash", "flash"), ("ram", "RAM, beside memory block and stack")):
        columns = {
            name: [getattr(parts.get(name, nothing), kind) for _, _, parts in images] for name in names
        }
        columns = {name: column for name, column in columns.items() if any(column)}
        click.echo(f"\nbytes of {title}, by module")
        rows = zip(*columns.values(), strict=True)
        print_table(
            ("board", "link", *columns),
            [(board.name, board.link, *row) for (board, _, _), row in zip(images, rows, strict=True)],
        )


def _figures(board: Board, image: Image, modules: Mapping[str, Share]) -> dict[str, Any]:
    lwip = modules.get("lwip")
    return {
        "board": board.name,
        "link": board.link,
        "flash_bytes": image.flash_bytes,
        "flash_limit": board.image_region.size,
        "lwip_flash_bytes": lwip.flash if lwip else 0,
        "ram_bytes": image.ram_bytes,
        "lwip_ram_bytes": lwip.ram if lwip else 0,
        "ram_limit": board.ram.size - board.reserve_bytes,
        "reserve_bytes": board.reserve_bytes,
        "model_bytes": image.model_bytes,
        "pool_bytes": image.pool_bytes,
        "stack_bytes": image.stack_bytes,
        "worst_stack_bytes": image.stack.bytes if image.stack else None,
        "modules": {name: {"flash": part.flash, "ram": part.ram} for name, part in modules.items()},
        "elf": str(image.elf),
    }
