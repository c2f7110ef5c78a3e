"""How far the estimates without truth were off, in windows whose truth came."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bascule.monitoring.performance.results import TrackRecord, WindowPerformance

_MIN_TRUTHS = 30
_MEAN_OF_NORMAL = math.sqrt(2 / math.pi)
"""The mean absolute value of a standard normal variable."""


def track_records(measured: Sequence[WindowPerformance]) -> Iterator[TrackRecord]:
    """Of each metric that was estimated; the whole period counts only where it is all there is."""
    parts = [one for one in measured if one.slice is None and one.truths >= _MIN_TRUTHS]
    counted = [one for one in parts if one.start is not None] or parts
    found: dict[str, list[tuple[float, float]]] = {}
    for window in counted:
        for one in window.metrics:
            if one.estimated is not None and one.found.value is not None:
                missed = abs(one.estimated - one.found.value)
                found.setdefault(one.metric, []).append((missed, one.found.error))
    for metric, pairs in found.items():
        count = len(pairs)
        yield TrackRecord(
            metric,
            count,
            sum(missed for missed, _ in pairs) / count,
            _MEAN_OF_NORMAL * sum(error for _, error in pairs) / count,
        )
