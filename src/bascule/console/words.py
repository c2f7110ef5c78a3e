"""How values read on pages: times, numbers, tones of states. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

_TONES = {
    "good": "passed promoted healthy ready live resolved served done succeeded current",
    "bad": "failed aborted critical unhealthy revoked down firing",
    "warn": "waiting paused warning pending deprecated behind unserved unchecked expired "
    "quarantined",
    "info": "loading running baking asked info candidate shadow acknowledged",
}
_TONE = {word: tone for tone, words in _TONES.items() for word in words.split()}
NONE = "\u2013"
"""In place of a value that is not there."""
_PROCESS = re.compile(r"([^\s:@]+):(\d+)")
"""How a control process signs what it does itself: its host and process id."""
_UNITS = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0))


def tone(state: str) -> str:
    """The tone of a state's badge: good, bad, warn, info or plain."""
    return _TONE.get(state, "plain")


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago, or in how long: `3 min ago`, `in 2 d`."""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    if abs(seconds) < 10:
        return "now"
    said = duration(abs(seconds))
    return f"{said} ago" if seconds > 0 else f"in {said}"


def duration(seconds: float) -> str:
    """A duration in its largest unit of which there are two: `90 min`, `45 s`."""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def latency(seconds: float | None) -> str:
    """A duration of an answer: `0.42 ms`, `1.2 s`; a dash if it is not known."""
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1_000:.3g} ms"


def number(value: float | None) -> str:
    """Three significant digits; whole numbers with separators; a dash for none."""
    if value is None:
        return "-"
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.3g}"


def percent(value: float | None) -> str:
    """A share, 0 to 1, in percent."""
    if value is None:
        return "-"
    return f"{value * 100:.3g} %"


def cell(value: Any) -> str:
    """A value as a cell shows it: six digits of a number, and a dash for a missing one."""
    if value is None or value != value:
        return NONE
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(cell(one) for one in value[:16])
        return f"[{shown}{', …' if len(value) > 16 else ''}]"
    return str(value)


def moment(at: datetime) -> str:
    """A time to the second, UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def capital(sentence: str) -> str:
    """A sentence with a capital, unless it begins with the name of a version, as `late/2`."""
    first = sentence.partition(" ")[0]
    return sentence[:1].upper() + sentence[1:] if first.isalpha() else sentence


def actor(by: str, *, is_short: bool = False) -> str:
    """Who did something; of a control process, that the controller did it, and where it runs.

    `is_short`: without where it runs.
    """
    found = _PROCESS.fullmatch(by)
    if found is None:
        return by
    return "controller" if is_short else f"controller (process {found[2]} on {found[1]})"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "tone": tone, "ago": ago, "duration": duration, "latency": latency, "number": number,
    "percent": percent, "moment": moment, "cell": cell, "actor": actor,
}  # fmt: skip
