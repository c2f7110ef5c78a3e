"""Requests steered by their context: which arm answers, and with which probability. Pure.

Linear Thompson sampling (Agrawal and Goyal 2013): of two arms with normal posteriors, the chance
that a draw prefers the candidate is a normal distribution function, so each propensity is exact. A
part of the requests explores, with either arm as likely in every context: propensities have a
floor, and the explored requests are a fair comparison of the arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

LIMIT = 3.0
"""A number counts as at most so many standard deviations from its mean."""


@dataclass(frozen=True, slots=True)
class ContextFeature:
    """An input that is part of the context: a standardised number, or indicators of categories.

    A number that is missing or not finite counts as the mean; a category that is missing or not
    listed has no indicator.

    Attributes:
        name: Of the column.
        field: The input that holds it; of a request with several rows, the first one counts.
        place: Within a row of the field, from 1; 0 for a field with one value a row.
        mean: Of the training rows.
        scale: Their standard deviation.
        categories: As texts; none for a number.
    """

    name: str
    field: str = ""
    place: int = 0
    mean: float = 0.0
    scale: float = 1.0
    categories: tuple[str, ...] = ()

    def numbers(self, value: Any) -> list[float]:
        """Its numbers in the context of a request with this value; None for a missing one."""
        if self.categories:
            return [float(value == known) for known in self.categories]
        number = math.nan if value is None else float(value)
        if not math.isfinite(number):
            return [0.0]
        return [max(-LIMIT, min(LIMIT, (number - self.mean) / self.scale))]


def context_of(features: Sequence[ContextFeature], columns: Mapping[str, Any]) -> list[float]:
    """The context of a request with these inputs: 1, then the numbers of each feature."""
    numbers = [1.0]
    for feature in features:
        column = columns.get(feature.field)
        value = None if column is None or not len(column) else column[0]
        if feature.place and value is not None:
            value = value[feature.place - 1]
        numbers += feature.numbers(value)
    return numbers


class Steered(NamedTuple):
    """The arm of a request, whether it explored, and the probability of this arm all in all."""

    is_candidate: bool
    is_explored: bool
    propensity: float


@dataclass(frozen=True, slots=True)
class ContextPolicy:
    """How requests without a sticky key get the arm `current` or `candidate`.

    Attributes:
        features: Of the context.
        gain: The posterior mean of the weights of the candidate's reward, less those of the current
            version; empty before anything is learnt: every request explores.
        covariance: Of the gain. Shape (numbers, numbers).
        floor: The least propensity of an arm; twice as many requests explore.
        most: The greatest probability of the candidate for a request that does not explore.
    """

    features: tuple[ContextFeature, ...]
    gain: tuple[float, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()
    floor: float = 0.05
    most: float = 1.0

    def preference(self, context: Sequence[float]) -> float:
        """The probability of the candidate for a request that does not explore, in thousandths."""
        mean = _dot(self.gain, context)
        variance = _dot(context, [_dot(row, context) for row in self.covariance])
        chance = 0.5 * math.erfc(-mean / math.sqrt(2 * max(variance, 1e-12)))
        return min(round(chance, 3), self.most)

    def steer(self, columns: Mapping[str, Any], draw: float) -> Steered:
        """The arm of a request with these inputs; `draw` is uniform on [0, 1)."""
        if not self.gain:
            return Steered(draw < 0.5, True, 0.5)
        explores = 2 * self.floor
        prefers = (1 - explores) * self.preference(context_of(self.features, columns))
        is_explored = draw < explores
        is_candidate = draw < (self.floor if is_explored else explores + prefers)
        chance = self.floor + prefers
        return Steered(is_candidate, is_explored, chance if is_candidate else 1 - chance)


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
