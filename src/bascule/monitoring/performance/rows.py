"""Predictions of one version, with the truths that are known; windows and slices of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import is_missing
from bascule.core import Columns, Invalid
from bascule.metrics import Labelled
from bascule.stats import ColumnProfile

MAX_SLICE_VALUES = 50
"""Values of a column up to which each is a slice of its own; numbers beyond are binned."""
_MAX_NUMBERS = 12
_BINS = (0.2, 0.4, 0.6, 0.8)
_US = 1_000_000
_WINDOW = re.compile(r"(?P<count>\d+)(?P<unit>[hd])")
_NAMED = {"hour": 3_600, "day": 86_400, "week": 604_800}
_MONDAY_S = 4 * 86_400
"""The first Monday after 1970 began: weeks begin on Mondays."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which share of the answers the ledger kept, when each row was.

    Attributes:
        shares: In (0, 1]. Shape (rows,).
        draws: Uniform on [0, 1), the same at each look. The same shape.
    """

    shares: NDArray[np.float64]
    draws: NDArray[np.float64]

    def uniform(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of these rows that are a uniform sample of the answers.

        Busy seconds are kept at a lower share: without this, quiet ones would count for more.
        Rows are left out, not weighted, so that intervals and tests hold as they are.
        """
        shares = self.shares[places]
        chosen: NDArray[np.int64] = places[self.draws[places] * shares < shares.min(initial=1.0)]
        return chosen


@dataclass(frozen=True, slots=True)
class PredictionRows:
    """Rows that one version predicted.

    Attributes:
        version: Of the model; empty for a table.
        labelled: Answers and truths; a truth counts only where `is_known`.
        is_known: Where the truth is known. Shape (rows,).
        times_us: Of the predictions, in microseconds since 1970; None if unknown.
        delays_s: From the prediction to its first truth; NaN where there is none, None if unknown.
        columns: By which the rows can be sliced.
        inputs: What was asked, for estimates without truth; None if unknown.
        sampling: Of rows that are a sample; None where all rows are there.
    """

    version: str
    labelled: Labelled
    is_known: NDArray[np.bool_]
    times_us: NDArray[np.int64] | None = None
    delays_s: NDArray[np.float64] | None = None
    columns: Columns = field(default_factory=dict)
    inputs: Columns | None = None
    sampling: Sampling | None = None

    def __len__(self) -> int:
        return len(self.labelled)


def window_seconds(by: str) -> int | None:
    """The length of the windows: `hour`, `day`, `week`, `7d`, `6h`; None for `all`.

    Raises:
        Invalid: It is none of these.
    """
    if by == "all":
        return None
    if by in _NAMED:
        return _NAMED[by]
    match = _WINDOW.fullmatch(by)
    if match is None or int(match["count"]) == 0:
        raise Invalid(f"by: {by!r} is no window", hint="write hour, day, week, 6h, 7d or all")
    return int(match["count"]) * (3_600 if match["unit"] == "h" else 86_400)


def windows(times_us: NDArray[np.int64], seconds: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The start of each window in seconds since 1970, and its rows; oldest first, none empty."""
    offset = _MONDAY_S if seconds % _NAMED["week"] == 0 else 0
    starts = (times_us // _US - offset) // seconds * seconds + offset
    order = np.argsort(starts, kind="stable")
    found, first = np.unique(starts[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, first[1:]), strict=True)


Masks = Callable[[NDArray[Any]], dict[str, NDArray[np.bool_]]]
"""The rows of each slice of a column, by the name of the slice."""


def slicing(values: NDArray[Any], name: str, baseline: ColumnProfile | None) -> Masks:
    """How a column is sliced: by category, or by fifths of a number.

    The fifths are those of the baseline, so that they mean the same in every window and version.

    Raises:
        Invalid: The column has too many categories.
    """
    present = values[~_gone(values)]
    is_number = values.dtype.kind in "iuf"
    found = np.unique(present if is_number else present.astype(str))
    if is_number and len(found) > _MAX_NUMBERS:
        return _binned(present, baseline)
    if len(found) > MAX_SLICE_VALUES:
        raise Invalid(
            f"slice: {name!r} has {len(found):,} values, the limit is {MAX_SLICE_VALUES}",
            hint="slice by a column of few categories, or by a number",
            field=name,
        )

    def by_value(column: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
        same = column if is_number else column.astype(str)
        gone = _gone(column)
        made = {_text(one): ~gone & (same == one) for one in found.tolist()}
        return _with_missing(made, gone)

    return by_value


def _gone(values: NDArray[Any]) -> NDArray[np.bool_]:
    return is_missing(values) if values.dtype.kind in "fO" else np.zeros(len(values), bool)


def _with_missing(
    made: dict[str, NDArray[np.bool_]], gone: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    return {**made, "missing": gone} if gone.any() else made


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _binned(present: NDArray[Any], baseline: ColumnProfile | None) -> Masks:
    if baseline is not None and baseline.kind == "number" and baseline.quantiles.rows:
        edges = np.unique(baseline.quantiles.quantiles(list(_BINS)))
    else:
        edges = np.unique(np.quantile(present, _BINS))
    texts = [f"{edge:.4g}" for edge in edges]
    names = [f"<= {texts[0]}"]
    names += [f"{low} to {high}" for low, high in itertools.pairwise(texts)]
    names += [f"> {texts[-1]}"]

    def by_fifth(column: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
        gone = _gone(column)
        places = np.searchsorted(edges, column, "left")
        made = {name: ~gone & (places == place) for place, name in enumerate(names)}
        return _with_missing(made, gone)

    return by_fifth


def places_of_labels(values: Sequence[Any], classes: Sequence[Any]) -> NDArray[np.int64]:
    """The place of each label in `classes`, -1 for what is no class.

    A label may be written in another type than the class: `1`, `1.0` and `"1"` are the class 1,
    and `"true"` is the class True.
    """
    known: dict[str, int] = {}
    for place, one in enumerate(classes):
        for text in _spellings(one):
            known.setdefault(text, place)
    found: Mapping[Any, int] = {
        one: next((known[text] for text in _spellings(one) if text in known), -1)
        for one in set(values)
    }
    return np.fromiter((found[one] for one in values), np.int64, len(values))


def _spellings(value: Any) -> list[str]:
    """The ways in which a label may be written, the most exact one first."""
    text = str(value)
    if text in ("True", "False", "true", "false"):
        return [text.lower(), "1" if text.lower() == "true" else "0"]
    try:
        return [text, f"{float(text):.12g}"]
    except ValueError:
        return [text]
