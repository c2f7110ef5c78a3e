"""Any table or matrix, to the columns that a model takes.

pandas, polars, Arrow, dicts of columns and numpy matrices are told apart by how they behave, so
none of those libraries is imported here. A missing value is NaN in a number column and None in a
text column, whatever the source called it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule_client.dates import Dates, canonical_date, texts_of, texts_of_objects
from bascule_client.errors import BasculeWarning, Invalid
from bascule_client.fields import Columns, DType, Field, Signature

MATRIX = "input"
"""What the one input of a model that was trained on a matrix is called."""

TEXT = "text"
"""What the one input of a model that was trained on a list of texts is called."""

_CONVERT_FIRST = "convert it to numbers, booleans or text first"

BOOLEAN_OBJECTS = "object[bool]"
"""The kind of a pandas column of objects that are True, False and missing."""

_MAX_CELLS = 1 << 26
"""Of a sparse matrix: half a gigabyte of doubles."""

DATE_OBJECTS = {
    Dates.DAY: "object[day]",
    Dates.LOCAL: "object[local]",
    Dates.INSTANT: "object[UTC]",
}
"""The kinds of a pandas column of objects that are Python's dates, times, and times in UTC."""

FIRST_SHARED = 2**53
"""The first whole number whose double also stands for another one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a column was in its source.

    Attributes:
        dtype: The source's own name of the type.
        categories: The values of a categorical type, in its order.
        ordered: Whether that order has a meaning.
        missing: What a missing text was: `nan`, `none` or `na`.
        is_mixed: Whether more than one of None, NaN and NA stood for a missing text.
        booleans: Whether its numbers were booleans, of which some are missing.
        dates: Which dates or times its texts were; None for all else.
    """

    dtype: str
    categories: tuple[Any, ...] | None = None
    ordered: bool = False
    missing: str = "nan"
    is_mixed: bool = False
    booleans: bool = False
    dates: Dates | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and what they were before.

    Attributes:
        columns: Arrays of one length; a matrix is one column called `input` of two axes.
        source: `pandas`, `polars`, `arrow`, `dict` or `numpy`; `texts` for a plain list of them.
        kinds: What each column was in its source; empty for a matrix.
        integer_names: Whether the source called its columns by whole numbers; here they are texts.
    """

    columns: Columns
    source: str
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    integer_names: bool = False

    @property
    def is_matrix(self) -> bool:
        return not self.kinds

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))


_MISSING_WORDS = {"nan": "float('nan')", "none": "None", "na": "pandas.NA"}
_MISSING_TYPES = {"NoneType": "none", "float": "nan", "NAType": "na", "NaTType": "nan"}


def read_table(data: Any) -> Table:
    """Read anything that holds rows and columns.

    Raises:
        Invalid: It is not a table or matrix, its columns differ in length, or a column (named in
            the message) holds what no model input can.
    """
    if type(data) is np.ndarray and data.dtype.kind in "biuf":
        return Table({MATRIX: data}, "numpy")
    source = _source_of(data)
    if source == "numpy" and (texts := _texts(data)) is not None:
        name = getattr(data, "name", None)
        name = name if isinstance(name, str) and name else TEXT
        return Table({name: texts}, "texts", {name: Kind("object", missing="none")})
    if source == "numpy":
        return Table({MATRIX: _matrix(data)}, "numpy")
    names, series = _split(data, source)
    integer_names = bool(names) and all(_is_integer(name) for name in names)
    names = [str(name) for name in names] if integer_names else names
    columns: Columns = {}
    kinds: dict[str, Kind] = {}
    for name, column in zip(names, series, strict=True):
        if not isinstance(name, str):
            raise Invalid(
                f"column name {name!r} is not text", hint="rename the columns of the table to text"
            )
        if name in columns:
            raise Invalid(
                f"the table has two columns called {name!r}",
                hint="rename one of them, or leave it out",
                field=name,
            )
        columns[name], kinds[name] = _COLUMN_READERS[source](column, name)
    if not columns:
        raise Invalid("the table has no columns")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise Invalid(f"the columns of the table differ in length: {sorted(lengths)}")
    return Table(columns, source, kinds, integer_names)


def _is_integer(name: Any) -> bool:
    return isinstance(name, int | np.integer) and not isinstance(name, bool)


def conform(
    data: Any, signature: Signature, missing_texts: Mapping[str, str] | None = None
) -> Columns:
    """The columns that the signature names, in its dtypes, from any table or matrix.

    Columns that the signature does not name are left out. For a matrix model, a table's columns
    are taken by name where the signature knows the names, else in their order.

    Args:
        data: The rows.
        signature: What the model takes.
        missing_texts: By column: what a missing text was in the training table: `nan`, `none` or
            `na`. To scikit-learn those are different values. Asked of a pandas table alone, in
            which the model itself could have been asked.

    Raises:
        Invalid: A column is missing, has the wrong type or shape, lacks values that the model
            needs, or holds a category that the model refuses. The message names the column.
    """
    table = read_table(data)
    for wanted in signature.inputs:
        _check_dates(table, wanted)
    if missing_texts and table.source == "pandas":
        _check_missing_texts(table, missing_texts)
    columns = _to_matrix(table, signature) if signature.is_matrix else _to_named(table, signature)
    if not len(next(iter(columns.values()))):
        raise Invalid("there are no rows to predict")
    rows = len(next(iter(columns.values())))
    return {
        wanted.name: _conform(columns[wanted.name], wanted)
        if wanted.name in columns
        else missing(wanted, rows)
        for wanted in signature.inputs
    }


def read_truth(truth: Any, names: Sequence[str] = ()) -> NDArray[Any]:
    """What was true, as an array: (rows,), or (rows, targets) of a table or a dict of columns.

    Of a table or a structured array that has all of `names`, these are the columns.
    """
    held = getattr(truth, "column_names", getattr(truth, "columns", truth))
    held = getattr(getattr(truth, "dtype", None), "names", None) or held
    if names and isinstance(held, Iterable) and set(names) <= set(map(str, held)):
        truth = {name: truth[name] for name in names}
    if isinstance(truth, Mapping):
        columns = [np.asarray(column) for column in truth.values()]
        kinds = {column.dtype.kind for column in columns}
        return np.column_stack([c if len(kinds) == 1 else c.astype(object) for c in columns])
    return np.asarray(truth.to_numpy() if hasattr(truth, "to_numpy") else truth)


def for_program(columns: Columns, inputs: Sequence[Field]) -> Columns:
    """Columns in a signature's dtypes, in the dtypes that a program reads."""
    return {wanted.name: as_dtype(columns[wanted.name], wanted.dtype) for wanted in inputs}


def as_dtype(values: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """`values` in `dtype`. What is too large for FP32 becomes infinite, as in any cast."""
    if values.dtype == dtype.numpy:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype.numpy)


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value is missing: NaN among numbers, None among texts."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    if values.dtype.kind == "O":
        flags = np.fromiter((value is None for value in values.ravel()), bool, values.size)
        return np.asarray(flags.reshape(values.shape))
    return np.zeros(values.shape, bool)


def missing(field: Field, rows: int) -> NDArray[Any]:
    """The values of an input that is left out."""
    return np.full(rows, None if field.dtype is DType.BYTES else np.nan, field.dtype.numpy)


def take(columns: Columns, rows: Any) -> Columns:
    """Some rows of every column."""
    return {name: column[rows] for name, column in columns.items()}


def take_rows(data: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows of a container that `read_table` reads, in a container of the same kind."""
    if isinstance(data, Mapping):
        return {name: take_rows(column, rows) for name, column in data.items()}
    if hasattr(data, "iloc"):
        return data.iloc[rows]
    if hasattr(data, "column_names"):
        return data.take(rows)
    if hasattr(data, "tocsr"):
        return data.tocsr()[rows]
    if isinstance(data, list | tuple):
        return [data[row] for row in rows.tolist()]
    return data[rows]


def are_wide(values: NDArray[Any]) -> bool:
    """Whether there are whole numbers that a double cannot tell from their neighbours."""
    if values.dtype.kind not in "iu" or not values.size:
        return False
    return int(values.max()) >= FIRST_SHARED or int(values.min()) <= -FIRST_SHARED


def recombined(columns: Columns, rows: int) -> Columns:
    """Rows put together from the values of real ones, each column on its own: all different.

    The same ones every time.
    """
    random = np.random.default_rng(0)
    return {
        name: np.take_along_axis(
            values, random.integers(0, len(values), (rows, *values.shape[1:])), axis=0
        )
        for name, values in columns.items()
    }


def _source_of(data: Any) -> str:
    home = type(data).__module__.partition(".")[0]
    if home in ("pandas", "polars") and hasattr(type(data), "columns"):
        return home
    if home == "pyarrow" and hasattr(data, "column_names"):
        return "arrow"
    if isinstance(data, Mapping) or _are_records(data):
        return "dict"
    if hasattr(data, "tocsr"):
        return "numpy"
    if isinstance(data, np.ndarray | list | tuple):
        return "numpy"
    if hasattr(data, "to_frame") or (hasattr(data, "__array__") and not hasattr(data, "columns")):
        return "numpy"
    raise Invalid(
        f"{type(data).__module__}.{type(data).__qualname__} is not a table or matrix",
        hint="pass a pandas or polars DataFrame, an Arrow table, a dict of columns, a list of "
        "dicts or a numpy matrix",
    )


def _texts(data: Any) -> NDArray[Any] | None:
    """A list, array or series of texts, some of which may be missing; None for anything else."""
    if hasattr(data, "to_list") and hasattr(data, "dtype"):
        values = data.to_list()
    elif isinstance(data, np.ndarray):
        if data.ndim != 1 or data.dtype.kind not in "OUST":
            return None
        values = data.tolist()
    else:
        values = data
    if not isinstance(values, list | tuple) or not any(isinstance(one, str) for one in values):
        return None
    made = np.empty(len(values), object)
    for row, one in enumerate(values):
        if not isinstance(one, str) and one is not None and one == one:
            return None
        made[row] = one if isinstance(one, str) else None
    return made


def _are_records(data: Any) -> bool:
    """Whether it is a list of rows, each a dict."""
    return isinstance(data, list | tuple) and bool(data) and isinstance(data[0], Mapping)


def _columns_of(records: Sequence[Any]) -> dict[str, list[Any]]:
    """The columns of a list of dicts; what a row does not name is missing in it."""
    names: dict[str, None] = {}
    for place, row in enumerate(records):
        if not isinstance(row, Mapping):
            raise Invalid(
                f"row {place} is a {type(row).__name__}, and row 0 is a dict",
                hint="pass a list of dicts, one a row",
            )
        names.update(dict.fromkeys(row))
    return {name: [row.get(name) for row in records] for name in names}


def _is_one_value(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes | bool | int | float | np.generic)


def _split(data: Any, source: str) -> tuple[list[Any], list[Any]]:
    if source == "dict":
        if _are_records(data):
            data = _columns_of(data)
        elif data and all(map(_is_one_value, data.values())):  # one row
            data = {name: [value] for name, value in data.items()}
        return list(data), list(data.values())
    if source == "pandas":
        dtypes = set(data.dtypes)
        if len(dtypes) == 1 and isinstance(one := dtypes.pop(), np.dtype) and one.kind in "biuf":
            return list(data.columns), list(data.to_numpy().T)
        return list(data.columns), [column for _, column in data.items()]
    if source == "polars":
        collected = data.collect() if hasattr(data, "collect") else data
        return list(collected.columns), collected.get_columns()
    return list(data.column_names), list(data.columns)


def _matrix(data: Any) -> NDArray[Any]:
    if hasattr(data, "tocsr"):
        return _filled(data)
    try:
        values = np.asarray(_off_device(data))
    except ValueError:
        raise Invalid("the rows of the matrix differ in length") from None
    if values.dtype.kind == "O":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            raise Invalid(
                "the matrix holds values that are not numbers",
                hint="pass a table (a DataFrame or a dict of columns) for text",
            ) from None
    if values.dtype.kind not in "biuf":
        raise Invalid(
            f"the matrix holds {values.dtype}, not numbers",
            hint="pass a table (a DataFrame or a dict of columns) for text",
        )
    return values


def _filled(sparse: Any) -> NDArray[Any]:
    """A sparse matrix with its zeros."""
    cells = int(np.prod(sparse.shape))
    if cells > _MAX_CELLS:
        raise Invalid(
            f"the sparse matrix has {sparse.shape[0]:,} x {sparse.shape[1]:,} cells, and it is "
            f"filled up to {_MAX_CELLS:,} of them",
            hint="pass fewer rows, X[:1000]; or fit a pipeline that begins with the step that made "
            "the matrix, and pass its input",
        )
    return np.asarray(sparse.toarray())


def _off_device(data: Any) -> Any:
    """A tensor of PyTorch as one that numpy can read; all else as it is."""
    return data.detach().cpu() if hasattr(data, "detach") else data


def _read_pandas(series: Any, name: str) -> tuple[NDArray[Any], Kind]:
    """A column, which is an array already where all of its table are numbers of one type."""
    dtype = series.dtype
    if hasattr(dtype, "categories"):
        categories = np.asarray(dtype.categories)
        if categories.dtype.kind not in "biufOUST":
            raise _no_such_input(name, f"category of {categories.dtype}")
        codes = np.asarray(series.cat.codes)
        kind = Kind("category", tuple(_plain(c) for c in categories), ordered=bool(dtype.ordered))
        return _from_codes(categories, codes, name), kind
    kind_letter = getattr(dtype, "kind", "O")
    if kind_letter in "biuf":
        if isinstance(dtype, np.dtype):
            return np.asarray(series), Kind(str(dtype))
        if series.isna().any():
            kind = Kind(str(dtype), booleans=kind_letter == "b")
            return series.to_numpy(dtype=np.float64, na_value=np.nan), kind
        return series.to_numpy(dtype=np.dtype(f"{kind_letter}{dtype.itemsize}")), Kind(str(dtype))
    if kind_letter == "M":
        label = str(dtype)
        zone = getattr(dtype, "tz", None) is not None or "tz=" in label
        if label.startswith("date32"):  # which pandas does not turn into an array of days
            days = series.to_numpy(dtype=object, na_value=None).tolist()
            return texts_of_objects(days, Dates.DAY), Kind(label, dates=Dates.DAY)
        dates = Dates.INSTANT if zone else Dates.LOCAL
        return _read_dates(series.to_numpy(dtype="M8[us]", na_value=_NAT), name, label, dates)
    if kind_letter not in "OUST" or str(dtype).startswith(("period", "interval", "sparse")):
        raise _no_such_input(name, str(dtype))
    raw = series.to_numpy(dtype=object)
    if (read := _read_date_objects(raw, name)) is not None:
        return read
    values = _from_objects(raw, name)
    absent = {type(value) for value in raw[is_missing(values)].tolist()}
    missing_as = next((_MISSING_TYPES[one.__name__] for one in absent), "nan")
    booleans = _are_booleans(raw, values)
    name_of_type = BOOLEAN_OBJECTS if booleans else str(dtype)
    is_mixed = len(absent) > 1
    return values, Kind(name_of_type, missing=missing_as, is_mixed=is_mixed, booleans=booleans)


def _read_polars(series: Any, name: str) -> tuple[NDArray[Any], Kind]:
    dtype = series.dtype
    label = str(dtype.base_type()) if hasattr(dtype, "base_type") else str(dtype)
    if label in ("Categorical", "Enum"):
        # Only an Enum is closed; a Categorical is text that is stored once.
        categories = tuple(dtype.categories.to_list()) if label == "Enum" else None
        return _from_objects(series.to_list(), name), Kind(label, categories, missing="none")
    if label in ("String", "Utf8", "Null"):
        return _from_objects(series.to_list(), name), Kind("String", missing="none")
    if label in ("Date", "Datetime"):
        zone = getattr(dtype, "time_zone", None)
        dates = Dates.DAY if label == "Date" else Dates.INSTANT if zone else Dates.LOCAL
        return _read_dates(series.to_numpy(), name, str(dtype), dates)
    if not (dtype.is_numeric() or label == "Boolean") or label == "Decimal":
        raise _no_such_input(name, str(dtype))
    if series.null_count():
        return np.asarray(
            [np.nan if value is None else value for value in series.to_list()], np.float64
        ), Kind(label, booleans=label == "Boolean")
    return np.asarray(series.to_numpy()), Kind(label)


def _read_arrow(column: Any, name: str) -> tuple[NDArray[Any], Kind]:
    if hasattr(column.type, "value_type") and hasattr(column.type, "index_type"):
        return _read_arrow(column.cast(column.type.value_type), name)
    label = str(column.type)
    if label == "null":
        return _from_objects(column.to_pylist(), name), Kind("object")
    if label in ("string", "large_string", "string_view"):
        texts = column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(False)
        return np.asarray(texts, object), Kind("object")
    if label.startswith(("timestamp", "date")):
        moments = column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(False)
        return _read_dates(moments, name, *_arrow_dates(label))
    if label != "bool" and not label.startswith(("int", "uint", "float", "double", "halffloat")):
        raise _no_such_input(name, label)
    if column.null_count:  # NaN among doubles
        column = column.cast("double", safe=False)
    values = column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(False)
    return values, Kind(str(values.dtype), booleans=label == "bool" and values.dtype.kind == "f")


def _arrow_dates(label: str) -> tuple[str, Dates]:
    """The kind that pandas gives to an Arrow type of dates, and what it holds."""
    unit, _, zone = label.partition("[")[2].removesuffix("]").partition(", tz=")
    if label.startswith("date32"):
        return DATE_OBJECTS[Dates.DAY], Dates.DAY
    if label.startswith("date64"):
        return "datetime64[ms]", Dates.DAY
    if zone:
        return f"datetime64[{unit}, {zone}]", Dates.INSTANT
    return f"datetime64[{unit}]", Dates.LOCAL


def _read_dates(
    moments: NDArray[Any], name: str, kind: str, dates: Dates
) -> tuple[NDArray[Any], Kind]:
    """Moments, those of an instant in UTC, as texts."""
    try:
        return texts_of(moments, dates), Kind(kind, dates=dates)
    except ValueError as problem:
        raise Invalid(f"column {name!r}: {problem}", field=name) from None


def _read_date_objects(raw: Any, name: str) -> tuple[NDArray[Any], Kind] | None:
    """A column of Python's dates or times; None for all else, and where they are mixed."""
    moments = [None if value is None or value is _pandas_na(value) else value for value in raw]
    moments = [None if moment != moment else moment for moment in moments]
    present = [moment for moment in moments if moment is not None]
    if not present or not all(isinstance(moment, date) for moment in present):
        return None
    kinds = {_dates_of(moment, name) for moment in present}
    if len(kinds) > 1:
        return None
    dates = kinds.pop()
    absent = {type(value) for value, moment in zip(raw, moments, strict=True) if moment is None}
    missing = next((_MISSING_TYPES.get(kind.__name__, "nan") for kind in absent), "none")
    return texts_of_objects(moments, dates), Kind(DATE_OBJECTS[dates], missing=missing, dates=dates)


def _dates_of(moment: date, name: str) -> Dates:
    if not isinstance(moment, datetime):
        return Dates.DAY
    offset = moment.utcoffset()
    if offset not in (None, timedelta(0)):
        raise Invalid(
            f"column {name!r} holds Python objects of times with the offset {offset} from UTC",
            hint=f"give the column one type: df[{name!r}] = pandas.to_datetime(df[{name!r}], "
            "utc=True)",
            field=name,
        )
    return Dates.LOCAL if offset is None else Dates.INSTANT


def _read_sequence(column: Any, name: str) -> tuple[NDArray[Any], Kind]:
    if hasattr(column, "dtype") and hasattr(column, "isna"):
        return _read_pandas(column, name)
    if hasattr(column, "__array__") and hasattr(column, "ndim") and not hasattr(column, "to_list"):
        column = np.asarray(_off_device(column))
    values = column if isinstance(column, np.ndarray) else _as_objects(column, name)
    if values.ndim >= 2 and values.dtype.kind in "biuf":
        return values, Kind(str(values.dtype))
    if values.ndim != 1:
        raise Invalid(f"column {name!r} has {values.ndim} dimensions, not one", field=name)
    if values.dtype.kind in "biuf":
        return values, Kind(str(values.dtype))
    if values.dtype.kind == "M":
        unit = str(values.dtype)
        return _read_dates(values, name, *_arrow_dates("date32" if unit.endswith("[D]") else unit))
    if values.dtype.kind not in "OUST":
        raise _no_such_input(name, str(values.dtype))
    if (read := _read_date_objects(values.tolist(), name)) is not None:
        return read
    made = _from_objects(values.tolist() if values.dtype.kind == "S" else values, name)
    return made, Kind(str(made.dtype), booleans=_are_booleans(values, made))


_COLUMN_READERS = {
    "pandas": _read_pandas,
    "polars": _read_polars,
    "arrow": _read_arrow,
    "dict": _read_sequence,
}


def _as_objects(column: Any, name: str) -> NDArray[Any]:
    if isinstance(column, str | bytes) or not hasattr(column, "__iter__"):
        raise Invalid(f"column {name!r} is one value, not a list of them", field=name)
    values = list(column)
    if values and all(isinstance(v, bool | int | float | np.number) for v in values):
        return np.asarray(values)
    if values and all(isinstance(v, list | tuple | np.ndarray) for v in values):
        return _matrix(values)
    made = np.empty(len(values), object)
    made[:] = values
    return made


def _from_objects(values: Any, name: str) -> NDArray[Any]:
    """Python values to text with None for missing, or to numbers when none of them is text."""
    made = np.empty(len(values), object)
    if set(map(type, values)) <= {str, NoneType}:
        made[:] = values
        return made
    present = set()
    for i, value in enumerate(values):
        if value is None or value is _pandas_na(value) or value != value:
            made[i] = None
        else:
            made[i] = value.item() if isinstance(value, np.generic) else value
            present.add(type(made[i]))
    if present <= {str}:
        return made
    if present == {bool} and not is_missing(made).any():
        return made.astype(np.bool_)
    if present <= {bool, int, float}:
        if present == {int} and not is_missing(made).any():
            return _whole_numbers(made, name)
        return np.array([np.nan if value is None else value for value in made], np.float64)
    strange = sorted(t.__name__ for t in present)
    raise Invalid(
        f"column {name!r} holds {' and '.join(strange)}",
        hint="give the column one type: numbers, booleans or text",
        field=name,
    )


def _are_booleans(raw: Any, values: NDArray[Any]) -> bool:
    """Whether numbers that were read from objects are booleans, of which some are missing."""
    if values.dtype.kind != "f":
        return False
    missing = is_missing(values)
    return not missing.all() and all(
        isinstance(value, bool | np.bool_)
        for value, is_absent in zip(raw, missing, strict=True)
        if not is_absent
    )


def _whole_numbers(values: NDArray[Any], name: str) -> NDArray[Any]:
    try:
        return values.astype(np.int64 if min(values) < 0 or max(values) < 2**63 else np.uint64)
    except OverflowError:
        raise Invalid(
            f"column {name!r} holds whole numbers of more than 64 bits",
            hint="turn them into text before the model is trained: df[c].astype(str)",
            field=name,
        ) from None


def _pandas_na(value: Any) -> Any:
    """The value itself if it is pandas' NA, whose comparisons are NA again; else a stranger."""
    return value if type(value).__name__ in ("NAType", "NaTType") else _STRANGER


_STRANGER = object()
_NAT = np.datetime64("NaT", "us")


def _from_codes(categories: NDArray[Any], codes: NDArray[Any], name: str) -> NDArray[Any]:
    missing = codes < 0
    if categories.dtype.kind in "biuf":
        if missing.any():
            return np.asarray(np.append(categories.astype(np.float64), np.nan)[codes])
        return np.asarray(categories[codes])
    known = _from_objects(categories.astype(object), name)
    if known.dtype.kind != "O":
        return _from_codes(known, codes, name)
    return np.asarray(np.append(known, np.array([None], object))[codes])


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _no_such_input(name: str, dtype: str) -> Invalid:
    return Invalid(
        f"column {name!r} has type {dtype}, which no model input has",
        hint=_CONVERT_FIRST,
        field=name,
    )


def _to_matrix(table: Table, signature: Signature) -> Columns:
    (wanted,) = signature.inputs
    if list(table.columns) == [wanted.name]:
        values = table.columns[wanted.name]
    elif signature.columns and not table.is_matrix:
        _require(table, signature.columns)
        values = _stacked([table.columns[name] for name in signature.columns], signature.columns)
    else:
        values = _stacked(list(table.columns.values()), tuple(table.columns))
    width = wanted.shape[0]
    if values.ndim == 1 and len(values) == width and width > 1:
        raise Invalid(
            f"{wanted.name} is one row of {width} numbers, not a matrix of rows",
            hint="pass X[None, :]",
            field=wanted.name,
        )
    if values.ndim != 2 or width not in (-1, values.shape[1]):
        raise Invalid(
            f"{wanted.name} has shape {list(values.shape)}, and the model takes [rows, {width}]",
            field=wanted.name,
            expected=width,
        )
    return {wanted.name: values}


def _stacked(columns: list[NDArray[Any]], names: Sequence[str]) -> NDArray[Any]:
    for name, column in zip(names, columns, strict=True):
        if column.dtype.kind == "O":
            raise Invalid(f"column {name!r} holds text, and the model takes numbers", field=name)
    return np.column_stack(columns)


def _to_named(table: Table, signature: Signature) -> Columns:
    names = [wanted.name for wanted in signature.inputs]
    if table.is_matrix:
        values = table.columns[MATRIX]
        if len(names) == 1 and signature.inputs[0].shape:
            return {names[0]: values}  # a batch of images, or the like
        if values.ndim != 2 or values.shape[1] != len(names):
            one_row = values.ndim == 1 and len(values) == len(names)
            raise Invalid(
                f"the matrix has shape {list(values.shape)}, and the model takes {len(names)} "
                "columns",
                hint="pass one row as a table: df.iloc[[0]], or a dict of its values"
                if one_row
                else "pass a table with the columns " + _some(names),
            )
        return {name: values[:, i] for i, name in enumerate(names)}
    if table.source == "texts" and len(names) == 1:
        return dict(zip(names, table.columns.values(), strict=True))
    _require(table, [wanted.name for wanted in signature.inputs if not wanted.optional])
    return {name: table.columns[name] for name in names if name in table.columns}


def _require(table: Table, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in table.columns]
    if absent:
        near = _near(absent[0], [name for name in table.columns if name not in names])
        raise Invalid(
            f"column{'s' if len(absent) > 1 else ''} {_some(absent)} "
            f"{'are' if len(absent) > 1 else 'is'} missing",
            hint=f"the table has {near!r}; rename it to {absent[0]!r}"
            if near
            else f"the model takes {_some(list(names))}",
            field=absent[0],
        )


def _near(name: str, others: Sequence[str]) -> str:
    """The one of the others that is most like the name, in any case of letters; or nothing."""
    import difflib

    folded = {other.casefold().strip(): other for other in others}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.75)
    return folded[found[0]] if found else ""


def warn_of_extra(data: Any, signature: Signature) -> None:
    """Warn of columns that the model does not take, which are left out.

    The columns that it takes are all there: `conform` refuses a table without one. The server
    refuses extra columns in a request, because a misspelt one may be missing there.
    """
    if isinstance(data, np.ndarray) or not (signature.columns or not signature.is_matrix):
        return
    if hasattr(data, "collect_schema"):  # of polars; a LazyFrame is not read for this
        names = data.collect_schema().names()
    else:
        names = getattr(data, "columns", None)
    if hasattr(data, "column_names"):
        names = data.column_names
    elif isinstance(data, Mapping):
        names = data
    elif _are_records(data):
        names = [name for row in data for name in row]
    if names is None or isinstance(names, np.ndarray):
        return
    known = set(
        signature.columns if signature.is_matrix else (one.name for one in signature.inputs)
    )
    if signature.is_matrix:
        known.update(one.name for one in signature.inputs)
    named = (str(name) if _is_integer(name) else name for name in names)
    if extra := [name for name in dict.fromkeys(named) if name not in known]:
        warnings.warn(
            f"the model does not take {_some(extra)}, which {'are' if len(extra) > 1 else 'is'} "
            "left out",
            BasculeWarning,
            stacklevel=4,
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _conform(values: NDArray[Any], wanted: Field) -> NDArray[Any]:
    if values.shape[1:] != wanted.shape and (
        values.ndim != 1 + len(wanted.shape)
        or any(
            length not in (-1, found)
            for length, found in zip(wanted.shape, values.shape[1:], strict=True)
        )
    ):
        raise Invalid(
            f"{wanted.name} has shape {list(values.shape)}, and the model takes "
            f"{['rows', *wanted.shape]}",
            field=wanted.name,
        )
    read = _to_text if wanted.dtype is DType.BYTES else _to_number
    made = read(values, wanted)
    if wanted.dates is not None:
        made = _to_dates(made, wanted, wanted.dates)
    _check_bounds(made, wanted)
    _check_missing(made, wanted)
    _check_categories(made, wanted)
    return made


def _check_dates(table: Table, wanted: Field) -> None:
    kind = table.kinds.get(wanted.name)
    if kind is not None and kind.dates is not None and wanted.dates is None:
        takes = "text" if wanted.dtype is DType.BYTES else "numbers"
        raise Invalid(
            f"column {wanted.name!r} holds dates ({kind.dtype}), and the model takes {takes} there",
            hint="convert it as it was for the training table",
            field=wanted.name,
            expected=wanted.dtype.value,
        )


def _to_dates(texts: NDArray[Any], wanted: Field, dates: Dates) -> NDArray[Any]:
    spelled = texts.copy()
    for row, text in enumerate(texts.tolist()):
        try:
            spelled[row] = None if text is None else canonical_date(text, dates)
        except ValueError:
            raise Invalid(
                f"column {wanted.name!r} holds {text[:64]!r} in row {row}, which is no date that "
                "the model takes there",
                hint=dates.hint,
                field=wanted.name,
                row=row,
            ) from None
    return spelled


def _to_text(values: NDArray[Any], wanted: Field) -> NDArray[Any]:
    if values.dtype.kind in "US":
        return values.astype(object)
    if values.dtype.kind == "f" and np.isnan(values).all():
        return np.full(values.shape, None, object)
    if values.dtype.kind != "O":
        raise Invalid(
            f"column {wanted.name!r} holds {values.dtype}, and the model takes text there",
            field=wanted.name,
            expected=wanted.dtype.value,
        )
    return values


def _to_number(values: NDArray[Any], wanted: Field) -> NDArray[Any]:
    if values.dtype.kind == "O":
        if not is_missing(values).all():
            raise Invalid(
                f"column {wanted.name!r} holds text, and the model takes {wanted.dtype} there",
                field=wanted.name,
                expected=wanted.dtype.value,
            )
        values = np.full(values.shape, np.nan)
    if wanted.dtype.is_float or values.dtype == wanted.dtype.numpy:
        return as_dtype(values, wanted.dtype)
    _check_missing(values, wanted)
    made = as_dtype(values, wanted.dtype)
    changed = np.flatnonzero((made != values).reshape(len(values), -1).any(axis=1))
    if len(changed):
        raise Invalid(
            f"column {wanted.name!r} holds a number in row {changed[0]} that is not {wanted.dtype}",
            field=wanted.name,
            expected=wanted.dtype.value,
            row=int(changed[0]),
        )
    return made


def _check_missing(values: NDArray[Any], wanted: Field) -> None:
    if wanted.nullable:
        return
    if values.dtype.kind == "f" and not np.isnan(values.min(initial=0.0)):
        return  # a third of the time, and most tables are whole
    missing = is_missing(values).reshape(len(values), -1).any(axis=1)
    if missing.any():
        raise Invalid(
            f"column {wanted.name!r} has {int(missing.sum())} missing values, the first in row "
            f"{int(missing.argmax())}, and the model takes none there",
            hint="fill them in, or train the model with an imputer and pack it again",
            field=wanted.name,
            row=int(missing.argmax()),
        )


def _check_missing_texts(table: Table, wanted: Mapping[str, str]) -> None:
    for name in wanted.keys() & table.kinds.keys():
        kind, trained = table.kinds[name], _MISSING_WORDS[wanted[name]]
        if kind.categories is not None or (kind.missing == wanted[name] and not kind.is_mixed):
            continue
        missing = is_missing(table.columns[name])
        if missing.any():
            found = (
                "several kinds of missing text" if kind.is_mixed else _MISSING_WORDS[kind.missing]
            )
            raise Invalid(
                f"column {name!r} holds {found}, and the model is asked about a missing text as "
                f"{trained}: it may tell the two apart",
                hint=f"column.astype(object).where(column.notna(), {trained})",
                field=name,
                row=int(missing.argmax()),
            )


def _check_bounds(values: NDArray[Any], wanted: Field) -> None:
    if wanted.bounds is None or not values.size:
        return
    low, high = wanted.bounds
    if low <= values.min() and values.max() <= high:  # false of NaN too
        return
    beyond = ((values < low) | (values > high)).reshape(len(values), -1).any(axis=1)
    if beyond.any():
        row = int(beyond.argmax())
        raise Invalid(
            f"column {wanted.name!r} has a number in row {row} that the model refuses: it takes "
            f"{low:g} to {high:g}",
            hint="send numbers within these bounds",
            field=wanted.name,
            row=row,
        )


def _check_categories(values: NDArray[Any], wanted: Field) -> None:
    if wanted.categories is None:
        return
    known = set(wanted.categories)
    if set(values.tolist()) <= known | {None}:
        return
    for row, value in enumerate(values.tolist()):
        if value is not None and value == value and value not in known:
            raise Invalid(
                f"column {wanted.name!r} holds {value!r} in row {row}, which is none of the "
                f"{len(known)} categories that the model knows",
                field=wanted.name,
                row=row,
            )
