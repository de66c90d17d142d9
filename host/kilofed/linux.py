"""What a Linux device is given: a folder with who it is, and with its samples, as `kilofed-pi` reads them.

    settings.bin    the settings page: id, key, name (kilofed.boards.settings); only its owner may read it
    samples.bin     its samples (kilofed.boards.placed)

A native process of the device core (kilofed.native) reads the same two.
"""

from __future__ import annotations

import os
from pathlib import Path

from kilofed.boards import placed, settings
from kilofed.errors import StoreError
from kilofed.fleet import Device
from kilofed.samples import Samples

SETTINGS = "settings.bin"
SAMPLES = "samples.bin"


def write_settings(folder: Path, device: Device) -> Path:
    """Writes the settings page of a device into its folder, which is made; returns where. StoreError."""
    return write_page(folder, settings.encode(settings.Identity(device.id, device.key, device.name)))


def write_page(folder: Path, page: bytes) -> Path:
    """The same with the page made; only its owner may read it."""
    return _write(folder / SETTINGS, page, private=True)


def write_samples(folder: Path, samples: Samples) -> Path:
    """Writes a device's samples into its folder, which is made; returns where. StoreError."""
    return _write(folder / SAMPLES, placed.encode(samples.inputs, samples.labels))


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner may read, whole or not at all. StoreError."""
    part = path.with_name(f".{path.name}.new")
    _write(part, content, private=True)
    try:
        part.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror})", "choose another file", path=str(path)
        ) from error


def _write(path: Path, content: bytes, *, private: bool = False) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600 if private else 0o666), "wb") as stream:
            if private:
                os.fchmod(stream.fileno(), 0o600)  # it may have been there, readable by all
            stream.write(content)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror})", "choose another folder", path=str(path)
        ) from error
    return path
