"""Whoever knows the device's key, and listens to a line: what crosses it, as messages."""

from __future__ import annotations

from kilofed.link.frames import Direction, FrameType, parse_frame
from kilofed.link.messages import Hello, Message, Welcome, before_proof, decode
from kilofed.link.secure import EncryptedSession, derive

MOST_SESSIONS = 8  # remembered: a frame may be of one that is being replaced


class Tap:
    """Reads the frames of one line in the order in which they were sent.

    key: of the device, None for a line in the clear.
    """

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self._hellos: dict[bytes, bytes] = {}  # by their nonces
        self._sessions: list[dict[Direction, EncryptedSession]] = []

    def read(self, piece: bytes) -> Message:
        """The message in the piece between two delimiters. AssertionError when it is of no session."""
        frame = parse_frame(piece)
        if frame.type is not FrameType.ENCRYPTED:
            message = decode(frame.message)
            if isinstance(message, Hello):
                self._hellos[message.device_nonce] = frame.message
            elif isinstance(message, Welcome) and message.proof is not None:
                self._begin(message.device_nonce, frame.message)
            return message
        for session in reversed(self._sessions):
            data = session[frame.direction].open(frame)
            if data is not None:
                return decode(data)
        raise AssertionError("an encrypted frame of no session that was begun")

    def _begin(self, nonce: bytes, welcome: bytes) -> None:
        assert self._key is not None, "an encrypted session on a line that was said to be in the clear"
        keys = derive(self._key, self._hellos.get(nonce, b""), before_proof(welcome))
        self._sessions.append(
            {
                Direction.FROM_DEVICE: EncryptedSession(keys, role=Direction.FROM_HOST, max_frame=1024),
                Direction.FROM_HOST: EncryptedSession(keys, role=Direction.FROM_DEVICE, max_frame=1024),
            }
        )
        del self._sessions[:-MOST_SESSIONS]
