"""Lengths of time as people write them: 30m, 24h, 7d."""

from __future__ import annotations

import re
from datetime import timedelta

from bascule.core.errors import Invalid

_LENGTH = re.compile(r"(?P<count>\d+(?:\.\d+)?)(?P<unit>ms|[smhd]?)")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def seconds_of(text: str, option: str) -> float:
    """The seconds of a length of time; raises `Invalid`, which names the option."""
    match = _LENGTH.fullmatch(text)
    if match is None or (not match["unit"] and float(match["count"])):
        raise Invalid(f"{option} {text!r} is not a length of time", hint="write 0, 30m, 24h or 7d")
    return float(match["count"]) * _SECONDS[match["unit"]]


def length_of(length: timedelta | str, option: str) -> timedelta:
    """A length of time from Python, also as text; raises `Invalid`, which names the option."""
    if isinstance(length, timedelta):
        return length
    if not isinstance(length, str):
        raise Invalid(
            f"{option}: {length!r} is not a length of time", hint='pass "7d" or a timedelta'
        )
    return timedelta(seconds=seconds_of(length, option))
