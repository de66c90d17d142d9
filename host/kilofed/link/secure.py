"""Encrypted sessions: keys from a device's key and both sides' words, and the frames under them.

    keys = derive(device_key, hello, welcome)      both ends, from the bytes that crossed the line
    session = EncryptedSession(keys, role=Direction.FROM_HOST, max_frame=1024)

firmware/PROTOCOL.md, "Encrypted sessions", has every byte, firmware/SECURITY.md what it is for. BLAKE2b is
hashlib's and ChaCha20-Poly1305 (RFC 8439) is cryptography's; nothing of either is made here.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from kilofed.link.frames import TAG_BYTES, Direction, FrameType, RawFrame, encode_encrypted, frame_header
from kilofed.link.messages import PROOF_BYTES
from kilofed.link.session import LAST_NUMBER, Session

KEY_BYTES = 32
NO_KEY = bytes(KEY_BYTES)  # of a device that was flashed without one: its sessions are in the clear
MIN_FRAME = 72  # shortest max_frame of an encrypted session: the longest info fits it
EPOCH_BITS = 16  # a key serves the numbers that share all bits above these


@dataclass(frozen=True, slots=True)
class Keys:
    """Of one session: a key for each direction, and what proves to the device that the host has its key.

    enrolled: the key that replaces the one of a code, once it has opened this session (see `kilofed.enrol`).
    """

    from_host: bytes = field(repr=False)
    from_device: bytes = field(repr=False)
    proof: bytes = field(repr=False)
    enrolled: bytes = field(default=b"", repr=False)

    def proves(self, proof: bytes) -> bool:
        """Whether a welcome's proof is the right one. Takes the same time for any."""
        return hmac.compare_digest(self.proof, proof)


def derive(key: bytes, hello: bytes, welcome: bytes) -> Keys:
    """The keys of the session that a hello and its welcome open.

    key: the device's, 32 bytes. hello: its message as it was sent. welcome: the message as it was sent, up to
    where its proof begins. Another byte anywhere gives other keys.
    """
    root = _keyed(key, b"kilofed encrypted session 1" + hello + welcome)
    return Keys(
        _keyed(root, b"from host"),
        _keyed(root, b"from device"),
        _keyed(root, b"proof", PROOF_BYTES),
        _keyed(root, b"enrolled"),
    )


def next_key(key: bytes) -> bytes:
    """The key of a direction for its next 2^16 numbers. The way back is closed."""
    return _keyed(key, b"next")


def _keyed(key: bytes, text: bytes, size: int = KEY_BYTES) -> bytes:
    return hashlib.blake2b(text, key=key, digest_size=size).digest()


class _Way:
    """One direction: its key, and the numbers it is for.

    A cipher is made for each frame: that takes half a microsecond, and one that is kept 2.4 kB of OpenSSL's.
    """

    __slots__ = ("_key", "epoch")

    def __init__(self, key: bytes, epoch: int = 0) -> None:
        self.epoch = epoch
        self._key = key

    def next(self) -> _Way:
        return _Way(next_key(self._key), self.epoch + 1)

    def seal(self, number: int, header: bytes, message: bytes) -> bytes:
        return ChaCha20Poly1305(self._key).encrypt(number.to_bytes(12, "little"), message, header)

    def open(self, number: int, header: bytes, sealed: bytes) -> bytes | None:
        try:
            return ChaCha20Poly1305(self._key).decrypt(number.to_bytes(12, "little"), sealed, header)
        except InvalidTag:
            return None


class EncryptedSession(Session):
    """A session whose frames are encrypted and authenticated.

    keys: see `derive`. role: the direction of the frames this side sends. max_frame: neither side sends
    longer ones, MIN_FRAME or more.
    """

    check_bytes = TAG_BYTES

    def __init__(self, keys: Keys, *, role: Direction, max_frame: int) -> None:
        super().__init__(0, role=role, max_frame=max_frame)
        self.enrolled = keys.enrolled
        own, peers = keys.from_device, keys.from_host
        if role is Direction.FROM_HOST:
            own, peers = peers, own
        self._sealing = _Way(own)
        self._opening = _Way(peers)

    def seal(self, message: bytes) -> bytes:
        """The next frame, on the wire. Not to be called once `exhausted`."""
        self._sent += 1
        if self._sent >> EPOCH_BITS != self._sealing.epoch:
            self._sealing = self._sealing.next()
        header = frame_header(self._role, FrameType.ENCRYPTED, self._sent)
        return encode_encrypted(header, self._sealing.seal(self._sent, header, message))

    def open(self, frame: RawFrame) -> bytes | None:
        """The message in it, or None when it is not authentic, or was accepted before.

        Which number is tried is as in a session in the clear. It is at most 2^16 above the last one, so its
        key is the last one's or the next; the older is forgotten when a frame under the newer was authentic.
        """
        if frame.type is not FrameType.ENCRYPTED or frame.direction is self._role:
            return None
        number = self._number_of(frame)
        if number > LAST_NUMBER:
            return None
        way = self._opening if number >> EPOCH_BITS == self._opening.epoch else self._opening.next()
        message = way.open(number, frame.header, frame.message + frame.tag)
        if message is not None:
            self._opening = way
            self._accepted = number
        return message
