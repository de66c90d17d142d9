"""A host by hand, for what the real one would not do."""

from __future__ import annotations

import hashlib
import struct

from device_runner import Device

from kilofed.link.frames import Direction, FrameType, encode_frame, parse_frame
from kilofed.link.messages import Hello, Info, Probe, Welcome, decode, encode


def unframe(data: bytes) -> list[tuple[int, object]]:
    """(frame type, message) of what a device wrote, checks not looked at."""
    out: list[tuple[int, object]] = []
    for piece in data.split(b"\0"):
        if piece:
            frame = parse_frame(piece)
            out.append((int(frame.type), decode(frame.message)))
    return out


def clear(message: object) -> bytes:
    return encode_frame(encode(message), direction=Direction.FROM_HOST)  # type: ignore[arg-type]


def session_frame(data: bytes, id: int, number: int, sender: Direction = Direction.FROM_HOST) -> bytes:
    return encode_frame(data, direction=sender, frame=FrameType.SESSION, session=id, number=number)


class Peer:
    """A host by hand: says exactly what it is told."""

    def __init__(self, device: Device, *, max_frame: int = 128, heartbeat_ms: int = 2000) -> None:
        self.device = device
        self.now = 0
        self.max_frame = max_frame
        self.heartbeat_ms = heartbeat_ms
        self.id = 0
        self.sent = 0
        self.raw = b""
        self.info: Info | None = None

    def say_probe_and_open(self) -> None:
        """Take over as another host would."""
        self.say_raw(clear(Probe()))
        hello = self.hear()[-1]
        assert isinstance(hello, Hello)
        self.say_raw(self.welcome(hello))
        info = self.hear()[0]
        assert isinstance(info, Info)
        self.info = info

    def hear(self) -> list[object]:
        self.wait, data = self.device.poll(self.now)
        self.raw = data
        return [message for _, message in unframe(data)]

    def hear_again(self) -> list[object]:
        """A second on: what is repeated."""
        self.now += 1000
        return self.hear()

    def say_raw(self, data: bytes) -> None:
        self.device.receive(data, self.now)

    def say(self, message: object, *, number: int | None = None, id: int | None = None) -> None:
        if number is None:
            self.sent += 1
        id, number = self.id if id is None else id, self.sent if number is None else number
        self.say_raw(session_frame(encode(message), id, number))  # type: ignore[arg-type]

    def welcome(self, hello: Hello, nonce: bytes = b"hostnonc") -> bytes:
        who = b"kilofed session 1" + nonce + hello.device_nonce + hello.device_id
        self.id = struct.unpack("<I", hashlib.blake2b(who, digest_size=8).digest()[:4])[0]
        self.sent = 0
        return clear(Welcome(1, hello.device_nonce, nonce, self.max_frame, self.heartbeat_ms))

    def open(self) -> Info:
        (hello,) = self.hear()
        assert isinstance(hello, Hello)
        self.say_raw(self.welcome(hello))
        (info,) = self.hear()
        assert isinstance(info, Info)
        return info
