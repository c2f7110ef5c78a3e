"""Finds out by asking: does the model take a missing value here, a new category, any number?

What an estimator says of itself cannot be trusted through a pipeline; what it does can. A few
rows per column are enough, so it costs one prediction per column.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import are_wide, is_missing, take
from bascule.core import Columns, DType, Field

UNSEEN_TEXT = "\u2400never seen in training"
STRANGE_TEXTS = (
    "",
    "\u0130STANBUL \u212aelvin \u1e9e\u00df \ufb01ne na\u00efve NAI\u0308VE \u00c9cole",
    "\u039f\u0394\u039f\u03a3 \u03a3 \u03a3\u039f\u03a6\u038c\u03a3 \u0416\u0416",
    "\u65e5\u672c\u8a9e \u0661\u0662 \u2167 \u00b2\u00b2 \U0001f600\U0001d400\U0001d401",
    "a\u00ada b\u200db c\u00a0c d\u2019d _e_ f-f\tg\r\n  h\x00h  ",
)
"""Where languages of programming disagree on what a letter, a capital or a space is."""
_PROBE_ROWS = 3
_TEXTS_ALIKE = 4
_MAX_INTEGER_CATEGORIES = 1000
_MAX_COLUMNS_APART = 64
_WHOLE = [dtype for dtype in DType if dtype.is_integer and dtype is not DType.UINT64]
_FAR = 2.0**20
LARGEST_FLOAT = float(np.nextafter(2.0**128 - 2.0**103, 0))
"""The largest double that is rounded to a float and not to infinity."""
_LARGEST = (
    float(np.finfo(np.float64).max),
    LARGEST_FLOAT,
    *(2.0 ** (128 - less) for less in (1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112)),
)
"""Numbers that models may be the first to take: the largest double, the largest that is rounded to
a float and not to infinity, and fewer where it is multiplied before it becomes a float."""

LENGTHS = (3, 1, 8, 64, 224)
"""What is tried, one after the other, for a length that may vary."""

Ask = Callable[[Columns], Any]
"""Asks the original; raises what the original raises."""


def probed(
    fields: tuple[Field, ...], columns: Columns, ask: Ask, optional: Container[str] = ()
) -> tuple[Field, ...]:
    """The fields, with `nullable`, `categories` and `bounds` as the model behaves.

    Args:
        fields: As inferred from the types alone.
        columns: The training rows.
        ask: Asks the original about columns in these dtypes.
        optional: The columns of booleans that hold a missing one in their own type.
    """
    few = take(columns, slice(0, _PROBE_ROWS))
    found = tuple(
        _probed(field, columns[field.name], few, ask, field.name in optional) for field in fields
    )
    return bounded(found, columns, ask)


def bounded(fields: tuple[Field, ...], columns: Columns, ask: Ask) -> tuple[Field, ...]:
    """The fields, with `bounds` where the model refuses numbers.

    Columns are asked about together, and one by one only where that is refused: a model that
    takes every number costs one prediction, and one that refuses infinity one more per column.

    Args:
        fields: Those of the signature.
        columns: The training rows, which the model answers.
        ask: Asks the original about columns in these dtypes.
    """
    two = take(columns, np.arange(2) % len(next(iter(columns.values()))))

    def takes(asked: Sequence[Field], low: Any, high: Any) -> bool:
        made = dict(two)
        try:
            with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
                for field in asked:
                    made[field.name] = two[field.name].astype(field.dtype.numpy)
                    pair = (low, high)
                    if field.dtype.is_float and np.isfinite(pair).all():
                        most = float(np.finfo(field.dtype.numpy).max)
                        pair = (max(low, -most), min(high, most))
                    made[field.name][0], made[field.name][1] = pair
                ask(made)
        except Exception:  # any exception is a refusal
            return False
        return True

    closed = [f for f in fields if f.dtype.is_float and f.categories is None]
    if not closed or takes(closed, -np.inf, np.inf):
        closed = []
    elif 1 < len(closed) <= _MAX_COLUMNS_APART:
        closed = [f for f in closed if not takes([f], -np.inf, np.inf)] or closed
    bounds: dict[str, tuple[Any, Any]] = {}
    usual = max((float(np.nanmax(np.abs(columns[f.name]), initial=0.0)) for f in closed), default=0)
    for largest in _LARGEST:
        if closed and largest > _FAR * usual and takes(closed, -largest, largest):
            most = {f.name: min(largest, float(np.finfo(f.dtype.numpy).max)) for f in closed}
            bounds = {name: (-end, end) for name, end in most.items()}
            closed = []
    for field in fields:
        is_whole = field.dtype in _WHOLE and field.categories is None
        ends: Any = np.iinfo(field.dtype.numpy) if is_whole else np.finfo(np.float64)
        if field in closed or (is_whole and not takes([field], ends.min, ends.max)):
            bounds[field.name] = _bounds(field, columns[field.name], takes)
    return tuple(replace(field, bounds=bounds.get(field.name)) for field in fields)


def _bounds(
    field: Field, values: NDArray[Any], takes: Callable[[Sequence[Field], Any, Any], bool]
) -> tuple[Any, Any]:
    """The ends of what is taken around the training values, to the last bit."""
    dtype = field.dtype.numpy
    ends: Any = np.iinfo(dtype) if field.dtype.is_integer else np.finfo(dtype)
    # Whole numbers are doubles where one may be missing, and the ends are of that type.
    known = values[~is_missing(values)].astype(dtype)
    low, high = known.min(), known.max()
    return (
        _last(low, ends.min, lambda end: takes([field], end, high)),
        _last(high, ends.max, lambda end: takes([field], low, end)),
    )


def _last(taken: Any, end: Any, takes: Callable[[Any], bool]) -> Any:
    """The last number that is taken on the way to the end of its type."""
    dtype = taken.dtype
    inside, outside = int(ordered(taken)), int(ordered(dtype.type(end)))
    step = 1 if outside > inside else -1

    def number(place: int) -> Any:
        return unordered(np.asarray(place), dtype)[()].item()

    if inside == outside or not takes(number(inside + step)):
        return taken.item()
    if takes(end):
        return number(outside)
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        inside, outside = (middle, outside) if takes(number(middle)) else (inside, middle)
    return number(inside)


def ordered(values: Any) -> NDArray[np.int64]:
    """Numbers as whole numbers in the same order: neighbours of a type differ by 1."""
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    bits = array.view(f"i{array.dtype.itemsize}").astype(np.int64)
    lowest = np.int64(-(1 << (8 * array.dtype.itemsize - 1)))
    return np.where(bits < 0, lowest - bits, bits)


def unordered(places: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The numbers that `ordered` made whole."""
    if dtype.kind in "iu":
        return places.astype(dtype)
    lowest = np.int64(-(1 << (8 * dtype.itemsize - 1)))
    bits = np.where(places < 0, lowest - places, places)
    return bits.astype(f"i{dtype.itemsize}").view(dtype)


def drawn(field: Field, rows: int, length: int, random: np.random.Generator) -> NDArray[Any]:
    """Values for a field of which no real one is known; `length` stands for those that vary."""
    shape = (rows, *(length if part < 0 else part for part in field.shape))
    if field.dtype is DType.BYTES:
        return np.full(shape, "a" if field.dates is None else field.dates.example, object)
    if field.dtype.is_float:
        return random.normal(size=shape).astype(field.dtype.numpy)
    return random.integers(0, 2, shape).astype(field.dtype.numpy)


def probe_rows(fields: tuple[Field, ...], columns: Columns) -> Columns:
    """Rows that are like no training row: one with each value missing, or never seen, that may be.

    They are made from the first row, and tell whether a program agrees with the original about
    what the real rows happen not to hold.
    """
    changes: list[tuple[str, Any]] = []
    for field in fields:
        if field.nullable:
            changes.append((field.name, None if field.dtype is DType.BYTES else np.nan))
        if field.dtype is DType.BYTES and field.categories is None and field.dates is None:
            first_text = columns[field.name][0] or ""
            strange = (UNSEEN_TEXT, *STRANGE_TEXTS, first_text.upper(), first_text.swapcase())
            changes += [(field.name, text) for text in strange]
    first = take(columns, np.zeros(len(changes), np.int64))
    made = {name: column.copy() for name, column in first.items()}
    for row, (name, value) in enumerate(changes):
        made[name][row] = value
    return made


def _probed(field: Field, values: NDArray[Any], few: Columns, ask: Ask, is_optional: bool) -> Field:
    nullable = bool(is_missing(values).any())
    is_flag = field.dtype is DType.BOOL
    # A column that may be missing is read as doubles, which do not hold every whole number.
    if not nullable and (is_optional or not is_flag) and not are_wide(values):
        nullable = _accepts(ask, few, field, _missing_in(few[field.name]))
    if nullable and (field.dtype.is_integer or is_flag):
        field = replace(field, dtype=DType.FP64, booleans=is_flag)
    return replace(field, nullable=nullable, categories=_closed(field, values, few, ask))


def _missing_in(values: NDArray[Any]) -> NDArray[Any]:
    made = values.astype(object if values.dtype.kind == "O" else np.result_type(values, np.float32))
    made[:1] = None if values.dtype.kind == "O" else np.nan
    return made


def _closed(
    field: Field, values: NDArray[Any], few: Columns, ask: Ask
) -> tuple[str | int, ...] | None:
    """The values seen in training, sorted, if the model refuses any other one."""
    if field.shape or field.dates is not None:
        return None
    unseen = few[field.name].copy()
    if field.dtype is DType.BYTES:
        return _closed_texts(field, values, few, ask)
    if values.dtype.kind in "iu":
        distinct = np.unique(values)
        if len(distinct) > _MAX_INTEGER_CATEGORIES:
            return None
        known = [int(value) for value in distinct]
        if int(distinct[-1]) == np.iinfo(values.dtype).max:
            return None
        unseen[:1] = distinct[-1] + 1
    else:
        return None
    return None if _accepts(ask, few, field, unseen) else tuple(known)


def _closed_texts(
    field: Field, values: NDArray[Any], few: Columns, ask: Ask
) -> tuple[str, ...] | None:
    """The texts seen in training if the model refuses others, those of the same form among them.

    Code that parses a text, a time or a number written as one, refuses one that is of no form.
    """
    known = {value for value in values.tolist() if value is not None}
    alike = [text for value in islice(sorted(known), _TEXTS_ALIKE) for text in _alike(value)]
    for text in (UNSEEN_TEXT, *dict.fromkeys(alike)):
        unseen = few[field.name].copy()
        unseen[:1] = text
        if text not in known and _accepts(ask, few, field, unseen):
            return None
    return tuple(sorted(known))


def _alike(text: str) -> Iterator[str]:
    """Texts of the same form: one digit differs, the last or the first, or the last letter."""
    digits = [place for place, sign in enumerate(text) if sign in "0123456789"]
    for place in dict.fromkeys(digits[-1:] + digits[:1]):
        yield f"{text[:place]}{'1' if text[place] != '1' else '2'}{text[place + 1 :]}"
    letters = [place for place, sign in enumerate(text) if sign.isascii() and sign.isalpha()]
    for place in letters[-1:]:
        yield f"{text[:place]}{'a' if text[place] != 'a' else 'b'}{text[place + 1 :]}"


def _accepts(ask: Ask, few: Columns, field: Field, values: NDArray[Any]) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            answer = np.asarray(ask({**few, field.name: values}))
    except Exception:  # any exception is a refusal
        return False
    return not (answer.dtype.kind == "f" and np.isnan(answer).any())
