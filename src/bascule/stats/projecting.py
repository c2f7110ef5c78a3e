"""Texts, images and embeddings as a few numbers a row, so that their drift is that of columns.

Of a text its letters, and of other rows the mean value; then random projections: a sum with random
signs keeps distances between rows (Achlioptas 2003). Of a text, of how often each sequence of three
bytes comes; of numbers, of the values themselves. The signs are a hash, the same in every process,
and sums are exact or in numpy's own order, so that equal rows have equal numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.stats.sketches import MAX_FREQUENT, mixed

Floats = NDArray[np.float64]

PROJECTIONS = 7
MIN_LETTERS = 16
"""A column of texts that are shorter on average has categories or ids."""
MIN_VALUES = 65
"""A row with fewer values is tested value by value alone."""
_MOST_BYTES = 4_096
"""Of a text; what follows is counted as letters alone."""
_CHUNK_VALUES = 1 << 20
_EACH = range(PROJECTIONS)
_START, _END = b"\x02\x02", b"\x03"


def projected_names(field: str, *, is_text: bool) -> tuple[str, ...]:
    """What the columns of a field's projections are called: `text~letters`, `text~1`..."""
    first = "letters" if is_text else "mean"
    return tuple(f"{field}~{part}" for part in (first, *range(1, PROJECTIONS + 1)))


def field_of_projection(column: str) -> str:
    """The field whose projection a column is; the column's own name for any other."""
    field, mark, part = column.rpartition("~")
    return field if mark and (part.isdigit() or part in ("letters", "mean")) else column


def worth_projecting(values: NDArray[Any], names: tuple[str, ...] = ()) -> bool:
    """Whether rows are free texts, or have many values and no names for them."""
    if values.dtype != object:
        return not names and math.prod(values.shape[1:]) >= MIN_VALUES
    if values.ndim > 1:
        return False
    present = [text for text in values.tolist() if text is not None]
    letters = sum(map(len, present))
    return letters >= MIN_LETTERS * len(present) and len({*present}) > MAX_FREQUENT


def projections(field: str, values: NDArray[Any]) -> Columns:
    """The columns of `projected_names`, of some rows; NaN for a missing text."""
    is_text = values.dtype == object
    size = max(1, _CHUNK_VALUES // (_MOST_BYTES if is_text else math.prod(values.shape[1:])))
    project = _of_texts if is_text else _of_numbers
    parts = [project(values[start : start + size]) for start in range(0, len(values), size)]
    whole = np.concatenate([np.empty((1 + PROJECTIONS, 0)), *parts], axis=1)
    return dict(zip(projected_names(field, is_text=is_text), whole, strict=True))


def _signs(codes: NDArray[np.uint64], projection: int) -> NDArray[np.int8]:
    bits = (mixed(codes) >> np.uint64(projection)) & np.uint64(1)
    return (2 * bits.astype(np.int8) - 1).astype(np.int8)


def _of_numbers(values: NDArray[Any]) -> Floats:
    flat = values.reshape(len(values), -1).astype(np.float64)
    places = np.arange(flat.shape[1], dtype=np.uint64)
    with np.errstate(invalid="ignore", over="ignore"):
        means = flat.mean(axis=1)
        flat -= means[:, None]  # or each projection would tell of the mean too
        return np.array([means, *((flat * _signs(places, each)).mean(axis=1) for each in _EACH)])


def _of_texts(values: NDArray[Any]) -> Floats:
    texts = ["" if text is None else str(text) for text in values.tolist()]
    raw = [_START + text.encode("utf-8", "surrogatepass")[:_MOST_BYTES] + _END for text in texts]
    lengths = np.array([len(text) for text in raw])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    data = np.frombuffer(b"".join(raw), np.uint8).astype(np.uint64)
    codes = data[:-2] | data[1:-1] << np.uint64(8) | data[2:] << np.uint64(16)
    inside = np.ones(len(codes), np.int8)
    for back in (1, 2):  # a sequence that reaches into the next text is none
        inside[ends[:-1] - back] = 0
    sums = [np.add.reduceat(_signs(codes, each) * inside, starts, dtype=np.int64) for each in _EACH]
    columns = np.array(
        [[len(text) for text in texts], *(each / (lengths - 2) for each in sums)], float
    )
    columns[:, [text is None for text in values.tolist()]] = np.nan
    return columns
