"""Tensors from bytes into arrays and back, for every face that speaks of raw tensors.

The bytes are those of the Open Inference Protocol: numbers little-endian, row by row, one after
another; a flag is a byte; a text is its length in four bytes and then its UTF-8. Numbers are read
in place. Every value is held to its field as one from JSON is, with two differences that lie in
the format: NaN can be sent, and is a missing number; a missing text cannot be sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core.errors import Invalid
from bascule.core.fields import DType, Field
from bascule.serving.json_values import (
    Place,
    check_known,
    check_largest,
    count_mismatch,
    known_numbers,
    not_a_category,
    wrong_value,
)

BinaryReader = Callable[[bytes, int, int, int, Place], NDArray[Any]]
"""From a buffer, the place of a tensor in it (start and bytes), the count of its values, and what
to call it, to a flat array of the program's type."""

_LENGTH_BYTES = 4
_dot = np.vdot  # the one product of numpy that does not warn when it overflows
_from_buffer = np.frombuffer


def binary_reader(field: Field, target: DType, sent: DType) -> BinaryReader:
    """A reader of the values of a field that are sent as `sent`, each value checked.

    `sent` is a type that the field takes: any number for a float, any whole number for a whole
    number, else the field's own.
    """
    if sent is DType.BYTES:
        return _texts(field)
    if sent is DType.BOOL:
        return _flags(field, target.numpy)
    if field.dtype.is_float:
        return _floats(field, target.numpy, sent)
    return _integers(field, target.numpy, sent)


def to_binary(array: NDArray[Any], dtype: DType) -> bytes | None:
    """The bytes of an array; None where there is a missing text, which has no bytes."""
    if dtype is not DType.BYTES:
        return array.astype(_stored(dtype), copy=False).tobytes()
    parts = []
    for value in array.ravel().tolist():
        if value is None:
            return None
        text = value if isinstance(value, bytes) else str(value).encode()
        parts.append(len(text).to_bytes(_LENGTH_BYTES, "little"))
        parts.append(text)
    return b"".join(parts)


def _stored(dtype: DType) -> np.dtype[Any]:
    return dtype.numpy.newbyteorder("<")


def _check_bytes(size: int, count: int, dtype: DType, where: Place) -> None:
    width = dtype.numpy.itemsize
    if size % width:
        raise Invalid(
            f"{where}: {size} bytes are no whole number of {dtype.value}, which takes {width} each",
            hint="send the bytes of the tensor as it is in memory, little-endian",
        )
    if size != count * width:
        raise count_mismatch(size // width, count, where)


def _floats(field: Field, target: np.dtype[Any], sent: DType) -> BinaryReader:
    stored = _stored(sent)
    largest = float(np.finfo(target).max)
    is_narrowed = sent.is_integer or stored.itemsize > target.itemsize
    # See json_values: one quick call says that every value is finite, and fits.
    bound = min(largest * largest, math.inf) if is_narrowed else math.inf
    known = known_numbers(field)
    widened: np.dtype[Any] | None = {DType.FP16: np.dtype(np.float32)}.get(sent)
    if sent.is_integer:
        widened = np.dtype(np.float64)

    def read(buffer: bytes, start: int, size: int, count: int, where: Place) -> NDArray[Any]:
        _check_bytes(size, count, sent, where)
        array: NDArray[Any] = _from_buffer(buffer, stored, count, start)
        if widened is not None:
            array = array.astype(widened)
        total = _dot(array, array)
        if not (total < bound or (total == bound and math.isfinite(bound))):
            _check_numbers(array, field, where)
            if is_narrowed:
                check_largest(array, largest, field, where)
        if known is not None:
            check_known(array, known, field, where)
        # A tensor that begins at an odd place is moved: not every program reads it there.
        return array.astype(target, copy=not array.flags.aligned)

    return read


def _check_numbers(array: NDArray[Any], field: Field, where: Place) -> None:
    strange = np.flatnonzero(np.isinf(array) if field.nullable else ~np.isfinite(array))
    if not len(strange):
        return
    place = int(strange[0])
    if np.isnan(array[place]):
        raise Invalid(
            f"{where.value(place)} is NaN, and the model does not take missing values there",
            hint="send a value",
        )
    raise Invalid(
        f"{where.value(place)} is infinite, where the model takes numbers",
        hint="send NaN for a missing number" if field.nullable else "send a finite number",
    )


def _integers(field: Field, target: np.dtype[Any], sent: DType) -> BinaryReader:
    stored = _stored(sent)
    takes, given = np.iinfo(field.dtype.numpy), np.iinfo(stored)
    least, most = int(takes.min), int(takes.max)
    always_fits = least <= int(given.min) and int(given.max) <= most
    known = known_numbers(field)

    def read(buffer: bytes, start: int, size: int, count: int, where: Place) -> NDArray[Any]:
        _check_bytes(size, count, sent, where)
        array: NDArray[Any] = _from_buffer(buffer, stored, count, start)
        if not always_fits and count and (int(array.min()) < least or int(array.max()) > most):
            place = next(i for i, value in enumerate(array.tolist()) if not least <= value <= most)
            raise wrong_value(int(array[place]), place, field, where)
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(target, copy=not array.flags.aligned)

    return read


def _flags(field: Field, target: np.dtype[Any]) -> BinaryReader:
    known = known_numbers(field)

    def read(buffer: bytes, start: int, size: int, count: int, where: Place) -> NDArray[Any]:
        _check_bytes(size, count, DType.BOOL, where)
        array: NDArray[Any] = _from_buffer(buffer, np.uint8, count, start)
        strange = np.flatnonzero(array > 1)
        if len(strange):
            place = int(strange[0])
            raise Invalid(
                f"{where.value(place)}: byte {array[place]}, where the model takes true or false",
                hint="send 1 for true and 0 for false",
            )
        array = array.view(np.bool_)
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(target, copy=False)

    return read


def _texts(field: Field) -> BinaryReader:
    allowed = None if field.categories is None else frozenset(field.categories)

    def read(buffer: bytes, start: int, size: int, count: int, where: Place) -> NDArray[Any]:
        end = start + size
        values: list[str] = []
        while start < end:
            place = len(values)
            if place == count:
                raise count_mismatch(place + 1, count, where)
            text_start = start + _LENGTH_BYTES
            start = text_start + int.from_bytes(buffer[start:text_start], "little")
            if start > end or text_start > end:
                raise Invalid(
                    f"{where.value(place)}: the text goes on after the end of the tensor",
                    hint="before each text goes its length in 4 bytes, little-endian",
                )
            try:
                text = buffer[text_start:start].decode()
            except UnicodeDecodeError:
                raise Invalid(f"{where.value(place)}: not UTF-8", hint="send text") from None
            if allowed is not None and text not in allowed:
                raise not_a_category(text, place, field, where)
            values.append(text)
        if len(values) != count:
            raise count_mismatch(len(values), count, where)
        array = np.empty(count, object)
        array[:] = values
        return array

    return read
