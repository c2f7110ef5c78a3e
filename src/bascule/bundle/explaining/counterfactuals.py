"""The smallest changes of a row with which a model answers otherwise (Wachter et al. 2018).

A genetic search over the user's columns, for any model: it only asks. Values come from the ranges
of the training rows. Several results change different sets of columns (Mothilal et al. 2020). Each
was answered by the model itself; that none is smaller is not proven. Not cheap: some 20,000 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining.columns import ColumnPlace
from bascule.bundle.tables import take
from bascule.core import Columns, Invalid

Floats = NDArray[np.float64]
Gap = Callable[[Columns], Floats]
"""Asks the model about rows: how far each answer is from the goal, at most 0 where it is reached."""

_POPULATION, _KEPT, _GENERATIONS = 500, 100, 30
_GRID = 16
_CHANGED_COST = 1.0
"""Of a changed column, in units of the distance: a change over the whole usual range."""
_HALVINGS = 14
_FAR = 1e3
"""Rows that miss the goal are behind all that reach it."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a column may have: from `low` to `high`, or one of `values`.

    `usual` is the width of the middle 90 %, in which distances are measured. Of whole numbers
    `is_whole`. An original value outside stays possible: only changes are within.
    """

    low: float = 0.0
    high: float = 0.0
    usual: float = 1.0
    values: Sequence[Any] = ()
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """A changed row that reaches the goal.

    Attributes:
        row: The whole row, as one row of columns.
        changes: By column, the value before and after.
        distance: The sum of the changes in usual ranges; a changed text counts as 1.
    """

    row: Columns
    changes: Mapping[str, tuple[Any, Any]]
    distance: float


def counterfactuals(
    gap: Gap, places: Sequence[ColumnPlace], ranges: Mapping[str, Range], row: Columns,
    *, most: int = 3,
) -> list[Counterfactual]:  # fmt: skip
    """Changed rows that reach the goal, the smallest first, each of another set of columns.

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
    return _Search(gap, movable, ranges, row).results(most)


class _Search:
    """One search. A candidate is a row of `genes`: a number or the place of a value, by column."""

    def __init__(
        self, gap: Gap, places: Sequence[ColumnPlace], ranges: Mapping[str, Range], row: Columns
    ) -> None:
        self._gap, self._places, self._row = gap, places, row
        self._ranges = [ranges[place.name] for place in places]
        self._random = np.random.default_rng(0)
        self._own = np.array([self._gene(k) for k in range(len(places))])
        self._usual = np.array([1.0 if one.values else one.usual for one in self._ranges])
        self._is_choice = np.array([bool(one.values) for one in self._ranges])

    def _gene(self, k: int) -> float:
        """Of the row's own value; -1 for a text that is not among the values."""
        value, known = self._places[k].values(self._row)[0], self._ranges[k].values
        if not known:
            return float(value)
        return float(known.index(value)) if value in known else -1.0

    def results(self, most: int) -> list[Counterfactual]:
        """See `counterfactuals`."""
        genes = np.concatenate([*self._sweeps(), self._mutated(np.tile(self._own, (200, 1)))])
        for _ in range(_GENERATIONS):
            genes = self._fittest(genes)
            genes = np.concatenate([genes, self._mutated(self._crossed(genes))])
        chosen: dict[tuple[bool, ...], Floats] = {}
        for candidate in self._reaching(self._fittest(genes)):
            smaller = self._closer(self._simpler(candidate))
            chosen.setdefault(tuple(self._is_changed(smaller)), smaller)
        ordered = sorted(chosen.values(), key=lambda one: float(self._cost(one[None])[0]))
        return [self._told(one) for one in ordered[:most]]

    def _sweeps(self) -> Iterator[Floats]:
        """Each column alone, over its whole range."""
        for k, known in enumerate(self._ranges):
            count = len(known.values) or _GRID
            rows = np.tile(self._own, (count, 1))
            rows[:, k] = np.arange(count) if known.values else np.linspace(known.low, known.high, count)
            yield self._rounded(rows)

    def _mutated(self, genes: Floats) -> Floats:
        """Each gene with some chance: a new value, half of the way back, or the row's own."""
        shape = genes.shape
        low = np.array([0.0 if one.values else one.low for one in self._ranges])
        high = np.array([len(one.values) - 1e-9 if one.values else one.high for one in self._ranges])
        fresh = low + (high - low) * self._random.random(shape)
        fresh = np.where(self._is_choice, np.floor(fresh), fresh)
        halfway = np.where(self._is_choice, self._own, (genes + self._own) / 2)
        kind, share = self._random.random(shape), min(1.0, 1.5 / shape[1])
        result = np.where(kind < share, fresh, genes)
        result = np.where((kind > 1 - share) & (kind <= 1 - share / 2), halfway, result)
        return self._rounded(np.where(kind > 1 - share / 2, self._own, result))

    def _crossed(self, genes: Floats) -> Floats:
        pairs = self._random.integers(0, len(genes), (2, _POPULATION - _KEPT))
        from_first = self._random.random((pairs.shape[1], genes.shape[1])) < 0.5
        return np.where(from_first, genes[pairs[0]], genes[pairs[1]])

    def _rounded(self, genes: Floats) -> Floats:
        whole = np.array([one.is_whole for one in self._ranges])
        return np.where(whole & (genes != self._own), np.round(genes), genes)

    def _fittest(self, genes: Floats) -> Floats:
        distinct = np.unique(genes, axis=0)
        gaps = self._gaps(distinct)
        fitness = self._cost(distinct) + np.where(gaps > 0, _FAR * (1 + gaps), 0)
        return distinct[np.argsort(fitness, kind="stable")[:_KEPT]]

    def _reaching(self, genes: Floats) -> Floats:
        return genes[self._gaps(genes) <= 0]

    def _simpler(self, candidate: Floats) -> Floats:
        """Without the changes that are not needed, the costliest first."""
        cost = np.abs(candidate - self._own) / self._usual
        for k in np.argsort(-cost, kind="stable"):
            trial = candidate.copy()
            trial[k] = self._own[k]
            if self._gaps(trial[None])[0] <= 0:
                candidate = trial
        return candidate

    def _closer(self, candidate: Floats) -> Floats:
        """With each changed number as near to its own as the goal allows, by halving."""
        for k in np.flatnonzero(self._is_changed(candidate) & ~self._is_choice):
            near, far = self._own[k], candidate[k]
            for _ in range(_HALVINGS):
                trial = candidate.copy()
                trial[k] = (near + far) / 2
                trial = self._rounded(trial[None])[0]
                if trial[k] not in (near, far) and self._gaps(trial[None])[0] <= 0:
                    far = trial[k]
                    candidate = trial
                else:
                    near = (near + far) / 2
        return candidate

    def _is_changed(self, genes: Floats) -> NDArray[np.bool_]:
        return np.asarray((genes != self._own) & ~(np.isnan(genes) & np.isnan(self._own)))

    def _cost(self, genes: Floats) -> Floats:
        changed = self._is_changed(genes)
        return np.asarray(_CHANGED_COST * changed.sum(axis=1) + self._distances(genes).sum(axis=1))

    def _distances(self, genes: Floats) -> Floats:
        apart = np.where(self._is_choice, 1.0, np.abs(genes - self._own) / self._usual)
        # A number in place of a missing one is a change like that of a text.
        return np.where(self._is_changed(genes), np.nan_to_num(apart, nan=1.0), 0.0)

    def _gaps(self, genes: Floats) -> Floats:
        return self._gap(self._composed(genes))

    def _composed(self, genes: Floats) -> Columns:
        rows = take(self._row, np.zeros(len(genes), np.int64))
        changed = self._is_changed(genes)
        for k, place in enumerate(self._places):
            values = place.values(rows).copy()
            known = self._ranges[k].values
            moved = np.flatnonzero(changed[:, k])
            for at in moved if known else ():
                values[at] = known[int(genes[at, k])]
            if not known:
                values[moved] = genes[moved, k].astype(values.dtype)
            rows = place.replaced(rows, values)
        return rows

    def _told(self, genes: Floats) -> Counterfactual:
        row = self._composed(genes[None])
        changes = {
            place.name: (_plain(place.values(self._row)[0]), _plain(place.values(row)[0]))
            for place, is_changed in zip(self._places, self._is_changed(genes), strict=True)
            if is_changed
        }
        return Counterfactual(row, changes, float(self._distances(genes[None]).sum()))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
