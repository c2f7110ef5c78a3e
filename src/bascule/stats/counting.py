"""What can be said of a share that was counted, exactly and without a normal curve.

The interval of Clopper and Pearson 1934 holds the true share with at least the confidence that is
asked, for every share and any number of rows; it is between two quantiles of beta laws. The
beta-binomial law is that of the rows that one split conformal calibration covers among others:
given the calibration it is binomial, and its share is Beta(k, n + 1 - k) (Vovk 2012). numpy alone.
"""

from __future__ import annotations

import math

import numpy as np

from bascule.core import Invalid

_TINY = 1e-300
_MOST_STEPS = 100_000


def exact_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The two ends of Clopper and Pearson's interval for a share.

    Args:
        successes: From 0 to `trials`.
        trials: At least 1.
        confidence: Over 0 and under 1; what is left is halved between both sides.

    Raises:
        Invalid: The numbers are not that.
    """
    if not (trials >= 1 and 0 <= successes <= trials and 0 < confidence < 1):
        raise Invalid(f"{successes} of {trials} at {confidence} is no share")
    tail = (1 - confidence) / 2
    lower = 0.0 if successes == 0 else beta_quantile(tail, successes, trials - successes + 1)
    upper = 1.0
    if successes < trials:
        upper = beta_quantile(1 - tail, successes + 1, trials - successes)
    return lower, upper


def beta_quantile(share: float, a: float, b: float) -> float:
    """Where the law Beta(a, b) has this share below it, to within 1e-12."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if beta_below(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_below(x: float, a: float, b: float) -> float:
    """The share of the law Beta(a, b) that is not over x: the regularised incomplete beta."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction is slow
        return 1 - beta_below(1 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b))
    return front / a * _fraction(x, a, b)


def beta_binomial_below(count: int, trials: int, a: float, b: float) -> float:
    """The chance of at most `count` among `trials`, where the share is drawn from Beta(a, b)."""
    if count >= trials:
        return 1.0
    if count < 0:
        return 0.0
    j = np.arange(count, dtype=np.float64)
    ratios = np.log((trials - j) * (a + j)) - np.log((j + 1) * (b + trials - j - 1))
    first = _log_beta(a, b + trials) - _log_beta(a, b)
    logs = np.concatenate([[0.0], np.cumsum(ratios)]) + first
    most = float(logs.max())
    return min(1.0, math.exp(most) * float(np.exp(logs - most).sum()))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction 8.17.22 of the Digital Library of Mathematical Functions.

    By the method of Lentz, as modified by Thompson and Barnett 1986.
    """
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, _MOST_STEPS):
        before = value
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + step * d
            c = 1 + step / c
            d = 1 / (d if abs(d) > _TINY else _TINY)
            c = c if abs(c) > _TINY else _TINY
            value *= c * d
        if abs(value - before) <= 1e-15 * abs(value):
            return value
    return value
