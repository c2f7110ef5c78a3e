"""What the tests of one column and of one window found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from bascule.stats import Outcome

QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
"""Those of a column of numbers that are shown."""

_MUCH_MORE = 1.5


@dataclass(frozen=True, slots=True)
class Test:
    """One test of one column in one window.

    Attributes:
        name: `location`, `spread`, `shape`, `categories`, `missing`, `unseen`, `range`, `slow`
            or `harm`.
        statistic: See `stats.Outcome`; Student's t beside weekdays, the e-value where there is one.
        p_value: None for `slow` and `harm`.
        e_value: Of these two, with an alarm at 1 / `level`; None for the others.
        level: The false alarms that the budget leaves to this test.
        effect: The change, in the unit of the test.
        limit: The least effect that matters.
        is_alarm: Whether the level and the limit are met.
        what: The category that it is about, or the value at which two shapes differ most.
        rule: `baseline`, or `weekday` for a comparison with the same weekdays.
    """

    __test__ = False  # no test of pytest's

    name: str
    statistic: float
    p_value: float | None
    e_value: float | None
    level: float
    effect: float
    limit: float
    is_alarm: bool
    what: str = ""
    rule: str = "baseline"

    @classmethod
    def judged(
        cls,
        found: Outcome,
        level: float,
        limit: float,
        *,
        rule: str = "baseline",
        may_alarm: bool = True,
    ) -> Test:
        """An outcome beside its level and its limit."""
        is_alarm = may_alarm and found.p_value < level and abs(found.effect) >= limit
        return cls(
            found.test, found.statistic, found.p_value, None, level, found.effect, limit,
            is_alarm, found.what, rule,
        )  # fmt: skip

    @property
    def is_significant(self) -> bool:
        """Whether the level is met, regardless of the effect."""
        if self.e_value is not None:
            return self.e_value >= 1 / self.level
        return self.p_value is not None and self.p_value < self.level

    @property
    def rank(self) -> tuple[bool, bool, bool, float]:
        """Sorts alarms first, of these the most specific ones, then by evidence."""
        level = self.p_value if self.e_value is None else 1 / max(self.e_value, 1e-300)
        evidence = (level or 0.0) / self.level
        general = not self.is_alarm or self.name != "unseen"
        return not self.is_alarm, self.name == "slow", general, evidence

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column in one window.

    Attributes:
        name: Of the column.
        where: `input`, `answer`, `truth` or `explanation`.
        tests: Those that ran.
        then: Quantiles (`p05` to `p95`) of the baseline, or the shares of its frequent values and
            of those that the tests are about.
        now: The same of the window.
        missing: The share of missing values, in the baseline and in the window.
        findings: Sentences about the quality of the data.
        is_broken: Whether values of another type than the model's raise an alarm by themselves.
        influence: How much the answers change when the column is shuffled; None if unknown.
        share: Of the alarm: the effect in limits, weighed by the influence. None if unknown.
        sentence: The changes that raise the alarm, or the strongest one, in numbers.
    """

    name: str
    where: str
    tests: tuple[Test, ...]
    then: Mapping[str, float]
    now: Mapping[str, float]
    missing: tuple[float, float]
    findings: tuple[str, ...] = ()
    is_broken: bool = False
    influence: float | None = None
    share: float | None = None
    sentence: str = ""

    @property
    def is_alarm(self) -> bool:
        return self.is_broken or any(test.is_alarm for test in self.tests)

    @property
    def leading(self) -> Test | None:
        """The test with the strongest evidence; an alarm before any other."""
        return min(self.tests, key=lambda test: test.rank, default=None)

    @property
    def tested(self) -> str:
        """The category, or the quantile, of `then` and `now` that the leading test is about.

        Of quantiles the median, unless an alarm has moved another much more; empty where there is
        neither.
        """
        test = self.leading
        if test is not None and test.what in self.then:
            return test.what
        moves = {
            name: abs(self.now[name] - value)
            for name, value in self.then.items()
            if name in QUANTILES and name in self.now
        }
        if not moves:
            return ""
        most = max(moves, key=moves.__getitem__)
        return most if self.is_alarm and moves[most] > _MUCH_MORE * moves["p50"] else "p50"

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.name,
            "where": self.where,
            "alarm": self.is_alarm,
            "sentence": self.sentence,
            "tested": self.tested,
            "tests": [test.to_json() for test in self.tests],
            "then": dict(self.then),
            "now": dict(self.now),
            "missing": list(self.missing),
            "findings": list(self.findings),
            "influence": self.influence,
            "share": self.share,
        }


@dataclass(frozen=True, slots=True)
class WindowDrift:
    """All columns in one window.

    Attributes:
        day: The UTC day of a dated one.
        rows: That were compared, or answered.
        columns: In the order of the baseline.
        is_finished: False while its day is not over.
    """

    day: date | None
    rows: int
    columns: tuple[ColumnDrift, ...]
    is_finished: bool = True

    @property
    def alarms(self) -> tuple[ColumnDrift, ...]:
        return tuple(column for column in self.columns if column.is_alarm)
