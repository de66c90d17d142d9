"""The network block: where the host is, for a device that reaches it over Ethernet or WiFi.

It is written beside the settings page when a device is flashed. 32 bytes, little endian, addresses as they
are written; `firmware/include/kilofed/network.h` is the other reader:

    0 u32 magic "KFN1" | 4 u16 version 1 | 6 u16 size 32 | 8 host[4] | 12 u16 port | 14 u16 0
    16 address[4] | 20 netmask[4] | 24 gateway[4] | 28 u32 CRC-32 of 0..27
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, NetmaskValueError

from kilofed.errors import BoardError

MAGIC = b"KFN1"
VERSION = 1
NETWORK_BYTES = 32
OFFSET = 256
"""Of the block, behind the settings page's address."""
NOWHERE = IPv4Address(0)
_LAYOUT = struct.Struct("<4sHH4sHH4s4s4s")


@dataclass(frozen=True)
class Network:
    """Where a device finds its host: an IPv4 address and a port.

    interface: the device's own address with its network, None: by DHCP. gateway: of a host on another
    network; of no use without an interface.
    """

    host: IPv4Address
    port: int
    interface: IPv4Interface | None = None
    gateway: IPv4Address | None = None

    def __post_init__(self) -> None:
        if self.host == NOWHERE or not 1 <= self.port <= 65535:
            raise BoardError(
                f"{self.host}:{self.port} is no address of a host",
                "give an IPv4 address and a port, as in 192.168.1.10:7300",
            )
        if self.interface is None and self.gateway is not None:
            raise BoardError(
                "a gateway without an address of the device's own", "give that too, or leave both to DHCP"
            )


def parse(host: str, *, address: str | None = None, gateway: str | None = None) -> Network:
    """The block of texts: "192.168.1.10:7300", "192.168.1.20/24", "192.168.1.1". Raises BoardError."""
    where, _, port = host.rpartition(":")
    try:
        if not port.isascii() or not port.isdigit():
            raise ValueError(f"{host!r} has no port")
        return Network(
            IPv4Address(where),
            int(port),
            None if address is None else IPv4Interface(address),
            None if gateway is None else IPv4Address(gateway),
        )
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise BoardError(
            f"no address for a device: {error}",
            "give the host as IPV4:PORT (devices look up no names), an own address as IPV4/BITS",
        ) from error


def encode(network: Network) -> bytes:
    """The block of `network`, 32 bytes."""
    own, mask = NOWHERE, NOWHERE
    if network.interface is not None:
        own, mask = network.interface.ip, network.interface.netmask
    head = _LAYOUT.pack(
        MAGIC, VERSION, NETWORK_BYTES, network.host.packed, network.port, 0,
        own.packed, mask.packed, (network.gateway or NOWHERE).packed,
    )  # fmt: skip
    return head + struct.pack("<I", zlib.crc32(head))


def decode(block: bytes) -> Network:
    """The network of a block (32 bytes or more). Raises BoardError for an erased or damaged one."""
    problem = ""
    if len(block) < NETWORK_BYTES or block[:4] != MAGIC:
        problem = "there is no network block"
    elif zlib.crc32(block[: NETWORK_BYTES - 4]) != struct.unpack_from("<I", block, NETWORK_BYTES - 4)[0]:
        problem = "the network block is damaged"
    else:
        _, version, size, host, port, _, own, mask, gateway = _LAYOUT.unpack_from(block)
        if (version, size) == (VERSION, NETWORK_BYTES):
            interface = IPv4Interface((own, str(IPv4Address(mask)))) if any(own) else None
            return Network(IPv4Address(host), port, interface, IPv4Address(gateway) if any(gateway) else None)
        problem = (
            f"the network block has version {version} and {size} bytes, not {VERSION} and {NETWORK_BYTES}"
        )
    raise BoardError(problem, "flash the board again: `kilofed flash --link ethernet` writes it")
