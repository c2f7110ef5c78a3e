"""The smallest changes of a row with which a model answers otherwise (Wachter et al. 2018).

A search that only asks the model, some 20,000 rows, as DiCE's "random" does (Mothilal et al. 2020):
one column, two and so on get other values from the ranges of the training rows. What reaches the
goal is made smaller, column by column. Results change different sets of columns. Each was answered
by the model itself; that none is smaller is not proven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining.columns import ColumnPlace, column_places
from bascule.bundle.tables import take
from bascule.core import Columns, DType, Invalid, Signature

Goal = Callable[[Columns], NDArray[np.bool_]]
"""Whether the model's answer to each row is one that is looked for."""

_ROWS = 20_000
_MADE_SMALLER = 60
_STEPS, _FINER = 33, 2


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
            ranges[place.name] = Range(values=[field.dtype.numpy.type(bit) for bit in (0, 1)])
        elif field.categories or (field.dtype is DType.BYTES and "values" in seen):
            ranges[place.name] = Range(values=list(field.categories or seen["values"]))
        elif seen.keys() >= {"min", "max", "p05", "p95"} and field.dtype is not DType.BYTES:
            low, high = seen["min"], seen["max"]
            ranges[place.name] = Range(low, high, seen["p95"] - seen["p05"] or high - low or 1.0)
    return ranges


def counterfactuals(
    reaches: Goal, places: Sequence[ColumnPlace], ranges: Mapping[str, Range], row: Columns,
    *, most: int = 3,
) -> list[Counterfactual]:  # fmt: skip
    """Changes that reach the goal, the smallest first; none where no change was found to.

    Args:
        reaches: The model and the goal.
        places: The columns of the model.
        ranges: Of the columns that may change.
        row: One row, in the types of the signature.
        most: How many results.

    Raises:
        Invalid: No column may change, or the row reaches the goal already.
    """
    movable = {place: ranges[place.name] for place in places if place.name in ranges}
    if not movable:
        raise Invalid("no column of the model may change", hint="name columns of the model")
    if reaches(row)[0]:
        raise Invalid("the model answers so already", hint="name another answer")
    reached = [take(rows, reaches(rows)) for rows in _changed(movable, row)]
    rows = {name: np.concatenate([part[name] for part in reached]) for name in row}
    distances = _distances(movable, row, rows)
    is_changed = distances > 0
    order = np.argsort((distances + is_changed).sum(axis=1), kind="stable")
    _, firsts = np.unique(is_changed[order], axis=0, return_index=True)
    by_columns: dict[frozenset[str], Counterfactual] = {}
    for at in order[np.sort(firsts)][:_MADE_SMALLER]:
        smaller = _smaller(reaches, movable, row, take(rows, slice(at, at + 1)))
        by_columns.setdefault(frozenset(smaller.changes), smaller)
    return sorted(by_columns.values(), key=lambda own: len(own.changes) + own.distance)[:most]


Movable = Mapping[ColumnPlace, Range]


def _changed(movable: Movable, row: Columns) -> Iterator[Columns]:
    """Rows with other values in one column, in two and so on."""
    random, count = np.random.default_rng(0), _ROWS // len(movable)
    for changes in range(1, len(movable) + 1):
        rows = take(row, np.zeros(count, np.int64))
        is_changed = random.random((count, len(movable))).argsort(axis=1) < changes
        for k, (place, known) in enumerate(movable.items()):
            values = place.values(rows)
            if known.values:
                fresh = np.array(known.values, values.dtype)[
                    random.integers(0, len(known.values), count)
                ]
            else:
                fresh = _as(values.dtype, random.uniform(known.low, known.high, count))
            rows = place.replaced(rows, np.where(is_changed[:, k], fresh, values))
        yield rows


def _as(kind: np.dtype[Any], numbers: NDArray[np.float64]) -> NDArray[Any]:
    return (np.round(numbers) if kind.kind in "iu" else numbers).astype(kind)


def _distances(movable: Movable, row: Columns, rows: Columns) -> NDArray[np.float64]:
    """Shape (rows, columns). A number in place of a missing one counts as another text does."""
    distances = []
    for place, known in movable.items():
        own, values = place.values(row), place.values(rows)
        same = (values == own) | ((values != values) & (own != own))
        apart = np.ones(len(values))
        if not known.values:
            apart = np.nan_to_num(np.abs(values.astype(float) - own) / known.usual, nan=1.0)
        distances.append(np.where(same, 0.0, apart))
    return np.stack(distances, axis=1)


def _smaller(reaches: Goal, movable: Movable, row: Columns, changed: Columns) -> Counterfactual:
    """Each column, the most changed one first, as near to its own value as the goal allows."""
    furthest_first = np.argsort(-_distances(movable, row, changed)[0], kind="stable")
    for place in [list(movable)[k] for k in furthest_first]:
        near, far = place.values(row)[0], place.values(changed)[0]
        for _ in range(_FINER):
            if movable[place].values or near != near:
                steps = np.array([near, far], place.values(row).dtype)
            else:
                steps = _as(place.values(row).dtype, np.linspace(near, far, _STEPS))
            rows = place.replaced(take(changed, np.zeros(len(steps), np.int64)), steps)
            first = int(np.argmax(reaches(rows)))  # the last one does
            changed = take(rows, slice(first, first + 1))
            if len(steps) < _STEPS or first == 0:
                break
            near, far = steps[first - 1], steps[first]
    distances = dict(zip(movable, _distances(movable, row, changed)[0].tolist(), strict=True))
    changes = {
        place.name: (place.values(row)[0], place.values(changed)[0])
        for place, distance in distances.items()
        if distance
    }
    return Counterfactual(changed, changes, sum(distances.values()))
