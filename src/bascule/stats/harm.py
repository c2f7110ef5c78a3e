"""Has the loss risen, given the prediction? A sequential test of a bounded loss. Pure.

The risk of the source is bounded from held-out rows, and a detector tests by betting whether the
loss in production is over the bound (Podkopaev and Ramdas 2022; Waudby-Smith and Ramdas 2024). It
looks at the loss in bins of the prediction: rows that are harder to predict, but not harder than
their predictions say, are no harm. M <- (1 + M) e as in `detectors.SlowDetector`, so that a harm
that begins late is found too, and the mean time between false alarms is at least 1 / level windows.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GAINS = (0.003, 0.01, 0.03, 0.1, 0.3)
_LEAST = 1e-4
_WINDOWS = 56
_PRIOR, _PRIOR_WINDOWS = 3.0, 4
"""The overdispersion before any window, and the windows that it counts as."""


def risk_bounds(losses: Floats, bins: NDArray[np.int64], count: int, level: float) -> Floats:
    """Upper bounds of the mean loss in each bin, all of them at once but with a chance of `level`.

    The bound of Chernoff by the Kullback-Leibler divergence (Hoeffding 1963, theorem 1) holds for
    any loss in [0, 1]. A bin without rows has the bound 1: it can show no harm.

    Args:
        losses: In [0, 1]. Shape (rows,).
        bins: From 0 to `count` - 1. The same shape.
        count: Of bins.
        level: Over all bins.
    """
    rows = np.bincount(bins, minlength=count)
    sums = np.bincount(bins, losses, count)
    return np.array(
        [
            _upper(total / n, math.log(count / level) / n) if n else 1.0
            for n, total in zip(rows.tolist(), sums.tolist(), strict=True)
        ]
    )


def _upper(mean: float, divergence: float) -> float:
    """The largest m with KL(mean, m) <= divergence."""
    low, high = mean, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _kl(mean, middle) <= divergence else (low, middle)
    return high


def _kl(p: float, q: float) -> float:
    parts = ((p, q), (1 - p, 1 - q))
    return sum(a * math.log(a / b) if b > 0 else math.inf for a, b in parts if a > 0)


class HarmDetector:
    """Bets that the loss of each bin is over its bound, on five sizes of the excess.

    A bet on the rate p = m + (1 - m) g has the likelihood ratio of Bernoulli laws, which is at most
    1 in the mean for any loss in [0, 1] whose mean is at most m. Of a window it needs the rows and
    the sum of losses of each bin: log(1 + g (x - m) / m) is concave in x.

    Days differ: the evidence of a window is divided by the overdispersion of the windows before it,
    estimated from successive differences (von Neumann 1941), which a lasting harm does not raise.
    By Jensen's inequality it stays evidence: E[e^(1/f)] <= E[e]^(1/f) <= 1 for f >= 1.

    Args:
        bounds: The tolerated mean loss of each bin, in (0, 1]. Shape (bins,).
    """

    def __init__(self, bounds: Floats) -> None:
        m = np.clip(bounds, _LEAST, 1.0)[:, None]
        gains = np.array(_GAINS)
        self._of_loss = np.where(m < 1, np.log1p(gains * (1 - m) / m), 0.0)
        self._of_rest = np.where(m < 1, np.log1p(-gains), 0.0)
        self._logs = np.full(len(_GAINS), -math.inf)
        self._windows: deque[tuple[int, float]] = deque(maxlen=_WINDOWS)

    @property
    def overdispersion(self) -> float:
        """How much more the mean loss varies from window to window than by chance; at least 1."""
        if len(self._windows) < 2:
            return _PRIOR
        rows, means = np.array(self._windows).T
        mean = float(rows @ means / rows.sum())
        errors = max(mean * (1 - mean), _LEAST) * (1 / rows[1:] + 1 / rows[:-1])
        total = float((np.diff(means) ** 2 / errors).sum())
        return max(1.0, (_PRIOR * _PRIOR_WINDOWS + total) / (_PRIOR_WINDOWS + len(rows) - 1))

    def add(self, rows: NDArray[np.int64], sums: Floats) -> float:
        """Take in a window; gives the evidence, the log of the mean of M.

        Args:
            rows: Of each bin. Shape (bins,).
            sums: Of the losses of each bin. The same shape.
        """
        gains = sums @ self._of_loss + (rows - sums) @ self._of_rest
        self._logs = np.logaddexp(0.0, self._logs) + gains / self.overdispersion
        if total := int(rows.sum()):
            self._windows.append((total, float(sums.sum()) / total))
        return float(np.logaddexp.reduce(self._logs)) - math.log(len(_GAINS))

    def restart(self) -> None:
        """Forget all windows, as after an alarm."""
        self._logs.fill(-math.inf)
