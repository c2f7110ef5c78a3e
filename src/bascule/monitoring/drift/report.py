"""The report of a comparison: blocks of a document, JSON and an Arrow table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING, Any

from bascule.core import counted
from bascule.documents import Block, Bullets, Plot, Plots, Table, Text, lettered, notebook
from bascule.monitoring.drift.distributions import distributions
from bascule.monitoring.drift.results import ColumnDrift, WindowDrift
from bascule.monitoring.drift.view import ColumnView, columns_of
from bascule.monitoring.showing import alarms_found, arrow_table
from bascule.stats import Profile

if TYPE_CHECKING:
    import pyarrow as pa

_HEADINGS = ("column", "change", "p or e", "then", "now", "alarm")
_SHOWN = 40
_PICTURES = 6
_MARKS = {"answer": "-> ", "truth": "= ", "explanation": "~ "}


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
        version: Of the model in production; empty for a table.
        then: Profiles of the baseline: `input`, `answer`, `truth`. Empty for a table.
        now: The same of all windows that are shown.
    """

    model: str
    digest: str
    budget: float
    windows_a_year: int
    level: float
    windows: tuple[WindowDrift, ...]
    notes: tuple[str, ...] = ()
    version: str = ""
    then: Mapping[str, Profile | None] = field(default_factory=dict, compare=False)
    now: Mapping[str, Profile] = field(default_factory=dict, compare=False)

    @property
    def is_alarm(self) -> bool:
        """Whether a column in any window raised an alarm."""
        return any(window.alarms for window in self.windows)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "alarm": self.is_alarm,
            "budget": self.budget,
            "windows_a_year": self.windows_a_year,
            "level": self.level,
            "notes": list(self.notes),
            "distributions": distributions(self.then, self.now),
            "windows": [
                {
                    "day": None if window.day is None else window.day.isoformat(),
                    "rows": window.rows,
                    "finished": window.is_finished,
                    "columns": [column.to_json() for column in window.columns],
                }
                for window in self.windows
            ],
        }

    def to_arrow(self) -> pa.Table:
        """One row per window and column, with its leading test."""
        rows = [_flat(window, column) for window in self.windows for column in window.columns]
        return arrow_table(rows, _FLAT, _KINDS)

    def __repr__(self) -> str:
        return lettered(_blocks(self))

    def _repr_html_(self) -> str:
        return notebook(*_blocks(self), *_plots(self))


@dataclass(frozen=True, slots=True)
class ProductionDrift:
    """The versions of a model in production, each against its own baseline.

    Attributes:
        model: Its name.
        today: The UTC day that was not over.
        versions: A report for each version, in the order of their first answers.
        notes: Which versions were not compared, and why.
    """

    model: str
    today: date
    versions: tuple[DriftReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_alarm(self) -> bool:
        """Whether a column of any version raised an alarm in a window that is shown."""
        return any(one.is_alarm for one in self.versions)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "alarm": self.is_alarm,
            "today": self.today.isoformat(),
            "versions": [one.to_json() for one in self.versions],
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return "\n\n".join([*map(repr, self.versions), *self.notes])

    def _repr_html_(self) -> str:
        versions = (block for one in self.versions for block in (*_blocks(one), *_plots(one)))
        return notebook(*versions, *map(Text, self.notes))


def _plots(report: DriftReport) -> Iterator[Plots]:
    """The columns with an alarm, in the baseline and in all windows that are shown."""
    alarming = (column for column in columns_of(report.to_json()) if column.alarms)
    plots = tuple(
        Plot(column.name, f"Pale: then, strong: now. {column.latest['sentence']}", chart)
        for column in islice(alarming, _PICTURES)
        if (chart := column.chart) is not None
    )
    if plots:
        yield Plots(plots)


_FLAT = (
    "day column where rows alarm test statistic p_value e_value level effect limit missing_then "
    "missing_now influence share sentence"
)
_KINDS = {"string": "column where test sentence", "date": "day", "int": "rows", "bool": "alarm"}


def _flat(window: WindowDrift, column: ColumnDrift) -> dict[str, Any]:
    test = column.leading
    told = {} if test is None else {**test.to_json(), "test": test.name}
    same = {name: getattr(column, name) for name in ("where", "influence", "share", "sentence")}
    then, now = column.missing
    return {
        **told, **same, "day": window.day, "column": column.name, "rows": window.rows,
        "alarm": column.is_alarm, "missing_then": then, "missing_now": now,
    }  # fmt: skip


def _summary(report: DriftReport) -> str:
    """The verdict in one sentence."""
    windows, rows = report.windows, sum(window.rows for window in report.windows)
    columns = len(windows[0].columns) if windows else 0
    alarms = sum(len(window.alarms) for window in windows)
    days = f" in {len(windows)} windows" if len(windows) > 1 else ""
    return (
        f"{_name(report)}: {alarms_found(alarms)}; {counted(rows, 'row')}{days}, "
        f"{counted(columns, 'column')}, budget {report.budget:g} false alarms a year"
    )


def _name(report: DriftReport) -> str:
    return f"{report.model}/{report.version}" if report.version else report.model


def _row(column: ColumnView, *, several: bool) -> tuple[str, ...]:
    name, test, alarms = _MARKS.get(column.where, "") + column.name, column.test, column.alarms
    alarm = (str(alarms) if several else "yes") if alarms else "-"
    if test is None:
        return name, column.change, "-", "-", "-", alarm
    p_value, e_value = test["p_value"], test["e_value"]
    evidence = f"e {e_value:.1e}" if p_value is None else f"{p_value:.1e}"
    return name, column.change, evidence, *column.sides, alarm


def _blocks(report: DriftReport) -> Iterator[Block]:
    several = len(report.windows) > 1
    rows = [_row(column, several=several) for column in columns_of(report.to_json())]
    yield Text(_summary(report))
    if rows:
        yield Table(_HEADINGS, tuple(rows[:_SHOWN]), _HEADINGS[2:])
    if len(rows) > _SHOWN:
        yield Text(f"... and {len(rows) - _SHOWN} more columns without stronger evidence")
    yield Bullets((*islice(alarm_sentences(report), _SHOWN), *report.notes))


def alarm_sentences(report: DriftReport) -> Iterator[str]:
    """A sentence per column with an alarm: that of the window with the strongest evidence."""
    found: dict[tuple[str, str], list[tuple[WindowDrift, ColumnDrift]]] = {}
    for window in report.windows:
        for column in window.alarms:
            found.setdefault((column.where, column.name), []).append((window, column))
    strongest = [
        (min(alarms, key=lambda one: _evidence(one[1])), alarms) for alarms in found.values()
    ]
    for (window, column), alarms in sorted(strongest, key=lambda one: -(one[0][1].share or 0)):
        share = "" if column.share is None else f" [{column.share:.0%} of the alarm]"
        if window.day is None:
            yield f"{column.sentence}{share}"
        else:
            days = f"{len(alarms)} windows from {alarms[0][0].day} to {alarms[-1][0].day}"
            before = f"{days}, strongest on " if len(alarms) > 1 else ""
            yield f"{before}{window.day}: {column.sentence}{share}"


def _evidence(column: ColumnDrift) -> float:
    return math.inf if column.leading is None else column.leading.rank[-1]
