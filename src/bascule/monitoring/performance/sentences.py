"""What a report says in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime

from bascule.metrics import metric_of
from bascule.monitoring.performance.delays import DelayCurve
from bascule.monitoring.performance.results import (
    MetricPerformance,
    TrackRecord,
    WindowPerformance,
    shown,
)
from bascule.monitoring.showing import duration

_YOUNG = 0.9


def alarm_sentence(window: WindowPerformance, one: MetricPerformance) -> str:
    """The change in numbers: `version 2, 2026-05-04, carrier=AA: accuracy is ...`."""
    found = one.found
    return (
        f"{_where(window)}{one.metric} is {shown(one.metric, found.value)} (95 % interval "
        f"{shown(one.metric, found.lower)} to {shown(one.metric, found.upper)}, {found.rows:,} "
        f"truths), {_amount(one.metric, one.worse_by)} worse than the "
        f"{shown(one.metric, one.recorded)} on held-out rows (p = {one.p_value:.1e}, "
        f"level {one.level:.2g})"
    )


def facts(
    windows: Sequence[WindowPerformance], delays: DelayCurve | None, track: Sequence[TrackRecord]
) -> Iterator[str]:
    """Delays, windows whose truths are still to come, and how good the estimates were."""
    if delays is not None and delays.truths:
        half, most = (duration(delays.quantile(share)) for share in (0.5, 0.9))
        yield (
            f"half of the truths that come are in after {half}, 90 % after {most}; "
            f"{delays.eventual:.0%} of the predictions get one"
        )
    young = [
        one
        for one in windows
        if one.start is not None and one.slice is None
        and one.completeness is not None and one.completeness < _YOUNG
    ]  # fmt: skip
    for window in young[-3:]:
        yield _young(window)
    yield from _estimate(windows)
    for record in track:
        yield (
            f"{record.metric} estimated without truth was off by "
            f"{_amount(record.metric, record.mean_error)} on average in {record.windows} "
            f"window{'' if record.windows == 1 else 's'}; chance alone makes "
            f"{_amount(record.metric, record.sampling_error)}"
        )


def _estimate(windows: Sequence[WindowPerformance]) -> Iterator[str]:
    """The newest estimate, with what it cannot see."""
    known = [
        (window, one)
        for window in windows if window.slice is None
        for one in window.metrics[:1] if one.estimated_between is not None
    ]  # fmt: skip
    for window, one in known[-1:]:
        low, high = (shown(one.metric, end) for end in one.estimated_between or ())
        yield (
            f"{_where(window)}{one.metric} is estimated without truth at "
            f"{shown(one.metric, one.estimated)} (95 % interval {low} to {high}). The estimate "
            "cannot see concept drift: the same inputs with other truths"
        )


def _young(window: WindowPerformance) -> str:
    said = f"{_where(window)}{window.completeness:.0%} of the truths to come are in"
    for one in window.metrics:
        if one.bounds is not None:
            low, high = (shown(one.metric, end) for end in one.bounds)
            return f"{said}; {one.metric} is between {low} and {high} when all are in"
    return said


def _where(window: WindowPerformance) -> str:
    parts = [f"version {window.version}"] if window.version else []
    if window.start is not None:
        parts.append(moment(window.start))
    if window.slice is not None:
        parts.append("=".join(window.slice))
    return ", ".join(parts) + ": " if parts else ""


def _amount(metric: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    is_share = metric_of(metric).unit == "share"
    return f"{value * 100:.1f} points" if is_share else f"{value:.4g}"


def moment(start: datetime) -> str:
    """A day, with the time unless it is midnight."""
    return start.strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00")
