"""Before a rollout starts: how many requests a test needs, and what it cannot find. Pure.

Answers are simulated with a fixed seed, so the same question has the same answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid
from bascule.stats.sequential import (
    INTERVAL_REQUESTS,
    SAFE_RATIOS,
    WORSE_RATIOS,
    guessed_rate,
    rate_log_factors,
)

Floats = NDArray[np.float64]

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
    enough = math.log(guardrails / alpha)
    return _decided(rate, rate + harm, share, margin, WORSE_RATIOS, enough, limit, runs)


def requests_to_promote(
    rate: float, *, share: float, margin: float, gain: float = 0.0, beta: float = 0.05,
    limit: int = 100_000, runs: int = 200,
) -> Detection:  # fmt: skip
    """How soon a candidate that is as good as the current version, or better, is promoted.

    Args:
        rate: Of the current version.
        share: As in `requests_to_roll_back`.
        margin: The harm that is excluded.
        gain: By how much the candidate's rate is lower. With neither margin nor gain, no version is
            ever promoted.
        beta: The promised share of harmful versions that are promoted.
        limit: As above.
        runs: As above.
    """
    return _decided(rate, rate - gain, share, margin, SAFE_RATIOS, -math.log(beta), limit, runs)


def simulated_counts(
    rate: float, candidate_rate: float, share: float, shape: tuple[int, ...], interval: int,
    random: np.random.Generator,
) -> Floats:  # fmt: skip
    """Counts of intervals of so many requests, for `two_proportions`. Shape (*shape, 4)."""
    candidate = random.binomial(interval, share, shape)
    current = interval - candidate
    events = random.binomial(candidate, candidate_rate), random.binomial(current, rate)
    made: Floats = np.stack([candidate, events[0], current, events[1]], axis=-1).astype(np.float64)
    return made


def log_evidence(counts: Floats, margin: float, ratios: Floats) -> Floats:
    """The evidence after each interval of many rollouts. From (..., intervals, 4)."""
    events, requests = counts[..., 3], counts[..., 2]
    guesses = guessed_rate(
        np.cumsum(events, axis=-1) - events, np.cumsum(requests, axis=-1) - requests
    )
    logs = np.cumsum(rate_log_factors(counts, guesses, margin, ratios), axis=-2)
    made: Floats = np.logaddexp.reduce(logs, axis=-1) - math.log(len(ratios))
    return made


def _decided(
    rate: float, candidate_rate: float, share: float, margin: float, ratios: Floats,
    enough: float, limit: int, runs: int,
) -> Detection:  # fmt: skip
    for name, value in (("rate", rate), ("rate with harm", candidate_rate), ("share", share)):
        if not 0 <= value <= 1:
            raise Invalid(f"{name} must be from 0 to 1, not {value:g}")
    interval = max(INTERVAL_REQUESTS, math.ceil(limit / _INTERVALS))
    random = np.random.default_rng(_SEED)
    shape = (runs, max(limit // interval, 1))
    counts = simulated_counts(rate, candidate_rate, share, shape, interval, random)
    is_decided = log_evidence(counts, margin, ratios) >= enough
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
