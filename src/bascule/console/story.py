"""A rollout as a story: its steps, its decisions as sentences, its evidence as charts. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.charts import Lane, Series, lines
from bascule.documents import Plot
from bascule.release.rollouts import NO_COUNTS, evidence_chart, odds, table_of

if TYPE_CHECKING:
    from bascule.release.rollouts import Cohort, Interval, Rollout, StoredDecision, StoredRollout

SHOWN_INTERVALS = 240
_LOOKS = 16
_MOST_ROWS = 240
Floats = NDArray[np.float64]

COMMANDS = {
    "running": ("pause", "promote", "abort"),
    "waiting": ("promote", "abort"),
    "paused": ("resume", "promote", "abort"),
    "baking": ("promote", "abort"),
    "asked": ("abort",),
}
"""The commands that have a meaning in each state; a final state has none."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stage: the candidate's share, and whether it is over or is now."""

    share_percent: float
    is_done: bool
    is_now: bool


def story_of(
    stored: StoredRollout,
    decisions: Sequence[StoredDecision],
    evidence: Sequence[tuple[int, float | None]],
) -> dict[str, Any]:
    """What a page shows of a rollout: its steps, its decisions as sentences, its evidence.

    Args:
        stored: The rollout and its latest look.
        decisions: In order.
        evidence: The number of an interval, and the natural logarithm of the evidence of harm
            after it; None where no look was recorded.
    """
    told = [
        (one, _name(one.decision.state), odds(log_e) if log_e > 0 else "")
        for one in reversed(decisions)
        for log_e in (one.decision.log_e.get("all", 0.0),)
    ]
    latest = "" if stored.latest is None else stored.latest.sentence
    is_told = bool(decisions) and decisions[-1].decision.sentence == latest
    return {
        "stored": stored, "steps": steps_of(stored), "told": told,
        "now": "" if is_told else latest,
        "chart": evidence_chart(stored.rollout, with_decisions(evidence, decisions)),
        "needed": f"{1 / stored.rollout.alpha:g} to 1",
        "commands": COMMANDS.get(stored.state, ()),
    }  # fmt: skip


def with_decisions(
    evidence: Sequence[tuple[int, float | None]], decisions: Sequence[StoredDecision]
) -> list[tuple[int, float | None]]:
    """The evidence of looks that changed nothing, with that of the looks that decided."""
    known = dict(evidence)
    for one in decisions:
        if one.decision.intervals:
            known[one.decision.intervals - 1] = one.decision.log_e.get("all")
    return sorted(known.items())


def steps_of(stored: StoredRollout) -> list[Step]:
    """The stages of a rollout, and the one in which it is."""
    state = None if stored.latest is None else stored.latest.state
    stage = getattr(state, "stage", None)
    if stage is None:
        stage = len(stored.rollout.steps_percent) if stored.state == "promoted" else -1
    return [
        Step(share, place < stage, place == stage)
        for place, share in enumerate(stored.rollout.steps_percent)
    ]


def sequences_of(
    rollout: Rollout, intervals: Sequence[Interval], cohorts: Sequence[Cohort]
) -> list[Plot]:
    """The confidence sequence of each guard over time, with the margin as its boundary.

    At most 16 looks are computed of a sequence, for each finds its two ends by bisection; and of
    many intervals, neighbours are added up first, which the tests allow.
    """
    from bascule.release.rollouts import judge

    table = coarse(table_of(intervals), _MOST_ROWS, (0, *NO_COUNTS))
    per_row = len(intervals) / max(1, len(table))
    if not len(table):
        return []
    ends = sorted({max(1, round(len(table) * k / _LOOKS)) for k in range(1, _LOOKS + 1)})
    looks = [
        judge(
            rollout.guards, table[:end], cohorts[: math.ceil(len(cohorts) * end / len(table))],
            rollout.alpha,
        )
        for end in ends
    ]  # fmt: skip
    made = []
    for place, guard in enumerate(rollout.guards):
        found = [
            (round(end * per_row), one.bounded())
            for end, verdicts in zip(ends, looks, strict=True)
            if (one := verdicts[place]).requests
        ]
        if not found or guard.name == "answers":  # of many shares, in both directions
            continue
        is_rate = guard.measure.rows == 0
        factor, unit = (100.0, "points") if is_rate else (guard.measure.bound, f"of {guard.name}")
        margin = guard.rate_margin * factor
        shown = [(at, e.difference * factor, e.lower * factor, e.upper * factor) for at, e in found]
        _, middle, lower, upper = shown[-1]
        span = _span(shown, margin)
        chart = lines(
            [
                Series(
                    [(at, mid) for at, mid, _, _ in shown], "line",
                    [(at, low) for at, _, low, _ in shown], [(at, up) for at, _, _, up in shown],
                )
            ],
            ("interval", f"difference, {unit}"),
            f"{guard}: difference {middle:.2f} {unit}, {lower:.2f} to {upper:.2f}",
            lanes=[Lane(0.0, "guide"), Lane(margin)], y=span, size=(440, 240), whole=True,
        )  # fmt: skip
        if chart is not None:
            caption = (
                f"{rollout.candidate} less {rollout.current}: {middle:+.2f} {unit}, between "
                f"{lower:+.2f} and {upper:+.2f}. Dashed red: the margin of {margin:g} {unit}."
            )
            made.append(Plot(str(guard), caption, chart))
    return made


def coarse(table: Floats, most: int, kinds: Sequence[int] = (0,)) -> Floats:
    """A table of intervals (`evidence.table_of`) with neighbours of a kind added up.

    Args:
        table: In the order of time.
        most: Of rows in the result; some more where kinds end.
        kinds: The columns that say of which stage, share and round a row is.
    """
    size = math.ceil(len(table) / most)
    if size <= 1:
        return table
    of_kind = table[:, kinds]
    is_other = np.diff(of_kind, axis=0, prepend=of_kind[:1]).any(axis=1)
    starts = np.flatnonzero((np.diff(np.arange(len(table)) // size, prepend=-1) > 0) | is_other)
    made = np.add.reduceat(table, starts, axis=0)
    made[:, kinds] = of_kind[starts]
    return made


def some_of(count: int) -> int:
    """How many intervals of `count` are drawn: two digits, so that few drawings are computed."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return count // step * step


def _span(shown: Sequence[tuple[float, float, float, float]], margin: float) -> tuple[float, float]:
    """A range that shows where the sequence ends; its first looks reach far beyond."""
    _, middle, lower, upper = shown[-1]
    reach = max(abs(upper - middle), abs(middle - lower), abs(margin), 0.1) * 1.8
    return min(middle - reach, -0.1 * reach), max(middle + reach, margin + 0.1 * reach)


def _name(state: object) -> str:
    return type(state).__name__.lower()
