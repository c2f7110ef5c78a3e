"""Has a column moved? Two-sample tests of a window against a baseline, on their profiles.

Neither side is exact: a baseline of N rows has its own error, and a test that ignores it raises
13 times too many alarms for a window of 50,000 rows. Every test here knows both sizes.

- Numbers: three times the smallest of three p-values (Bonferroni). The distance of Kolmogorov and
  Smirnov with the correction of Stephens 1970 finds a change of shape. A location score and a
  spread score, normal scores by the quantiles of the baseline (van der Waerden 1952; Klotz 1962),
  find a shift and a change of width from fewer rows. Their tails are saddlepoints.
- Texts and truth values: the power divergence of Cressie and Read 1984 over the categories, rare
  cells pooled; Fisher's exact test for two cells.
- Missing values: Fisher's exact test.
- Unseen categories: as many rows as Good 1953 expects from the categories seen once. Numbers out of
  the range of the baseline: exceedances (Gumbel and von Schelling 1950).

The error of a rank or count that a sketch guarantees is taken off every difference, so a p-value is
never too small because of a sketch. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bascule.stats.sketches import ColumnProfile
from bascule.stats.tails import (
    Atoms,
    both_sides,
    chi_square_tail,
    hypergeometric_tail,
    kolmogorov_tail,
    mean_difference_tail,
    negative_binomial_tail,
)

Floats = NDArray[np.float64]

BINS = 200
"""Bins of the baseline that scores are given to."""

MIN_EXPECTED = 5.0
"""Rows expected in a cell of chi-square; cells with fewer are pooled."""

_SHARES = [place / BINS for place in range(1, BINS)]
# A value at an edge has the middle of the bins on both sides: half steps.
_NORMAL_SCORES = np.array(
    [NormalDist().inv_cdf((half / 2 + 0.5) / BINS) for half in range(2 * BINS - 1)]
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one test found.

    Attributes:
        test: `location`, `spread`, `shape`, `categories`, `missing`, `unseen` or `range`.
        p_value: The chance of as much without any drift; corrected for the tests it is the best of.
        statistic: Standard errors for location and spread, a distance for shape, a chi-square
            value for categories, rows for the others.
        effect: How much: baseline deviations for location, their relative change for spread, a
            Kolmogorov-Smirnov distance for shape, a difference of shares for the others. Signed
            where it has a direction.
        what: The category that changed most; empty otherwise.
    """

    test: str
    p_value: float
    statistic: float
    effect: float
    what: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """Where the numbers of a window lie in the baseline.

    Attributes:
        rows: Finite numbers of the window.
        location: The mean score, in standard deviations of the baseline's scores.
        spread: The mean square of the scores, less 1.
        distance: Kolmogorov-Smirnov, at most as large as the true one.
        slack: How far the sketches may move `location`.
        slack_spread: How far they may move `spread`.
    """

    rows: int
    location: float
    spread: float
    distance: float
    slack: float
    slack_spread: float


class NumberBaseline:
    """The numbers of a baseline, prepared for many windows.

    Attributes:
        rows: Finite numbers.
        error: Of a rank, in rows.
        edges: The quantiles between the bins, ascending. Shape (BINS - 1,).
    """

    def __init__(self, column: ColumnProfile) -> None:
        sketch = column.quantiles
        self.rows, self.error = sketch.rows, sketch.error
        self._values, weights = sketch.weighted()
        self._reached = np.append(0, np.cumsum(weights)) / self.rows
        self.edges = sketch.quantiles(_SHARES)
        shares = np.bincount(self._places(self._values), weights, len(_NORMAL_SCORES)) / self.rows
        mean = float(shares @ _NORMAL_SCORES)
        deviation = math.sqrt(float(shares @ (_NORMAL_SCORES - mean) ** 2))
        self.is_constant = deviation < 1e-9
        self._scores = (_NORMAL_SCORES - mean) / (deviation or 1.0)
        used = shares > 0
        self.location_law = Atoms(self._scores[used], shares[used])
        self.spread_law = Atoms(self._scores[used] ** 2 - 1, shares[used])
        self._reach = float(np.ptp(self.location_law.values))
        self._reach_spread = 2 * float(np.ptp(self.spread_law.values))

    def _places(self, values: Floats) -> NDArray[np.int64]:
        below = np.searchsorted(self.edges, values, side="left")
        return below + np.searchsorted(self.edges, values, side="right")

    def score(self, column: ColumnProfile) -> Scores:
        """The scores of a window with at least one finite number."""
        values, weights = column.quantiles.weighted()
        return self.score_values(values, weights, column.quantiles.error)

    def score_values(self, values: Floats, weights: NDArray[np.int64], error: int = 0) -> Scores:
        """The same for ascending values, each of which stands for so many rows."""
        rows = int(weights.sum())
        scores = self._scores[self._places(values)]
        location = float(weights @ scores) / rows
        spread = float(weights @ scores**2) / rows - 1
        reached = np.append(0, np.cumsum(weights)) / rows
        at = self._reached[np.searchsorted(self._values, values, side="right")]
        before = self._reached[np.searchsorted(self._values, values, side="left")]
        distance = max(float((reached[1:] - at).max()), float((before - reached[:-1]).max()), 0.0)
        slack = error / rows + self.error / self.rows
        return Scores(
            rows,
            location,
            spread,
            max(0.0, distance - slack),
            slack * self._reach,
            slack * self._reach_spread,
        )

    def test(self, scores: Scores) -> Outcome:
        """The best of the three tests, its p-value three times its own."""
        n, others = scores.rows, self.rows
        shape = kolmogorov_tail(scores.distance, n * others / (n + others))
        found = [Outcome("shape", shape, scores.distance, scores.distance)]
        if not self.is_constant:
            width = math.sqrt(max(0.0, 1 + scores.spread)) - 1
            for test, law, found_mean, slack, effect in (
                ("location", self.location_law, scores.location, scores.slack, scores.location),
                ("spread", self.spread_law, scores.spread, scores.slack_spread, width),
            ):
                moved = shrunk(found_mean, slack)
                error = math.sqrt(law.cumulants(0.0)[2] * (1 / n + 1 / others))
                statistic = moved / error if error else 0.0
                found.append(Outcome(test, _either_tail(law, moved, n, others), statistic, effect))
        best = min(found, key=lambda one: one.p_value)
        return replace(best, p_value=min(1.0, 3 * best.p_value))


def shrunk(value: float, slack: float) -> float:
    """A value moved towards 0 by what it may be off."""
    return math.copysign(max(0.0, abs(value) - slack), value)


def _either_tail(law: Atoms, difference: float, rows: int, others: int) -> float:
    law = law if difference >= 0 else law.negated()
    return min(1.0, 2 * mean_difference_tail(law, abs(difference), rows, others))


def range_test(baseline: ColumnProfile, window: ColumnProfile) -> Outcome | None:
    """Numbers of the window out of the baseline's range; None without finite numbers.

    That the k largest of all rows are all of the window has the chance of
    n/(n+N) (n-1)/(n+N-1) ... of k factors, for any law. Infinite numbers count as out of range
    where the baseline has none.
    """
    least, most = baseline.moments.least, baseline.moments.most
    sketch, n, others = window.quantiles, window.quantiles.rows, baseline.quantiles.rows
    if least is None or most is None or window.moments.least is None or window.moments.most is None:
        return None
    over = under = 0
    if window.moments.most > most:
        over = max(1, n - sketch.rank(most) - sketch.error)
    if window.moments.least < least:
        under = max(1, sketch.rank(math.nextafter(least, -math.inf)) - sketch.error)
    infinite = 0 if baseline.infinite else window.infinite
    outside = max(over, under) + infinite
    places = np.arange(min(outside, n + infinite))
    logs = np.log((n + infinite - places) / (n + infinite + others - places))
    p_value = min(1.0, 2 * math.exp(max(-700.0, float(logs.sum())))) if outside else 1.0
    outside = over + under + infinite
    return Outcome("range", p_value, outside, outside / (n + infinite))


def missing_test(baseline: ColumnProfile, window: ColumnProfile) -> Outcome:
    """Whether more or fewer values are missing: exact, given how many are missing in all.

    Nine tenths of the level are for more of them (weighted Bonferroni): two in 50 rows are enough.
    """
    effect = window.missing / window.rows - baseline.missing / baseline.rows
    marked, total = window.missing + baseline.missing, window.rows + baseline.rows
    more = hypergeometric_tail(window.missing, window.rows, marked, total)
    fewer = hypergeometric_tail(baseline.missing, baseline.rows, marked, total)
    p_value = min(1.0, more / 0.9, fewer / 0.1)
    return Outcome("missing", p_value, window.missing, effect)


def _exact(count: int, rows: int, other_count: int, other_rows: int) -> float:
    marked, total = count + other_count, rows + other_rows
    upper = hypergeometric_tail(count, rows, marked, total)
    lower = hypergeometric_tail(other_count, other_rows, marked, total)
    return both_sides(upper, lower)


class CategoryBaseline:
    """The categories of a baseline, prepared for many windows.

    Attributes:
        rows: Values that are not missing.
        counts: By category; at most `sketches.MAX_FREQUENT` of them.
        error: A true count is up to this much larger. 0: `counts` has every category.
    """

    def __init__(self, column: ColumnProfile) -> None:
        self.rows = column.rows - column.missing - column.infinite
        self.counts = dict(column.frequent.counts)
        self.error = column.frequent.error

    @cached_property
    def singletons(self) -> int:
        return sum(count == 1 for count in self.counts.values())

    def test(self, window: ColumnProfile) -> Outcome:
        """Whether the shares of the categories have moved."""
        n = window.rows - window.missing - window.infinite
        counts, slack = window.frequent.counts, window.frequent.error / n + self.error / self.rows
        then = np.array([*self.counts.values()], np.float64)
        now = np.array([counts.get(value, 0) for value in self.counts], np.float64)
        then = np.append(then, self.rows - then.sum()) / self.rows
        moved = np.append(now, n - now.sum()) / n - then
        moved = np.sign(moved) * np.maximum(0, np.abs(moved) - slack)
        most = int(np.abs(moved).argmax())
        what = [*self.counts, "other values"][most]
        p_value, statistic = shares_test(then, moved, n, self.rows)
        return Outcome("categories", p_value, statistic, float(moved[most]), str(what))

    def unseen(self, window: ColumnProfile, known: frozenset[str] = frozenset()) -> Outcome | None:
        """Rows of categories that the baseline does not have, nor `known`; None if it is too large.

        Given f categories seen once in N rows, the rows of new categories in n more are at most
        about negative binomial with f + 1 and N / (n + N) (Good 1953).
        """
        if self.error:
            return None
        n = window.rows - window.missing - window.infinite
        counts = window.frequent.counts
        fresh = {str(one): count for one, count in counts.items() if one not in self.counts}
        count = sum(number for one, number in fresh.items() if one not in known)
        if not known:
            seen = sum(number for one, number in counts.items() if one in self.counts)
            count = max(count, n - seen - window.frequent.error * len(self.counts))
        share = self.rows / (n + self.rows)
        p_value = negative_binomial_tail(count, self.singletons + 1, share)
        largest = max((one for one in fresh if one not in known), key=fresh.__getitem__, default="")
        return Outcome("unseen", p_value, count, count / n, largest)


def shares_test(then: Floats, moved: Floats, rows: int, others: int) -> tuple[float, float]:
    """The p-value and the chi-square statistic of two samples of categories.

    The power divergence of Cressie and Read 1984 with 1/3, which is chi-square's law in the tail:
    at 1e-4, Pearson's statistic errs up to 4.7 times too often where 5 rows are expected, this one
    1.2 times. Cells of fewer expected rows are pooled. Two cells: Fisher's exact test.

    Args:
        then: The shares of the baseline. Shape (cells,).
        moved: The shares of the window less those. The same shape.
        rows: Of the window.
        others: Of the baseline.
    """
    share = rows / (rows + others)
    pooled = then + moved * share
    before, after = _pool(pooled - moved * share, pooled + moved * (1 - share), rows, others)
    if len(before) < 2:
        return 1.0, 0.0
    expected = before + (after - before) * share
    statistic = rows * _divergence(after, expected) + others * _divergence(before, expected)
    if len(before) == 2:
        rare = int((before + after).argmin())
        count, other = round(float(after[rare]) * rows), round(float(before[rare]) * others)
        return _exact(count, rows, other, others), statistic
    return chi_square_tail(statistic, len(before) - 1), statistic


def _pool(before: Floats, after: Floats, rows: int, others: int) -> tuple[Floats, Floats]:
    """Rare cells as one, and that one into the smallest other where it is rare as well."""
    expected = (before * others + after * rows) / (rows + others) * min(rows, others)
    is_rare = expected < MIN_EXPECTED
    rest = float(expected[is_rare].sum())
    order = np.flatnonzero(~is_rare)[np.argsort(expected[~is_rare])]
    groups = [np.array([place]) for place in order]
    if rest > 0:
        joins = rest < MIN_EXPECTED and len(groups) > 1
        groups[: 1 if joins else 0] = [
            np.append(order[: 1 if joins else 0], np.flatnonzero(is_rare))
        ]
    made = [np.array([float(side[group].sum()) for group in groups]) for side in (before, after)]
    return made[0], made[1]


def _divergence(found: Floats, expected: Floats) -> float:
    return 4.5 * float(
        (np.maximum(found, 0) * (np.cbrt(np.maximum(found, 0) / expected) - 1)).sum()
    )
