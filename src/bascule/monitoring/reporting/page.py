"""An overview as a document: sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bascule.charts import histogram
from bascule.core import Unavailable
from bascule.documents import (
    Block,
    Bullets,
    Document,
    Figures,
    Plot,
    Plots,
    Section,
    Table,
    Text,
    page,
)
from bascule.monitoring.drift import ColumnView, DriftReport, alarm_sentences
from bascule.monitoring.performance import MetricView, PerformanceReport
from bascule.monitoring.reporting.overview import Overview, metric_lines, unmeasured
from bascule.monitoring.reporting.view import (
    ReportView,
    VersionView,
    report_of,
)
from bascule.monitoring.showing import alarms_found

_QUALITY_ROWS = 200
_SENTENCES = 6
_METRIC = "By day, with the 95 % interval. Dashed: the held-out rows."
_FOUND = ("day", "column", "missing", "in the baseline", "finding")
_NO_FINDING = "No finding: no value out of range, unseen, infinite or of another type."


def write_report(overview: Overview, out: Path) -> None:
    """Write the page. Raises `Unavailable`."""
    try:
        out.write_text(page(document_of(overview)), encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"{out} cannot be written: {error}", hint="give another --out") from error


def document_of(overview: Overview) -> Document:
    """Health, performance, and of each version its drift."""
    view = report_of(overview.to_json())
    versions = zip(overview.drift.versions, view.versions, strict=True)
    sections = (section for report, shown in versions for section in _version(report, shown))
    performance = () if overview.performance is None else _performance(overview.performance, view)
    return Document(
        f"{overview.model} in production",
        (
            Section("Summary", tuple(_summary(overview, view))),
            Section("Health", _health(overview)),
            Section("Performance", tuple(performance)),
            *sections,
        ),
    )


def _summary(overview: Overview, view: ReportView) -> Iterator[Block]:
    yield Figures(tuple(view.tiles))
    notes = [*metric_lines(overview), *unmeasured(overview)]
    notes += [note for report in overview.drift.versions for note in report.notes]
    if overview.performance is not None:
        notes += overview.performance.notes
    if notes:
        yield Bullets(tuple(dict.fromkeys(notes)))


def _health(overview: Overview) -> tuple[Block, ...]:
    charts = (
        ("requests", [float(day.requests) for day in overview.days], "Requests of each UTC day."),
        ("errors", [float(day.errors) for day in overview.days], "Answers of status 500 or more."),
        ("p99 ms", [day.p99_s * 1e3 for day in overview.days], "The 99th percentile of latency."),
    )
    days = [str(day.day)[5:] for day in overview.days]
    return (Plots(tuple(_by_day(days, *chart) for chart in charts)),)


def _by_day(days: list[str], name: str, values: list[float], caption: str) -> Plot:
    """A bar for each day."""
    edges = [float(x) for x in range(len(days) + 1)]
    return Plot(name, caption, histogram(edges, values, ("UTC day", name), name, x_names=days))


def _performance(report: PerformanceReport, view: ReportView) -> Iterator[Block]:
    yield from _grid(map(_metric, view.metrics))
    sentences = [finding.sentence for finding in report.findings if not finding.is_alarm]
    if len(report.alarms) > _SENTENCES:
        sentences.append(f"the latest {_SENTENCES} of {len(report.alarms)} alarms:")
    if shown := [*sentences, *report.alarms[-_SENTENCES:]]:
        yield Bullets(tuple(dict.fromkeys(shown)))


_GROUPS = {"inputs": "input", "answers": "answer", "attributions": "explanation", "truths": "truth"}


def _metric(metric: MetricView) -> Plot | None:
    title = f"{metric.name}, version {metric.version}"
    return None if (chart := metric.chart) is None else Plot(title, _METRIC, chart)


def _version(report: DriftReport, view: VersionView) -> Iterator[Section]:
    title = f"Version {report.version}"
    yield Section(f"{title}: alarms", tuple(_alarms(report)))
    for name, where in _GROUPS.items():
        plots = (
            plot for column in view.columns if column.where == where for plot in _column(column)
        )
        yield Section(f"{title}: {name}", tuple(_grid(plots)))
    rows = tuple(
        (day, column, f"{now:.1%}", f"{then:.1%}", finding)
        for day, _, column, finding, now, then in view.quality[:_QUALITY_ROWS]
    )
    quality = Table(_FOUND, rows, _FOUND[2:4], empty=_NO_FINDING)
    yield Section(f"{title}: data quality", (quality,))
    yield Section(f"{title}: budget", (_budget(report),))


def _alarms(report: DriftReport) -> Iterator[Block]:
    days = sum(bool(window.alarms) for window in report.windows)
    today = [str(window.day) for window in report.windows if not window.is_finished]
    unfinished = f" {today[0]} is not over." if today else ""
    yield Text(f"{days} of {len(report.windows)} days have an alarm.{unfinished}")
    if sentences := tuple(alarm_sentences(report)):
        yield Bullets(sentences)


def _column(column: ColumnView) -> Iterator[Plot | None]:
    if (chart := column.chart) is not None:
        caption = "Pale: the baseline. Strong: production, all days together."
        yield Plot(column.name, caption, chart)
    if (over := column.over_time) is not None:
        colours = zip(("Blue", "Red", "Green"), column.drawn, strict=False)
        named = ", ".join(f"{colour}: {name}" for colour, name in colours)
        which = "" if column.drawn[0] in ("p50", "mean") else f"{named}. "
        caption = f"{alarms_found(column.alarms).capitalize()}. {which}Dashed: the baseline."
        yield Plot(f"{column.name} by day", caption, over)


def _budget(report: DriftReport) -> Text:
    columns = len(report.windows[-1].columns)
    return Text(
        f"{report.budget:g} false alarms a year are acceptable, over {columns} columns and "
        f"{report.windows_a_year} windows a year, for tests of single windows and for detectors "
        f"of slow changes. This leaves a level of {report.level:.2g} to each column, window and "
        "kind. An alarm also needs an effect that matters. Of the level, 80 % are for the values, "
        "10 % for missing ones, 10 % for unseen ones or numbers out of range."
    )


def _grid(plots: Iterator[Plot | None]) -> Iterator[Plots]:
    if shown := tuple(plot for plot in plots if plot is not None):
        yield Plots(shown)
