"""What the operating system refused, said as every other error is: the thing, the cause, the next step."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

import click

from kilofed.errors import MachineError

_ANOTHER_PLACE = "name another place"
_ROOM = "make room there, or name another place"
_RIGHT = "get the right to use it, or name another place"
_OTHERS = "end other programs of this machine, and try again"

_NEXT = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.EROFS: _RIGHT,
    errno.EMFILE: "raise the limit of open files (ulimit -n), and try again",
    errno.ENFILE: _OTHERS,
    errno.ENOMEM: _OTHERS,
    errno.EAGAIN: _OTHERS,
}


def refused(error: OSError) -> MachineError:
    """The error of ours for one of the system that no module translated, which names what it can of it."""
    why = error.strerror or str(error) or type(error).__name__
    if _in_echo(error):
        drop_output()
        return MachineError(f"the output cannot be written ({why})", "make room there, or send it elsewhere")
    next_step = _NEXT.get(error.errno or 0, _ANOTHER_PLACE)
    if error.filename is None:
        if next_step is _ANOTHER_PLACE:
            next_step = "run it again with --debug, which shows at what"
        return MachineError(f"the system refuses: {why}", next_step)
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    return MachineError(f"{path} cannot be used ({why})", next_step, path=path)


def _in_echo(error: OSError) -> bool:
    """Whether it was raised while something was printed."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is click.echo.__code__


def drop_output() -> None:
    """From now on stdout leads nowhere, with what it holds: Python would try to write it again at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
