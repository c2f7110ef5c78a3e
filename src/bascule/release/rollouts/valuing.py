"""What each version, and the policy of a contextual bandit, would have earned: off-policy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.release.rollouts.counting import Stage, spans_of, steered_answers
from bascule.release.rollouts.evidence import Cohort, Floats, steered_sums
from bascule.release.rollouts.plan import Rollout
from bascule.stats import Estimate, linear_posterior, policy_value

if TYPE_CHECKING:
    from bascule.monitoring.ledger import Ledger

_FOLDS = 5
_LEAST_ROWS = 200
_MOST_ROWS = 200_000


class SteeredValues(msgspec.Struct, frozen=True):
    """The mean rewards, had all requests been answered in one way.

    Attributes:
        answers: From how many answers with an outcome; at most about 200,000, drawn by their ids.
        values: From 0 to 1 (1 less the loss of the first guard on outcomes, in parts of its bound),
            of `late/4`, of `late/5`, and `by context`: in each context the version of which more is
            expected, learnt on other requests than it is judged on. None of few answers.
    """

    answers: int
    values: dict[str, Estimate]


def read_values(
    ledger: Ledger, rollout: Rollout, stages: Sequence[Stage], cohorts: Sequence[Cohort],
    now: datetime,
) -> SteeredValues:  # fmt: skip
    """Of the spans whose truths are in: of others, those of wrong answers may have come first."""
    complete = [cohort.number for cohort in cohorts if steered_sums([cohort]) is not None]
    sums = steered_sums(cohorts)
    known = 0 if sums is None else int(sums[:, 0, 0].sum())
    if known < _LEAST_ROWS:
        return SteeredValues(known, {})
    spans = [span for span, _ in spans_of(rollout.started_at, stages, now)][: complete[-1] + 1]
    share = min(1.0, _MOST_ROWS / known)
    rows = [steered_answers(ledger, rollout, arm, spans, share).rows(complete) for arm in (0, 1)]
    arms, table = np.repeat([0, 1], list(map(len, rows))), np.concatenate(rows)
    order = np.argsort(table[:, 0], kind="stable")
    values = steered_values(table[order, 3:], arms[order], table[order, 1], table[order, 2])
    names = rollout.current, rollout.candidate, "by context"
    return SteeredValues(len(table), dict(zip(names, values, strict=True)))


def steered_values(
    contexts: Floats, arms: NDArray[np.int64], rewards: Floats, propensities: Floats
) -> list[Estimate]:
    """Of the arm 0 alone, the arm 1 alone, and the better one in each context.

    The model of the rewards, by which the better arm is chosen too, is fitted on four fifths of the
    rows for each fifth.
    """
    predicted, folds = np.zeros((len(rewards), 2)), np.arange(len(rewards)) % _FOLDS
    for fold in range(_FOLDS):
        for arm in (0, 1):
            fitted = (folds != fold) & (arms == arm)
            numbers = np.column_stack([contexts[fitted], rewards[fitted]])
            weights, _ = linear_posterior(numbers.T @ numbers)
            predicted[folds == fold, arm] = np.clip(contexts[folds == fold] @ weights, 0, 1)
    better = predicted[:, 1] > predicted[:, 0]
    return [
        policy_value(rewards, arms, propensities, np.column_stack([~plays, plays]), predicted)
        for plays in (np.zeros_like(better), np.ones_like(better), better)
    ]
