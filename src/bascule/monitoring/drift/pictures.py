"""Distributions of a column then and now, as charts. Pure."""

from __future__ import annotations

from bascule.charts import Chart
from bascule.monitoring.drift.distributions import shares_of
from bascule.stats import ColumnProfile


def then_and_now(name: str, then: ColumnProfile, now: ColumnProfile) -> Chart | None:
    """The distribution in the baseline (pale) and in production."""
    found = shares_of(then, now)
    if found is None:
        return None
    most = max((*found.then, *found.now)) or 1.0
    if found.edges:
        ends = (found.edges[0], found.edges[-1])
        chart = Chart(ends, (0, most * 1.05), (name, "share"), name)
        return chart.bars(found.edges, found.then, "bar other").bars(found.edges, found.now)
    labels = [one if len(one) < 8 else f"{one[:6]}\u2026" for one in found.names]
    chart = Chart((-0.5, len(labels) - 0.5), (0, most * 1.05), (name, "share"), name, labels)
    for place, (before, after) in enumerate(zip(found.then, found.now, strict=True)):
        chart.bars([place - 0.42, place], [before], "bar other").bars(
            [place, place + 0.42], [after]
        )
    return chart
