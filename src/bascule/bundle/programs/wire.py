"""Walks protocol buffers without a library.

A worker has to look into a graph before the runtime does, and stays small. Only what is walked
into is looked at; a tensor's numbers are stepped over. See "Encoding" of the Protocol Buffers
documentation: a message is a run of records, each a tag (field number and wire type) and a value.

`serving.codecs.protobuf` reads the messages of callers; it says why there are two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
RUN = 6
"""No wire type of the format: many records of one field, as they stand, tags and all."""

# A tree ensemble holds millions of numbers as single records, one tag each. These are runs of them:
# `floats` (field 7, four bytes each) and `ints` (field 8, a varint each) of an attribute.
_RUN_OF_FLOATS = re.compile(rb"(?:\x3d[\s\S]{4})*+")
_RUN_OF_INTS = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])*+")


class Damaged(ValueError):
    """The bytes are no protocol buffer."""


Record = tuple[int, int, int, int]
"""Field number, wire type, and either the number and 0, or where the bytes begin and end."""


def records(
    data: bytes, start: int, end: int, *, skip_numbers: bool = False, keep_runs: bool = False
) -> Iterator[Record]:
    """The records of the message between `start` and `end`.

    Args:
        data: All the bytes.
        start: Where the message begins.
        end: Where it ends.
        skip_numbers: Whether to step over runs of fields 7 and 8, which are the numbers of an
            attribute.
        keep_runs: Whether to hand on such a run as one record of the kind `RUN`.

    Raises:
        Damaged: It is no message.
    """
    at = start
    while at < end:
        if (skip_numbers or keep_runs) and data[at] in (0x3D, 0x40):
            run = _RUN_OF_FLOATS if data[at] == 0x3D else _RUN_OF_INTS
            match = run.match(data, at, end)
            if match is not None and match.end() > at:
                if keep_runs:
                    yield data[at] >> 3, RUN, at, match.end()
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


def integers(data: bytes, record: Record) -> NDArray[np.int64]:
    """The same for a record of millions, and for a run of records.

    Raises:
        Damaged: A number does not end.
    """
    _, kind, start, end = record
    if kind == VARINT:
        return np.array([signed(start)], np.int64)
    if start == end:
        return np.empty(0, np.int64)
    octets = np.frombuffer(data, np.uint8, end - start, start)
    ends = np.flatnonzero(octets < 0x80)
    if kind == RUN:  # a tag of one byte before each number
        begins, ends = ends[0::2] + 1, ends[1::2]
    else:
        begins = np.append(0, ends[:-1] + 1)
    if octets[-1] >= 0x80 or (ends - begins >= 10).any():
        raise Damaged(f"a number does not end before byte {end}")
    found = np.zeros(len(ends), np.uint64)
    for place in range(int((ends - begins).max()) + 1):
        there = begins + place <= ends
        part = (octets[begins[there] + place] & 0x7F).astype(np.uint64)
        found[there] |= part << np.uint64(7 * place)
    return found.view(np.int64)
