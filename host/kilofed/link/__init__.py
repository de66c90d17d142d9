"""The link protocol, sans-IO: firmware/PROTOCOL.md in Python, both roles. No sockets, no clocks, no
randomness inside.
"""

from __future__ import annotations
