"""MQTT: the frames of many devices over the topics of one broker (firmware/PROTOCOL.md, "Over MQTT").

    prefix/v1/host          who serves this prefix, 16 hex digits, retained; empty: nobody (last will)
    prefix/v1/<id>/here     "1": a device begins; "0": it has gone (its last will)
    prefix/v1/<id>/up       frames from a device        prefix/v1/<id>/down    frames to it

<id>: 16 hex digits. Frames have QoS 0: the link says again what is lost. Nothing else is retained.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType

from kilofed.link.errors import ConnectError, TransportClosed, TransportError
from kilofed.transports.base import READ_BYTES, Buffered
from kilofed.transports.broker import Broker, Client

MOST_PAYLOAD = 4096  # bytes of a message: whole frames, of 1024 bytes at most
MOST_LINES = 20_000
MOST_REMARKS = 100  # different ones that are said
OBJECT_SECONDS = 2.0  # in which a host that is there answers one that comes
RECONNECT_SECONDS = (0.2, 5.0)
_ID = re.compile(r"[0-9a-f]{16}")


class MqttTransport(Buffered):
    """The topics of one device, of either end. publish: as Client.publish, of one message's payload."""

    def __init__(
        self, name: str, topic: str, client: Client, on_close: Callable[[], Awaitable[None]]
    ) -> None:
        self.name = name
        self._topic = topic
        self._client = client
        self._on_close = on_close
        self._data = bytearray()
        self._ended = False
        self._error: TransportClosed | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def feed(self, payload: bytes) -> None:
        """Something came; dropped when nobody takes what came before: no window is so long."""
        if not self._ended and len(self._data) + len(payload) <= READ_BYTES:
            self._data += payload
            self._changed()

    def end(self, error: TransportClosed | None = None) -> None:
        """Nothing more comes: in good order, or because the broker has gone."""
        self._ended, self._error = True, self._error or error
        self._changed()

    def take(self) -> bytes | None:
        if self._data:
            data = bytes(self._data)
            self._data.clear()
            return data
        if self._error is not None:
            raise self._error
        return b"" if self._ended else None

    async def read(self) -> bytes:
        while (data := self.take()) is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return data

    def give(self, data: bytes) -> bool:
        room = True
        while data:
            end = data.rfind(b"\0", 0, MOST_PAYLOAD) + 1 if len(data) > MOST_PAYLOAD else len(data)
            end = end or MOST_PAYLOAD
            room = self._client.publish(self._topic, data[:end])
            data = data[end:]
        return room

    async def write(self, data: bytes) -> None:
        if not self.give(data) or not data:
            await self._client.room()

    async def close(self) -> None:
        self._ended = True
        self._changed()
        await self._on_close()

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self.on_change is not None:
            self.on_change()


async def connect(broker: Broker, device_id: bytes) -> MqttTransport:
    """A device's end, once a host serves the prefix; waits for one. Raises ConnectError, TransportClosed."""
    loop = asyncio.get_running_loop()
    own = f"{broker.root}{device_id.hex()}/"
    serves = ""
    there: asyncio.Future[None] = loop.create_future()
    line: MqttTransport | None = None

    def heard(topic: str, payload: bytes, retained: bool) -> None:
        nonlocal serves
        if topic == f"{own}down" and not retained and len(payload) <= MOST_PAYLOAD and line is not None:
            line.feed(payload)
        elif topic == f"{broker.root}host":
            who = payload.decode("ascii", "replace")
            if who and not _ID.fullmatch(who):
                return
            if line is not None and who != serves:
                line.end()
            elif who and not there.done():
                serves = who
                there.set_result(None)

    def lost(error: TransportClosed) -> None:
        if line is not None:
            line.end(error)
        elif not there.done():
            there.set_exception(error)

    client = Client(
        broker, f"kilofed-{device_id.hex()}", will=(f"{own}here", b"0", False), on_message=heard, on_lost=lost
    )

    async def leave() -> None:
        try:
            client.publish(f"{own}here", b"0", qos=1)
        except TransportClosed:
            return
        await client.close()

    try:
        await client.open([(f"{own}down", 0), (f"{broker.root}host", 1)])
        await there
    except BaseException:
        await client.close()
        raise
    line = MqttTransport(broker.name, f"{own}up", client, leave)
    client.publish(f"{own}here", b"1", qos=1)
    return line


class Listener:
    """Takes devices of a prefix until it is closed. An async context manager, made by `listen`."""

    def __init__(
        self,
        broker: Broker,
        on_connect: Callable[[MqttTransport], Awaitable[None]],
        *,
        on_remark: Callable[[str], None],
        on_fail: Callable[[TransportError], None],
    ) -> None:
        self.broker = broker
        self._on_connect, self._on_remark, self._on_fail = on_connect, on_remark, on_fail
        self._me = secrets.token_hex(8)
        self._lines: dict[str, MqttTransport] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: set[str] = set()
        self._rival = False
        self._asked = asyncio.Event()
        self._objected = asyncio.Event()
        self._claimed_at: float | None = None
        self._client: Client | None = None
        self._again: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects, and claims the prefix. Raises ConnectError: also when another host has it."""
        host = f"{self.broker.root}host"
        self._rival, self._claimed_at = False, None
        self._asked.clear()
        self._objected.clear()
        client = Client(
            self.broker,
            f"kilofed-host-{self._me}",
            will=(host, b"", True),
            on_message=self._heard,
            on_lost=self._lost,
        )
        await client.open([(host, 1), (f"{self.broker.root}+/up", 0), (f"{self.broker.root}+/here", 1)])
        self._client = client
        # Asked after the subscription, so what is retained comes before the question comes back.
        client.publish(host, f"?{self._me}".encode(), qos=1)
        try:
            await asyncio.wait_for(self._asked.wait(), OBJECT_SECONDS)
            if self._rival:
                await asyncio.wait_for(self._objected.wait(), OBJECT_SECONDS)
        except asyncio.TimeoutError:
            pass  # what was retained is of a host that has gone
        if self._objected.is_set():
            await self._abandon(client)
            raise self._two()
        self._claimed_at = asyncio.get_running_loop().time()
        client.publish(host, self._me.encode(), qos=1, retain=True)

    def _two(self) -> ConnectError:
        return ConnectError(
            f"another host serves {self.broker.name}", "end it, or give another prefix", name=self.broker.name
        )

    async def _abandon(self, client: Client) -> None:
        self._client = None
        await client.close()

    def _remark(self, text: str) -> None:
        if text not in self._said and len(self._said) < MOST_REMARKS:  # a cause may have a number in it
            self._said.add(text)
            self._on_remark(text)

    def _heard(self, topic: str, payload: bytes, retained: bool) -> None:
        rest = topic.removeprefix(self.broker.root)
        if rest == "host":
            self._claim(payload.decode("ascii", "replace"), retained)
            return
        who, _, what = rest.partition("/")
        if retained or not _ID.fullmatch(who) or what not in ("up", "here") or len(payload) > MOST_PAYLOAD:
            self._remark(
                f"{self.broker.name}: messages that are no device's are ignored: retained, long, or of no id"
            )
            return
        line = self._lines.get(who)
        if what == "here" and line is not None:
            line.end()  # gone, or begun anew
            del self._lines[who]
            line = None
        if what == "here" and payload != b"1":
            return
        line = line or self._begin(who)
        if line is not None and what == "up":
            line.feed(payload)

    def _claim(self, who: str, retained: bool) -> None:
        if who == f"?{self._me}":
            self._asked.set()
        elif who.startswith("?") and self._claimed_at is not None and self._client is not None:
            self._client.publish(f"{self.broker.root}host", self._me.encode(), qos=1, retain=True)
        elif _ID.fullmatch(who) and who != self._me:
            now = asyncio.get_running_loop().time()
            if self._claimed_at is None:
                self._rival = True
                if not retained:
                    self._objected.set()
            elif who < self._me and now < self._claimed_at + OBJECT_SECONDS:
                self._on_fail(self._two())  # both came at once: the smaller stays
            else:
                self._remark(
                    f"another host claims {self.broker.name}: end it, or give one of them another prefix"
                )

    def _begin(self, who: str) -> MqttTransport | None:
        if self._client is None or len(self._lines) >= MOST_LINES:
            return None

        async def leave() -> None:
            if self._lines.get(who) is line:
                del self._lines[who]

        line = MqttTransport(
            f"{self.broker.name}/{who}", f"{self.broker.root}{who}/down", self._client, leave
        )
        self._lines[who] = line
        task = asyncio.get_running_loop().create_task(self._serve(line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return line

    async def _serve(self, line: MqttTransport) -> None:
        try:
            await self._on_connect(line)
        finally:
            await line.close()

    def _lost(self, error: TransportClosed) -> None:
        self._client = None
        lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            line.end(error)
        self._on_remark(str(error))
        self._again = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        wait = RECONNECT_SECONDS[0]
        while True:
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))
            try:
                await self.open()
                self._on_remark(f"{self.broker.name} is there again")
                return
            except ConnectError as error:
                if self._objected.is_set():
                    self._on_fail(error)
                    return
                self._remark(str(error))
            wait = min(2 * wait, RECONNECT_SECONDS[1])

    async def close(self) -> None:
        """Says that nobody serves the prefix now."""
        if self._again is not None:
            self._again.cancel()
        client, self._client = self._client, None
        if client is not None:
            try:
                client.publish(f"{self.broker.root}host", b"", qos=1, retain=True)
            except TransportClosed:
                return
            await client.close()

    async def __aenter__(self) -> Listener:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def listen(
    broker: Broker,
    on_connect: Callable[[MqttTransport], Awaitable[None]],
    *,
    on_remark: Callable[[str], None] = lambda text: None,
    on_fail: Callable[[TransportError], None] = lambda error: None,
) -> Listener:
    """Serves a prefix of a broker. on_connect owns a device's transport, in a task of its own.

    on_remark: told what people should know. on_fail: told why it cannot go on. Raises ConnectError.
    """
    listener = Listener(broker, on_connect, on_remark=on_remark, on_fail=on_fail)
    await listener.open()
    return listener
