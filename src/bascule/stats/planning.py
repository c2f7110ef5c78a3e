"""Before a rollout starts: how many requests a test needs, and what it cannot find. Pure.

Answers are simulated with a fixed seed, so the same question has the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid
from bascule.stats.late import evidence_by_cohort
from bascule.stats.sequential import (
    INTERVAL_REQUESTS,
    PRIOR_RATE,
    SAFE_RATIOS,
    WORSE_RATIOS,
    guesses_of,
    rate_log_factors,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SPREAD = 1.0
"""Durations are seldom more spread: the 95 % quantile is five times the median."""
_INTERVALS = 500
_SEED = 20261126


@dataclass(frozen=True, slots=True)
class Detection:
    """When a test decides, in requests of both arms together.

    Attributes:
        median_requests: Half of rollouts have decided by then; None where fewer do within `limit`.
        most_requests: Four of five have; None likewise.
        exposed_requests: The candidate's part of `median_requests`.
        power: The share of rollouts that have decided within `limit`.
        limit: The requests that were looked at.
    """

    median_requests: int | None
    most_requests: int | None
    exposed_requests: int | None
    power: float
    limit: int


def requests_to_roll_back(
    rate: float, harm: float, *, share: float, margin: float = 0.0, alpha: float = 0.05,
    guardrails: int = 1, limit: int = 100_000, runs: int = 200,
) -> Detection:  # fmt: skip
    """How soon a candidate with a rate of `rate + harm` is rolled back.

    Args:
        rate: Of the current version, from 0 to 1.
        harm: By how much the candidate's rate is higher.
        share: The candidate's share of requests.
        margin: The difference that is allowed.
        alpha: The promised share of good versions that are rolled back.
        guardrails: How many are averaged; the others are taken to show nothing.
        limit: The requests that there are.
        runs: Simulated rollouts.
    """
    counts, interval = _simulated(rate, rate + harm, share, limit, runs)
    log_e = log_evidence(counts, margin, WORSE_RATIOS)
    return _decided(log_e >= math.log(guardrails / alpha), interval, share, limit)


def requests_to_promote(
    rate: float, *, share: float, margin: float, beta: float = 0.05, limit: int = 100_000,
    runs: int = 200,
) -> Detection:  # fmt: skip
    """How soon a candidate that is as good as the current version is promoted.

    Args:
        rate: Of the current version.
        share: As in `requests_to_roll_back`.
        margin: The harm that is excluded. Without one, no equal version is ever promoted.
        beta: The promised share of harmful versions that are promoted.
        limit: As above.
        runs: As above.
    """
    counts, interval = _simulated(rate, rate, share, limit, runs)
    return _decided(
        log_evidence(counts, margin, SAFE_RATIOS) >= -math.log(beta), interval, share, limit
    )


def requests_to_compare_durations(
    quantiles: Sequence[float], ratio: float, *, proves: bool, share: float, error: float = 0.05,
    guardrails: int = 1, limit: int = 100_000, runs: int = 200,
) -> Detection:  # fmt: skip
    """How soon a slow candidate is rolled back, or an equal one shown to be within a factor.

    Durations have a log-normal law whose logarithm has a standard deviation of `SPREAD`.

    Args:
        quantiles: Of the current version's durations: all are shown, or their harm is averaged.
        ratio: Of what is allowed to what the candidate takes: below 1 for a slow one.
        proves: Whether it is shown, or rolled back.
        share: As in `requests_to_roll_back`, as all that follows.
        error: Its `alpha`, or the `beta` of `requests_to_promote`.
        guardrails: See there.
        limit: See there.
        runs: See there.
    """
    shape, interval = _looks(limit, runs)
    random, law = np.random.default_rng(_SEED), NormalDist()
    n_c = random.binomial(interval, share, shape)
    events = []
    for n, shift in ((n_c, math.log(ratio) / SPREAD), (interval - n_c, 0.0)):
        beyond = [law.cdf(-law.inv_cdf(quantile) - shift) for quantile in quantiles]
        parts = random.multinomial(n, np.diff(beyond[::-1], prepend=0.0, append=1.0))
        events.append(np.cumsum(parts, axis=-1)[..., -2::-1])
    logs = [
        log_evidence(
            np.stack([n_c, events[0][..., at], interval - n_c, events[1][..., at]], -1) * 1.0,
            0.0, SAFE_RATIOS if proves else WORSE_RATIOS, 1 - quantile,
        )
        for at, quantile in enumerate(quantiles)
    ]  # fmt: skip
    # Half of the evidence of harm is that of classes of work; all requests are of one.
    harm = np.logaddexp.reduce(logs, axis=0) - math.log(2 * len(logs))
    log_e = np.min(logs, axis=0) if proves else harm
    return _decided(log_e >= math.log(guardrails / error), interval, share, limit)


def requests_for_means(
    mean: float, spread: float, harm: float, *, share: float, margin: float, level: float,
    proves: bool, limit: int = 100_000, runs: int = 40,
) -> Detection:  # fmt: skip
    """How soon `late_proportions` decides about mean losses from 0 to 1 whose truths are all in.

    Args:
        mean: Of the current version.
        spread: The standard deviation of a loss, of both versions.
        harm: By how much the candidate's mean is higher.
        share: As in `requests_to_roll_back`.
        margin: As there.
        level: The evidence that decides is 1 / level.
        proves: Whether safety is shown, or harm.
        limit: As above.
        runs: As above; sums of losses are normal.
    """
    shape, interval = _looks(limit, runs)
    random = np.random.default_rng(_SEED)
    n_c = random.binomial(interval, share, shape).astype(np.float64)
    sums: list[Floats] = []
    for n, of_arm in ((n_c, mean + harm), (interval - n_c, mean)):
        total = np.clip(random.normal(n * of_arm, np.sqrt(n) * spread), 0, n)
        square = np.clip(n * (of_arm**2 + spread**2), total**2 / np.maximum(n, 1), total)
        sums += [n, total, square, np.zeros(shape)]
    evidence = [
        evidence_by_cohort(cohorts, margin=margin, harm=not proves)[1:]
        for cohorts in np.stack(sums, axis=-1)
    ]
    return _decided(np.array(evidence) >= -math.log(level), interval, share, limit)


def simulated_counts(
    rate: float, candidate_rate: float, share: float, shape: tuple[int, ...], interval: int,
    random: np.random.Generator,
) -> Floats:  # fmt: skip
    """Counts of intervals of so many requests, for `two_proportions`. Shape (*shape, 4)."""
    candidate = random.binomial(interval, share, shape)
    current = interval - candidate
    events = random.binomial(candidate, candidate_rate), random.binomial(current, rate)
    return np.asarray(
        np.stack([candidate, events[0], current, events[1]], axis=-1).astype(np.float64)
    )


def log_evidence(
    counts: Floats, margin: float, ratios: Floats, prior: float = PRIOR_RATE
) -> Floats:
    """The evidence after each interval of many rollouts. From (..., intervals, 4)."""
    guesses = guesses_of(counts, prior)
    logs = np.cumsum(rate_log_factors(counts, guesses, margin, ratios), axis=-2)
    return np.asarray(np.logaddexp.reduce(logs, axis=-1) - math.log(len(ratios)))


def _simulated(
    rate: float, candidate_rate: float, share: float, limit: int, runs: int
) -> tuple[Floats, int]:
    for name, value in (("rate", rate), ("rate with harm", candidate_rate), ("share", share)):
        if not 0 <= value <= 1:
            raise Invalid(f"{name} must be from 0 to 1, not {value:g}")
    shape, interval = _looks(limit, runs)
    random = np.random.default_rng(_SEED)
    return simulated_counts(rate, candidate_rate, share, shape, interval, random), interval


def _looks(limit: int, runs: int) -> tuple[tuple[int, int], int]:
    interval = max(INTERVAL_REQUESTS, math.ceil(limit / _INTERVALS))
    return (runs, max(limit // interval, 1)), interval


def _decided(is_decided: Bools, interval: int, share: float, limit: int) -> Detection:
    first = np.where(is_decided.any(axis=1), is_decided.argmax(axis=1) + 1, np.inf) * interval
    half, most = (float(np.quantile(first, part, method="higher")) for part in (0.5, 0.8))
    median = int(half) if math.isfinite(half) else None
    return Detection(
        median_requests=median,
        most_requests=int(most) if math.isfinite(most) else None,
        exposed_requests=None if median is None else round(median * share),
        power=float(np.isfinite(first).mean()),
        limit=limit,
    )
