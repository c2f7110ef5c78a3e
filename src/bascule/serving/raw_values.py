"""Numbers and texts that come as they lie in memory into arrays, for every face that takes those.

The checks are those of JSON (`json_values`), so that a row is taken or refused whatever carries
it: any numeric datatype for a numeric field where the values fit, no infinite numbers, NaN only
where a value may be missing, only the categories that the model knows.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
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
)

_dot = np.vdot
_LITTLE = {dtype: dtype.numpy.newbyteorder("<") for dtype in DType if dtype is not DType.BYTES}
_LENGTH = struct.Struct("<I")

Reader = Callable[[NDArray[Any], Place], NDArray[Any]]
"""From a flat array as it was sent to one of the type that the program reads, checked."""


def array_of(raw: bytes, dtype: DType, count: int, where: Place) -> NDArray[Any]:
    """The `count` values of a tensor, little-endian; text is a length of 4 bytes before each.

    Raises:
        Invalid: There are not as many bytes as the values take.
    """
    if dtype is DType.BYTES:
        return texts_of(_cut(raw, count, where), where)
    little = _LITTLE[dtype]
    if len(raw) != count * little.itemsize:
        raise Invalid(
            f"{where}: {len(raw)} bytes, where the shape makes {count * little.itemsize}",
            hint=f"{dtype} takes {little.itemsize} bytes a value; shape and data must agree",
        )
    return np.frombuffer(raw, little)


def _cut(raw: bytes, count: int, where: Place) -> list[bytes]:
    values: list[bytes] = []
    at = 0
    while at < len(raw) and len(values) <= count:
        end = at + 4
        if end <= len(raw):
            end += _LENGTH.unpack_from(raw, at)[0]
        if end > len(raw):
            raise Invalid(
                f"{where.value(len(values))}: a text ends after the data",
                hint="each is its length, 4 bytes little-endian, and then its UTF-8",
            )
        values.append(raw[at + 4 : end])
        at = end
    if len(values) != count:
        raise count_mismatch(len(values), count, where)
    return values


def texts_of(values: Sequence[bytes], where: Place) -> NDArray[Any]:
    """Texts from their UTF-8; raises `Invalid`."""
    made = np.empty(len(values), object)
    for place, value in enumerate(values):
        try:
            made[place] = value.decode()
        except UnicodeDecodeError:
            raise Invalid(f"{where.value(place)}: not UTF-8", hint="text is UTF-8") from None
    return made


def raw_of(array: NDArray[Any], dtype: DType) -> bytes:
    """The other way round: what `array_of` reads."""
    if dtype is DType.BYTES:
        texts = [text.encode() for text in array.ravel().tolist()]
        return b"".join([_LENGTH.pack(len(text)) + text for text in texts])
    return array.astype(_LITTLE[dtype], copy=False).tobytes()


def array_reader(field: Field, target: DType) -> Reader:
    """The reader of a field: `field` says what is allowed, `target` what the program takes."""
    if field.dtype.is_float:
        return _floats(field, target.numpy)
    if field.dtype.is_integer:
        return _integers(field, target.numpy)
    return _objects(field, target)


def _floats(field: Field, target: np.dtype[Any]) -> Reader:
    largest = float(np.finfo(target).max)
    known = known_numbers(field)
    nullable = field.nullable

    def read(array: NDArray[Any], where: Place) -> NDArray[Any]:
        if array.dtype.kind == "f":
            # One quick call that is finite only if every value is.
            if not math.isfinite(_dot(array, array)):
                _check_each(array, largest, field, where)
            elif array.dtype.itemsize > target.itemsize:
                check_largest(array.astype(np.float64), largest, field, where)
        elif target.itemsize < 4:
            check_largest(array.astype(np.float64), largest, field, where)
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(target, copy=False)

    def _check_each(array: NDArray[Any], largest: float, field: Field, where: Place) -> None:
        missing = np.isnan(array)
        if not nullable and missing.any():
            raise Invalid(
                f"{where.value(int(np.argmax(missing)))} is NaN, and the model does not take "
                "missing values there",
                hint="send a value",
            )
        check_largest(array.astype(np.float64), largest, field, where)

    return read


def _integers(field: Field, target: np.dtype[Any]) -> Reader:
    info = np.iinfo(field.dtype.numpy)
    own = field.dtype.numpy
    known = known_numbers(field)

    def read(array: NDArray[Any], where: Place) -> NDArray[Any]:
        if array.dtype != own and len(array):
            least, most = int(array.min()), int(array.max())
            if least < info.min or most > info.max:
                wrong = least if least < info.min else most
                place = int(np.argmax(array == wrong))
                raise Invalid(
                    f"{where.value(place)}: {wrong}, where the model takes whole numbers of "
                    f"{field.dtype.value}"
                )
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(target, copy=False)

    return read


def _objects(field: Field, target: DType) -> Reader:
    allowed = None if field.categories is None else frozenset(field.categories)

    def read(array: NDArray[Any], where: Place) -> NDArray[Any]:
        if array.dtype == bool:
            octets = array.view(np.uint8)
            if len(octets) and octets.max() > 1:
                place = int(np.argmax(octets > 1))
                raise Invalid(
                    f"{where.value(place)}: {octets[place]}, where the model takes true or false",
                    hint="send 1 or 0",
                )
        if allowed is not None:
            for place, value in enumerate(array.tolist()):
                if value not in allowed:
                    raise not_a_category(str(value), place, field, where)
        return array if target is DType.BYTES else array.astype(target.numpy, copy=False)

    return read
