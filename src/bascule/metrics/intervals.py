"""Intervals of one estimate.

- A share: the score interval of Wilson 1927, which keeps its level better than the normal one for
  few rows and shares near 0 and 1 (Brown, Cai and DasGupta 2001).
- A value between 0 and 1 that is no plain share, such as the area under a curve: normal on the
  scale of its logit, so that it stays inside (Qin and Hotilovac 2008).
- Any other: Student's, corrected for the skewness of the rows (Hall 1992, "On the removal of
  skewness by transformation"): losses have a long tail on one side.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from bascule.stats import student_quantile

_FEWEST_DEGREES = 3
FEWEST_ROWS = _FEWEST_DEGREES + 1
"""Fewer rows say too little about the spread of losses for an interval."""


def wilson_interval(successes: float, rows: float, confidence: float = 0.95) -> tuple[float, float]:
    """Both ends of the score interval of a share; (0, 1) without rows."""
    if rows <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = (
        z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def logit_interval(
    value: float, error: float, rows: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Both ends for a value between 0 and 1 with a standard error.

    Where no row says anything about the error (a value of 0 or 1), that of a share of `rows` rows.
    """
    if not 0 < value < 1 or error <= 0:
        return wilson_interval(value * rows, rows, confidence)
    middle = math.log(value / (1 - value))
    half = _quantile(rows, confidence) * error / (value * (1 - value))
    return tuple(1 / (1 + math.exp(-(middle + sign * half))) for sign in (-1, 1))  # type: ignore[return-value]


def skewed_interval(
    value: float, error: float, skewness: float, rows: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Both ends for a mean, or what behaves as one, of `rows` rows of this skewness."""
    t = _quantile(rows, confidence)
    ends = (value - error * _unskewed(sign * t, skewness, rows) for sign in (1, -1))
    return tuple(ends)  # type: ignore[return-value]


def _unskewed(t: float, skewness: float, rows: int) -> float:
    """The inverse of Hall's transformation, g1 of his section 3."""
    if not skewness:
        return t
    root = math.sqrt(rows)
    a = skewness / root / 3
    inner = 3 * a * (t - skewness / (6 * root))
    # cbrt(1 + inner) - 1 loses all digits to a tiny skewness; expm1 and log1p lose none.
    cube = math.expm1(math.log1p(inner) / 3) if inner > -1 else math.cbrt(1 + inner) - 1
    return cube / a


def _quantile(rows: int, confidence: float) -> float:
    return -student_quantile((1 - confidence) / 2, max(_FEWEST_DEGREES, rows - 1))
