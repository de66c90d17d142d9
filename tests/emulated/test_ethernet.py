"""Boards that call their host over TCP, through a network that QEMU plays: rounds, cables that are pulled,
hosts that are away.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from board_line import DIGITS, IDENTITY, ROOT, Line, placed

from kilofed.boards import Board, Emulator, Network, build, load
from kilofed.boards.catalogue import ETHERNET, SERIAL
from kilofed.boards.emulator import HOST
from kilofed.boards.network import decode, parse
from kilofed.boards.placed import encode
from kilofed.experiment import make_places
from kilofed.federation import federate, resume_or_create
from kilofed.fleet import Fleet
from kilofed.laboratory import NATIVE, Laboratory, Place
from kilofed.link.blobs import blob_hash
from kilofed.link.events import HeadDelivered, InfoChanged, Opened, ResultReady
from kilofed.link.messages import Multiplier, Train
from kilofed.rounds.config import Deadlines, RunConfig
from kilofed.rounds.records import RoundStarted, RunEvent
from kilofed.samples import digits_model_path, digits_pool
from kilofed.store import Run
from kilofed_tools import heads, trainer, updates
from kilofed_tools.adapt import adapt

BOARD = "mps2-an386"
CONFIG = RunConfig(rounds=5, epochs=3, personal_epochs=0, deadlines=Deadlines(gather=60, round=60, rejoin=50))
GIVEN_UP_SECONDS = 20
"""A silent connection is given up: IDLE_MS and PROBES * PROBE_MS of firmware/port/net/pipe.c."""


def run(
    folder: Path,
    places: list[Place],
    *act: Callable[[Laboratory, RunEvent], None],
    config: RunConfig = CONFIG,
    connections: list[str] | None = None,
) -> Run:
    """A federation of `places` to its end; `act(laboratory, event)` is called with every event.

    connections: gets the names of the lines and connections that bytes went over. Returns the run, open.
    """
    model = digits_model_path()
    run, _ = resume_or_create(folder, config=config, model=model.read_bytes())
    names: list[str] = connections if connections is not None else []

    def capture(name: str, up: bool, data: bytes) -> None:
        if name not in names:
            names.append(name)

    with (
        Fleet(folder / "fleet.sqlite") as fleet,
        Laboratory(
            folder / "devices", places, model=model, fleet=fleet, seed=1, say=lambda text: None
        ) as laboratory,
    ):
        laboratory.prepare()

        def observe(event: RunEvent) -> None:
            for function in act:
                function(laboratory, event)

        asyncio.run(
            asyncio.wait_for(
                federate(
                    run,
                    expected=len(places),
                    ports=laboratory.ports,
                    listen=("127.0.0.1", 0),
                    on_listening=laboratory.start_callers,
                    fleet=fleet,
                    observers=[observe],
                    watch=laboratory.check,
                    capture=capture,
                ),
                200,
            )
        )
    return run


def all_taken(finished: Run, devices: int) -> bool:
    rounds = finished.rounds()
    assert [r.number for r in rounds] == list(range(1, finished.config.rounds + 1))
    reasons = [[(d.name, d.reason) for d in r.devices if not d.taken] for r in rounds]
    assert all(len(r.taken) == devices for r in rounds), reasons
    return True


@pytest.fixture
def on_ethernet() -> Board:
    return load(BOARD, link=ETHERNET)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


def flash(emulated: Emulator, port: int) -> None:
    emulated.place(placed(10))
    emulated.flash(build(emulated.board, DIGITS), IDENTITY, network=Network(HOST, port))


def test_a_mixed_fleet_learns_what_one_on_serial_lines_does(tmp_path: Path) -> None:
    """The link changes no byte of an update: two boards on Ethernet in place of two at serial lines."""
    models = {}
    for link in (SERIAL, ETHERNET):
        places = make_places(digits_pool(), [BOARD, BOARD, "microbit", NATIVE], samples=60)
        places = [Place(p.name, p.board, p.samples, link if p.board == BOARD else SERIAL) for p in places]
        with run(tmp_path / link, places) as finished:
            assert all_taken(finished, 4)
            models[link] = finished.model_path.read_bytes()
    assert models[SERIAL] == models[ETHERNET]


def test_a_run_that_goes_on_elsewhere_is_found_again(tmp_path: Path) -> None:
    """The host that comes back has another port; its boards are told, and are the same devices."""
    places = make_places(digits_pool(), [BOARD, BOARD], samples=60, link=ETHERNET)
    ports: list[Network] = []
    devices: list[bytes] = []

    def look(laboratory: Laboratory, event: RunEvent) -> None:
        if isinstance(event, RoundStarted) and event.number in (1, 3):
            folder = laboratory.boards["mps2-an386-1"].folder
            ports.append(decode((folder / "network.bin").read_bytes()))
            devices.append((folder / "settings.bin").read_bytes())

    for rounds in (2, 4):
        config = replace(CONFIG, rounds=rounds)
        with run(tmp_path / "run", places, look, config=config) as finished:
            assert all_taken(finished, 2)
    assert ports[0].host == ports[1].host == HOST
    assert devices[0] == devices[1]


def test_eight_boards_at_once(tmp_path: Path) -> None:
    places = make_places(digits_pool(), [BOARD] * 8, samples=40, link=ETHERNET)
    with run(tmp_path / "run", places) as finished:
        assert all_taken(finished, 8)


def test_a_cable_pulled_in_mid_round_is_bridged_by_tcp(tmp_path: Path) -> None:
    """Shorter than anybody's patience: the same connection goes on, and no session is lost."""
    connections: list[str] = []
    pulled: list[float] = []

    def pull(laboratory: Laboratory, event: RunEvent) -> None:
        board = laboratory.boards["mps2-an386-1"]
        if isinstance(event, RoundStarted) and event.number == 3:
            board.cable(plugged=False)
            pulled.append(time.monotonic())
            asyncio.get_running_loop().call_later(2.0, lambda: board.cable(plugged=True))

    places = make_places(digits_pool(), [BOARD, BOARD], samples=60, link=ETHERNET)
    with run(tmp_path / "run", places, pull, connections=connections) as finished:
        assert all_taken(finished, 2)
        assert finished.rounds()[2].seconds >= 2.0, "the round waited for the cable"
    assert pulled
    assert len(connections) == 2, "one connection a board, from first to last"


@pytest.mark.slow
def test_a_cable_pulled_for_longer_is_followed_by_a_new_connection(tmp_path: Path) -> None:
    connections: list[str] = []

    def pull(laboratory: Laboratory, event: RunEvent) -> None:
        board = laboratory.boards["mps2-an386-1"]
        if isinstance(event, RoundStarted) and event.number == 3:
            board.cable(plugged=False)
            later = GIVEN_UP_SECONDS + 3.0
            asyncio.get_running_loop().call_later(later, lambda: board.cable(plugged=True))

    places = make_places(digits_pool(), [BOARD, BOARD], samples=60, link=ETHERNET)
    with run(tmp_path / "run", places, pull, connections=connections) as finished:
        assert all_taken(finished, 2)
    assert len(connections) == 3


FEATURES, CLASSES = 512, 250


def wide_model() -> bytes:
    """Nothing but a head, of 128 250 parameters: 131 kB down, and half a megabyte of int32 up."""
    schema = pytest.importorskip("tflite_micro.tensorflow.lite.micro.python.schema_py_generated")
    small = (ROOT / "tests" / "data" / "foreign" / "only_head.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(small, 0))
    rng = np.random.default_rng(1)
    shapes = [[1, FEATURES], [CLASSES], [CLASSES, FEATURES], [1, CLASSES], [1, CLASSES]]
    for tensor, shape in zip(model.subgraphs[0].tensors, shapes, strict=True):
        tensor.shape = shape
    _, bias, weights, *_ = (model.buffers[tensor.buffer] for tensor in model.subgraphs[0].tensors)
    bias.data = rng.integers(-999, 1000, CLASSES).astype("<i4").view(np.uint8)
    weights.data = rng.integers(-127, 128, (CLASSES, FEATURES), np.int8).view(np.uint8).ravel()
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return adapt(bytes(builder.Output())).model


def test_a_blob_as_large_as_a_model_goes_both_ways(
    tmp_path: Path, emulate: Callable[[Board], Emulator], listener: socket.socket, on_ethernet: Board
) -> None:
    """131 kB down and 513 kB up, through windows of 4 kB, and with the cable out for a second on the way."""
    path = tmp_path / "wide.tflite"
    path.write_bytes(wide_model())
    model = path.read_bytes()
    spec, head = heads.find_head(model), heads.read_head(model)
    blob = heads.encode_head(head)
    assert len(blob) > CLASSES * FEATURES
    rng = np.random.default_rng(2)
    x, y = rng.integers(-128, 128, (10, FEATURES), np.int8), rng.integers(0, CLASSES, 10)
    rates = trainer.lr_multipliers(0.1, spec.ms, 0.0)
    wire = [Multiplier(rate.mantissa, rate.shift) for rate in rates]
    order = Train(1, blob_hash(blob), 7, 1, 4, *wire, int(updates.Codec.INT32), 0)

    emulated = emulate(on_ethernet)
    emulated.place(encode(x, y))
    where = Network(HOST, listener.getsockname()[1])
    emulated.flash(build(on_ethernet, path), IDENTITY, network=where)
    line = Line(lambda: listener.accept()[0], emulated.check)
    info = line.event(Opened).info
    if info.train + info.held_out < 10:
        line.event(InfoChanged, lambda event: event.info.train + event.info.held_out == 10)
    line.endpoint.send_head(blob)
    line.event(HeadDelivered, seconds=60)
    line.endpoint.train(order)
    done = len(line.received)
    while len(line.received) < done + 100_000:
        line.turn()
    emulated.cable(plugged=False)
    time.sleep(1)
    emulated.cable(plugged=True)
    update = line.event(ResultReady, seconds=60).update
    line.close()

    base = heads.master(head)
    learnt = trainer.split(10)[0]
    config = trainer.TrainConfig(1, 4, *rates, seed=7)
    result = trainer.train(
        *base, x[learnt].astype(np.int64) - spec.zp_x, y[learnt].astype(np.int64), config, base=base
    )
    expected, _ = updates.encode_update(result.W, result.b, *base, updates.Codec.INT32, None)
    assert update is not None
    assert len(update) > 4 * CLASSES * FEATURES
    assert update == expected


def test_a_board_says_on_its_serial_port_what_becomes_of_its_connection(
    emulate: Callable[[Board], Emulator], connect: Callable[[Emulator], Line], on_ethernet: Board
) -> None:
    """The host is away at first, comes, and goes; the cable too."""
    emulated = emulate(on_ethernet)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    emulated.start(blank=True)
    shown = connect(emulated)
    flash(emulated, port)
    shown.text(b"net: cable in\r\n")
    shown.text(b"net: address 10.0.2.15\r\n")
    shown.text(b"net: no connection to 10.0.2.2:%d\r\n" % port)
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(30)
        line = Line(lambda: server.accept()[0], emulated.check)
        shown.text(b"net: connected to 10.0.2.2:%d\r\n" % port)
        assert line.event(Opened).hello.device_id == IDENTITY.id
        line.close()
        shown.text(b"net: connection closed by 10.0.2.2:%d\r\n" % port)
        shown.received.clear()
        line = Line(lambda: server.accept()[0], emulated.check)
        line.event(Opened)
        emulated.cable(plugged=False)
        shown.text(b"net: cable out\r\n")
        emulated.cable(plugged=True)
        shown.text(b"net: cable in\r\n")
        line.close()


def test_what_comes_in_at_the_serial_port_does_not_stop_the_board(
    emulate: Callable[[Board], Emulator], connect: Callable[[Emulator], Line],
    listener: socket.socket, on_ethernet: Board,
) -> None:  # fmt: skip
    """Nobody reads it there: more than its buffer holds must leave the interrupt quiet."""
    emulated = emulate(on_ethernet)
    emulated.start(blank=True)
    shown = connect(emulated)
    flash(emulated, listener.getsockname()[1])
    shown.text(b"net: cable in\r\n")
    shown.send(bytes(2000))
    line = Line(lambda: listener.accept()[0], emulated.check)
    line.event(Opened)
    line.close()


def test_a_board_without_a_cable_waits_for_one(
    emulate: Callable[[Board], Emulator], connect: Callable[[Emulator], Line],
    listener: socket.socket, on_ethernet: Board,
) -> None:  # fmt: skip
    emulated = emulate(on_ethernet)
    emulated.start(blank=True)
    shown = connect(emulated)
    emulated.cable(plugged=False)
    flash(emulated, listener.getsockname()[1])
    shown.text(b"kilofed ")
    listener.settimeout(2)
    with pytest.raises(TimeoutError):
        listener.accept()
    assert b"net: " not in shown.received
    emulated.cable(plugged=True)
    listener.settimeout(30)
    line = Line(lambda: listener.accept()[0], emulated.check)
    line.event(Opened)
    line.close()


def test_an_address_of_its_own_needs_no_dhcp(
    emulate: Callable[[Board], Emulator], listener: socket.socket, on_ethernet: Board
) -> None:
    emulated = emulate(on_ethernet)
    emulated.start(blank=True)
    emulated.place(placed(10))
    where = parse(f"10.0.2.2:{listener.getsockname()[1]}", address="10.0.2.77/24", gateway="10.0.2.2")
    emulated.flash(build(on_ethernet, DIGITS), IDENTITY, network=where)
    line = Line(lambda: listener.accept()[0], emulated.check)
    line.event(Opened)
    line.close()


def test_a_power_cut_leaves_the_block_where_it_was(
    emulate: Callable[[Board], Emulator], listener: socket.socket, on_ethernet: Board
) -> None:
    emulated = emulate(on_ethernet)
    flash(emulated, listener.getsockname()[1])
    for _ in range(3):
        line = Line(lambda: listener.accept()[0], emulated.check)
        line.event(Opened)
        line.close()
        emulated.restart()


@pytest.mark.parametrize("at", [0, 4, 6, 8, 12, 16, 28])
def test_a_damaged_block_is_said_and_nothing_is_tried(
    emulate: Callable[[Board], Emulator], connect: Callable[[Emulator], Line],
    listener: socket.socket, on_ethernet: Board, at: int,
) -> None:  # fmt: skip
    emulated = emulate(on_ethernet)
    flash(emulated, listener.getsockname()[1])
    emulated.kill()
    block = bytearray((emulated.folder / "network.bin").read_bytes())
    block[at] ^= 1
    (emulated.folder / "network.bin").write_bytes(block)
    emulated.start()
    connect(emulated).text(b"no network settings: flash this board with `kilofed flash --link ethernet")
