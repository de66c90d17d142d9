"""The link protocol, sans-IO: firmware/PROTOCOL.md in Python, both roles.

The way of a byte: frames cuts the stream, session checks and numbers (secure decrypts, too), messages turns
CBOR into dataclasses, blobs moves what is large, and host and device are the two state machines, which speak
in events. No sockets, no clocks, no randomness inside: bytes, the time and an rng come in.
"""

from __future__ import annotations
