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
counting x as the part x of a loss of 1 takes evidence away and never adds it.
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

_SLACK = 1e-9
_TINY = 1e-300


def late_proportions(
    cohorts: ArrayLike, *, margin: float = 0.0, alpha: float = 0.05, bounds: bool = True
) -> Evidence:
    """Compare the mean losses of two arms from the truths that are in.

    Args:
        cohorts: In the order of time, shape (cohorts, 6): the candidate's predictions, the sum of
            their known losses, each from 0 to 1, and how many have no truth; then the same of the
            current version. A cohort in which one arm has no predictions does not count.
        margin: The difference of the mean losses that is allowed.
        alpha: One less the coverage of each end of the confidence sequence.
        bounds: Whether the confidence sequence is computed.

    Returns:
        Evidence that is never below that of no cohort. `difference` is that of the known losses per
        prediction: too small in size while truths lack.

    Raises:
        Invalid: A count is negative, or there are more losses than predictions with a truth.
    """
    counts = _checked(cohorts)

    def evidence(d: float) -> tuple[float, float]:
        return (
            float(_by_prefix(worst_case(counts, harm=True), d, WORSE_RATIOS).max()),
            float(_by_prefix(worst_case(counts, harm=False), d, SAFE_RATIOS).max()),
        )

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
    counts = worst_case(_checked(cohorts), harm=harm)
    return int(_by_prefix(counts, margin, WORSE_RATIOS if harm else SAFE_RATIOS).argmax())


def worst_case(cohorts: Floats, *, harm: bool) -> Floats:
    """Cohorts as counts for `sequential.two_proportions`, with the unknown ones at their worst.

    Shape (cohorts, 4). `harm`: at their worst for the claim that the candidate does harm.
    """
    n_c, k_c, u_c, n_0, k_0, u_0 = cohorts.T
    candidate, current = (k_c, k_0 + u_0) if harm else (k_c + u_c, k_0)
    return np.stack([n_c, candidate, n_0, current], axis=-1)


def _by_prefix(counts: Floats, margin: float, ratios: Floats) -> Floats:
    """The evidence of the first 0, 1, 2... cohorts, natural logarithms. Shape (cohorts + 1,).

    Half of the stake bets from the first cohort on; the rest is divided over later starts, so that
    cohorts whose truths never come, because an import failed for an hour, do not bury all others.
    """
    gains = rate_log_factors(counts, guesses_of(counts), margin, ratios)
    logs = np.concatenate([np.zeros((1, len(ratios))), np.cumsum(gains, axis=0)])
    starts = [0, *(2**power for power in range(len(counts).bit_length()) if 2**power < len(counts))]
    stakes = np.array([0.5, *(0.5 / (place * (place + 1)) for place in range(1, len(starts)))])
    evidence = np.zeros((len(starts) + 1, len(logs)))
    for place, first in enumerate(starts):
        since = np.logaddexp.reduce(logs[first:] - logs[first], axis=1)
        evidence[place, first:] = since - np.log(len(ratios))
    at_rest = max(1.0 - float(stakes.sum()), _TINY)
    weighted = evidence + np.log(np.append(stakes, at_rest))[:, None]
    total: Floats = np.logaddexp.reduce(weighted, axis=0)
    total[0] = 0.0
    return total


def _checked(cohorts: ArrayLike) -> Floats:
    counts = np.asarray(cohorts, np.float64).reshape(-1, 6)
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise Invalid("counts of a cohort must be 0 or more")
    for n, losses, unknown in (counts[:, :3].T, counts[:, 3:].T):
        if (losses + unknown > n + _SLACK * np.maximum(n, 1)).any():
            raise Invalid(
                "a cohort has more losses than predictions with a truth",
                hint="an arm of a cohort: predictions, known losses, predictions without a truth",
            )
    return counts
