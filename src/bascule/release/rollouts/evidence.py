"""What decides a rollout: counts of each arm by interval, added up over workers and hosts.

Counts are sufficient for every test, so a stored decision can be computed again from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.stats import INTERVAL_REQUESTS
from bascule.stats.durations import CLASSES, beyond, dense, sparse

Floats = NDArray[np.float64]

FIELDS = ("requests", "errors", "fallbacks", "judged", "wrong")


class ArmCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one arm did in one interval.

    Attributes:
        requests: Answers of any status that the model is answerable for.
        errors: Of them, those that the model failed.
        fallbacks: Of them, those that another model answered.
        durations: Of what a source has counted: places and counts (`stats.durations.sparse`).
        slow: Of a sealed interval, by class of work with limits: the class, its answers, and
            those beyond each limit (`guards.limits_of`).
        judged: Outcomes that arrived in this interval, whenever the answer was given.
        wrong: Of them, those that the answer does not equal.
    """

    requests: int = 0
    errors: int = 0
    fallbacks: int = 0
    durations: tuple[int, ...] = ()
    slow: tuple[tuple[int, ...], ...] = ()
    judged: int = 0
    wrong: int = 0


class Interval(msgspec.Struct, frozen=True, omit_defaults=True):
    """One interval of a rollout, which ended by the clock.

    Attributes:
        number: Counted from the start of the rollout.
        stage: In which shares are constant.
        current: The arm of the current version.
        candidate: The arm of the candidate.
        compared: Requests that both versions answered.
        disagreements: Of them, those with different answers.
    """

    number: int
    stage: int
    current: ArmCounts = ArmCounts()
    candidate: ArmCounts = ArmCounts()
    compared: int = 0
    disagreements: int = 0


def summed(parts: Sequence[Interval]) -> Interval:
    """One interval as several hosts counted it."""
    first = parts[0]
    return Interval(
        number=first.number, stage=first.stage,
        current=_summed([one.current for one in parts]),
        candidate=_summed([one.candidate for one in parts]),
        compared=sum(one.compared for one in parts),
        disagreements=sum(one.disagreements for one in parts),
    )  # fmt: skip


def less(total: Interval, before: Interval) -> Interval:
    """What a source has counted since `before`. A count that fell, by a correction, is none."""
    return Interval(
        number=total.number, stage=total.stage,
        current=_less(total.current, before.current),
        candidate=_less(total.candidate, before.candidate),
        compared=max(total.compared - before.compared, 0),
        disagreements=max(total.disagreements - before.disagreements, 0),
    )  # fmt: skip


def _less(total: ArmCounts, before: ArmCounts) -> ArmCounts:
    durations = np.maximum(dense(total.durations) - dense(before.durations), 0)
    counts = {name: max(getattr(total, name) - getattr(before, name), 0) for name in FIELDS}
    return ArmCounts(durations=sparse(durations), **counts)


def _summed(arms: Sequence[ArmCounts]) -> ArmCounts:
    totals = {name: sum(getattr(arm, name) for arm in arms) for name in FIELDS}
    durations = sum((dense(arm.durations) for arm in arms), dense(()))
    return ArmCounts(durations=sparse(durations), **totals)


Limits = Mapping[int, Sequence[Sequence[int]]]
"""By class of work: the bins from which answers of the current version count as slow at each
quantile, and those of the candidate."""


def with_limits(counted: Interval, limits: Limits) -> Interval:
    """An interval with the counts beyond limits in place of its durations."""
    current = _slow(counted.current, {of: bins for of, (bins, _) in limits.items()})
    candidate = _slow(counted.candidate, {of: bins for of, (_, bins) in limits.items()})
    return msgspec.structs.replace(counted, current=current, candidate=candidate)


def _slow(arm: ArmCounts, limits: Mapping[int, Sequence[int]]) -> ArmCounts:
    above = beyond(dense(arm.durations))
    slow = [(of, int(above[of, 0]), *map(int, above[of, bins])) for of, bins in limits.items()]
    return msgspec.structs.replace(arm, durations=(), slow=tuple(row for row in slow if row[1]))


MAX_LIMITS = 16
_SLOW = len(FIELDS)
_CLASS = 1 + MAX_LIMITS
_ARM = len(FIELDS) + CLASSES * _CLASS
CANDIDATE, CURRENT = 1, 1 + _ARM
COMPARED, DISAGREEMENTS = 1 + 2 * _ARM, 2 + 2 * _ARM
"""Where columns of a table begin; the first one is the stage."""


def table_of(intervals: Iterable[Interval]) -> Floats:
    """Intervals as numbers: what `decide` computes with. Shape (intervals, columns).

    A column lies in one piece, and those of classes of work without requests take no memory.
    """
    rows = list(intervals)
    table = np.zeros((len(rows), 3 + 2 * _ARM), order="F")
    table[:, 0] = [row.stage for row in rows]
    table[:, COMPARED] = [row.compared for row in rows]
    table[:, DISAGREEMENTS] = [row.disagreements for row in rows]
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


def slow_column(arm: int, of: int, limit: int = -1) -> int:
    """The column of the answers of a class of work beyond a limit; -1 for all its answers."""
    return arm + _SLOW + of * _CLASS + 1 + limit


def grouped(table: Floats, columns: Sequence[int], *, least: int = INTERVAL_REQUESTS) -> Floats:
    """Counts for `stats.two_proportions`, of groups of neighbouring intervals.

    A group ends once the requests of both arms in its stage have passed another multiple of
    `least`; which requests those are depends on their number alone, as the tests demand. A group
    that has not ended is left out.

    Args:
        table: See `table_of`; in the order of time.
        columns: The candidate's requests and events, then those of the current version; more
            counts may follow.
        least: Requests of a group, at least.

    Returns:
        Shape (groups, columns).
    """
    groups = []
    counts, stages = table[:, list(columns)], table[:, 0]
    for stage in np.unique(stages):
        part = counts[stages == stage]
        ends = np.cumsum(part[:, 0] + part[:, 2])
        numbers = np.concatenate([[0.0], ends[:-1]]) // least
        starts = np.flatnonzero(np.diff(numbers, prepend=-1.0))
        sums = np.add.reduceat(part, starts, axis=0)
        is_over = np.append(numbers[starts[1:]], ends[-1] // least) > numbers[starts]
        groups.append(sums[is_over])
    return np.concatenate(groups) if groups else np.zeros((0, len(columns)))
