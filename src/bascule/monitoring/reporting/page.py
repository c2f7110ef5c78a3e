"""An overview as one page of HTML that loads nothing: sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from bascule.bundle import page
from bascule.core import Unavailable
from bascule.monitoring.drift import DriftReport, WindowDrift, alarm_sentences
from bascule.monitoring.reporting.overview import Overview, metric_lines, unmeasured
from bascule.monitoring.reporting.plots import counts_by_day, figure, figures_of, metric_by_day
from bascule.monitoring.showing import html_list, html_table

_QUALITY_ROWS = 200
_SENTENCES = 6
_METRIC = "By day, with the 95 % interval. Dashed: the held-out rows."


def render_report(overview: Overview) -> str:
    """The page."""
    sections = [
        ("summary", "Summary", _summary(overview)),
        ("health", "Health", _health(overview)),
        ("performance", "Performance", _performance(overview)),
    ]
    for report in overview.drift.versions:
        mark = f"version-{report.version}"
        title = f"Version {report.version}"
        sections += [
            (f"{mark}-alarms", f"{title}: alarms", _alarms(report)),
            (f"{mark}-inputs", f"{title}: inputs", _plots(report, "input")),
            (f"{mark}-answers", f"{title}: answers", _plots(report, "answer")),
            (f"{mark}-truths", f"{title}: truths", _plots(report, "truth")),
            (f"{mark}-quality", f"{title}: data quality", _quality(report)),
            (f"{mark}-budget", f"{title}: budget", _budget(report)),
        ]
    body = "\n".join(
        f'<section id="{escape(anchor)}">\n<h2>{escape(title)}</h2>\n{text}\n</section>'
        for anchor, title, text in sections
        if text
    )
    links = [(anchor, title) for anchor, title, text in sections if text]
    return page(f"{overview.model} in production", links, body)


def write_report(overview: Overview, out: Path) -> None:
    """Write the page. Raises `Unavailable`."""
    try:
        out.write_text(render_report(overview), encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"{out} cannot be written: {error}", hint="give another --out") from error


def _summary(overview: Overview) -> str:
    total, truths = overview.total, overview.truths
    alarms = sum(len(w.alarms) for one in overview.drift.versions for w in one.windows)
    alarms += len(overview.performance.alarms) if overview.performance else 0
    tiles = (
        ("period", f"{overview.since} to {overview.until}"),
        ("alarms", f"{alarms:,}"),
        ("requests", f"{total.requests:,}"),
        ("errors", f"{total.errors / max(1, total.requests):.2%}"),
        ("p50, p99", f"{total.p50_s * 1e3:.3g}, {total.p99_s * 1e3:.3g} ms"),
        ("truths", f"{truths.truths:,} of {truths.predictions:,}"),
        ("kept rows", f"{overview.kept.share:.1%}"),
    )
    shown = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in tiles)
    notes = [*metric_lines(overview), *unmeasured(overview)]
    notes += [note for report in overview.drift.versions for note in report.notes]
    if overview.performance is not None:
        notes += overview.performance.notes
    return f'<dl class="overview">{shown}</dl>{html_list(notes)}'


def _health(overview: Overview) -> str:
    days = [str(one.day)[5:] for one in overview.days]
    charts = (
        ("requests", [float(one.requests) for one in overview.days], "Requests of each UTC day."),
        ("errors", [float(one.errors) for one in overview.days], "Answers of status 500 or more."),
        ("p99 ms", [one.p99_s * 1e3 for one in overview.days], "The 99th percentile of latency."),
    )
    return _grid(
        figure(counts_by_day(days, values, ("UTC day", name), name), name, caption)
        for name, values, caption in charts
    )


def _performance(overview: Overview) -> str:
    report = overview.performance
    if report is None:
        return ""
    charts = []
    for version in dict.fromkeys(one.version for one in report.windows):
        days = [one for one in report.windows if one.version == version and one.start]
        days = [one for one in days if one.slice is None]
        for name in dict.fromkeys(one.metric for window in days for one in window.metrics):
            chart = metric_by_day(name, days)
            if chart is not None:
                charts.append(figure(chart, f"{name}, version {version}", _METRIC))
    said = [one.sentence for one in report.findings if not one.is_alarm]
    alarms = report.alarms[-_SENTENCES:]
    if len(report.alarms) > _SENTENCES:
        said.append(f"the latest {_SENTENCES} of {len(report.alarms)} alarms:")
    return f"{_grid(charts)}{html_list([*said, *alarms])}"


def _alarms(report: DriftReport) -> str:
    said = list(alarm_sentences(report))
    days = sum(bool(window.alarms) for window in report.windows)
    today = [str(window.day) for window in report.windows if not window.is_finished]
    unfinished = f" {today[0]} is not over." if today else ""
    verdict = f"{days} of {len(report.windows)} days have an alarm.{unfinished}"
    return f"<p>{verdict}</p>{html_list(said)}"


def _plots(report: DriftReport, where: str) -> str:
    return _grid(figures_of(report, where))


def _quality(report: DriftReport) -> str:
    rows = [
        (str(window.day), column.name, f"{column.missing[1]:.1%}", f"{column.missing[0]:.1%}", said)
        for window in report.windows
        for column in window.columns
        if column.where == "input"
        for said in ["; ".join([*column.findings, *_strange(window, column.name)])]
        if said
    ]
    if not rows:
        return "<p>No finding: no value out of range, unseen, infinite or of another type.</p>"
    table = html_table(
        ("day", "column", "missing", "in the baseline", "finding"), rows[:_QUALITY_ROWS]
    )
    return f'<div class="scroll">{table}</div>'


def _strange(window: WindowDrift, name: str) -> Iterator[str]:
    """Missing values, values out of range and unseen ones, as far as they raise an alarm."""
    for column in window.columns:
        if column.name == name and column.where == "input":
            for test in column.tests:
                if test.is_alarm and test.name in ("missing", "range", "unseen"):
                    yield f"{test.name} {test.effect:+.1%}"


def _budget(report: DriftReport) -> str:
    columns = len(report.windows[-1].columns)
    return (
        f"<p>{report.budget:g} false alarms a year are acceptable, over {columns} columns and "
        f"{report.windows_a_year} windows a year, for tests of single windows and for detectors "
        f"of slow changes. This leaves a level of {report.level:.2g} to each column, window and "
        "kind. An alarm also needs an effect that matters. Of the level, 80 % are for the values, "
        "10 % for missing ones, 10 % for unseen ones or numbers out of range.</p>"
    )


def _grid(figures: Iterable[str]) -> str:
    shown = "\n".join(figures)
    return f'<div class="plots">\n{shown}\n</div>' if shown else ""
