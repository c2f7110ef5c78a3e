"""What each version, and the policy of a contextual bandit, would have earned: off-policy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.release.rollouts.counting import Stage, spans_of, steered_answers
from bascule.release.rollouts.evidence import Cohort, steered_sums
from bascule.release.rollouts.plan import Rollout
from bascule.stats import PolicyValue, linear_posterior, policy_value

if TYPE_CHECKING:
    from bascule.monitoring.ledger import Ledger

Floats = NDArray[np.float64]
_FOLDS = 5
_LEAST_ROWS = 200
_MOST_ROWS = 200_000


class ValueOf(msgspec.Struct, frozen=True):
    """The mean reward, had all requests been answered in one way.

    Attributes:
        policy: `late/4`, `late/5`, or `by context`: in each context the version of which more is
            expected, without exploration. It is learnt on other requests than it is judged on.
        value: From 0 to 1: 1 less the loss of the first guard on outcomes, in parts of its bound.
    """

    policy: str
    value: PolicyValue


class SteeredValues(msgspec.Struct, frozen=True):
    """Off-policy estimates of a contextual bandit, with intervals of 95 %.

    Attributes:
        answers: From how many answers with an outcome; at most about 200,000, drawn by their ids.
        values: Of each version alone, then by context; none where there are too few answers.
    """

    answers: int
    values: list[ValueOf]


def read_values(
    ledger: Ledger, rollout: Rollout, stages: Sequence[Stage], cohorts: Sequence[Cohort],
    now: datetime,
) -> SteeredValues:  # fmt: skip
    """What each arm and the learnt policy would have earned; see `SteeredValues`.

    Of the cohorts up to the first one that lacks truths, which may come sooner where an answer is
    wrong.
    """
    complete = list(takewhile(lambda cohort: steered_sums([cohort]) is not None, cohorts))
    sums = steered_sums(complete)
    known = 0.0 if sums is None else sum(float(vector[0]) for vector in sums)
    if known < _LEAST_ROWS:
        return SteeredValues(int(known), [])
    last = complete[-1].number
    spans = [span for span, _ in spans_of(rollout.started_at, stages, now) if span.number <= last]
    share = min(1.0, _MOST_ROWS / known)
    rows = [steered_answers(ledger, rollout, arm, spans, share).rows() for arm in (0, 1)]
    arms, table = np.repeat([0, 1], list(map(len, rows))), np.concatenate(rows)
    order = np.argsort(table[:, 0], kind="stable")
    values = steered_values(table[order, 3:], arms[order], table[order, 1], table[order, 2])
    names = rollout.current, rollout.candidate, "by context"
    return SteeredValues(len(table), [ValueOf(*pair) for pair in zip(names, values, strict=True)])


def steered_values(
    contexts: Floats, arms: NDArray[np.int64], rewards: Floats, propensities: Floats
) -> tuple[PolicyValue, PolicyValue, PolicyValue]:
    """Of the arm 0 alone, the arm 1 alone, and the better one in each context.

    The model of the rewards, by which the better arm is chosen too, is fitted on four fifths of the
    rows for each fifth.
    """
    predicted, folds = np.zeros((len(rewards), 2)), np.arange(len(rewards)) % _FOLDS
    for fold in range(_FOLDS):
        for arm in (0, 1):
            fitted = (folds != fold) & (arms == arm)
            x, r = contexts[fitted], rewards[fitted]
            weights, _ = linear_posterior(len(r), r @ r, r @ x, x.T @ x)
            predicted[folds == fold, arm] = np.clip(contexts[folds == fold] @ weights, 0, 1)
    better = (predicted[:, 1] > predicted[:, 0]).astype(np.float64)

    def value(candidate: Floats) -> PolicyValue:
        played = np.column_stack([1 - candidate, candidate])
        return policy_value(rewards, arms, propensities, played, predicted)

    return value(np.zeros(len(better))), value(np.ones(len(better))), value(better)
