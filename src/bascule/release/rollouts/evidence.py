"""What decides a rollout: counts of each arm, added up over workers and hosts.

What an answer shows at once is counted by the *interval* in which it was given. What shows later,
by an outcome, is counted by *cohort*: the predictions of a span of time, of both arms, with the
newest truths about them. An interval is sealed once; a cohort is counted anew at every look, and
each count that changes is stored as a new revision. Counts are sufficient for every test, so a
stored decision can be computed again from the intervals and the revision that it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.release.rollouts.answer_counts import (
    ANSWER_WIDTH,
    PAIR_WIDTH,
    AnswerCounts,
    PairCounts,
    combined,
    row_of,
)
from bascule.stats import INTERVAL_REQUESTS

Floats = NDArray[np.float64]

FIELDS = ("requests", "errors", "fallbacks")


class ArmCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one arm did in one interval.

    Attributes:
        requests: Answers of any status that the model is answerable for.
        errors: Of them, those that the model failed.
        fallbacks: Of them, those that another model answered.
        slower: Answers slower than each threshold of the stage.
        answers: What the answers were.
    """

    requests: int = 0
    errors: int = 0
    fallbacks: int = 0
    slower: tuple[int, ...] = ()
    answers: AnswerCounts = AnswerCounts()


class CohortArm(msgspec.Struct, frozen=True, omit_defaults=True):
    """The predictions of one arm in one cohort, as the newest truths have them.

    Attributes:
        predictions: Requests that the arm answered.
        unknown: Of them, those without a truth; a request of several rows counts by their share.
        losses: By the rollout's guards on outcomes, in their order: the sum of the known losses,
            each from 0 to 1.
    """

    predictions: int = 0
    unknown: float = 0.0
    losses: tuple[float, ...] = ()


class Cohort(msgspec.Struct, frozen=True, omit_defaults=True):
    """The predictions of one span of time, which lies in one stage.

    Attributes:
        number: Counted from the start of the rollout.
        stage: In which the shares are constant.
        ended_s: When the span ended, in seconds since the start of the rollout.
        current: The arm of the current version.
        candidate: The arm of the candidate.
    """

    number: int
    stage: int
    ended_s: float
    current: CohortArm = CohortArm()
    candidate: CohortArm = CohortArm()


class Cohorts(NamedTuple):
    """All cohorts of a rollout as of a revision, in the order of time."""

    revision: int
    cohorts: tuple[Cohort, ...]


NO_COHORTS = Cohorts(0, ())


class Interval(msgspec.Struct, frozen=True, omit_defaults=True):
    """One interval of a rollout, which ended by the clock.

    Attributes:
        number: Counted from the start of the rollout.
        stage: In which shares and thresholds are constant.
        current: The arm of the current version.
        candidate: The arm of the candidate.
        compared: Requests that both versions answered.
        disagreements: Of them, those with different answers.
        pairs: Of requests of the candidate that the current version answered too.
    """

    number: int
    stage: int
    current: ArmCounts = ArmCounts()
    candidate: ArmCounts = ArmCounts()
    compared: int = 0
    disagreements: int = 0
    pairs: PairCounts = PairCounts()


def summed(parts: Sequence[Interval]) -> Interval:
    """One interval as several hosts counted it."""
    first = parts[0]
    return Interval(
        number=first.number, stage=first.stage,
        current=_summed([one.current for one in parts]),
        candidate=_summed([one.candidate for one in parts]),
        compared=sum(one.compared for one in parts),
        disagreements=sum(one.disagreements for one in parts),
        pairs=combined([one.pairs for one in parts]),
    )  # fmt: skip


def less(total: Interval, before: Interval) -> Interval:
    """What a source has counted since `before`. A count that fell, by a correction, is none."""
    return Interval(
        number=total.number, stage=total.stage,
        current=_less(total.current, before.current),
        candidate=_less(total.candidate, before.candidate),
        compared=max(total.compared - before.compared, 0),
        disagreements=max(total.disagreements - before.disagreements, 0),
        pairs=combined((total.pairs, before.pairs), (1, -1)),
    )  # fmt: skip


def _less(total: ArmCounts, before: ArmCounts) -> ArmCounts:
    earlier = (*before.slower, *[0] * len(total.slower))
    slower = tuple(max(a - b, 0) for a, b in zip(total.slower, earlier, strict=False))
    counts = {name: max(getattr(total, name) - getattr(before, name), 0) for name in FIELDS}
    answers = combined((total.answers, before.answers), (1, -1))
    return ArmCounts(slower=slower if any(slower) else (), answers=answers, **counts)


def _summed(arms: Sequence[ArmCounts]) -> ArmCounts:
    width = max(len(one.slower) for one in arms)
    slower = tuple(
        sum(one.slower[place] for one in arms if place < len(one.slower)) for place in range(width)
    )
    totals = {name: sum(getattr(one, name) for one in arms) for name in FIELDS}
    answers = combined([one.answers for one in arms])
    return ArmCounts(slower=slower, answers=answers, **totals)


MAX_THRESHOLDS = 6
_SLOWER = len(FIELDS)
_ARM = len(FIELDS) + MAX_THRESHOLDS
CANDIDATE, CURRENT = 1, 1 + _ARM
COMPARED, DISAGREEMENTS = 1 + 2 * _ARM, 2 + 2 * _ARM
ANSWERS_OF_CANDIDATE = DISAGREEMENTS + 1
ANSWERS_OF_CURRENT = ANSWERS_OF_CANDIDATE + ANSWER_WIDTH
PAIRS = ANSWERS_OF_CURRENT + ANSWER_WIDTH
_COLUMNS = PAIRS + PAIR_WIDTH
"""Where columns of a table begin; the first one is the stage."""


def table_of(intervals: Iterable[Interval]) -> Floats:
    """Intervals as numbers: what `decide` computes with. Shape (intervals, columns)."""
    rows = [
        (
            one.stage, *_row(one.candidate), *_row(one.current), one.compared, one.disagreements,
            *row_of(one.candidate.answers), *row_of(one.current.answers), *row_of(one.pairs),
        )
        for one in intervals
    ]  # fmt: skip
    return np.array(rows, np.float64).reshape(-1, _COLUMNS)


def _row(arm: ArmCounts) -> tuple[int, ...]:
    slower = (*arm.slower, *[0] * MAX_THRESHOLDS)[:MAX_THRESHOLDS]
    return arm.requests, arm.errors, arm.fallbacks, *slower


def column(arm: int, name: str) -> int:
    """The column of a count: of the arm that begins at `CANDIDATE` or `CURRENT`."""
    return arm + FIELDS.index(name)


def slower_column(arm: int, threshold: int) -> int:
    """The column of the answers slower than a threshold."""
    return arm + _SLOWER + threshold


def cohorts_of(cohorts: Sequence[Cohort], place: int) -> Floats:
    """Cohorts as `stats.late_proportions` reads them, neighbours joined as in `grouped`.

    Args:
        cohorts: In the order of time.
        place: Of the guard among the guards on outcomes.
    """
    rows = [
        (one.stage, *_late(one.candidate, place), *_late(one.current, place)) for one in cohorts
    ]
    table = np.array(rows, np.float64).reshape(-1, 7)
    return _grouped(table[:, 0], table[:, 1:], (0, 3), INTERVAL_REQUESTS)


def _late(arm: CohortArm, place: int) -> tuple[float, float, float]:
    loss = arm.losses[place] if place < len(arm.losses) else 0.0
    return arm.predictions, loss, arm.unknown


def grouped(
    table: Floats, columns: tuple[int, int, int, int], *, least: int = INTERVAL_REQUESTS
) -> Floats:
    """Counts for `stats.two_proportions`, of groups of neighbouring intervals.

    A group ends once the requests of both arms in its stage have passed another multiple of
    `least`; which requests those are depends on their number alone, as the tests demand. A group
    that has not ended is left out.

    Args:
        table: See `table_of`; in the order of time.
        columns: The candidate's requests and events, then those of the current version.
        least: Requests of a group, at least.

    Returns:
        Shape (groups, 4).
    """
    groups = _grouped(table[:, 0], table[:, columns], (0, 2), least)
    # A reader of counters that are being written may see an event before its request.
    groups[:, [1, 3]] = np.minimum(groups[:, [1, 3]], groups[:, [0, 2]])
    return groups


def _grouped(stages: Floats, counts: Floats, sizes: tuple[int, int], least: int) -> Floats:
    """`sizes`: the columns of `counts` with the requests of either arm."""
    groups = []
    for stage in np.unique(stages):
        part = counts[stages == stage]
        ends = np.cumsum(part[:, sizes[0]] + part[:, sizes[1]])
        numbers = np.concatenate([[0.0], ends[:-1]]) // least
        starts = np.flatnonzero(np.diff(numbers, prepend=-1.0))
        sums = np.add.reduceat(part, starts, axis=0)
        is_over = np.append(numbers[starts[1:]], ends[-1] // least) > numbers[starts]
        groups.append(sums[is_over])
    return np.concatenate(groups) if groups else np.zeros((0, counts.shape[1]))
