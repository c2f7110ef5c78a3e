"""What all strategies ask of the evidence: is there harm, is there proof, and in which words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

import msgspec

from bascule.release.rollouts.answers import AnswersEvidence
from bascule.release.rollouts.evidence import (
    CANDIDATE,
    CURRENT,
    FEW_UNKNOWN,
    KEY_SHARE,
    ROUND,
    SHARE,
    Cohort,
    Floats,
    column,
    known_loss,
    steered_sums,
)
from bascule.release.rollouts.guards import Guard, Verdict, judge
from bascule.release.rollouts.keys import REPEATED_STAKE
from bascule.release.rollouts.losses import is_rate, judge_of
from bascule.release.rollouts.plan import Rollout
from bascule.stats import INTERVAL_REQUESTS, culprits, log_mean, split_log_e

Pair = tuple[int, int]
_MOST_SAID = 1e6
_SPLIT_ERROR = 0.001
"""The promised share of rollouts split as planned that are said not to be."""
_SPLIT_TOLERANCE = 0.02
"""A split that differs by so small a part of the smaller share is no matter."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the intervals of a rollout say at one moment.

    Attributes:
        verdicts: By guard, in the rollout's order.
        log_e_harm: The average evidence of all guards.
        requests: Of both arms since the start.
        candidate_requests: Of the candidate since the start.
        stage_requests: Of the candidate in the stage that is asked about.
        rewards: What is not lost of the answers (or pairs), by the first guard on outcomes, and the
            answers, of the current version and the candidate, in the cohorts whose truths are in.
        truths_after_s: The age from which on cohorts have their truths; None where none has.
        now: The moment.
        held: Why the answers of the candidate ask for a person; empty where they do not.
        mismatch: How the split differs from the plan; empty where it does not.
        steered: Of a contextual bandit: see `steered_sums`.
    """

    verdicts: Sequence[Verdict]
    log_e_harm: float
    requests: int
    candidate_requests: int
    stage_requests: int
    rewards: tuple[Pair, Pair]
    truths_after_s: float | None
    now: datetime
    held: str = ""
    mismatch: str = ""
    steered: Floats | None = None

    def unproven(self, beta: float) -> list[Verdict]:
        """The guards whose margin is not excluded yet."""
        return [
            verdict for verdict in self.verdicts if verdict.evidence.log_e_safe < -math.log(beta)
        ]

    def is_harm_likely(self, alpha: float) -> bool:
        """Whether the evidence of harm is half way, in logarithms, to a rollback."""
        return self.log_e_harm >= -math.log(alpha) / 2

    @property
    def outcomes(self) -> Verdict:
        """Of the first guard on outcomes, by which `ab` and `bandit` call a version better."""
        return next(verdict for verdict in self.verdicts if verdict.guard.is_on_outcomes)

    @property
    def log_e(self) -> dict[str, float]:
        by_guard = {str(verdict.guard): verdict.evidence.log_e_worse for verdict in self.verdicts}
        return by_guard | {"all": self.log_e_harm}


_UNKNOWN_HINT = (
    "predictions that never get a truth need outcomes_sample, see the how-to of rollouts"
)


def observed(
    rollout: Rollout, stage: int, table: Floats, cohorts: Sequence[Cohort], now: datetime
) -> Facts:
    """The facts of the intervals so far, as `table_of` has them, and of the cohorts."""
    in_pairs = rollout.strategy != "shadow"
    verdicts = judge(rollout.guards, table, cohorts, rollout.alpha, in_pairs=in_pairs)
    held = ""
    if rollout.allow_answers:
        verdicts = [
            verdict if verdict.answers is None else _accepted(verdict) for verdict in verdicts
        ]
    else:
        held = next(filter(None, (_held(rollout, verdict) for verdict in verdicts)), "")
    of_candidate = table[:, column(CANDIDATE, "requests")]
    return Facts(
        verdicts=verdicts,
        log_e_harm=_log_e_harm(verdicts),
        requests=int(of_candidate.sum() + table[:, column(CURRENT, "requests")].sum()),
        candidate_requests=int(of_candidate.sum()),
        stage_requests=int(of_candidate[table[:, 0] == stage].sum()),
        rewards=_rewards(rollout, cohorts),
        truths_after_s=_truths_after_s(cohorts, (now - rollout.started_at).total_seconds()),
        now=now,
        held=held,
        mismatch=_mismatch(table),
        steered=steered_sums(cohorts) if rollout.context else None,
    )


def _accepted(verdict: Verdict) -> Verdict:
    """A person has said that the answers may differ; harm stays harm."""
    return replace(verdict, evidence=replace(verdict.evidence, log_e_safe=math.inf))


def _held(rollout: Rollout, verdict: Verdict) -> str:
    answers = verdict.answers
    if answers is None:
        return ""
    if answers.is_mixed(rollout.alpha):
        return (
            f"waits: {rollout.candidate} and {rollout.current} do not answer the same rows alike; "
            f"{_pairs_said(answers)}; {_ASK}"
        )
    if answers.is_apart(rollout.alpha):
        return (
            f"waits: {rollout.candidate} answers otherwise than {rollout.current}; "
            f"{difference_said(rollout, verdict)}; {odds(answers.log_e_apart)} against "
            f"{1 / rollout.alpha:.0f} to 1 needed; {_ASK}"
        )
    return ""


_ASK = "if that is as it should be: bascule rollout promote --allow-answers"


def _pairs_said(answers: AnswersEvidence) -> str:
    return (
        f"of {answers.ordered:,} pairs of requests that both answered, {answers.ordered_alike:,} "
        "are in the same order, and answers to mixed-up rows would have half of them"
    )


def _log_e_harm(verdicts: Sequence[Verdict]) -> float:
    """Of all guards. Where keys count, the rounds after the first have a part of the stake."""
    log_e = log_mean([verdict.evidence.log_e_worse for verdict in verdicts])
    if not any(verdict.keys for verdict in verdicts):
        return log_e
    again = [verdict.again.evidence.log_e_worse for verdict in verdicts if verdict.again]
    repeated = math.log(REPEATED_STAKE / len(verdicts)) + max(again, default=-math.inf)
    return max(log_e + math.log(1 - REPEATED_STAKE), repeated)


def _mismatch(table: Floats) -> str:
    """The split of requests and of keys in each stage, against the plan."""
    seen: list[tuple[float, str]] = []
    tests = 0
    for stage, share in dict.fromkeys(map(tuple, table[:, [0, SHARE]].tolist())):
        rows = table[(table[:, 0] == stage) & (table[:, SHARE] == share) & (table[:, ROUND] == 0)]
        totals = rows.sum(axis=0)

        def count(name: str, totals: Floats = totals) -> list[float]:
            return [float(totals[column(arm, name)]) for arm in (CANDIDATE, CURRENT)]

        drawn = [max(a - b, 0) for a, b in zip(count("requests"), count("bound"), strict=True)]
        for what, planned, counts in (
            ("requests", share, drawn),
            ("sticky keys", float(rows[:, KEY_SHARE].max(initial=0)), count("keys")),
        ):
            if not (0 < planned < 1 and sum(counts)):
                continue
            tests += 1
            candidate, current = map(int, counts)
            log_e = split_log_e(candidate, current, planned, tolerance=_SPLIT_TOLERANCE)
            log_e -= math.log(tests * (tests + 1))
            seen.append(
                (log_e, f"expected {planned:.1%} of the {what} of step {int(stage) + 1} for the "
                 f"candidate, seen {candidate / (candidate + current):.1%} of "
                 f"{candidate + current:,}")
            )  # fmt: skip
    log_e, difference = max(seen, default=(-math.inf, ""))
    return f"the split is not as planned: {difference}" if log_e >= -math.log(_SPLIT_ERROR) else ""


def _rewards(rollout: Rollout, cohorts: Sequence[Cohort]) -> tuple[Pair, Pair]:
    guard = next((guard for guard in rollout.guards if guard.is_on_outcomes), None)
    if guard is None:
        return (0, 0), (0, 0)
    complete = list(filter(_is_complete, cohorts))
    arms = [[getattr(cohort, name) for cohort in complete] for name in ("current", "candidate")]
    kept, judged = [], []
    for arm in arms:
        sums = [known_loss(cohort, 0, of_pairs=guard.is_of_pairs) for cohort in arm]
        judged.append(round(sum(known for known, _ in sums)))
        kept.append(round(sum(known - lost for known, lost in sums)))
    return (kept[0], kept[1]), (judged[0], judged[1])


def _is_complete(cohort: Cohort) -> bool:
    unknown = cohort.current.unknown + cohort.candidate.unknown
    return unknown <= FEW_UNKNOWN * (cohort.current.predictions + cohort.candidate.predictions)


def _truths_after_s(cohorts: Sequence[Cohort], elapsed_s: float) -> float | None:
    """The age of the youngest cohort that has its truths, as has each older one."""
    ages = [
        elapsed_s - cohort.ended_s
        for cohort in takewhile(_is_complete, cohorts)
        if cohort.current.predictions + cohort.candidate.predictions
    ]
    return min(ages, default=None)


def harm(rollout: Rollout, facts: Facts) -> str:
    """Why the rollout ends now; empty where there is no evidence of harm."""
    needed = -math.log(rollout.alpha)
    if facts.log_e_harm < needed:
        return ""

    def log_e(verdict: Verdict) -> float:
        return verdict.evidence.log_e_worse

    each = [max(verdict, verdict.again or verdict, key=log_e) for verdict in facts.verdicts]
    named = [each[place] for place in culprits(list(map(log_e, each)), rollout.alpha)]
    differences = [
        difference_said(rollout, verdict) + _least_said(verdict)
        for verdict in named or [max(each, key=log_e)]
    ]
    return (
        f"{'; '.join(differences)}; {odds(facts.log_e_harm)} against {1 / rollout.alpha:.0f} to 1 "
        f"needed; {facts.candidate_requests:,} of {facts.requests:,} requests saw "
        f"{rollout.candidate}"
    )


def _of_part(rollout: Rollout, guard: Guard) -> Rollout:
    """The rollout, its versions named by the part that a guard compares, if it does."""
    if not guard.part:
        return rollout
    names = (f"part {guard.part} of {one}" for one in (rollout.candidate, rollout.current))
    candidate, current = names
    return msgspec.structs.replace(rollout, candidate=candidate, current=current)


def difference_said(rollout: Rollout, verdict: Verdict) -> str:
    """One guard in words: both rates."""
    guard, rollout = verdict.guard, _of_part(rollout, verdict.guard)
    if guard.name == "disagreement":
        return (
            f"{verdict.candidate:.1%} of the answers of {rollout.candidate} differ from those of "
            f"{rollout.current} (allowed {guard})"
        )
    if verdict.answers is not None:
        return _answers_said(rollout, verdict, verdict.answers)
    if verdict.unusable[0]:
        return (
            f"{verdict.unusable[0]:.2%} of the answers of {rollout.candidate} hold NaN or an "
            f"infinite value, and {verdict.unusable[1]:.2%} of {rollout.current}; "
            f"{verdict.candidate:.2%} and {verdict.current:.2%} failed (allowed {guard})"
        )
    if guard.harmed:
        how = {"length": "answers at more length", "brevity": "answers at less length"}
        return (
            f"{rollout.candidate} {how.get(guard.name, 'is slower')} than {rollout.current} by "
            f"more than {guard} allows: at {verdict.worst}, {verdict.candidate:.2%} of its answers "
            f"are over the limit, and {verdict.current:.2%} may be"
        )
    if guard.is_on_outcomes:
        return _outcomes_said(rollout, verdict)
    what = {
        "errors": "failed", "fallbacks": "fell back", "refusals": "refuse",
        "malformed": "break the JSON schema that was asked for",
    }[guard.name]  # fmt: skip
    return (
        f"{verdict.candidate:.2%} of the answers of {rollout.candidate} {what}, and "
        f"{verdict.current:.2%} of {rollout.current} (allowed {guard})"
    )


def _outcomes_said(rollout: Rollout, verdict: Verdict) -> str:
    """Predictions without a truth are counted at their worst for what the evidence shows."""
    guard = verdict.guard
    least, most = "at least ", "at most "
    if verdict.evidence.log_e_worse < verdict.evidence.log_e_safe:
        least, most = most, least
    if not verdict.unknown:
        least = most = ""
    if guard.name == "accuracy":
        return (
            f"{least}{verdict.candidate:.2%} of the answers of {rollout.candidate} were wrong, and "
            f"{most}{verdict.current:.2%} of {rollout.current} (allowed {guard})"
        )
    if guard.name == "approval" or judge_of(guard.name):
        approved = [*map(guard.measure.approval_of, (verdict.candidate, verdict.current))]
        return (
            f"the approval of {rollout.candidate} is {most}{approved[0]:.2%}, and that of "
            f"{rollout.current} {least}{approved[1]:.2%} (allowed {guard})"
        )
    if guard.is_of_pairs:
        return (
            f"the {guard.name} of {rollout.candidate} is {most}{1 - verdict.candidate:.4f}, and "
            f"that of {rollout.current} {least}{1 - verdict.current:.4f} (allowed {guard})"
        )
    name, candidate, current = shown_losses(guard, verdict.candidate, verdict.current)
    allowed = guard.rate_margin * guard.measure.bound
    return (
        f"the {name} of {rollout.candidate} is {least}{candidate:.4g}, and that of "
        f"{rollout.current} {most}{current:.4g} (allowed {guard}: a {guard.name} {allowed:.3g} "
        f"higher){cut_said(rollout, verdict)}"
    )


def cut_said(rollout: Rollout, verdict: Verdict) -> str:
    """Which share of the losses was cut at their bound; empty for a guard without one."""
    if not verdict.guard.measure.rows:
        return ""
    return (
        f"; {verdict.cut[0]:.1%} of the losses of {rollout.candidate} and {verdict.cut[1]:.1%} of "
        f"those of {rollout.current} were over {verdict.guard.measure.bound:.4g} and count as that"
    )


def shown_losses(guard: Guard, *losses: float) -> tuple[Any, ...]:
    """The name under which people read a loss, and losses in the unit of that name."""
    scaled = [loss * guard.measure.bound for loss in losses]
    return ("rmse", *map(math.sqrt, scaled)) if guard.name == "mse" else (guard.name, *scaled)


def gap_said(guard: Guard, difference: float) -> str:
    """A difference of rates or of mean losses in words."""
    if guard.is_on_outcomes:
        difference *= guard.measure.bound
        return f"{difference:.2%}" if is_rate(guard.name) else f"{difference:.3g} of {guard.name}"
    return f"{difference:.2%}"


def not_shown(rollout: Rollout, verdict: Verdict) -> str:
    """Why a rollout holds: what is known so far of a guard that is not shown yet."""
    lacking = f"{odds(verdict.evidence.log_e_safe)} that it is, {1 / rollout.beta:.0f} to 1 needed"
    if not verdict.guard.harmed:
        known = difference_said(rollout, verdict)
    elif not verdict.requests:
        known = "too few answers to compare"
    else:
        quantile, candidate, current = verdict.least_shown
        known = (
            f"at {quantile}, {candidate:.2%} of the answers of "
            f"{_of_part(rollout, verdict.guard).candidate} are over the limit, and {current:.2%} "
            "may be"
        )
    return f"waits: not shown yet to be within {verdict.guard}: {lacking}; {known}"


def not_shown_yet(rollout: Rollout, verdict: Verdict, facts: Facts) -> str:
    """Why a rollout is held for a guard; of one on outcomes, until when it waits for truths."""
    if not verdict.guard.is_on_outcomes:
        keys = f"; {verdict.keys:,} sticky keys counted, each once in a step" * bool(verdict.keys)
        return f"{not_shown(rollout, verdict)}{keys}"
    waits = (
        f"waits: not shown yet to be within {verdict.guard}; {_unknown_said(verdict)}"
        f"{cut_said(rollout, verdict)}"
    )
    if facts.truths_after_s is None:
        return f"{waits}, and of no span of time are all truths in; {_UNKNOWN_HINT}"
    if verdict.unknown <= FEW_UNKNOWN:
        return f"{waits}: more predictions are needed"
    until = facts.now + timedelta(seconds=facts.truths_after_s)
    return (
        f"{waits}; truths take up to {span_words(facts.truths_after_s)}, so those of the latest "
        f"predictions are expected until {until:%Y-%m-%d %H:%M} UTC"
    )


def _answers_said(rollout: Rollout, verdict: Verdict, answers: AnswersEvidence) -> str:
    needed = -math.log(rollout.alpha)
    if answers.log_e_constant >= needed:
        return (
            f"{rollout.candidate} gives the same answer to every request, and {rollout.current} "
            f"does not, in {answers.requests:,} answers"
        )
    if answers.log_e_aligned < needed <= answers.log_e_within:
        return _pairs_said(answers)
    return (
        f"the greatest difference: a label, or the numbers up to a bound, are "
        f"{answers.candidate:.0%} of the answers of {rollout.candidate} and {answers.current:.0%} "
        f"of those of {rollout.current} (allowed {verdict.guard})"
    )


def _least_said(verdict: Verdict) -> str:
    has_other_words = verdict.answers is not None or verdict.unusable[0] > 0
    if verdict.guard.harmed or verdict.guard.name == "disagreement" or has_other_words:
        return ""
    return f", a difference of {gap_said(verdict.guard, max(verdict.bounded().lower, 0))} at least"


def odds(log_e: float) -> str:
    """Evidence as a bet's winnings."""
    value = math.exp(min(log_e, 50.0))
    return f"evidence of {value:,.0f} to 1" if value < _MOST_SAID else "evidence of over 10^6 to 1"


def _unknown_said(verdict: Verdict) -> str:
    if verdict.unknown:
        return f"{verdict.unknown:.0%} of {verdict.requests:,} predictions have no truth yet"
    if not verdict.requests:
        return f"predictions are compared by groups of {INTERVAL_REQUESTS}, and none is full"
    return f"the truths of all {verdict.requests:,} predictions are in"


def span_words(seconds: float) -> str:
    """How long truths take, or a rollout lasts: `1.5 d`, `3.0 h`, `20 min`, `8 s`."""
    for unit, length_s in (("d", 86_400), ("h", 3_600)):
        if seconds >= length_s:
            return f"{seconds / length_s:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
