"""The same samples, head and seed give the same update everywhere: every board, x86-64 and kilofed-pi.

What they are all compared with is the numpy trainer of kilofed_tools on features of the TFLite runtime.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from board_line import BOARDS, DIGITS, IDENTITY, ROOT, Line

from kilofed.boards import Emulator, Network, build, load, placed
from kilofed.boards.catalogue import ETHERNET
from kilofed.boards.emulator import HOST
from kilofed.boards.settings import encode
from kilofed.link.blobs import blob_hash
from kilofed.link.events import Committed, InfoChanged, Opened, ResultReady
from kilofed.link.messages import Multiplier, State, Train
from kilofed.native import build_native
from kilofed_tools import digits, heads, trainer, updates
from kilofed_tools.evaluate import features

COUNT = 77
"""Samples of each device: no multiple of the batch, of the held-out interval, or of a word."""
ROUNDS = [
    (1, updates.Codec.INT8),
    (2, updates.Codec.INT8),
    (3, updates.Codec.INT4),
    (4, updates.Codec.TERNARY),
    (5, updates.Codec.TERNARY),
]
MODEL = DIGITS.read_bytes()
SPEC = heads.find_head(MODEL)
HEAD = heads.encode_head(heads.read_head(MODEL))


def order(number: int, codec: updates.Codec) -> Train:
    rates = trainer.lr_multipliers(0.1, SPEC.ms, 0.01)
    lr_weights, lr_bias, prox = (Multiplier(rate.mantissa, rate.shift) for rate in rates)
    return Train(number, blob_hash(HEAD), 1000 + number, 3, 13, lr_weights, lr_bias, prox, int(codec), 0)


@cache
def data() -> digits.Digits:
    return digits.split().pool.take(np.arange(100, 100 + COUNT))


@cache
def expected() -> tuple[bytes, ...]:
    """The updates of ROUNDS, each committed, so that its residual goes into the next."""
    x = features(MODEL, data().samples()).astype(np.int64) - SPEC.zp_x
    y = data().labels.astype(np.int64)
    train, _ = trainer.split(COUNT)
    base = heads.master(heads.decode_head(HEAD))
    found, residual = [], None
    for number, codec in ROUNDS:
        asked = order(number, codec)
        rates = [trainer.Rate(m.mantissa, m.shift) for m in (asked.lr_weights, asked.lr_bias, asked.prox)]
        config = trainer.TrainConfig(asked.epochs, asked.batch, *rates, seed=asked.seed)
        result = trainer.train(*base, x[train], y[train], config, base=base)
        blob, residual = updates.encode_update(result.W, result.b, *base, codec, residual)
        found.append(blob)
    return tuple(found)


def updates_of(line: Line) -> tuple[bytes | None, ...]:
    """The updates of ROUNDS that the device at the end of a line sends."""
    info = line.event(Opened).info
    if info.state == State.COLLECTING or info.train + info.held_out < COUNT:
        line.event(InfoChanged, lambda event: event.info.train + event.info.held_out == COUNT)
    found = []
    for number, codec in ROUNDS:
        line.endpoint.send_head(HEAD)
        line.endpoint.train(order(number, codec))
        ready = line.event(ResultReady, seconds=60)
        assert (ready.result.round, ready.result.train) == (number, COUNT - COUNT // 5)
        found.append(ready.update)
        line.endpoint.commit(number)
        line.event(Committed)
    return tuple(found)


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_sends_the_bytes_of_the_reference(
    name: str, emulate: Callable[..., Emulator], connect: Callable[[Emulator], Line]
) -> None:
    board = load(name)
    emulated = emulate(board)
    emulated.place(placed.encode(data().samples(), data().labels))
    emulated.flash(build(board, DIGITS), IDENTITY)
    line = connect(emulated)
    assert updates_of(line) == expected()
    stack = build(board, DIGITS).stack
    assert stack is not None
    assert emulated.stack_used() <= stack.bytes, "whole rounds, and still no deeper than the code says"


@pytest.mark.parametrize("name", [name for name in BOARDS if ETHERNET in load(name).links])
def test_every_board_on_ethernet_sends_them_too(name: str, emulate: Callable[..., Emulator]) -> None:
    board = load(name, link=ETHERNET)
    emulated = emulate(board)
    emulated.place(placed.encode(data().samples(), data().labels))
    image = build(board, DIGITS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        emulated.flash(image, IDENTITY, network=Network(HOST, listener.getsockname()[1]))
        line = Line(lambda: listener.accept()[0], emulated.check)
        try:
            assert updates_of(line) == expected()
        finally:
            line.close()
    assert image.stack is not None
    assert emulated.stack_used() <= image.stack.bytes, "with lwIP in the image, too"


@contextmanager
def native_device(command: list[str], folder: Path) -> Iterator[Line]:
    """A device that is a process of this machine and connects to us; `command` gets what all of them take."""
    page, data_file = folder / "settings.bin", folder / "samples.bin"
    page.write_bytes(encode(IDENTITY))
    data_file.write_bytes(placed.encode(data().samples(), data().labels))
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(60)
        command = [*command, "--connect", "{}:{}".format(*listener.getsockname()), "--model", str(DIGITS)]
        command += ["--settings", str(page), "--samples", str(data_file)]
        path = os.pathsep.join(str(ROOT / part) for part in ("tools", "host", "firmware/pi"))
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)

        def check() -> None:
            assert process.poll() is None, f"it ended with status {process.returncode}"

        line = Line(lambda: listener.accept()[0], check)
        stack.callback(line.close)
        yield line


def test_a_native_process_sends_them_too(tmp_path: Path) -> None:
    with native_device([str(build_native())], tmp_path) as line:
        assert updates_of(line) == expected()


def test_a_pi_sends_them_too(tmp_path: Path) -> None:
    with native_device([sys.executable, "-m", "kilofed_pi"], tmp_path) as line:
        assert updates_of(line) == expected()
