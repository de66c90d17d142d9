"""Makes secure.json: handshakes, frames and streams of bytes of encrypted sessions.

Written from firmware/PROTOCOL.md, "Encrypted sessions", alone, as make_link.py is: it imports nothing of the
project. ChaCha20-Poly1305 is done here from RFC 8439, in plain integers, and checked against the example of
its section 2.8.2 before anything is written; BLAKE2b is hashlib's.

    python tests/vectors/make_secure.py           writes secure.json beside itself
    python tests/vectors/make_secure.py --check   compares, exit 1 when it differs

What is in the file (bytes are hex):

    handshakes  name, key, hello, welcome, proof, from_host, from_device
                hello and welcome: the messages, the welcome with its proof
    epochs      key, next: of a direction, for the next 65536 numbers
    frames      name, from, key, number, message, wire
                key: of the direction, for its first numbers
    streams     name, from, key, after, max_frame, bytes, events
                as in link.json, for a receiver whose last accepted number is `after`
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from make_link import DEVICE, HOST, MESSAGES, NONCE, TOP, by_name, cobs, encode
from make_link import wire as plain_wire

SEED = 20261125
HERE = Path(__file__).resolve().parent
rng = random.Random(SEED)


# ---- RFC 8439


def block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """2.3: 64 bytes of key stream."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter]
    start += struct.unpack("<3I", nonce)
    x = list(start)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for one, two, three, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[one] = x[one] + x[two] & TOP
            mixed = x[three] ^ x[one]
            x[three] = (mixed << turn | mixed >> 32 - turn) & TOP

    for _ in range(10):
        for corner in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
            quarter(*corner)
        for corner in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter(*corner)
    return struct.pack("<16I", *(a + b & TOP for a, b in zip(x, start, strict=True)))


def chacha20(key: bytes, counter: int, nonce: bytes, text: bytes) -> bytes:
    """2.4."""
    stream = b"".join(block(key, counter + i, nonce) for i in range(-(-len(text) // 64)))
    return bytes(a ^ b for a, b in zip(text, stream, strict=False))


def poly1305(key: bytes, text: bytes) -> bytes:
    """2.5."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(text), 16):
        total = (total + int.from_bytes(text[at : at + 16] + b"\1", "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(key[16:], "little")) & ((1 << 128) - 1)).to_bytes(16, "little")


def aead(key: bytes, nonce: bytes, text: bytes, known: bytes) -> bytes:
    """2.8: ciphertext and tag."""
    hidden = chacha20(key, 1, nonce, text)

    def padded(part: bytes) -> bytes:
        return part + bytes(-len(part) % 16)

    sizes = struct.pack("<QQ", len(known), len(hidden))
    return hidden + poly1305(block(key, 0, nonce)[:32], padded(known) + padded(hidden) + sizes)


def check_aead() -> None:
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed = aead(
        bytes(range(0x80, 0xA0)),
        bytes.fromhex("070000004041424344454647"),
        text,
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
    )
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


# ---- sessions


def keyed(key: bytes, text: bytes, size: int = 32) -> bytes:
    return hashlib.blake2b(text, key=key, digest_size=size).digest()


def next_key(key: bytes) -> bytes:
    return keyed(key, b"next")


def piece(
    message: bytes, *, sender: int, key: bytes, number: int, kind: int = 2, version: int = 1, turns: int = -1
) -> bytes:
    """A frame without its delimiter. turns: how often the key was replaced, by default as the number says."""
    for _ in range(number >> 16 if turns < 0 else turns):
        key = next_key(key)
    header = bytes([version << 4 | sender << 3 | kind]) + (number & 0xFFFF).to_bytes(2, "little")
    return cobs(header + aead(key, number.to_bytes(4, "little") + bytes(8), message, header))


def wire(message: bytes, **how: Any) -> bytes:
    return piece(message, **how) + b"\0"


def handshakes() -> list[dict[str, str]]:
    out = []
    hellos = [items for _, _, items in MESSAGES if items[0] == 1]
    ordinary = [1, 1, b"device 1", NONCE, "microbit", 0x000100, 128, 256, 2]
    cases: list[tuple[str, bytes, list[Any], list[Any]]] = [
        ("ordinary", bytes(range(32)), ordinary, [2, 1, NONCE, b"hostname", 128, 2000]),
        ("no entropy", bytes(range(32)), [*ordinary[:8], 3], [2, 1, NONCE, b"hostname", 128, 2000]),
        ("another flag", bytes(range(32)), [*ordinary[:8], 6], [2, 1, NONCE, b"hostname", 128, 2000]),
        ("another heartbeat", bytes(range(32)), ordinary, [2, 1, NONCE, b"hostname", 128, 2001]),
        ("shorter frames", bytes(range(32)), ordinary, [2, 1, NONCE, b"hostname", 127, 2000]),
        ("another id", bytes(range(32)), [1, 1, b"device 2", *ordinary[3:]],
         [2, 1, NONCE, b"hostname", 128, 2000]),
        ("another key", bytes(range(1, 33)), ordinary, [2, 1, NONCE, b"hostname", 128, 2000]),
    ]  # fmt: skip
    for hello in hellos:
        cases.append(("any", rng.randbytes(32), hello, [2, 1, hello[3], rng.randbytes(8), 1024, 65535]))
    for name, key, hello, welcome in cases:
        said, before = encode(*hello), encode(*welcome, bytes(16))[:-17]
        root = keyed(key, b"kilofed encrypted session 1" + said + before)
        proof = keyed(root, b"proof", 16)
        out.append(
            {"name": name, "key": key.hex(), "hello": said.hex(), "welcome": encode(*welcome, proof).hex(),
             "proof": proof.hex(), "from_host": keyed(root, b"from host").hex(),
             "from_device": keyed(root, b"from device").hex()}
        )  # fmt: skip
    assert len({case["proof"] for case in out}) == len(out)
    return out


def epochs() -> list[dict[str, str]]:
    return [{"key": key.hex(), "next": next_key(key).hex()} for key in (bytes(32), rng.randbytes(32))]


def frames() -> list[dict[str, Any]]:
    out = []

    def frame(name: str, sender: str, message: bytes, number: int) -> None:
        key = rng.randbytes(32)
        data = wire(message, sender=HOST if sender == "host" else DEVICE, key=key, number=number)
        assert len(data) <= 1024
        out.append(
            {"name": name, "from": sender, "key": key.hex(), "number": number, "message": message.hex(),
             "wire": data.hex()}
        )  # fmt: skip

    number = 0
    for name, sender, items in MESSAGES:
        if items[0] > 3 and len(encode(*items)) < 1000:  # no longer one fits a frame of 1024 bytes
            number = number * 3 + 1 if number < 1 << 20 else 1
            frame(name, sender, encode(*items), number)
    for size in range(1, 70):  # every end of a block of the cipher and of the code
        frame(f"{size} bytes", "host", rng.randbytes(size), 7)
    for size in (127, 128, 129, 233, 234, 235, 236, 255, 256, 500, 986, 999):
        frame(f"{size} bytes, long", "device", rng.randbytes(size), 300)
    for number in (65535, 65536, 131071, 131072):
        frame(f"number {number}", "host", b"\x81\x0d", number)
    return out


def streams() -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    key = rng.randbytes(32)
    ping, commit, cancel = by_name("ping"), by_name("commit"), by_name("cancel")
    welcome, status = by_name("welcome"), by_name("status")

    def stream(name: str, data: bytes, events: list[Any], *, after: int = 0, max_frame: int = 128) -> None:
        shown = [[e[0], *(x.hex() if isinstance(x, bytes) else x for x in e[1:])] for e in events]
        out.append(
            {"name": name, "from": "host", "key": key.hex(), "after": after, "max_frame": max_frame,
             "bytes": data.hex(), "events": shown}
        )  # fmt: skip

    def host(message: bytes, number: int, **how: Any) -> bytes:
        return wire(message, number=number, **{"sender": HOST, "key": key, **how})

    def stray(data: bytes) -> list[Any]:
        return ["stray", data[:-1]]

    one, two, three = host(ping, 1), host(commit, 2), host(cancel, 3)
    p1, p2, p3 = ["frame", 1, ping], ["frame", 2, commit], ["frame", 3, cancel]
    stream("three frames", one + two + three, [p1, p2, p3])
    stream("a lost frame is a gap", one + three, [p1, p3])
    stream("a repeated frame is stray", one + one + two, [p1, stray(one), p2])
    stream("a frame from before is stray", two + one + three, [p2, stray(one), p3])
    stream("two frames in the other order", one + three + two, [p1, p3, stray(two)])
    stream("boot text before a frame", b"panic!\r\n\0" + one, [["stray", b"panic!\r\n"], p1])
    other = host(commit, 2, key=rng.randbytes(32))
    stream("a frame under another key", one + other + two, [p1, stray(other), p2])
    mirrored = wire(status, sender=DEVICE, key=key, number=2)
    stream("a reflected frame under the same key", one + mirrored + two, [p1, stray(mirrored), p2])
    for kind in (1, 3, 7):
        strange = host(commit, 2, kind=kind)
        stream(f"sealed as type {kind}", one + strange + two, [p1, stray(strange), p2])
    clear = plain_wire(commit, sender=HOST, number=2, session=0)
    stream("a session frame with a checksum", one + clear + two, [p1, stray(clear), p2])
    hello = plain_wire(welcome, sender=HOST, kind=0)
    stream("a clear frame inside the session", one + hello + two, [p1, ["clear", welcome], p2])
    for bit in range(0, 8 * (len(two) - 1), 3):
        flipped = bytearray(two)
        flipped[bit // 8] ^= 1 << bit % 8
        parts = [part for part in bytes(flipped).split(b"\0") if part]
        stream(
            f"bit {bit} of a frame flipped",
            one + flipped + three,
            [p1, *[["stray", part] for part in parts], p3],
        )
    header = b"\x1a\x02\0"
    sealed = aead(key, b"\2" + bytes(11), commit, header)
    for cut in (1, 4, 16):
        short = cobs(header + sealed[:-cut]) + b"\0"
        stream(f"a tag short by {cut}", one + short + two, [p1, stray(short), p2])
    empty = host(b"", 2)
    stream("a frame without a message", one + empty + two, [p1, stray(empty), p2])
    longest = host(b"\1" * (128 - 21), 2)
    assert len(longest) == 128
    stream("the longest frame", one + longest + three, [p1, ["frame", 2, b"\1" * (128 - 21)], p3])
    over = host(b"\1" * (128 - 20), 2)
    stream("a frame longer than max_frame", one + over + three, [p1, stray(over), p3])
    for after in (0, 5, 65534, 65535, 65536, 131071):
        for step in (1, 2, 65536):
            number = after + step
            stream(
                f"number {number} after {after}", host(ping, number), [["frame", number, ping]], after=after
            )
    far = host(ping, 65538)
    stream("more than 65536 frames were lost", far + host(ping, 2), [stray(far), ["frame", 2, ping]], after=1)
    late = host(ping, 65536, turns=0)
    good = host(ping, 65536)
    stream("the old key for the next", late + good, [stray(late), ["frame", 65536, ping]], after=65535)
    early = host(ping, 65535, turns=1)
    good = host(ping, 65535)
    stream("the next key for the old", early + good, [stray(early), ["frame", 65535, ping]], after=65534)
    return out


# ---- the file


def make() -> str:
    check_aead()
    parts: dict[str, list[Any]] = {
        "handshakes": handshakes(), "epochs": epochs(), "frames": frames(), "streams": streams(),
    }  # fmt: skip
    lines = [f' "made_by": "tests/vectors/make_secure.py", "seed": {SEED}']
    for name, cases in parts.items():
        body = ",\n".join("  " + json.dumps(case) for case in cases)
        lines.append(f' "{name}": [\n{body}\n ]')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    target = HERE / "secure.json"
    text = make()
    if "--check" in sys.argv[1:]:
        return 0 if target.read_text() == text else 1
    target.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
