"""A connection to an MQTT broker in asyncio's loop, and what says where the broker is (see mqtt.py).

Needs the package paho-mqtt, the extra `kilofed[mqtt]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kilofed.link.errors import ConnectError, TransportClosed

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 30
MOST_PACKET = 8192  # said to the broker, which drops what is longer (MQTT 5)
MOST_QUEUED = 1 << 20  # bytes that wait for a broker that takes nothing
PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Broker:
    """Where a broker is, and who we are to it. password is in no repr, and never in a URL."""

    host: str
    port: int
    prefix: str = "kilofed"
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def name(self) -> str:
        """As people write it, without who we are."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}/{self.prefix}"

    @property
    def root(self) -> str:
        """What every topic begins with."""
        return f"{self.prefix}/v1/"


def parse_url(text: str) -> Broker:
    """ "mqtt[s]://[USER@]HOST[:PORT][/PREFIX]" as a broker. ValueError for others, and for a password."""
    parts = urlsplit(text)
    if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not mqtt://USER@HOST:PORT/PREFIX")
    if parts.password is not None:
        raise ValueError("a password on the command line can be read by every process: give it in a file")
    prefix = parts.path.strip("/") or "kilofed"
    if len(prefix.encode()) > 200 or any(c in "+#$" or not c.isprintable() for c in prefix):
        raise ValueError(
            f"the prefix {prefix!r} has characters that topics cannot have, or more than 200 bytes"
        )
    port = PORTS[parts.scheme] if parts.port is None else parts.port
    return Broker(parts.hostname, port, prefix, unquote(parts.username or ""), tls=parts.scheme == "mqtts")


def _library() -> Any:
    try:
        import paho.mqtt.client as library
    except ImportError as error:
        raise ConnectError(
            "MQTT needs the package paho-mqtt", "install it: pip install 'kilofed[mqtt]'", name="mqtt"
        ) from error
    return library


class Client:
    """One connection to a broker, in the event loop that runs. on_message: topic, payload, whether retained.

    will: topic, payload, retained: what the broker says when we vanish. on_lost: why, once, after `open`.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        will: tuple[str, bytes, bool],
        on_message: Callable[[str, bytes, bool], None],
        on_lost: Callable[[TransportClosed], None],
    ) -> None:
        library = _library()
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        self.broker = broker
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._limits.MaximumPacketSize = MOST_PACKET
        self._paho: Any = library.Client(
            library.CallbackAPIVersion.VERSION2, name, protocol=library.MQTTv5, reconnect_on_failure=False
        )
        self._paho.connect_timeout = CONNECT_SECONDS
        self._paho.will_set(will[0], will[1], qos=1, retain=will[2])
        if broker.user:
            self._paho.username_pw_set(broker.user, broker.password or None)
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._subscribed: asyncio.Future[Any] = self._loop.create_future()
        self._room: list[asyncio.Future[None]] = []
        self._queued = 0
        self._socket: Any = None
        self._opened = False
        self._ended = False

    async def open(self, topics: list[tuple[str, int]]) -> None:
        """Connects and subscribes to topics, each with its QoS. Raises ConnectError, with what to do."""
        broker, paho = self.broker, self._paho
        if broker.tls:
            try:
                context = ssl.create_default_context(cafile=broker.ca)
                if broker.certificate is not None:
                    context.load_cert_chain(broker.certificate, broker.key)
            except (OSError, ssl.SSLError) as error:
                raise ConnectError(
                    f"the certificates cannot be read ({error})", "check the files", name=broker.name
                ) from error
            paho.tls_set_context(context)
        paho.on_connect = lambda c, u, flags, reason, p: _resolve(self._answer, reason)
        paho.on_subscribe = lambda c, u, mid, reasons, p: _resolve(self._subscribed, reasons)
        paho.on_message = lambda c, u, message: self._heard(message)
        paho.on_disconnect = lambda c, u, flags, reason, p: self._lost(str(reason))
        connecting = self._loop.run_in_executor(
            None,
            lambda: paho.connect(
                broker.host, broker.port, KEEPALIVE_SECONDS, clean_start=True, properties=self._limits
            ),
        )
        try:
            await connecting
        except ssl.SSLCertVerificationError as error:
            raise ConnectError(
                f"the certificate of {broker.name} is not to be trusted ({error.verify_message})",
                "give the certificate of its authority with --mqtt-ca", name=broker.name,
            ) from error  # fmt: skip
        except (OSError, ValueError) as error:
            raise ConnectError(
                f"no connection to {broker.name} ({error})",
                "check the address, and that a broker runs there",
                name=broker.name,
            ) from error
        self._socket = paho.socket()
        paho.on_socket_register_write = lambda c, u, s: self._loop.add_writer(s, self._write)
        paho.on_socket_unregister_write = lambda c, u, s: self._loop.remove_writer(s)
        paho.on_socket_close = lambda c, u, s: self._forget(s)
        self._loop.add_reader(self._socket, self._read)
        self._tick()
        try:
            reason = await asyncio.wait_for(self._answer, CONNECT_SECONDS)
            if reason.is_failure:
                raise ConnectError(
                    f"{broker.name} refuses us: {reason}",
                    "check the user and the password file",
                    name=broker.name,
                )
            paho.subscribe(topics)
            reasons = await asyncio.wait_for(self._subscribed, CONNECT_SECONDS)
            if any(reason.is_failure for reason in reasons):
                raise ConnectError(
                    f"{broker.name} lets us read no {broker.root}",
                    "let this user read and write these topics at the broker",
                    name=broker.name,
                )
        except (asyncio.TimeoutError, TransportClosed) as error:
            await self.close()
            raise ConnectError(
                f"{broker.name} does not answer as a broker does ({error})",
                "check the address",
                name=broker.name,
            ) from error
        except ConnectError:
            await self.close()
            raise
        self._opened = True

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """False: more than MOST_QUEUED bytes wait; `room` says when not."""
        if self._ended:
            raise TransportClosed(f"{self.broker.name} has gone", "connect again", name=self.broker.name)
        self._queued += len(payload)
        self._paho.publish(topic, payload, qos, retain)
        return self._queued < MOST_QUEUED

    async def room(self) -> None:
        """Until everything has left."""
        while self._paho.want_write() and not self._ended:
            waiter = self._loop.create_future()
            self._room.append(waiter)
            await waiter

    async def close(self) -> None:
        """Says what is still to be said, within a second, and goodbye: the will is not."""
        if not self._ended:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.room(), 1.0)
        self._ended = True
        self._paho.disconnect()
        with contextlib.suppress(Exception):
            self._paho.loop_write()
        if self._socket is not None:
            self._forget(self._socket)

    def _read(self) -> None:
        try:
            self._paho.loop_read()
            while (s := self._paho.socket()) is not None and hasattr(s, "pending") and s.pending():
                self._paho.loop_read()
        except Exception as error:  # of paho, about bytes that are no MQTT
            self._lost(f"{type(error).__name__}: {error}")

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            self._paho.loop_write()
        if not self._paho.want_write():
            self._queued = 0
            self._wake()

    def _tick(self) -> None:
        if not self._ended:
            self._paho.loop_misc()
            self._loop.call_later(1.0, self._tick)

    def _heard(self, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._on_message(topic, bytes(message.payload), bool(message.retain))

    def _lost(self, why: str) -> None:
        if self._ended:
            return
        self._ended = True
        if self._socket is not None:
            self._forget(self._socket)
        error = TransportClosed(
            f"{self.broker.name} has gone ({why})", "it is tried again", name=self.broker.name
        )
        for waiting in (self._answer, self._subscribed):
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()
        self._wake()
        if self._opened:
            self._on_lost(error)

    def _forget(self, s: Any) -> None:
        with contextlib.suppress(ValueError, OSError):
            self._loop.remove_reader(s)
            self._loop.remove_writer(s)

    def _wake(self) -> None:
        waiters, self._room = self._room, []
        for waiter in waiters:
            _resolve(waiter, None)


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
