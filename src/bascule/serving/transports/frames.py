"""The frames of HTTP/2 (RFC 9113), and the messages of gRPC inside them: bytes, and no state."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from urllib.parse import quote_from_bytes

from bascule.core import Invalid, TooLarge
from bascule.serving.codecs import inflated
from bascule.serving.transports.statuses import UNIMPLEMENTED, HttpError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

(
    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE,
    CONTINUATION,
) = range(10)  # fmt: skip
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

(
    NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED,
    FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM,
) = range(12)  # fmt: skip

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(
    1, 6
)
MAX_HEADER_LIST_SIZE = 6
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
LEAST_FRAME = 16_384
LARGEST_FRAME = 2**24 - 1

HEAD = struct.Struct(">HBBBI")
HEAD_BYTES = HEAD.size
_SETTING = struct.Struct(">HI")
_MAX_WORDS_BYTES = 1_024

ENCODINGS = (b"gzip", b"deflate")
"""How messages may be compressed, the better one first."""


class Broken(Exception):
    """The client broke the rules of the connection, which ends; `code` is HTTP/2's."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def unpadded(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Where what is padded starts and stops."""
    if start >= stop or start + 1 + data[start] > stop:
        raise Broken(PROTOCOL_ERROR, "more padding than frame")
    return start + 1, stop - data[start]


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    return list(_SETTING.iter_unpack(payload))


def number_frame(kind: int, stream: int, value: int) -> bytes:
    """A WINDOW_UPDATE or RST_STREAM."""
    return frame(kind, 0, stream, value.to_bytes(4))


def goaway(last_stream: int, code: int, words: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4) + code.to_bytes(4) + words.encode())


def header_block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as literals (RFC 7541, 6.2.2), which change no state on the other side."""
    return b"".join(b"\0" + _literal(name) + _literal(value) for name, value in headers)


def _literal(text: bytes) -> bytes:
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    made = bytearray((0x7F,))
    length -= 0x7F
    while length >= 0x80:
        made.append(length & 0x7F | 0x80)
        length >>= 7
    made.append(length)
    return bytes(made) + text


def words_of(message: str) -> bytes:
    """A sentence as `grpc-message` takes it: percent-encoded, and short enough for a header."""
    encoded = message.encode()[:_MAX_WORDS_BYTES]
    return quote_from_bytes(encoded, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~").encode()


_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_BAD_VALUE = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$")
_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_OF_CONNECTIONS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


def fault_of(headers: Iterable[tuple[bytes, bytes]], *, of_trailers: bool = False) -> str:
    """Why a list of headers is malformed (RFC 9113, 8.2 and 8.3); empty where it is not."""
    pseudo: dict[bytes, bytes] = {}
    is_regular = of_trailers
    for name, value in headers:
        if name[:1] == b":":
            if is_regular or name in pseudo or name not in _PSEUDO:
                return "a pseudo-header that is unknown, twice, or after others"
            pseudo[name] = value
        elif not _NAME.fullmatch(name):
            return "the name of a header is not in lower case, or has what no name has"
        elif name in _OF_CONNECTIONS or (name == b"te" and value.lower() != b"trailers"):
            return "a header that is of connections in HTTP/1.1"
        else:
            is_regular = True
        if _BAD_VALUE.search(value):
            return "the value of a header has what no value has"
    needed = _PSEUDO[:1] if pseudo.get(b":method") == b"CONNECT" else _PSEUDO[:3]
    if not of_trailers and not all(map(pseudo.get, needed)):
        return "a pseudo-header is missing"
    return ""


_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def timeout_s(text: bytes) -> float:
    """The seconds of a `grpc-timeout`; raises `Invalid`."""
    unit = _UNITS_S.get(text[-1:])
    if unit is None or not text[:-1].isdigit() or len(text) > 9:
        raise Invalid(
            "header grpc-timeout is not a whole number of up to 8 digits and a unit",
            hint="send for example grpc-timeout: 500m",
        )
    return int(text[:-1]) * unit


# -- messages --


def message_of(data: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """The only message in the data of a stream, as it was before it was compressed.

    Raises:
        Invalid: It is not exactly one message.
        TooLarge: It is over `max_bytes`.
        HttpError: It is compressed in a way that is not known here.
    """
    if len(data) < 5 or int.from_bytes(data[1:5]) != len(data) - 5:
        if len(data) >= 5 and int.from_bytes(data[1:5]) > max_bytes:
            raise _too_large(max_bytes)
        raise Invalid(
            "the request is not exactly one message", hint="the method takes one, and no stream"
        )
    if data[0] == 0:
        if len(data) - 5 > max_bytes:
            raise _too_large(max_bytes)
        return data[5:]
    return _decompressed(data, encoding, max_bytes)


def _decompressed(data: bytes, encoding: bytes, max_bytes: int) -> bytes:
    if data[0] != 1 or encoding in (b"", b"identity"):
        raise Invalid("the message is marked as compressed, and no grpc-encoding says how")
    if encoding not in ENCODINGS:
        raise HttpError(
            f"grpc-encoding {encoding.decode('latin-1')[:64]!r} is not supported",
            hint="use gzip, deflate or none",
            status=400,
            code=UNIMPLEMENTED,
        )
    try:
        return inflated(data[5:], 31 if encoding == b"gzip" else 15, max_bytes)
    except zlib.error:
        raise Invalid(f"the message is not {encoding.decode()}") from None
    except TooLarge:
        raise _too_large(max_bytes) from None
    except Invalid:
        raise Invalid(f"the message is not one whole {encoding.decode()} stream") from None


def beginning_of(data: bytes, encoding: bytes, size: int) -> bytes:
    """The first bytes of such a message, `size` at most; none where it cannot be read."""
    if data[:1] != b"\1":
        return data[5 : 5 + size]
    try:
        return zlib.decompressobj(31 if encoding == b"gzip" else 15).decompress(data[5:], size)
    except zlib.error:
        return b""


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the message is over {max_bytes} bytes",
        hint="send fewer rows a request",
        limit=max_bytes,
    )


def enclosed(message: bytes) -> bytes:
    """A message with its length before it."""
    return len(message).to_bytes(5) + message


def compressed(message: bytes, encoding: bytes) -> bytes:
    """The same, compressed."""
    writer = zlib.compressobj(1, wbits=31 if encoding == b"gzip" else 15)
    made = writer.compress(message) + writer.flush()
    return b"\1" + len(made).to_bytes(4) + made
