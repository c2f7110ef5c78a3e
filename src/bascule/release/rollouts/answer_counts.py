"""What the answers of one arm were in one interval: counts, as workers made them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MAX_EVENTS = 16
"""As many as workers count; see `serving.telemetry.answers`."""
FIELDS = ("looked", "unusable", "compared", "changes")


class AnswerCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a sample of the answers.

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

    def row(self) -> tuple[int, ...]:
        """As numbers of a table."""
        counts = (getattr(self, name) for name in FIELDS)
        return *counts, *(*self.events, *[0] * MAX_EVENTS)[:MAX_EVENTS]


WIDTH = len(FIELDS) + MAX_EVENTS
"""Of a row."""


def combined(parts: Sequence[AnswerCounts], signs: Sequence[int]) -> AnswerCounts:
    """The sum, or the difference, of counts; none is below nought."""
    sums = [
        max(sum(sign * value for sign, value in zip(signs, values, strict=True)), 0)
        for values in zip(*(part.row() for part in parts), strict=True)
    ]
    events = sums[len(FIELDS) :]
    while events and not events[-1]:
        events.pop()
    looked, unusable, compared, changes = sums[: len(FIELDS)]
    return AnswerCounts(looked, unusable, compared, changes, tuple(events))
