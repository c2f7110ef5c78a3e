"""Fairness: how far rates and metrics of groups of rows lie apart, with intervals. Numpy alone.

Definitions and values are those of fairlearn: a difference is the largest value of a group less
the smallest, a ratio the smallest over the largest; the equalized odds difference is the larger of
those of the true and the false positive rate (Hardt, Price and Srebro 2016).

Interval: of each pair of groups the square-and-add interval of the difference (MOVER: Zou and
Donner 2008), which for shares with Wilson's intervals is Newcombe's method 10 (1998), and on the
scale of logarithms for ratios. The largest difference is the largest of all pairs, so the largest
lower and the largest upper end hold it whenever all pairs are held; each pair is asked at 5 % over
the number of pairs (Bonferroni). With many groups that is wide, and holds more often than promised.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid
from bascule.metrics.estimates import Estimate, Labelled, estimate, mean_estimate
from bascule.metrics.intervals import wilson_interval
from bascule.metrics.table import METRICS

FEWEST_IN_GROUP = 20
"""Rows that decide a rate (its denominator, or those of the rarer class): a group with fewer says
too little, and is left out of differences."""
MAX_GROUPS = 50
_CONFIDENCE = 0.95

_ALL_ROWS = ("selection_rate", "mean_prediction")
"""What needs no truth."""
_OF_TRUTH = {
    "true_positive_rate": (True, True),
    "false_positive_rate": (False, True),
    "true_negative_rate": (False, False),
    "false_negative_rate": (True, False),
}
"""The truth of the rows that count for a rate, and the answer that it is the share of."""
_STEMS = {
    "demographic_parity": ("selection_rate",),
    "equalized_odds": ("true_positive_rate", "false_positive_rate"),
    "equal_opportunity": ("true_positive_rate",),
    **{name: (name,) for name in (*_ALL_ROWS, *_OF_TRUTH)},
    **{name: (name,) for name, metric in METRICS.items() if not metric.task},
}
DISPARITIES: Mapping[str, tuple[str, ...]] = {
    f"{stem}_{form}": rates for stem, rates in _STEMS.items() for form in ("difference", "ratio")
}
"""By name: the rates and metrics whose groups are compared."""


@dataclass(frozen=True, slots=True)
class GroupedRows:
    """Answers with their truth, and the group of each row.

    Attributes:
        rows: Answers and truths; a truth counts where `is_known`.
        group: The place of the group of each row in `names`. Shape (rows,).
        names: Of the groups: values of the attributes, joined by a comma.
        positive: The place of the class that is selected; None without one.
        is_known: Where the truth is known; None for everywhere.
    """

    rows: Labelled
    group: NDArray[np.intp]
    names: tuple[str, ...]
    positive: int | None = None
    is_known: NDArray[np.bool_] | None = None

    def of(self, name: str, place: int, confidence: float = 0.95) -> Estimate:
        """A rate or a metric of one group."""
        mask = self.group == place
        if name not in _ALL_ROWS and self.is_known is not None:
            mask = mask & self.is_known
        return _estimate(name, self.rows.take(mask), self.positive, confidence)


@dataclass(frozen=True, slots=True)
class Disparity:
    """How far groups lie apart.

    Attributes:
        value: None where fewer than two groups have enough rows.
        lower: The ends of the 95 % interval.
        upper: See `lower`.
        rate: The rate that lies furthest apart.
        least: The group with its smallest value.
        most: The group with its largest value.
        too_few: Groups that were left out.
        note: Why there is no value.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    rate: str = ""
    least: str = ""
    most: str = ""
    too_few: tuple[str, ...] = ()
    note: str = ""


def group_rows(
    rows: Labelled,
    attributes: Mapping[str, NDArray[Any]],
    *,
    positive: Any = None,
    is_known: NDArray[np.bool_] | None = None,
) -> GroupedRows:
    """Rows in groups by the texts of attributes; several attributes are crossed.

    `positive` is the class that is selected; if None 1, or else the second of two classes.

    Raises:
        Invalid: There are over `MAX_GROUPS` groups, or no such class.
    """
    stacked = np.stack([np.asarray(values, str) for values in attributes.values()], axis=1)
    values, group = np.unique(stacked, axis=0, return_inverse=True)
    if len(values) > MAX_GROUPS:
        raise Invalid(
            f"{' * '.join(attributes)} makes {len(values):,} groups, the limit is {MAX_GROUPS}",
            hint="join values to fewer groups, such as ranges of an age",
        )
    names = tuple(", ".join(value) for value in values.tolist())
    place = _place_of(positive, [str(label) for label in rows.classes or ()])
    return GroupedRows(rows, group.reshape(-1), names, place, is_known)


def _place_of(positive: Any, classes: list[str]) -> int | None:
    if positive is None:
        is_first = len(classes) == 2 and classes[0] == "1"
        return None if len(classes) != 2 else int(not is_first)
    if str(positive) not in classes:
        raise Invalid(
            f"{positive!r} is no class of the model",
            hint=f"its classes are {', '.join(classes[:20])}",
        )
    return classes.index(str(positive))


def disparity(name: str, grouped: GroupedRows) -> Disparity:
    """How far the groups lie apart by one of `DISPARITIES`; see the module for the interval."""
    is_ratio = name.endswith("_ratio")
    rates: dict[str, dict[int, Estimate]] = {}
    too_few: dict[str, None] = {}
    for rate in DISPARITIES[name]:
        every = dict(enumerate(grouped.of(rate, place) for place in range(len(grouped.names))))
        groups = {place: each for place, each in every.items() if says_enough(each)}
        too_few |= {grouped.names[place]: None for place in every if place not in groups}
        values = [each.value or 0.0 for each in groups.values()]
        note = ""
        if len(groups) < 2:
            counted = f"fewer than two groups have {FEWEST_IN_GROUP} rows that decide {rate}"
            note = next((each.note for each in every.values() if each.note), "") or counted
        elif is_ratio and min(values) < 0:
            note = f"{rate} has values below zero, and no ratio"
        elif is_ratio and not max(values):
            note = f"{rate} is zero in every group, and has no ratio"
        if note:
            return Disparity(None, too_few=tuple(too_few), note=note)
        rates[rate] = groups
    pairs = sum(math.comb(len(groups), 2) for groups in rates.values())
    level = 1 - (1 - _CONFIDENCE) / pairs
    spans: dict[str, _Ends] = {}
    for rate, groups in rates.items():
        ends = [_ends(grouped, rate, place, each, level) for place, each in groups.items()]
        apart = [
            _apart(*sorted(pair), is_ratio=is_ratio) for pair in itertools.combinations(ends, 2)
        ]
        value, lower, upper = (max(side) for side in zip(*apart, strict=True))
        spans[rate] = value, lower, upper
    rate = max(spans, key=lambda name: spans[name][0])
    value, lower, upper = (max(span[at] for span in spans.values()) for at in range(3))
    if is_ratio:
        value, lower, upper = math.exp(-value), math.exp(-upper), math.exp(-lower)
    ordered = sorted(rates[rate], key=lambda place: rates[rate][place].value or 0.0)
    least, most = (grouped.names[ordered[at]] for at in (0, -1))
    return Disparity(value, lower, upper, rate, least, most, tuple(too_few))


def says_enough(one: Estimate) -> bool:
    """Whether an estimate of a group is of enough rows to be compared."""
    return one.value is not None and one.lower is not None and one.fewest >= FEWEST_IN_GROUP


def _estimate(name: str, rows: Labelled, positive: int | None, confidence: float) -> Estimate:
    if name == "mean_prediction" and rows.task == "regression":
        return mean_estimate(rows.answers, confidence)
    if name in METRICS:
        return estimate(name, rows, confidence=confidence)
    if positive is None:
        what = "numbers" if name == "mean_prediction" else "two classes, or of one that is named"
        return Estimate(None, rows=len(rows), note=f"{name} is of {what}")
    truth, answer = _OF_TRUTH.get(name, (None, True))
    counted = slice(None) if truth is None else (rows.truth == positive) == truth
    hits = (rows.answers[counted] == positive) == answer
    if not len(hits):
        return Estimate(None, rows=len(rows), note="no row counts for it")
    share, successes = float(hits.mean()), int(hits.sum())
    ends = wilson_interval(successes, len(hits), confidence)
    error = math.sqrt(share * (1 - share) / len(hits))
    return Estimate(share, *ends, len(rows), error, len(hits), successes, "wilson")


_Ends = tuple[float, float, float]
"""A value, its lower end, its upper end."""


def _ends(grouped: GroupedRows, rate: str, place: int, known: Estimate, level: float) -> _Ends:
    value = known.value or 0.0
    if known.method == "bootstrap":  # its draws are too few for quantiles far out
        half = NormalDist().inv_cdf((1 + level) / 2) * known.error
        return value, value - half, value + half
    wide = grouped.of(rate, place, level)
    return value, wide.lower or 0.0, value if wide.upper is None else wide.upper


def _apart(small: _Ends, large: _Ends, *, is_ratio: bool) -> _Ends:
    """The distance of two groups, at least zero, and its ends; of logarithms for a ratio."""
    if is_ratio:
        if not small[0]:  # no logarithm; zero of so many rows is below the upper end of its own
            nearest = math.log(large[1] / small[2]) if large[1] > small[2] else 0.0
            return (math.inf if large[0] else 0.0), nearest, math.inf
        small, large = _logs(small), _logs(large)
    distance = large[0] - small[0]
    lower = distance - math.hypot(large[0] - large[1], small[2] - small[0])
    upper = distance + math.hypot(large[2] - large[0], small[0] - small[1])
    return (distance, lower, upper) if lower >= 0 else (distance, 0.0, max(upper, -lower))


def _logs(ends: _Ends) -> _Ends:
    value, lower, upper = (math.log(end) if end > 0 else -math.inf for end in ends)
    return value, lower, upper
