"""Lengths of time as people write them: 30m, 24h, 7d; and moments that can be computed with."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from bascule.core.errors import Invalid

_LENGTH = re.compile(r"(?P<count>\d+(?:\.\d+)?)(?P<unit>ms|[smhd]?)")
_MOST_S = 100 * 366 * 86_400.0
_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def seconds_of(text: str, option: str) -> float:
    """The seconds of a length of time; raises `Invalid`, which names the option."""
    match = _LENGTH.fullmatch(text)
    if match is None or (not match["unit"] and float(match["count"])):
        raise Invalid(f"{option} {text!r} is not a length of time", hint="write 0, 30m, 24h or 7d")
    seconds = float(match["count"]) * _SECONDS[match["unit"]]
    if seconds > _MOST_S:
        raise Invalid(f"{option} {text!r} is longer than a century", hint="write 30m, 24h or 7d")
    return seconds


def length_of(length: timedelta | str, option: str) -> timedelta:
    """A length of time from Python, also as text; raises `Invalid`, which names the option."""
    if isinstance(length, timedelta):
        return length
    if not isinstance(length, str):
        raise Invalid(
            f"{option}: {length!r} is not a length of time", hint='pass "7d" or a timedelta'
        )
    return timedelta(seconds=seconds_of(length, option))


def duration_words(seconds: float) -> str:
    """A measured duration in the unit that gives 1 to 999: `45.2 us`, `26.9 ms`, `1.2 s`."""
    for unit, length_s in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * length_s:  # 999.7 us would be written as 1e+03 us
            return f"{seconds / length_s:.3g} {unit}"
    return f"{seconds:,.{1 if seconds >= 10 else 2}f} s"


def in_utc(moment: datetime) -> datetime:
    """A moment in UTC, taken as UTC where it has no zone; a year or more within the calendar.

    Beyond, another zone or a month more would be an `OverflowError`, and the edge serves as well.
    """
    naive = moment.replace(tzinfo=None)
    if not _FIRST.replace(tzinfo=None) < naive < _LAST.replace(tzinfo=None):
        return _FIRST if naive.year < 3 else _LAST
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
