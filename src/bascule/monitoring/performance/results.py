"""What was measured of one metric, and of one window."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from bascule.metrics import Estimate, metric_of


@dataclass(frozen=True, slots=True)
class MetricPerformance:
    """One metric in one window.

    Attributes:
        metric: Its name.
        found: The value on the rows whose truth is known, with its interval at 95 %.
        recorded: The value on the held-out rows of the bundle; None where there are none.
        p_value: Of a worsening by chance; None where the window is not judged.
        level: The chance of a false alarm that the budget leaves to this test.
        worse_by: How much worse than `recorded`, in the unit of the metric; negative if better.
        limit: The least worsening that matters.
        bounds: The least and the most that the value can become when all truths are in; None for
            a metric without such bounds.
        estimated: What it is estimated to be without any truth; None where it cannot be.
        estimated_between: The interval of `estimated` at 95 %, for rows like the held-out ones;
            None where it is unknown. It knows nothing of concept drift.
        is_alarm: Whether the level and the limit are met.
    """

    metric: str
    found: Estimate
    recorded: float | None = None
    p_value: float | None = None
    level: float = math.nan
    worse_by: float | None = None
    limit: float | None = None
    bounds: tuple[float, float] | None = None
    estimated: float | None = None
    estimated_between: tuple[float, float] | None = None
    is_alarm: bool = False

    def to_json(self) -> dict[str, Any]:
        found, (lower, upper) = self.found, self.estimated_between or (None, None)
        return {
            "metric": self.metric,
            "value": found.value,
            "lower": found.lower,
            "upper": found.upper,
            "rows": found.rows,
            "interval": found.method,
            "recorded": self.recorded,
            "p_value": self.p_value,
            "level": None if math.isnan(self.level) else self.level,
            "worse_by": self.worse_by,
            "limit": self.limit,
            "least": None if self.bounds is None else self.bounds[0],
            "most": None if self.bounds is None else self.bounds[1],
            "estimated": self.estimated,
            "estimated_lower": lower,
            "estimated_upper": upper,
            "alarm": self.is_alarm,
            "note": found.note,
        }


@dataclass(frozen=True, slots=True)
class WindowPerformance:
    """One version in one window of time, whole or one slice of it.

    Attributes:
        version: Of the model; empty for a table.
        start: In UTC; None for the whole period.
        end: The first moment after it; None for the whole period.
        slice: The column and the value that the rows have in common; None for all rows.
        predictions: How many rows were predicted.
        truths: Of how many the truth is known.
        completeness: The share of the truths that will ever come that is in, as estimated from
            the delays; None where they are unknown.
        metrics: In the order asked.
        waits: Why it is not judged yet; empty if it is.
    """

    version: str
    start: datetime | None
    end: datetime | None
    slice: tuple[str, str] | None
    predictions: int
    truths: int
    completeness: float | None
    metrics: tuple[MetricPerformance, ...]
    waits: str = ""

    @property
    def alarms(self) -> tuple[MetricPerformance, ...]:
        return tuple(one for one in self.metrics if one.is_alarm)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "start": None if self.start is None else self.start.isoformat(),
            "end": None if self.end is None else self.end.isoformat(),
            "slice": None if self.slice is None else dict([self.slice]),
            "predictions": self.predictions,
            "truths": self.truths,
            "completeness": self.completeness,
            "waits": self.waits,
            "metrics": [one.to_json() for one in self.metrics],
        }


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """How far estimates without truth were off in windows whose truth came.

    Attributes:
        metric: Which.
        windows: How many.
        mean_error: The mean absolute difference of estimate and value.
        sampling_error: What chance alone makes of it: the mean absolute difference for an
            estimate that is exact.
    """

    metric: str
    windows: int
    mean_error: float
    sampling_error: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, with its numbers.

    Attributes:
        sentence: For people.
        is_alarm: Whether it is one.
        version: Of the model.
        start: Of the window; None for the whole period.
        slice: See `WindowPerformance`.
        metric: Which.
        value: In the window.
        recorded: On the held-out rows.
        limit: The least worsening that matters.
        p_value: Of the test.
        rows: That were measured.
    """

    sentence: str
    is_alarm: bool
    version: str = ""
    start: datetime | None = None
    slice: tuple[str, str] | None = None
    metric: str = ""
    value: float | None = None
    recorded: float | None = None
    limit: float | None = None
    p_value: float | None = None
    rows: int = 0

    def to_json(self) -> dict[str, Any]:
        made = {one.name: getattr(self, one.name) for one in fields(self)}
        made["start"] = None if self.start is None else self.start.isoformat()
        made["slice"] = None if self.slice is None else dict([self.slice])
        return made


def shown(metric: str, value: float | None) -> str:
    """A value as people read it: shares as percent."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.1%}" if metric_of(metric).unit == "share" else f"{value:.4g}"
