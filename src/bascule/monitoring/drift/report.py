"""What a comparison found: per window and column, its tests, and sentences with numbers."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from bascule.stats import Outcome

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Test:
    """One test of one column in one window.

    Attributes:
        name: `location`, `spread`, `shape`, `categories`, `missing`, `unseen`, `range` or `slow`.
        statistic: See `stats.Outcome`; the e-value for `slow`, Student's t beside weekdays.
        p_value: None for `slow`.
        e_value: Of `slow`: alarms at 1 / `level`. None for the others.
        level: The false alarms that the budget leaves to this test.
        effect: The change, in the unit of the test.
        limit: The least effect that matters.
        is_alarm: Whether the level and the limit are met.
        what: The category that it is about.
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
        where: `input` or `answer`.
        tests: Those that ran.
        then: Quantiles (`p05` to `p95`) of the baseline, or the shares of its frequent values.
        now: The same of the window.
        missing: The share of missing values, in the baseline and in the window.
        findings: Sentences about the quality of the data.
        is_broken: Whether values of another type than the model's raise an alarm by themselves.
        influence: How much the answers change when the column is shuffled; None if unknown.
        share: Of the alarm: the effect in limits, weighed by the influence. None if unknown.
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

    @property
    def is_alarm(self) -> bool:
        return self.is_broken or any(test.is_alarm for test in self.tests)

    @property
    def leading(self) -> Test | None:
        """The test with the strongest evidence; an alarm before any other."""
        return min(self.tests, key=lambda test: test.rank, default=None)

    @property
    def sentence(self) -> str:
        """The changes that raise the alarm, or the strongest one, in numbers."""
        from bascule.monitoring.drift.sentences import sentence

        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.name,
            "where": self.where,
            "alarm": self.is_alarm,
            "sentence": self.sentence,
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
    """All columns in one window; `day` is the UTC day of a dated one."""

    day: date | None
    rows: int
    columns: tuple[ColumnDrift, ...]

    @property
    def alarms(self) -> tuple[ColumnDrift, ...]:
        return tuple(column for column in self.columns if column.is_alarm)


@dataclass(frozen=True, slots=True)
class DriftReport:
    """A table against the baseline of a bundle.

    Attributes:
        model: The name of the bundle.
        digest: Of the bundle.
        budget: Expected false alarms a year.
        windows_a_year: That the budget is split over.
        level: Of one column in one window.
        windows: In order; one for a table without a time column.
        notes: What was not done and why; whether the budget can hold.
    """

    model: str
    digest: str
    budget: float
    windows_a_year: int
    level: float
    windows: tuple[WindowDrift, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_alarm(self) -> bool:
        """Whether a column in any window raised an alarm."""
        return any(window.alarms for window in self.windows)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "digest": self.digest,
            "alarm": self.is_alarm,
            "budget": self.budget,
            "windows_a_year": self.windows_a_year,
            "level": self.level,
            "notes": list(self.notes),
            "windows": [
                {
                    "day": None if window.day is None else window.day.isoformat(),
                    "rows": window.rows,
                    "columns": [column.to_json() for column in window.columns],
                }
                for window in self.windows
            ],
        }

    def to_arrow(self) -> pa.Table:
        """One row per window and column, with its leading test."""
        import pyarrow as pa

        rows = [_flat(window, column) for window in self.windows for column in window.columns]
        return pa.Table.from_pylist(rows, pa.schema([(n, _arrow_type(n)) for n in _FLAT]))

    def __repr__(self) -> str:
        from bascule.monitoring.drift.sentences import lines

        return "\n".join(lines(self))

    def _repr_html_(self) -> str:
        from bascule.monitoring.drift.sentences import HEADINGS, summary, table_rows

        def cells(tag: str, row: tuple[str, ...]) -> str:
            inside = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
            return f"<tr>{inside}</tr>"

        body = "".join(cells("td", row) for row in table_rows(self))
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return (
            f"<p>{html.escape(summary(self))}</p><table><thead>{cells('th', HEADINGS)}</thead>"
            f"<tbody>{body}</tbody></table><ul>{notes}</ul>"
        )


_FLAT = (
    "day", "column", "where", "rows", "alarm", "test", "statistic", "p_value", "e_value", "level",
    "effect", "limit", "missing_then", "missing_now", "influence", "share", "sentence",
)  # fmt: skip


def _arrow_type(name: str) -> Any:
    import pyarrow as pa

    if name in ("column", "where", "test", "sentence"):
        return pa.string()
    known = {"day": pa.date32(), "rows": pa.int64(), "alarm": pa.bool_()}
    return known.get(name, pa.float64())


def _flat(window: WindowDrift, column: ColumnDrift) -> dict[str, Any]:
    test = column.leading
    told = {} if test is None else {**test.to_json(), "test": test.name}
    return {
        **told,
        "day": window.day,
        "column": column.name,
        "where": column.where,
        "rows": window.rows,
        "alarm": column.is_alarm,
        "missing_then": column.missing[0],
        "missing_now": column.missing[1],
        "influence": column.influence,
        "share": column.share,
        "sentence": column.sentence,
    }
