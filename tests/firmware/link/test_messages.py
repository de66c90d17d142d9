"""Messages of the C core against the Python ones: all types and limits, and many thousand broken ones."""

from __future__ import annotations

import random
from dataclasses import fields, replace

import cbor2
import pytest
from device_runner import Runner
from link_runner import decode

from kilofed.link import messages as m
from kilofed.link.errors import MessageError, UnknownMessage

OK, UNSUPPORTED, BAD = 0, -4, -9


HASH = bytes(range(8))
WHOLE: list[m.Message] = [
    m.Probe(1),
    m.Hello(1, HASH, b"n" * 8, "microbit", 0x010203, 128, 256, 1),
    m.Welcome(1, HASH, b"h" * 8, 64, 2000),
    m.Refuse(HASH, 6, 10000),
    m.Info(HASH, bytes(8), 10, 32, 80, 64, 16, HASH, m.State.IDLE, 3),
    m.Info(HASH, bytes(8), 1024, 2048, 65535, 0, 0, None, m.State.FAILED, 2**32 - 1),
    m.Offer(m.BlobKind.HEAD, HASH, 376),
    m.Accept(65535, 2**20, m.Verdict.REFUSED),
    m.Chunk(258, 0, b"\x00" * 109),
    m.Train(
        7, HASH, 2**32 - 1, 255, 256, m.Multiplier(16384, 38), m.Multiplier(), m.Multiplier(32767, 255), 3, 1
    ),
    m.Status(m.State.TRAINING, 7, 1000, 65535),
    m.Result(7, HASH, 346, 64, 16, 9000, 10, 16, 123456),
    m.Result(7, None, 0, 64, 16, 9000, 10, 16, 123456),
    m.Commit(7, 0),
    m.Cancel(2**32 - 1),
    m.Ping(),
    m.Error(2, 9000),
    m.Error(255, 0, ""),
    m.Error(2, 9000, "näh" * 12),
    m.Busy(90),
    m.Bye(m.Reason.SILENT),
    m.Watch(6000),
    m.Seen(41, 3, 200),
    m.Seen(2**32 - 1, 65535, 255, m.Labelled.REFUSED),
    m.Label(41, 3),
]


def test_every_type_is_read_and_written_as_python_does(runner: Runner) -> None:
    assert {type(message) for message in WHOLE} == set(m.MESSAGES)
    batch = [m.encode(message) for message in WHOLE]
    for data, got in zip(batch, decode(runner, batch), strict=True):
        assert got == (OK, cbor2.loads(data)[0], data)


LIMITS = [
    (
        WHOLE[1],
        {
            "board": ("x", "x" * 24),
            "max_frame": (64, 1024),
            "window": (64, 65535),
            "firmware": (0, 2**32 - 1),
        },
    ),
    (WHOLE[2], {"max_frame": (64, 1024), "heartbeat_ms": (100, 65535), "version": (0, 255)}),
    (WHOLE[4], {"classes": (0, 65535), "state": (m.State.COLLECTING, m.State.FAILED)}),
    (WHOLE[6], {"size": (1, 2**20), "kind": (m.BlobKind.HEAD, m.BlobKind.UPDATE)}),
    (WHOLE[8], {"data": (b"x", b"x" * 1000), "id": (0, 65535), "offset": (0, 2**32 - 1)}),
    (WHOLE[9], {"batch": (1, 256), "epochs": (0, 255), "codec": (0, 3), "flags": (0, 255)}),
    (WHOLE[10], {"progress": (0, 1000)}),
    (WHOLE[18], {"text": ("", "x" * 48), "code": (0, 255)}),
]


@pytest.mark.parametrize("message, limits", LIMITS, ids=lambda value: type(value).__name__)
def test_limits(runner: Runner, message: m.Message, limits: dict[str, tuple[object, object]]) -> None:
    for name, ends in limits.items():
        inside = [m.encode(replace(message, **{name: end})) for end in ends]  # type: ignore[arg-type]
        assert [got[0] for got in decode(runner, inside)] == [OK, OK]
        names = [field.name for field in fields(message)]
        before = names[: names.index(name)]
        at = 1 + len(before) + sum(isinstance(getattr(message, n), m.Multiplier) for n in before)
        for end, outside in zip(ends, beyond(*ends), strict=True):
            if outside is None:
                continue
            items = cbor2.loads(m.encode(replace(message, **{name: end})))  # type: ignore[arg-type]
            items[at] = outside
            assert decode(runner, [cbor2.dumps(items)])[0][0] == BAD, (name, outside)


def beyond(low: object, high: object) -> tuple[object, object]:
    """A value below the lowest and above the highest; None where there is none."""
    if isinstance(low, int) and isinstance(high, int):
        return (int(low) - 1 if low else -1), int(high) + 1
    if isinstance(low, str) and isinstance(high, str):
        return (low[:-1] if low else None), high + "x"
    assert isinstance(low, bytes) and isinstance(high, bytes)
    return low[:-1], high + b"x"


def test_multipliers_are_normalised(runner: Runner) -> None:
    items = cbor2.loads(m.encode(WHOLE[9]))
    for mantissa, status in ((0, OK), (1, BAD), (16383, BAD), (16384, OK), (32767, OK), (32768, BAD)):
        items[6] = mantissa
        assert decode(runner, [cbor2.dumps(items)])[0][0] == status


def test_cross_checks_and_types(runner: Runner) -> None:
    cases = {
        "update without size": [10, 7, HASH, 0, 1, 1, 1, 1, 1, 1],
        "size without update": [10, 7, None, 5, 1, 1, 1, 1, 1, 1],
        "hash of 7": [5, 1, HASH[:7], 5],
        "hash of 9": [5, 1, HASH + b"x", 5],
        "null where none may be": [5, 1, None, 5],
        "text for bytes": [5, 1, "abcdefgh", 5],
        "bytes for text": [14, 1, 2, b"text"],
        "negative": [12, -1],
        "float": [12, 1.0],
        "true": [12, True],
        "too big": [12, 2**32],
        "missing": [11, 1],
        "nothing": [],
        "text type": ["a"],
        "negative type": [-1],
    }
    for name, items in cases.items():
        assert decode(runner, [cbor2.dumps(items)])[0][0] == BAD, name


def test_what_follows_the_known_elements_is_ignored(runner: Runner) -> None:
    for tail in (1, None, "x", b"y" * 30, [1, [2, [3]]], {1: {2: {3: []}}}, 1.5, True, 2**63, -5):
        data = cbor2.dumps([12, 7, tail])
        assert decode(runner, [data]) == [(OK, 12, m.encode(m.Cancel(7)))]
    nested: object = 1
    for depth in range(1, 8):
        nested = [nested]
        status = decode(runner, [cbor2.dumps([12, 7, nested])])[0][0]
        assert status == (OK if depth <= m.MAX_DEPTH else BAD)


def test_text_is_strict_utf_8(runner: Runner) -> None:
    """Every one- to three-byte string that begins in each place where the rules change, and some of four."""
    rng = random.Random(6)
    leads = (
        0x00,
        0x41,
        0x7F,
        0x80,
        0xBF,
        0xC0,
        0xC1,
        0xC2,
        0xDF,
        0xE0,
        0xED,
        0xEF,
        0xF0,
        0xF4,
        0xF5,
        0xF7,
        0xF8,
        0xFF,
    )
    nexts = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)
    texts = [bytes([lead]) for lead in range(256)]
    texts += [bytes([lead, a]) for lead in leads for a in nexts]
    texts += [bytes([lead, a, b]) for lead in leads for a in nexts for b in nexts]
    texts += [
        bytes([lead, a, b, c]) for lead in leads for a in nexts for b in nexts for c in (0x7F, 0x80, 0xBF)
    ]
    texts += [
        "".join(chr(rng.choice((65, 0xE9, 0x20AC, 0x1F600))) for _ in range(12)).encode() for _ in range(50)
    ]
    batch = [
        b"\x84\x0e\x01\x00" + bytes([0x60 + len(t)] if len(t) < 24 else [0x78, len(t)]) + t for t in texts
    ]
    seen = set()
    for text, (status, _, _) in zip(texts, decode(runner, batch), strict=True):
        try:
            text.decode()
            want = OK
        except UnicodeDecodeError:
            want = BAD
        seen.add(want)
        assert status == want, text
    assert seen == {OK, BAD}


def test_unknown_types(runner: Runner) -> None:
    for type in (20, 23, 24, 255, 256, 65536, 2**32 - 1, 2**40):
        status, seen, _ = decode(runner, [cbor2.dumps([type, 1])])[0]
        assert (status, seen) == (UNSUPPORTED, min(type, 255))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x0d", b"\x9f\x0d\xff", b"\x81", b"\x80", b"\x81\x0d\x00", b"\x82\x0d", b"\x98\x01\x0d",
        b"\x81\x18\x0d",
        b"\xa1\x0d\x00", b"\x82\x0d\xc0\x00", b"\x82\x0d\x5f\x41\x00\xff", b"\x82\x0d\x1c",
        b"\x82\x0c\x19\x00\xff",
        b"\x82\x0d\x9b\xff\xff\xff\xff\xff\xff\xff\xff", b"\x82\x0d\xbb\x80\x00\x00\x00\x00\x00\x00\x00",
        b"\x82\x0d\x5b\xff\xff\xff\xff\xff\xff\xff\xff", b"\x82\x0d\x7a\xff\xff\xff\xff",
        b"\x81" * 500,
        b"\x82\x0d" + b"\xa1" * 300, b"\x9a\xff\xff\xff\xff\x0d", b"\x99\x01\x00" + b"\x0d" * 256,
    ],
)  # fmt: skip
def test_what_is_not_one_sound_array_is_refused(runner: Runner, data: bytes) -> None:
    assert decode(runner, [data])[0][0] == BAD
    with pytest.raises(MessageError):
        m.decode(data)


@pytest.mark.slow
def test_a_hundred_thousand_broken_messages_mean_the_same_in_both_languages(runner: Runner) -> None:
    rng = random.Random(17)
    corpus = [m.encode(message) for message in WHOLE]
    kinds = [0, 0, 0]
    for _ in range(100):
        batch = []
        for _ in range(1000):
            data = bytearray(rng.choice(corpus))
            for _ in range(rng.choice((1, 1, 2, 4))):
                at = rng.randrange(len(data)) if data else 0
                kind = rng.randrange(4)
                if kind == 0 or not data:
                    data.insert(at, rng.randrange(256))
                elif kind == 1:
                    del data[at]
                elif kind == 2:
                    data[at] ^= 1 << rng.randrange(8)
                else:
                    data[at] = rng.choice(
                        (0x18, 0x19, 0x40, 0x48, 0x60, 0x80, 0xF6, 0xFF, rng.randrange(256))
                    )
            batch.append(bytes(data))
        for data, (status, type, again) in zip(batch, decode(runner, batch), strict=True):
            try:
                want = m.decode(data)
            except UnknownMessage:
                kinds[1] += 1
                assert status == UNSUPPORTED, data.hex()
            except MessageError:
                kinds[2] += 1
                assert status == BAD, data.hex()
            else:
                kinds[0] += 1
                assert (status, type, again) == (OK, want.TYPE, m.encode(want)), data.hex()
    assert min(kinds) > 100
