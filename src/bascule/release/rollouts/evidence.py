"""What decides a rollout: counts of each arm, added up over workers and hosts.

What an answer shows at once is counted by the *interval* in which it was given. What shows later,
by an outcome, is counted by *cohort*: the predictions of a span of time, of both arms, with the
newest truths about them. An interval is sealed once; a cohort is counted anew at every look, and
each count that changes is stored as a new revision. Counts are sufficient for every test, so a
stored decision can be computed again from the intervals and the revision that it names.

A request with a sticky key is *bound* to the arm of its key. Keys have habits of their own, so its
answers are no evidence one by one; see `keys`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.serving.telemetry import MAX_EVENTS, AnswerCounts, PairCounts
from bascule.stats import INTERVAL_REQUESTS, durations as duration_bins

Floats = NDArray[np.float64]
T = TypeVar("T")
Counts = TypeVar("Counts", AnswerCounts, PairCounts)
_EVENTS = ("events", "gained", "lost")
ANSWER_FIELDS, PAIR_FIELDS = (
    tuple(name for name in kind.__struct_fields__ if name not in _EVENTS)
    for kind in (AnswerCounts, PairCounts)
)
ANSWER_WIDTH = len(ANSWER_FIELDS) + MAX_EVENTS
PAIR_WIDTH = len(PAIR_FIELDS) + 2 * MAX_EVENTS
"""Of a row."""

FIELDS = (
    "requests", "errors", "fallbacks", "bound", "bound_errors", "bound_fallbacks", "keys",
    "key_errors", "key_fallbacks",
)  # fmt: skip
KEYS_APART = 0.5
"""Added to the stage of counts of keys, which make groups of their own."""
KEY_GROUP = 50
"""So few keys make a group: there may be no more than a hundred."""
KEY_COHORTS = 1_000_000
"""Added to the numbers of cohorts of keys."""


class ArmCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one arm did in one interval.

    Attributes:
        requests: Answers of any status that the model is answerable for.
        errors: Of them, those that the model failed.
        fallbacks: Of them, those that another model answered.
        durations: Of what a source has counted: places and counts (`stats.durations.sparse`).
        slow: Of a sealed interval, by class of work with limits: the class, its answers, and
            those beyond each limit (`guards.limits_of`).
        answers: What the answers were.
        bound: Of the requests, those whose arm was not drawn for them: of sticky keys, of testers.
        bound_errors: Of the errors, likewise.
        bound_fallbacks: Of the fallbacks, likewise.
        keys: First requests of units of keys; see `keys`.
        key_errors: Of them, those that the model failed.
        key_fallbacks: Of them, those that another model answered.
    """

    requests: int = 0
    errors: int = 0
    fallbacks: int = 0
    durations: tuple[int, ...] = ()
    slow: tuple[tuple[int, ...], ...] = ()
    answers: AnswerCounts = AnswerCounts()
    bound: int = 0
    bound_errors: int = 0
    bound_fallbacks: int = 0
    keys: int = 0
    key_errors: int = 0
    key_fallbacks: int = 0


class CohortArm(msgspec.Struct, frozen=True, omit_defaults=True):
    """The predictions of one arm in one cohort, as the newest truths have them.

    Attributes:
        predictions: Requests that the arm answered.
        unknown: Of them, those without a truth; a request of several rows counts by their share.
        losses: By the rollout's guards on outcomes, in their order: the sum of the known losses,
            each from 0 to 1.
        squares: The sum of their squares, likewise.
        cut: The requests of which a loss was cut at its bound, likewise.
        pairs: Of a guard on pairs, likewise: the pairs, and those without a truth.
        moments: Of a contextual bandit: the number of the answers that were steered; and of those
            with a truth the sums of the products of any two of the numbers of the context and the
            reward, each pair once: the first is the number of these answers.
    """

    predictions: int = 0
    unknown: float = 0.0
    losses: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()
    cut: tuple[float, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    moments: tuple[float, ...] = ()


class Cohort(msgspec.Struct, frozen=True, omit_defaults=True):
    """The predictions of one span of time, which lies in one stage.

    Attributes:
        number: Of the span, counted from the start of the rollout; `KEY_COHORTS` more for keys.
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

    @property
    def order(self) -> tuple[int, int]:
        """In which cohorts are sorted by time."""
        return self.number % KEY_COHORTS, self.number

    @property
    def is_of_keys(self) -> bool:
        """Whether its predictions are first ones of units of keys."""
        return self.number >= KEY_COHORTS


class Cohorts(NamedTuple):
    """All cohorts of a rollout as of a revision, in the order of time."""

    revision: int
    cohorts: tuple[Cohort, ...]


NO_COHORTS = Cohorts(0, ())


class Interval(msgspec.Struct, frozen=True, omit_defaults=True):
    """One interval of a rollout, which ended by the clock.

    Attributes:
        number: Counted from the start of the rollout.
        stage: In which shares are constant.
        current: The arm of the current version.
        candidate: The arm of the candidate.
        compared: Requests that both versions answered.
        disagreements: Of them, those with different answers.
        pairs: Of requests of the candidate that the current version answered too.
        share: Of the requests, the candidate's as planned, from 0 to 1; 0 where it is not known.
        key_share: The same of the units of keys.
        round_number: In which keys are counted again; see `keys`.
    """

    number: int
    stage: int
    current: ArmCounts = ArmCounts()
    candidate: ArmCounts = ArmCounts()
    compared: int = 0
    disagreements: int = 0
    pairs: PairCounts = PairCounts()
    share: float = 0.0
    key_share: float = 0.0
    round_number: int = 0


def summed(parts: Sequence[Interval]) -> Interval:
    """One interval as several hosts counted it."""
    return _combined(parts, [1] * len(parts), min(part.share for part in parts))


def less(total: Interval, before: Interval) -> Interval:
    """What a source has counted since `before`. A count that fell, by a correction, is none."""
    return _combined((total, before), (1, -1), total.share)


def _combined(parts: Sequence[Interval], signs: Sequence[int], share: float) -> Interval:
    def count(name: str) -> int:
        return _signed_sum([getattr(part, name) for part in parts], signs)

    return Interval(
        number=parts[0].number, stage=parts[0].stage,
        current=_combined_arm([part.current for part in parts], signs),
        candidate=_combined_arm([part.candidate for part in parts], signs),
        compared=count("compared"), disagreements=count("disagreements"),
        pairs=combined([part.pairs for part in parts], signs),
        share=share,
    )  # fmt: skip


def _combined_arm(arms: Sequence[ArmCounts], signs: Sequence[int]) -> ArmCounts:
    counts: dict[str, Any] = {
        name: _signed_sum([getattr(arm, name) for arm in arms], signs) for name in FIELDS
    }
    durations = duration_bins.dense(())
    for arm, sign in zip(arms, signs, strict=True):
        durations += sign * duration_bins.dense(arm.durations)
    return ArmCounts(
        durations=duration_bins.sparse(np.maximum(durations, 0)),
        answers=combined([arm.answers for arm in arms], signs),
        **counts,
    )


def _signed_sum(counts: Iterable[int], signs: Iterable[int]) -> int:
    return max(sum(count * sign for count, sign in zip(counts, signs, strict=True)), 0)


def row_of(counts: AnswerCounts | PairCounts) -> list[int]:
    """Counts as numbers of a table; lists of events are filled with nought."""
    row: list[int] = []
    for value in msgspec.structs.astuple(counts):
        is_list = isinstance(value, tuple)
        row += (*value, *[0] * MAX_EVENTS)[:MAX_EVENTS] if is_list else [value]
    return row


def combined(parts: Sequence[Counts], signs: Sequence[int]) -> Counts:
    """The sum, or by signs the difference, of counts; none is below nought."""
    totals = np.maximum(np.array(signs) @ [row_of(part) for part in parts], 0).tolist()
    values: dict[str, int | tuple[int, ...]] = {}
    for name in parts[0].__struct_fields__:
        if name in _EVENTS:
            events, totals = totals[:MAX_EVENTS], totals[MAX_EVENTS:]
            values[name] = tuple(np.trim_zeros(events, "b"))
        else:
            values[name] = totals.pop(0)
    return msgspec.convert(values, type(parts[0]))


Limits = Mapping[int, Sequence[Sequence[int]]]
"""By class of work: the bins from which answers of the current version count as slow at each
quantile, and those of the candidate."""


def with_limits(counted: Interval, limits: Limits) -> Interval:
    """An interval with the counts beyond limits in place of its durations."""
    current = _slow(counted.current, {of: bins for of, (bins, _) in limits.items()})
    candidate = _slow(counted.candidate, {of: bins for of, (_, bins) in limits.items()})
    return msgspec.structs.replace(counted, current=current, candidate=candidate)


def _slow(arm: ArmCounts, limits: Mapping[int, Sequence[int]]) -> ArmCounts:
    above = duration_bins.beyond(duration_bins.dense(arm.durations))
    slow = [(of, int(above[of, 0]), *map(int, above[of, bins])) for of, bins in limits.items()]
    return msgspec.structs.replace(arm, durations=(), slow=tuple(row for row in slow if row[1]))


MAX_LIMITS = 16
_SLOW = len(FIELDS)
_CLASS = 1 + MAX_LIMITS
_ARM = len(FIELDS) + duration_bins.CLASSES * _CLASS
CANDIDATE, CURRENT = 1, 1 + _ARM
COMPARED, DISAGREEMENTS = 1 + 2 * _ARM, 2 + 2 * _ARM
ANSWERS_OF_CANDIDATE = DISAGREEMENTS + 1
ANSWERS_OF_CURRENT = ANSWERS_OF_CANDIDATE + ANSWER_WIDTH
PAIRS = ANSWERS_OF_CURRENT + ANSWER_WIDTH
SHARE, KEY_SHARE, ROUND = range(PAIRS + PAIR_WIDTH, PAIRS + PAIR_WIDTH + 3)
_COLUMNS = ROUND + 1
"""Where columns of a table begin; the first one is the stage."""
NO_COUNTS = (SHARE, KEY_SHARE, ROUND)
"""Columns that are no counts, so that they cannot be added up."""


def table_of(intervals: Iterable[Interval]) -> Floats:
    """Intervals as numbers: what `decide` computes with. Shape (intervals, columns).

    A column lies in one piece, and those of classes of work without requests take no memory.
    """
    rows = list(intervals)
    table = np.zeros((len(rows), _COLUMNS), order="F")
    table[:, 0] = [row.stage for row in rows]
    table[:, COMPARED] = [row.compared for row in rows]
    table[:, DISAGREEMENTS] = [row.disagreements for row in rows]
    for place, row in enumerate(rows):
        table[place, ANSWERS_OF_CANDIDATE:] = (
            *row_of(row.candidate.answers), *row_of(row.current.answers), *row_of(row.pairs),
            row.share, row.key_share, row.round_number,
        )  # fmt: skip
    for start, arms in (
        (CANDIDATE, [row.candidate for row in rows]), (CURRENT, [row.current for row in rows]),
    ):  # fmt: skip
        for name in FIELDS:
            table[:, column(start, name)] = [getattr(arm, name) for arm in arms]
        for place, arm in enumerate(arms):
            for of, *counts in arm.slow:
                first = slow_column(start, of)
                table[place, first : first + len(counts)] = counts
    return table


def column(arm: int, name: str) -> int:
    """The column of a count: of the arm that begins at `CANDIDATE` or `CURRENT`."""
    return arm + FIELDS.index(name)


def counted_once(table: Floats, event: str) -> Floats:
    """What counts as evidence: requests without a key, and the first ones of units of keys.

    Apart, for a step may give the candidate another share of the keys than of the requests.

    Args:
        table: See `table_of`.
        event: "errors" or "fallbacks".

    Returns:
        Shape (2 intervals, 5), for `grouped`: of each interval the requests, then the keys. A look
        may have counted a request and not yet that it is bound, so that neither number is below 0
        or out of order here.
    """

    def both_arms(name: str) -> Floats:
        return table[:, [column(CANDIDATE, name), column(CURRENT, name)]]

    drawn = np.maximum(both_arms("requests") - both_arms("bound"), 0)
    failed = np.clip(both_arms(event) - both_arms(f"bound_{event}"), 0, drawn)
    once = np.zeros((2 * len(table), 5))
    once[0::2, 0], once[1::2, 0] = table[:, 0], table[:, 0] + KEYS_APART
    once[0::2, [1, 3]], once[0::2, [2, 4]] = drawn, failed
    once[1::2, [1, 3]] = both_arms("keys")
    once[1::2, [2, 4]] = both_arms("key_errors" if event == "errors" else "key_fallbacks")
    return once


def slow_column(arm: int, of: int, limit: int = -1) -> int:
    """The column of the answers of a class of work beyond a limit; -1 for all its answers."""
    return arm + _SLOW + of * _CLASS + 1 + limit


def cohorts_of(
    cohorts: Sequence[Cohort], place: int, *, with_squares: bool = False, of_pairs: bool = False
) -> Floats:
    """Cohorts as `stats.late_proportions` reads them, neighbours joined as in `grouped`.

    Args:
        cohorts: In the order of time.
        place: Of the guard among the guards on outcomes.
        with_squares: Whether the sums of squares are given as well.
        of_pairs: Whether pairs are counted in place of predictions.
    """

    def row(arm: CohortArm) -> tuple[float, ...]:
        n, unknown = arm.predictions, arm.unknown
        if of_pairs:
            n, unknown = _at(arm.pairs, place, (0, 0))
        squares = (_at(arm.squares, place, 0.0),) if with_squares else ()
        return n, _at(arm.losses, place, 0.0), *squares, unknown

    width = 8 if with_squares else 6
    rows = [
        (
            cohort.stage + KEYS_APART * cohort.is_of_keys, *row(cohort.candidate),
            *row(cohort.current),
        )
        for cohort in cohorts
    ]  # fmt: skip
    table = np.array(rows, np.float64).reshape(-1, 1 + width)
    return _grouped(table[:, 0], table[:, 1:], (0, width // 2), INTERVAL_REQUESTS)


def _at(values: tuple[T, ...], place: int, default: T) -> T:
    return values[place] if place < len(values) else default


def known_loss(arm: CohortArm, place: int, *, of_pairs: bool) -> tuple[float, float]:
    """The predictions (or pairs) with a truth, and the sum of their losses; see `cohorts_of`."""
    n, unknown = _at(arm.pairs, place, (0, 0)) if of_pairs else (arm.predictions, arm.unknown)
    return n - unknown, _at(arm.losses, place, 0.0)


FEW_UNKNOWN = 0.02
"""A cohort with so small a share of predictions without a truth counts as complete."""


def steered_sums(cohorts: Sequence[Cohort]) -> Floats | None:
    """The sums of `CohortArm.moments` as symmetric matrices, of both arms.

    Of the cohorts whose truths are in; None where there is none.
    """
    totals: list[Floats] = []
    for cohort in cohorts:
        arms = [arm.moments for arm in (cohort.current, cohort.candidate)]
        width = max(map(len, arms))
        vectors = np.array([arm or (0.0,) * width for arm in arms])
        if width and vectors[:, 0].sum() - vectors[:, 1].sum() <= FEW_UNKNOWN * vectors[:, 0].sum():
            totals.append(vectors[:, 1:])
    if not totals:
        return None
    upper = np.sum(totals, axis=0)
    size = math.isqrt(2 * upper.shape[1])
    sums = np.zeros((2, size, size))
    rows, columns = np.triu_indices(size)
    sums[:, rows, columns] = sums[:, columns, rows] = upper
    return sums


def cut_shares(cohorts: Sequence[Cohort], place: int) -> tuple[float, float]:
    """The share of the known losses of a guard that were cut: the candidate's, the current's."""
    shares = []
    for arms in ([cohort.candidate for cohort in cohorts], [cohort.current for cohort in cohorts]):
        cut = sum(_at(arm.cut, place, 0.0) for arm in arms)
        known = sum(arm.predictions - arm.unknown for arm in arms)
        shares.append(cut / max(known, 1.0))
    return shares[0], shares[1]


def grouped(table: Floats, columns: Sequence[int], *, least: int = INTERVAL_REQUESTS) -> Floats:
    """Counts for `stats.two_proportions`, of groups of neighbouring intervals.

    A group ends once the requests of both arms in its stage have passed another multiple of
    `least`; which requests those are depends on their number alone, as the tests demand. A group
    that has not ended is left out. Groups are in the order in which they ended.

    Args:
        table: See `table_of`; in the order of time.
        columns: The candidate's requests and events, then those of the current version; more
            counts may follow.
        least: Requests of a group, at least.

    Returns:
        Shape (groups, columns).
    """
    groups = _grouped(table[:, 0], table[:, list(columns)], (0, 2), least)
    # A reader of counters that are being written may see an event before its request.
    groups[:, [1, 3]] = np.minimum(groups[:, [1, 3]], groups[:, [0, 2]])
    return groups


def _grouped(stages: Floats, counts: Floats, sizes: tuple[int, int], least: int) -> Floats:
    """`sizes`: the columns of `counts` with the requests of either arm."""
    groups, ended = [np.zeros((0, counts.shape[1]))], [np.zeros(0, np.int64)]
    for stage in np.unique(stages):
        rows = np.flatnonzero(stages == stage)
        part, least_here = counts[rows], least if stage % 1 == 0 else KEY_GROUP
        ends = np.cumsum(part[:, sizes[0]] + part[:, sizes[1]])
        numbers = np.concatenate([[0.0], ends[:-1]]) // least_here
        starts = np.flatnonzero(np.diff(numbers, prepend=-1.0))
        sums = np.add.reduceat(part, starts, axis=0)
        is_over = np.append(numbers[starts[1:]], ends[-1] // least_here) > numbers[starts]
        groups.append(sums[is_over])
        ended.append(rows[np.append(starts[1:], len(part))[is_over] - 1])
    return np.asarray(np.concatenate(groups)[np.argsort(np.concatenate(ended), kind="stable")])
