"""The network block. What boards make of it is in tests/emulated/test_ethernet.py."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest

from kilofed.boards import Emulator, catalogue, load, settings
from kilofed.boards import network as networks
from kilofed.boards.flash import pages
from kilofed.boards.network import Network
from kilofed.boards.settings import Identity
from kilofed.errors import BoardError, CatalogueError, EmulatorError, FlashError

IDENTITY = Identity(b"12345678", bytes(range(32)), "hall")
HOST = IPv4Address("192.168.1.10")
WHOLE = [
    Network(HOST, 7300),
    Network(HOST, 1, IPv4Interface("192.168.1.20/24")),
    Network(IPv4Address("255.255.255.254"), 65535, IPv4Interface("10.1.2.3/9"), IPv4Address("10.0.0.1")),
]


@pytest.mark.parametrize("network", WHOLE, ids=str)
def test_a_block_comes_back(network: Network) -> None:
    block = networks.encode(network)
    assert len(block) == networks.NETWORK_BYTES
    assert networks.decode(block + b"more") == network


def test_a_block_to_the_byte() -> None:
    network = networks.parse("10.0.2.2:7300", address="10.0.2.99/24", gateway="10.0.2.1")
    assert networks.encode(network).hex(" ") == (
        "4b 46 4e 31 01 00 20 00 0a 00 02 02 84 1c 00 00 0a 00 02 63 ff ff ff 00 0a 00 02 01 37 ac 1e e8"
    )


@pytest.mark.parametrize("at", range(networks.NETWORK_BYTES))
def test_a_damaged_block_is_refused(at: int) -> None:
    block = bytearray(networks.encode(WHOLE[2]))
    block[at] ^= 0x10
    with pytest.raises(BoardError, match="flash the board again"):
        networks.decode(bytes(block))


@pytest.mark.parametrize("block", [b"", b"\xff" * 32, bytes(32)])
def test_no_block_is_none(block: bytes) -> None:
    with pytest.raises(BoardError, match="there is no network block"):
        networks.decode(block)


@pytest.mark.parametrize(
    "host",
    ["kitchen.local:7300", "192.168.1.10", "192.168.1.10:", "192.168.1.10:0", "192.168.1.10:65536",
     "0.0.0.0:1", "[::1]:7300", "192.168.1.10:\u0663"],
)  # fmt: skip
def test_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(BoardError):
        networks.parse(host)


@pytest.mark.parametrize(("address", "gateway"), [("10.0.0.1/33", None), ("ten", None), (None, "10.0.0.1")])
def test_what_is_no_own_address_is_refused(address: str | None, gateway: str | None) -> None:
    with pytest.raises(BoardError):
        networks.parse("10.0.2.2:7300", address=address, gateway=gateway)


def test_a_board_has_the_links_of_its_data_file() -> None:
    assert load("mps2-an386", link="ethernet").variant == "mps2-an386-ethernet"
    assert load("mps2-an386").variant == "mps2-an386"
    with pytest.raises(CatalogueError, match=r"use serial, or one of mps2-an385, "):
        load("microbit", link="ethernet")
    with pytest.raises(CatalogueError, match=r"use serial or ethernet$"):
        load("mps2-an386", link="pigeon")


def test_the_block_lies_beside_the_settings_page() -> None:
    board = load("mps2-an386", link="ethernet")
    page, block = pages(board, IDENTITY, WHOLE[0])
    assert (page.data, block.data) == (settings.encode(IDENTITY), networks.encode(WHOLE[0]))
    assert page.address + len(page.data) <= block.address == board.settings_address + networks.OFFSET
    assert board.flash.holds(block.address, len(block.data))


def test_a_host_is_told_to_boards_that_call_it_and_to_no_other() -> None:
    with pytest.raises(FlashError, match="must be told where its host is"):
        pages(load("mps2-an386", link="ethernet"), IDENTITY, None)
    with pytest.raises(FlashError, match="has no use for a host's address"):
        pages(load("mps2-an386"), IDENTITY, WHOLE[0])


def test_a_board_without_a_cable_has_none_to_pull(tmp_path) -> None:
    with (
        Emulator(catalogue.load("mps2-an386"), tmp_path) as emulated,
        pytest.raises(EmulatorError, match="has no cable"),
    ):
        emulated.cable(plugged=False)
