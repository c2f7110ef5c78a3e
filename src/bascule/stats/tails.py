"""Tail probabilities that stay accurate far out, where the level of an alarm lies. numpy alone.

A budget of a few false alarms a year over many columns asks for levels of 1e-5 and less. There, a
normal curve may be off by a factor of ten. Negative binomial and Student tails are incomplete beta
functions (`counting`). The tail of a mean is the saddlepoint approximation of Lugannani and Rice
1980, in the form of Barndorff-Nielsen 1986, whose relative error stays small in the tail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bascule.stats.counting import beta_below

Floats = NDArray[np.float64]

_STEPS = 100
_CLOSE = 1e-12
_TINY = 1e-300


def normal_tail(z: float) -> float:
    """The chance that a standard normal value is over `z`."""
    return math.erfc(z / math.sqrt(2)) / 2


def kolmogorov_tail(distance: float, effective_rows: float) -> float:
    """The chance of a Kolmogorov-Smirnov distance of at least this.

    The limit law with the correction of Stephens 1970 for few rows. `effective_rows` is
    nN / (n + N) for two samples. Values that tie make it conservative.
    """
    root = math.sqrt(effective_rows)
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.2:
        return 1.0
    total = 0.0
    for j in range(1, 101):
        term = 2.0 * math.exp(-2 * (j * x) ** 2)
        total += term if j % 2 else -term
        if term < 1e-17 * total:
            break
    return min(1.0, max(0.0, total))


def student_tail(t: float, degrees: float) -> float:
    """The chance that a value of Student's law is over `t`."""
    half = beta_below(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return half if t >= 0 else 1 - half


def negative_binomial_tail(count: int, successes: float, share: float) -> float:
    """The chance of at least `count` failures before `successes` successes of this share."""
    return 1.0 if count <= 0 else beta_below(1 - share, count, successes)


def hypergeometric_tail(count: int, drawn: int, marked: int, total: int) -> float:
    """The chance of at least `count` marked ones among `drawn` of `total`: Fisher's exact test."""
    lowest, highest = max(0, drawn + marked - total), min(drawn, marked)
    if count <= lowest:
        return 1.0
    if count > highest:
        return 0.0
    if count <= drawn * marked / total:
        return 1 - hypergeometric_tail(marked - count + 1, total - drawn, marked, total)
    first = (
        _log_choose(marked, count)
        + _log_choose(total - marked, drawn - count)
        - _log_choose(total, drawn)
    )
    deviation = math.sqrt(drawn * marked / total) + 1
    x = np.arange(count, min(highest, count + int(20 * deviation) + 100), dtype=np.float64)
    ratios = (marked - x) * (drawn - x) / ((x + 1) * (total - marked - drawn + x + 1))
    return min(1.0, math.exp(first) * (1 + float(np.cumprod(ratios).sum())))


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


@dataclass(frozen=True, slots=True)
class Atoms:
    """A law of finitely many values.

    Attributes:
        values: Shape (atoms,).
        shares: Their probabilities, of sum 1. The same shape.
    """

    values: Floats
    shares: Floats

    def cumulants(self, tilt: float) -> tuple[float, float, float]:
        """The log of E[exp(tilt x)] and its first two derivatives."""
        exponents = tilt * self.values
        most = float(exponents.max())
        weights = self.shares * np.exp(exponents - most)
        total = float(weights.sum())
        mean = float(weights @ self.values) / total
        spread = float(weights @ (self.values - mean) ** 2) / total
        return most + math.log(total), mean, spread

    def negated(self) -> Atoms:
        return Atoms(-self.values, self.shares)


def mean_difference_tail(law: Atoms, difference: float, rows: float, others: float) -> float:
    """The chance that the mean of `rows` values is over that of `others` by `difference`.

    All values are independent and of `law`. A difference up to 2.5 standard errors uses the normal
    curve; beyond, the saddlepoint solves K'(t) = difference. Half the smallest step of a law of few
    values is taken off, as the continuity correction of Daniels 1987.
    """
    deviation = math.sqrt(law.cumulants(0.0)[2])
    if deviation == 0:
        return float(difference <= 0)
    steps = np.diff(np.unique(law.values))
    corrected = difference - float(steps.min()) / rows / 2
    z = corrected / (deviation * math.sqrt(1 / rows + 1 / others))
    if z <= 2.5:
        return normal_tail(z)
    ratio = rows / others
    tilt = _saddlepoint(law, corrected, ratio)
    if tilt is None:
        return math.pow(float(law.shares[law.values.argmax()]), rows)
    ahead, behind = law.cumulants(tilt), law.cumulants(-tilt * ratio)
    exponent = rows * (tilt * corrected - ahead[0]) - others * behind[0]
    w = math.sqrt(2 * max(exponent, _TINY))
    u = rows * tilt * math.sqrt(ahead[2] / rows + behind[2] / others)
    return normal_tail(w + math.log(u / w) / w)


def _saddlepoint(law: Atoms, difference: float, ratio: float) -> float | None:
    """The tilt at which the difference is the expected one; None beyond the largest possible."""
    if difference >= (float(law.values.max()) - float(law.values.min())) * (1 - 1e-9):
        return None
    low, high, tilt = 0.0, math.inf, difference / law.cumulants(0.0)[2] / (1 + ratio)
    for _ in range(_STEPS):
        ahead, behind = law.cumulants(tilt), law.cumulants(-tilt * ratio)
        missed = ahead[1] - behind[1] - difference
        low, high = (tilt, high) if missed < 0 else (low, tilt)
        if abs(missed) <= _CLOSE * (1 + abs(difference)):
            break
        slope = ahead[2] + ratio * behind[2]
        step = tilt - missed / slope if slope > 0 else math.inf
        if not low < step < high:
            step = (low + high) / 2 if math.isfinite(high) else 2 * tilt
        tilt = step
    return tilt
