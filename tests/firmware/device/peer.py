"""A host by hand, for what the real one would not do."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

from device_runner import Device
from tests.link_tap import Tap

from kilofed.link.frames import Direction, FrameType, encode_frame, parse_frame
from kilofed.link.messages import Hello, Info, Probe, Welcome, before_proof, decode, encode
from kilofed.link.secure import NO_KEY, EncryptedSession, Keys, derive


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
    """A host by hand: says exactly what it is told, encrypted when the device has a key."""

    def __init__(self, device: Device, *, max_frame: int = 128, heartbeat_ms: int = 2000) -> None:
        key = device.config.key
        self.key = None if key == NO_KEY else key
        self.tap = Tap(self.key)
        self.session: EncryptedSession | None = None
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
        return [self.tap.read(piece) for piece in data.split(b"\0") if piece]

    def hear_again(self) -> list[object]:
        """A second on: what is repeated."""
        self.now += 1000
        return self.hear()

    def say_raw(self, data: bytes) -> None:
        self.device.receive(data, self.now)

    def say(self, message: object, *, number: int | None = None, id: int | None = None) -> None:
        if number is None:
            self.sent += 1
        self._say(encode(message), self.sent if number is None else number, id)  # type: ignore[arg-type]

    def say_bytes(self, data: bytes) -> None:
        """A sound frame with any message."""
        self.sent += 1
        self._say(data, self.sent, None)

    def _say(self, data: bytes, number: int, id: int | None) -> None:
        if self.session is not None:
            self.say_raw(self._sealed(data, number, id))
        else:
            self.say_raw(session_frame(data, self.id if id is None else id, number))

    def _sealed(self, data: bytes, number: int, id: int | None) -> bytes:
        """id: of another session, whose keys are others."""
        session = self.session
        if id is not None:
            keys = Keys(id.to_bytes(32, "little"), bytes(32), bytes(16))
            session = EncryptedSession(keys, role=Direction.FROM_HOST, max_frame=self.max_frame)
        assert session is not None and number < 65536
        session._sent = number - 1
        return session.seal(data)

    def welcome(self, hello: Hello, nonce: bytes = b"hostnonc") -> bytes:
        if self.key is not None:
            return self._encrypted_welcome(hello, nonce)
        who = b"kilofed session 1" + nonce + hello.device_nonce + hello.device_id
        self.id = struct.unpack("<I", hashlib.blake2b(who, digest_size=8).digest()[:4])[0]
        self.sent = 0
        return clear(Welcome(1, hello.device_nonce, nonce, self.max_frame, self.heartbeat_ms))

    def _encrypted_welcome(self, hello: Hello, nonce: bytes) -> bytes:
        assert self.key is not None
        proof = bytes(16)
        welcome = Welcome(1, hello.device_nonce, nonce, self.max_frame, self.heartbeat_ms, proof)
        keys = derive(self.key, encode(hello), before_proof(encode(welcome)))
        self.session = EncryptedSession(keys, role=Direction.FROM_HOST, max_frame=self.max_frame)
        self.sent = 0
        framed = clear(replace(welcome, proof=keys.proof))
        self.tap.read(framed.strip(b"\0"))
        return framed

    def open(self) -> Info:
        (hello,) = self.hear()
        assert isinstance(hello, Hello)
        self.say_raw(self.welcome(hello))
        (info,) = self.hear()
        assert isinstance(info, Info)
        return info
