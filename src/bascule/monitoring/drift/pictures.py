"""Distributions of a column then and now, as charts. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bascule.charts import Chart
from bascule.stats import ColumnProfile

Floats = NDArray[np.float64]

_BINS = 24
_CATEGORIES = 10
_TRIM = 0.002


def then_and_now(name: str, then: ColumnProfile, now: ColumnProfile) -> Chart | None:
    """The distribution in the baseline (pale) and in production."""
    if then.quantiles.rows and now.quantiles.rows and then.distinct > 2:
        return _histograms(name, then, now)
    return _categories(name, then, now)


def _histograms(name: str, then: ColumnProfile, now: ColumnProfile) -> Chart:
    ends = [one.quantiles.quantiles([_TRIM, 1 - _TRIM]) for one in (then, now)]
    low, high = float(min(one[0] for one in ends)), float(max(one[1] for one in ends))
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    shares = [_binned(one, edges) for one in (then, now)]
    most = max(float(one.max()) for one in shares)
    chart = Chart((float(edges[0]), float(edges[-1])), (0, most * 1.05), (name, "share"), name)
    chart.bars(edges.tolist(), shares[0].tolist(), "bar other")
    return chart.bars(edges.tolist(), shares[1].tolist())


def _binned(column: ColumnProfile, edges: Floats) -> Floats:
    values, weights = column.quantiles.weighted()
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=weights)[0]
    return np.asarray(counts / max(1, weights.sum()))


def _categories(name: str, then: ColumnProfile, now: ColumnProfile) -> Chart | None:
    names = list(dict(then.frequent.top()[:_CATEGORIES]))
    names += [one for one, _ in now.frequent.top() if one not in names][: _CATEGORIES - len(names)]
    if not names:
        return None
    shares = [[_share(one, value) for value in names] for one in (then, now)]
    most = max(max(one) for one in shares) or 1.0
    labels = [str(value) if len(str(value)) < 8 else f"{str(value)[:6]}…" for value in names]
    chart = Chart((-0.5, len(names) - 0.5), (0, most * 1.05), (name, "share"), name, labels)
    for place, (before, after) in enumerate(zip(*shares, strict=True)):
        chart.bars([place - 0.42, place], [before], "bar other").bars(
            [place, place + 0.42], [after]
        )
    return chart


def _share(column: ColumnProfile, value: float | str) -> float:
    rows = max(1, column.rows - column.missing - column.infinite)
    return column.frequent.counts.get(value, 0) / rows
