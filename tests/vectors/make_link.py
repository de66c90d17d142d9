"""Makes link.json: messages, frames, streams of bytes whole and damaged, and session ids of the link.

Written from firmware/PROTOCOL.md alone: it imports nothing of the project. CBOR is cbor2's, COBS and CRC-32
are done byte by byte and bit by bit here, and zcbor says of every message whether firmware/protocol.cddl
allows it. Run it as

    python tests/vectors/make_link.py           writes link.json beside itself
    python tests/vectors/make_link.py --check   compares, exit 1 when it differs

What is in the file (bytes are hex):

    cobs        raw, stuffed                             both ways
    session_ids host_nonce, device_nonce, device_id, id  id as a number
    messages    name, from ("host"/"device"), fields, cbor
                                                         fields in the order of the array, without the type
    accepted    name, cbor, same_as                      other bytes that mean the message of that name
    refused     name, cbor, status                       4: unknown type, 9: malformed or out of range
    frames      name, from, type, session, number, message, wire
    streams     name, from, session, after, max_frame, bytes, events
                what a receiver that listens to `from`, in session `session` with `after` as the last number
                accepted, makes of the bytes: ["clear", message], ["frame", number, message] or
                ["stray", bytes] in order; a stray that is too long for a frame may come in parts, and is
                given as one here
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cbor2

SEED = 20240611
HERE = Path(__file__).resolve().parent
CDDL = HERE.parents[1] / "firmware" / "protocol.cddl"
HOST, DEVICE = 1, 0
SESSION = 0x8A3F01C7
rng = random.Random(SEED)


# ---- bytes on the wire


def crc32(data: bytes) -> int:
    """IEEE 802.3, reflected, one bit at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def cobs(data: bytes) -> bytes:
    """Byte by byte: a code counts itself and the bytes up to the next zero; 255: 254 bytes and no zero."""
    out, group = bytearray(), bytearray()
    open_group = True  # whether the last group still has its zero, or the end, to stand for
    for byte in data:
        if not open_group:
            open_group = True
        if byte == 0:
            out += bytes([len(group) + 1]) + group
            group.clear()
        else:
            group.append(byte)
            if len(group) == 254:
                out += b"\xff" + group
                group.clear()
                open_group = False
    if open_group:
        out += bytes([len(group) + 1]) + group
    return bytes(out)


def piece(
    message: bytes, *, sender: int, kind: int = 1, session: int = SESSION, number: int = 1, version: int = 1
) -> bytes:
    """A frame without its delimiters."""
    covered = bytes([version << 4 | sender << 3 | kind]) + (number & 0xFFFF).to_bytes(2, "little") + message
    check = crc32(session.to_bytes(4, "little") + number.to_bytes(4, "little") + covered)
    return cobs(covered + check.to_bytes(4, "little"))


def wire(message: bytes, **how: Any) -> bytes:
    clear = how.get("kind", 1) == 0
    if clear:
        how |= {"session": 0, "number": 0}
    return (b"\0" if clear else b"") + piece(message, **how) + b"\0"


# ---- messages


def encode(*items: Any) -> bytes:
    return cbor2.dumps(list(items), canonical=True)


HASH = bytes(range(0xA0, 0xA8))
NONCE = bytes(range(8))
TOP = (1 << 32) - 1
MESSAGES: list[tuple[str, str, list[Any]]] = [
    ("probe", "host", [0, 1]),
    ("probe of a later version", "host", [0, 255]),
    ("hello", "device", [1, 1, b"device 1", NONCE, "microbit", 0x000100, 128, 256, 1]),
    ("hello, all at the lower end", "device", [1, 0, bytes(8), bytes(8), "x", 0, 64, 64, 0]),
    (
        "hello, all at the upper end",
        "device",
        [1, 255, b"\xff" * 8, b"\xff" * 8, "b" * 24, TOP, 1024, 65535, TOP],
    ),
    ("hello, text in two-byte letters", "device", [1, 1, b"device 1", NONCE, "\u00e4" * 12, 1, 65, 66, 2]),
    ("welcome in the clear", "host", [2, 1, NONCE, b"hostname", 128, 2000]),
    ("welcome in the clear, lower end", "host", [2, 0, NONCE, HASH, 64, 100]),
    ("welcome", "host", [2, 1, NONCE, b"hostname", 128, 2000, bytes(range(16))]),
    ("welcome, upper end", "host", [2, 255, NONCE, HASH, 1024, 65535, b"\xff" * 16]),
    ("refuse", "host", [3, NONCE, 3, 10000]),
    ("refuse, upper end", "host", [3, NONCE, 255, TOP]),
    ("info", "device", [4, HASH, HASH[::-1], 10, 32, 100, 80, 20, HASH, 1, 7]),
    ("info, no labels, no head, collecting", "device", [4, HASH, bytes(8), 2, 1, 0, 0, 0, None, 0, 0]),
    ("info, upper end", "device", [4, HASH, HASH, 65535, 65535, 65535, 65535, 65535, HASH, 4, TOP]),
    ("offer", "host", [5, 1, HASH, 376]),
    ("offer of one byte", "host", [5, 1, HASH, 1]),
    ("offer of a MiB, an update", "host", [5, 2, HASH, 1 << 20]),
    ("accept", "device", [6, 0xA0A1, 0, 0]),
    ("accept, id below 24, whole", "device", [6, 1, 376, 1]),
    ("accept, refused", "host", [6, 65535, TOP, 2]),
    ("chunk of one byte", "host", [7, 0xA0A1, 0, b"\0"]),
    ("chunk", "host", [7, 0xA0A1, 109, bytes(range(109))]),
    ("chunk of a thousand bytes", "device", [7, 0, 70000, rng.randbytes(1000)]),
    ("train", "host", [8, 3, HASH, 0xDEADBEEF, 3, 16, 26214, 19, 26214, 13, 0, 0, 1, 0]),
    ("train, lower end", "host", [8, 0, HASH, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("train, upper end", "host", [8, TOP, HASH, TOP, 255, 256, 32767, 255, 32767, 255, 32767, 255, 3, 255]),
    (
        "train, mantissas at their lower end",
        "host",
        [8, 1, HASH, 1, 1, 32, 16384, 1, 16384, 2, 16384, 38, 3, 1],
    ),
    ("status", "device", [9, 2, 3, 412, 9001]),
    ("status, failed", "device", [9, 4, TOP, 1000, TOP]),
    ("result", "device", [10, 3, HASH, 346, 80, 20, 901, 9, 15, 3012]),
    ("result without update", "device", [10, 3, None, 0, 80, 20, 901, 9, 15, 3012]),
    ("result, upper end", "device", [10, TOP, HASH, 1 << 20, 65535, 65535, TOP, 65535, 65535, TOP]),
    ("commit", "host", [11, 3, 0]),
    ("commit of a failure", "host", [11, TOP, 255]),
    ("cancel", "host", [12, 24]),
    ("ping", "host", [13]),
    ("error", "device", [14, 5, 0]),
    ("error with words", "host", [14, 255, TOP, "w" * 48]),
    ("error with empty words", "device", [14, 2, 17000, ""]),
    ("busy", "device", [15, 25]),
    ("bye", "device", [16, 1]),
    ("watch", "host", [17, 5000]),
    ("watch no longer", "host", [17, 0]),
    ("watch, upper end", "host", [17, TOP]),
    ("seen", "device", [18, 1, 3, 200, 0]),
    ("seen, nothing yet", "device", [18, 0, 0, 0, 0]),
    ("seen, a label refused, upper end", "device", [18, TOP, 65535, 255, 4]),
    ("label", "host", [19, 1, 3]),
    ("label, upper end", "host", [19, TOP, 65535]),
]


def by_name(name: str) -> bytes:
    return encode(*next(items for known, _, items in MESSAGES if known == name))


def accepted() -> list[dict[str, str]]:
    """Elements after the known ones are ignored, whatever they are."""
    tails: list[tuple[str, list[Any]]] = [
        ("one number", [1]),
        ("a map, an array and a float", [{"a": [1, 2, {"b": None}]}, [[]], 1.5]),
        ("a long string and truth", ["t" * 30, True, None, -5]),
    ]
    out = []
    for base in ("ping", "status", "info", "welcome", "hello", "train"):
        items = next(items for known, _, items in MESSAGES if known == base)
        for tail, more in tails:
            out.append(
                {"name": f"{base} and then {tail}", "cbor": encode(*items, *more).hex(), "same_as": base}
            )
    many = encode(13, *range(30))
    out.append({"name": "ping and then thirty numbers", "cbor": many.hex(), "same_as": "ping"})
    return out


def refused() -> list[dict[str, Any]]:
    """What every receiver refuses."""
    out: list[dict[str, Any]] = []

    def no(name: str, data: bytes, status: int = 9) -> None:
        out.append({"name": name, "cbor": data.hex(), "status": status})

    no("nothing", b"")
    no("no array", b"\x0d")
    no("a map", b"\xa1\x00\x01")
    no("an empty array", b"\x80")
    no("a type that is text", encode("ping"))
    no("a negative type", encode(-1))
    no("a tagged array", b"\xc1\x81\x0d")
    no("an indefinite array", b"\x9f\x0d\xff")
    no("bytes after the message", b"\x81\x0d\x00")
    no("an array of 2^32 - 1 elements", b"\x9a\xff\xff\xff\xff\x0d")
    no("an array of 2^64 - 1 elements", b"\x9b" + b"\xff" * 8 + b"\x0d")
    no("a string of 2^32 - 1 bytes", b"\x84\x07\x01\x00\x5a\xff\xff\xff\xff")
    no("type 20", encode(20), 4)
    no("type 23 with elements", encode(23, 1, 2), 4)
    no("type 24", encode(24), 4)
    no("type 1000", encode(1000), 4)
    for name, _, items in MESSAGES:
        if name in ("hello", "info", "train", "result", "chunk", "error with words", "welcome"):
            data = encode(*items)
            for cut in sorted({1, 2, len(data) // 2, len(data) - 1}):
                no(f"{name}, cut after {cut} bytes", data[:cut])
        if name in (
            "hello",
            "welcome",
            "refuse",
            "info",
            "offer",
            "accept",
            "chunk",
            "train",
            "status",
            "result",
        ):
            least = items[:6] if name == "welcome" else items
            no(f"{name}, one element missing", encode(*least[:-1]))
    wrong: list[tuple[str, str, int, Any]] = [
        ("hello", "a version of 256", 1, 256),
        ("hello", "an id of 7 bytes", 2, bytes(7)),
        ("hello", "a nonce of 9 bytes", 3, bytes(9)),
        ("hello", "a nonce that is text", 3, "nonce 01"),
        ("hello", "no board", 4, ""),
        ("hello", "a board of 25 bytes", 4, "b" * 25),
        ("hello", "a board that is bytes", 4, b"microbit"),
        ("hello", "firmware of 33 bits", 5, 1 << 32),
        ("hello", "max_frame 63", 6, 63),
        ("hello", "max_frame 1025", 6, 1025),
        ("hello", "window 63", 7, 63),
        ("hello", "window 65536", 7, 65536),
        ("welcome", "heartbeat 99", 5, 99),
        ("welcome", "heartbeat 65536", 5, 65536),
        ("welcome", "max_frame 63", 4, 63),
        ("welcome", "a proof of 15 bytes", 6, bytes(15)),
        ("welcome", "a proof of 17 bytes", 6, bytes(17)),
        ("welcome", "a null proof", 6, None),
        ("welcome", "a proof that is text", 6, "p" * 16),
        ("info", "a null model", 1, None),
        ("info", "65536 classes", 3, 65536),
        ("info", "a head of 7 bytes", 8, bytes(7)),
        ("info", "state 5", 9, 5),
        ("info", "a round that is a float", 10, 1.0),
        ("offer", "kind 0", 1, 0),
        ("offer", "kind 3", 1, 3),
        ("offer", "size 0", 3, 0),
        ("offer", "size above a MiB", 3, (1 << 20) + 1),
        ("accept", "id 65536", 1, 65536),
        ("accept", "verdict 3", 3, 3),
        ("accept", "a negative offset", 2, -1),
        ("chunk", "no data", 3, b""),
        ("chunk", "1001 bytes", 3, bytes(1001)),
        ("chunk", "text", 3, "data"),
        ("train", "epochs 256", 4, 256),
        ("train", "batch 0", 5, 0),
        ("train", "batch 257", 5, 257),
        ("train", "a mantissa of 65536", 6, 65536),
        ("train", "a shift of 256", 7, 256),
        ("train", "codec 4", 12, 4),
        ("train", "a null head", 2, None),
        ("status", "state 5", 1, 5),
        ("status", "progress 1001", 3, 1001),
        ("status", "a round that is true", 2, True),
        ("result", "65536 samples", 4, 65536),
        ("commit", "verdict 256", 2, 256),
        ("error with words", "49 bytes of words", 3, "w" * 49),
        ("error with words", "words that are a number", 3, 1),
        ("busy", "33 bits", 1, 1 << 32),
        ("bye", "reason 256", 1, 256),
    ]
    for name, what, index, value in wrong:
        items = list(next(items for known, _, items in MESSAGES if known == name))
        items[index] = value
        no(f"{name}: {what}", encode(*items))
    hello = by_name("hello").replace(b"microbit", b"micro\xffit")
    no("hello: a board that is no UTF-8", hello)
    return out


# ---- frames and streams


def frames() -> list[dict[str, Any]]:
    out = []
    number = 0
    for name, sender, items in MESSAGES:
        kind = 0 if items[0] <= 3 else 1
        number = number * 3 + 1 if number < TOP // 4 else 1
        message = encode(*items)
        how: dict[str, Any] = {"sender": HOST if sender == "host" else DEVICE, "kind": kind}
        session, used = (0, 0) if kind == 0 else (SESSION, number)
        data = wire(message, **how, number=used, session=session)
        out.append(
            {"name": name, "from": sender, "type": kind, "session": session, "number": used,
             "message": message.hex(), "wire": data.hex()}
        )  # fmt: skip
    for size in (245, 246, 247, 248, 500, 501, 502, 1000):  # around the ends of COBS groups, without a zero
        message = encode(7, 0x0101, 0x01010101, b"\1" * (size - 12))
        assert len(message) == size or size > 256
        data = wire(message, sender=HOST, number=0x01010101, session=0x01010101)
        out.append(
            {"name": f"a message of {len(message)} bytes without a zero", "from": "host", "type": 1,
             "session": 0x01010101, "number": 0x01010101, "message": message.hex(), "wire": data.hex()}
        )  # fmt: skip
    return out


def streams() -> list[dict[str, Any]]:
    ping, commit, cancel = by_name("ping"), by_name("commit"), by_name("cancel")
    chunk, welcome, status = by_name("chunk"), by_name("welcome"), by_name("status")
    out: list[dict[str, Any]] = []

    def stream(
        name: str,
        data: bytes,
        events: list[Any],
        *,
        sender: str = "host",
        after: int = 0,
        max_frame: int = 128,
    ):
        shown = [[e[0], *(x.hex() if isinstance(x, bytes) else x for x in e[1:])] for e in events]
        out.append(
            {"name": name, "from": sender, "session": SESSION, "after": after, "max_frame": max_frame,
             "bytes": data.hex(), "events": shown}
        )  # fmt: skip

    def host(message: bytes, number: int, **how: Any) -> bytes:
        return wire(message, sender=HOST, number=number, **how)

    one, two, three = host(ping, 1), host(commit, 2), host(cancel, 3)
    p1, p2, p3 = ["frame", 1, ping], ["frame", 2, commit], ["frame", 3, cancel]
    stream("three frames", one + two + three, [p1, p2, p3])
    stream("delimiters between frames", b"\0\0" + one + b"\0" * 5 + two, [p1, p2])
    stream("a lost frame is a gap", one + three, [p1, p3])
    stream("a repeated frame is stray", one + one + two, [p1, ["stray", one[:-1]], p2])
    stream("a frame from before is stray", two + one + three, [p2, ["stray", one[:-1]], p3])
    stream("boot text before a clear frame", b"Booting v1\r\n" + host(welcome, 0, kind=0),
           [["stray", b"Booting v1\r\n"], ["clear", welcome]])  # fmt: skip
    stream(
        "boot text runs into a session frame",
        b"panic!\r\n" + one + two,
        [["stray", b"panic!\r\n" + one[:-1]], p2],
    )
    stream(
        "a clear frame inside a session", one + host(welcome, 0, kind=0) + two, [p1, ["clear", welcome], p2]
    )
    other = wire(commit, sender=HOST, number=2, session=SESSION ^ 1)
    stream("a frame of another session", one + other + two, [p1, ["stray", other[:-1]], p2])
    mirrored = wire(status, sender=DEVICE, number=2)
    stream("a reflected frame", one + mirrored + two, [p1, ["stray", mirrored[:-1]], p2])
    stream("a device's frame", wire(status, sender=DEVICE, number=1), [["frame", 1, status]],
           sender="device")  # fmt: skip
    later = wire(commit, sender=HOST, number=2, version=2)
    stream("another protocol version", one + later + two, [p1, ["stray", later[:-1]], p2])
    for kind in (2, 3, 7):
        strange = wire(commit, sender=HOST, number=2, kind=kind)
        stream(f"frame type {kind}", one + strange + two, [p1, ["stray", strange[:-1]], p2])
    nonsense = wire(welcome, sender=HOST, kind=0)
    damaged = bytearray(nonsense)
    damaged[10] ^= 0x10
    if 0 not in damaged[1:-1]:
        stream("a damaged clear frame", bytes(damaged) + one, [["stray", bytes(damaged[1:-1])], p1])
    for bit in range(0, 8 * (len(two) - 1), 5):
        flipped = bytearray(two)
        flipped[bit // 8] ^= 1 << bit % 8
        parts = [part for part in bytes(flipped).split(b"\0") if part]
        stream(
            f"bit {bit} of a frame flipped",
            one + flipped + three,
            [p1, *[["stray", part] for part in parts], p3],
        )
    for cut in range(1, len(two) - 1):
        stream(f"a frame cut after {cut} bytes, delimiter lost", one + two[:cut] + three + host(ping, 4),
               [p1, ["stray", two[:cut] + three[:-1]], ["frame", 4, ping]])  # fmt: skip
    stream("a delimiter in the middle", one + two[:4] + b"\0" + two[4:] + three,
           [p1, ["stray", two[:4]], ["stray", two[4:-1]], p3])  # fmt: skip
    short = cobs(b"\x19\x02\x00" + b"\x81" + b"\0\0\0") + b"\0"
    stream("too short for a frame", one + short + two, [p1, ["stray", short[:-1]], p2])
    empty = wire(b"", sender=HOST, number=2)
    stream("a frame without a message", one + empty + two, [p1, ["stray", empty[:-1]], p2])
    for broken, what in (
        (b"\x05\x01", "a group past the end"),
        (b"\xff" + b"\x01" * 20, "a full group cut short"),
    ):
        stream(f"COBS: {what}", one + broken + b"\0" + two, [p1, ["stray", broken], p2])
    longest = next(
        data for size in range(200, 0, -1)
        if len(data := host(encode(7, 65535, 65535, b"\1" * size), 2)) <= 128
    )  # fmt: skip
    assert len(longest) == 128
    message = next(
        encode(7, 65535, 65535, b"\1" * n)
        for n in range(200)
        if host(encode(7, 65535, 65535, b"\1" * n), 2) == longest
    )
    stream("the longest frame", one + longest + three, [p1, ["frame", 2, message], p3])
    long = host(chunk + b"", 2)
    over = host(encode(7, 65535, 65535, b"\1" * 150), 2)
    stream("a frame longer than max_frame", one + over + three, [p1, ["stray", over[:-1]], p3])
    stream("noise longer than any frame", one + b"x" * 1000 + b"\0" + two, [p1, ["stray", b"x" * 1000], p2])
    assert len(long) < 160
    # numbers
    for after in (0, 65534, 65535, 65536, 131071, 0x7FFFFFFF, TOP - 3):
        for step in (1, 2):
            number = after + step
            stream(
                f"number {number} after {after}", host(ping, number), [["frame", number, ping]], after=after
            )
    stream("65536 frames were lost", host(ping, 65537), [["frame", 65537, ping]], after=1)
    far = host(ping, 65538)
    stream(
        "more than 65536 frames were lost",
        far + host(ping, 2),
        [["stray", far[:-1]], ["frame", 2, ping]],
        after=1,
    )
    last = host(ping, TOP)
    stream("the last number", last, [["frame", TOP, ping]], after=TOP - 1)
    around = host(ping, 1)
    stream("no number after the last", around, [["stray", around[:-1]]], after=TOP)
    return out


def session_ids() -> list[dict[str, Any]]:
    out = []
    for host, device, id in ((bytes(8), bytes(8), bytes(8)), (b"hostname", NONCE, b"device 1"), *(
        (rng.randbytes(8), rng.randbytes(8), rng.randbytes(8)) for _ in range(6)
    )):  # fmt: skip
        digest = hashlib.blake2b(b"kilofed session 1" + host + device + id, digest_size=8).digest()
        out.append({"host_nonce": host.hex(), "device_nonce": device.hex(), "device_id": id.hex(),
                    "id": int.from_bytes(digest[:4], "little")})  # fmt: skip
    return out


def cobs_cases() -> list[dict[str, str]]:
    cases = [b"", b"\0", b"\0\0", b"\1", b"\1\0", b"\0\1", b"\1\2\0\3"]
    for size in (252, 253, 254, 255, 256, 507, 508, 509, 762):
        plain = bytes(1 + i % 255 for i in range(size))
        cases += [plain, plain + b"\0", b"\0" + plain, plain + b"\0\1"]
    cases += [bytes(rng.choice([0, 0, 1, 255]) for _ in range(rng.randrange(1, 40))) for _ in range(20)]
    return [{"raw": raw.hex(), "stuffed": cobs(raw).hex()} for raw in cases]


# ---- the file


def check_cddl(allowed: list[bytes], forbidden: list[str]) -> None:
    """Messages against the CDDL, with zcbor in a process of its own: it must agree on each."""
    code = (
        "import sys, cbor2\n"
        # zcbor 0.9.1 imports a name that cbor2 6 has dropped.
        "if not hasattr(cbor2, 'CBORDecodeValueError'): cbor2.CBORDecodeValueError = cbor2.CBORDecodeError\n"
        "from pathlib import Path\n"
        "from zcbor.zcbor import zcbor\n"
        "cddl = zcbor.PRELUDE_PATH.read_text() + sys.stdin.readline().replace('\\x01', '\\n')\n"
        "message = zcbor.DataTranslator.from_cddl(cddl, 3).my_types['message']\n"
        "for line in sys.stdin:\n"
        "    good, data = line[0] == '+', bytes.fromhex(line[1:])\n"
        "    try: message.validate_str(data)\n"
        "    except Exception as error:\n"
        "        if good: raise\n"
        "    else:\n"
        "        if not good: sys.exit(f'the CDDL allows {line}')\n"
    )
    # zcbor 0.9.1 takes an enumeration &(a: 0, b: 1) for bits, and an element's name for a key when
    # there is a type of that name. Written like this the file says the same.
    cddl = re.sub(r";.*", "", CDDL.read_text())
    cddl = re.sub(r"&\(([^)]*)\)", lambda choices: " / ".join(re.findall(r": *(\d+)", choices[1])), cddl)
    cddl = re.sub(r"\b([a-z0-9_]+): *", r"its_\1: ", cddl)
    lines = [
        cddl.replace("\n", "\x01"),
        *("+" + good.hex() for good in allowed),
        *("-" + bad for bad in forbidden),
    ]
    child = [sys.executable, "-c", code]  # what it prints is its search for a fitting type
    subprocess.run(child, input="\n".join(lines) + "\n", text=True, check=True, stdout=subprocess.DEVNULL)


def readable(item: Any) -> Any:
    return {"hex": item.hex()} if isinstance(item, bytes) else item


def make() -> str:
    messages = [
        {
            "name": name,
            "from": sender,
            "fields": [readable(i) for i in items[1:]],
            "cbor": encode(*items).hex(),
        }
        for name, sender, items in MESSAGES
    ]
    encodings = (
        "bytes after the message",
        "an indefinite array",
    )  # deterministic encoding is no matter of the CDDL
    forbidden = [case["cbor"] for case in refused() if case["name"] not in encodings]
    check_cddl([encode(*items) for _, _, items in MESSAGES], forbidden)
    parts: dict[str, list[Any]] = {
        "cobs": cobs_cases(), "session_ids": session_ids(), "messages": messages, "accepted": accepted(),
        "refused": refused(), "frames": frames(), "streams": streams(),
    }  # fmt: skip
    lines = [f' "made_by": "tests/vectors/make_link.py", "seed": {SEED}']
    for name, cases in parts.items():
        body = ",\n".join("  " + json.dumps(case) for case in cases)
        lines.append(f' "{name}": [\n{body}\n ]')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    target = HERE / "link.json"
    text = make()
    if "--check" in sys.argv[1:]:
        return 0 if target.read_text() == text else 1
    target.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
