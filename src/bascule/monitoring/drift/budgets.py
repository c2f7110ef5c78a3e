"""The two conditions of an alarm: a level that the budget leaves, and an effect that matters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bascule.core import Invalid

VALUES_PART, MISSING_PART, STRANGE_PART = 0.8, 0.1, 0.1
"""How the level of a column is split: its values, missing ones, unseen or out of range."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Expected false alarms a year, over all columns and windows of one model.

    Attributes:
        alarms_a_year: The promise, where rows do not drift.
        windows_a_year: Windows that are tested.
        columns: Columns of inputs and answers that are tested.
        kinds: 1 for tests of single windows, 2 with detectors of slow changes.
    """

    alarms_a_year: float = 4.0
    windows_a_year: int = 365
    columns: int = 1
    kinds: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alarms_a_year) and self.alarms_a_year > 0):
            raise Invalid(
                f"budget: {self.alarms_a_year:g} alarms a year is not > 0",
                hint="give the false alarms a year that are acceptable, such as 4",
            )
        if self.windows_a_year < 1:
            raise Invalid(
                f"windows_a_year: {self.windows_a_year} is not >= 1", hint="365 is one a day"
            )

    @property
    def level(self) -> float:
        """The chance of a false alarm per column, window and kind; at most 0.2."""
        tests = self.windows_a_year * self.columns * self.kinds
        return min(0.2, self.alarms_a_year / tests)


@dataclass(frozen=True, slots=True)
class Effect:
    """The least change of a column that matters. A smaller one raises no alarm.

    Attributes:
        deviations: A shift in standard deviations of the baseline (of its normal scores), or a
            relative change of the deviation.
        distance: A Kolmogorov-Smirnov distance.
        share: A change of the share of a category, of missing, unseen or out-of-range values.
    """

    deviations: float = 0.1
    distance: float = 0.05
    share: float = 0.02

    def __post_init__(self) -> None:
        for name in ("deviations", "distance", "share"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise Invalid(f"effect: {name} {value:g} is not >= 0", field=name)

    def limit(self, test: str) -> float:
        """The limit for the effect of a test."""
        if test in ("location", "spread", "slow"):
            return self.deviations
        return self.distance if test == "shape" else self.share


def fleet_budget(
    budget: float, model: str, versions: Collection[tuple[str, str]], weights: Mapping[str, float]
) -> tuple[float, float]:
    """What a budget for all models leaves for one by its weight, and for each of its versions.

    The parts of `versions`, models with versions, add up to it: the expected number of false alarms
    is within the budget however models depend on one another. A bound on the share of false alarms
    (e-BH, Wang and Ramdas 2022) would grant more of them, the more models drift.
    """
    total = sum(weights.get(name, 1.0) for name in {name for name, _ in versions} | {model})
    part = budget * weights.get(model, 1.0) / total
    return part, part / max(1, sum(name == model for name, _ in versions))
