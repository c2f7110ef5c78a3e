"""What the answers of an interval were: counts, as workers made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np

from bascule.serving.telemetry import MAX_EVENTS, AnswerCounts, PairCounts

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


def combined(parts: Sequence[Counts], signs: Sequence[int]) -> Counts:
    """The sum, or by signs the difference, of counts; none is below nought."""
    totals = np.maximum(np.array(signs) @ [row_of(part) for part in parts], 0).tolist()
    values: dict[str, int | tuple[int, ...]] = {}
    for name in parts[0].__struct_fields__:
        if name in _EVENTS:
            events, totals = totals[:MAX_EVENTS], totals[MAX_EVENTS:]
            values[name] = tuple(np.trim_zeros(events, "b"))
        else:
            values[name] = totals.pop(0)
    return msgspec.convert(values, type(parts[0]))
