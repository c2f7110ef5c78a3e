"""Standard error: a terminal, a pipe, a file, or closed."""

from __future__ import annotations

import os
import socket
import stat
import sys


def write_without_waiting(data: bytes) -> bool:
    """Write to standard error what its reader takes now; what it does not take is lost.

    A pipe that is full or closed must not keep an event loop, nor a server from ending. Another
    description of the same pipe is used, because whether one blocks is shared with other processes.

    Returns:
        Whether standard error is of a kind that may block, and was written to.
    """
    try:
        descriptor = sys.stderr.fileno()
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(kind):
            with socket.socket(fileno=os.dup(descriptor)) as connected:
                connected.send(data, socket.MSG_DONTWAIT)
            return True
        if not stat.S_ISFIFO(kind) and not os.isatty(descriptor):
            return False
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        own = os.open(f"/proc/self/fd/{descriptor}", flags)
    except BlockingIOError:
        return True
    except (OSError, ValueError, AttributeError):
        return False
    try:
        while data:
            data = data[os.write(own, data) :]
    except OSError:
        pass
    finally:
        os.close(own)
    return True
