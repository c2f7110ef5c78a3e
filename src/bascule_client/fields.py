"""Fields and signatures: the named, typed tensors that a model takes and returns.

Data types carry the names of the Open Inference Protocol v2 ("Tensor Data Types"), because every
protocol of the server has to speak of them and one vocabulary is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule_client.dates import Dates
from bascule_client.errors import Invalid

Columns = dict[str, NDArray[Any]]
"""Named arrays with the rows along the first axis, all of one length."""


class DType(StrEnum):
    """The type of a tensor's elements, by its Open Inference Protocol name."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type; text is an object array of `str`."""
        return _NUMPY[self]

    @property
    def is_float(self) -> bool:
        return self in (DType.FP16, DType.FP32, DType.FP64)

    @property
    def is_integer(self) -> bool:
        return self.value.startswith(("INT", "UINT"))

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> DType:
        """The type for a numpy dtype; text of any kind is BYTES. Raises `Invalid`."""
        if dtype.kind in "OUST":
            return cls.BYTES
        try:
            return _FROM_NUMPY[np.dtype(dtype.newbyteorder("="))]
        except KeyError:
            raise Invalid(
                f"numpy type {dtype} has no tensor type",
                hint="convert the column to numbers, booleans or text first",
            ) from None


_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.BOOL: np.dtype(np.bool_),
    DType.UINT8: np.dtype(np.uint8),
    DType.UINT16: np.dtype(np.uint16),
    DType.UINT32: np.dtype(np.uint32),
    DType.UINT64: np.dtype(np.uint64),
    DType.INT8: np.dtype(np.int8),
    DType.INT16: np.dtype(np.int16),
    DType.INT32: np.dtype(np.int32),
    DType.INT64: np.dtype(np.int64),
    DType.FP16: np.dtype(np.float16),
    DType.FP32: np.dtype(np.float32),
    DType.FP64: np.dtype(np.float64),
    DType.BYTES: np.dtype(object),
}
_FROM_NUMPY = {dtype: name for name, dtype in _NUMPY.items() if name is not DType.BYTES}


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of a model.

    Attributes:
        name: What requests call it.
        dtype: The type of its elements.
        shape: The shape of one row: `()` for a column, `(30,)` for a row of 30 numbers. -1 is a
            length that may vary.
        nullable: Whether a value may be missing. Missing is NaN in a float column and None in a
            text column; a nullable integer column is carried as FP64, as pandas does.
        categories: The only values allowed, where the model itself refuses every other one;
            None where it takes any.
        bounds: The least and the largest number that the model takes, where it refuses others,
            infinite ones among them; None where it takes any. A missing value is within them.
        booleans: Whether its numbers are 1 for true and 0 for false, because a value may be missing
            and BOOL has none for that. Requests may send `true` and `false`.
        dates: Of a column of texts: which dates or times they are, in ISO 8601; None for others.
        optional: Whether callers may leave it out, which is as if its values were missing. Only of
            inputs that a server completes from a feature store.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()
    nullable: bool = False
    categories: tuple[str | int, ...] | None = None
    bounds: tuple[int | float, int | float] | None = None
    booleans: bool = False
    dates: Dates | None = None
    optional: bool = False

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": self.name,
            "dtype": self.dtype.value,
            "shape": list(self.shape),
            "nullable": self.nullable,
        }
        if self.categories is not None:
            made["categories"] = list(self.categories)
        if self.bounds is not None:
            made["bounds"] = list(self.bounds)
        if self.booleans:
            made["booleans"] = True
        if self.dates is not None:
            made["dates"] = self.dates.value
        return made


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and returns.

    A model trained on a plain numeric matrix has one input of shape (columns,); one trained on a
    table has one input of shape () per column.

    Attributes:
        inputs: In the order of the training columns.
        outputs: The first one is the answer proper: the label of a classifier, the number of a
            regressor.
        columns: For a matrix, the names of its columns where they were known; else empty.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    columns: tuple[str, ...] = ()

    @property
    def is_matrix(self) -> bool:
        return len(self.inputs) == 1 and len(self.inputs[0].shape) == 1

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [field.to_json() for field in self.inputs],
            "outputs": [field.to_json() for field in self.outputs],
            "columns": list(self.columns),
        }
