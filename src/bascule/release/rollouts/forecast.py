"""Before a rollout starts: what it will find, after how many requests, and what it cannot find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bascule.release.rollouts.guards import Guard
from bascule.release.rollouts.plan import Rollout
from bascule.stats import Detection, requests_to_promote, requests_to_roll_back

_HARMS = (0.01, 0.02, 0.05)
_UNKNOWN_RATES = {
    "errors": 0.01, "fallbacks": 0.01, "accuracy": 0.1, "disagreement": 0.01, "answers": 0.5,
}  # fmt: skip
_SLOW_RATE = 0.05


class Forecast(msgspec.Struct, frozen=True):
    """One line of a dry run.

    Attributes:
        guard: The guardrail.
        rate: The current version's, measured or assumed.
        harm: By how much the candidate is beyond the margin; 0 for an equal version.
        detection: When harm is found; for an equal version, when it is promoted.
        sentence: The same in words.
    """

    guard: str
    rate: float
    harm: float
    detection: Detection
    sentence: str


def forecast(
    rollout: Rollout, *, rates: Mapping[str, float], requests: int, runs: int = 200
) -> Sequence[Forecast]:
    """What a rollout can find in `requests` requests.

    Args:
        rollout: Not started yet.
        rates: The current version's rates, by the names of guards, as far as they are known.
        requests: Of both versions until the rollout must have ended.
        runs: Simulated rollouts for each line.
    """
    share = max(rollout.steps_percent[0], 1.0) / 100
    share = min(share, 0.5)
    made = []
    for guard in rollout.guards:
        rate = (
            _SLOW_RATE
            if guard.quantiles
            else rates.get(guard.name, _UNKNOWN_RATES.get(guard.name, 0.01))
        )
        if guard.name != "disagreement":
            made += [_found(rollout, guard, rate, harm, share, requests, runs) for harm in _HARMS]
        made.append(_proven(rollout, guard, rate, share, requests, runs))
    return made


def _found(
    rollout: Rollout, guard: Guard, rate: float, harm: float, share: float, limit: int, runs: int
) -> Forecast:
    extra = min(guard.rate_margin + harm, 1 - rate)
    found = requests_to_roll_back(
        rate, extra, share=share, margin=guard.rate_margin, alpha=rollout.alpha,
        guardrails=len(rollout.guards), limit=limit, runs=runs,
    )  # fmt: skip
    what = f"{harm:.0%} beyond {guard}"
    if found.median_requests is None:
        said = (
            f"{what} cannot be found in {limit:,} requests at {share:.0%}: {found.power:.0%} of "
            "rollouts would see it"
        )
    else:
        said = (
            f"{what} is found after about {found.median_requests:,} requests, "
            f"{found.exposed_requests:,} of them answered by {rollout.candidate}"
        )
    return Forecast(str(guard), rate, harm, found, said)


def _proven(
    rollout: Rollout, guard: Guard, rate: float, share: float, limit: int, runs: int
) -> Forecast:
    gain = rate / 2 if guard.quantiles else 0.0
    proof = requests_to_promote(
        rate, share=share, margin=guard.rate_margin, gain=gain, beta=rollout.beta, limit=limit,
        runs=runs,
    )  # fmt: skip
    equal = "a version with half as many slow answers" if gain else "an equal version"
    if proof.median_requests is None:
        said = (
            f"that {equal} is within {guard} cannot be shown in {limit:,} requests at "
            f"{share:.0%}; allow a larger margin or share"
        )
    else:
        said = (
            f"that {equal} is within {guard} is shown after about "
            f"{proof.median_requests:,} requests"
        )
    return Forecast(str(guard), rate, 0.0, proof, said)
