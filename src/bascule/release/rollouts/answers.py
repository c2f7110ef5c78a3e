"""Guard `answers`: does a candidate answer as the current version does, to the rows it is asked?

An honest retraining moves answers too, so answers that differ by more than the margin hold a
rollout and ask a person; they do not roll it back. Answers that are all the same, while those of
the current version vary, do. Of values that are no finite number the guard `errors` takes care.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bascule.release.rollouts.answer_counts import FIELDS, MAX_EVENTS
from bascule.release.rollouts.evidence import (
    ANSWERS_OF_CANDIDATE,
    ANSWERS_OF_CURRENT,
    CANDIDATE,
    PAIRS,
    Floats,
    column,
    grouped,
)
from bascule.stats import log_mean, mcnemar, rate_distances

_ARMS = (ANSWERS_OF_CANDIDATE, ANSWERS_OF_CURRENT)
_VARIES = -20.0
_ALIGNED_LEAD = 0.3
"""Of two requests, versions that answer the same rows order 65 % alike at least; by chance 50 %."""
_LEAST_COMPARISONS, _INFORMATIVE = 30, 0.1
_WAITED_FOR = 1_000
"""So many requests of the candidate without a comparison, or without a pair, and none is waited
for: no output has a number or label for each row, or each server has one of the versions."""


@dataclass(frozen=True, slots=True)
class AnswersEvidence:
    """What the intervals say of the answers. Natural logarithms of evidence, unless named so.

    Attributes:
        requests: Answers of both arms that were compared.
        candidate: The share of the candidate's answers for which the event is true that tells the
            versions apart best.
        current: The same of the current version.
        log_e_apart: That the share of an event differs by more than the margin.
        log_e_within: That none does.
        log_e_constant: That the candidate gives one answer, where the current version gives many.
        log_e_mixed: That the versions do not answer the same rows.
        log_e_aligned: That they do.
        ordered_alike: Of pairs of requests that both versions answered.
        ordered: The pairs that both versions order.
    """

    requests: int
    candidate: float
    current: float
    log_e_apart: float
    log_e_within: float
    log_e_constant: float
    log_e_mixed: float
    log_e_aligned: float
    ordered_alike: int
    ordered: int

    def is_mixed(self, alpha: float) -> bool:
        """Whether it is shown that answers belong to other rows."""
        return self.log_e_mixed >= -math.log(alpha)

    def is_apart(self, alpha: float) -> bool:
        """Whether it is shown that the answers differ by more than the margin."""
        return self.log_e_apart >= -math.log(alpha)


def judge_answers(table: Floats, margin: float, *, in_pairs: bool) -> AnswersEvidence:
    """What the intervals of a table (`evidence.table_of`) say of the answers.

    Args:
        table: Shape (intervals, columns).
        margin: The difference of the share of any event that is allowed.
        in_pairs: Whether the current version answers some of the candidate's requests too.
    """
    compared = FIELDS.index("compared")
    events = np.array(
        [
            grouped(
                table,
                (
                    ANSWERS_OF_CANDIDATE + compared, ANSWERS_OF_CANDIDATE + place,
                    ANSWERS_OF_CURRENT + compared, ANSWERS_OF_CURRENT + place,
                ),
            )
            for place in range(len(FIELDS), len(FIELDS) + MAX_EVENTS)
        ]
    )  # fmt: skip
    apart, within = rate_distances(events, margin=margin)
    n_c, n_0 = (table[:, arm + compared].sum() for arm in _ARMS)
    rates = events.sum(axis=1)
    shares = rates[:, [1, 3]] / np.maximum(rates[:, [0, 2]], 1)
    widest = shares[np.abs(shares[:, 0] - shares[:, 1]).argmax()]
    alike, crossed, ties = (int(table[:, PAIRS + place].sum()) for place in range(3))
    ordered = alike + crossed
    aligned = mcnemar(crossed, alike, ordered, bounds=False).log_e_safe
    mixed = mcnemar(crossed, alike, ordered, margin=-_ALIGNED_LEAD, bounds=False).log_e_worse
    pairs = ordered + ties
    tells_nothing = pairs >= _LEAST_COMPARISONS and ordered < _INFORMATIVE * pairs
    is_waited_for = table[:, column(CANDIDATE, "requests")].sum() < _WAITED_FOR
    if not in_pairs or tells_nothing or not (pairs or is_waited_for):
        aligned = math.inf
    log_e_within = float(within.min()) if n_c or is_waited_for else math.inf
    return AnswersEvidence(
        requests=int(n_c + n_0), candidate=float(widest[0]), current=float(widest[1]),
        log_e_apart=log_mean(apart.ravel()), log_e_within=log_e_within,
        log_e_constant=_constant(table), log_e_mixed=mixed, log_e_aligned=aligned,
        ordered_alike=alike, ordered=ordered,
    )  # fmt: skip


def _constant(table: Floats) -> float:
    """Evidence that a candidate which never changed its answer changes it less than half as often.

    If it changed it with a probability of v or more, n answers without a change had a probability
    of (1 - v)^n at most, and the inverse of that is an e-process. v is half of the least rate of
    changes that three standard errors leave the current version.
    """
    changes, compared = FIELDS.index("changes"), FIELDS.index("compared")
    n_c, changed_c, n_0, changed_0 = (
        float(table[:, arm + place].sum()) for arm in _ARMS for place in (compared, changes)
    )
    if changed_c:
        return _VARIES
    least = max(changed_0 - 3 * math.sqrt(changed_0), 0.0) / max(n_0, 1.0)
    return -n_c * math.log1p(-least / 2)
