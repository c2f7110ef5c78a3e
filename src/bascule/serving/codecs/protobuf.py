"""The wire format of protocol buffers: what `protocols.oip_messages` reads and writes with.

By hand, for two reasons. Generated classes of the Open Inference Protocol register their names in
one table of the process, and so do those of every client library: two of them cannot be imported
together. And a request is a few names and one block of numbers, which numpy can read where it lies;
the general library would first copy it into objects. With that, a message like the last one of its
client is read in 4 us, where the first took 28 (docs/decisions/0004).

`bundle.programs.wire` is another reader: it steps over millions of numbers that stand one by one,
as graphs of trees have them, and refuses groups, which this one passes over as the library does.

What is malformed here is malformed there and the other way round, and so is what it means (a test
compares the two): unknown fields are passed over, a field of another wire type is unknown, the
last of several values wins, repeated numbers come packed or one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid, TooLarge
from bascule.serving.codecs.json_values import MAX_VALUES

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)
_MAX_VARINT = 10
_MAX_TAG = 2**32
_MAX_DEPTH = 100
MAX_FIELDS = 1 << 16
"""How many fields a message may have that is not a list of values."""
_LOW = 2**64 - 1


def malformed(what: str) -> Invalid:
    return Invalid(
        f"the message is not a protocol buffer that can be read: {what}",
        hint="generate the client from grpc_predict_v2.proto of the Open Inference Protocol",
    )


def _too_many(what: str) -> TooLarge:
    return TooLarge(
        f"the message has too many {what}", hint="send fewer rows, or raw_input_contents"
    )


# -- reading --


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that starts at `at`, and where it ends. Of 64 bits; more are cut off."""
    value = shift = 0
    for place in range(at, min(end, at + _MAX_VARINT)):
        octet = data[place]
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value & _LOW, place + 1
        shift += 7
    raise malformed("a number does not end")


def fields(
    data: bytes, at: int, end: int, most: int = MAX_FIELDS
) -> Iterator[tuple[int, int, int, int]]:
    """Every field between two places: `number << 3 | wire type`, a value, and its start and end.

    The value is that of a number (VARINT); of other types `data[start:end]` is.

    Raises:
        Invalid: What is there is no message.
        TooLarge: It has over `most` fields, of which each may take two bytes.
    """
    while at < end:
        most -= 1
        if most < 0:
            raise _too_many("fields in one message")
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, after = read_varint(data, at, end)
            if tag >= _MAX_TAG or after - at > 5:
                raise malformed("a field's number is too large")
            at = after
        if tag < 8:
            raise malformed("a field has the number 0")
        kind = tag & 7
        value = 0
        start = at
        if kind == BYTES:
            if at < end and data[at] < 0x80:
                length, start = data[at], at + 1
            else:
                length, start = read_varint(data, at, end)
            at = start + length
        elif kind == VARINT:
            value, at = read_varint(data, at, end)
        elif kind == FIXED64:
            at += 8
        elif kind == FIXED32:
            at += 4
        elif kind == GROUP:
            at = _end_of_group(data, at, end, tag >> 3)
        else:
            raise malformed(f"wire type {kind}")
        if at > end:
            raise malformed("it ends early")
        yield tag, value, start, at


def _end_of_group(data: bytes, at: int, end: int, number: int) -> int:
    """Where a group ends: an old form of a nested message, which Bascule skips."""
    opened = [number]
    while opened:
        if len(opened) >= _MAX_DEPTH:
            raise malformed("groups are nested too deeply")
        before = at
        tag, at = read_varint(data, at, end)
        if tag >= _MAX_TAG or at - before > 5 or tag < 8:
            raise malformed("a field's number is wrong")
        kind = tag & 7
        if kind == GROUP:
            opened.append(tag >> 3)
        elif kind == END_GROUP:
            if opened.pop() != tag >> 3:
                raise malformed("a group ends that is not open")
        elif kind == VARINT:
            _, at = read_varint(data, at, end)
        elif kind == BYTES:
            length, at = read_varint(data, at, end)
            at += length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise malformed(f"wire type {kind}")
        if at > end:
            raise malformed("it ends early")
    return at


def read_text(data: bytes, start: int, end: int) -> str:
    try:
        return data[start:end].decode()
    except UnicodeDecodeError:
        raise malformed("a text is not UTF-8") from None


def read_varints(data: bytes, start: int, end: int) -> NDArray[np.uint64]:
    """The numbers of a packed list, as their 64 bits."""
    octets = np.frombuffer(data, np.uint8, end - start, start)
    last = octets < 0x80
    if not len(octets):
        return np.empty(0, np.uint64)
    if not last[-1]:
        raise malformed("a number does not end")
    if np.count_nonzero(last) > MAX_VALUES:
        raise _too_many("numbers in a packed list")
    ends = np.flatnonzero(last)
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > _MAX_VARINT:
        raise malformed("a number does not end")
    values = (octets[starts] & 0x7F).astype(np.uint64)
    for place in range(1, longest):
        reaches = lengths > place
        more = (octets[starts[reaches] + place] & 0x7F).astype(np.uint64)
        values[reaches] |= more << np.uint64(7 * place)
    return values


# -- writing --


def varint(value: int) -> bytes:
    """A number; a negative one as its 64 bits."""
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= _LOW
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def block(number: int, content: bytes | str) -> bytes:
    """A field that is a text, bytes, a message, or a packed list."""
    if isinstance(content, str):
        content = content.encode()
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def double_field(number: int, value: float) -> bytes:
    return varint(number << 3 | FIXED64) + struct.pack("<d", value)


def packed_varints(values: NDArray[Any]) -> bytes:
    """The content of a packed list of whole numbers or truths."""
    numbers = values.astype(np.int64) if values.dtype.kind in "bi" else values
    if len(numbers) and numbers.max() < 0x80 and numbers.min() >= 0:
        return numbers.astype(np.uint8).tobytes()
    return b"".join(map(varint, numbers.tolist()))
