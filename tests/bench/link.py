"""`link.*`: bytes on the wire of one device's round, both ends of the link in memory, no faults; and how full
a serial line is while a blob is on it.

A round begins and ends in an open session: head, order, acknowledgements, status, result, update, commit,
with all framing and encryption. Head and update are those of the demo's second round. The training takes
three seconds here, longer than any emulated board's, so that messages of progress are among the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests import link_world
from tests.chaos import rounds as wide_rounds

from kilofed.link.blobs import BlobSender
from kilofed.link.frames import Direction
from kilofed.link.messages import Accept, BlobKind, Chunk, Verdict, encode
from kilofed.link.secure import EncryptedSession, Keys
from kilofed_tools.updates import Codec

from . import federation
from .figure import BenchError, Figure

COMMAND = "python -m tests.bench --only link"
CODECS = (Codec.INT8, Codec.INT4, Codec.TERNARY)
FRAMES = {128: 512, 1024: 4096}  # longest frame -> window: the micro:bit's, and the MPS2 boards'
BAUDS = (115200, 921600)
DEVICE = "m4f-1"


def figures(root: Path) -> Iterator[Figure]:
    """Up is towards the host. BenchError when an update arrives other than it left."""
    model = (root / "models" / "digits" / "digits.tflite").read_bytes()
    fleet = [place for place in federation.places(model) if place.name == DEVICE]
    for codec in CODECS:
        name = codec.name.lower()
        first, second = federation.run(model, fleet, codec, 2)
        yield Figure(f"link.update_bytes.{name}", len(second.updates[DEVICE]), "B", COMMAND)
        for frame, window in FRAMES.items():
            ways = measure(codec, frame, window, (first, second))
            for way, count in ways.items():
                yield Figure(f"link.bytes_per_round.{way}.{name}.frame_{frame}", count, "B", COMMAND)
    yield Figure("link.head_bytes.int8", len(second.head), "B", COMMAND)
    for frame in FRAMES:
        share = overhead(frame)
        yield Figure(f"link.overhead.{frame}", round(share, 4), "of the wire's bytes", COMMAND)
        yield Figure(
            f"link.overhead_on_blob.{frame}", round(share / (1 - share), 4), "of the blob's", COMMAND
        )
    runner = wide_rounds.core()
    for baud in BAUDS:
        for frame, window in FRAMES.items():
            value = round(utilisation(runner, baud, frame, window), 4)
            yield Figure(f"link.utilisation.{baud}.{frame}", value, "of capacity", COMMAND)
    runner.close()


def utilisation(runner: wide_rounds.Runner, baud: int, frame: int, window: int) -> float:
    """Wire bytes over capacity, 0..1, of the worse direction, in simulated time: 50 kB each way.

    The C core is at one end. Each byte that comes up waits 16 ms in a USB adapter. From the first chunk to
    the last.
    """
    device = wide_rounds.core_device(runner, wide_rounds.WIDE, max_frame=frame, window=window)
    line = wide_rounds.play(device, *wide_rounds.serial(baud), size=wide_rounds.WIDE)
    return min(flow.utilisation for flow in line.flows.values())


def overhead(frame: int) -> float:
    """The share of the wire's bytes that is not the blob's, 0..1, of a 50 kB blob in encrypted chunks."""
    blob = bytes(50_000)
    keys = Keys(bytes(32), bytes(range(32)), bytes(16))
    session = EncryptedSession(keys, role=Direction.FROM_HOST, max_frame=frame)
    sender = BlobSender(BlobKind.HEAD, blob, max_frame=frame, window=65535, check=session.check_bytes)
    wire = sent = 0
    while sent < len(blob):
        sender.accept(Accept(sender.id, sent, Verdict.RECEIVING), 0.0)
        for chunk in sender.poll(0.0):
            if isinstance(chunk, Chunk):
                wire += len(session.seal(encode(chunk)))
                sent += len(chunk.data)
    return 1 - len(blob) / wire


def measure(
    codec: Codec, frame: int, window: int, rounds: tuple[federation.Round, federation.Round]
) -> dict[str, int]:
    """Bytes "up" and "down" of the second of two rounds over one session."""
    world = link_world.World(max_frame=frame, window=window, train_seconds=3.0)
    world.open()
    for number, done in enumerate(rounds, 1):
        world.bytes = {"up": 0, "down": 0}
        _run_round(world, number, done.head, done.updates[DEVICE], codec)
    return world.bytes


def _run_round(world: link_world.World, number: int, head: bytes, update: bytes, codec: Codec) -> None:
    world.update = lambda order: update
    job = link_world.Round(world, number, head, codec=codec)
    world.run(lambda: job.done)
    if job.result is None or job.result.update != update or head not in world.heads:
        raise BenchError(
            "head or update arrived damaged over a sound line; see: pytest tests/unit -k endpoint"
        )
