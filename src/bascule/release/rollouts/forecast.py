"""Before a rollout starts: what it will find, after how many requests, and what it cannot find."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from bascule.endpoints import KEY_UNITS
from bascule.release.rollouts.guards import Guard
from bascule.release.rollouts.keys import cells_of
from bascule.release.rollouts.losses import RATES
from bascule.release.rollouts.plan import Rollout
from bascule.stats import (
    SPREAD,
    Detection,
    durations as bins,
    requests_for_means,
    requests_to_compare_durations,
    requests_to_promote,
    requests_to_roll_back,
)

_HARMS = (0.01, 0.02, 0.05)
_UNKNOWN_RATES = {
    "errors": 0.01, "fallbacks": 0.01, "accuracy": 0.1, "approval": 0.2, "disagreement": 0.01,
    "answers": 0.5, "refusals": 0.02, "malformed": 0.05,
}  # fmt: skip
_HIGHER = (0.1, 0.25, 0.5)
"""Of the current version's mean loss, beyond the margin."""
_SLOWER = (1.25, 1.5, 2.0)
"""Of what a guard of latency allows."""


class Forecast(msgspec.Struct, frozen=True):
    """One line of a dry run.

    Attributes:
        guard: The guardrail.
        rate: The current version's, measured or assumed.
        harm: By how much the candidate is beyond the margin: points, or a share of the duration; 0
            for an equal version.
        detection: When harm is found; for an equal version, when it is promoted.
        sentence: The same in words.
        is_measured: Whether the rate is that of held-out rows, a mean loss.
    """

    guard: str
    rate: float
    harm: float
    detection: Detection
    sentence: str
    is_measured: bool = False

    @property
    def assumed(self) -> str:
        """The rate in words, where it is assumed; the rate of `approval` is that of thumbs down."""
        name = self.guard.partition(" ")[0]
        if self.is_measured or name.partition("[")[0] not in _UNKNOWN_RATES:
            return ""
        return f"{name} {1 - self.rate if name in RATES else self.rate:.0%}"


@dataclass(frozen=True, slots=True)
class Begun:
    """A rollout that was asked for, or would be, and what it will find.

    Attributes:
        rollout: The rollout.
        sentence: How it begins.
        forecasts: Of a dry run.
        from_settings: The fields that the request left to the settings, and these set.
    """

    rollout: Rollout
    sentence: str
    forecasts: Sequence[Forecast]
    from_settings: tuple[str, ...] = ()


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
    steps = [min(max(step, 1.0) / 100, 0.5) for step in rollout.steps_percent]
    first, last = steps[0], steps[-2:][0]
    lines = []
    for guard in rollout.guards:
        if guard.harmed:
            lines += _latency(rollout, guard, first, last, requests, runs // 2)  # ten quantiles
            continue
        if guard.is_on_outcomes and guard.name not in ("accuracy", "approval"):
            lines += _losses(rollout, guard, first, last, requests)
            continue
        rate = rates.get(guard.name, _UNKNOWN_RATES.get(guard.name, 0.01))
        if guard.name != "disagreement":
            lines += [_found(rollout, guard, rate, harm, first, requests, runs) for harm in _HARMS]
        proof = requests_to_promote(
            rate, share=last, margin=guard.rate_margin, beta=rollout.beta, limit=requests,
            runs=runs,
        )  # fmt: skip
        line = _shown(guard, rate, last, proof, "")
        if proof.median_requests is not None and (guard.is_on_outcomes or guard.name in _BY_KEY):
            keys = _keys_said(rollout, proof.median_requests, last)
            line = msgspec.structs.replace(
                line, sentence=f"{line.sentence}; with sticky keys: {keys}"
            )
        lines.append(line)
    return lines


_BY_KEY = ("errors", "fallbacks")


def _latency(
    rollout: Rollout, guard: Guard, first: float, last: float, limit: int, runs: int
) -> list[Forecast]:
    """Of durations as spread as a log-normal law makes them: those of an endpoint are not known."""
    factor, more_s = guard.allowed
    if more_s:
        unknown = Detection(None, None, None, 0.0, limit)
        sentence = (
            f"{guard} can be shown where {guard.name} is below {more_s / (bins.STEP - 1):.2g} s, "
            f"for durations are counted in steps of {bins.STEP - 1:.1%}; how soon depends on them"
        )
        return [Forecast(str(guard), 1 - guard.shown[-1], 0.0, unknown, sentence)]
    lines = []
    for slower in _SLOWER:
        detection = requests_to_compare_durations(
            guard.harmed, bins.counted_factor(factor, is_up=True) / (factor * slower), proves=False,
            share=first, error=rollout.alpha, guardrails=len(rollout.guards), limit=limit,
            runs=runs,
        )  # fmt: skip
        sentence = _found_sentence(
            rollout, f"{slower:g} times what {guard} allows", first, detection
        )
        lines.append(Forecast(str(guard), 1 - guard.shown[-1], slower - 1, detection, sentence))
    proof = requests_to_compare_durations(
        guard.shown, bins.counted_factor(factor, is_up=False), proves=True, share=last,
        error=rollout.beta, limit=limit, runs=runs,
    )  # fmt: skip
    spread = f", where durations are spread as a log-normal law of sigma {SPREAD:g}"
    return [*lines, _shown(guard, 1 - guard.shown[-1], last, proof, spread)]


def _losses(
    rollout: Rollout, guard: Guard, first: float, last: float, limit: int
) -> list[Forecast]:
    """Of losses with the mean and the spread of the held-out rows, once all truths are in."""
    loss = guard.measure
    if guard.is_of_pairs or loss.rectifier is not None:
        unknown = Detection(None, None, None, 0.0, limit)
        of = "how good the judge is" if loss.rectifier else "the share of positives"
        sentence = f"how soon {guard} is shown depends on {of}, not known yet"
        return [Forecast(str(guard), 0.0, 0.0, unknown, sentence, is_measured=True)]
    mean, spread = loss.level / loss.bound, loss.spread / loss.bound
    lines = []
    for harm in _HIGHER:
        detection = requests_for_means(
            mean, spread, guard.rate_margin + harm * mean, share=first, margin=guard.rate_margin,
            level=rollout.alpha / len(rollout.guards), proves=False, limit=limit,
        )  # fmt: skip
        what = f"a {guard.name} higher by {harm:.0%} more than {guard}"
        sentence = _found_sentence(rollout, what, first, detection)
        lines.append(Forecast(str(guard), loss.level, harm, detection, sentence, is_measured=True))
    proof = requests_for_means(
        mean, spread, 0.0, share=last, margin=guard.rate_margin, level=rollout.beta, proves=True,
        limit=limit,
    )  # fmt: skip
    shown = _shown(guard, loss.level, last, proof, ", with their truths")
    return [*lines, msgspec.structs.replace(shown, is_measured=True)]


def _found(
    rollout: Rollout, guard: Guard, rate: float, harm: float, share: float, limit: int, runs: int
) -> Forecast:
    extra = min(guard.rate_margin + harm, 1 - rate)
    detection = requests_to_roll_back(
        rate, extra, share=share, margin=guard.rate_margin, alpha=rollout.alpha,
        guardrails=len(rollout.guards), limit=limit, runs=runs,
    )  # fmt: skip
    sentence = _found_sentence(rollout, f"{harm:.0%} beyond {guard}", share, detection)
    return Forecast(str(guard), rate, harm, detection, sentence)


def _found_sentence(rollout: Rollout, what: str, share: float, detection: Detection) -> str:
    if detection.median_requests is None:
        return (
            f"{what} cannot be found in {detection.limit:,} requests at {share:.0%}: "
            f"{detection.power:.0%} of rollouts would see it"
        )
    return (
        f"{what} is found after about {detection.median_requests:,} requests, "
        f"{detection.exposed_requests:,} of them answered by {rollout.candidate}"
    )


def _shown(guard: Guard, rate: float, share: float, proof: Detection, where: str) -> Forecast:
    """When an equal version is shown to be within a guard, in the step before the last one."""
    if proof.median_requests is None:
        sentence = (
            f"that an equal version is within {guard} cannot be shown in {proof.limit:,} requests "
            f"at {share:.0%}{where}; allow a larger margin or share"
        )
    else:
        sentence = (
            f"that an equal version is within {guard} is shown after about "
            f"{proof.median_requests:,} requests at {share:.0%}{where}"
        )
    return Forecast(str(guard), rate, 0.0, proof, sentence)


def _keys_said(rollout: Rollout, requests: int, share: float) -> str:
    """How many keys half of the rollouts need that are shown by so many requests at a share.

    A key counts once in a step. Twice the keys that have the variance of the requests: with those
    alone 4 of 20 simulated rollouts end within 12 requests a key, with twice as many 10.
    """
    of_a_key = sum(
        (cell.high - cell.low) * cell.key_share * (1 - cell.key_share)
        for cell in cells_of([step / 100 for step in rollout.steps_percent])
    )
    units = requests * share * (1 - share) / max(of_a_key, 1e-9)
    if units >= KEY_UNITS:
        return f"cannot be shown with the {KEY_UNITS:,} keys that count"
    # Keys that share a unit count as one of them.
    return f"{round(-2 * KEY_UNITS * math.log1p(-units / KEY_UNITS)):,} keys"
