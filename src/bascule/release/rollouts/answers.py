"""Guard `answers`: does a candidate answer as the current version does, to the rows it is asked?

An honest retraining moves answers too, so answers that differ by more than the margin hold a
rollout and ask a person; they do not roll it back. Answers that are all the same, while those of
the current version vary, do. Of values that are no finite number the guard `errors` takes care.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bascule.release.rollouts.evidence import (
    ANSWER_FIELDS,
    ANSWER_WIDTH,
    ANSWERS_OF_CANDIDATE,
    ANSWERS_OF_CURRENT,
    CANDIDATE,
    PAIR_FIELDS,
    PAIR_WIDTH,
    PAIRS,
    Floats,
    column,
    grouped,
)
from bascule.serving.telemetry import MAX_EVENTS
from bascule.stats import log_mean, mcnemar, rate_distances

_ARMS = (ANSWERS_OF_CANDIDATE, ANSWERS_OF_CURRENT)
_NONE = -20.0
"""In place of the logarithm of nought."""
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

    The answers of the two arms are those to different requests. Where callers keep their arm, few
    of them may make a difference that is none of the versions', so that what the arms show counts
    where the requests that both versions answered show the same.

    Args:
        table: Shape (intervals, columns).
        margin: The difference of the share of any event that is allowed.
        in_pairs: Whether the current version answers some of the candidate's requests too.
    """
    pairs = _pairs(table, margin)
    is_waited_for = table[:, column(CANDIDATE, "requests")].sum() < _WAITED_FOR
    requests, shares, log_e_apart, log_e_within = _arms(table, margin)
    widest = shares[np.abs(shares[:, 0] - shares[:, 1]).argmax()]
    if pairs.compared:
        is_apart = bool(np.abs(pairs.differences).max() > margin)
        log_e_apart = log_mean([pairs.log_e_apart, log_e_apart if is_apart else _NONE])
        log_e_within = log_mean([pairs.log_e_within, _NONE if is_apart else log_e_within])
    elif not (requests or is_waited_for):
        log_e_within = math.inf
    log_e_aligned = pairs.log_e_aligned
    if not in_pairs or pairs.tell_nothing or not (pairs.ordered or pairs.ties or is_waited_for):
        log_e_aligned = math.inf
    log_e_constant = _constant(table)
    if pairs.ordered or pairs.ties:
        log_e_constant = min(log_e_constant, pairs.still * math.log(2))
    return AnswersEvidence(
        requests=requests, candidate=float(widest[0]), current=float(widest[1]),
        log_e_apart=log_e_apart, log_e_within=log_e_within, log_e_constant=log_e_constant,
        log_e_mixed=pairs.log_e_mixed, log_e_aligned=log_e_aligned,
        ordered_alike=pairs.alike, ordered=pairs.ordered,
    )  # fmt: skip


def _arms(table: Floats, margin: float) -> tuple[int, Floats, float, float]:
    """Compared answers, the shares of each event, and the evidence, from the answers of the arms.

    The shares have the shape (events, 2): of the candidate, and of the current version.
    """
    compared = ANSWER_FIELDS.index("compared")
    counts = np.array(
        [
            grouped(
                table,
                (
                    ANSWERS_OF_CANDIDATE + compared, ANSWERS_OF_CANDIDATE + place,
                    ANSWERS_OF_CURRENT + compared, ANSWERS_OF_CURRENT + place,
                ),
            )
            for place in range(len(ANSWER_FIELDS), ANSWER_WIDTH)
        ]
    )  # fmt: skip
    apart, within = rate_distances(counts, margin=margin)
    totals = counts.sum(axis=1)
    shares = totals[:, [1, 3]] / np.maximum(totals[:, [0, 2]], 1)
    requests = int(sum(table[:, arm + compared].sum() for arm in _ARMS))
    return requests, shares, log_mean(apart.ravel()), float(within.min())


@dataclass(frozen=True, slots=True)
class _Pairs:
    """What the requests say that both versions answered. Evidence as in `AnswersEvidence`."""

    alike: int
    ordered: int
    ties: int
    still: int
    compared: int
    differences: Floats
    log_e_apart: float
    log_e_within: float
    log_e_mixed: float
    log_e_aligned: float

    @property
    def tell_nothing(self) -> bool:
        """Whether too few can be ordered, as of one rare label."""
        comparisons = self.ordered + self.ties
        return comparisons >= _LEAST_COMPARISONS and self.ordered < _INFORMATIVE * comparisons


def _pairs(table: Floats, margin: float) -> _Pairs:
    row = [int(total) for total in table[:, PAIRS : PAIRS + PAIR_WIDTH].sum(axis=0)]
    alike, crossed, ties, still, compared = row[: len(PAIR_FIELDS)]
    events = np.array(row[len(PAIR_FIELDS) :]).reshape(2, MAX_EVENTS)
    ordered = alike + crossed
    both = [
        mcnemar(int(more), int(fewer), compared, margin=margin, bounds=False)
        for gained, lost in events.T
        for more, fewer in ((gained, lost), (lost, gained))
    ]
    mixed = mcnemar(crossed, alike, ordered, margin=-_ALIGNED_LEAD, bounds=False)
    return _Pairs(
        alike, ordered, ties, still, compared,
        differences=(events[0] - events[1]) / max(compared, 1),
        log_e_apart=log_mean([test.log_e_worse for test in both]),
        log_e_within=min(test.log_e_safe for test in both),
        log_e_mixed=mixed.log_e_worse,
        log_e_aligned=mcnemar(crossed, alike, ordered, bounds=False).log_e_safe,
    )  # fmt: skip


def _constant(table: Floats) -> float:
    """Evidence that a candidate which never changed its answer changes it less than half as often.

    If it changed it with a probability of v or more, n answers without a change had a probability
    of (1 - v)^n at most, and the inverse of that is an e-process. v is half of the least rate of
    changes that three standard errors leave the current version. A caller that keeps its arm may
    ask for the same row again and again, so that the requests that both versions answered must show
    it too: there, if the current version's answer changes, the candidate's does at least every
    second time.
    """
    changes, compared = ANSWER_FIELDS.index("changes"), ANSWER_FIELDS.index("compared")
    n_c, changed_c, n_0, changed_0 = (
        float(table[:, arm + place].sum()) for arm in _ARMS for place in (compared, changes)
    )
    if changed_c:
        return _NONE
    least = max(changed_0 - 3 * math.sqrt(changed_0), 0.0) / max(n_0, 1.0)
    return -n_c * math.log1p(-least / 2)
