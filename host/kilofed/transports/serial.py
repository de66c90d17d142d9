"""Serial lines through pyserial: real ports, pseudo terminals, and its URLs.

(``socket://HOST:PORT`` is an emulated board's.) Where pyserial gives a file descriptor (POSIX ports, ptys,
socket://) the event loop waits on it; elsewhere one thread a line reads and one writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import serial

from kilofed.link.errors import (
    ConnectError,
    PortBusy,
    PortDenied,
    PortNotFound,
    TransportClosed,
    TransportError,
)
from kilofed.transports.base import READ_BYTES, Transport

BAUD = 115200
_POLL_SECONDS = 0.2  # how often a reader thread looks whether it is to end


async def open_serial(url: str, baud: int = BAUD) -> Transport:
    """Opens a port by name ("/dev/ttyACM0", "COM3") or URL.

    baud: bits a second, without effect on USB-CDC and sockets. Raises PortNotFound, PortDenied, PortBusy,
    ConnectError (a URL nobody answers at) or TransportError.
    """
    try:
        port = await asyncio.get_running_loop().run_in_executor(None, _open, url, baud)
    except (serial.SerialException, OSError, ValueError) as error:
        raise opening_failed(url, error) from error
    fd = _fileno(port)
    return ThreadedSerial(url, port) if fd is None else FdSerial(url, port, fd)


def _open(url: str, baud: int) -> Any:
    # exclusive: two programs on one port would each get half of the bytes.
    exclusive = True if os.name == "posix" and "://" not in url else None
    return serial.serial_for_url(url, baud, timeout=_POLL_SECONDS, exclusive=exclusive)


def _fileno(port: Any) -> int | None:
    if os.name != "posix":
        return None
    try:
        fd = port.fileno()
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is both of the latter
        return None
    return fd if isinstance(fd, int) and fd >= 0 else None


def opening_failed(url: str, error: Exception) -> TransportError:
    """What opening `url` failed with, in the words of the link: the narrowest class that fits."""
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return PortDenied(f"{url} may not be opened by this user", denied_step(url), name=url)
    if number in (errno.EBUSY, errno.EAGAIN):
        return PortBusy(
            f"{url} is in use", "close the program that has it open (a serial monitor?)", name=url
        )
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR):
        return PortNotFound(
            f"there is no port {url}",
            "plug the board in; `kilofed devices --ports` lists what is there",
            name=url,
        )
    if isinstance(error, ValueError):
        return PortNotFound(
            f"{url} is no port ({error})", "give a port's name or socket://HOST:PORT", name=url
        )
    if "://" in url:
        return ConnectError(
            f"{url} cannot be opened ({error})", "check the address and the other end", name=url
        )
    return TransportError(f"{url} cannot be opened ({error})", "check the cable and the board", name=url)


def denied_step(url: str) -> str:
    """What a user does who may not open the port `url`: joins its group."""
    if os.name != "posix":
        return "run as a user that may"
    import grp  # POSIX only

    try:
        group = grp.getgrgid(Path(url).stat().st_gid).gr_name
    except (OSError, KeyError):
        group = "dialout"
    if group == "root":
        return "run as root, or give the port to a group of yours with a udev rule"
    return f"join its group (`sudo usermod -aG {group} $USER`) and log in again"


def _vanished(name: str, error: Exception | None) -> TransportClosed:
    detail = f" ({error})" if error is not None else ""
    return TransportClosed(
        f"{name} went away{detail}", "plug it in again, or restart what is behind it", name=name
    )


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class FdSerial(Transport):
    """A line with a non-blocking file descriptor, waited on by the event loop. Made by `open_serial`."""

    def __init__(self, name: str, port: Any, fd: int) -> None:
        self.name = name
        self._port = port
        self._fd = fd
        self._closed = False
        self._waiting: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)

    async def read(self) -> bytes:
        waited = False
        while not self._closed:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                data = b""
                waited = False
            except OSError as error:
                if self._closed:
                    break
                raise _vanished(self.name, error) from error
            if data:
                return data
            # Nothing to read is "" on a terminal; nothing although it was ready means that the other end
            # has gone.
            if waited:
                return b""
            await self._ready(self._loop.add_reader, self._loop.remove_reader)
            waited = True
        return b""

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._closed:
                raise _vanished(self.name, None)
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                raise _vanished(self.name, error) from error

    async def _ready(self, add: Callable[..., Any], remove: Callable[[int], bool]) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(future)
        try:
            add(self._fd, _resolve, future)
            await future
        finally:
            self._waiting.discard(future)
            if not self._closed:
                remove(self._fd)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        for future in self._waiting:
            _resolve(future)
        # pyserial forgets to close a socket whose other end has gone: it gives up when shutdown() fails.
        socket = getattr(self._port, "_socket", None)
        with contextlib.suppress(OSError, serial.SerialException):  # it went away first
            self._port.close()
        if socket is not None:
            socket.close()


class ThreadedSerial(Transport):
    """A line without a file descriptor: one thread reads when asked, one writes. Made by `open_serial`."""

    def __init__(self, name: str, port: Any) -> None:
        self.name = name
        self._port = port
        self._closed = False
        self._reader = ThreadPoolExecutor(1, "kilofed-read")
        self._writer = ThreadPoolExecutor(1, "kilofed-write")

    async def read(self) -> bytes:
        if self._closed:
            return b""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._read)

    def _read(self) -> bytes:
        while not self._closed:
            try:
                waiting = min(max(1, self._port.in_waiting), READ_BYTES)
                data = bytes(self._port.read(waiting))
            except (
                OSError,
                serial.SerialException,
                TypeError,
            ) as error:  # TypeError: closed while it was reading
                if self._closed:
                    break
                raise _vanished(self.name, error) from error
            if data:
                return data
        return b""

    async def write(self, data: bytes) -> None:
        if self._closed:
            raise _vanished(self.name, None)
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._port.write, data)
        except (OSError, serial.SerialException) as error:
            raise _vanished(self.name, error) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._reader.shutdown(wait=False)
        self._writer.shutdown(wait=False)
        await asyncio.get_running_loop().run_in_executor(None, self._close_port)

    def _close_port(self) -> None:
        with contextlib.suppress(OSError, serial.SerialException):  # it went away first
            self._port.close()
