"""A line with somebody on it: a TCP relay that knows frames, and may drop, bend, delay or cut what passes.

    proxy = Proxy(hook)
    async with proxy:                          listens on proxy.port
        proxy.target = ("127.0.0.1", port)     whom it connects to, once for each connection taken

Bytes are cut after each 0x00; `hook` is given every piece with what it is, and returns what goes on instead.
To say what it is the proxy knows the device's key. It changes nothing by it: a bent frame travels as a bent
frame.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tests.link_tap import Tap

from kilofed.link.errors import FrameError, MessageError
from kilofed.link.frames import Direction, parse_frame
from kilofed.link.messages import Message

NOISE = "noise"
SECONDS = 5.0  # within which the far side must take a connection


@dataclass(frozen=True)
class Piece:
    """What passes: its bytes with the delimiter, whether it goes up to the host, and the message inside.

    kind: the message's class in lower case, NOISE when it is none.
    """

    data: bytes
    up: bool
    kind: str
    message: Message | None = None


def piece_of(data: bytes, tap: Tap) -> Piece | None:
    """The piece read as a frame; None for bytes that are no message."""
    try:
        frame = parse_frame(data.rstrip(b"\0"))
        message = tap.read(data.rstrip(b"\0"))
    except (FrameError, MessageError, AssertionError):
        return None
    return Piece(data, frame.direction is Direction.FROM_DEVICE, type(message).__name__.lower(), message)


Hook = Callable[[Piece], bytes]


def untouched(piece: Piece) -> bytes:
    """The hook of a sound line."""
    return piece.data


class Proxy:
    """One line. taken_by_host: the host is who connects to it, as to a serial board; else the device does.

    key: of the device.
    """

    def __init__(
        self, hook: Hook = untouched, *, taken_by_host: bool = False, key: bytes | None = None
    ) -> None:
        self.hook = hook
        self._tap = Tap(key)
        self.target: tuple[str, int] | None = None
        self.port = 0
        self.connections = 0
        self._up_first = not taken_by_host
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._taken, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Ends the connections there are, as a pulled cable; new ones are taken."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut_soon(self) -> None:
        """`cut`, from within a hook."""
        for task in self._tasks:
            asyncio.get_running_loop().call_soon(task.cancel)

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        far: asyncio.StreamWriter | None = None
        try:
            assert self.target is not None
            far_reader, far = await asyncio.wait_for(asyncio.open_connection(*self.target), SECONDS)
            ways = [
                asyncio.ensure_future(self._relay(reader, far, self._up_first)),
                asyncio.ensure_future(self._relay(far_reader, writer, not self._up_first)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError):
            pass  # the far side is not there, or the cable was pulled: the near side sees its end
        finally:
            self._tasks.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        held = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                *pieces, held = (held + data).split(b"\0")
                for piece in pieces:
                    whole = piece + b"\0"
                    known = piece_of(whole, self._tap)
                    out = self.hook(known if known is not None else Piece(whole, up, NOISE))
                    if out:
                        writer.write(out)
                await writer.drain()
            if held:
                writer.write(self.hook(Piece(held, up, NOISE)))
                await writer.drain()
