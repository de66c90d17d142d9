"""A systemd unit that runs kilofed-pi from every start of the machine to its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

UNIT = """\
[Unit]
Description=kilofed: this machine takes part in a federation
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command}
User={user}
# The host may be away for days: kilofed-pi waits for it by itself. What ends it is a fault, which may pass.
Restart=on-failure
RestartSec=30
# It reads its model, its samples and its key, and talks to one host.
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
{writable}RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictSUIDSGID=yes
Nice=10

[Install]
WantedBy=multi-user.target
"""


def unit(command: Sequence[str], *, user: str, writes: Path | None = None) -> str:
    """The text of the unit. command: the program and its arguments, all paths absolute. user: whose files
    those are. writes: the one folder that it must write, for a device that joins by a code.

    Raises ValueError for an argument with a line break or a null character, which no unit can hold.
    """
    writable = "" if writes is None else f"ReadWritePaths={_quoted(str(writes))}\n"
    return UNIT.format(command=" ".join(map(_quoted, command)), user=user, writable=writable)


def _quoted(argument: str) -> str:
    """An argument as systemd reads it (systemd.service(5), "Command lines"): no specifier, no variable."""
    if any(c in argument for c in "\n\r\0"):
        raise ValueError(f"{argument!r} cannot stand in a unit")
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = escaped and all(c.isalnum() or c in "-_./:=@,+%$" for c in escaped)
    return escaped if plain else f'"{escaped}"'
