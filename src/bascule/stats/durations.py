"""Durations counted in bins of equal ratio, by the size of the request. Pure.

Five bins are a factor of 1.2, so that "20 % slower" is a whole number of bins. A request's class of
work is its number of rows in powers of four: an arm that got more of the large requests is not
taken for a slow one.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEP = 1.2 ** (1 / 5)
"""From the bound of one bin to that of the next."""
BOUNDS_NS = tuple(round(10_000 * STEP**place) for place in range(443))
"""Upper bounds, from 10 us to 100 s; one more bin takes what is above."""
BINS = len(BOUNDS_NS) + 1
_WORK = 7
"""1 to 3 rows, 4 to 15, 16 to 63, 64 to 255, 256 to 1,023, 1,024 to 4,095, and more."""
FIRST_TOKEN, TOKEN, LENGTH, BREVITY = range(_WORK, _WORK + 4)
"""Classes of generated texts: until the first token, between tokens, a millisecond for each token,
and the same with the order of the bins reversed."""
CLASSES = _WORK + 4
PLACES = BINS * CLASSES
WORK = range(_WORK)
"""The classes of work."""
PARTS = range(_WORK, CLASSES)
"""Of compositions, which generate no texts: the time of a part in runs of any size."""
CLASS_PLACES = tuple(BINS * min(max((bits + 1) // 2 - 1, 0), _WORK - 1) for bits in range(64))
"""By the bits of the number of rows: the first bin of its class."""
_BOUNDS = np.array(BOUNDS_NS, np.float64)
_ROUNDING = 1e-4
"""Bounds are whole nanoseconds."""
_AROUND = 0.8, 1.25
"""Between which multiples of its share of slower answers a proof may choose its threshold."""


def place_of(duration_ns: int, rows: int) -> int:
    """Where an answer is counted, below `PLACES`. Workers compute it in place (`ArmSeries`)."""
    return CLASS_PLACES[rows.bit_length()] + bin_of(duration_ns)


def bin_of(duration_ns: int) -> int:
    """The bin of a duration, below `BINS`."""
    return bisect_left(BOUNDS_NS, duration_ns)


def bins_of(durations_ns: Floats) -> Ints:
    """As `bin_of`, of many."""
    return np.searchsorted(_BOUNDS, durations_ns)


def sparse(counts: Ints) -> tuple[int, ...]:
    """Place and count of each place that is not 0, in one sequence. From `PLACES` counts."""
    places = np.flatnonzero(counts)
    return tuple(np.stack([places, counts.ravel()[places]], axis=1).ravel().tolist())


def dense(counts: tuple[int, ...]) -> Ints:
    """Of a sparse sequence: shape (CLASSES, BINS)."""
    bins = np.zeros(PLACES, np.int64)
    bins[list(counts[::2])] = counts[1::2]
    return bins.reshape(CLASSES, BINS)


def beyond(counts: Ints) -> Ints:
    """The answers in the bins from each one on. Shape (..., BINS + 1) from (..., BINS)."""
    above = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([above, np.zeros_like(above[..., :1])], axis=-1)


def limits(
    counts: Ints, slower: float, allowed: tuple[float, float], *, proves: bool
) -> tuple[Ints, Ints]:
    """The bins from which answers of the current version, and of a candidate, count as slow.

    A test of harm begins above the bin of the quantile, where the current version has `slower` of
    its answers at most, and its second limit is rounded up. A proof begins below that bin and is
    rounded down, so that durations which are all alike, or a few values, lie on different sides.
    A proof takes the limit at which an equal version would be shown soonest, of those that .8 to
    1.25 times `slower` of the answers exceed: beside a gap in the durations a quantile says little.

    Args:
        counts: Of the current version, before the answers that are tested. Shape (..., BINS).
        slower: The share of slower answers: .05 of a p95.
        allowed: What a duration may become: factor, and seconds more.
        proves: Whether it is a proof, or a test of harm.

    Returns:
        Two of shape (...): see `beyond`.
    """
    above = beyond(counts)
    total = above[..., :1]
    at = (above[..., 1:] > slower * total).sum(axis=-1)  # the bin of the quantile
    if not proves:
        return at + 1, _allowed(at + 1, allowed, is_up=True)
    starts = np.arange(BINS)
    ends = _allowed(starts, allowed, is_up=False)
    mine = above[..., :BINS] / np.maximum(total, 1)
    equal = above[..., ends] / np.maximum(total, 1)
    mean = (mine + equal) / 2
    speed = (mine - equal) ** 2 / np.maximum(mean * (1 - mean), 1e-9)
    low, high = (factor * slower for factor in _AROUND)
    can_be = ((mine >= low) & (mine <= high)) | (starts == at[..., None])
    chosen = np.where(can_be, speed, -1.0).argmax(axis=-1)
    return chosen, ends[chosen]


def counted_factor(factor: float, *, is_up: bool) -> float:
    """The factor between the two limits of `limits` for one that is allowed."""
    steps = math.log(factor) / math.log(STEP)
    return float(STEP ** (math.ceil(steps - 1e-3) if is_up else math.floor(steps + 1e-3)))


def _allowed(starts: Ints, allowed: tuple[float, float], *, is_up: bool) -> Ints:
    """The bin that begins at, or above (below) what the beginning of a bin may become."""
    factor, more_s = allowed
    begins = np.concatenate([[0.0], _BOUNDS, [np.inf]])[starts]
    may_be = begins * factor + more_s * 1e9
    if is_up:
        return np.searchsorted(_BOUNDS, may_be * (1 - _ROUNDING), "left") + 1
    made = np.searchsorted(_BOUNDS, may_be * (1 + _ROUNDING), "right")
    return np.where(starts > 0, made, 0)
