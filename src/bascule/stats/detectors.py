"""Detectors that see many windows: of slow changes, and of changes beside the weekly pattern.

`SlowDetector` is the e-detector of Shin, Ramdas and Rinaldo 2022 for the mean score of a column:
a change that no window shows alone adds up. Its guarantee is a mean time between false alarms of
at least the threshold, for independent windows.

`weekday_test` compares a window with the 8 windows of the same weekday before it. Windows of real
traffic are not independent: an error of the mean that lasts some days, and a weekend, break a test
that assumes independent rows. The variance and the degrees of freedom are those of an
autoregressive series (Bartlett 1935). Constants were found by simulation (`bench/drift.py`). Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bascule.stats.tails import Atoms, student_tail

WINDOWS = 56
"""Windows that a weekday reference needs and looks back at: 8 weeks of days."""

MIN_SAME_WEEKDAY = 4
MAX_CORRELATION = 0.9
ALARMABLE_CORRELATION = 0.85
TOLERANCE = 0.02
"""A lasting difference, in baseline deviations, that is no slow change."""

_SIZES = (0.05, 0.1, 0.2, 0.4, 0.8)
_BASELINE_ERRORS = 3.0
_TINY = 1e-24


class SlowDetector:
    """M <- (1 + M) e for ten sizes of a shift, up and down; the mean of M is its evidence.

    Args:
        law: Of one row's score under the baseline: mean 0, variance 1.
        others: Rows of the baseline. Its own error is the same in every window and would add up, so
            at least three standard errors of it are tolerated.
    """

    def __init__(self, law: Atoms, others: int) -> None:
        self.tolerance = max(TOLERANCE, _BASELINE_ERRORS / math.sqrt(others))
        tilts = [size - self.tolerance for size in _SIZES if size > self.tolerance]
        self._tilts = np.array([side * tilt for tilt in tilts for side in (1.0, -1.0)])
        self._cumulants = np.array([law.cumulants(float(tilt))[0] for tilt in self._tilts])
        self._logs = np.full(len(self._tilts), -math.inf)

    def add(self, location: float, rows: float) -> float:
        """Take in the mean score of a window of `rows` rows; gives the evidence, log of mean M."""
        if not len(self._tilts):
            return -math.inf
        gains = self._tilts * location - np.abs(self._tilts) * self.tolerance - self._cumulants
        self._logs = np.logaddexp(0.0, self._logs) + rows * gains
        return float(np.logaddexp.reduce(self._logs)) - math.log(len(self._logs))

    def restart(self) -> None:
        """Forget all windows, as after an alarm."""
        self._logs.fill(-math.inf)


def variance_beside_a_step(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The variance of the windows' numbers, less one lasting change of their mean.

    A change that is found would otherwise hide itself: the step is where it leaves the least
    variance on both sides. With fewer than 3 windows there is none.

    Args:
        values: In the order of the windows. Shape (windows, numbers).

    Returns:
        Shape (numbers,).
    """
    count = len(values)
    if count < 3:
        return np.zeros(values.shape[1])
    values = values - values.sum(axis=0) / count
    sizes = np.arange(1.0, count)[:, None]
    explained = np.cumsum(values, axis=0)[:-1] ** 2 * (1 / sizes + 1 / (count - sizes))
    rest = (values**2).sum(axis=0) - explained.max(axis=0)
    return np.asarray(np.maximum(0.0, rest) / max(1, count - 3))


@dataclass(frozen=True, slots=True)
class WeekdayOutcome:
    """How a window stands to the same weekdays before it.

    Attributes:
        p_value: Two-sided.
        statistic: Student's t.
        expected: The mean of the same weekdays.
        correlation: Of neighbouring windows, less the weekly pattern; corrected upwards for bias.
        overdispersion: The variance of the windows over that of independent rows.
        is_alarmable: Whether the windows depend so little on one another that a level can be kept.
    """

    p_value: float
    statistic: float
    expected: float
    correlation: float
    overdispersion: float
    is_alarmable: bool


def weekday_test(
    days: NDArray[np.int64],
    history: NDArray[np.float64],
    weekday: int,
    values: NDArray[np.float64],
    sampling_deviations: NDArray[np.float64],
) -> tuple[WeekdayOutcome, ...] | None:
    """Compare some numbers of a window with the same weekdays among the last 56 windows.

    Args:
        days: Weekdays, 0 to 6, of the windows before, oldest first. Shape (windows,).
        history: Their numbers. Shape (windows, numbers).
        weekday: Of this window.
        values: Its numbers. Shape (numbers,).
        sampling_deviations: The standard errors of `values` if rows are independent. The windows
            never count as less variable than that.

    Returns:
        An outcome per number; None with fewer than 56 windows, or fewer than 4 of this weekday.
    """
    found = weekday_statistics(days, history, weekday, values, sampling_deviations)
    if found is None:
        return None
    return tuple(
        WeekdayOutcome(
            2 * student_tail(abs(float(t)), float(degrees)),
            float(t), float(mean), float(phi), float(over), bool(raw < ALARMABLE_CORRELATION),
        )
        for t, degrees, mean, phi, over, raw in zip(*found, strict=True)
    )  # fmt: skip


def weekday_statistics(
    days: NDArray[np.int64],
    history: NDArray[np.float64],
    weekday: int,
    values: NDArray[np.float64],
    sampling_deviations: NDArray[np.float64],
) -> tuple[NDArray[np.float64], ...] | None:
    """What `weekday_test` decides by, for many numbers at once.

    Returns:
        Student's t, degrees of freedom, the mean of the same weekdays, the correlation (clipped to
        0 and 0.9), the overdispersion, and the correlation as it is. Each of shape (numbers,).
    """
    if len(days) < WINDOWS:
        return None
    days, history = days[-WINDOWS:], history[-WINDOWS:]
    counts = np.bincount(days, minlength=7)
    same = int(counts[weekday])
    if same < MIN_SAME_WEEKDAY:
        return None
    means = (days == np.arange(7)[:, None]) @ history / np.maximum(counts, 1)[:, None]
    rest = history - means[days]
    squares = np.maximum((rest**2).sum(axis=0), _TINY)
    free = WINDOWS - int((counts > 0).sum())
    found = np.sqrt(squares / free)
    floors = np.maximum(sampling_deviations, _TINY)
    raw = (rest[1:] * rest[:-1]).sum(axis=0) / squares + 4 / WINDOWS
    phi = np.clip(raw, 0, MAX_CORRELATION)
    errors = np.maximum(found, floors) * np.sqrt(1 + np.minimum((1 + phi) / (same * (1 - phi)), 1))
    degrees = np.maximum(free * (1 - phi**2) / (1 + phi**2), 8.0)
    t = (values - means[weekday]) / errors
    return t, degrees, means[weekday], phi, (found / floors) ** 2, raw
