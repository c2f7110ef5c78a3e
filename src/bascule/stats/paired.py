"""Two models on the same rows: is one worse than the other, and by how much?

The same rows make the answers of two models alike, so they are compared in pairs. A difference is
always the candidate less the champion in a measure that is better when larger; it comes with an
interval, and "not worse by more than d" is the question whether the lower end is over -d
(non-inferiority; the two one-sided tests of Schuirmann 1987). An interval at 90 % errs on either
side once in twenty times, so a candidate that is worse by d or more passes at most so often.

- Shares of right answers: the score interval for paired proportions of Tango 1998. At a difference
  of nought its test is the one of McNemar 1947, which is reported beside it: exact for up to 1,000
  pairs that differ, with the correction of Edwards 1948 beyond.
- Any other measure: a bootstrap of the rows in pairs. Of two intervals the farther end counts:
  BCa (Efron 1987) with the quantiles of Student's law in place of normal ones, expanded (Hesterberg
  2015, "What Teachers Should Know about the Bootstrap", the section on the expanded percentile
  interval), and Student's own with the error of the jackknife. Either alone errs too often on few
  rows: the first with long tails on both sides, the second with one on the side of the losses. Both
  are asked at a smaller share of errors where rows are few, by n / (n + 40), which was found by
  simulation and not by theory.
- What has not been seen is not ruled out. Of n rows in which nothing is lost, the share that loses
  may still be 1 - 0.05^(1/n), about 3/n (the "rule of three", Hanley and Lippman-Hand 1983): where
  most rows tell the same, the interval is no narrower than that share at the cost of one such row.
- On fewer than `MIN_ROWS` rows, none of this is reliable, and nothing is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid

Rows = NDArray[np.int64]
Difference = Callable[[Rows], float]
"""The difference of the two models on some rows, of which one may be there more than once."""

MAX_EXACT_PAIRS = 1_000
RESAMPLES = 1_000
CONFIDENCE = 0.9
MIN_ROWS = 20
"""The fewest rows, or rows of the rarest class, that a bootstrap is judged on."""

_GROUPS = 200
_FEW_ROWS = 40
"""On so many rows an end errs half as often by its formula; measured, once in twenty times."""
_MOST_AMOUNTS = 32
"""By which rows differ that were only right or wrong; with more, those that differ are many."""
_SAME = 1e-9
_MAX_LOST = 0.05
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a candidate stands to a champion.

    Attributes:
        difference: Candidate less champion, better when larger.
        lower: The lower end of the interval.
        upper: The upper end.
        confidence: Of the interval, both sides together.
        test: How it was found, in words.
    """

    difference: float
    lower: float
    upper: float
    confidence: float
    test: str


@dataclass(frozen=True, slots=True)
class McNemar:
    """The pairs in which two models differ.

    Attributes:
        gained: Rows that the candidate alone has right.
        lost: Rows that the champion alone has right.
        p_value: Of the two-sided test that both are equally right.
        exact: Whether it is the binomial one.
    """

    gained: int
    lost: int
    p_value: float
    exact: bool


def mcnemar(gained: int, lost: int) -> McNemar:
    """The test of McNemar 1947 for the pairs that differ."""
    pairs, fewer = gained + lost, min(gained, lost)
    if pairs <= MAX_EXACT_PAIRS:
        tail = sum(math.comb(pairs, count) for count in range(fewer + 1))
        return McNemar(gained, lost, min(1.0, 2 * tail / 2**pairs), exact=True)
    corrected = (abs(gained - lost) - 1) ** 2 / pairs
    return McNemar(gained, lost, math.erfc(math.sqrt(corrected / 2)), exact=False)


def compare_right(
    champion: NDArray[np.bool_], candidate: NDArray[np.bool_], *, confidence: float = CONFIDENCE
) -> Comparison:
    """Compare the shares of right answers.

    Args:
        champion: Whether each row was right. Shape (rows,).
        candidate: The same for the same rows.
        confidence: Of the interval.

    Raises:
        Invalid: There are no rows, or not the same ones.
    """
    rows = len(champion)
    if not rows or champion.shape != candidate.shape:
        raise Invalid(f"{rows} rows of the champion and {len(candidate)} of the candidate")
    gained = int((candidate & ~champion).sum())
    lost = int((champion & ~candidate).sum())
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    lower, upper = (_tango_end(gained, lost, rows, sign * z) for sign in (1, -1))
    told = mcnemar(gained, lost)
    kind = "exact" if told.exact else "corrected"
    test = f"Tango's score interval; {kind} McNemar p = {told.p_value:.3g}"
    return Comparison((gained - lost) / rows, lower, upper, confidence, test)


def tango_score(gained: int, lost: int, rows: int, difference: float) -> float:
    """The score statistic of Tango 1998 for a true difference; about standard normal if it is."""
    a = 2 * rows
    b = -gained - lost + (2 * rows - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    losing = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = rows * (2 * losing + difference * (1 - difference))
    away = gained - lost - rows * difference
    if variance <= 0:
        return math.copysign(math.inf, away) if away else 0.0
    return away / math.sqrt(variance)


def _tango_end(gained: int, lost: int, rows: int, z: float) -> float:
    """The difference whose score is `z`, by bisection: the score falls as it rises."""
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if tango_score(gained, lost, rows, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def bootstrap(
    difference: Difference,
    rows: int,
    *,
    fewest: int | None = None,
    reach: float | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare by drawing rows, with replacement and in pairs.

    The same rows and the same seed give the same interval. The jackknife leaves out one row at a
    time, or one of 200 groups where there are more rows.

    Args:
        difference: Of the two models on the rows of these numbers; NaN where it has none, as
            when a draw has only one class.
        rows: How many there are.
        fewest: How many of them have the rarest class, for a measure that is an average over
            classes: it knows no more than these can tell. `rows` for any other.
        reach: The difference that a model can lose by one row, times `fewest`: 1 for a share of
            rows. None where there is no bound, or none that is known.
        confidence: Of the interval.
        resamples: How many draws.
        seed: Of the draws.

    Raises:
        Invalid: There are fewer than `MIN_ROWS` rows, too many draws have no difference, or all
            rows tell the same and what one could cost has no bound.
    """
    if fewest is None:
        fewest = rows
    if fewest < MIN_ROWS:
        which = f"{rows} rows" if fewest == rows else f"{fewest} rows of the rarest class"
        raise Invalid(
            f"{which} are too few to compare on; {MIN_ROWS} are the fewest",
            hint="give more test rows",
        )
    found = difference(np.arange(rows))
    random = np.random.default_rng(seed)
    draws = np.array([difference(random.integers(0, rows, rows)) for _ in range(resamples)])
    known = draws[np.isfinite(draws)]
    if not math.isfinite(found) or len(known) < (1 - _MAX_LOST) * resamples:
        raise Invalid(
            f"{resamples - len(known)} of {resamples} draws of {rows} rows have no difference",
            hint="give more test rows, of every class",
        )
    away = _jackknife(difference, rows)
    share = (1 - confidence) / 2
    unseen = _unseen(found, away, rows, fewest, reach, share)
    share *= rows / (rows + _FEW_ROWS)
    bca = _bca(found, known, away, fewest, share)
    error = math.sqrt(max(1, len(away) - 1) / max(1, len(away)) * float((away**2).sum()))
    half = -student_quantile(share, min(fewest, _GROUPS) - 1) * error
    lower = min(bca[0], found - max(half, unseen))
    upper = max(bca[1], found + max(half, unseen))
    test = f"paired bootstrap, the wider of BCa and Student's t, {resamples} draws"
    if unseen and (lower, upper) == (found - unseen, found + unseen):
        test += "; most rows tell the same, and the width is what so many cannot rule out"
    return Comparison(found, lower, upper, confidence, test)


def student_quantile(share: float, degrees: int) -> float:
    """Of Student's law, from the normal one (Abramowitz and Stegun 1964, 26.7.5).

    Right to 0.002 for the degrees (19 and more) and the shares (0.1 % and more) of this module.
    """
    z = _NORMAL.inv_cdf(share)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def _jackknife(difference: Difference, rows: int) -> NDArray[np.float64]:
    """By how much each row, or group of rows, moves the difference."""
    every = np.arange(rows)
    groups = min(rows, _GROUPS)
    # Neighbours in a table are often alike; a group takes its rows from all over it.
    left = np.array([difference(every[every % groups != group]) for group in range(groups)])
    known: NDArray[np.float64] = left[np.isfinite(left)]
    return known.mean() - known if len(known) else known


def _unseen(
    found: float,
    away: NDArray[np.float64],
    rows: int,
    fewest: int,
    reach: float | None,
    share: float,
) -> float:
    """How far the difference may be off by rows of which none was drawn; nought where all differ.

    One row that was seen tells what another may cost; where none was, only a bound does.
    """
    most = float(np.abs(away).max(initial=0.0))
    is_flat = most <= _SAME * abs(found) / rows
    if not is_flat and len(np.unique(np.round(away / most, 9))) > min(_MOST_AMOUNTS, len(away) / 2):
        return 0.0
    if is_flat and reach is None:
        raise Invalid(
            "all rows tell the same difference, and what another row could tell has no bound",
            hint="compare by a metric that has one, such as accuracy, or on other test rows",
        )
    # A row that is left out moves the difference by its own over the number of rows.
    seen = 0.0 if is_flat else most * (rows - 1)
    return max(_not_ruled_out(rows, share) * seen, _not_ruled_out(fewest, share) * (reach or 0.0))


def _not_ruled_out(rows: int, share: float) -> float:
    """The largest share of rows of which none is among so many in `share` of the draws."""
    return 1 - math.pow(share, 1 / rows)


def _bca(
    found: float,
    draws: NDArray[np.float64],
    away: NDArray[np.float64],
    fewest: int,
    share: float,
) -> tuple[float, float]:
    """Both ends; Student's quantile, and the factor of the expanded interval, widen them."""
    count = len(draws)
    below = ((draws < found).sum() + (draws <= found).sum()) / (2 * count)
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / count), 1 - 0.5 / count))
    spread = float((away**2).sum()) ** 1.5
    acceleration = float((away**3).sum()) / (6 * spread) if spread > 0 else 0.0
    low = student_quantile(share, fewest - 1) * math.sqrt(fewest / (fewest - 1))
    ends = []
    for sign in (1, -1):
        moved = bias + sign * low
        stretch = 1 - acceleration * moved
        # Past its pole the formula turns round; the outermost draw is meant.
        level = _NORMAL.cdf(bias + moved / stretch) if stretch > 0 else float(moved > 0)
        ends.append(float(np.quantile(draws, level)))
    return ends[0], ends[1]


def roc_auc_difference(
    truth: NDArray[np.bool_], champion: NDArray[Any], candidate: NDArray[Any]
) -> Difference:
    """The difference of the areas under the ROC curves; ties count half (Mann and Whitney 1947).

    The order of the scores is found once, so a draw costs no sorting.
    """
    areas = [_RocAuc(truth, np.asarray(scores)) for scores in (champion, candidate)]

    def difference(rows: Rows) -> float:
        weights = np.bincount(rows, minlength=len(truth))
        return areas[1].of(weights) - areas[0].of(weights)

    return difference


class _RocAuc:
    def __init__(self, truth: NDArray[np.bool_], scores: NDArray[Any]) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._starts = np.append(0, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)
        self._is_true = truth[self._order]

    def of(self, weights: NDArray[Any]) -> float:
        """Each row as often as its weight says; NaN where a class has no rows."""
        ordered = weights[self._order]
        yes = np.add.reduceat(np.where(self._is_true, ordered, 0), self._starts)
        no = np.add.reduceat(np.where(self._is_true, 0, ordered), self._starts)
        pairs = float(yes.sum()) * float(no.sum())
        if not pairs:
            return math.nan
        lower = np.cumsum(no) - no
        return float((yes * (lower + no / 2)).sum()) / pairs
