"""Whether a window is worse than the bundle's record: by more than chance, and by enough. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid
from bascule.metrics import Estimate, Labelled, Metric
from bascule.stats import hypergeometric_tail, student_tail

MIN_ROWS = 20
"""Rows, or rows of the rarer class, that a metric which is no plain share is judged on."""
SHARE_EFFECT, ERROR_EFFECT = 0.02, 0.1
NORMAL_95 = 1.959964
"""Standard errors on each side of an interval at 95 %."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """See `MetricPerformance` for the attributes."""

    p_value: float | None
    worse_by: float | None
    limit: float | None
    is_alarm: bool


def limit_of(metric: Metric, recorded: float, effects: Mapping[str, float]) -> float:
    """The least worsening that matters.

    `effects` says it by metric: relative for an error without an upper end, in the metric's own
    unit for any other. Defaults: 10 % for such errors, 0.02 for others.
    """
    effect = effects.get(metric.name)
    if metric.is_error and metric.unit != "share":
        return (ERROR_EFFECT if effect is None else effect) * abs(recorded)
    return SHARE_EFFECT if effect is None else effect


def check_effects(effects: Mapping[str, float]) -> None:
    """Raise `Invalid` for an effect that is no number of 0 or more."""
    for name, effect in effects.items():
        if not (math.isfinite(effect) and effect >= 0):
            raise Invalid(f"effect: {name} {effect:g} is not >= 0", field=name)


def judge(
    metric: Metric,
    found: Estimate,
    recorded: Estimate,
    level: float,
    effects: Mapping[str, float],
) -> Verdict:
    """Compare a window with the record.

    Plain shares by Fisher's exact test on one side. Any other metric by Student's t, with the
    standard errors of both and the degrees of freedom of the smaller group; it needs `MIN_ROWS`
    rows on both sides. Few held-out rows that happen to be good look certain as well (an area
    under the curve of 1 has no error at all), so the variance of one of them is at least that of a
    row of the window. A calibration error is not judged: it is biased on few rows.
    """
    if found.value is None or recorded.value is None:
        return Verdict(None, None, None, is_alarm=False)
    sign = -1 if metric.wants_more else 1
    worse = sign * (found.value - recorded.value)
    limit = limit_of(metric, recorded.value, effects)
    p_value = None if metric.name == "ece" else _p_value(found, recorded, worse)
    is_alarm = p_value is not None and p_value < level and worse >= limit
    return Verdict(p_value, worse, limit, is_alarm)


def _p_value(found: Estimate, recorded: Estimate, worse: float) -> float | None:
    if found.successes is not None and recorded.successes is not None:
        failures = found.fewest - found.successes
        of_record = recorded.fewest - recorded.successes
        return hypergeometric_tail(
            failures, found.fewest, failures + of_record, found.fewest + recorded.fewest
        )
    fewest = min(found.fewest, recorded.fewest)
    by_window = found.error * math.sqrt(found.rows / max(1, recorded.rows))
    error = math.hypot(found.error, max(recorded.error, by_window))
    if fewest < MIN_ROWS or not error > 0:
        return None
    return student_tail(worse / error, fewest - 1)


def estimate_interval(
    metric: Metric, estimated: float, error: float, recorded: Estimate, rows: int
) -> tuple[float, float] | None:
    """Where a metric that is estimated without truth is expected to lie; None if unknown.

    Three errors are counted: of the held-out rows, as in the interval of the record; of what was
    learned from them, for rows of another distribution; and of the truths of the window by chance.
    A change of what the inputs mean (concept drift) is in none of them.

    Args:
        metric: Which.
        estimated: Its estimate.
        error: The standard error by what was learned; 0 if unknown.
        recorded: The value on the held-out rows, with its interval at 95 %.
        rows: Of the window.
    """
    if recorded.value is None or recorded.lower is None or recorded.upper is None or not rows:
        return None
    by_rows = math.sqrt(1 + recorded.rows / rows)
    below, above = (
        math.hypot(width * by_rows, NORMAL_95 * error)
        for width in (recorded.value - recorded.lower, recorded.upper - recorded.value)
    )
    low, high = estimated - below, estimated + above
    low = max(0.0, low) if metric.is_error or metric.unit == "share" else low
    return low, min(1.0, high) if metric.unit == "share" else high


def bounds_of(name: str, rows: Labelled, missing: Labelled) -> tuple[float, float] | None:
    """The least and the most that a share can become, for any values of the missing truths.

    The worst case of Manski 1990. None for a metric that is no plain share.

    Args:
        name: Of the metric.
        rows: With their truth.
        missing: Rows whose truth is not known; theirs is not looked at.
    """
    if rows.task != "classification" or name not in ("accuracy", "precision", "recall"):
        return None
    right = rows.truth == rows.answers
    if name == "accuracy":
        total = len(rows) + len(missing)
        return _part(right.sum(), total), _part(right.sum() + len(missing), total)
    if 1 not in (rows.classes or ()):
        return None
    place = list(rows.classes or ()).index(1)
    hits = int((right & (rows.answers == place)).sum())
    yes = int((missing.answers == place).sum())
    if name == "precision":
        total = int((rows.answers == place).sum()) + yes
        return _part(hits, total), _part(hits + yes, total)
    true, no = int((rows.truth == place).sum()), len(missing) - yes
    return _part(hits, true + no), _part(hits + yes, true + yes)


def _part(some: float, total: float) -> float:
    return float(some) / total if total else 0.0


def score_of_rows(rows: Labelled) -> NDArray[np.float64]:
    """Of each row: whether it is right, or its absolute error."""
    if rows.task == "classification":
        return np.asarray(rows.truth == rows.answers, np.float64)
    return np.asarray(np.abs(np.asarray(rows.truth, np.float64) - rows.answers))
