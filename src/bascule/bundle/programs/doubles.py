"""Tests of doubles by an engine that keeps thresholds as floats, exact for every double.

A threshold t becomes its code: the largest float that is at most t, or, where another threshold of
the feature has that one, the next that is free. To test x against the code instead of t is wrong
only for an x that lies between the two, and such an x is nearest to one of few floats. So a value
is looked at closely only where the float nearest to it is among those, which costs a table look-up;
what is found there is replaced by the code of the lowest threshold that it passes.

(To hand over the ranks of all values instead of the values needs a binary search for each: as much
time as the trees take themselves.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INFINITY = 0x7F800000
"""The bits of the float +inf."""
_ODD = np.uint32(2654435761)
"""Knuth's multiplicative hash: 2**32 over the golden ratio."""
_SLOTS_PER_FLOAT = 32
_MIN_BITS, _MAX_BITS = 10, 20
_ROWS_AT_ONCE = 2048
"""What is made of so many rows stays in the processor's cache."""


class CodedTests:
    """Tests `x <= threshold` in doubles, made tests `coded(x) <= code` in floats.

    Attributes:
        codes: One float per test.
    """

    __slots__ = ("_codes", "_edges", "_near", "_shift", "codes")

    def __init__(self, feature: NDArray[Any], threshold: NDArray[Any]) -> None:
        """Takes the column, at least 0, and the threshold of each test.

        Raises:
            ValueError: A threshold is NaN, or several of one feature are larger than any float.
        """
        if np.isnan(threshold).any():
            raise ValueError("a threshold of the trees is NaN")
        # Pairs of a feature and a threshold: NumPy orders complex numbers by the real part first.
        edges, edge_of = np.unique(_pairs(feature, threshold), return_inverse=True)
        _, starts = np.unique(edges.real, return_index=True)
        codes = np.concatenate(
            [np.empty(0, np.float32), *map(_codes, np.split(edges.imag, starts)[1:])]
        )
        if (np.isposinf(codes) & np.isfinite(edges.imag)).any():
            raise ValueError("no floats are left for the largest thresholds of a feature")
        self.codes: NDArray[np.float32] = codes[edge_of]
        self._set_near(edges.imag, codes)
        # What is above every threshold of its feature passes none.
        ends = np.append(starts[1:], len(edges))
        tops = _pairs(edges.real[starts], np.full(len(starts), np.inf))
        self._edges = np.insert(edges, ends, tops)
        self._codes = np.insert(codes.astype(np.float64), ends, np.inf)

    def _set_near(self, edges: NDArray[np.float64], codes: NDArray[np.float32]) -> None:
        """Note which floats are nearest to a double between an edge and its code."""
        apart = codes != edges
        own = codes[apart]
        with np.errstate(over="ignore"):
            above = np.nextafter(own, np.float32(np.inf))
        floats = np.concatenate([own, above, rounded_down(edges[apart])])
        floats = np.concatenate([floats, -floats[floats == 0]])
        wanted = math.ceil(math.log2(_SLOTS_PER_FLOAT * max(len(floats), 1)))
        bits = min(max(wanted, _MIN_BITS), _MAX_BITS)
        self._shift = np.uint32(32 - bits)
        self._near = np.zeros(1 << bits, bool)
        self._near[self._slots(floats)] = True

    def _slots(self, floats: NDArray[np.float32]) -> NDArray[np.uint32]:
        """Where each float is in the table; overwrites the floats."""
        slots = floats.reshape(-1).view(np.uint32)
        slots *= _ODD
        slots >>= self._shift
        return slots

    def coded(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """The features, shape (rows, columns), as the codes are to be tested against; a copy."""
        made = np.array(features, np.float64, order="C")
        for start in range(0, len(made), _ROWS_AT_ONCE):
            self._code(made[start : start + _ROWS_AT_ONCE])
        return made

    def _code(self, rows: NDArray[np.float64]) -> None:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            slots = self._slots(rows.astype(np.float32))
        values = rows.reshape(-1)
        # No slot is outside: clipping is quicker than to look for one that is.
        near = np.flatnonzero(self._near.take(slots, mode="clip"))
        # A missing value stays one.
        near = near[~np.isnan(values[near])]
        edge = np.searchsorted(self._edges, _pairs(near % rows.shape[1], values[near]))
        # Behind the last edge there are only features that no test reads.
        values[near] = self._codes.take(edge, mode="clip")


def rounded_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float that is at most each double."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
        below = np.nextafter(near, np.float32(-np.inf))
    return np.where(near > values, below, near)


def _pairs(feature: NDArray[Any], value: NDArray[Any]) -> NDArray[np.complex128]:
    made = np.empty(len(value), np.complex128)
    made.real, made.imag = feature, value
    return made


def _codes(edges: NDArray[np.float64]) -> NDArray[np.float32]:
    """For ascending doubles: each rounded down, or the float after the last code if that is more.

    Where there is no such float any more, +inf.
    """
    bits = rounded_down(edges).view(np.int32).astype(np.int64)
    # Numbers in the order of the floats, one apart where the floats are neighbours.
    order = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    places = np.arange(len(edges))
    order = np.minimum(np.maximum.accumulate(order - places) + places, _INFINITY)
    bits = np.where(order < 0, -order | 0x80000000, order)
    return bits.astype(np.uint32).view(np.float32)
