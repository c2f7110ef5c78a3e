"""The words by which versions are looked for, read and checked. Nothing here does I/O.

    metric.roc_auc >= 0.8   tag.team = risk   tag.audited   model = late   alias = champion
    gates = passed   by = ada   digest = 3f9a   pushed >= 2026-03-01   pushed >= 7d   retired = any

Terms stand beside each other, and all of them must hold.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from bascule.core import Invalid

Sign = Literal[">=", "<=", ">", "<", "=", "!=", "has"]

_TERM = re.compile(
    r"(?P<field>[A-Za-z_]+)(?:\.(?P<key>[\w.:/-]+(?:\[[^\]]*\])?))?"
    r"""(?:\s*(?P<sign>>=|<=|!=|=|>|<)\s*(?P<value>"[^"]*"|'[^']*'|[^\s"'<>=]+))?(?=\s|$)"""
)
_AND = re.compile(r"\s+(?:and\s+)?", re.IGNORECASE)
_AGO = re.compile(r"(?P<count>\d{1,6})(?P<unit>[dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_DIGEST = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-f]{4,64})")
_EQUALS: tuple[Sign, ...] = ("=", "!=")
_ORDERS: tuple[Sign, ...] = (">=", "<=", ">", "<")
_SIGNS: dict[str, tuple[Sign, ...]] = {
    "metric": (*_ORDERS, *_EQUALS, "has"),
    "tag": (*_EQUALS, "has"),
    "model": _EQUALS,
    "alias": ("=",),
    "gates": _EQUALS,
    "by": _EQUALS,
    "digest": ("=",),
    "pushed": _ORDERS,
    "retired": ("=",),
}
_WORDS = {"gates": ("passed", "failed", "unchecked"), "retired": ("yes", "no", "any")}


@dataclass(frozen=True, slots=True)
class Term:
    """One requirement of a version.

    Attributes:
        field: metric, tag, model, alias, gates, by, digest, pushed or retired.
        key: The name of the metric or tag.
        sign: How it is compared; `has` where it need only be there.
        value: A number of a metric, a moment of `pushed`, else a text.
    """

    field: str
    key: str
    sign: Sign
    value: str | float | datetime | None


def parse_search(text: str, *, now: datetime) -> tuple[Term, ...]:
    """The terms of a search; none of an empty one.

    Args:
        text: As people write it.
        now: What `pushed >= 7d` (seven days ago) counts back from.

    Raises:
        Invalid: A term cannot be read; the message quotes it and the hint says what can be.
    """
    terms, rest = [], text.strip()
    while rest:
        match = _TERM.match(rest)
        if match is None:
            raise Invalid(
                f"search {rest!r} cannot be read",
                hint="write terms such as metric.roc_auc >= 0.8 tag.team = risk; quote a value "
                'with spaces: tag.team = "risk office"',
            )
        terms.append(_term(match, now))
        rest = _AND.sub("", rest[match.end() :], count=1)
    return tuple(terms)


def _term(match: re.Match[str], now: datetime) -> Term:
    field, key, said = match["field"].lower(), match["key"] or "", match[0].strip()
    if field not in _SIGNS:
        near = difflib.get_close_matches(field, _SIGNS, n=1, cutoff=0.6)
        raise Invalid(
            f"search term {said!r}: there is no field {field!r}"
            + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"fields are {', '.join(_SIGNS)}",
        )
    if bool(key) != (field in ("metric", "tag")):
        wanted = f"{field}.NAME" if not key else field
        raise Invalid(f"search term {said!r}: write {wanted}", hint=f"{wanted} = VALUE")
    sign: Sign = match["sign"] or "has"  # type: ignore[assignment]  # the pattern allows no other
    if sign not in _SIGNS[field]:
        shown = " ".join(one for one in _SIGNS[field] if one != "has")
        raise Invalid(
            f"search term {said!r}: {field} cannot be compared so", hint=f"{field} takes {shown}"
        )
    raw = (match["value"] or "").strip("\"'")
    return Term(field, key, sign, None if sign == "has" else _value(field, raw, said, now))


def _value(field: str, raw: str, said: str, now: datetime) -> str | float | datetime:
    if field == "metric":
        return _number(raw, said)
    if field == "pushed":
        return _moment(raw, said, now)
    if field in _WORDS and raw not in _WORDS[field]:
        raise Invalid(
            f"search term {said!r}: {raw!r} is none of {', '.join(_WORDS[field])}",
            hint=f"{field} = {_WORDS[field][0]}",
        )
    if field == "digest":
        match = _DIGEST.fullmatch(raw.lower())
        if match is None:
            raise Invalid(
                f"search term {said!r}: {raw!r} is not the beginning of a digest",
                hint="give four or more of its hexadecimal digits",
            )
        return match["hex"]
    return raw


def _number(raw: str, said: str) -> float:
    try:
        number = float(raw)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Invalid(f"search term {said!r}: {raw!r} is not a number", hint="metric.NAME >= 0.8")
    return number


def _moment(raw: str, said: str, now: datetime) -> datetime:
    ago = _AGO.fullmatch(raw)
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago["unit"]]: int(ago["count"])})
        moment = datetime.fromisoformat(raw)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            f"search term {said!r}: {raw!r} is not a time",
            hint="write 2026-03-01, 2026-03-01T12:00+01:00 (UTC if it has no zone), or 7d, 24h, "
            "30m for that long ago",
        ) from None
