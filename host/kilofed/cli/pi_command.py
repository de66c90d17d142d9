"""`kilofed pi`: kilofed.linux.write_settings, kilofed.linux.write_samples and kilofed.fleet.Fleet."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from kilofed.cli.common import (
    NEW_FOLDER,
    common_options,
    data_option,
    fleet_option,
    json_option,
    model_option,
    name_option,
    print_json,
    read_file,
    replace_option,
    samples_option,
    seed_option,
    shown,
)
from kilofed.cli.usage import WrongUsage


@click.command("pi")
@name_option("Register a Linux device of this name and write its settings page.")
@replace_option
@data_option("Write the device's samples: an .npz of inputs and labels for --model.")
@samples_option("So many of them, taken at random.  [default: all; without --data, so many digits]")
@seed_option("Of which samples are taken.")
@model_option()
@click.option("--out", type=NEW_FOLDER, required=True, help="The device's folder.")
@fleet_option
@json_option
@common_options
def command(
    name: str | None, replace: bool, data: Path | None, samples: int | None, seed: int, model: Path | None,
    out: Path, fleet_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make what kilofed-pi needs for a Linux device to join.

    `kilofed-pi` is the program that takes part on a Raspberry Pi or any Linux machine. It reads a settings
    page (id, key and name: --name, on the host, which registers them) and samples (--data, on the machine
    that has them; they never leave it). Give both where it is the same machine.

    \b
    Example:
      kilofed pi --name attic --data samples.npz --model digits.tflite --out attic
      kilofed run --model digits.tflite --listen 0.0.0.0:7300 --expect 1
    """
    from kilofed import linux
    from kilofed.errors import FleetError
    from kilofed.fleet import Fleet, default_path, new_identity
    from kilofed.samples import check_digits, digits_model_path, digits_pool, load_samples

    if name is None and data is None and samples is None:
        raise WrongUsage("nothing to make", "give --name, --data or both")
    model_path = model or digits_model_path()
    chosen = None
    if data is not None:
        chosen = load_samples(data, read_file(model_path))
    elif samples is not None:
        check_digits(read_file(model_path))
        chosen = digits_pool()
    if chosen is not None and samples is not None:
        chosen = chosen.some(samples, seed=seed)
    made: dict[str, object] = {}
    if name is not None:
        device = new_identity(name, "pi")
        with Fleet(fleet_path or default_path()) as fleet:
            if not replace and any(known.name == name for known in fleet.all()):
                raise FleetError(
                    f"a device named {name} is registered already",
                    "choose another --name, or give --replace",
                    device=name,
                )
            page = linux.write_settings(out, device)
            fleet.add(device, replace=replace)
        made |= {"id": device.hex, "name": name, "settings": str(page)}
    if chosen is not None:
        made |= {"samples": len(chosen), "data": str(linux.write_samples(out, chosen))}
    if as_json:
        print_json(made)
        return
    if name is not None:
        click.echo(f"{name} ({made['id']}) is registered; {shown(page)} holds its key: keep it to the device")
    if chosen is not None:
        click.echo(f"{made['samples']} samples in {shown(out / linux.SAMPLES)}")
    files = ["--settings", shown(out / linux.SETTINGS), "--samples", shown(out / linux.SAMPLES)]
    joining = shlex.join(["kilofed-pi", "--connect", "HOST:7300", "--model", shown(model_path), *files])
    click.echo(f"next: {joining}", err=True)
