"""The plots of a report, as SVG: then and now, and windows over time with their alarms. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from bascule.charts import Chart
from bascule.monitoring.drift import ColumnDrift, DriftReport, WindowDrift, then_and_now
from bascule.monitoring.performance import WindowPerformance
from bascule.monitoring.showing import alarms_found

Series = Sequence[tuple[WindowDrift, ColumnDrift]]

_LINES = 3


def figure(chart: Chart, title: str, caption: str) -> str:
    """A chart with its words."""
    return (
        f"<figure>{chart.svg()}<figcaption><b>{escape(title)}.</b> {escape(caption)}"
        "</figcaption></figure>"
    )


def series_of(report: DriftReport) -> Mapping[tuple[str, str], Series]:
    """The windows of each column, by what it is of and its name."""
    made: dict[tuple[str, str], list[tuple[WindowDrift, ColumnDrift]]] = {}
    for window in report.windows:
        for column in window.columns:
            made.setdefault((column.where, column.name), []).append((window, column))
    return made


def over_time(name: str, series: Series) -> Chart | None:
    """The median with the band from 5 % to 95 %, or shares; the baseline dashed, alarms red."""
    columns = [column for _, column in series]
    last = columns[-1]
    keys = ["p50"] if "p50" in last.then else list(last.then)[:_LINES]
    values = {key: [one.now.get(key, math.nan) for one in columns] for key in keys}
    band = _band(columns) if "p50" in last.then else []
    every = [y for points in values.values() for y in points] + [y for _, y in band]
    every += [last.then[key] for key in keys]
    known = [one for one in every if math.isfinite(one)]
    if not keys or not known:
        return None
    room = (max(known) - min(known)) * 0.05
    span = (min(known) - room, max(known) + room)
    days = tuple(str(window.day)[5:] for window, _ in series)
    label = {"p50": "median", "mean": "mean loss"}.get(keys[0], "share")
    chart = Chart((0, max(1, len(series) - 1)), span, ("UTC day", label), f"{name} by day", days)
    if band:
        chart.line(band, "band")
    for place, key in enumerate(keys):
        chart.line([(0, last.then[key]), (len(series) - 1, last.then[key])], "guide")
        points = [(x, y) for x, y in enumerate(values[key]) if math.isfinite(y)]
        chart.line(points, f"line c{place}").dots(points, radius=2)
    alarms = [(place, values[keys[0]][place]) for place, one in enumerate(columns) if one.is_alarm]
    return chart.dots([one for one in alarms if math.isfinite(one[1])], "alarm", 4.5)


def _lines_of(column: ColumnDrift) -> str:
    """Which line is which category."""
    if "p50" in column.then or "mean" in column.then:
        return ""
    colours = ("Blue", "Red", "Green")
    named = zip(colours, list(column.then)[:_LINES], strict=False)
    return f"{', '.join(f'{colour}: {name}' for colour, name in named)}. "


def _band(columns: Sequence[ColumnDrift]) -> list[tuple[float, float]]:
    """A closed line around the range of each window."""
    known = [(x, one.now) for x, one in enumerate(columns) if "p05" in one.now]
    return [(float(x), now["p05"]) for x, now in known] + [
        (float(x), now["p95"]) for x, now in reversed(known)
    ]


def counts_by_day(
    names: Sequence[str], counts: Sequence[float], labels: tuple[str, str], alt: str
) -> Chart:
    """A bar for each day."""
    most = max(counts, default=1.0) or 1.0
    chart = Chart((0, max(1, len(counts))), (0, most * 1.05), labels, alt, tuple(names))
    return chart.bars([float(one) for one in range(len(counts) + 1)], list(counts))


def metric_by_day(name: str, windows: Sequence[WindowPerformance]) -> Chart | None:
    """A metric with its interval; alarms red."""
    found = [
        (float(x), one.found, one)
        for x, window in enumerate(windows)
        for one in window.metrics
        if one.metric == name and one.found.value is not None
    ]
    points = [(x, value) for x, estimate, _ in found if (value := estimate.value) is not None]
    if not points:
        return None
    lows = [(x, y) for x, estimate, _ in found if (y := estimate.lower) is not None]
    highs = [(x, y) for x, estimate, _ in found if (y := estimate.upper) is not None]
    recorded = found[-1][2].recorded
    levels = [y for _, y in (*points, *lows, *highs)] + ([] if recorded is None else [recorded])
    days = tuple("" if one.start is None else f"{one.start:%m-%d}" for one in windows)
    size, span = (0, max(1, len(windows) - 1)), (min(levels), max(levels))
    chart = Chart(size, span, ("UTC day", name), f"{name} by day", days)
    chart.line([*lows, *reversed(highs)], "band")
    if recorded is not None:
        chart.line([(0, recorded), (len(windows) - 1, recorded)], "guide")
    alarms = {x for x, _, one in found if one.is_alarm}
    chart.line(points).dots(points, radius=2)
    return chart.dots([point for point in points if point[0] in alarms], "alarm", 4)


def figures_of(report: DriftReport, where: str) -> Iterator[str]:
    """Two figures for each column, those with alarms first."""
    then, now = report.then.get(where), report.now.get(where)
    found = [(key, series) for key, series in series_of(report).items() if key[0] == where]
    found.sort(key=lambda one: (-sum(c.is_alarm for _, c in one[1]), one[0][1]))
    for (_, name), series in found:
        known = None if then is None else then.columns.get(name)
        latest = None if now is None else now.columns.get(name)
        if known is not None and latest is not None and known.kind == latest.kind:
            chart = then_and_now(name, known, latest)
            if chart is not None:
                caption = "Pale: the baseline. Strong: production, all days together."
                yield figure(chart, name, caption)
        over = over_time(name, series)
        if over is not None:
            alarms = sum(column.is_alarm for _, column in series)
            said = alarms_found(alarms).capitalize()
            lines = _lines_of(series[-1][1])
            yield figure(over, f"{name} by day", f"{said}. {lines}Dashed: the baseline.")
