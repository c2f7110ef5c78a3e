"""The sockets that a server listens on: bound by the supervisor, accepted on by its workers."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bascule.core import BasculeError, Conflict, Invalid
from bascule.serving.transports import BACKLOG

_SO_ATTACH_FILTER = 26
_DROP_SYN = struct.pack(
    "HBBI" * 4,
    0x30, 0, 0, 13,  # load the byte of the flags of TCP
    0x45, 0, 1, 0x02,  # go on with the next if it has SYN, else with the one after it
    0x06, 0, 0, 0,  # drop
    0x06, 0, 0, 0xFFFF_FFFF,  # let in
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server listens.

    Attributes:
        host: A name or address of this machine.
        port: For predictions over HTTP; 0 takes a free one.
        grpc_port: For gRPC; None for none.
        unix_socket: A socket of the file system to listen on as well, not encrypted.
    """

    host: str
    port: int
    grpc_port: int | None = None
    unix_socket: Path | None = None


class Sockets:
    """The bound sockets of a server: one for each worker and port, and one of the file system."""

    def __init__(self, addresses: Addresses, workers: int) -> None:
        """Bind everything, or nothing.

        Raises:
            Conflict: A port is in use, or a server listens on the socket of the file system.
            Invalid: An address cannot be bound.
        """
        self._path = addresses.unix_socket
        self.grpc: list[socket.socket] = []
        self.unix: socket.socket | None = None
        self.http = bind(addresses.host, addresses.port, workers)
        try:
            if addresses.grpc_port is not None:
                self.grpc = bind(addresses.host, addresses.grpc_port, workers, option="--grpc-port")
            if self._path is not None:
                self.unix = bind_unix(self._path)
        except BasculeError:
            self.close()
            raise

    def of_worker(self, number: int) -> tuple[int, int | None, int | None]:
        """The descriptors that one worker inherits: for HTTP, gRPC and the file system."""
        return (
            self.http[number].fileno(),
            self.grpc[number].fileno() if self.grpc else None,
            None if self.unix is None else self.unix.fileno(),
        )

    def take_no_more(self) -> None:
        """New connections go to another server; those that wait are still accepted by workers."""
        for listener in (*self.http, *self.grpc):
            _take_no_more(listener)
        if self._path is not None:
            self._path.unlink(missing_ok=True)  # no new connection finds the path

    def close(self) -> None:
        """Close them here; workers have the sockets too, and close theirs when they end."""
        for listener in (*self.http, *self.grpc, *filter(None, [self.unix])):
            listener.close()


def bind(host: str, port: int, count: int, *, option: str = "--port") -> list[socket.socket]:
    """`count` listening sockets on one port; port 0 takes a free one.

    Args:
        host: A name or address of this machine.
        port: The port.
        count: How many sockets share it.
        option: What chooses the port on the command line, for the hint.

    Raises:
        Conflict: A process listens there already. SO_REUSEPORT alone would share the port with
            another server of the same user, without an error.
        Invalid: The address cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", error)
        raise Invalid(f"host {host!r} cannot be resolved: {reason}", hint="check --host") from None
    listeners: list[socket.socket] = []
    try:
        if port:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)  # and no more: to listen would let clients in, and reset them
        for _ in range(count):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            address = listener.getsockname()
    except OSError as error:
        for listener in listeners:
            listener.close()
        if error.errno in (98, 48):
            raise Conflict(
                f"port {port} on {host} is in use",
                hint=f"stop what listens there, or choose another with {option} "
                "(0 takes a free one)",
                port=port,
            ) from None
        raise Invalid(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listeners


def port_of(listeners: list[socket.socket]) -> int:
    """The port that they share."""
    port: int = listeners[0].getsockname()[1]
    return port


def bind_unix(path: Path) -> socket.socket:
    """A listening socket at a path of the file system, for the user and the group.

    Raises:
        Conflict: A server listens there.
        Invalid: The path cannot be bound, or something else is there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise Conflict(
                        f"a server listens on {path}",
                        hint="stop it, or choose another with --unix-socket",
                    )
            path.unlink()  # of a server that was killed
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Invalid(f"cannot listen on {path}: {error.strerror or error}") from None
    except BasculeError:
        listener.close()
        raise
    return listener


def _take_no_more(listener: socket.socket) -> None:
    """Have the kernel drop every attempt to connect from now on.

    Closing a listening socket resets the connections that wait to be accepted; with many clients
    one always waits. A client whose attempt is dropped tries again within a second, is refused, and
    knows that the server has begun none of its requests. One that the kernel has answered already
    takes itself for connected, and is let in.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(_DROP_SYN)
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(program)),
        )
