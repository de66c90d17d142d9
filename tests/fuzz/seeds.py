"""Where the fuzzers start: good inputs, made from the zoo, the foreign models and the vectors.

    python -m tests.fuzz.seeds     writes build/fuzz/seeds/TARGET/..., the same bytes each time

A seed is a way into the code behind the checks; the corpus in tests/fuzz/corpus is what fuzzing found from
there, minimised.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.build import MODEL, OUT, ROOT

DATA = ROOT / "tests" / "data" / "foreign"
VECTORS = ROOT / "tests" / "vectors"
SEEDS = OUT / "seeds"
SIZE_MOST = 20_000  # larger files make slow runs and a large corpus
PLANNED_MOST = 6_000  # of those, so that a change of the plan is not rare among all changes
KEEP_SUM = 0x80


def models() -> Iterator[bytes]:
    """Files of the zoo, of strangers, and one of each operator of the engine's tests."""
    sys.path.insert(0, str(ROOT / "tests" / "firmware" / "engine"))
    engine_models = importlib.import_module("engine_models")
    for path in sorted([*DATA.glob("*.tflite"), *(ROOT / "models").glob("*/*.tflite")]):
        yield path.read_bytes()
    for kind in sorted(engine_models.KINDS):
        yield engine_models.one_op(kind, 2)
    for seed in range(6):
        yield engine_models.random_model(seed)
        yield engine_models.head_model(seed, softmax_behind=bool(seed % 2))
    yield from planned_models()


def planned_models() -> Iterator[bytes]:
    """Models whose plan lets operators run in turns, and whose outputs lie below their inputs."""
    from kilofed_tools.plan import plan_model, with_plan

    engine_images = importlib.import_module("engine_images")
    for seed in range(24):
        model = with_plan(engine_images.image_model(seed))
        if len(model) < PLANNED_MOST and plan_model(model).groups:
            yield model


def device_models() -> Iterator[bytes]:
    """What adapt() makes of the foreign files: device models with all our metadata, and small."""
    from kilofed_tools.adapt import adapt
    from kilofed_tools.errors import KilofedError

    for path in sorted(DATA.glob("*.tflite")):
        try:
            yield adapt(path.read_bytes()).model
        except KilofedError:
            continue


def vectors(name: str) -> Any:
    """A file of tests/vectors."""
    return json.loads((VECTORS / name).read_text())


def messages() -> Iterator[bytes]:
    """Every kind of message, and those that must be refused."""
    found = vectors("link.json")
    for part in ("messages", "accepted", "refused"):
        for entry in found[part]:
            yield bytes.fromhex(entry["cbor"])


def lines() -> Iterator[bytes]:
    """Frames alone, and streams with noise."""
    found = vectors("link.json")
    for entry in found["frames"]:
        yield bytes.fromhex(entry["wire"])
    for entry in found["streams"]:
        yield bytes.fromhex(entry["bytes"])


def head_blobs() -> Iterator[bytes]:
    """Heads in every codec, small ones too."""
    from kilofed_tools import heads

    for entry in vectors("params.json")["heads"]:
        yield bytes.fromhex(entry["blob"])
    head = heads.decode_head(_small_head())
    for codec in (0, 1, 2):
        yield heads.encode_head(head, codec)


def _small_head() -> bytes:
    # 2 classes x 3 features, step 1000, output scale 0.5
    return struct.pack("<BBBbHHIf6b2x2i", 1, 1, 1, 3, 2, 3, 1000, 0.5, 1, -2, 3, 7, -7, 0, 1000, -5)


def update_blobs() -> Iterator[bytes]:
    """Updates in every codec, for 2 x 3 and for what the vectors have."""
    import numpy as np

    from kilofed_tools.updates import Codec, encode_update

    W = np.array([[5, -900, 33], [0, 1, 700]], np.int32)
    b = np.array([4, -100_000], np.int32)
    for codec in Codec:
        yield encode_update(W, b, np.zeros_like(W), np.zeros_like(b), codec)[0]
    for entry in vectors("params.json")["updates"]:
        for value in entry.values():
            if isinstance(value, str) and value.startswith("0102"):
                yield bytes.fromhex(value)


def pages() -> Iterator[bytes]:
    """A settings page."""
    from kilofed.boards.settings import Identity, encode

    yield encode(Identity(b"\1" * 8, b"\2" * 32, "käthe"))


def placed() -> Iterator[bytes]:
    """Placed samples for the model behind the targets, of another size, and none."""
    import numpy as np

    from kilofed.boards.placed import encode

    for count, size in ((3, 11), (25, 11), (2, 12), (1, 1)):
        inputs = (np.arange(count * size, dtype=np.int64) * 37 % 256 - 128).astype(np.int8)
        yield encode(inputs.reshape(count, size), np.arange(count) % 5)


# ---- targets in C --------------------------------------------------------------------------------


def c_model() -> Iterator[bytes]:
    yield from models()
    yield from device_models()


def c_link() -> Iterator[bytes]:
    yield from (b"\0" + message for message in messages())
    yield from (b"\1" + struct.pack("<HB", 64, 6) + line for line in lines())
    for message in messages():  # encrypted: whole, and with noise before and behind
        part = bytes((min(len(message), 127),)) + message[:127]
        yield b"\2" + struct.pack("<HB", 128, 6) + part + b"\x83\x1a\0\x01" + part


def c_blobs() -> Iterator[bytes]:
    for what, blobs in enumerate((head_blobs, update_blobs, pages, placed)):
        for blob in blobs():
            yield bytes((what,)) + blob
            yield bytes((what | KEEP_SUM,)) + blob


WELCOME = struct.pack("<BHHB", 3, 1024 - 64, 2000, 7)
POLL = bytes((7, 20, 200, 255, 0))  # up to 21 times, while there is something to do
WAIT = bytes((7, 3, 200, 255, 120))  # and let a second or so pass
OFFER = struct.pack("<BBIfB", 4, 3, 1000, 0.5, 30) + bytes(range(100, 130))
CHUNKS = bytes((5, 31, 0, 15))
RATE = (0x8000 | 0x1000 | 18 << 16).to_bytes(3, "little")


def _samples(count: int) -> bytes:
    values = [bytes((i * 29 + k * 7) % 256 for k in range(11)) for i in range(count)]
    return b"".join(bytes((8, i % 5, 11)) + value + POLL for i, value in enumerate(values))


def _order(round: int, *, epochs: int = 2, codec: int = 1, flags: int = 0) -> bytes:
    return bytes((6, round, 9, epochs, 3)) + 3 * RATE + bytes((codec, flags))


def c_device() -> Iterator[bytes]:
    """Sessions of the harness's language: see `step` in device.c."""
    opened = POLL + WELCOME + POLL
    ready = opened + _samples(5) + OFFER + CHUNKS + POLL
    accept = bytes((11,)) + struct.pack("<HB", 0, 0)
    go_on = (bytes((11,)) + struct.pack("<HB", 0xFFFF, 0) + POLL) * 4
    whole = bytes((11,)) + struct.pack("<HB", 0xFFFF, 1)
    commit = bytes((12, 2))
    for setup in (2, 4 | 16, 6 | 1, 64 | 2, 8, 32 | 2, 128 | 2, 128 | 1, 128 | 64 | 4):
        head = bytes((setup,))
        yield head + opened
        yield head + ready
        for codec in range(4):
            yield head + ready + _order(1, codec=codec) + POLL * 8 + accept + go_on + whole + commit + POLL
        yield head + ready + _order(1) + POLL + bytes((12, 3)) + POLL + _order(2, flags=1) + POLL * 8
        yield head + ready + _order(1, epochs=0) + POLL * 4 + commit + bytes((10, 0, 11)) + bytes(11) + WAIT
        yield (
            head
            + ready
            + _order(1)
            + WAIT
            + OFFER[:2]
            + OFFER[3:]
            + CHUNKS
            + POLL * 6
            + accept
            + go_on
            + commit
        )
        yield (
            head
            + opened
            + bytes((13, 0, 1, 0, 0))
            + POLL
            + bytes((30, 1))
            + POLL
            + bytes((14, 0, 0, 1, 0))
            + WAIT
        )
    for message in messages():
        if message:
            part = bytes((len(message) % 256,)) + message[:255]
            for setup in (2, 128 | 2):
                yield bytes((setup,)) + ready + b"\1" + part + POLL + b"\2" + part + POLL
    for line in lines():
        yield bytes((2,)) + opened + bytes((0, min(255, len(line)))) + line[:255] + POLL


# ---- targets in Python ---------------------------------------------------------------------------


def py_models() -> Iterator[bytes]:
    yield from c_model()


def py_link() -> Iterator[bytes]:
    """See `tests.fuzz.link`: u8 what, then the bytes."""
    yield from (b"\0" + message for message in messages())
    yield from (b"\1" + line for line in lines())
    for message in messages():
        part = bytes((len(message) % 256,)) + message[:255]
        for what in (2, 3, 6, 7):
            yield bytes((what,)) + b"\1" + part + b"\2\5" + b"\3" + part + b"\4\7"


def py_blobs() -> Iterator[bytes]:
    """See `tests.fuzz.blobs`: u8 what, then the bytes."""
    from kilofed_tools import metadata
    from kilofed_tools.tflite import read_model

    for what, blobs in enumerate((head_blobs, update_blobs, pages, placed)):
        for blob in blobs():
            yield bytes((what,)) + blob
            yield bytes((what | KEEP_SUM,)) + blob
    for code in (
        b"abcde-fghjk-mnpqr-stvwx-yz012",
        b"ILOil OOOOO 11111 00000 ZZZZZ",
        b"no code",
        "\u0131".encode(),
    ):
        yield b"\7" + code
    for model in device_models():
        parsed = read_model(model)
        for what, name in ((4, metadata.HEAD), (5, metadata.LABELS), (6, metadata.PLAN)):
            payload = metadata.read_metadata(parsed, name)
            if payload:
                yield bytes((what,)) + payload


def c_mdns() -> Iterator[bytes]:
    """See `tests/fuzz/c/mdns.c`: u8 what, then a packet, or one without its header."""

    def name(*labels: bytes) -> bytes:
        return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"

    def record(who: bytes, kind: int, data: bytes) -> bytes:
        return who + struct.pack(">HHIH", kind, 0x8001, 120, len(data)) + data

    service, host = name(b"_kilofed", b"_tcp", b"local"), name(b"attic", b"local")
    own = name(b"attic", b"_kilofed", b"_tcp", b"local")
    pointer = record(service, 12, own)
    place = record(own, 33, struct.pack(">HHH", 0, 0, 7300) + host)
    address = record(host, 1, bytes((10, 77, 0, 1)))
    header = struct.pack(">6H", 0, 0x8400, 0, 3, 0, 0)
    asked = struct.pack(">6H", 0, 0x8400, 1, 3, 0, 0) + service + struct.pack(">HH", 12, 0x8001)
    for records in (pointer + place + address, address + place + pointer, place + pointer, address * 9):
        yield b"\0" + header + records
        yield b"\0" + asked + records
        yield b"\1" + records
    # Names that are told once and pointed to afterwards, and ones that point in circles.
    short = service[:-1] + b"\xc0\x0c"
    yield b"\1" + record(service, 12, b"\5attic\xc0\x0c") + record(b"\5attic\xc0\x0c", 33, place[-20:])
    yield (
        b"\1"
        + record(short, 33, struct.pack(">HHH", 0, 0, 1) + b"\xc0\x0c")
        + record(b"\xc0\x0c", 1, b"abcd")
    )
    yield b"\1" + record(b"\xc0\x0c", 33, b"\xc0\x0e" * 5) + b"\xc0\x00"
    yield b"\1" + (b"\x3f" + b"n" * 63) * 5 + pointer


def py_capture() -> Iterator[bytes]:
    """See `tests.fuzz.capture`: u8 what, then a file, or parts of a line with their way and size."""
    from tests.captured import crossing
    from tests.fuzz.link import KEY

    from kilofed.capture import CaptureWriter

    path = OUT / "seed.pcapng"
    path.parent.mkdir(parents=True, exist_ok=True)
    for key in (KEY, None):
        crossed = crossing(key)
        path.unlink(missing_ok=True)
        with CaptureWriter(path, clock=lambda: 1e9) as capture:
            for _, up, data in crossed:
                capture("line", up, data)
        content = path.read_bytes()
        for what in (0, 2):
            yield bytes((what,)) + content
            yield bytes((what,)) + content[: len(content) * 2 // 3]
            yield bytes((what | 1,)) + b"".join(
                bytes((up << 7 | len(data[at : at + 127]),)) + data[at : at + 127]
                for _, up, data in crossed
                for at in range(0, len(data), 127)
            )
    for line in lines():
        yield b"\1" + b"".join(bytes((128 | len(line[at : at + 99]),)) + line[at : at + 99]
                              for at in range(0, len(line), 99))  # fmt: skip
    path.unlink()


TARGETS: dict[str, Callable[[], Iterator[bytes]]] = {
    "c-model": c_model,
    "c-link": c_link,
    "c-blobs": c_blobs,
    "c-device": c_device,
    "c-mdns": c_mdns,
    "py-models": py_models,
    "py-link": py_link,
    "py-blobs": py_blobs,
    "py-capture": py_capture,
}


def write(target: str) -> Path:
    """The seeds of a target in build/fuzz/seeds, and the folder."""
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[target]()):
        if len(seed) <= SIZE_MOST:
            (folder / f"seed-{number:03}").write_bytes(seed)
    return folder


if __name__ == "__main__":
    assert MODEL.is_file()
    for name in sys.argv[1:] or TARGETS:
        folder = write(name)
        print(f"{folder}: {len(list(folder.iterdir()))} seeds")
