"""Decides, window by window, whether one column has drifted. Pure: profiles in, tests out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np

from bascule.monitoring.drift.budgets import (
    MISSING_PART,
    STRANGE_PART,
    VALUES_PART,
    Budget,
    Effect,
)
from bascule.monitoring.drift.report import Test
from bascule.stats import (
    WINDOWS,
    CategoryBaseline,
    ColumnProfile,
    NumberBaseline,
    Outcome,
    SlowDetector,
    WeekdayOutcome,
    missing_test,
    range_test,
    weekday_test,
)

MIN_ROWS = 20
"""Values in a window with fewer rows are not tested."""

MAX_OVERDISPERSION = 2.0
MAX_SLOW_CORRELATION = 0.3
"""Beyond these, windows are not independent, and detectors of slow changes promise nothing."""

_SLOW_WINDOWS = 28
_CATEGORIES = 5


@dataclass(frozen=True, slots=True)
class _Summary:
    """One number of a window that is compared with the same weekdays.

    Attributes:
        value: On a scale where its sampling error does not depend on it.
        deviation: Its standard error if rows are independent.
    """

    value: float
    deviation: float


class ColumnWatch:
    """One column over its windows, in their order.

    Until there are 56 dated windows, a window is compared with the baseline, as if rows were
    independent. Then the values are compared with the same weekdays of the last 56 windows.

    Attributes:
        baseline: The profile of the column.
        overdispersion: The variance of the mean scores, over that of independent rows; None before
            the eighth window.
        is_alarmable: False while windows depend so much on one another that no budget can be kept.
    """

    def __init__(
        self, baseline: ColumnProfile, budget: Budget, effect: Effect | None = None
    ) -> None:
        self.baseline = baseline
        self.is_alarmable = True
        self._is_independent = True
        self._level, self._effect = budget.level, effect or Effect()
        few = baseline.is_distinct_exact and not baseline.frequent.error and baseline.distinct <= 2
        self._is_categorical = baseline.kind == "text" or few
        self._categories = CategoryBaseline(baseline)
        self._numbers = None
        self._slow = None
        if not self._is_categorical and baseline.quantiles.rows:
            self._numbers = NumberBaseline(baseline)
            if budget.kinds > 1 and not self._numbers.is_constant:
                self._slow = SlowDetector(self._numbers.location_law, self._numbers.rows)
        self._known: frozenset[str] = frozenset()
        self._history: deque[tuple[int, Mapping[str, _Summary]]] = deque(maxlen=WINDOWS)
        self._locations: deque[tuple[float, int]] = deque(maxlen=WINDOWS)

    def judge(self, window: ColumnProfile, day: date | None = None) -> tuple[Test, ...]:
        """The tests of one window. Windows come in order; `day` is that of a dated one."""
        if not window.rows or not self.baseline.rows:
            return ()
        present = window.rows - window.missing - window.infinite
        outcomes: list[tuple[float, Outcome]] = []
        summaries = {"missing": _share(window.missing, window.rows)}
        slow = None
        if present >= MIN_ROWS and self._is_categorical and self._categories.rows:
            outcomes.append((VALUES_PART, self._categories.test(window)))
            summaries |= self._category_summaries(window, present)
        elif present >= MIN_ROWS and self._numbers is not None and window.quantiles.rows:
            scores = self._numbers.score(window)
            outcomes.append((VALUES_PART, self._numbers.test(scores)))
            summaries["location"] = _Summary(scores.location, scores.rows**-0.5)
            width = math.log(max(1e-9, 1 + scores.spread)) / 2
            summaries["spread"] = _Summary(width, (2 * scores.rows) ** -0.5)
            self._locations.append((scores.location, scores.rows))
            slow = self._slow_test(scores.location, scores.slack, scores.rows)
        outcomes.append((MISSING_PART, missing_test(self.baseline, window)))
        tests = [self._test(outcome, part) for part, outcome in outcomes]
        if day is not None:
            tests = self._by_weekday(tests, summaries, day.weekday())
            self._history.append((day.weekday(), summaries))
        tests += self._strange(window, present)
        if slow is not None and self._is_independent:
            tests.append(slow)
        return tuple(tests)

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

    def _strange(self, window: ColumnProfile, present: int) -> list[Test]:
        """Out of the baseline's range, or unseen there; a category raises one alarm, not one a day."""
        if not self._is_categorical:
            found = range_test(self.baseline, window)
        elif present and self._categories.rows:
            found = self._categories.unseen(window, self._known)
        else:
            found = None
        if found is None:
            return []
        test = self._test(found, STRANGE_PART)
        if test.is_alarm and self._is_categorical:
            self._known |= {str(one) for one in window.frequent.counts}
        return [test]

    def _category_summaries(self, window: ColumnProfile, present: int) -> dict[str, _Summary]:
        counts = window.frequent.counts
        frequent = self.baseline.frequent.top()[:_CATEGORIES]
        made = {f"={value}": _share(counts.get(value, 0), present) for value, _ in frequent}
        if len(self._categories.counts) == 2:
            made.popitem()  # the share of the other one says the same
        return made

    def _slow_test(self, location: float, slack: float, rows: int) -> Test | None:
        if self._slow is None:
            return None
        moved = math.copysign(max(0.0, abs(location) - slack), location)
        evidence = self._slow.add(moved, rows)
        values, weights = np.array(list(self._locations)[-_SLOW_WINDOWS:]).T
        effect = float(values @ weights / weights.sum())
        limit = self._effect.limit("slow")
        e_value = math.exp(min(700.0, evidence))
        is_alarm = e_value >= 1 / self._level and abs(effect) >= limit
        if is_alarm:
            self._slow.restart()
        return Test("slow", e_value, None, e_value, self._level, effect, limit, is_alarm)

    def _by_weekday(
        self, tests: list[Test], summaries: Mapping[str, _Summary], weekday: int
    ) -> list[Test]:
        """The tests of values and missing ones, beside the same weekdays where there are enough."""
        found = {
            name: outcome
            for name, summary in summaries.items()
            if (outcome := self._beside_weekdays(name, summary, weekday)) is not None
        }
        if not found:
            return tests
        self.is_alarmable = all(one.is_alarmable for one in found.values())
        if "location" in found:
            one = found["location"]
            self._is_independent = (
                one.correlation <= MAX_SLOW_CORRELATION and one.overdispersion <= MAX_OVERDISPERSION
            )
        values = {name: one for name, one in found.items() if name != "missing"}
        made = []
        if values:
            name = min(values, key=lambda name: values[name].p_value)
            made.append(self._weekday_test(name, summaries[name], values[name], len(values)))
        if "missing" in found:
            made.append(self._weekday_test("missing", summaries["missing"], found["missing"], 1))
        replaced = {"missing"} & found.keys()
        return made + [one for one in tests if one.name == "missing" and not replaced]

    def _beside_weekdays(self, name: str, summary: _Summary, weekday: int) -> WeekdayOutcome | None:
        past = [(day, one[name].value) for day, one in self._history if name in one]
        return weekday_test(past, weekday, summary.value, summary.deviation)

    def _weekday_test(
        self, name: str, summary: _Summary, found: WeekdayOutcome, tests: int
    ) -> Test:
        test = "categories" if name.startswith("=") else name
        now, then = _on_its_scale(test, summary.value), _on_its_scale(test, found.expected)
        effect = now / then - 1 if test == "spread" else now - then
        outcome = Outcome(
            test, min(1.0, tests * found.p_value), found.statistic, effect, name.partition("=")[2]
        )
        part = MISSING_PART if test == "missing" else VALUES_PART
        return Test.judged(
            outcome,
            self._level * part,
            self._effect.limit(test),
            rule="weekday",
            may_alarm=found.is_alarmable,
        )


def _share(count: int, rows: int) -> _Summary:
    """A share as the angle of its root, whose error depends on the rows alone (Bartlett 1936)."""
    return _Summary(math.asin(math.sqrt(min(1.0, count / rows))), 0.5 / math.sqrt(rows))


def _on_its_scale(test: str, value: float) -> float:
    if test == "location":
        return value
    return math.exp(value) if test == "spread" else math.sin(value) ** 2
