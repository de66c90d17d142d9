"""What is wrong with a serial port and the board behind it: one finding, one next step.

    finding = diagnose("/dev/ttyACM0", keys=fleet.keys)

In the order in which trouble can be told apart: no such port, no permission, another program has it, it does
not open; then, by opening it and speaking as a host: a device that opens a session, one with another key or
none, another protocol version, our firmware's own complaint, another program's text, bytes that are no text
at this baud rate (and at which they are), and silence. Opening a port resets some boards.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kilofed.boards import ports
from kilofed.connection import Connection
from kilofed.doctor import Finding, may_open
from kilofed.link.errors import TransportError
from kilofed.link.events import HelloSeen, Opened, Stray, Unproven
from kilofed.link.host import HostEndpoint
from kilofed.link.messages import Hello, Info, Reason
from kilofed.link.tap import is_text, printable
from kilofed.transports.serial import BAUD

BAUDS = (115200, 9600, 57600, 38400, 19200, 230400, 460800, 921600, 1000000)
LISTEN_SECONDS = 3.5  # a device says hello every 1.25 s at least, and answers a probe at once
OTHER_SECONDS = 1.5  # at another baud rate: a probe and its answer
KNOWN_BYTES = 8  # fewer bytes say nothing of a line
NEEDED_FOR = "this board"

#: Programs that open every new serial port -> how to keep them from it.
MEDDLERS = {
    "ModemManager": "sudo systemctl disable --now ModemManager",
    "brltty": "sudo apt-get remove brltty",
}

#: What our firmware says instead of hello -> what it means, and the next step.
COMPLAINTS = {
    b"no settings page": (
        "runs kilofed without its settings page: it was flashed in part, or without an identity",
        "`kilofed flash` writes image, model and identity",
    ),
    b"no model in this image": (
        "runs kilofed without a model", "`kilofed flash --model MODEL.tflite` brings one"
    ),
}  # fmt: skip

Keys = Callable[[bytes], Sequence[bytes]]


@dataclass(slots=True)
class Heard:
    """What came from a line while a host spoke on it. refused: the Reason a hello was refused with."""

    hello: Hello | None = None
    info: Info | None = None
    refused: int = 0
    unproven: bool = False
    version: int | None = None
    stray: bytearray = field(default_factory=bytearray)
    bytes_up: int = 0


def diagnose(
    url: str,
    *,
    keys: Keys = lambda device_id: (),
    baud: int = BAUD,
    listen: float = LISTEN_SECONDS,
    other: float = OTHER_SECONDS,
    proc: Path = Path("/proc"),
) -> Finding:
    """Looks at a port, or a URL that pyserial knows. keys: those that a device may hold.

    listen, other: seconds at `baud`, and at each other rate when what came was no text. proc: where the
    kernel lists processes.
    """
    name = f"port {url}"
    if "://" not in url:
        refused = may_open(Path(url))
        if refused.state != "ok":
            return refused
        for process, program in ports.who_holds(url, proc=proc):
            step = MEDDLERS.get(program, f"close {program}, or `kill {process}`")
            return Finding(name, "broken", f"{program} (process {process}) has it open", step, NEEDED_FOR)
    try:
        heard = asyncio.run(_listen(url, baud, keys, listen))
        if _tells(heard):
            return _judged(name, heard, baud)
        if len(heard.stray) >= KNOWN_BYTES and not is_text(bytes(heard.stray)):
            return asyncio.run(_other_rates(url, name, baud, keys, other))
        if heard.stray:
            return Finding(
                name, "broken", f"another program's text: {printable(bytes(heard.stray[:60]))}",
                "`kilofed flash` puts kilofed into the board, or name another port", NEEDED_FOR,
            )  # fmt: skip
    except TransportError as error:
        return Finding(name, "broken", error.what, error.next_step, NEEDED_FOR)
    return Finding(
        name, "broken", f"opens, and nothing comes in {listen:g} s: no firmware, a board held in reset, or"
        " another port of the same board",
        "press its reset button and ask again; then `kilofed flash` it", NEEDED_FOR,
    )  # fmt: skip


def meddlers(proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Programs that run here and open each serial port that appears, for seconds or for good."""
    running = set()
    for comm in proc.glob("[0-9]*/comm"):
        try:
            running.add(comm.read_text().strip())
        except OSError:
            continue
    for name in sorted(running & set(MEDDLERS)):
        yield Finding(
            name, "optional", "runs, and speaks to every new serial port", MEDDLERS[name],
            "boards that answer at once when they are plugged in",
        )  # fmt: skip


async def _listen(url: str, baud: int, keys: Keys, seconds: float) -> Heard:
    heard = Heard()

    def crossed(up: bool, data: bytes) -> None:
        heard.bytes_up += len(data) if up else 0

    endpoint = HostEndpoint(rng=os.urandom, keys=keys, insecure=True)
    async with Connection.serial(url, endpoint=endpoint, baud=baud, capture=crossed) as line:

        async def take() -> None:
            async for event in line.events():
                match event:
                    case HelloSeen(hello, refused):
                        heard.hello, heard.refused = hello, refused
                        if refused:
                            return
                    case Opened(hello, info):
                        heard.hello, heard.info = hello, info
                        return
                    case Unproven():
                        heard.unproven = True
                        return
                    case Stray(data, version):
                        heard.stray += data[: 4096 - len(heard.stray)]
                        heard.version = heard.version if version is None else version

        taking = asyncio.ensure_future(take())
        until = time.monotonic() + seconds
        while not taking.done() and time.monotonic() < until and line.trouble is None:
            await asyncio.wait([taking], timeout=0.1)
        taking.cancel()
        if line.trouble is not None:
            raise line.trouble
        line.endpoint.disconnected("")  # what has begun and not ended is stray, too: boot text
        for event in line.endpoint.events():
            if isinstance(event, Stray):
                heard.stray += event.data[: 4096 - len(heard.stray)]
    return heard


def _tells(heard: Heard) -> bool:
    """Whether what was heard is our firmware's."""
    return (
        heard.hello is not None
        or heard.version is not None
        or any(text in heard.stray for text in COMPLAINTS)
    )


def _judged(name: str, heard: Heard, baud: int) -> Finding:
    hello = heard.hello
    if heard.info is not None and hello is not None:
        sort = "encrypted" if hello.encrypted else "in the clear: it has no key"
        who = f"{hello.board} {hello.device_id.hex()}, firmware {hello.firmware_text}"
        held = f"{heard.info.train + heard.info.held_out} samples, {heard.info.state.name.lower()}"
        return Finding(name, "ok", f"{who}, at {baud} baud, {sort}; {held}")
    if hello is not None:
        who = f"{hello.board} {hello.device_id.hex()}"
        if heard.unproven:
            return Finding(
                name, "broken", f"{who} speaks, and takes no session of the key that is known for it",
                "use the register of the host that flashed it (--fleet), or `kilofed flash` it again",
                NEEDED_FOR,
            )  # fmt: skip
        if heard.refused == Reason.WRONG_KEY:
            return Finding(
                name, "broken", f"{who} speaks, and this host has no key for it",
                "use the register of the host that flashed it (--fleet), or `kilofed flash` it again",
                NEEDED_FOR,
            )  # fmt: skip
        return Finding(
            name, "broken", f"{who} says hello, and opens no session",
            "look at its frames: `kilofed monitor PORT`", NEEDED_FOR,
        )  # fmt: skip
    if heard.version is not None:
        return Finding(
            name, "broken", f"a device of protocol version {heard.version}",
            "flash it with this version of kilofed, or update kilofed", NEEDED_FOR,
        )  # fmt: skip
    what, step = next(words for text, words in COMPLAINTS.items() if text in heard.stray)
    return Finding(name, "broken", f"the board {what}", step, NEEDED_FOR)


async def _other_rates(url: str, name: str, baud: int, keys: Keys, seconds: float) -> Finding:
    """Bytes came that are neither frames nor text: at which rate are they?"""
    for rate in BAUDS:
        if rate == baud:
            continue
        try:
            heard = await _listen(url, rate, keys, seconds)
        except TransportError:
            continue  # a rate that this adapter has not
        text = len(heard.stray) >= KNOWN_BYTES and is_text(bytes(heard.stray))
        if _tells(heard) or text:
            whose = "the board speaks" if _tells(heard) else "another program writes text"
            return Finding(
                name, "broken", f"noise at {baud} baud: {whose} at {rate}",
                f"flash firmware whose board file says {baud}, or ask with --baud {rate}", NEEDED_FOR,
            )  # fmt: skip
    return Finding(
        name, "broken", f"noise at {baud} baud and at every other usual rate",
        "look at ground, voltage and wiring of the line, then flash the board again", NEEDED_FOR,
    )  # fmt: skip
