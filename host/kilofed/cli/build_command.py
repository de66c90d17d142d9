"""`kilofed build`: kilofed.boards.build.build."""

from __future__ import annotations

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
@click.option("--all-operators", is_flag=True, help="Link all operators, not only the model's.")
@json_option
@common_options
def command(
    boards: tuple[str, ...],
    every: bool,
    link: str,
    model: Path | None,
    all_operators: bool,
    as_json: bool,
) -> None:
    """Build a board's firmware with a model inside.

    Prints the flash and RAM the image takes, and the deepest stack its code can reach, interrupt included. A
    model that does not fit is refused with the number. Without --model it is the digits model. The image
    computes the operators that the model uses; --all-operators is for a model that comes later, another way.
    On Ethernet, what of the image is lwIP's is told beside.

    \b
    Example:
      kilofed build --board microbit --model digits.tflite
      kilofed build --board mps2-an386 --link ethernet
    """
    from kilofed.boards import build, catalogue, load
    from kilofed.boards.share import of_library
    from kilofed.samples import digits_model_path

    if bool(boards) == every:
        raise WrongUsage("it is one or more boards, or all", "give --board NAME or --all")
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
        images.append((board, image, of_library(image, "lwip")))
    if as_json:
        print_json([_figures(*row) for row in images])
        return
    print_table(
        ("board", "link", "flash B", "of", "lwIP", "RAM B", "of", "lwIP", "stack B", "of", "image"),
        [
            (
                board.name, board.link, image.flash_bytes, board.image_region.size, part.flash,
                image.ram_bytes, board.ram.size - board.reserve_bytes, part.ram,
                image.stack.bytes if image.stack else "-", image.stack_bytes, shown(image.elf),
            )
            for board, image, part in images
        ],
    )  # fmt: skip


def _figures(board: Board, image: Image, lwip: Share) -> dict[str, Any]:
    return {
        "board": board.name,
        "link": board.link,
        "flash_bytes": image.flash_bytes,
        "flash_limit": board.image_region.size,
        "lwip_flash_bytes": lwip.flash,
        "ram_bytes": image.ram_bytes,
        "lwip_ram_bytes": lwip.ram,
        "ram_limit": board.ram.size - board.reserve_bytes,
        "reserve_bytes": board.reserve_bytes,
        "model_bytes": image.model_bytes,
        "pool_bytes": image.pool_bytes,
        "stack_bytes": image.stack_bytes,
        "worst_stack_bytes": image.stack.bytes if image.stack else None,
        "elf": str(image.elf),
    }
