"""Tensors from bytes into arrays and back, for every protocol that speaks of raw tensors.

The bytes are those of the Open Inference Protocol: numbers little-endian, row by row, one after
another; a flag is a byte; a text is its length in four bytes and then its UTF-8. Numbers are read
in place. Every value is checked against its field as a value from JSON is, so that all formats
accept and refuse the same rows, with two differences that lie in the format: NaN can be sent, and
is a missing number; a missing text cannot be sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType, Field, Invalid, TooLarge
from bascule.serving.codecs.json_values import (
    MAX_VALUES,
    Place,
    bounds_of,
    check_bounds,
    check_known,
    count_mismatch,
    infinite_value,
    known_numbers,
    missing_value,
    not_a_category,
    spelled_dates,
    square_below,
    whole_bounds_of,
    wrong_value,
)

RawReader = Callable[[bytes, int, int, int, Place], NDArray[Any]]
"""From a buffer, the place of a tensor in it (start and bytes), the count of its values, and what
to call it, to a flat array of the program's type."""

Taker = Callable[[Any, Place], NDArray[Any]]
"""From values in memory, numbers as a flat array of the type they are sent as, or a list of texts
as UTF-8, to a flat array of the program's type."""

_LENGTH_BYTES = 4
_dot = np.vdot  # the one product of numpy that does not warn when it overflows
_from_buffer = np.frombuffer


def raw_reader(field: Field, target: DType, sent: DType) -> RawReader:
    """A reader of the values of a field that are sent as `sent`, each value checked.

    `sent` is a type that the field takes: any number for a float, any whole number for a whole
    number, else the field's own.
    """
    take = taker(field, target, sent)
    if sent is DType.BYTES:
        return lambda buffer, start, size, count, where: take(
            _cut(buffer, start, start + size, count, where), where
        )
    stored = _stored(sent)
    width = stored.itemsize

    def read(buffer: bytes, start: int, size: int, count: int, where: Place) -> NDArray[Any]:
        if size != count * width:
            raise Invalid(
                f"{where}: {size} bytes, where the shape makes {count * width}",
                hint=f"{sent.value} takes {width} a value, little-endian; "
                "shape and data must agree",
            )
        array: NDArray[Any] = _from_buffer(buffer, stored, count, start)
        if not array.flags.aligned:
            # Not every program reads a tensor that begins at an odd place, and none does it fast.
            array = array.copy()
        return take(array, where)

    return read


def taker(field: Field, target: DType, sent: DType) -> Taker:
    """What `raw_reader` does with values once they are cut out of their bytes."""
    if sent is DType.BYTES:
        return _texts(field)
    if sent is DType.BOOL:
        return _flags(field, target.numpy)
    if not field.dtype.is_float:
        return _integers(field, target.numpy, sent)
    if sent.is_integer:
        return _floats_of_integers(field, target)
    return _floats(field, target, sent)


def raw_of(array: NDArray[Any], dtype: DType) -> bytes | None:
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


def _floats(field: Field, target: DType, sent: DType) -> Taker:
    dtype = target.numpy
    low, high = bounds_of(field, target)
    largest = min(-low, high)
    is_narrowed = sent.numpy.itemsize > dtype.itemsize or field.bounds is not None
    # See json_values: one quick call says that every value is finite, and fits.
    bound = square_below(largest) if is_narrowed else math.inf
    if is_narrowed and sent is not DType.FP64:
        bound = min(bound, float(np.finfo(np.float32).max))
    known = known_numbers(field)
    is_half = sent is DType.FP16  # of which the squares end at 65,504, and every call is slow

    def take(array: NDArray[Any], where: Place) -> NDArray[Any]:
        if is_half:
            array = array.astype(np.float32)
        if not _dot(array, array) < bound:
            _check_numbers(array, field, where)
            if is_narrowed:
                check_bounds(array, field, target, where)
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(dtype, copy=False)

    return take


def _check_numbers(array: NDArray[Any], field: Field, where: Place) -> None:
    strange = np.flatnonzero(np.isinf(array) if field.nullable else ~np.isfinite(array))
    if not len(strange):
        return
    place = int(strange[0])
    if np.isnan(array[place]):
        raise missing_value(place, where)
    raise infinite_value(place, field, where)


def _floats_of_integers(field: Field, target: DType) -> Taker:
    dtype = target.numpy
    always_fits = float(np.finfo(dtype).max) > 2.0**64 and field.bounds is None
    known = known_numbers(field)

    def take(array: NDArray[Any], where: Place) -> NDArray[Any]:
        if not always_fits:
            check_bounds(array.astype(np.float64), field, target, where)
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(dtype)

    return take


def _integers(field: Field, target: np.dtype[Any], sent: DType) -> Taker:
    given = np.iinfo(sent.numpy)
    least, most = whole_bounds_of(field)
    always_fits = least <= int(given.min) and int(given.max) <= most
    known = known_numbers(field)

    def take(array: NDArray[Any], where: Place) -> NDArray[Any]:
        if not always_fits and len(array) and (int(array.min()) < least or int(array.max()) > most):
            place = next(i for i, value in enumerate(array.tolist()) if not least <= value <= most)
            raise wrong_value(int(array[place]), place, field, where)
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(target, copy=False)

    return take


def _flags(field: Field, target: np.dtype[Any]) -> Taker:
    known = known_numbers(field)

    def take(array: NDArray[Any], where: Place) -> NDArray[Any]:
        octets = array.view(np.uint8)
        strange = np.flatnonzero(octets > 1)
        if len(strange):
            place = int(strange[0])
            raise Invalid(
                f"{where.value(place)}: byte {octets[place]}, where the model takes true or false",
                hint="send 1 for true and 0 for false",
            )
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(target, copy=False)

    return take


def _texts(field: Field) -> Taker:
    allowed = None if field.categories is None else frozenset(field.categories)

    def take(values: Sequence[bytes], where: Place) -> NDArray[Any]:
        try:
            texts = [value.decode() for value in values]
        except UnicodeDecodeError:
            place = next(i for i, value in enumerate(values) if not _is_text(value))
            raise Invalid(f"{where.value(place)}: not UTF-8", hint="send text") from None
        if allowed is not None and not allowed.issuperset(texts):
            place = next(i for i, text in enumerate(texts) if text not in allowed)
            raise not_a_category(texts[place], place, field, where)
        array = np.empty(len(texts), object)
        array[:] = texts if field.dates is None else spelled_dates(texts, field.dates, where)
        return array

    return take


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(buffer: bytes, start: int, end: int, count: int, where: Place) -> list[bytes]:
    """The `count` texts between two places, as bytes; raises `Invalid`."""
    if count > MAX_VALUES:
        raise TooLarge(
            f"{where}: {count} texts are over the limit of {MAX_VALUES}",
            hint="send fewer rows a request",
            limit=MAX_VALUES,
        )
    values: list[bytes] = []
    while start < end:
        text_start = start + _LENGTH_BYTES
        start = text_start + int.from_bytes(buffer[start:text_start], "little")
        if len(values) == count:
            raise count_mismatch(count + 1, count, where)
        if start > end or text_start > end:
            raise Invalid(
                f"{where.value(len(values))}: the text goes on after the end of the tensor",
                hint="before each text goes its length in 4 bytes, little-endian",
            )
        values.append(buffer[text_start:start])
    if len(values) != count:
        raise count_mismatch(len(values), count, where)
    return values
