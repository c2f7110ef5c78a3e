"""Outcomes as JSON: what a caller sends, and the lines that the spool keeps. Pure.

One outcome is `{"id": "...", "truth": ..., "time": "..."}`; a truth is a number, a text or a
boolean, and a time without a zone is in UTC. A wrong outcome is refused by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from bascule.core import Invalid, TooLarge

MAX_OUTCOMES = 10_000
"""Of one request."""
MAX_BODY_BYTES = 4 << 20
MAX_BRACKETS = 10 * MAX_OUTCOMES
"""Of one body. A million empty lists hold up every thread of a process while they are decoded."""
MAX_ID = 1_024
"""Characters of an id."""
MAX_TRUTH = 1_024
"""Characters of a truth that is a text."""
EXAMPLE = '{"outcomes": [{"id": "6f3a-1", "truth": 1, "time": "2026-11-26T12:00:00Z"}]}'
NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?$"
"""Texts that are numbers; of Python's and of RE2's syntax."""

_IS_NUMBER = re.compile(NUMBER).match
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = frozenset(("id", "truth", "time"))


class Line(NamedTuple):
    """One outcome; see `outcomes.SCHEMA`. Times are microseconds since 1970.

    `time_us` is None for the time when the outcome is received. A truth that a person was asked for
    has the `reviewer`, and the `probability` with which its row was chosen.
    """

    id: str
    row: int
    truth: str
    truth_number: float | None
    time_us: int | None
    reviewer: str | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """An outcome that is not kept: its place in the request, from 0, and why."""

    index: int
    id: str
    reason: str


class OutcomeInput(NamedTuple):
    """One outcome as a caller sends it, not checked."""

    id: object
    truth: object
    time: object = None


def read_body(body: bytes) -> list[object]:
    """The outcomes of a JSON body, not checked.

    Raises:
        TooLarge: It has too many bytes or brackets.
        Invalid: It is not of the form of `EXAMPLE`.
    """
    if len(body) > MAX_BODY_BYTES:
        raise TooLarge(
            f"outcomes: {len(body):,} bytes are over {MAX_BODY_BYTES:,}, the limit of one request",
            hint="send several requests",
        )
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > MAX_BRACKETS:
        raise TooLarge(
            f"outcomes: {brackets:,} brackets are over {MAX_BRACKETS:,}, the limit of one request",
            hint=f"send flat objects: {EXAMPLE}",
        )
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}", hint=f"send {EXAMPLE}") from None
    given = said.get("outcomes") if type(said) is dict else None
    if type(given) is not list or len(said) != 1:
        raise Invalid("the body is not one list `outcomes`", hint=f"send {EXAMPLE}")
    return given


def read_outcomes(given: Sequence[object]) -> tuple[list[Line], list[Refused]]:
    """Check outcomes: those to keep, and those that are refused.

    Args:
        given: Objects with `id`, `truth` and perhaps `time`, or `OutcomeInput`s.

    Raises:
        TooLarge: There are more than `MAX_OUTCOMES`.
        Invalid: There is none.
    """
    if len(given) > MAX_OUTCOMES:
        raise TooLarge(
            f"outcomes: {len(given):,} are over {MAX_OUTCOMES:,}, the limit of one request",
            hint="send several requests",
        )
    if not given:
        raise Invalid("outcomes: the list is empty", hint=f"send {EXAMPLE}")
    lines, refused = [], []
    for index, one in enumerate(given):
        try:
            lines.append(_line(one))
        except ValueError as problem:
            said = one.get("id") if isinstance(one, dict) else getattr(one, "id", None)
            shown = said[:MAX_ID] if isinstance(said, str) else ""
            refused.append(Refused(index, shown, str(problem)))
    return lines, refused


def split_id(given: str) -> tuple[str, int]:
    """The prediction id and the row: `ID#3` is row 3 of `ID`, an id without it is row 0."""
    name, mark, row = given.rpartition("#")
    if mark and row.isascii() and row.isdecimal() and len(row) < 10:
        return name, int(row)
    return given, 0


def number_of(text: str) -> float | None:
    """The number that a text is; None for another text."""
    if _IS_NUMBER(text) is None:
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _line(one: object) -> Line:
    """Raises `ValueError` with the reason of a refusal."""
    if isinstance(one, dict):
        unknown = sorted(str(name)[:64] for name in one if name not in _FIELDS)
        if unknown:
            raise ValueError(f"{unknown[0]}: there is no such field; send id, truth and time")
        one = OutcomeInput(one.get("id"), one.get("truth"), one.get("time"))
    if not isinstance(one, OutcomeInput):
        raise ValueError("not an object with id and truth")  # noqa: TRY004 -- a refusal
    text, number = _truth(one.truth)
    name, row = split_id(_id(one.id))
    return Line(name, row, text, number, _time_us(one.time))


def _id(given: object) -> str:
    if given is None or given == "":
        raise ValueError("no id")
    if not isinstance(given, str):
        raise ValueError("id: not a text")  # noqa: TRY004
    if len(given) > MAX_ID:
        raise ValueError(f"id: {len(given):,} characters are over {MAX_ID:,}, the limit")
    return given


def _truth(given: object) -> tuple[str, float | None]:
    if given is None or given == "" or (isinstance(given, float) and math.isnan(given)):
        raise ValueError("no truth")
    if isinstance(given, bool):
        return ("true", 1.0) if given else ("false", 0.0)
    if isinstance(given, str):
        if len(given) > MAX_TRUTH:
            raise ValueError(f"truth: {len(given):,} characters are over {MAX_TRUTH:,}, the limit")
        return given, number_of(given)
    if isinstance(given, int | float):
        if not abs(given) < 1e300:
            raise ValueError("truth: the number is over 1e300")
        # As Arrow writes numbers, so that a truth is the same text through every door.
        whole = isinstance(given, int) or (given == int(given) and abs(given) < 1e15)
        return str(int(given)) if whole else repr(given), float(given) + 0.0
    raise ValueError("truth: not a number, a text or a boolean")


def _time_us(given: object) -> int | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)  # type: ignore[arg-type]
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("time: not a time such as 2026-11-26T12:00:00Z") from None
