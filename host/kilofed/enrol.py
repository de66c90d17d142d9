"""One-time codes: how a device that nobody flashes from this host gets its id and its key.

    code = new_code()                    shown once, by `kilofed fleet enroll`; typed into the device
    id, key = identity_of(code)          both ends make the same of it

A code is 125 random bits: nobody guesses it, and whoever has seen it can be the device until it is void. In
its first session both ends make another key of the session's own secrets (kilofed.link.secure: `enrolled`)
and keep it; the first session of that key makes the code void, and so does an hour (kilofed.fleet).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from kilofed.errors import FleetError

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without I, L, O and U, which are misread or misunderstood
LETTERS = 25
_GROUP = 5
_MISREAD = str.maketrans("ILO", "110")


def new_code(rng: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A fresh code, "XXXXX-XXXXX-XXXXX-XXXXX-XXXXX"."""
    letters = "".join(ALPHABET[byte & 31] for byte in rng(LETTERS))
    return "-".join(letters[at : at + _GROUP] for at in range(0, LETTERS, _GROUP))


def identity_of(code: str) -> tuple[bytes, bytes]:
    """Id (8 bytes) and key (32) of a code, as it was typed. FleetError for what cannot be one."""
    letters = "".join(code.upper().translate(_MISREAD).replace("-", " ").split())
    if len(letters) != LETTERS or not set(letters) <= set(ALPHABET):
        raise FleetError(
            "that is no enrolment code",
            f"give all {LETTERS} letters and digits that `kilofed fleet enroll` shows",
        )
    made = hashlib.blake2b(b"kilofed enrol 1" + letters.encode(), digest_size=40).digest()
    return made[:8], made[8:]
