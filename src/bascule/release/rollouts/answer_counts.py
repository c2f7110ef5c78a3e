"""What the answers of an interval were: counts, as workers made them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

MAX_EVENTS = 16
"""As many as workers count; see `serving.telemetry.answers`."""


class AnswerCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a sample of the answers of one arm.

    Attributes:
        looked: Answers that were searched for values that are no finite number.
        unusable: Of them, those that have one, of a model that did not declare them.
        compared: Answers that were compared with the values that the rollout has chosen.
        changes: Of them, those that differ from the answer before.
        events: Of them, those of which each event is true: a label, or a value up to a bound.
    """

    looked: int = 0
    unusable: int = 0
    compared: int = 0
    changes: int = 0
    events: tuple[int, ...] = ()


class PairCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of requests of the candidate that the current version answered too.

    Attributes:
        alike: Of two such requests, so often both versions put the same one first.
        crossed: So often they do not.
        ties: So often one of them puts none first.
        still: So often the candidate answers both alike, and the current version does not.
        compared: Requests whose two answers were compared with the values of the rollout.
        gained: Of them, those with an event that is true of the candidate's answer alone, by event.
        lost: Those with an event that is true of the current version's answer alone.
    """

    alike: int = 0
    crossed: int = 0
    ties: int = 0
    still: int = 0
    compared: int = 0
    gained: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()


Counts = TypeVar("Counts", AnswerCounts, PairCounts)
_EVENTS = ("events", "gained", "lost")
ANSWER_FIELDS, PAIR_FIELDS = (
    tuple(name for name in kind.__struct_fields__ if name not in _EVENTS)
    for kind in (AnswerCounts, PairCounts)
)
ANSWER_WIDTH = len(ANSWER_FIELDS) + MAX_EVENTS
PAIR_WIDTH = len(PAIR_FIELDS) + 2 * MAX_EVENTS
"""Of a row."""


def row_of(counts: AnswerCounts | PairCounts) -> list[int]:
    """Counts as numbers of a table; lists of events are filled with nought."""
    row: list[int] = []
    for value in msgspec.structs.astuple(counts):
        is_list = isinstance(value, tuple)
        row += (*value, *[0] * MAX_EVENTS)[:MAX_EVENTS] if is_list else [value]
    return row


def combined(parts: Sequence[Counts], signs: Iterable[int] = ()) -> Counts:
    """The sum, or by signs the difference, of counts; none is below nought."""
    rows = zip(*map(row_of, parts), strict=True)
    factors = [*signs] or [1] * len(parts)
    sums = [max(sum(map(int.__mul__, factors, row)), 0) for row in rows]
    values: dict[str, int | tuple[int, ...]] = {}
    for name in parts[0].__struct_fields__:
        taken = MAX_EVENTS if name in _EVENTS else 1
        part, sums = sums[:taken], sums[taken:]
        while name in _EVENTS and part and not part[-1]:
            part.pop()
        values[name] = tuple(part) if name in _EVENTS else part[0]
    return msgspec.convert(values, type(parts[0]))
