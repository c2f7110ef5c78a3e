"""Tests of a candidate against the current version that may be looked at after every interval.

Each test is an e-process: a number that is never negative and whose expectation is at most 1 at any
moment, however that moment is chosen, while its hypothesis is true. By Ville's inequality (1939) it
ever reaches 1/alpha with a probability of at most alpha, so repeated looks cost nothing. The
surveys are Ramdas, Grünwald, Vovk and Shafer 2023 and Waudby-Smith and Ramdas 2024.

Two hypotheses are tested at once, about the candidate's rate less that of the current version:

- "it is at most the margin, in every interval": evidence against it (`log_e_worse`) rolls back;
- "it is at least the margin": evidence against it (`log_e_safe`) promotes.

Three conditions, which no test can check: an interval ends by the clock or by its number of
requests, never by what was answered; each request (or caller) is assigned to an arm at random; and
events are independent. Retries break the last one: errors in bursts of five in one arm made every
method wrong in 17 to 58 % of simulated rollouts, so count callers or incidents where there are
retries. Shares may change between intervals, and so may both rates. Pure, numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bascule.core import Invalid

Floats = NDArray[np.float64]

WORSE_RATIOS = np.array([1.08, 1.25, 1.6, 2.5, 6.0, 20.0])
"""Few: each bet costs the others a share of the evidence. The fastest of eight grids tried."""

SAFE_RATIOS = 1 / np.array([1.025, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10, 30, 100])
_MOST_WORSE = 0.95
_MOST_SAFE = 0.999
_STAKES = np.array([0.9, 0.7, 0.5, 0.35, 0.25, 0.18, *(0.125 / 2**n for n in range(10))])
PRIOR_RATE, _PRIOR_REQUESTS = 0.01, 200.0
"""Of the current version's events, with nothing before."""
_BISECTIONS = 24
_SPLIT_WEIGHT = 20.0
_TINY = 1e-12

INTERVAL_REQUESTS = 100
"""Intervals of fewer requests cost power: ten requests, a fifth of it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the intervals so far say of the candidate less the current version.

    Attributes:
        log_e_worse: Natural logarithm of the evidence against "at most the margin".
        log_e_safe: The same against "at least the margin".
        difference: The estimate. Intervals are weighted by n_c n_0 / n, and never pooled, so a
            rate that changes along with the shares does not bend it.
        lower: Of the confidence sequence; -1 with no evidence.
        upper: Of the confidence sequence; 1 with no evidence.
    """

    log_e_worse: float
    log_e_safe: float
    difference: float
    lower: float
    upper: float


def two_proportions(
    intervals: ArrayLike, *, margin: float = 0.0, alpha: float = 0.05, bounds: bool = True
) -> Evidence:
    """Compare two rates by betting on the counts of intervals.

    One bet per ratio r of the rates, in a mixture. With rho the candidate's share of the interval
    as it was, and q a guess of the current version's rate from the intervals before, the bet's
    factors are 1 + lambda/rho (X - q - d) for a request of the candidate and
    1 - lambda/(1 - rho) (Y - q) for one of the current version. Their product has an expectation of
    at most exp(n lambda (p_c - p_0 - d)), as 1 + x <= exp(x), for any q and any rates.

    Args:
        intervals: Shape (intervals, 4): the candidate's requests and events, then those of the
            current version. An interval in which one arm has no requests does not count.
        margin: The difference of rates that is allowed (0.01 is one point); below nought, one
            that the candidate has to gain.
        alpha: One less the coverage of each end of the confidence sequence.
        bounds: Whether the confidence sequence is found, which takes fifty times as long. Its ends
            are -1 and 1 otherwise.

    Raises:
        Invalid: A count is negative, or there are more events than requests.
    """
    counts = _checked_counts(intervals)
    guesses = guesses_of(counts)

    def evidence(d: float) -> tuple[float, float]:
        worse = rate_log_factors(counts, guesses, d, WORSE_RATIOS).sum(axis=0)
        safe = rate_log_factors(counts, guesses, d, SAFE_RATIOS).sum(axis=0)
        return log_mean(worse), log_mean(safe)

    n_c, e_c, n_0, e_0 = counts.T
    weights = n_c * n_0 / np.maximum(n_c + n_0, 1)
    gaps = e_c / np.maximum(n_c, 1) - e_0 / np.maximum(n_0, 1)
    return evidence_of(evidence, weights, gaps, margin, alpha, bounds=bounds)


def mcnemar(
    losses: int, wins: int, pairs: int, *, margin: float = 0.0, alpha: float = 0.05,
    bounds: bool = True,
) -> Evidence:  # fmt: skip
    """Compare two versions by whether each was right about the same rows, at any time.

    A bet on the difference D of each pair, 1 where the candidate alone is wrong, -1 where the
    current version alone is, with factors 1 + lambda (D - d): the capital process of Waudby-Smith
    and Ramdas 2024, section 4, in a mixture over lambda. With a margin of nought only the pairs
    that differ count, as in the test of McNemar 1947.

    Args:
        losses: Pairs in which the candidate alone is wrong.
        wins: Pairs in which the current version alone is wrong.
        pairs: All pairs.
        margin: The share of pairs by which the candidate may be worse.
        alpha: As in `two_proportions`.
        bounds: As in `two_proportions`.

    Raises:
        Invalid: More pairs differ than there are.
    """
    if min(losses, wins) < 0 or losses + wins > pairs:
        raise Invalid(f"{losses} losses and {wins} wins of {pairs} pairs")
    same = pairs - losses - wins

    def evidence(d: float) -> tuple[float, float]:
        log_e = []
        for side in (1.0, -1.0):
            bets = side * _STAKES / (1 + side * d)
            logs = losses * np.log1p(bets * (1 - d)) + wins * np.log1p(-bets * (1 + d))
            log_e.append(log_mean(logs + same * np.log1p(-bets * d)))
        return log_e[0], log_e[1]

    gap = np.array([(losses - wins) / max(pairs, 1)])
    return evidence_of(evidence, np.array([float(pairs)]), gap, margin, alpha, bounds=bounds)


@dataclass(frozen=True, slots=True)
class Beyond:
    """Slow answers of both arms at one quantile of the current version.

    Attributes:
        share: The share of answers that the current version was slower than, before: .05 of a p95.
        strata: By class of work, also of those without requests: intervals as in
            `two_proportions`, of shape (intervals, 4). An event is an answer beyond the limit of
            its arm; see `durations.limits`.
    """

    share: float
    strata: Sequence[Floats]

    def log_e(self, *, proves: bool) -> float:
        """The evidence that the candidate is within the limits, or of harm."""
        ratios = SAFE_RATIOS if proves else WORSE_RATIOS
        logs = [
            rate_log_factors(counts, guesses_of(counts, self.share), 0.0, ratios).sum(axis=0)
            for counts in self.strata
        ]
        together = log_mean(np.sum(logs, axis=0))
        return (
            together
            if proves
            else float(over_strata(together, [log_mean(of_stratum) for of_stratum in logs]))
        )

    def rates(self) -> tuple[float, float]:
        """Of the candidate, and of the current version with the same mix of intervals."""
        counts = np.concatenate(self.strata)
        n_c, e_c, n_0, e_0 = counts[(counts[:, 0] > 0) & (counts[:, 2] > 0)].T
        total = max(float(n_c.sum()), 1.0)
        return float(e_c.sum()) / total, float((n_c * e_0 / n_0).sum()) / total


def over_strata(together: ArrayLike, each: ArrayLike) -> Floats:
    """The evidence of harm in all strata, or in one of them that is lost among the others.

    Args:
        together: The logarithm of the product over strata.
        each: Those of each stratum, along the first axis; 0 of a stratum without requests.
    """
    logs = np.asarray(each, np.float64)
    some = np.logaddexp.reduce(logs, axis=0) - math.log(len(logs))
    return np.asarray(np.logaddexp(together, some) - math.log(2))


def quantiles(harm: Sequence[Beyond], proof: Sequence[Beyond]) -> tuple[Evidence, int, int]:
    """Compare two distributions, of latencies for instance, by the rates beyond some limits.

    Limits at several quantiles of the current version find a change of the tail that one limit does
    not: the evidence of harm is the mean of theirs (Vovk and Wang 2021, section 3, e-values of any
    dependence may be averaged). A candidate is safe where it is so at every quantile of `proof`.
    The limits of an interval are chosen before its first answer.

    Args:
        harm: What is tested for harm.
        proof: What must be shown.

    Returns:
        The evidence, whose difference is that of the worst quantile and whose bounds are -1 and 1;
        the place of the worst quantile in `harm`; that of the least safe one in `proof`.
    """
    worse = [beyond.log_e(proves=False) for beyond in harm]
    safe = [beyond.log_e(proves=True) for beyond in proof]
    worst, least = int(np.argmax(worse)), int(np.argmin(safe))
    of_candidate, of_current = harm[worst].rates()
    evidence = Evidence(log_mean(worse), safe[least], of_candidate - of_current, -1.0, 1.0)
    return evidence, worst, least


def rate_distances(events: ArrayLike, *, margin: float) -> tuple[Floats, Floats]:
    """Compare two distributions by the rates of several events, in both directions.

    Args:
        events: Per event: intervals as in `two_proportions`. Shape (events, intervals, 4).
        margin: The difference of rates that is allowed, over 0.

    Returns:
        Natural logarithms of the evidence that the candidate's rate is further from the current
        version's than the margin, and that it is not. Shape (events, 2): above, and below. The
        mean of the first is evidence that the distributions are further apart (e-values of any
        dependence may be averaged: Vovk and Wang 2021, section 3); the least of the second, that
        no event tells them apart (an intersection-union test, Berger 1982, needs no correction).

    Raises:
        Invalid: As `two_proportions`.
    """
    counts = np.asarray(events, np.float64)
    _checked_counts(counts)
    both = np.stack([counts, counts[..., [2, 3, 0, 1]]], axis=1)  # (events, 2, intervals, 4)
    apart, within = (
        rate_log_factors(both, guesses_of(both), margin, ratios).sum(axis=-2)
        for ratios in (WORSE_RATIOS, SAFE_RATIOS)
    )
    return (
        np.logaddexp.reduce(apart, axis=-1) - math.log(len(WORSE_RATIOS)),
        np.logaddexp.reduce(within, axis=-1) - math.log(len(SAFE_RATIOS)),
    )


def split_log_e(candidate: int, current: int, share: float, *, tolerance: float = 0.0) -> float:
    """Evidence that requests were not split as planned: sample ratio mismatch.

    The mixture of Lindon and Malek 2022, "Anytime-valid inference for multinomial count data", of
    two arms: a Beta prior around the planned share against that share. It may be looked at after
    each request. With a tolerance, the least evidence against any share within it.

    Args:
        candidate: Requests of one arm.
        current: Of the other.
        share: Of the first arm, as planned; over 0 and below 1.
        tolerance: Of the share, or of the other arm's where that is smaller, what is no matter.

    Returns:
        The natural logarithm.
    """
    n = candidate + current
    slack = tolerance * min(share, 1 - share)
    nearest = min(max(candidate / max(n, 1), share - slack), share + slack)
    weight = _SPLIT_WEIGHT / min(share, 1 - share)
    a, b = weight * share, weight * (1 - share)
    mixed = _log_beta(a + candidate, b + current) - _log_beta(a, b)
    return mixed - candidate * math.log(nearest) - current * math.log1p(-nearest)


def log_mean(logs: ArrayLike) -> float:
    """The logarithm of the mean of e-values, from their logarithms: an e-value again."""
    each = np.asarray(logs, np.float64)
    return float(np.logaddexp.reduce(each)) - math.log(len(each))


def culprits(log_es: Sequence[float], alpha: float) -> list[int]:
    """Which of several guardrails are violated, each named falsely with alpha / K at most.

    The mean of the evidence decides whether any is (it never needed more requests than Bonferroni);
    to name one takes its own evidence of K / alpha.
    """
    enough = math.log(len(log_es) / alpha) if log_es else math.inf
    return [place for place, log_e in enumerate(log_es) if log_e >= enough]


def rate_log_factors(counts: Floats, guesses: Floats, margin: float, ratios: Floats) -> Floats:
    """The gain of each bet in each interval; see `two_proportions`.

    Args:
        counts: Shape (..., 4).
        guesses: The guess of the current version's rate, made before each interval. Shape (...).
        margin: d.
        ratios: Of the candidate's rate to the current version's; all over 1, or all below.

    Returns:
        Shape (..., ratios), natural logarithms.
    """
    n_c, e_c, n_0, e_0 = (counts[..., place, None] for place in range(4))
    both = np.maximum(n_c + n_0, 1.0)
    rho = np.clip(n_c / both, 1e-9, 1 - 1e-9)
    q = guesses[..., None]
    shift = q + margin
    stakes = rho * (1 - rho) * (ratios - 1) / (1 + rho * (ratios - 1)) / (1 - q)
    if ratios[0] > 1:  # no factor may be negative
        most = np.minimum(rho / np.maximum(shift, _TINY), (1 - rho) / (1 - q))
        stakes = np.minimum(stakes, _MOST_WORSE * most)
    else:
        most = np.minimum(rho / np.maximum(1 - shift, _TINY), (1 - rho) / q)
        stakes = np.maximum(stakes, -_MOST_SAFE * most)
    a, b = stakes / rho, stakes / (1 - rho)
    gains: Floats = (
        e_c * np.log1p(a * (1 - shift)) + (n_c - e_c) * np.log1p(-a * shift)
        + e_0 * np.log1p(-b * (1 - q)) + (n_0 - e_0) * np.log1p(b * q)
    )  # fmt: skip
    return np.where((n_c > 0) & (n_0 > 0), gains, 0.0)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def guesses_of(counts: Floats, prior: float = PRIOR_RATE) -> Floats:
    """A guess of the current version's rate for each interval, from those before it."""
    n_0, e_0 = counts[..., 2], counts[..., 3]
    events, requests = np.cumsum(e_0, axis=-1) - e_0, np.cumsum(n_0, axis=-1) - n_0
    return np.asarray((events + prior * _PRIOR_REQUESTS) / (requests + _PRIOR_REQUESTS))


def evidence_of(
    evidence: Callable[[float], tuple[float, float]],
    weights: Floats,
    gaps: Floats,
    margin: float,
    alpha: float,
    *,
    bounds: bool = True,
) -> Evidence:
    """At the margin; and the confidence sequence: the margins that are not rejected."""
    if not 0 < alpha < 1:
        raise Invalid(f"alpha must be between 0 and 1, not {alpha:g}")
    if not -1 < margin < 1:
        raise Invalid(f"the margin must be between -1 and 1, not {margin:g}")
    worse, safe = evidence(margin)
    total = float(weights.sum())
    if not total:
        return Evidence(0.0, 0.0, 0.0, -1.0, 1.0)
    difference = float((weights * gaps).sum()) / total
    if not bounds:
        return Evidence(worse, safe, difference, -1.0, 1.0)
    enough = -math.log(alpha)
    lower = _last_rejected(lambda d: evidence(d)[0] >= enough, -1.0, difference)
    upper = -_last_rejected(lambda d: evidence(-d)[1] >= enough, -1.0, -difference)
    return Evidence(worse, safe, difference, lower, upper)


def _last_rejected(is_rejected: Callable[[float], bool], low: float, high: float) -> float:
    """The last margin, from `low` on, that is rejected."""
    low += 1e-9
    if not is_rejected(low):
        return -1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_rejected(middle) else (low, middle)
    return low


def _checked_counts(intervals: ArrayLike) -> Floats:
    counts = np.asarray(intervals, np.float64).reshape(-1, 4)
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise Invalid("counts of an interval must be 0 or more")
    if (counts[:, 1] > counts[:, 0]).any() or (counts[:, 3] > counts[:, 2]).any():
        raise Invalid(
            "an interval has more events than requests",
            hint="an interval: candidate's requests, its events, current's requests, its events",
        )
    return counts
