"""What crosses a line: bytes of both ways with their times, for tests of captures and of who listens."""

from __future__ import annotations

import random

from kilofed.link.device import DeviceEndpoint, Holding
from kilofed.link.events import Opened
from kilofed.link.host import HostEndpoint

ID = b"\1\2\3\4\5\6\7\x08"
HEAD = random.Random(1).randbytes(16 + 12 + 12)


def crossing(key: bytes | None) -> list[tuple[float, bool, bytes]]:
    """What crosses a line while a session is opened and a head goes down; boot text comes first."""
    rng = random.Random(7)
    host = HostEndpoint(rng=rng.randbytes, keys=lambda _: [key] if key else [], insecure=key is None)
    holding = Holding(model=b"m" * 8, classes=3, features=4, capacity=20, train=16, held_out=4)
    device = DeviceEndpoint(
        rng=rng.randbytes, device_id=ID, board="posix", firmware=256, holding=holding,
        take_head=lambda blob: 0, key=key,
    )  # fmt: skip
    found: list[tuple[float, bool, bytes]] = [(0.5, True, b"boot: kilofed 0.1\r\n")]
    now, told = 1.0, False
    for _ in range(400):
        now += 0.01
        host.poll(now)
        device.poll(now)
        if data := host.data_to_send():
            found.append((now, False, data))
            device.receive(data, now)
        if data := device.data_to_send():
            found.append((now, True, data))
            host.receive(data, now)
        if not told and any(isinstance(event, Opened) for event in host.events()):
            host.send_head(HEAD)
            told = True
    return found
