"""`kilofed build`: kilofed.boards.build.build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kilofed.cli.common import (
    board_option,
    common_options,
    json_option,
    model_option,
    print_json,
    print_table,
    shown,
)
from kilofed.cli.usage import WrongUsage

if TYPE_CHECKING:
    from kilofed.boards import Board, Image


@click.command("build")
@board_option("The board to build for; may be given more than once.", many=True)
@click.option("--all", "every", is_flag=True, help="Every board there is.")
@model_option()
@click.option("--all-operators", is_flag=True, help="Link all operators, not only the model's.")
@json_option
@common_options
def command(
    boards: tuple[str, ...], every: bool, model: Path | None, all_operators: bool, as_json: bool
) -> None:
    """Build a board's firmware with a model inside.

    Prints the flash and RAM the image takes, and the deepest stack its code can reach, interrupt included. A
    model that does not fit is refused with the number. Without --model it is the digits model. The image
    computes the operators that the model uses; --all-operators is for a model that comes later, another way.

    \b
    Example:
      kilofed build --board microbit --model digits.tflite
    """
    from kilofed.boards import build, catalogue, load
    from kilofed.samples import digits_model_path

    if bool(boards) == every:
        raise WrongUsage("it is one or more boards, or all", "give --board NAME or --all")
    path = model or digits_model_path()
    chosen = catalogue.all() if every else [load(name) for name in boards]
    images = []
    for board in chosen:
        image = build(
            board, path, all_operators=all_operators, progress=lambda text: click.echo(text, err=True)
        )
        images.append((board, image))
    if as_json:
        print_json([_figures(board, image) for board, image in images])
        return
    print_table(
        ("board", "flash B", "of", "RAM B", "of", "stack B", "of", "image"),
        [
            (
                board.name, image.flash_bytes, board.image_region.size, image.ram_bytes,
                board.ram.size - board.reserve_bytes, image.stack.bytes if image.stack else "-",
                image.stack_bytes, shown(image.elf),
            )
            for board, image in images
        ],
    )  # fmt: skip


def _figures(board: Board, image: Image) -> dict[str, Any]:
    return {
        "board": board.name,
        "flash_bytes": image.flash_bytes,
        "flash_limit": board.image_region.size,
        "ram_bytes": image.ram_bytes,
        "ram_limit": board.ram.size - board.reserve_bytes,
        "reserve_bytes": board.reserve_bytes,
        "model_bytes": image.model_bytes,
        "pool_bytes": image.pool_bytes,
        "stack_bytes": image.stack_bytes,
        "worst_stack_bytes": image.stack.bytes if image.stack else None,
        "elf": str(image.elf),
    }
