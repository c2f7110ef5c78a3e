"""A metric in a report of performance as people see it, from the JSON of the report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bascule.charts import Svg
from bascule.monitoring.performance.results import shown
from bascule.monitoring.showing import by_day

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MetricView:
    """A metric of a version, or of a slice of its rows, over the whole period.

    Attributes:
        version: Of the model; empty for a table.
        slice: The column and the value that the rows have in common; None for all rows.
        name: Of the metric.
        measured: What was measured, as JSON.
        days: The start and the value of each window that has one, as JSON.
    """

    version: str
    slice: Mapping[str, str] | None
    name: str
    measured: Json
    days: Sequence[tuple[str, Json]]

    @property
    def value(self) -> str:
        return shown(self.name, self.measured["value"])

    @property
    def interval(self) -> str:
        """At 95 %."""
        return interval_of(self.measured)

    @property
    def recorded(self) -> str:
        """On the held-out rows."""
        return shown(self.name, self.measured["recorded"])

    @property
    def alarms(self) -> int:
        """In how many windows there is one."""
        return sum(bool(day["alarm"]) for _, day in self.days)

    @property
    def chart(self) -> Svg | None:
        """By day with its interval; dashed the held-out rows, red alarms; None of one day."""
        days = [(start, day, day["alarm"]) for start, day in self.days]
        levels = {"value": self.measured["recorded"]}
        band = "lower", "upper"
        return by_day(self.name, self.name, days, levels, band) if len(days) > 1 else None


def metrics_of(windows: Sequence[Json]) -> Iterator[MetricView]:
    """The metrics of the JSON of windows: of each version and slice over the whole period."""
    for whole in windows:
        if whole["start"] is not None:
            continue
        same = [
            window
            for window in windows
            if window["start"]
            and (window["version"], window["slice"]) == (whole["version"], whole["slice"])
        ]
        for metric in whole["metrics"]:
            name = metric["metric"]
            days = [
                (window["start"], day)
                for window in same
                for day in window["metrics"]
                if day["metric"] == name and day["value"] is not None
            ]
            yield MetricView(whole["version"], whole["slice"], name, metric, days)


def rows_of(version: str, slice_of: Mapping[str, str] | None) -> str:
    """What rows are of: `v2 carrier=AA`, or `all`."""
    named = f"v{version}" if version.isdecimal() else version
    part = "".join(f"{column}={value}" for column, value in (slice_of or {}).items())
    return " ".join(filter(None, (named, part))) or "all"


def interval_of(metric: Json) -> str:
    """The interval of the JSON of a metric; `too few` rows for one, `-` without a value."""
    if metric["lower"] is None:
        return "-" if metric["value"] is None else "too few"
    lower, upper = (shown(metric["metric"], metric[end]) for end in ("lower", "upper"))
    return f"{lower.removesuffix('%')} - {upper}"
