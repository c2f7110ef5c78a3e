"""The smallest changes of a row with which a model answers otherwise (Wachter et al. 2018).

A genetic search over the user's columns that only asks the model, some 20,000 rows. New values
come from the ranges of the training rows. Results change different sets of columns (Mothilal et
al. 2020). Each was answered by the model itself; that none is smaller is not proven.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining.columns import ColumnPlace, column_places
from bascule.bundle.tables import take
from bascule.core import Columns, DType, Invalid, Signature

Floats = NDArray[np.float64]
Gap = Callable[[Columns], Floats]
"""How far the model's answer to each row is from the goal; at most 0 where it is reached."""

_KEPT, _BORN, _GENERATIONS = 100, 400, 40
_ALIKE = 8
_HALVINGS = 12
_FAR = 1e3
"""Rows that miss the goal are behind all that reach it."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a column may be changed to: numbers from `low` to `high`, or one of `values`.

    Changes of numbers are measured in `usual`, the width of the middle 90 %.
    """

    low: float = 0.0
    high: float = 0.0
    usual: float = 1.0
    values: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """A row that reaches the goal, and what differs: by column, the value before and after.

    `distance` is the sum of the changes in usual widths; another text counts as 1.
    """

    row: Columns
    changes: Mapping[str, tuple[Any, Any]]
    distance: float


def ranges_of(signature: Signature, training: Mapping[str, Mapping[str, Any]]) -> dict[str, Range]:
    """What columns may be changed to, by the `training` statement; no free texts and no dates."""
    ranges = {}
    for at, place in enumerate(column_places(signature)):
        seen, field = training.get(place.name) or training.get(f"c{at}") or {}, place.field
        if field.booleans or field.dtype is DType.BOOL:
            ranges[place.name] = Range(values=[field.dtype.numpy.type(one) for one in (0, 1)])
        elif field.categories or (field.dtype is DType.BYTES and "values" in seen):
            ranges[place.name] = Range(values=list(field.categories or seen["values"]))
        elif seen.keys() >= {"min", "max", "p05", "p95"} and field.dtype is not DType.BYTES:
            low, high = seen["min"], seen["max"]
            ranges[place.name] = Range(low, high, seen["p95"] - seen["p05"] or high - low or 1.0)
    return ranges


def counterfactuals(
    gap: Gap, places: Sequence[ColumnPlace], ranges: Mapping[str, Range], row: Columns,
    *, most: int = 3,
) -> list[Counterfactual]:  # fmt: skip
    """Changes that reach the goal, the smallest first; none where no change was found to.

    Args:
        gap: The model and the goal.
        places: The columns of the model.
        ranges: Of the columns that may change.
        row: One row, in the types of the signature.
        most: How many results.

    Raises:
        Invalid: No column may change, or the row reaches the goal already.
    """
    movable = [place for place in places if place.name in ranges]
    if not movable:
        raise Invalid("no column of the model may change", hint="name columns of the model")
    if gap(row)[0] <= 0:
        raise Invalid("the model answers so already", hint="name another answer")
    return _Search(gap, movable, [ranges[place.name] for place in movable], row).results(most)


class _Search:
    """A candidate is a number for each column: its value, or the place among `Range.values`.

    NaN is the row's own value.
    """

    def __init__(
        self, gap: Gap, places: Sequence[ColumnPlace], ranges: Sequence[Range], row: Columns
    ) -> None:
        self._gap, self._places, self._ranges, self._row = gap, places, ranges, row
        self._random = np.random.default_rng(0)
        self._is_choice = np.array([bool(one.values) for one in ranges])
        self._own = np.array(
            [
                0.0 if one.values else place.values(row)[0]
                for place, one in zip(places, ranges, strict=True)
            ]
        )
        self._low = np.array([0.0 if one.values else one.low for one in ranges])
        self._width = np.array([len(one.values) or one.high - one.low for one in ranges])
        self._usual = np.array([one.usual for one in ranges])

    def results(self, most: int) -> list[Counterfactual]:
        """See `counterfactuals`."""
        kept = np.full((1, len(self._places)), np.nan)
        for _ in range(_GENERATIONS):
            pairs = kept[self._random.integers(0, len(kept), (2, _BORN))]
            is_first = self._random.random(pairs.shape[1:]) < 0.5
            kept = self._fittest(np.concatenate([kept, self._mutated(np.where(is_first, *pairs))]))
        by_columns: dict[bytes, Floats] = {}
        for candidate in kept[self._gaps(kept) <= 0]:
            smaller = self._smaller(candidate)
            by_columns.setdefault(np.isnan(smaller).tobytes(), smaller)
        ordered = sorted(by_columns.values(), key=lambda one: float(self._costs(one[None])[0]))
        return [self._told(one) for one in ordered[:most]]

    def _mutated(self, genes: Floats) -> Floats:
        """Some numbers new, some half of the way back, some as in the row."""
        share, kind = 1 / genes.shape[1], self._random.random(genes.shape)
        fresh = self._low + self._width * self._random.random(genes.shape)
        fresh = np.where(self._is_choice, np.floor(fresh), fresh)
        halfway = np.where(self._is_choice, genes, (genes + self._own) / 2)
        changed = np.where(kind < share, fresh, np.where(kind > 1 - share, halfway, genes))
        return np.where(np.abs(kind - 0.5) < share / 2, np.nan, changed)

    def _fittest(self, genes: Floats) -> Floats:
        """The best ones, of each set of changed columns a few."""
        distinct = np.unique(genes, axis=0)
        gaps = self._gaps(distinct)
        fitness = self._costs(distinct) + np.where(gaps > 0, _FAR * (1 + gaps), 0)
        kept, alike = [], Counter[bytes]()
        for at in np.argsort(fitness, kind="stable"):
            changed = np.isnan(distinct[at]).tobytes()
            alike[changed] += 1
            kept += [at] if alike[changed] <= _ALIKE else []
        return np.asarray(distinct[kept[:_KEPT]])

    def _smaller(self, candidate: Floats) -> Floats:
        """Without changes that are not needed, and each number as near as the goal allows."""
        costs = self._distances(candidate[None])[0]
        for k in np.argsort(-costs, kind="stable"):
            candidate = self._if_reaching(candidate, k, np.nan)
        for k in np.flatnonzero(~np.isnan(candidate) & ~self._is_choice):
            near = self._own[k]
            for _ in range(_HALVINGS):
                middle = (near + candidate[k]) / 2
                candidate = self._if_reaching(candidate, k, middle)
                near = near if candidate[k] == middle else middle
        return candidate

    def _if_reaching(self, candidate: Floats, k: np.int64, value: float) -> Floats:
        """The candidate with another number in one column, if it still reaches the goal."""
        trial = candidate.copy()
        trial[k] = value
        return trial if self._gaps(trial[None])[0] <= 0 else candidate

    def _costs(self, genes: Floats) -> Floats:
        """A changed column costs as much as a change over its usual width, beside the change."""
        return np.asarray((~np.isnan(genes)).sum(axis=1) + self._distances(genes).sum(axis=1))

    def _distances(self, genes: Floats) -> Floats:
        apart = np.where(self._is_choice, 1.0, np.abs(genes - self._own) / self._usual)
        # A number in place of a missing one counts as another text does.
        return np.where(np.isnan(genes), 0.0, np.nan_to_num(apart, nan=1.0))

    def _gaps(self, genes: Floats) -> Floats:
        return self._gap(self._rows(genes))

    def _rows(self, genes: Floats) -> Columns:
        rows = take(self._row, np.zeros(len(genes), np.int64))
        for k, (place, known) in enumerate(zip(self._places, self._ranges, strict=True)):
            values, moved = place.values(rows).copy(), ~np.isnan(genes[:, k])
            numbers = genes[moved, k]
            if known.values:
                values[moved] = [known.values[int(at)] for at in numbers]
            else:
                values[moved] = np.round(numbers) if values.dtype.kind in "iu" else numbers
            rows = place.replaced(rows, values)
        return rows

    def _told(self, genes: Floats) -> Counterfactual:
        row = self._rows(genes[None])
        both = {p.name: (p.values(self._row)[0], p.values(row)[0]) for p in self._places}
        changes = {name: (then, now) for name, (then, now) in both.items() if then != now}
        distance = float(self._distances(genes[None]).sum())
        return Counterfactual(row, changes, distance)
