"""Volume and silence: days with far fewer or far more rows than usual. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from statistics import median

from bascule.core import counted
from bascule.monitoring.drift.windows import day_of
from bascule.stats import WindowProfile

DAYS = 28
"""How far back the usual volume is looked for."""
MIN_DAYS = 7
TIMES = 4.0
"""A day with so many times fewer or more rows than usual is reported."""
MIN_ROWS = 20


def volume_findings(windows: Sequence[WindowProfile], today: date | None = None) -> Iterator[str]:
    """A sentence for each day of unusual volume.

    The usual volume is the median of the days before, of the same weekday if there are four of
    them. Nothing is said before the eighth day, and nothing of today, which is not over.
    """
    rows = {day_of(one): one.rows for one in windows}
    if not rows:
        return
    first, last = min(rows), max(rows)
    if today is not None:
        last = max(last, today) - timedelta(days=1)
    for place in range(MIN_DAYS, (last - first).days + 1):
        day = first + timedelta(days=place)
        usual, now = _usual(rows, first, day), rows.get(day, 0)
        if not now and usual >= 1:
            yield f"{day}: silence: no row, {usual:,.0f} on usual days"
        elif max(usual, now) >= MIN_ROWS and (now * TIMES < usual or now > usual * TIMES):
            yield f"{day}: {counted(now, 'row')}, {usual:,.0f} on usual days"


def _usual(rows: dict[date, int], first: date, day: date) -> float:
    days = [day - timedelta(days=back) for back in range(1, DAYS + 1)]
    days = [one for one in days if one >= first]
    same = [rows.get(one, 0) for one in days if one.weekday() == day.weekday()]
    return median(same if len(same) >= 4 else [rows.get(one, 0) for one in days])
