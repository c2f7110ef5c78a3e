"""Messages of AWS's event stream, as clients of SageMaker read answers in parts.

A message is its length and that of its headers, the CRC-32 of these eight bytes, the headers, the
payload, and the CRC-32 of all before it; numbers have four bytes, big-endian. A header is the
length of its name (one byte), the name, the type of its value (7: text), the length of the value
(two bytes), the value (smithy.io, "Amazon Event Stream Specification").
"""

from __future__ import annotations

import zlib

EVENT_STREAM_TYPE = b"application/vnd.amazon.eventstream"
_TEXT = 7
_AROUND_BYTES = 16  # the two lengths and the two checksums


def event_message(kind: str, name: str, content_type: str, payload: bytes) -> bytes:
    """One message; `kind` is `event` or `exception`."""
    headers = {":message-type": kind, f":{kind}-type": name, ":content-type": content_type}
    head = b"".join(
        b"%c%b%c%b%b"
        % (len(key), key.encode(), _TEXT, len(value).to_bytes(2, "big"), value.encode())
        for key, value in headers.items()
    )
    size = _AROUND_BYTES + len(head) + len(payload)
    lengths = size.to_bytes(4, "big") + len(head).to_bytes(4, "big")
    message = lengths + _checksum(lengths) + head + payload
    return message + _checksum(message)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")
