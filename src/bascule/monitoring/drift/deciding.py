"""Decides, window by window, whether one column has drifted. Pure: profiles in, tests out.

Rows of a window share causes, so its mean varies more than that of independent rows. By how much is
learned from the windows themselves, from a prior: `DAY_DEVIATION`, which counts as
`PRIOR_WINDOWS` windows. The tests beside the baseline and the detector of slow changes take it into
account from the first window on.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import date

import numpy as np
from numpy.typing import NDArray

from bascule.monitoring.drift.budgets import (
    MISSING_PART,
    STRANGE_PART,
    VALUES_PART,
    Budget,
    Effect,
)
from bascule.monitoring.drift.results import Test
from bascule.stats import (
    WINDOWS,
    Alignment,
    CategoryBaseline,
    ColumnProfile,
    NumberBaseline,
    Outcome,
    Scores,
    SlowDetector,
    WeekdayOutcome,
    effective_rows,
    missing_test,
    range_test,
    shrunk,
    variance_beside_a_step,
    weekday_test,
)

Floats = NDArray[np.float64]

MIN_ROWS = 20
"""Values in a window with fewer rows are not tested."""

DAY_DEVIATION = 0.08
"""The deviation of the windows' means, in deviations of a row, that is expected beside chance."""

PRIOR_WINDOWS = 20

LONG_RUN = 3.0
"""The variance of a mean of many windows that resemble their neighbours, over that of as many
independent ones: detectors of slow changes add windows up. An AR(.7) has 5.7."""

SAME = 1e-6
"""Numbers that differ by less are the same one; see `stats.sketches.Alignment`."""

MAX_OVERDISPERSION = 2.0
MAX_SLOW_CORRELATION = 0.3
MAX_EARLY_OVERDISPERSION = 3.0
"""Beyond these, windows are not independent, and detectors of slow changes promise nothing."""

_SLOW_WINDOWS = 28
ENOUGH_ROWS = 500
"""Rows of a baseline whose own error a detector of slow changes can bear."""

_PARTS = {"missing": MISSING_PART, "range": STRANGE_PART}
_SCALES = {"location": 1.0, "spread": math.sqrt(2)}
"""On these scales the variance of a window's number is 1 / rows by chance; 2 for an angle."""

_WEEKLY = 1.5
_CATEGORIES = 5


class ColumnWatch:
    """One column over its windows, in their order.

    Until there are 56 dated windows, a window is compared with the baseline. Then the values are
    compared with the same weekdays of the last 56 windows.

    Attributes:
        baseline: The profile of the column.
        overdispersion: The variance of the mean scores, over that of independent rows; None before
            the eighth window.
        is_alarmable: False while windows depend so much on one another that no budget can be kept.
    """

    def __init__(
        self,
        baseline: ColumnProfile,
        budget: Budget,
        effect: Effect | None = None,
        *,
        tolerance: float = SAME,
    ) -> None:
        self._alignment = Alignment(baseline, tolerance)
        self.baseline = baseline = self._alignment.of(baseline)
        self.is_alarmable = True
        self._beside: WeekdayOutcome | None = None
        self._verdicts: deque[bool] = deque(maxlen=_SLOW_WINDOWS)
        self._level, self._effect = budget.level, effect or Effect()
        few = baseline.is_distinct_exact and not baseline.frequent.error and baseline.distinct <= 2
        self._is_categorical = baseline.kind == "text" or few
        self._categories = CategoryBaseline(baseline)
        self._numbers = None
        self._slow = None
        if not self._is_categorical and baseline.quantiles.rows:
            self._numbers = NumberBaseline(baseline)
            is_enough = self._numbers.rows >= ENOUGH_ROWS
            if budget.kinds > 1 and is_enough and not self._numbers.is_constant:
                self._slow = SlowDetector(self._numbers.location_law, self._numbers.rows)
        self._known: frozenset[str] = frozenset()
        self._names = self._summary_names()
        self._scales = np.array([_SCALES.get(name, 2.0) for name in self._names])
        self._are_of_rows = np.array([name in ("missing", "range") for name in self._names])
        self._days: deque[int] = deque(maxlen=WINDOWS)
        self._history: deque[Floats] = deque(maxlen=WINDOWS)
        self._rows: deque[tuple[int, int]] = deque(maxlen=WINDOWS)
        self._locations: deque[tuple[float, int]] = deque(maxlen=WINDOWS)

    def judge(self, window: ColumnProfile, day: date | None = None) -> tuple[Test, ...]:
        """The tests of one window. Windows come in order; `day` is that of a dated one."""
        if not window.rows or not self.baseline.rows:
            return ()
        window = self._alignment.of(window)
        present = window.rows - window.missing - window.infinite
        scores, strange = None, self._strange_outcome(window, present)
        if self._numbers is not None and present >= MIN_ROWS:
            scores = self._numbers.score(window)
            self._locations.append((scores.location, scores.rows))
        beside, values = None, None
        if present >= MIN_ROWS:
            values, deviations = self._summaries(window, scores, strange, present)
            if day is not None:
                beside = self._beside_weekdays(values, deviations, day.weekday())
        tests = self._beside_baseline(window, scores, present) if beside is None else beside
        if strange is not None and not any(one.name == strange.test for one in tests):
            tests.append(self._strange(strange, window))
        if scores is not None and self._slow is not None:
            slow = self._slow_test(self._slow, scores)
            if self._windows_are_independent():
                tests.append(slow)
        if values is not None:
            self._history.append(values)
            self._rows.append((window.rows, present))
        return tuple(tests)

    def _beside_baseline(
        self, window: ColumnProfile, scores: Scores | None, present: int
    ) -> list[Test]:
        between = self._between()
        missing = missing_test(self.baseline, window, between["missing"])
        tests = [self._test(missing, MISSING_PART)]
        if scores is not None and self._numbers is not None:
            found = self._numbers.test(scores, between["location"], between["spread"])
            tests.append(self._test(found, VALUES_PART))
        elif self._is_categorical and present >= MIN_ROWS and self._categories.rows:
            found = self._categories.test(window, max(between.values()))
            tests.append(self._test(found, VALUES_PART))
        return tests

    def _between(self) -> dict[str, float]:
        """How much each number of `_names` varies between windows; see `stats.two_sample`."""
        if len(self._history) < 2:
            return dict.fromkeys(self._names, DAY_DEVIATION**2)
        of_rows, of_present = (1 / np.array(self._rows)).mean(axis=0)
        sampling = np.where(self._are_of_rows, of_rows, of_present)
        between = variance_between(np.array(self._history) * self._scales, sampling)
        return dict(zip(self._names, between.tolist(), strict=True))

    @property
    def overdispersion(self) -> float | None:
        if len(self._locations) < 8:
            return None
        values, rows = np.array(self._locations).T
        weights = rows / rows.sum()
        spread = float((rows * (values - weights @ values) ** 2).sum())
        return spread / (len(values) - 1)

    def _test(self, outcome: Outcome, part: float) -> Test:
        limit = self._effect.limit(outcome.test)
        return Test.judged(outcome, self._level * part, limit)

    def _strange_outcome(self, window: ColumnProfile, present: int) -> Outcome | None:
        """Out of the baseline's range, or unseen there."""
        if not self._is_categorical:
            return range_test(self.baseline, window)
        if present and self._categories.rows:
            return self._categories.unseen(window, self._known)
        return None

    def _strange(self, found: Outcome, window: ColumnProfile) -> Test:
        """A new category raises an alarm once."""
        test = self._test(found, STRANGE_PART)
        if test.is_alarm and test.name == "unseen":
            self._known |= {str(one) for one in window.frequent.counts}
        return test

    def _slow_test(self, detector: SlowDetector, scores: Scores) -> Test:
        between = LONG_RUN * self._between()["location"]
        rows_of_evidence = effective_rows(scores.rows, between)
        e_value = math.exp(
            min(700.0, detector.add(shrunk(scores.location, scores.slack), rows_of_evidence))
        )
        values, rows = np.array(list(self._locations)[-_SLOW_WINDOWS:]).T
        effect = float(values @ rows / rows.sum())
        limit = self._effect.limit("slow")
        is_alarm = e_value >= 1 / self._level and abs(effect) >= limit
        if is_alarm:
            detector.restart()
        return Test("slow", e_value, None, e_value, self._level, effect, limit, is_alarm)

    def _windows_are_independent(self) -> bool:
        """Whether they looked so 28 windows ago: a slow change itself makes neighbours alike."""
        total, beside = self.overdispersion, self._beside
        if total is not None:
            verdict = total <= MAX_EARLY_OVERDISPERSION
            if beside is not None:
                is_weekly = total > _WEEKLY * beside.overdispersion
                verdict = (
                    not is_weekly
                    and beside.correlation <= MAX_SLOW_CORRELATION
                    and beside.overdispersion <= MAX_OVERDISPERSION
                )
            self._verdicts.append(verdict)
        return bool(self._verdicts) and self._verdicts[0]

    def _summary_names(self) -> list[str]:
        """What of a window is compared with the same weekdays: `=value` is a category's share."""
        if not self._is_categorical:
            return ["missing", "range", "location", "spread"] if self._numbers else ["missing"]
        top = [value for value, _ in self.baseline.frequent.top()[:_CATEGORIES]]
        # Of two categories, the share of the second says the same.
        self._shown = top[:1] if len(self._categories.counts) == 2 else top
        return ["missing", *(f"={value}" for value in self._shown)]

    def _summaries(
        self, window: ColumnProfile, scores: Scores | None, strange: Outcome | None, present: int
    ) -> tuple[Floats, Floats]:
        """The numbers of `_names`, on scales where their errors depend on the rows alone."""
        values, deviations = [_angle(window.missing, window.rows)], [0.5 * window.rows**-0.5]
        if scores is not None:
            outside = 0.0 if strange is None else strange.statistic
            values += [_angle(outside, window.rows), scores.location]
            values += [math.log(max(1e-9, 1 + scores.spread)) / 2]
            deviations += [0.5 * window.rows**-0.5, scores.rows**-0.5, (2 * scores.rows) ** -0.5]
        elif self._is_categorical:
            counts = window.frequent.counts
            values += [_angle(counts.get(value, 0), present) for value in self._shown]
            deviations += [0.5 * present**-0.5] * len(self._shown)
        return np.array(values), np.array(deviations)

    def _beside_weekdays(
        self, values: Floats, deviations: Floats, weekday: int
    ) -> list[Test] | None:
        """The tests beside the same weekdays; None until there are enough."""
        days = np.array(self._days, np.int64)
        found = None
        if len(days) == WINDOWS:
            found = weekday_test(days, np.array(self._history), weekday, values, deviations)
        self._days.append(weekday)
        return None if found is None else self._weekday_tests(values, found)

    def _weekday_tests(self, values: Floats, found: tuple[WeekdayOutcome, ...]) -> list[Test]:
        """The numbers of `_names` beside their outcomes; the values' best counts for all."""
        self.is_alarmable = all(one.is_alarmable for one in found)
        outcomes = dict(zip(self._names, zip(values.tolist(), found, strict=True), strict=True))
        if "location" in outcomes:
            self._beside = outcomes["location"][1]
        alone = [name for name in ("missing", "range") if name in outcomes]
        tests = [self._weekday_test(name, *outcomes.pop(name), 1) for name in alone]
        if outcomes:
            best = min(outcomes, key=lambda name: outcomes[name][1].p_value)
            tests.append(self._weekday_test(best, *outcomes[best], len(outcomes)))
        return tests

    def _weekday_test(self, name: str, value: float, found: WeekdayOutcome, tests: int) -> Test:
        test = "categories" if name.startswith("=") else name
        now, then = _on_its_scale(test, value), _on_its_scale(test, found.expected)
        effect = now / then - 1 if test == "spread" else now - then
        p_value = min(1.0, tests * found.p_value)
        outcome = Outcome(test, p_value, found.statistic, effect, name.partition("=")[2])
        part = _PARTS.get(test, VALUES_PART)
        limit = self._effect.limit(test)
        return Test.judged(
            outcome, self._level * part, limit, rule="weekday", may_alarm=found.is_alarmable
        )


def variance_between(history: Floats, sampling: Floats) -> Floats:
    """The variance of the windows' numbers beside chance, from the windows so far and the prior.

    Args:
        history: Numbers on scales where a row has the variance 1. Shape (windows, numbers).
        sampling: Their variance by chance, on average. Shape (numbers,).
    """
    prior, windows = DAY_DEVIATION**2, len(history) - 1
    excess = np.maximum(0.0, variance_beside_a_step(history) - sampling)
    return (prior * PRIOR_WINDOWS + excess * windows) / (PRIOR_WINDOWS + windows)


def _angle(count: float, rows: int) -> float:
    """A share as the angle of its root, whose error is 0.5 / root of the rows (Bartlett 1936)."""
    return math.asin(math.sqrt(min(1.0, count / rows)))


def _on_its_scale(test: str, value: float) -> float:
    if test == "location":
        return value
    return math.exp(value) if test == "spread" else math.sin(value) ** 2
