"""Walks protocol buffers without a library.

A worker has to look into a graph before the runtime does, and stays small. Only what is walked
into is looked at; a tensor's numbers are stepped over. See "Encoding" of the Protocol Buffers
documentation: a message is a run of records, each a tag (field number and wire type) and a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# A tree ensemble holds millions of numbers as single records, one tag each. These are runs of them:
# `floats` (field 7, four bytes each) and `ints` (field 8, a varint each) of an attribute.
_RUN_OF_FLOATS = re.compile(rb"(?:\x3d[\s\S]{4})*+")
_RUN_OF_INTS = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])*+")


class Damaged(ValueError):
    """The bytes are no protocol buffer."""


Record = tuple[int, int, int, int]
"""Field number, wire type, and either the number and 0, or where the bytes begin and end."""


def records(data: bytes, start: int, end: int, *, skip_numbers: bool = False) -> Iterator[Record]:
    """The records of the message between `start` and `end`.

    Args:
        data: All the bytes.
        start: Where the message begins.
        end: Where it ends.
        skip_numbers: Whether to step over runs of fields 7 and 8, which are the numbers of an
            attribute.

    Raises:
        Damaged: It is no message.
    """
    at = start
    while at < end:
        if skip_numbers and data[at] in (0x3D, 0x40):
            run = _RUN_OF_FLOATS if data[at] == 0x3D else _RUN_OF_INTS
            match = run.match(data, at, end)
            if match is not None and match.end() > at:
                at = match.end()
                continue
        tag, at = varint(data, at, end)
        field, kind = tag >> 3, tag & 7
        if field == 0 or field >= 1 << 29:
            raise Damaged(f"field {field} at byte {at}")
        if kind == VARINT:
            value, at = varint(data, at, end)
            yield field, kind, value, 0
            continue
        if kind == BYTES:
            length, at = varint(data, at, end)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise Damaged(f"wire type {kind} at byte {at}")
        if length > end - at:
            raise Damaged(f"a value runs over the end at byte {at}")
        yield field, kind, at, at + length
        at += length


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise Damaged(f"a number does not end at byte {at}")


def signed(value: int) -> int:
    """A varint as the signed number that it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def numbers(data: bytes, record: Record) -> list[int]:
    """The signed numbers of one record of a repeated integer field, packed or not."""
    _, kind, start, end = record
    if kind == VARINT:
        return [signed(start)]
    found = []
    at = start
    while at < end:
        value, at = varint(data, at, end)
        found.append(signed(value))
    return found
