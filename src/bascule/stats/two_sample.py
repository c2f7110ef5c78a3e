"""Has a column moved? Two-sample tests of a window against a baseline, on their profiles.

Every test holds at any size of the baseline, because both sides are ranked or counted together:
scores by the quantiles of a baseline of 30 rows have no law that these rows could tell.

- Numbers: three times the smallest of three p-values (Bonferroni). The distance of Kolmogorov and
  Smirnov with the correction of Stephens 1970 finds a change of shape. A location score and a
  spread score, normal scores of the pooled ranks (van der Waerden 1952; Klotz 1962), find a shift
  and a change of width from fewer rows. Their tails are saddlepoints.
- Texts and truth values: Fisher's exact test of each category against all others, times the
  categories (Bonferroni). Sums of squares over rare categories have no known tail at 1e-5.
- Missing values: Fisher's exact test.
- Unseen categories: as many rows as Good 1953 expects from the categories seen once. Numbers out of
  the range of the baseline: exceedances (Gumbel and von Schelling 1950).

Rows of one window share causes, so tests take `between`, the variance of the windows' means beside
that of independent rows, in units of the variance of a row. A window of n rows then counts as
n / (1 + n between) rows: Kish's design effect, as Rao and Scott 1981 apply it to counts.

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
    hypergeometric_tail,
    kolmogorov_tail,
    mean_difference_tail,
    negative_binomial_tail,
    normal_tail,
)

Floats = NDArray[np.float64]

BINS = 200
"""Bins of the baseline that scores are given to."""

_EXACT_CELLS = 4
"""Categories, those that moved most, whose exact p-value is computed."""

_FAR = 2.4
"""Standard errors from which on a tail is no normal curve's."""

_SHARES = [place / BINS for place in range(1, BINS)]
# A value at an edge has the middle of the bins on both sides: half steps.
_NORMAL_SCORES = np.array(
    [NormalDist().inv_cdf((half / 2 + 0.5) / BINS) for half in range(2 * BINS - 1)]
)


def effective_rows(rows: int, between: float) -> float:
    """How many independent rows have a mean as uncertain as that of a window of `rows`."""
    return rows / (1 + rows * between)


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
        what: The category, or the value, at which the test found most; empty otherwise.
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
        location: The mean score by the baseline's quantiles, in deviations of its scores.
        spread: The mean square of the scores, less 1.
        distance: Kolmogorov-Smirnov, at most as large as the true one.
        at: The value at which the shares of the rows not over it differ by that.
        slack: How far the sketches may move `location`.
        rank_slack: How far they may move a difference of shares.
        now: Rows of the window at each different value of both sides, ascending.
        then: Rows of the baseline at each of them. The same shape.
    """

    rows: int
    location: float
    spread: float
    distance: float
    at: float
    slack: float
    rank_slack: float
    now: Floats
    then: Floats


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
        self._values, self._weights = sketch.weighted()
        self.edges = sketch.quantiles(_SHARES)
        counts = np.bincount(self._places(self._values), self._weights, len(_NORMAL_SCORES))
        shares = counts / self.rows
        mean = float(shares @ _NORMAL_SCORES)
        deviation = math.sqrt(float(shares @ (_NORMAL_SCORES - mean) ** 2))
        self.is_constant = deviation < 1e-9
        self._scores = (_NORMAL_SCORES - mean) / (deviation or 1.0)
        used = shares > 0
        self.location_law = Atoms(self._scores[used], shares[used])
        self._reach = float(np.ptp(self.location_law.values))

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
        slack = error / rows + self.error / self.rows
        different, now, then = self._pooled(values, weights)
        steps = np.abs(np.cumsum(now / rows - then / self.rows))
        most = int(steps.argmax())
        distance = max(0.0, float(steps[most]) - slack)
        at = float(different[most])
        return Scores(rows, location, spread, distance, at, slack * self._reach, slack, now, then)

    def test(self, scores: Scores, between: float = 0.0, between_spread: float = 0.0) -> Outcome:
        """The best of the three tests, its p-value three times its own.

        Args:
            scores: Of the window.
            between: See the module; of the mean score.
            between_spread: The same of the mean square of the scores.
        """
        n, others, now, then = scores.rows, self.rows, scores.now, scores.then
        independent = effective_rows(n, between)
        shape = kolmogorov_tail(scores.distance, independent * others / (independent + others))
        outcomes = [Outcome("shape", shape, scores.distance, scores.distance, f"{scores.at:.6g}")]
        weights = now + then
        middles = (np.cumsum(weights) - weights / 2) / (n + others)
        # Even places of the scores are the middles of the bins.
        scored = _NORMAL_SCORES[2 * np.minimum((middles * BINS).astype(np.int64), BINS - 1)]
        scored = scored - float(weights @ scored) / (n + others)
        width = math.sqrt(max(0.0, 1 + scores.spread)) - 1
        for test, pooled, rows, effect in (
            ("location", scored, independent, scores.location),
            ("spread", scored**2, effective_rows(n, between_spread), width),
        ):
            moved = float((now / n - then / others) @ pooled)
            moved = shrunk(moved, scores.rank_slack * _travel(pooled))
            mean = float(weights @ pooled) / (n + others)
            variance = float(weights @ (pooled - mean) ** 2) / (n + others)
            error = math.sqrt(variance * (1 / rows + 1 / others))
            statistic = moved / error if error else 0.0
            p_value = 2 * normal_tail(abs(statistic))
            if abs(statistic) > _FAR:
                p_value = _either_tail(_law(pooled, weights), moved, rows, others)
            outcomes.append(Outcome(test, min(1.0, p_value), statistic, effect))
        best = min(outcomes, key=lambda outcome: outcome.p_value)
        return replace(best, p_value=min(1.0, 3 * best.p_value))

    def _pooled(self, values: Floats, weights: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """The different values of both sides, ascending; rows of the window and of the baseline."""
        both = np.concatenate([values, self._values])
        order = np.argsort(both, kind="stable")
        both = both[order]
        starts = np.append(0, np.flatnonzero(both[1:] != both[:-1]) + 1)
        sides = np.zeros((2, len(both)))
        sides[0, : len(values)], sides[1, len(values) :] = weights, self._weights
        now, then = np.add.reduceat(sides[:, order], starts, axis=1)
        return both[starts], now, then


def _law(values: Floats, weights: Floats) -> Atoms:
    """The law of a row's score, whichever side it is of."""
    different, places = np.unique(values, return_inverse=True)
    return Atoms(different, np.bincount(places, weights) / float(weights.sum()))


def _travel(values: Floats) -> float:
    """How far a mean score moves at most, per share of the rows by which a rank is wrong."""
    return float(np.abs(np.diff(values)).sum())


def shrunk(value: float, slack: float) -> float:
    """A value moved towards 0 by what it may be off."""
    return math.copysign(max(0.0, abs(value) - slack), value)


def _either_tail(law: Atoms, difference: float, rows: float, others: int) -> float:
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


def missing_test(baseline: ColumnProfile, window: ColumnProfile, between: float = 0.0) -> Outcome:
    """Whether more or fewer values are missing: exact, given how many are missing in all.

    Nine tenths of the level are for more of them (weighted Bonferroni): two in 50 rows are enough.
    """
    effect = window.missing / window.rows - baseline.missing / baseline.rows
    sides = (window.missing, window.rows, baseline.missing, baseline.rows)
    more, fewer = _more(*sides, between), _fewer(*sides, between)
    p_value = min(1.0, more / 0.9, fewer / 0.1)
    return Outcome("missing", p_value, window.missing, effect)


def _more(count: int, rows: int, others: int, other_rows: int, between: float) -> float:
    """Fisher's exact test for more in a window than in the baseline.

    Effective rows and counts are rounded towards no difference.
    """
    share = effective_rows(rows, between) / rows
    drawn, marked = math.ceil(rows * share), math.floor(count * share + 1e-9)
    return hypergeometric_tail(marked, drawn, marked + others, drawn + other_rows)


def _fewer(count: int, rows: int, others: int, other_rows: int, between: float) -> float:
    return _more(rows - count, rows, other_rows - others, other_rows, between)


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

    def test(self, window: ColumnProfile, between: float = 0.0) -> Outcome:
        """Whether the shares of the categories have moved: the smallest of their exact p-values.

        A count of a sketch is known to within its error; of the counts that are possible, those
        that differ least are compared. Categories that the baseline certainly does not have are
        left to `unseen`: a baseline of 30 rows lacks most of 1,000 categories, and a test of all
        others together would take that for a change.
        """
        n, others = window.rows - window.missing - window.infinite, self.rows
        counts, error = window.frequent.counts, window.frequent.error
        names = [*self.counts]
        if self.error:
            names += [value for value in counts if value not in self.counts]
        if not names:  # so many that a sketch keeps none
            return Outcome("categories", 1.0, 0.0, 0.0)
        then = np.array([self.counts.get(value, 0) for value in names], np.float64)
        now = np.array([counts.get(value, 0) for value in names], np.float64)
        before = np.clip(now / n * others, then, np.minimum(others, then + self.error))
        after = np.clip(before / others * n, now, np.minimum(n, now + error))
        moved = after / n - before / others
        moved = np.where(np.abs(moved) < 1e-12, 0, moved)
        pooled = (before + after) / (n + others)
        errors = np.sqrt(pooled * (1 - pooled) * (1 / effective_rows(n, between) + 1 / others))
        distances = np.abs(moved) / np.maximum(errors, 1e-12)
        best, p_value = int(distances.argmax()), 1.0
        for place in np.argsort(-distances)[:_EXACT_CELLS].tolist():
            sides = (int(after[place]), n, int(before[place]), others)
            p = (_more if moved[place] > 0 else _fewer)(*sides, between) if moved[place] else 1.0
            if p < p_value:
                best, p_value = place, p
        # Of two categories, both say the same.
        tests = 1 if len(names) == 2 and not self.error else len(names)
        p_value = min(1.0, 2 * p_value * tests)
        statistic, effect = float(distances[best]), float(moved[best])
        return Outcome("categories", p_value, statistic, effect, str(names[best]))

    def unseen(self, window: ColumnProfile, known: frozenset[str] = frozenset()) -> Outcome | None:
        """Rows of categories that the baseline does not have, nor `known`; None if it is too large.

        Given f categories seen once in N rows, the rows of new categories in n more are at most
        about negative binomial with f + 1 and N / (n + N) (Good 1953).
        """
        if self.error:
            return None
        n = window.rows - window.missing - window.infinite
        counts = window.frequent.counts
        fresh = {str(name): count for name, count in counts.items() if name not in self.counts}
        count = sum(number for name, number in fresh.items() if name not in known)
        if not known:
            seen = sum(number for name, number in counts.items() if name in self.counts)
            count = max(count, n - seen - window.frequent.error * len(self.counts))
        share = self.rows / (n + self.rows)
        p_value = negative_binomial_tail(count, self.singletons + 1, share)
        largest = max(
            (name for name in fresh if name not in known), key=fresh.__getitem__, default=""
        )
        return Outcome("unseen", p_value, count, count / n, largest)
