"""Counts the outcomes of a rollout: the spans of its cohorts, and what the ledger has of each.

Spans grow with the age of the rollout, by a hundredth of it, so that a rollout of a week has some
800 of them; a span ends where a stage ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from bascule.core import NotFound
from bascule.endpoints import CANDIDATE, CURRENT
from bascule.monitoring.ledger import CohortCount, CountedLoss, Ledger, Span, count_cohorts
from bascule.release.rollouts.evidence import Cohort, CohortArm
from bascule.release.rollouts.guards import Guard
from bascule.release.rollouts.losses import loss_sql
from bascule.release.rollouts.plan import Rollout

_LEAST_SPAN_S = 5.0
_GROWTH = 0.01
_SETTLED_S = 2.0
"""A span is counted when it ended so long ago: its last answers are written by then."""


def spans_of(
    started_at: datetime, stages: Sequence[tuple[datetime, int]], now: datetime
) -> list[tuple[Span, int]]:
    """The spans of the cohorts that are over, each with its stage.

    The spans of an earlier moment are the first ones of a later moment.

    Args:
        started_at: When the rollout began.
        stages: When each stage began, and its number, in order.
        now: Predictions until just before are counted.
    """
    spans: list[tuple[Span, int]] = []
    begins = [*(at for at, _ in stages), datetime.max.replace(tzinfo=now.tzinfo)]
    for (begin, stage), until in zip(stages, begins[1:], strict=True):
        start = begin
        while start < until:
            age_s = (start - started_at).total_seconds()
            width = timedelta(seconds=max(_LEAST_SPAN_S, _GROWTH * age_s))
            end = min(start + width, until)
            if end + timedelta(seconds=_SETTLED_S) > now:
                return spans
            spans.append((Span(len(spans), start, end), stage))
            start = end
    return spans


def count_outcomes(
    ledger: Ledger, rollout: Rollout, stages: Sequence[tuple[datetime, int]], now: datetime
) -> list[Cohort]:
    """The cohorts of a rollout, with the newest truths; see `spans_of` and `count_cohorts`.

    None before the ledger has the first answer of either version.
    """
    spans = spans_of(rollout.started_at, stages, now)
    arms: list[dict[int, CohortArm]] = []
    for arm, (name, version) in enumerate(
        ((CURRENT, rollout.current), (CANDIDATE, rollout.candidate))
    ):
        counts: list[CohortCount] = []
        with suppress(NotFound):
            counts = count_cohorts(
                ledger, model=version.partition("/")[0], endpoint=rollout.endpoint, arm=name,
                spans=[span for span, _ in spans], losses=counted_losses(rollout.guards, arm),
                sample=rollout.outcomes_sample,
            )  # fmt: skip
        arms.append(_arms(counts))
    current, candidate = arms
    return [
        Cohort(
            span.number, stage, (span.end - rollout.started_at).total_seconds(),
            current.get(span.number, CohortArm()), candidate.get(span.number, CohortArm()),
        )
        for span, stage in spans
        if span.number in current or span.number in candidate
    ]  # fmt: skip


def counted_losses(guards: Sequence[Guard], arm: int) -> list[CountedLoss]:
    """What the ledger counts for the guards on outcomes; `arm`: see `loss_sql`."""
    return [
        CountedLoss(
            loss_sql(guard.name, guard.measure, arm), guard.measure.output, guard.measure.bound,
            of_pairs=guard.is_of_pairs,
        )
        for guard in guards
        if guard.is_on_outcomes
    ]  # fmt: skip


def _arms(counts: Iterable[CohortCount]) -> dict[int, CohortArm]:
    return {
        count.number: CohortArm(
            count.predictions, count.unknown, count.losses, count.squares,
            count.cut if any(count.cut) else (),
            count.pairs if any(map(any, count.pairs)) else (),
        )
        for count in counts
    }  # fmt: skip
