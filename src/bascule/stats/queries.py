"""Whether the queries of a caller look like rows from the world, or like a search for the model.

PRADA (Juuti et al. 2019, "Protecting against DNN Model Stealing Attacks", section 5): the distance
of each query to the nearest earlier one of its class is about normal for rows from the world, and
far from it for queries that are generated. For tables it is not normal for honest callers either,
and queries that fill the space are nearer to normal than these. So the Shapiro-Wilk statistic is
compared, both ways, with that of random draws of known rows, of the same number: `log(1 - W)` is
about normal (Royston 1995), and Student's law gives the p-value. The level of the distances is
compared likewise: steps along a line are nearer to each other than rows, and noise is farther.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.stats.outliers import scales_of, split
from bascule.stats.tails import student_tail

Floats = NDArray[np.float64]
QUERIES, MOST_QUERIES = 100, 300
"""Queries are looked at in blocks of so many, the last ones up to the second number."""
MIN_KNOWN = 2 * QUERIES
_DRAWS = 100
_OUTLIER_DEVIATIONS, _LEAST_VALUES = 3.0, 12


def query_distances(rows: Floats, classes: NDArray[Any]) -> Floats:
    """The distance of each query to the nearest of the earlier ones of its class that count.

    As in algorithm 3 of the paper: a query counts from then on if it is farther than the mean less
    the deviation of the distances of those that count.

    Args:
        rows: The queries in their order, columns of comparable scale. Shape (rows, columns).
        classes: What the model answered. Shape (rows,).
    """
    distances = []
    for label in np.unique(classes):
        of_class = rows[classes == label]
        apart = np.sqrt(((of_class[:, None] - of_class) ** 2).sum(axis=2))
        counting, far, least = [0], list[float](), 0.0
        for row in range(1, len(of_class)):
            distance = float(apart[row, counting].min())
            distances.append(distance)
            if distance > least or not far:
                counting.append(row)
                far.append(distance)
                least = max(least, float(np.mean(far) - np.std(far)))
    return np.asarray(distances)


def shapiro_wilk(values: Floats) -> float:
    """The statistic W of normality; 1 is normal. Royston's approximation (AS R94) from 12 values.

    Values that are all alike have no W: 0.
    """
    deviations = np.sort(values) - values.mean()
    spread = float(deviations @ deviations)
    if not spread > 1e-18 * max(1.0, float(np.abs(values).max()) ** 2):
        return 0.0
    return float((_weights(len(values)) @ deviations) ** 2 / spread)


@cache
def _weights(count: int) -> Floats:
    quantile = NormalDist().inv_cdf
    scores = np.array([quantile((i - 0.375) / (count + 0.25)) for i in range(1, count + 1)])
    square, u = float(scores @ scores), count**-0.5
    last = np.polyval((-2.706056, 4.434685, -2.07119, -0.147981, 0.221157, 0), u)
    before = np.polyval((-3.582633, 5.682633, -1.752461, -0.293762, 0.042981, 0), u)
    last += scores[-1] / square**0.5
    before += scores[-2] / square**0.5
    phi = (square - 2 * scores[-1] ** 2 - 2 * scores[-2] ** 2) / (1 - 2 * last**2 - 2 * before**2)
    weights: Floats = scores / phi**0.5
    weights[[0, 1, -2, -1]] = -last, -before, before, last
    return weights


def _shape_and_level(rows: Floats, classes: NDArray[Any]) -> Floats:
    """`log(1 - W)` of the distances without outliers, and the mean of their logarithms."""
    distances = query_distances(rows, classes)
    if not len(distances):
        return np.zeros(2)
    near = np.abs(distances - distances.mean()) <= _OUTLIER_DEVIATIONS * distances.std()
    statistic = shapiro_wilk(distances[near]) if near.sum() > _LEAST_VALUES else 0.0
    floor = 1e-6 * max(1e-12, float(distances.max()))
    return np.array([np.log(max(1e-9, 1 - statistic)), np.log(distances + floor).mean()])


class KnownRows:
    """Rows from the world, such as those held out; at least `MIN_KNOWN`."""

    def __init__(self, columns: Columns, classes: NDArray[Any]) -> None:
        """`classes`: what the model answers to them. Shape (rows,)."""
        self._scales = scales_of(columns, ())
        self._rows, self._classes = self._scaled(columns), classes
        self._draws = cache(self._drawn)

    def p_value(self, columns: Columns, classes: NDArray[Any]) -> float:
        """The chance that as many known rows look so unusual; of at least `QUERIES`, the last.

        Known rows are drawn without replacement, for a row that comes twice has no distance. Draws
        from few rows differ less from each other than from new rows: with n of N, by a factor of
        (N + n) / (N - n) in variance, which the test takes into account.
        """
        rows, known = self._scaled(columns), len(self._rows)
        count = min(len(rows), known // 2, MOST_QUERIES) // QUERIES * QUERIES
        draws = self._draws(count)
        found = _shape_and_level(rows[-count:], classes[-count:])
        wider = ((known + count) / (known - count) + 1 / _DRAWS) ** 0.5
        deviations = np.maximum(draws.std(axis=0, ddof=1), 1e-6) * wider
        t = np.abs(found - draws.mean(axis=0)) / deviations
        tails = [student_tail(float(value), _DRAWS - 1) for value in t]
        return min(1.0, 2 * len(tails) * min(tails))

    def _scaled(self, columns: Columns) -> Floats:
        return self._scales.encoded(*split(columns, ()))[0].astype(np.float64)

    def _drawn(self, count: int) -> Floats:
        random = np.random.default_rng(0)
        chosen = [random.choice(len(self._rows), count, replace=False) for _ in range(_DRAWS)]
        return np.array([_shape_and_level(self._rows[at], self._classes[at]) for at in chosen])
