"""Rebuilds the container that a model was trained on, from the columns of a request.

A model that was trained on a table may depend on more than the values: on the type that pandas
gave a column, on its categories, on what stands for a missing text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import MANIFEST, shaped
from bascule.bundle.tables import BOOLEAN_OBJECTS, DATE_OBJECTS, Kind, is_missing
from bascule.core import Columns, Dates, Signature, Untrusted, moments_of

_TEXT_TYPES = ("str", "string", "object")
_DATE_TYPES = ("datetime64[", "timestamp[", "date32[", "date64[", *DATE_OBJECTS.values())
_KEPT = ("dtype", "categories", "ordered", "missing")
"""What a recipe says of a column, as `tables.Kind` has it."""
_WHOLE = re.compile(r"-?\d{1,18}")
_POLARS_TIME = re.compile(r"Datetime\(time_unit='(ms|us|ns)', time_zone=(?:None|'([^']+)')\)")


@dataclass(frozen=True, slots=True)
class Frame:
    """A recipe for a container.

    Attributes:
        container: `numpy`, `pandas` or `polars`; `texts` for one column that is handed over as
            a list; `dicts` for a list of rows, each without what is missing in it.
        kinds: What each column was, in order; empty for a matrix that had one input.
        dtype: For numpy: the type of the matrix.
        integer_names: For pandas: whether the columns are called by whole numbers.
    """

    container: str
    kinds: Mapping[str, Kind]
    dtype: str = "float64"
    integer_names: bool = False

    def build(self, columns: Columns, *, listed_only: bool = False) -> Any:
        """The container that holds these columns.

        Args:
            columns: In the signature's dtypes.
            listed_only: Whether a category that the training table does not list is missing; else
                it is a new category, as in an author's own table.
        """
        if self.container == "numpy":
            return self._matrix(columns)
        if self.container == "texts":
            (texts,) = columns.values()
            return texts
        if self.container == "dicts":
            return _records(columns)
        if self.container == "polars":
            import polars

            return polars.DataFrame(
                [_polars_series(name, columns[name], kind) for name, kind in self.kinds.items()]
            )
        import pandas

        arrays = (_pandas_column(columns[n], kind, listed_only) for n, kind in self.kinds.items())
        frame = pandas.DataFrame(dict(enumerate(arrays)))
        frame.columns = _pandas_names(tuple(self.kinds), self.integer_names)
        return frame

    def _matrix(self, columns: Columns) -> NDArray[Any]:
        (values,) = columns.values()
        wanted = np.dtype(self.dtype)
        if wanted.kind in "biu" and not _is_whole(values, wanted):
            return values
        return values.astype(wanted, copy=False)

    def fitting(self, signature: Signature) -> Frame:
        """Itself; raises `Untrusted` where it needs other columns than the model takes."""
        if self.kinds and set(self.kinds) != {field.name for field in signature.inputs}:
            raise Untrusted(
                "the manifest says of other columns how they were held than the model takes",
                file=MANIFEST,
            )
        return self

    def to_json(self) -> dict[str, Any]:
        return {
            "container": self.container,
            "dtype": self.dtype,
            "columns": [
                {"name": name, **{part: getattr(kind, part) for part in _KEPT}}
                for name, kind in self.kinds.items()
            ],
            **({"integer_names": True} if self.integer_names else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Frame:
        """What `to_json` wrote; raises `Untrusted` when a manifest holds something else."""
        known = shaped(
            value, _Recipe, MANIFEST, what="a manifest that says how the training table was held"
        )
        kinds = {
            column["name"]: Kind(
                column["dtype"],
                None if column["categories"] is None else tuple(column["categories"]),
                column["ordered"],
                column["missing"],
            )
            for column in known["columns"]
        }
        if len(kinds) != len(known["columns"]):
            raise Untrusted("the manifest says of one column twice how it was held", file=MANIFEST)
        integer_names = known.get("integer_names", False)
        if integer_names and not all(_WHOLE.fullmatch(name) for name in kinds):
            raise Untrusted("the manifest calls other columns than numbers by them", file=MANIFEST)
        return cls(known["container"], kinds, known["dtype"], integer_names)


class _Column(TypedDict):
    name: str
    dtype: str
    categories: list[str | int | float | bool] | None
    ordered: bool
    missing: str


class _Recipe(TypedDict):
    container: Literal["numpy", "pandas", "polars", "texts", "dicts"]
    dtype: str
    columns: list[_Column]
    integer_names: NotRequired[bool]
    numbers: NotRequired[list[int]]


def _records(columns: Columns) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {
            name: value
            for name, value in zip(columns, row, strict=True)
            if value is not None and value == value
        }
        for row in rows
    ]


def _is_whole(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether a whole type holds all values: no NaN, no parts of a number, none beyond its ends."""
    if values.dtype.kind != "f":
        return True
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    # As doubles: the largest of 64 bits is rounded up to one that is too large.
    inside = (values >= float(low)) & (values < float(high) + 1.0)
    return bool((inside & (values == np.floor(values))).all())


def _with_unseen(values: NDArray[Any], categories: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """The values with None for missing, and the categories with those after them that are new.

    An author's own table has them too, and what they mean is for the model to say.
    """
    listed = [None if value is None or value != value else value for value in values.tolist()]
    return listed, list(dict.fromkeys([*categories, *(one for one in listed if one is not None)]))


@lru_cache(maxsize=16)
def _pandas_names(names: tuple[str, ...], integers: bool) -> Any:
    """One index for all tables of a model: each new one hashes the names when it is first used."""
    import pandas

    return pandas.Index([int(name) for name in names] if integers else names)


@lru_cache(maxsize=16)
def _pandas_dtype(name: str) -> Any:
    """To read the name of a type of texts takes as long as to make an array of a hundred."""
    from pandas.api.types import pandas_dtype

    return pandas_dtype(name)


def _pandas_dates(texts: NDArray[Any], kind: Kind) -> Any:
    """Dates as the training table had them; those beyond nanoseconds are held in microseconds."""
    import pandas

    moments = moments_of(texts)
    if kind.dtype == DATE_OBJECTS[Dates.DAY]:
        moments = moments.astype("M8[D]")
    if kind.dtype in DATE_OBJECTS.values():
        objects = moments.astype(object)
        if kind.dtype == DATE_OBJECTS[Dates.INSTANT]:
            objects[:] = [one and one.replace(tzinfo=UTC) for one in objects]
        objects[is_missing(texts)] = _missing_of(kind)
        return pandas.Series(objects, dtype=object)
    if kind.dtype.endswith("[pyarrow]"):
        return pandas.array(moments, dtype=_pandas_dtype(kind.dtype))
    unit, _, zone = kind.dtype.partition("[")[2].removesuffix("]").partition(", ")
    index = pandas.DatetimeIndex(moments, tz="UTC" if zone else None)
    with suppress(pandas.errors.OutOfBoundsDatetime):
        index = index.as_unit(unit)
    return (index.tz_convert(zone) if zone else index).array


def _pandas_column(values: NDArray[Any], kind: Kind, listed_only: bool) -> Any:
    """An array; a Series, which takes five times as long to put into a table, only of objects."""
    import pandas

    if kind.dtype.startswith(_DATE_TYPES):
        return _pandas_dates(values, kind)
    if kind.categories is not None:
        listed, categories = _with_unseen(values, kind.categories)
        if listed_only:
            categories = list(kind.categories)
        return pandas.Categorical(listed, categories=categories, ordered=kind.ordered)
    if values.dtype.kind == "O":
        absent = is_missing(values)
        if absent.any() and kind.missing != "none":
            values = values.copy()
            values[absent] = _missing_of(kind)
        text = kind.dtype if kind.dtype.startswith(_TEXT_TYPES) else "object"
        if text == "str" and int(pandas.__version__.partition(".")[0]) < 3:
            text = "object"
        if text == "object":
            return pandas.Series(values, dtype=object)
        return pandas.array(values, dtype=_pandas_dtype(text))
    if kind.dtype == BOOLEAN_OBJECTS and _is_whole(values[~is_missing(values)], np.dtype(bool)):
        objects = values.astype(bool).astype(object)
        objects[is_missing(values)] = _missing_of(kind)
        return pandas.Series(objects, dtype=object)
    if kind.dtype in ("object", BOOLEAN_OBJECTS):
        objects = values.astype(object)
        objects[is_missing(values)] = _missing_of(kind)
        return pandas.Series(objects, dtype=object)
    if kind.dtype.startswith(_TEXT_TYPES):
        return values
    name = kind.dtype.partition("[")[0]
    if name == "boolean" and not _is_whole(values[~is_missing(values)], np.dtype(bool)):
        return values
    if name[0].isupper() or name == "boolean":
        return pandas.array(values.tolist(), dtype=name)
    if name[0] in "iub" and not _is_whole(values, np.dtype(name)):
        return values
    return values.astype(name, copy=False)


def _missing_of(kind: Kind) -> Any:
    import pandas

    return {"none": None, "nan": np.nan, "na": pandas.NA}[kind.missing]


def _polars_dates(name: str, texts: NDArray[Any], dtype: str) -> Any:
    import polars

    moments = polars.Series(name, moments_of(texts))
    if dtype == "Date":
        return moments.cast(polars.Date)
    unit: Any
    unit, zone = _POLARS_TIME.fullmatch(dtype).groups()  # type: ignore[union-attr]
    if zone is not None:
        moments = moments.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return moments.dt.cast_time_unit(unit)


def _polars_series(name: str, values: NDArray[Any], kind: Kind) -> Any:
    import polars

    if kind.dtype == "Date" or _POLARS_TIME.fullmatch(kind.dtype):
        return _polars_dates(name, values, kind.dtype)
    if kind.categories is not None:
        listed, categories = _with_unseen(values, kind.categories)
        return polars.Series(name, listed, dtype=polars.Enum(categories))
    if values.dtype.kind == "O":
        text: Any = polars.Categorical if kind.dtype == "Categorical" else polars.String
        return polars.Series(name, values.tolist(), dtype=text)
    listed = [None if value != value else value for value in values.tolist()]
    known_type: Any = getattr(polars, kind.dtype, None)
    there = values[~is_missing(values)]
    if (
        known_type is None
        or (known_type.is_float() and None not in listed)
        or (known_type.is_integer() and not _is_whole(there, np.dtype(kind.dtype.lower())))
    ):
        return polars.Series(name, values)
    if known_type.is_integer() or (kind.dtype == "Boolean" and _is_whole(there, np.dtype(bool))):
        plain = int if known_type.is_integer() else bool
        listed = [None if value is None else plain(value) for value in listed]
    return polars.Series(name, listed, dtype=known_type)
