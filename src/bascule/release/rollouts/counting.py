"""Counts the outcomes of a rollout: the spans of its cohorts, and what the ledger has of each.

Spans grow with the age of the rollout, by a hundredth of it, so that a rollout of a week has some
800 of them; a span ends where a stage ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bascule.core import NotFound
from bascule.endpoints import CANDIDATE, CURRENT, LIMIT, ContextFeature
from bascule.monitoring.ledger import (
    CohortCount,
    CountedLoss,
    Span,
    SteeredAnswers,
    count_cohorts,
)
from bascule.release.rollouts.evidence import KEY_COHORTS, Cohort, CohortArm
from bascule.release.rollouts.guards import Guard
from bascule.release.rollouts.keys import cells_of
from bascule.release.rollouts.losses import judge_of, loss_sql
from bascule.release.rollouts.plan import Rollout, StoredDecision
from bascule.release.rollouts.states import Baking, Paused, Running, Waiting

if TYPE_CHECKING:
    from bascule.monitoring.ledger import Ledger

_LEAST_SPAN_S = 5.0
_GROWTH = 0.01
_SETTLED_S = 2.0
"""A span is counted when it ended so long ago: its last answers are written by then."""


class Stage(NamedTuple):
    """A stage of a rollout: when it began, its number, and the candidate's share, from 0 to 1.

    And the number of its plan.
    """

    at: datetime
    number: int
    share: float
    plan: int


def stages_of(decisions: Iterable[StoredDecision]) -> list[Stage]:
    """The stages that decisions have begun, in order; a plan that changes no stage begins one."""
    stages: list[Stage] = []
    for decided in decisions:
        state, shares = decided.decision.state, decided.decision.shares
        if isinstance(state, Running | Waiting | Paused | Baking):
            plan = decided.plan_number or stages[-1].plan
            stages.append(Stage(decided.at, state.stage, shares.candidate_percent / 100, plan))
    return stages


def spans_of(
    started_at: datetime, stages: Sequence[Stage], now: datetime
) -> list[tuple[Span, int]]:
    """The spans of the cohorts that are over, each with its stage.

    The spans of an earlier moment are the first ones of a later moment.

    Args:
        started_at: When the rollout began.
        stages: In order.
        now: Predictions until just before are counted.
    """
    spans: list[tuple[Span, int]] = []
    begins = [*(at for at, *_ in stages), datetime.max.replace(tzinfo=now.tzinfo)]
    for (start, stage, _, plan), until in zip(stages, begins[1:], strict=True):
        while start < until:
            age_s = (start - started_at).total_seconds()
            width = timedelta(seconds=max(_LEAST_SPAN_S, _GROWTH * age_s))
            end = min(start + width, until)
            if end + timedelta(seconds=_SETTLED_S) > now:
                return spans
            spans.append((Span(len(spans), start, end, plan=plan), stage))
            start = end
    return spans


def count_outcomes(
    ledger: Ledger, rollout: Rollout, stages: Sequence[Stage], now: datetime
) -> list[Cohort]:
    """The cohorts of a rollout, with the newest truths; see `spans_of` and `count_cohorts`.

    None before the ledger has the first answer of either version.
    """
    shares: dict[int, float] = {}
    for stage in stages:
        shares.setdefault(stage.number, stage.share)
    cells = dict(zip(shares, cells_of(list(shares.values())), strict=True))
    spans = spans_of(rollout.started_at, stages, now)
    rectifiers = (guard.measure.rectifier for guard in rollout.guards)
    rectifier = next(filter(None, rectifiers), None)
    sample = rectifier.judged_share if rectifier else rollout.outcomes_sample
    arms: list[dict[tuple[int, bool], CohortArm]] = []
    for arm, (name, version, units) in enumerate(
        (
            (CURRENT, rollout.current, {at: cell.current for at, cell in cells.items()}),
            (CANDIDATE, rollout.candidate, {at: cell.candidate for at, cell in cells.items()}),
        )
    ):
        of_arm: dict[tuple[int, bool], CohortArm] = {}
        with suppress(NotFound):
            of_arm = _arms(count_cohorts(
                ledger, model=version.partition("/")[0], endpoint=rollout.endpoint, arm=name,
                spans=[replace(span, units=units[stage]) for span, stage in spans],
                losses=counted_losses(rollout.guards, arm), sample=sample,
            ))  # fmt: skip
            if rollout.context and spans:
                answers = steered_answers(ledger, rollout, arm, [span for span, _ in spans])
                for place, moments in answers.moments().items():
                    counted = of_arm.get((place, False), CohortArm())
                    of_arm[place, False] = msgspec.structs.replace(counted, moments=moments)
        arms.append(of_arm)
    cohorts = []
    for span, number in spans:
        for of_keys in (False, True):
            both = [of_arm.get((span.number, of_keys), CohortArm()) for of_arm in arms]
            if any(arm.predictions or arm.moments for arm in both):
                ended_s = (span.end - rollout.started_at).total_seconds()
                place = span.number + KEY_COHORTS * of_keys
                cohorts.append(Cohort(place, number, ended_s, *both))
    return cohorts


def counted_losses(guards: Sequence[Guard], arm: int) -> list[CountedLoss]:
    """What the ledger counts for the guards on outcomes; `arm`: see `loss_sql`."""
    return [
        CountedLoss(
            loss_sql(guard.name, guard.measure, arm), guard.measure.output, guard.measure.bound,
            of_pairs=guard.is_of_pairs, judge=judge_of(guard.name),
        )
        for guard in guards
        if guard.is_on_outcomes
    ]  # fmt: skip


def context_sql(features: Sequence[ContextFeature]) -> list[str]:
    """The numbers of `endpoints.context_of`, each as SQL over a row of the ledger."""
    numbers = ["1"]
    for feature in features:
        column = '"input.' + feature.field.replace('"', '""') + '"'
        value = f"{column}[{feature.place}]" if feature.place else column
        if feature.categories:
            texts = (known.replace("'", "''") for known in feature.categories)
            numbers += [f"coalesce(CAST({value} AS VARCHAR) = '{text}', FALSE)" for text in texts]
        else:
            number = f"CAST({value} AS DOUBLE)"
            scaled = f"({number} - {feature.mean!r}) / {feature.scale!r}"
            numbers.append(
                f"CASE WHEN isfinite({number}) THEN greatest({-LIMIT}, least({LIMIT}, {scaled})) "
                "ELSE 0 END"
            )
    return numbers


def steered_answers(
    ledger: Ledger, rollout: Rollout, arm: int, spans: Sequence[Span], share: float = 1.0
) -> SteeredAnswers:
    """Those of the current version (0) or the candidate (1), or a share of them by their ids."""
    version = (rollout.current, rollout.candidate)[arm]
    return SteeredAnswers(
        ledger, version.partition("/")[0], rollout.endpoint, (CURRENT, CANDIDATE)[arm], spans,
        counted_losses(rollout.guards, arm)[0], context_sql(rollout.context),
        share * rollout.outcomes_sample,
    )  # fmt: skip


def _arms(counts: Iterable[CohortCount]) -> dict[tuple[int, bool], CohortArm]:
    """By span, and whether they are of keys."""
    return {
        (count.number, count.is_of_keys): CohortArm(
            count.predictions, count.unknown, count.losses, count.squares,
            count.cut if any(count.cut) else (),
            count.pairs if any(map(any, count.pairs)) else (),
        )
        for count in counts
    }  # fmt: skip
