"""Arrays in numpy's own format (NPY), as SageMaker's `NumpySerializer` and `numpy.save` write them.

The rules:
- an array of Python objects is refused, because reading one runs pickle;
- the header is checked against the body before any memory is taken for the array;
- an array is never written with pickle, and texts are written as Unicode of one length.

The format is that of NEP 1. Versions 1.0 and 2.0 are read: 3.0 is for structured arrays alone.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from bascule.core import Invalid, ModelFailed

NPY_TYPE = b"application/x-npy"
_MAX_HEADER_BYTES = 4096
_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
_HINT = "send what numpy.save writes of one array of numbers"


def read_npy(body: bytes) -> NDArray[Any]:
    """The array of a body, which it shares memory with where its byte order is this machine's.

    Raises:
        Invalid: It is no NPY, its length is not that of its shape, or it has values other than
            numbers and truths.
    """
    file = io.BytesIO(body)
    try:
        reader = _READERS[npy_format.read_magic(file)]
        shape, is_fortran, dtype = reader(file, max_header_size=_MAX_HEADER_BYTES)
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError):
        raise Invalid("the body is not NPY of version 1.0 or 2.0", hint=_HINT) from None
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise Invalid(f"npy: values of {dtype.str!r}, where numbers are read", hint=_HINT)
    size, start = math.prod(shape) * dtype.itemsize, file.tell()
    if min(shape, default=0) < 0 or size != len(body) - start:
        raise Invalid(
            f"npy: {len(body) - start} bytes follow the header, whose shape makes {size}",
            hint=_HINT,
        )
    if not shape:
        raise Invalid("npy: an array without rows", hint="send the rows as the first dimension")
    array = np.frombuffer(body, dtype, offset=start)
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return np.ascontiguousarray(array, dtype.newbyteorder("="))


def write_npy(array: NDArray[Any]) -> bytes:
    """One output as NPY; raises `ModelFailed` for a missing text, which the format cannot have."""
    if array.dtype == object:
        if None in array.ravel().tolist():
            raise ModelFailed("the answer has a missing text, which NPY cannot carry")
        array = array.astype(np.str_)
    file = io.BytesIO()
    npy_format.write_array(file, array, allow_pickle=False)
    return file.getvalue()
