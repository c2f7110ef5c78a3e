"""The report of a comparison, as lines of 80 letters, JSON, an Arrow table and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from html import escape
from typing import TYPE_CHECKING, Any

from bascule.charts import Figure, notebook_html
from bascule.monitoring.drift.distributions import distributions
from bascule.monitoring.drift.pictures import then_and_now
from bascule.monitoring.drift.results import ColumnDrift, Test, WindowDrift
from bascule.monitoring.showing import alarms_found, arrow_table, html_list, html_table, line
from bascule.stats import Profile

if TYPE_CHECKING:
    import pyarrow as pa

_HEADINGS = ("column", "change", "p or e", "then", "now", "alarm")
_WIDTHS = (22, 20, 9, 9, 9, 5)
_SHOWN = 40
_PICTURES = 6
_MARKS = {"answer": "-> ", "truth": "= "}


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
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        table = html_table(_HEADINGS, _rows(self))
        said = f"<p>{escape(_summary(self))}</p>{table}{html_list(self.notes)}"
        return said + notebook_html(_figures(self))


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
        return "".join(one._repr_html_() for one in self.versions) + html_list(self.notes)


def _figures(report: DriftReport) -> Iterator[Figure]:
    """The columns with an alarm, in the baseline and in all windows that are shown."""
    alarms = {(one.where, one.name): one for window in report.windows for one in window.alarms}
    for (where, name), column in list(alarms.items())[:_PICTURES]:
        then, now = report.then.get(where), report.now.get(where)
        if then is None or now is None or not {name} <= then.columns.keys() & now.columns.keys():
            continue
        chart = then_and_now(name, then.columns[name], now.columns[name])
        if chart is not None:
            yield Figure(name, chart.svg(), f"Pale: then, strong: now. {column.sentence}")


_FLAT = (
    "day column where rows alarm test statistic p_value e_value level effect limit missing_then "
    "missing_now influence share sentence"
)
_KINDS = {"string": "column where test sentence", "date": "day", "int": "rows", "bool": "alarm"}


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


def _summary(report: DriftReport) -> str:
    """The verdict in one sentence."""
    windows, rows = report.windows, sum(window.rows for window in report.windows)
    columns = len(windows[0].columns) if windows else 0
    alarms = sum(len(window.alarms) for window in windows)
    days = f" in {len(windows)} windows" if len(windows) > 1 else ""
    return (
        f"{_name(report)}: {alarms_found(alarms)}; {rows:,} rows{days}, {columns} columns, budget "
        f"{report.budget:g} false alarms a year"
    )


def _name(report: DriftReport) -> str:
    return f"{report.model}/{report.version}" if report.version else report.model


def _rows(report: DriftReport) -> list[tuple[str, ...]]:
    """A row per column: of several windows, the one with the strongest evidence."""
    worst: dict[tuple[str, str], ColumnDrift] = {}
    alarms: dict[tuple[str, str], int] = {}
    for window in report.windows:
        for column in window.columns:
            key = (column.where, column.name)
            alarms[key] = alarms.get(key, 0) + column.is_alarm
            if key not in worst or _order(column) < _order(worst[key]):
                worst[key] = column
    several = len(report.windows) > 1
    ordered = sorted(worst.items(), key=lambda item: _order(item[1]))
    return [_row(column, alarms[key], several=several) for key, column in ordered]


def _order(column: ColumnDrift) -> tuple[bool, float]:
    test = column.leading
    return not column.is_alarm, 1e300 if test is None else test.rank[-1]


def _row(column: ColumnDrift, alarms: int, *, several: bool) -> tuple[str, ...]:
    test = column.leading
    name = _MARKS.get(column.where, "") + column.name
    alarm = (str(alarms) if several else "yes") if alarms else "-"
    if test is None:
        return name, "broken" if column.is_broken else "not tested", "-", "-", "-", alarm
    evidence = f"{test.p_value:.1e}" if test.p_value is not None else f"e {test.e_value:.1e}"
    then, now = _then_and_now(column, test)
    return name, _short(test), evidence, then, now, alarm


def _short(test: Test) -> str:
    unit = {"location": " sd", "slow": " sd", "shape": " KS", "harm": ""}.get(test.name)
    amount = f"{test.effect:+.2f}{unit}" if unit is not None else f"{test.effect:+.1%}"
    return f"{test.name} {amount}"


def _then_and_now(column: ColumnDrift, test: Test) -> tuple[str, str]:
    if test.name == "missing":
        return f"{column.missing[0]:.1%}", f"{column.missing[1]:.1%}"
    if test.name == "harm":
        return f"{column.then['mean']:.3f}", f"{column.now['mean']:.3f}"
    if test.name in ("unseen", "range"):
        return "0.0%", f"{test.effect:.1%}"
    if test.name == "categories":
        then, now = column.then.get(test.what), column.now.get(test.what)
        return tuple("-" if one is None else f"{one:.1%}" for one in (then, now))  # type: ignore[return-value]
    key = column.tested
    return f"{column.then.get(key, 0):.4g}", f"{column.now.get(key, 0):.4g}"


def _lines(report: DriftReport) -> Iterator[str]:
    """The report for a terminal: at most 80 letters a line in the table, sentences below."""
    rows = _rows(report)
    yield _summary(report)
    if rows:
        yield ""
        yield line(_HEADINGS, _WIDTHS, 2)
        yield from (line(row, _WIDTHS, 2) for row in rows[:_SHOWN])
    if len(rows) > _SHOWN:
        yield f"... and {len(rows) - _SHOWN} more columns without stronger evidence"
    said = list(alarm_sentences(report))
    if said or report.notes:
        yield ""
    yield from said[:_SHOWN]
    yield from report.notes


def alarm_sentences(report: DriftReport) -> Iterator[str]:
    """A sentence per column with an alarm: that of the window with the strongest evidence."""
    found: dict[tuple[str, str], list[tuple[WindowDrift, ColumnDrift]]] = {}
    for window in report.windows:
        for column in window.alarms:
            found.setdefault((column.where, column.name), []).append((window, column))
    strongest = [(min(alarms, key=lambda one: _order(one[1])), alarms) for alarms in found.values()]
    for (window, column), alarms in sorted(strongest, key=lambda one: -(one[0][1].share or 0)):
        share = "" if column.share is None else f" [{column.share:.0%} of the alarm]"
        if window.day is None:
            yield f"{column.sentence}{share}"
        else:
            days = f"{len(alarms)} windows from {alarms[0][0].day} to {alarms[-1][0].day}"
            before = f"{days}, strongest on " if len(alarms) > 1 else ""
            yield f"{before}{window.day}: {column.sentence}{share}"
