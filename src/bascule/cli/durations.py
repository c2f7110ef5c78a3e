"""Lengths of time as people write them: 30m, 24h, 7d."""

from __future__ import annotations

import re

from bascule.core import Invalid

_LENGTH = re.compile(r"(?P<count>\d+(?:\.\d+)?)(?P<unit>[smhd]?)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def seconds_of(text: str, option: str) -> float:
    """The seconds of a length of time; raises `Invalid`, which names the option."""
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise Invalid(f"{option} {text!r} is not a length of time", hint="write 0, 30m, 24h or 7d")
    return float(match["count"]) * _SECONDS[match["unit"]]
