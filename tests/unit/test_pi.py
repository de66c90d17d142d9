"""kilofed-pi: its logic in virtual time, its program as a process, and its bytes against the C core's."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kilofed.boards import placed
from kilofed.boards import settings as page
from kilofed.connection import Connection
from kilofed.link import events as ev
from kilofed.link.blobs import blob_hash
from kilofed.link.errors import StatusCode
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Multiplier, State, Train
from kilofed.native import build_native
from kilofed.transports import tcp
from kilofed.transports.base import Transport
from kilofed_pi.agent import PiDevice, Ring, firmware_version
from kilofed_pi.backbone import Backbone
from kilofed_pi.cli import cli, parse_address, parse_id
from kilofed_tools import digits, heads, trainer, updates
from kilofed_tools.errors import KilofedError
from kilofed_tools.evaluate import features

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits" / "digits.tflite"
SPEC = heads.find_head(MODEL.read_bytes())
HEAD = heads.encode_head(heads.read_head(MODEL.read_bytes()))
SECONDS = 60.0


@cache
def backbone() -> Backbone:
    return Backbone(MODEL.read_bytes())


@cache
def data(count: int = 60) -> digits.Digits:
    return digits.split().pool.take(np.arange(count))


def device(count: int = 60, **options: int) -> PiDevice:
    made = PiDevice(backbone(), device_id=b"pi no. 1", rng=random.Random(1).randbytes, **options)
    if count:
        made.observe(data(count).samples(), data(count).labels)
    return made


def order(round: int = 1, *, head: bytes = HEAD, lr: float = 0.1, prox: float = 0.0, **fields: int) -> Train:
    rates = trainer.lr_multipliers(lr, SPEC.ms, prox)
    values = {"seed": 100 + round, "epochs": 3, "batch": 16, "codec": 1, "flags": 0} | fields
    return Train(
        round,
        blob_hash(head),
        values["seed"],
        values["epochs"],
        values["batch"],
        *(Multiplier(rate.mantissa, rate.shift) for rate in rates),
        values["codec"],
        values["flags"],
    )


class Line:
    """A device and a host endpoint with a perfect pipe, one slice of work a step of 10 virtual ms."""

    def __init__(self, pi: PiDevice) -> None:
        self.pi = pi
        self.host = HostEndpoint(rng=random.Random(2).randbytes, insecure=True)
        self.now = 50.0
        self.events: list[ev.Event] = []

    def step(self) -> None:
        self.now += 0.01
        self.host.poll(self.now)
        self.pi.endpoint.poll(self.now)
        for _ in range(4):
            self.pi.endpoint.receive(self.host.data_to_send(), self.now)
            for event in self.pi.endpoint.events():
                self.pi.handle(event)
            self.host.receive(self.pi.endpoint.data_to_send(), self.now)
        self.events += self.host.events()
        self.pi.work(self.now)

    def run(self, until: Callable[[], bool], steps: int = 5000) -> None:
        for _ in range(steps):
            if until():
                return
            self.step()
        raise AssertionError(f"it does not come: {self.events[-4:]}")

    def wait(self, kind: type) -> ev.Event:
        """The next event of this kind."""
        self.events.clear()
        self.run(lambda: any(isinstance(event, kind) for event in self.events))
        return next(event for event in self.events if isinstance(event, kind))

    def ready(self) -> Line:
        def told() -> bool:
            info = self.host.info
            return (
                info is not None
                and info.state is State.IDLE
                and info.train + info.held_out == self.pi.collected
            )

        self.run(told)
        return self

    def round(
        self, number: int = 1, *, verdict: int = 0, head: bytes = HEAD, **fields: int
    ) -> ev.ResultReady:
        self.host.send_head(head)
        self.host.train(order(number, head=head, **fields))
        result = self.wait(ev.ResultReady)
        assert isinstance(result, ev.ResultReady)
        self.host.commit(number, verdict)
        self.wait(ev.Committed)
        return result


def reference(
    asked: Train, count: int = 60, *, head: bytes = HEAD, residual: updates.Residual | None = None
) -> tuple[bytes, updates.Residual, trainer.TrainResult]:
    """What the tools alone make of the same samples."""
    x = features(MODEL.read_bytes(), data(count).samples()).astype(np.int64) - SPEC.zp_x
    y = data(count).labels.astype(np.int64)
    train, _ = trainer.split(count)
    base = heads.master(heads.decode_head(head))
    rates = [trainer.Rate(m.mantissa, m.shift) for m in (asked.lr_weights, asked.lr_bias, asked.prox)]
    config = trainer.TrainConfig(asked.epochs, asked.batch, *rates, seed=asked.seed)
    result = trainer.train(*base, x[train], y[train], config, base=base)
    blob, left = updates.encode_update(result.W, result.b, *base, updates.Codec(asked.codec), residual)
    return blob, left, result


# ---- the device --------------------------------------------------------------------------------------


def test_a_round_gives_the_reference_update_and_figures():
    line = Line(device()).ready()
    info = line.host.info
    assert info is not None and (info.classes, info.features, info.capacity) == (10, 32, 1000)
    assert (info.train, info.held_out, info.model) == (48, 12, heads.file_hash(MODEL.read_bytes()))
    ready = line.round()
    blob, _, result = reference(order())
    assert ready.update == blob
    assert (ready.result.train, ready.result.held_out, ready.result.loss_q12) == (48, 12, result.loss_q12)
    assert ready.result.own_correct > ready.result.base_correct and ready.result.elapsed_ms > 0


@pytest.mark.parametrize("codec", range(4))
def test_the_residual_is_kept_by_a_commit_and_only_by_one(codec):
    line = Line(device()).ready()
    first = line.round(1, codec=codec)
    blob, left, _ = reference(order(1, codec=codec))
    assert first.update == blob
    refused = line.round(2, codec=codec, verdict=StatusCode.BLOB)
    assert refused.update == reference(order(2, codec=codec), residual=left)[0]
    third = line.round(3, codec=codec)
    assert third.update == reference(order(3, codec=codec), residual=left)[0]
    if codec:
        assert third.update != reference(order(3, codec=codec))[0]


def test_a_cancelled_round_leaves_nothing_behind():
    line = Line(device()).ready()
    line.host.send_head(HEAD)
    line.host.train(order(1, epochs=200))
    line.wait(ev.Training)
    line.host.cancel(1)
    line.run(lambda: line.pi.endpoint.state is State.IDLE)
    assert not line.pi.work(line.now)
    assert line.round(2).update == reference(order(2))[0]


def test_an_order_that_replaces_another_is_the_one_that_is_answered():
    line = Line(device()).ready()
    line.host.send_head(HEAD)
    line.host.train(order(1, epochs=200))
    line.wait(ev.Training)
    assert line.round(2).update == reference(order(2))[0]


def test_a_finished_training_does_not_answer_for_the_order_that_replaced_it():
    """The order arrives, and before its event was handled a slice of the old training ends."""
    line = Line(device()).ready()
    line.host.send_head(HEAD)
    line.host.train(order(1))
    line.wait(ev.Training)
    line.host.train(order(2))
    line.host.poll(line.now)
    line.pi.endpoint.receive(line.host.data_to_send(), line.now)
    while line.pi.work(line.now):
        pass
    assert line.pi.endpoint.state is State.TRAINING
    assert isinstance(result := line.wait(ev.ResultReady), ev.ResultReady)
    assert result.result.round == 2 and result.update == reference(order(2))[0]


def test_a_proximal_term_pulls_back():
    line = Line(device()).ready()
    asked = order(1, prox=0.5)
    line.host.send_head(HEAD)
    line.host.train(asked)
    ready = line.wait(ev.ResultReady)
    assert isinstance(ready, ev.ResultReady) and ready.update == reference(asked)[0] != reference(order(1))[0]


def test_measuring_and_personalising_send_no_update():
    line = Line(device()).ready()
    measured = line.round(1, epochs=0)
    assert measured.update is None
    assert measured.result.base_correct == measured.result.own_correct and measured.result.loss_q12 == 0
    assert line.pi.personal is None
    personal = line.round(2, flags=1)
    assert personal.update is None and personal.result.own_correct >= personal.result.base_correct
    assert line.pi.personal is not None
    expected = reference(order(2))[2]
    quantised = heads.quantise(SPEC, expected.W, expected.b)
    assert heads.encode_head(line.pi.personal) == heads.encode_head(quantised)
    assert line.round(3).update == reference(order(3))[0]  # and no residual came of it


def test_pings_are_answered_while_it_trains_and_progress_is_told():
    line = Line(device()).ready()
    line.host.send_head(HEAD)
    line.host.train(order(1, epochs=255, batch=4))
    line.wait(ev.Training)
    began, up = line.now, line.host.counters.bytes_up
    line.events.clear()
    line.run(lambda: line.now > began + 10)
    told = [event.status for event in line.events if isinstance(event, ev.Progress)]
    assert line.pi.endpoint.state is State.TRAINING and not any(isinstance(e, ev.Lost) for e in line.events)
    assert 4 <= len(told) <= 8 and line.host.counters.bytes_up - up < 300
    assert [s.progress for s in told] == sorted({s.progress for s in told})
    assert 0 < told[-1].loss < told[0].loss


def test_samples_with_foreign_labels_are_left_out():
    pi = device(0)
    labels = data(20).labels.astype(np.int64)
    labels[[3, 7]] = [10, 65535]
    pi.observe(data(20).samples(), labels)
    Line(pi).ready()
    assert pi.collected == 18 and pi.skipped == 2


def test_samples_of_another_size_are_refused():
    with pytest.raises(KilofedError, match="784 bytes"):
        device(0).observe(np.zeros((2, 100), np.int8), np.zeros(2, np.int64))


def test_a_device_without_samples_says_so():
    line = Line(device(0)).ready()
    line.host.send_head(HEAD)
    line.host.train(order())
    error = line.wait(ev.DeviceError)
    assert error == ev.DeviceError(StatusCode.STATE, 0, "")
    assert line.pi.endpoint.state is State.IDLE


def test_rates_that_the_trainer_does_not_take_are_refused():
    line = Line(device()).ready()
    wrong = Train(1, blob_hash(HEAD), 1, 1, 16, Multiplier(16384, 99), Multiplier(16384, 9))
    line.host.send_head(HEAD)
    line.host.train(wrong)
    assert line.wait(ev.DeviceError) == ev.DeviceError(StatusCode.MESSAGE, Train.TYPE, "")


def test_heads_that_are_none_are_refused():
    line = Line(device()).ready()
    line.host.send_head(bytes(len(HEAD)))
    error = line.wait(ev.DeviceError)
    assert isinstance(error, ev.DeviceError) and error.code == StatusCode.BLOB


def test_samples_that_come_during_a_training_wait_for_its_end():
    line = Line(device()).ready()
    line.host.send_head(HEAD)
    line.host.train(order(1))
    line.wait(ev.Training)
    line.pi.observe(data(80).samples()[60:], data(80).labels[60:])
    ready = line.wait(ev.ResultReady)
    assert isinstance(ready, ev.ResultReady) and ready.update == reference(order(1))[0]
    line.host.commit(1)
    line.run(lambda: line.host.info is not None and line.host.info.train == 64)
    assert line.round(2).result.train == 64


def test_a_ring_keeps_the_newest_and_their_parts():
    ring = Ring(10, 2)
    for i in range(13):
        ring.push(np.array([i, -i], np.int8), i)
    train, held = ring.split()
    assert held.tolist() == [4, 9] and len(train) == 8
    x, y = ring.samples(np.arange(10), zp=-1)
    assert y.tolist() == [10, 11, 12, 3, 4, 5, 6, 7, 8, 9]
    assert x[:, 0].tolist() == [11, 12, 13, 4, 5, 6, 7, 8, 9, 10]
    for slots in (0, 7, 65536):
        with pytest.raises(ValueError, match="multiple of 5"):
            Ring(slots, 2)
    assert device(0, ring_slots=66)._ring.slots == 70


def test_versions_as_numbers():
    assert firmware_version("1.2.3") == 0x010203
    assert firmware_version("0.1") == 0x000100


def test_the_backbone_gives_the_reference_features():
    assert backbone().exact
    got = np.stack([backbone().run(sample) for sample in data(5).samples()])
    assert np.array_equal(got, features(MODEL.read_bytes(), data(5).samples()))
    quick = Backbone(MODEL.read_bytes(), fast=True)
    assert not quick.exact
    near = np.stack([quick.run(sample) for sample in data(5).samples()]).astype(int) - got
    assert np.abs(near).max() <= 2


# ---- the program -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["host", "host:", ":7070", "host:port", "host:0", "host:70000"])
def test_addresses_that_are_none(text):
    result = CliRunner().invoke(
        cli, ["--connect", text, "--model", str(MODEL), "--samples", str(MODEL), "--id", "00" * 8]
    )
    assert result.exit_code == 2 and "is not HOST:PORT" in result.output


def test_addresses_and_ids():
    assert parse_address("gateway:7070") == ("gateway", 7070)
    assert parse_address("[::1]:1") == ("::1", 1)
    assert parse_address("auto") is None
    assert parse_id("00112233445566aa") == bytes.fromhex("00112233445566aa")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "--settings and --id say who"),
        (["--id", "00" * 8, "--settings", str(MODEL)], "--settings and --id say who"),
        (["--id", "xyz"], "16 hex digits"),
        (["--id", "00" * 7], "16 hex digits"),
        (["--id", "00" * 8, "--ring", "4"], "--ring"),
    ],
)
def test_wrong_usage(options, text):
    arguments = ["--connect", "h:1", "--model", str(MODEL), "--samples", str(MODEL), *options]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2 and text in result.output


class Program:
    """kilofed-pi, or the posix port, as a process; what it says is in `log`."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command, self.log = command, log

    async def __aenter__(self) -> Program:
        path = os.pathsep.join(str(ROOT / part) for part in ("tools", "host", "firmware/pi"))
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, env={**os.environ, "PYTHONPATH": path}, stdin=asyncio.subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def said(self) -> str:
        return self.log.read_text()


KEY = bytes(range(7, 39))


def sample_file(folder: Path, count: int = 60) -> Path:
    path = folder / f"samples{count}.kfs"
    path.write_bytes(placed.encode(data(count).samples(), data(count).labels))
    return path


def pi_command(port: int, folder: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "kilofed_pi", "--connect", f"127.0.0.1:{port}", "--model", str(MODEL),
        "--samples", str(sample_file(folder)), *(options or ("--id", "00112233445566aa", "--name", "shelf")),
    ]  # fmt: skip


class Host:
    """A host that listens, runs rounds with whatever device connects, and keeps their results."""

    def __init__(self, orders: list[Train]) -> None:
        self.orders = orders
        self.results: list[ev.ResultReady] = []
        self.opened: list[ev.Opened] = []
        self.done = asyncio.Event()
        self.captured = bytearray()
        self.connections: list[Connection] = []

    async def serve(self, transport: Transport) -> None:
        # Who knows no key takes the clear: the two kinds of pages that the programs get here.
        keys = lambda id: [KEY] if id == b"settings" else []  # noqa: E731
        endpoint = HostEndpoint(rng=os.urandom, keys=keys, insecure=True)
        capture = lambda up, data: self.captured.extend(data)  # noqa: E731
        async with Connection(endpoint, transport, capture=capture) as connection:
            self.connections.append(connection)
            async for event in connection.events():
                match event:
                    case ev.Opened():
                        self.opened.append(event)
                        self._next(connection)
                    case ev.DeviceError(code, detail):
                        raise AssertionError(f"the device says {code} ({detail})")
                    case ev.ResultReady(result):
                        self.results.append(event)
                        connection.commit(result.round)
                    case ev.Committed():
                        self._next(connection)

    def _next(self, connection: Connection) -> None:
        if len(self.results) < len(self.orders):
            connection.send_head(HEAD)
            connection.train(self.orders[len(self.results)])
        else:
            self.done.set()


async def eventually(predicate: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not predicate():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(wait(), SECONDS)


async def test_the_program_trains_and_ends_cleanly_at_sigterm(tmp_path):
    host = Host([order(1), order(2)])
    async with (
        await tcp.listen("127.0.0.1", 0, host.serve) as listener,
        Program(pi_command(listener.port, tmp_path), tmp_path / "log") as pi,
    ):
        await asyncio.wait_for(host.done.wait(), SECONDS)
        pi.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(pi.process.wait(), SECONDS) == 0
        await eventually(lambda: not host.connections[0].endpoint.hello)
    hello = host.opened[0].hello
    assert (hello.device_id, hello.board) == (bytes.fromhex("00112233445566aa"), "pi")
    assert [ready.result.round for ready in host.results] == [1, 2]
    said = pi.said()
    for line in ("shelf: 60 samples", "round 1: training for 3 epochs", "round 2: taken", "shelf: stopped"):
        assert line in said
    # The samples stayed where they are: no run of 8 pixels that are not all the same was on the line.
    for image in data().samples():
        for start in range(0, 784 - 8, 8):
            run = image[start : start + 8]
            assert len(set(run.tolist())) < 4 or run.tobytes() not in host.captured


async def test_the_program_comes_back_when_the_host_does(tmp_path):
    identity = page.Identity(b"settings", KEY, "pantry")
    settings = tmp_path / "settings.bin"
    settings.write_bytes(page.encode(identity))
    first = Host([order(1)])
    listener = await tcp.listen("127.0.0.1", 0, first.serve)
    port = listener.port
    async with Program(pi_command(port, tmp_path, "--settings", str(settings)), tmp_path / "log") as pi:
        await asyncio.wait_for(first.done.wait(), SECONDS)
        await listener.close()
        for connection in first.connections:
            await connection.close()
        await eventually(lambda: "trying again" in pi.said())
        second = Host([order(2)])
        async with await tcp.listen("127.0.0.1", port, second.serve):
            await asyncio.wait_for(second.done.wait(), SECONDS)
            pi.process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(pi.process.wait(), SECONDS) == 0
    assert second.opened[0].hello.encrypted and first.opened[0].hello.encrypted
    assert second.opened[0].hello.device_id == b"settings" and "pantry: round 2: taken" in pi.said()


async def test_the_program_says_what_is_wrong(tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(MODEL.read_bytes()[:1000])
    command = pi_command(1, tmp_path)
    command[command.index("--model") + 1] = str(broken)
    async with Program(command, tmp_path / "log") as pi:
        assert await asyncio.wait_for(pi.process.wait(), SECONDS) == 1
    assert pi.said().startswith("error 11") and "\nnext: " in pi.said() and "Traceback" not in pi.said()


async def test_the_c_core_and_the_pi_send_the_same_bytes(tmp_path):
    """Three committed rounds a codec, so that residuals count, over TCP with each one's own process."""
    orders = [order(number, codec=codec) for codec in (1, 2, 3) for number in range(3 * codec, 3 * codec + 3)]
    settings = tmp_path / "settings.bin"
    settings.write_bytes(page.encode(page.Identity(b"settings", KEY, "either")))
    hosts = []
    for command in (
        lambda port: pi_command(port, tmp_path, "--settings", str(settings)),
        lambda port: [
            str(build_native()), "--connect", f"127.0.0.1:{port}", "--model", str(MODEL), "--samples",
            str(sample_file(tmp_path)), "--settings", str(settings), "--max-frame", "128", "--window", "512",
        ],
    ):  # fmt: skip
        host = Host(orders)
        async with (
            await tcp.listen("127.0.0.1", 0, host.serve) as listener,
            Program(command(listener.port), tmp_path / f"log{len(hosts)}"),
        ):
            await asyncio.wait_for(host.done.wait(), SECONDS)
            for connection in host.connections:
                await connection.close()
        hosts.append(host)
    pi, core = hosts
    assert [r.update for r in pi.results] == [r.update for r in core.results]
    for ours, theirs in zip(pi.results, core.results, strict=True):
        names = ("round", "size", "train", "held_out", "loss_q12", "base_correct", "own_correct")
        assert [getattr(ours.result, n) for n in names] == [getattr(theirs.result, n) for n in names]
    one, other = pi.opened[0].info, core.opened[0].info
    assert (one.model, one.labels, one.classes, one.features) == (
        other.model, other.labels, other.classes, other.features,
    )  # fmt: skip
