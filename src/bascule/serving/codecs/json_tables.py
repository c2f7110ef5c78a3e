"""The rows of a request, in the forms that other protocols than the Open Inference Protocol have.

Rows may be a list (of objects, of lists, of bare values), columns by name, the parts of a data
frame, or CSV. Whatever the form, the same columns come out, every value checked by the readers of
`json_values`; a mistake is named with its place in the form that was sent: `instances[3].hour`.

A model on a matrix takes its rows as lists, or by the names of its columns; where it was packed
without names, they are `0`, `1` and so on.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, DType, Field, Invalid, Signature, TooLarge
from bascule.serving.codecs.json_values import (
    INFINITE,
    MAX_VALUES,
    Listed,
    values_reader,
    wrong_value,
)
from bascule.serving.codecs.raw_tensors import taker

Table = tuple[Columns, int]
"""The columns for a program, and how many rows they have."""

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_MAX_WHOLE_DIGITS = 20
_WORDS = {"true": True, "false": False}
_FLAGS = {**_WORDS, "1": True, "0": False}
_CSV_ROWS = 1024
_MAX_CELLS = 4 * MAX_VALUES
"""How many numbers the rows of one request may have, whatever `Limits.max_rows` says: as arrays
they take 8 bytes each, and may be there twice for a moment."""
_DTYPES = {dtype.numpy: dtype for dtype in DType if dtype is not DType.BYTES}
_VALUES = ({"b64"}, INFINITE.keys())
"""Objects that are values, by their keys."""
_INFINITE = ("inf", "infinity")
_CELLS_OF_TEXT = 4
"""What a text takes at least, in numbers."""


class _Where(NamedTuple):
    """The values of one input; see `json_values.Place`.

    Attributes:
        title: All of them.
        at: Those of one row.
        inside: One of those of a row, counted from 0.
        width: How many a row has; 0 where a row is one value.
    """

    title: str
    at: Callable[[int], str]
    inside: Callable[[int, int], str] | None = None
    width: int = 0

    def __str__(self) -> str:
        return self.title

    def value(self, position: int) -> str:
        if not self.width:
            return self.at(position)
        row, within = divmod(position, self.width)
        return self.inside(row, within) if self.inside else f"{self.at(row)}[{within}]"


class _Input:
    """Reads the values of one input, row by row."""

    def __init__(self, field: Field, target: DType) -> None:
        self.field = field
        self._read = values_reader(field, target)
        self._taker = partial(taker, field, target)

    def take(self, array: NDArray[Any], where: _Where) -> NDArray[Any] | None:
        """The rows of an array as they are; None where its shape or type needs `read`."""
        sent = _DTYPES[array.dtype]
        is_taken = sent is self.field.dtype or (
            (self.field.dtype.is_float or self.field.dtype.is_integer)
            and (sent.is_integer or (sent.is_float and self.field.dtype.is_float))
        )
        if not is_taken or array.shape[1:] != self.field.shape:
            return None
        where = where._replace(width=math.prod(self.field.shape) if self.field.shape else 0)
        return self._taker(sent)(array.ravel(), where).reshape(array.shape)

    def read(self, values: list[Any], where: _Where) -> NDArray[Any]:
        rows = len(values)
        if self.field.dtype is DType.BYTES:
            values = _from_base64(values, where.at)
        if not self.field.shape:
            return self._read(Listed(_single(values, self.field, where)), rows, where)
        shape = self._row_shape(values[0], where)
        for row, value in enumerate(values):
            _check_shape(value, shape, where.at(row))
        for _ in shape:
            values = list(chain.from_iterable(values))
        where = where._replace(width=math.prod(shape))
        _refuse_lists(values, self.field, where)
        return self._read(Listed(values), len(values), where).reshape(rows, *shape)

    def _row_shape(self, first: Any, where: _Where) -> tuple[int, ...]:
        """The shape of a row: a length that may vary is that of the first row, and at least 1."""
        if -1 not in self.field.shape:
            return self.field.shape
        shape = []
        for length in self.field.shape:
            found = len(first) if isinstance(first, list) else 0
            if not found:
                expected = ", ".join("any" if n == -1 else str(n) for n in self.field.shape)
                raise Invalid(f"{where.at(0)}: not of the shape [{expected}]")
            shape.append(found if length == -1 else length)
            first = first[0]
        return tuple(shape)


def _check_shape(value: Any, shape: tuple[int, ...], place: str) -> None:
    if not shape:
        return
    if type(value) is not list:
        raise Invalid(f"{place}: not a list, where the model takes {shape[0]} values")
    if len(value) != shape[0]:
        raise Invalid(f"{place}: {len(value)} values, where the model takes {shape[0]}")
    if len(shape) > 1:
        for index, item in enumerate(value):
            _check_shape(item, shape[1:], f"{place}[{index}]")


def _single(values: list[Any], field: Field, where: _Where) -> list[Any]:
    """One value a row; a list of one value, which clients of columns as matrices send, is one."""
    if list not in set(map(type, values)):
        return values
    unpacked = [value[0] if type(value) is list and len(value) == 1 else value for value in values]
    _refuse_lists(unpacked, field, where)
    return unpacked


def _refuse_lists(values: list[Any], field: Field, where: _Where) -> None:
    if list in set(map(type, values)):
        place = next(i for i, value in enumerate(values) if type(value) is list)
        raise wrong_value(values[place], place, field, where)


def _from_base64(values: list[Any], at: Callable[[int], str]) -> list[Any]:
    """The values, with `{"b64": "..."}` as the text that it stands for, at any depth."""
    if {list, dict}.isdisjoint(map(type, values)):
        return values
    made: list[Any] = []
    for index, value in enumerate(values):
        if type(value) is list:
            made.append(_from_base64(value, partial(_item, at, index)))
        elif type(value) is dict and value.keys() == {"b64"}:
            made.append(_decoded(value["b64"], at(index)))
        else:
            made.append(value)
    return made


def _item(at: Callable[[int], str], index: int, within: int) -> str:
    return f"{at(index)}[{within}]"


def _decoded(value: Any, place: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (TypeError, ValueError, binascii.Error):
        raise Invalid(
            f"{place}.b64: not text in UTF-8, in base64", hint="or send the text itself"
        ) from None


class TableReader:
    """Reads the rows of requests to one version."""

    def __init__(self, signature: Signature, targets: Sequence[Field], max_rows: int) -> None:
        """`targets` (in the order of the signature's inputs) is what the program reads."""
        self._inputs = [
            _Input(field, target.dtype)
            for field, target in zip(signature.inputs, targets, strict=True)
        ]
        self._input_names = tuple(field.name for field in signature.inputs)
        self._only = self._inputs[0] if len(self._inputs) == 1 else None
        self._optional = {field.name for field in signature.inputs if field.optional}
        self._names = self._input_names
        self._is_matrix = signature.is_matrix and signature.inputs[0].shape[0] > 0
        if self._is_matrix:
            width = signature.inputs[0].shape[0]
            self._names = signature.columns or tuple(str(index) for index in range(width))
        width = sum(
            abs(math.prod(field.shape)) * (_CELLS_OF_TEXT if field.dtype is DType.BYTES else 1)
            for field in signature.inputs
        )
        self._max_rows = min(max_rows, max(1, _MAX_CELLS // max(1, width)))

    def rows(self, value: Any, place: str) -> Table:
        """A list of rows: objects, or lists in the order of the inputs, or of the only input.

        Raises:
            Invalid: It is none, or a value of it does not fit.
            TooLarge: There are too many rows.
        """
        items = self._list(value, place)
        if type(items[0]) is dict and items[0].keys() not in _VALUES:
            return self._objects(items, place)
        if self._only is not None:
            return self._tensor(items, _Where(place, lambda row: f"{place}[{row}]"))
        return self._grid(items, self._names, place, lambda row, name: f"{place}[{row}] ({name})")

    def columns(self, value: Any, place: str) -> Table:
        """An object of columns by name, or the list of values of the only input."""
        if self._only is not None and type(value) is list:
            items = self._list(value, place)
            return self._tensor(items, _Where(place, lambda row: f"{place}[{row}]"))
        if type(value) is not dict:
            raise Invalid(f"{place}: not an object", hint=self._hint())
        names = self._chosen(value)
        if value.keys() != set(names):
            names = self._sent(value, names, place)
        columns = [self._list(value[name], f"{place}.{name}") for name in names]
        for name, column in zip(names, columns, strict=True):
            if len(column) != len(columns[0]):
                raise Invalid(
                    f"{place}.{name}: {len(column)} rows, where {names[0]} has {len(columns[0])}",
                    hint="every input has one value per row",
                )
        return self._by_name(names, columns, lambda row, name: f"{place}.{name}[{row}]", place)

    def split(self, value: Any, place: str) -> Table:
        """The parts of a data frame: `columns`, `data`, and an `index`, which is not read."""
        if type(value) is not dict:
            raise Invalid(f"{place}: not an object", hint='send {"columns": [...], "data": [...]}')
        for key in value:
            if key not in ("columns", "data", "index"):
                raise Invalid(f"{place}.{key[:64]}: there is no such part of a data frame")
        inside = f"{place}.data"
        items = self._list(value.get("data"), inside)
        names = self._split_names(value.get("columns"), f"{place}.columns")
        return self._grid(items, names, inside, lambda row, name: f"{inside}[{row}] ({name})")

    def csv(self, body: bytes, *, has_header: bool | None = None) -> Table:
        """Lines of values between commas; an empty one is missing.

        Where it is not said whether there is a header, the first line is one if it names a column
        of the model; else the values are in the order of the inputs.
        """
        lines: Iterator[list[str]] = _lines(body, self._max_rows)
        names = self._names
        line = next(lines, [])
        first = [cell.strip() for cell in line]
        if first and (has_header or (has_header is None and self._is_header(first))):
            names = self._split_names(first, "csv header")
        else:
            lines = chain([line] if line else [], lines)
        dtypes = self._dtypes()
        wanted = [dtypes[name] for name in names]
        tables: list[Columns] = []
        rows = 0
        # Piece by piece: as texts the rows take many times what they take as arrays.
        while piece := list(islice(lines, min(_CSV_ROWS, self._max_rows + 1 - rows))):
            if rows + len(piece) > self._max_rows:
                raise _too_many_rows(rows + len(piece), self._max_rows)
            parsed = [_parsed(line, wanted, f"csv[{row}]") for row, line in enumerate(piece, rows)]
            at = partial(_csv_place, rows)
            tables.append(self._grid(parsed, names, "csv", at)[0])
            rows += len(piece)
        self._list(tables, "csv")
        if len(tables) == 1:
            return tables[0], rows
        return {
            name: np.concatenate([one.pop(name) for one in tables]) for name in [*tables[0]]
        }, rows

    def array(self, array: NDArray[Any], place: str) -> Table:
        """Rows of an array: the values of the only input, or a column per input, in their order."""
        if not len(array):
            raise Invalid(f"{place}: no rows", hint="send one row or more")
        if len(array) > self._max_rows:
            raise _too_many_rows(len(array), self._max_rows)
        if self._only is not None:
            where = _Where(place, lambda row: f"{place}[{row}]")
            taken = self._only.take(array, where)
            if taken is not None:
                return {self._only.field.name: taken}, len(array)
        if array.size > MAX_VALUES:
            raise TooLarge(
                f"{place}: {array.size} values are over the limit of {MAX_VALUES}",
                hint="send fewer rows a request",
                limit=MAX_VALUES,
            )
        values = array.astype(object)
        if array.dtype.kind == "f":
            values[np.isinf(array)] = INFINITE
            values[np.isnan(array)] = None
        return self.rows(values.tolist(), place)

    # -- forms to values --

    def _list(self, value: Any, place: str) -> list[Any]:
        if type(value) is not list:
            raise Invalid(f"{place}: missing, or not a list", hint=self._hint())
        if not value:
            raise Invalid(f"{place}: no rows", hint="send one row or more")
        if len(value) > self._max_rows:
            raise _too_many_rows(len(value), self._max_rows)
        return value

    def _objects(self, items: list[Any], place: str) -> Table:
        names = self._chosen(items[0])
        wanted = set(names)
        for row, item in enumerate(items):
            if type(item) is not dict:
                raise Invalid(f"{place}[{row}]: not an object, where the rows before it are")
            if item.keys() != wanted:
                self._sent(item, names, f"{place}[{row}]")
        columns = [[item.get(name) for item in items] for name in names]
        return self._by_name(names, columns, lambda row, name: f"{place}[{row}].{name}", place)

    def _grid(
        self,
        items: list[Any],
        names: tuple[str, ...],
        place: str,
        at: Callable[[int, str], str],
    ) -> Table:
        """Rows that are lists of values in the order of `names`."""
        for row, item in enumerate(items):
            if type(item) is not list:
                raise Invalid(
                    f"{place}[{row}]: not a list, where a row is {len(names)} values",
                    hint=self._hint(),
                )
            if len(item) != len(names):
                raise Invalid(
                    f"{place}[{row}]: {len(item)} values, where a row has {len(names)}",
                    hint=self._hint(),
                )
        return self._by_name(names, list(map(list, zip(*items, strict=True))), at, place)

    def _by_name(
        self,
        names: tuple[str, ...],
        columns: list[list[Any]],
        at: Callable[[int, str], str],
        place: str,
    ) -> Table:
        given = dict(zip(names, columns, strict=True))
        if self._is_matrix and names != self._input_names:
            own = self._names
            values = list(map(list, zip(*(given[name] for name in own), strict=True)))
            where = _Where(place, lambda row: f"{place}[{row}]", lambda row, k: at(row, own[k]))
            return self._tensor(values, where)
        made: Columns = {}
        for one in self._inputs:
            name = one.field.name
            values = given.get(name, [None] * len(columns[0]))
            where = _Where(f"{place} ({name})", partial(_swapped, at, name))
            made[name] = one.read(values, where)
        return made, len(columns[0])

    def _tensor(self, items: list[Any], where: _Where) -> Table:
        assert self._only is not None
        return {self._only.field.name: self._only.read(items, where)}, len(items)

    # -- names --

    def _chosen(self, given: dict[str, Any]) -> tuple[str, ...]:
        """Whether a matrix comes under its own name, or under those of its columns."""
        by_input = self._is_matrix and given.keys() == set(self._input_names)
        return self._input_names if by_input and given.keys() != set(self._names) else self._names

    def _sent(self, given: dict[str, Any], names: tuple[str, ...], place: str) -> tuple[str, ...]:
        """The names that are given; raises `Invalid` where one is unknown or missing."""
        strange = next((name for name in given if name not in names), None)
        if strange is not None:
            raise Invalid(
                f"{place}.{strange[:128]}: the model has no input {strange[:128]!r}",
                hint=self._hint(),
            )
        for name in names:
            if name not in given and name not in self._optional:
                raise Invalid(
                    f"{place}: {name!r} missing", hint="send every input; null where none is known"
                )
        return tuple(name for name in names if name in given)

    def _split_names(self, value: Any, place: str) -> tuple[str, ...]:
        if value is None:
            return self._names
        if type(value) is not list or not {str, int}.issuperset(map(type, value)):
            raise Invalid(f"{place}: not a list of names", hint=self._hint())
        names = tuple(map(str, value))
        given, known = set(names), set(self._names)
        if len(given) < len(names):
            twice, _ = Counter(names).most_common(1)[0]
            raise Invalid(f"{place}: {twice[:128]!r} is given twice")
        if not given <= known or not known - given <= self._optional:
            strange = next((name for name in names if name not in known), None)
            if strange is not None:
                raise Invalid(
                    f"{place}: the model has no input {strange[:128]!r}", hint=self._hint()
                )
            lacking = known - given - self._optional
            name = next(name for name in self._names if name in lacking)
            raise Invalid(f"{place}: {name!r} missing", hint=self._hint())
        return names

    def _is_header(self, cells: list[str]) -> bool:
        if self._names[0] == "0":
            # Names that are numbers may also be values: only all of them, in order, are names.
            return tuple(cells) == self._names and len(cells) > 1
        return not set(self._names).isdisjoint(cells)

    def _dtypes(self) -> dict[str, DType]:
        if self._is_matrix:
            return dict.fromkeys(self._names, self._inputs[0].field.dtype)
        return {one.field.name: one.field.dtype for one in self._inputs}

    def _hint(self) -> str:
        names = self._names
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        return f"a row has {shown}"


def _swapped(at: Callable[[int, str], str], name: str, row: int) -> str:
    return at(row, name)


def _too_many_rows(rows: int, most: int) -> TooLarge:
    return TooLarge(
        f"{rows} rows are over the limit of {most}",
        hint="send fewer rows a request",
        limit=most,
    )


def _csv_place(start: int, row: int, name: str) -> str:
    return f"csv[{start + row}] ({name})"


def _lines(body: bytes, max_rows: int) -> Iterator[list[str]]:
    """Every line that is not empty, split at its commas; raises `Invalid`."""
    text = io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline="")
    empty = 0
    try:
        for line in csv.reader(text, strict=True):
            if line:
                yield line
                continue
            empty += 1
            if empty > max_rows:
                raise TooLarge(
                    f"over {max_rows} lines of the body are empty",
                    hint="send a row a line",
                    limit=max_rows,
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise Invalid(f"the body is not CSV in UTF-8: {error}") from None


def _parsed(line: list[str], wanted: list[DType], place: str) -> list[Any]:
    if len(line) != len(wanted):
        raise Invalid(f"{place}: {len(line)} values, where a row has {len(wanted)}")
    return [_from_text(cell, dtype) for cell, dtype in zip(line, wanted, strict=True)]


def _from_text(cell: str, dtype: DType) -> Any:
    """What a cell of CSV says; a text where it says nothing that the type knows."""
    if dtype is DType.BYTES:
        return cell or None
    cell = cell.strip()
    if not cell or (dtype.is_float and cell.lower() == "nan"):  # as numpy writes a missing number
        return None
    if dtype is DType.BOOL:
        return _FLAGS.get(cell.lower(), cell)
    if cell.lower().lstrip("+-") in _INFINITE:
        return INFINITE
    if not _NUMBER.fullmatch(cell):
        return _WORDS.get(cell.lower(), cell)  # a boolean that may be missing is a number
    if len(cell) <= _MAX_WHOLE_DIGITS and cell.lstrip("+-").isdecimal():
        return int(cell)
    number = float(cell)
    return number if math.isfinite(number) else INFINITE if dtype.is_float else cell
