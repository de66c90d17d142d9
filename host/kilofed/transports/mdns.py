"""Hosts that say on the local network where they listen, and devices that ask: mDNS (RFC 6762, 6763).

    async with announce("0.0.0.0", 7300):       the host: answers for "_kilofed._tcp.local." until it leaves
        ...
    host, port = await find()                   a device: the first host that answers

It is a convenience and proves nothing: whoever answers is believed only once the session shows that it holds
the device's key. Needs the package zeroconf, the extra `kilofed[net]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeAlias

from kilofed.link.errors import ConnectError
from kilofed.transports.tcp import EVERYWHERE

if TYPE_CHECKING:
    from zeroconf import IPVersion

SERVICE = "_kilofed._tcp.local."
FIND_SECONDS = 5.0
_ASK_MS = 2000

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"


def _library() -> Any:
    """The module zeroconf. Raises ConnectError: it is not installed."""
    try:
        import zeroconf.asyncio
    except ImportError as error:
        raise ConnectError(
            "finding each other by mDNS needs the package zeroconf",
            "install it: pip install 'kilofed[net]'; or name the host's address",
            name=SERVICE,
        ) from error
    return zeroconf


def reachable(host: str) -> list[Address]:
    """The addresses under which others reach what listens on `host`, an address, a name, "" or "*".

    Empty when only this machine does. Raises ConnectError for a name that is none.
    """
    import ifaddr

    if host in (*EVERYWHERE, "0.0.0.0", "::"):
        families = (socket.AF_INET,) if host == "0.0.0.0" else (socket.AF_INET, socket.AF_INET6)
        texts = [
            str(ip.ip if ip.is_IPv4 else ip.ip[0])
            for adapter in ifaddr.get_adapters()
            for ip in adapter.ips
            if (socket.AF_INET if ip.is_IPv4 else socket.AF_INET6) in families
        ]
    else:
        try:
            texts = [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
        except OSError as error:
            raise ConnectError(
                f"{host} is no address of this machine ({error})", "check it", name=host
            ) from error
    found = [ipaddress.ip_address(text.partition("%")[0]) for text in texts]
    return [ip for ip in dict.fromkeys(found) if not ip.is_loopback and not ip.is_link_local]


def _version(addresses: list[Address]) -> IPVersion:
    versions = {ip.version for ip in addresses}
    library = _library()
    chosen: IPVersion = library.IPVersion.V6Only if versions == {6} else library.IPVersion.V4Only
    return chosen


@contextlib.asynccontextmanager
async def announce(host: str, port: int, *, name: str = "") -> AsyncIterator[str]:
    """Answers, while the context is open, that a host listens on `host` and `port`; gives the name it has.

    name: of the host, for people, by default the machine's. Raises ConnectError: zeroconf is not there, or
    nobody but this machine could reach that address.
    """
    library = _library()
    addresses = reachable(host)
    if not addresses:
        raise ConnectError(
            f"nobody else reaches {host}: there is nothing to announce",
            "listen on an address of the network, as in --listen *:7300",
            name=host,
        )
    machine = socket.gethostname().partition(".")[0] or "host"
    service = library.asyncio.AsyncServiceInfo(
        SERVICE,
        f"{name or machine}.{SERVICE}",
        port=port,
        parsed_addresses=[str(ip) for ip in addresses],
        server=f"{machine}.local.",
    )
    speaker = await _speaker(addresses)
    try:
        # Another host of that name is there already: this one gets a number behind it.
        await (await speaker.async_register_service(service, allow_name_change=True))
        yield service.name.removesuffix(f".{SERVICE}")
    finally:
        await (
            speaker.async_unregister_all_services()
        )  # says goodbye, so that nobody asks for a host that has gone
        await speaker.async_close()


async def _speaker(addresses: list[Address]) -> Any:
    """One that speaks on every interface. Raises ConnectError: there is none to speak on."""
    library = _library()
    try:
        return library.asyncio.AsyncZeroconf(ip_version=_version(addresses))
    except OSError as error:
        raise ConnectError(
            f"this machine cannot speak mDNS ({error})", "name the host's address", name=SERVICE
        ) from error


async def find(*, timeout: float = FIND_SECONDS) -> tuple[str, int]:
    """Address and port of the first host that answers. Raises ConnectError: none did within `timeout` s."""
    library = _library()
    listener = await _speaker(reachable("*"))
    found: asyncio.Queue[str] = asyncio.Queue()

    def heard(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        if state_change is not library.ServiceStateChange.Removed:
            found.put_nowait(name)

    browser = library.asyncio.AsyncServiceBrowser(listener.zeroconf, SERVICE, handlers=[heard])
    try:
        return await asyncio.wait_for(_first(listener, found), timeout)
    except asyncio.TimeoutError as error:
        raise ConnectError(
            "no host announces itself on this network",
            "start it with `kilofed run --listen *:7300 --announce`, or name its address",
            name=SERVICE,
        ) from error
    finally:
        await browser.async_cancel()
        await listener.async_close()


async def _first(listener: Any, found: asyncio.Queue[str]) -> tuple[str, int]:
    library = _library()
    while True:
        service = library.asyncio.AsyncServiceInfo(SERVICE, await found.get())
        if await service.async_request(listener.zeroconf, _ASK_MS):
            for address in service.parsed_scoped_addresses():
                return str(address), int(service.port)
