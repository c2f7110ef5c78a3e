"""Losses that become known late: a comparison that assumes nothing about delays. Pure.

A prediction's truth may come sooner where the answer is wrong, or only for some answers, or never.
So a rate of the predictions whose truth is in says little of all of them. Here predictions are
counted in *cohorts*, by the time of the prediction, and those without a truth are taken for the
worst: against a candidate, its own unknown predictions are right and those of the current version
wrong; for a candidate, the other way round.

With the truths of a cohort in full, the gains of its bets would be those of
`sequential.rate_log_factors`, which rise with the candidate's losses and fall with those of the
current version. So the evidence of any number of first cohorts, computed from the worst case, is at
most the evidence that their full truths will show. By Ville's inequality (1939) the latter ever
reaches 1/alpha, at any number of cohorts, with a probability of at most alpha while its hypothesis
is true. Therefore the *largest* evidence over all numbers of first cohorts may be taken, and it may
be computed again from the newest truths at each look: nothing is assumed about delays, about which
truths come, or of how versions mix their kinds of errors.

A loss may be any number from 0 to 1, not only 0 or 1: log(1 + a (x - q)) is concave in x, so that
counting x as the part x of a loss of 1 takes evidence away and never adds it. But it costs as much
as losses of 0 or 1 with this mean: three times the requests for absolute errors. With the sums of
squares of the losses there are bets of a second form, whose gain is a quadratic function of the
loss (Fan, Grama and Liu 2015, lemma 4.1): nine tenths of the stake.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bascule.core import Invalid
from bascule.stats.sequential import (
    SAFE_RATIOS,
    WORSE_RATIOS,
    Evidence,
    evidence_of,
    guesses_of,
    rate_log_factors,
)

Floats = NDArray[np.float64]

_SLACK = 1e-6
"""A prediction: sums are stored with six digits."""
_SQUARES_SLACK = 1e-5
_TINY = 1e-300
_LEAST = 1e-9


_MEAN_SHARE = 0.9
"""Of the stake, on bets with squares: the others win where losses are nearly all 0 or 1."""
_MEAN_STAKES = np.array([0.9, 0.6, 0.4, 0.25, 0.15, 0.08, 0.04, 0.02])


def late_proportions(
    cohorts: ArrayLike, *, margin: float = 0.0, alpha: float = 0.05, bounds: bool = True
) -> Evidence:
    """Compare the mean losses of two arms from the truths that are in.

    Args:
        cohorts: In the order of time, shape (cohorts, 6): the candidate's predictions, the sum of
            their known losses, each from 0 to 1, and how many have no truth; then the same of the
            current version. Or shape (cohorts, 8), with the sum of the squares of the known losses
            after their sum. A prediction that is known in part counts with the known part of its
            loss, and among those without a truth with the share that is not known. A cohort in
            which one arm has no predictions does not count.
        margin: The difference of the mean losses that is allowed.
        alpha: One less the coverage of each end of the confidence sequence.
        bounds: Whether the confidence sequence is computed.

    Returns:
        Evidence that is never below that of no cohort. `difference` is that of the known losses per
        prediction: too small in size while truths lack.

    Raises:
        Invalid: A count is negative, or sums that no losses from 0 to 1 have.
    """
    counts, squares = _checked(cohorts)

    def evidence(d: float) -> tuple[float, float]:
        worse, safe = (_by_prefix(*_gains(counts, squares, d, harm=harm)) for harm in (True, False))
        return float(worse.max()), float(safe.max())

    n_c, k_c, _, n_0, k_0, _ = counts.T
    weights = n_c * n_0 / np.maximum(n_c + n_0, 1)
    gaps = k_c / np.maximum(n_c, 1) - k_0 / np.maximum(n_0, 1)
    return evidence_of(evidence, weights, gaps, margin, alpha, bounds=bounds)


def decisive_cohorts(cohorts: ArrayLike, *, margin: float, harm: bool) -> int:
    """The number of first cohorts whose evidence is the largest; 0 where there is none.

    Args:
        cohorts: See `late_proportions`.
        margin: Likewise.
        harm: The evidence of harm, or that of safety.
    """
    return int(evidence_by_cohort(cohorts, margin=margin, harm=harm).argmax())


def evidence_by_cohort(cohorts: ArrayLike, *, margin: float, harm: bool) -> Floats:
    """The evidence of the first 0, 1, 2... cohorts, natural logarithms; see `decisive_cohorts`."""
    return _by_prefix(*_gains(*_checked(cohorts), margin, harm=harm))


def _gains(
    counts: Floats, squares: Floats | None, margin: float, *, harm: bool
) -> tuple[Floats, Floats]:
    """What each bet gains in each cohort, at its worst, and its share of the stake.

    Shapes (cohorts, bets) and (bets,).
    """
    table = _worst_case(counts, harm=harm)
    ratios = WORSE_RATIOS if harm else SAFE_RATIOS
    gains = rate_log_factors(table, guesses_of(table), margin, ratios)
    if squares is None:
        return gains, _equal(len(ratios))
    means = _mean_gains(counts, squares, margin, harm=harm)
    shares = [(1 - _MEAN_SHARE) * _equal(len(ratios)), _MEAN_SHARE * _equal(len(_MEAN_STAKES))]
    return np.concatenate([gains, means], axis=1), np.concatenate(shares)


def _equal(bets: int) -> Floats:
    return np.full(bets, 1 / bets)


def _worst_case(cohorts: Floats, *, harm: bool) -> Floats:
    """Cohorts as counts for `sequential.two_proportions`, with the unknown ones at their worst.

    Shape (cohorts, 4). `harm`: at their worst for the claim that the candidate does harm.
    """
    n_c, k_c, u_c, n_0, k_0, u_0 = cohorts.T
    candidate, current = (k_c, k_0 + u_0) if harm else (k_c + u_c, k_0)
    return np.stack([n_c, candidate, n_0, current], axis=-1)


def _mean_gains(counts: Floats, squares: Floats, margin: float, *, harm: bool) -> Floats:
    """Of bets whose gain is l y + (log(1 - l) + l) y^2, with y >= -1 linear in the loss x.

    With y = w (x - centre), the gain of a loss k + v, of which v is unknown, is that of k plus
    v (l w - 2 q w^2 centre) + q w^2 (2 k v + v^2), where q = log(1 - l) + l <= 0. With k + v <= 1
    the last bracket is at most 2 v, so that the gain is at least that of k plus the smaller of
    0 and u (l w - 2 q w^2 centre + 2 q w^2), u being the most that v can be.
    """
    n_c, k_c, u_c, n_0, k_0, u_0 = counts.T
    known = n_0 - u_0
    centre = (np.cumsum(k_0) - k_0 + 1.0) / (np.cumsum(known) - known + 2.0)
    allowed = centre + margin
    is_both = (n_c > 0) & (n_0 > 0)
    rho = np.where(is_both, n_c / np.maximum(n_c + n_0, 1.0), 0.5)
    if harm:
        scale = np.minimum(rho / np.maximum(allowed, _LEAST), (1 - rho) / (1 - centre))
    else:
        scale = -np.minimum(rho / np.maximum(1 - allowed, _LEAST), (1 - rho) / centre)
    stakes = _MEAN_STAKES
    quadratic = np.log1p(-stakes) + stakes
    gains = np.zeros((len(counts), len(stakes)))
    for n, total, square, unknown, weight, middle in (
        (n_c, k_c, squares[:, 0], u_c, scale / rho, allowed),
        (n_0, k_0, squares[:, 1], u_0, -scale / (1 - rho), centre),
    ):
        about = weight**2 * (square - 2 * middle * total + n * middle**2)
        gains += np.outer(weight * (total - n * middle), stakes) + np.outer(about, quadratic)
        rise = np.outer(weight, stakes) + np.outer(2 * weight**2 * (1 - middle), quadratic)
        gains += unknown[:, None] * np.minimum(rise, 0.0)
    return np.where(is_both[:, None], gains, 0.0)


def _by_prefix(gains: Floats, shares: Floats) -> Floats:
    """The evidence of the first 0, 1, 2... cohorts, natural logarithms. Shape (cohorts + 1,).

    Half of the stake bets from the first cohort on; the rest is divided over later starts, so that
    cohorts whose truths never come, because an import failed for an hour, do not bury all others.
    """
    count, bets = gains.shape
    logs = np.concatenate([np.zeros((1, bets)), np.cumsum(gains, axis=0)])
    starts = [0, *(2**power for power in range(count.bit_length()) if 2**power < count)]
    stakes = np.array([0.5, *(0.5 / (place * (place + 1)) for place in range(1, len(starts)))])
    evidence = np.zeros((len(starts) + 1, len(logs)))
    for place, first in enumerate(starts):
        since = logs[first:] - logs[first] + np.log(shares)
        evidence[place, first:] = np.logaddexp.reduce(since, axis=1)
    at_rest = max(1.0 - float(stakes.sum()), _TINY)
    weighted = evidence + np.log(np.append(stakes, at_rest))[:, None]
    total: Floats = np.logaddexp.reduce(weighted, axis=0)
    total[0] = 0.0
    return total


def _checked(cohorts: ArrayLike) -> tuple[Floats, Floats | None]:
    """Cohorts without the squares, and the squares of both arms."""
    table = np.asarray(cohorts, np.float64)
    width = table.shape[-1] if table.size else 6
    if width not in (6, 8):
        raise Invalid(f"a cohort has 6 or 8 numbers, not {width}")
    table = table.reshape(-1, width)
    if not (np.isfinite(table).all() and (table >= 0).all()):
        raise Invalid("counts of a cohort must be 0 or more")
    half = width // 2
    counts = table[:, [0, 1, half - 1, half, half + 1, width - 1]]
    for n, losses, unknown in (counts[:, :3].T, counts[:, 3:].T):
        if (losses + unknown > n + _SLACK * np.maximum(n, 1)).any():
            raise Invalid(
                "a cohort has more losses than predictions with a truth",
                hint="an arm of a cohort: predictions, known losses, predictions without a truth",
            )
    if width == 6:
        return counts, None
    squares = table[:, [2, 6]]
    for total, square, n in zip(counts.T[[1, 4]], squares.T, counts.T[[0, 3]], strict=True):
        slack = _SQUARES_SLACK * np.maximum(n, 1)
        if (square > total + slack).any() or (square * n < total**2 - slack * n).any():
            raise Invalid("a cohort has squares that no losses from 0 to 1 have")
    return counts, squares
