"""Distributions of a column then and now, on the same bins or categories. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.stats import ColumnProfile, Profile

_BINS = 24
_CATEGORIES = 10
_TRIM = 0.002
"""The share at each end that is counted in the outermost bin, so that one far value hides none."""


@dataclass(frozen=True, slots=True)
class ThenAndNow:
    """Shares of the rows of the baseline and of production.

    Attributes:
        edges: Of bins, one more than shares; empty for categories.
        names: Of categories, as many as shares; empty for bins.
        then: In the baseline, 0 to 1.
        now: In production.
    """

    edges: tuple[float, ...]
    names: tuple[str, ...]
    then: tuple[float, ...]
    now: tuple[float, ...]


def shares_of(then: ColumnProfile, now: ColumnProfile) -> ThenAndNow | None:
    """Histograms of numbers, shares of the most frequent values otherwise; None without a value."""
    if then.kind != now.kind:
        return None
    if then.quantiles.rows and now.quantiles.rows and then.distinct > 2:
        return _histograms(then, now)
    return _categories(then, now)


def distributions(
    then: Mapping[str, Profile | None], now: Mapping[str, Profile]
) -> dict[str, dict[str, Any]]:
    """By `input`, `answer` and `truth`, the columns that both sides have, as plain values."""
    made: dict[str, dict[str, Any]] = {}
    for where, before in then.items():
        after = now.get(where)
        if before is None or after is None:
            continue
        for name, column in before.columns.items():
            latest = after.columns.get(name)
            found = None if latest is None else shares_of(column, latest)
            if found is not None:
                made.setdefault(where, {})[name] = asdict(found)
    return made


def _histograms(then: ColumnProfile, now: ColumnProfile) -> ThenAndNow:
    ends = [one.quantiles.quantiles([_TRIM, 1 - _TRIM]) for one in (then, now)]
    low, high = float(min(one[0] for one in ends)), float(max(one[1] for one in ends))
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    shares = (tuple(_binned(one, edges).tolist()) for one in (then, now))
    return ThenAndNow(tuple(edges.tolist()), (), *shares)


def _binned(column: ColumnProfile, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    values, weights = column.quantiles.weighted()
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=weights)[0]
    return np.asarray(counts / max(1, weights.sum()))


def _categories(then: ColumnProfile, now: ColumnProfile) -> ThenAndNow | None:
    names = list(dict(then.frequent.top()[:_CATEGORIES]))
    names += [one for one, _ in now.frequent.top() if one not in names][: _CATEGORIES - len(names)]
    if not names:
        return None
    shares = (tuple(_share(one, value) for value in names) for one in (then, now))
    return ThenAndNow((), tuple(map(str, names)), *shares)


def _share(column: ColumnProfile, value: float | str) -> float:
    rows = max(1, column.rows - column.missing - column.infinite)
    return column.frequent.counts.get(value, 0) / rows
