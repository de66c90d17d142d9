"""`scale.*`: one host process and ten thousand devices of the real core, encrypted, a full round.

The devices are two processes of kilofed-posix, the host is a third with nothing else in it, and what it cost
is what the kernel says of it: seconds of CPU and the most memory it held. So these figures, unlike the
others, are this machine's. In the last of three rounds a tenth of the devices falls silent; the round ends at
its deadline with the rest.

KILOFED_SCALE_DEVICES: another number of devices.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.scale.crowd import Crowd, CrowdFailed

from kilofed.transports.tcp import FILES_BESIDES, files_allowed

from .figure import BenchError, Figure

COMMAND = "python -m tests.bench --only scale"
DEVICES = 10_000
ROUNDS = 3  # the second, which has the first one's commits, is measured; in the last some vanish
DEADLINE = 120.0  # of a round, seconds


def figures(root: Path) -> Iterator[Figure]:
    """As many devices as asked for, or as this system lets one process have connections."""
    wanted = int(os.environ.get("KILOFED_SCALE_DEVICES", DEVICES))
    devices = min(wanted, files_allowed() - FILES_BESIDES)
    if devices < wanted:
        print(f"bench: {devices} devices, not {wanted}: the system allows no more files", file=sys.stderr)
    vanishing = devices // 10
    with tempfile.TemporaryDirectory(prefix="kilofed-scale-") as folder:
        try:
            with Crowd(Path(folder), devices=devices, vanishing=vanishing) as crowd:
                seen = crowd.run(rounds=ROUNDS, deadline=DEADLINE)
        except CrowdFailed as error:
            raise BenchError(str(error)) from error
    whole, last = seen.rounds[:-1], seen.rounds[-1]
    for entry in whole:
        if entry.taken != devices:
            raise BenchError(
                f"round {entry.number}: {entry.taken} of {devices} devices answered ({entry.how})"
            )
    if last.taken < devices - vanishing or last.taken + last.dropped != devices:
        raise BenchError(f"{vanishing} vanished, and the round ended by {last.how} with {last.taken} answers")
    yield Figure("scale.devices", devices, "devices", COMMAND)
    yield Figure("scale.host_cpu_ms_per_device_round", round(1e3 * whole[-1].cpu / devices, 3), "ms", COMMAND)
    yield Figure("scale.host_cpu_ms_per_handshake", round(1e3 * seen.gather_cpu / devices, 3), "ms", COMMAND)
    yield Figure("scale.host_rss_mb", round(seen.rss / 2**20, 1), "MiB", COMMAND)
    yield Figure("scale.taken_when_a_tenth_vanishes", last.taken, "devices", COMMAND)
