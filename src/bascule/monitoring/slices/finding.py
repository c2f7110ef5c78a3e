"""Which slices of rows are worse. Pure: columns and a comparison in, slices out.

Candidates are values of columns, fifths of numbers, and pairs of these (Chung et al. 2019, two
levels deep). They depend on no answer, so that all are tested on all rows, and Holm's bound is for
their number: with exact tests this finds more than rows of which a half proposes and a half tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.monitoring.performance import MAX_SLICE_VALUES, slicing
from bascule.stats import ColumnProfile, WrongShares, holm

Mask = NDArray[np.bool_]
_LEVELS = 0.01, 0.04
"""The chances of any false slice by one column, and by two; 5 % together."""
MIN_ROWS, _MIN_SHARE = 30, 0.01
MAX_PAIRED_COLUMNS = 20
"""Pairs are formed of the first columns alone: their number grows with the square."""

_Cell = tuple[tuple[str, NDArray[np.int16], int], ...]
"""The conditions of a slice: words, the codes of a column, and the code of its rows."""


@dataclass(frozen=True, slots=True)
class FoundSlice:
    """Rows in which the first side is worse.

    Attributes:
        conditions: That the rows meet, in words: `wind > 13`, `carrier = AA`.
        shares: Of wrong answers.
        p_value: Adjusted for the number of candidates; at most 0.01, or 0.04 of two columns.
        between: The ends for the difference; all lower ends hold at once with 95 %.
    """

    conditions: tuple[str, ...]
    shares: WrongShares
    p_value: float
    between: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared, by row: answers that may be worse with the answers beside them.

    Attributes:
        wrong: Where an answer is wrong. Shape (rows,).
        others_wrong: Of the same rows, where the answers of another version are.
        is_other: Which rows are the other side. Without both, a slice is compared with the rows
            outside of it.
    """

    wrong: Mask
    others_wrong: Mask | None = None
    is_other: Mask | None = None

    def within(self, mask: Mask, among: Mask) -> WrongShares:
        """Both sides in the rows of a slice, among those that count."""
        here, there = mask & among, among & ~mask
        if self.is_other is not None:
            here, there = here & ~self.is_other, here & self.is_other
        ours, theirs, both = self.wrong[here], self.wrong[there], None
        if self.others_wrong is not None:
            theirs = self.others_wrong[here]
            both = int((ours & theirs).sum())
        return WrongShares(len(ours), int(ours.sum()), len(theirs), int(theirs.sum()), both)


def find_slices(
    columns: Columns, sides: Sides, profiles: Mapping[str, ColumnProfile] | None = None
) -> tuple[list[FoundSlice], int]:
    """The slices in which the first side is worse, most evidence first; and how many were tested.

    Each is worse also without the rows of those before it. Columns alone have a level of their own:
    thousands of pairs would hide what a column alone shows.

    Args:
        columns: By which rows are sliced; rows are independent of one another. Shape (rows,) each.
        sides: What is compared. A slice has at least 30 rows on each, and one in 100 of the first.
        profiles: Of the baseline, whose fifths are those of the numbers.
    """
    known = profiles or {}
    coded = [_coded(name, values, known.get(name)) for name, values in columns.items()]
    every = np.ones(len(sides.wrong), bool)
    least = max(MIN_ROWS, _MIN_SHARE * sides.within(every, every).rows)
    families: tuple[list[tuple[_Cell, WrongShares]], ...] = ([], [])
    for cell in _cells(coded, least):
        shares = sides.within(_mask(cell), every)
        if shares.rows >= least and shares.others >= MIN_ROWS:
            families[len(cell) - 1].append((cell, shares))
    worse = []
    for level, family in zip(_LEVELS, families, strict=True):
        adjusted = holm([shares.p_value for _, shares in family])
        for (cell, shares), p_value in zip(family, adjusted, strict=True):
            if p_value <= level:
                words, single = tuple(condition[0] for condition in cell), level / len(family)
                found = FoundSlice(words, shares, p_value, shares.interval(single))
                worse.append((shares.p_value, single, _mask(cell), found))
    slices = []
    for _, single, mask, found in sorted(worse, key=lambda each: each[0]):
        if sides.within(mask, every).p_value <= single:  # a filter: the level stays
            slices.append(found)
            every = every & ~mask
    return slices, sum(map(len, families))


def _mask(cell: _Cell) -> Mask:
    made: Mask = np.logical_and.reduce([codes == code for _, codes, code in cell])
    return made


def _coded(
    name: str, values: NDArray[Any], profile: ColumnProfile | None
) -> tuple[list[str], NDArray[np.int16]]:
    """Words for the values of a column, and each row's place among them; -1 for rare values."""
    is_number = values.dtype.kind in "iuf"
    masks = slicing(values if is_number else _frequent(values), name, profile)(values)
    codes = np.full(len(values), -1, np.int16)
    for place, mask in enumerate(masks.values()):
        codes[mask] = place
    verb = "" if is_number and next(iter(masks), "").startswith("<= ") else "= "
    return [f"{name} {'is ' if text == 'missing' else verb}{text}" for text in masks], codes


def _frequent(values: NDArray[Any]) -> NDArray[Any]:
    texts = values.astype(str)
    names, counts = np.unique(texts, return_counts=True)
    return values[np.isin(texts, names[np.argsort(-counts, kind="stable")[:MAX_SLICE_VALUES]])]


def _cells(coded: list[tuple[list[str], NDArray[np.int16]]], least: float) -> Iterator[_Cell]:
    """The slices by one column and by two that have enough rows, both sides together."""
    sizes = [np.bincount(codes + 1, minlength=len(words) + 1) for words, codes in coded]
    for (words, codes), counts in zip(coded, sizes, strict=True):
        for code in np.flatnonzero(counts[1:] >= least).tolist():
            yield ((words[code], codes, code),)
    for i, j in itertools.combinations(range(min(len(coded), MAX_PAIRED_COLUMNS)), 2):
        (above, first), (below, second) = coded[i], coded[j]
        joint = np.bincount((first + 1).astype(np.int64) * len(sizes[j]) + second + 1)
        for cell in np.flatnonzero(joint >= least).tolist():
            a, b = divmod(cell, len(sizes[j]))
            # A pair with all the rows of one condition is that slice again.
            if min(a, b) > 0 and joint[cell] < min(sizes[i][a], sizes[j][b]):
                yield (above[a - 1], first, a - 1), (below[b - 1], second, b - 1)
