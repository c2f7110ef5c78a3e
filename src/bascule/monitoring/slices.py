"""Which slices of rows are worse. Pure: columns and what is compared in, slices out.

Candidates are values of columns, fifths of numbers, and pairs of these (Chung et al. 2019, two
levels deep). They depend on no answer, so all are tested on all rows, at a level divided by their
number (Bonferroni), which holds however they depend on one another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.monitoring.performance import MAX_SLICE_VALUES, slicing
from bascule.stats import ColumnProfile, WrongShares

Mask = NDArray[np.bool_]
_Coded = tuple[list[str], NDArray[np.int16]]
"""The slices of a column in words, and for each row its slice; -1 for none."""
_Places = tuple[tuple[int, int], ...]
"""The conditions of a slice: a column, and its slice."""
_LEVELS = 0.01, 0.04
"""The chances of a false slice by one column, and by two, which are many more; 5 % together."""
_MIN_ROWS, _MIN_SHARE = 30, 0.01
_MAX_PAIRED = 20
"""Pairs are formed of the first columns alone: their number grows with the square."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Where answers are wrong, and what they are compared with. Shape (rows,) each.

    Answers of another version to the same rows, the rows that are old, or those outside of a slice.
    """

    wrong: Mask
    others_wrong: Mask | None = None
    is_old: Mask | None = None

    def within(self, mask: Mask, among: Mask) -> WrongShares:
        """Both sides in the rows of a slice, among those that count."""
        here, there = mask & among, among & ~mask
        if self.is_old is not None:
            here, there = here & ~self.is_old, here & self.is_old
        ours, theirs, both = self.wrong[here], self.wrong[there], None
        if self.others_wrong is not None:
            theirs = self.others_wrong[here]
            both = int((ours & theirs).sum())
        return WrongShares(len(ours), int(ours.sum()), len(theirs), int(theirs.sum()), both)


def find_slices(
    columns: Columns, sides: Sides, profiles: Mapping[str, ColumnProfile] | None = None
) -> tuple[list[dict[str, Any]], int]:
    """The slices in which the first side is worse, most evidence first; and how many were tested.

    `where` is in words: `wind > 13`, `carrier = AA`. All lower ends of `between` hold at once.

    Each is worse also without the rows of those before it. A slice has at least 30 rows on both
    sides, and one in 100 of the first. Rows must be independent of one another. `profiles` are of
    the baseline, whose fifths are those of the numbers.
    """
    known = profiles or {}
    coded = [_coded(name, values, known.get(name)) for name, values in columns.items()]
    every = np.ones(len(sides.wrong), bool)
    least = max(_MIN_ROWS, _MIN_SHARE * sides.within(every, every).rows)
    families: tuple[list[tuple[_Places, WrongShares]], ...] = ([], [])
    for places in _candidates(coded, least):
        shares = sides.within(_mask(coded, places), every)
        if shares.rows >= least and shares.others >= _MIN_ROWS:
            families[len(places) - 1].append((places, shares))
    worse = [
        (shares.p_value, level / len(family), places, shares)
        for level, family in zip(_LEVELS, families, strict=True)
        for places, shares in family
        if shares.p_value <= level / len(family)
    ]
    slices = []
    # By the part of its level: a slice by one column goes before a part of it with little more.
    for _, level, places, shares in sorted(worse, key=lambda each: each[0] / each[1]):
        mask = _mask(coded, places)
        if sides.within(mask, every).p_value <= level:  # this only takes away: the level stays
            every = every & ~mask
            slices.append({
                "where": [coded[column][0][code] for column, code in places],
                "rows": shares.rows, "difference": shares.difference,
                "share": shares.wrong / shares.rows, "between": shares.interval(level),
                "other_share": shares.others_wrong / shares.others,
            })  # fmt: skip
    return slices, sum(map(len, families))


def _mask(coded: Sequence[_Coded], places: _Places) -> Mask:
    made: Mask = np.logical_and.reduce([coded[column][1] == code for column, code in places])
    return made


def _coded(name: str, values: NDArray[Any], profile: ColumnProfile | None) -> _Coded:
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


def _candidates(coded: Sequence[_Coded], least: float) -> Iterator[_Places]:
    sizes = [np.bincount(codes + 1, minlength=len(words) + 1) for words, codes in coded]
    for column, counts in enumerate(sizes):
        yield from (((column, code),) for code in np.flatnonzero(counts[1:] >= least).tolist())
    for i, j in itertools.combinations(range(min(len(coded), _MAX_PAIRED)), 2):
        joint = (coded[i][1] + 1).astype(np.int64) * len(sizes[j]) + coded[j][1] + 1
        counts = np.bincount(joint)
        for cell in np.flatnonzero(counts >= least).tolist():
            a, b = divmod(cell, len(sizes[j]))
            # A pair with all the rows of one condition is that slice again.
            if min(a, b) > 0 and counts[cell] < min(sizes[i][a], sizes[j][b]):
                yield (i, a - 1), (j, b - 1)
