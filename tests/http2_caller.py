"""A gRPC client that knows nothing of retries, and notes every frame by which a server leaves.

grpcio hides a call that a server lost where it may make it again. This one makes each once, goes
on calling until it is told which stream is the last, and can say of each what became of it.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from pathlib import Path

import hpack

DATA, HEADERS, _, RST_STREAM, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE = range(9)
END_STREAM = ACK = 1
END_HEADERS = 4
NO_ERROR, REFUSED_STREAM = 0, 7
EVERY_STREAM = 2**31 - 1
DEPTH = 4
"""How many calls are under way at a time."""
_WAIT_S = 10.0
_WINDOW = 1 << 30
_FRAME_BYTES = 1 << 14


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


class Caller(threading.Thread):
    """Makes calls on one connection until the server has ended it.

    Attributes:
        statuses: The `grpc-status` of each stream that was answered to its end.
        refused: The streams that were reset as not taken.
        sent: Every stream that was begun, in order.
        last_unheard: The last stream that was on its way when the server was told that it is heard.
        goaways: The last stream and the code of each GOAWAY, in order.
        ending: "in order" or "reset".
        problem: What the server did that it must not do.
    """

    def __init__(self, port: int, path: str, message: bytes, authority: Path | None = None) -> None:
        super().__init__()
        self._socket: socket.socket = socket.create_connection(("127.0.0.1", port), _WAIT_S)
        if authority is not None:
            context = ssl.create_default_context(cafile=str(authority))
            context.set_alpn_protocols(["h2"])
            self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._path = path
        self._data = b"\0" + len(message).to_bytes(4) + message
        self.statuses: dict[int, str] = {}
        self.refused: set[int] = set()
        self.sent: list[int] = []
        self.last_unheard = 0
        self.goaways: list[tuple[int, int]] = []
        self.ending = ""
        self.problem: Exception | None = None

    @property
    def last(self) -> int:
        """The last stream that the server says it takes."""
        return self.goaways[-1][0]

    def run(self) -> None:
        try:
            # To have windows that never fill up.
            settings = struct.pack(">HI", 4, EVERY_STREAM)
            self._socket.sendall(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                + frame(SETTINGS, 0, 0, settings)
                + frame(WINDOW_UPDATE, 0, 0, _WINDOW.to_bytes(4))
                + b"".join(self._call() for _ in range(DEPTH))
            )
            self._read()
        except Exception as problem:
            self.problem = problem
        finally:
            self._socket.close()

    def _call(self) -> bytes:
        id_ = 2 * len(self.sent) + 1
        self.sent.append(id_)
        head = self._encoder.encode(
            [
                (":method", "POST"), (":scheme", "http"), (":path", self._path),
                (":authority", "localhost"), ("te", "trailers"),
                ("content-type", "application/grpc"),
            ]
        )  # fmt: skip
        starts = range(0, len(self._data), _FRAME_BYTES)
        pieces = [self._data[start : start + _FRAME_BYTES] for start in starts]
        return frame(HEADERS, END_HEADERS, id_, head) + b"".join(
            frame(DATA, END_STREAM if number == len(pieces) else 0, id_, piece)
            for number, piece in enumerate(pieces, 1)
        )

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                piece = self._socket.recv(1 << 16)
            except ConnectionResetError:
                self.ending = "reset"
                return
            if not piece:
                self.ending = "in order"
                return
            rest += piece
            answers = []
            while len(rest) >= 9 and len(rest) >= (stop := 9 + int.from_bytes(rest[:3])):
                kind, flags, id_ = struct.unpack_from(">BBI", rest, 3)
                answers.append(self._on_frame(kind, flags, id_, rest[9:stop]))
                rest = rest[stop:]
            if answer := b"".join(answers):
                self._socket.sendall(answer)

    def _on_frame(self, kind: int, flags: int, id_: int, payload: bytes) -> bytes:
        """What is said to it."""
        if kind == SETTINGS and not flags & ACK:
            return frame(SETTINGS, ACK, 0)
        if kind == PING and not flags & ACK:
            # grpcio writes the acknowledgement before calls that it has begun already.
            before, after = self._call(), self._call()
            self.last_unheard = self.sent[-1]
            return before + frame(PING, ACK, 0, payload) + after
        if kind == GOAWAY:
            self.goaways.append((int.from_bytes(payload[:4]), int.from_bytes(payload[4:8])))
        elif kind == RST_STREAM:
            assert int.from_bytes(payload) == REFUSED_STREAM, f"stream {id_} is reset"
            self.refused.add(id_)
        elif kind == HEADERS:
            headers = dict(self._decoder.decode(payload))
            if flags & END_STREAM:
                assert id_ not in self.statuses, f"stream {id_} is answered twice"
                self.statuses[id_] = headers["grpc-status"]
                if not self.goaways or self.last == EVERY_STREAM:
                    return self._call()
        return b""


def assert_lost_nothing(caller: Caller) -> None:
    """The server left in the two steps of RFC 9113, 6.8, and kept what it said in both."""
    assert caller.problem is None, caller.problem
    assert [last for last, _ in caller.goaways] == [EVERY_STREAM, caller.last]
    assert {code for _, code in caller.goaways} == {NO_ERROR}
    assert 0 < caller.last_unheard <= caller.last < EVERY_STREAM
    taken = [id_ for id_ in caller.sent if id_ <= caller.last]
    assert caller.statuses == dict.fromkeys(taken, "0")
    assert caller.refused <= set(caller.sent) - set(taken)
    assert caller.ending == "in order"
