"""A canary on judged answers, simulated: through the rules that decide rollouts, without a ledger.

`rectified` does in numpy what `losses.loss_sql` does in the ledger; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from bascule.release.rollouts import (
    FINAL,
    ArmCounts,
    Cohort,
    CohortArm,
    Cohorts,
    Guard,
    Interval,
    Loss,
    Rollout,
    Running,
    decide,
    table_of,
)
from bascule.release.rollouts.losses import Rectifier
from bascule.stats import JudgeCalibration, calibrate_judge

Floats = NDArray[np.float64]
START = datetime(2026, 1, 1, tzinfo=UTC)
MARGIN = 0.05
COHORT, COHORTS = 500, 40
"""Answers of both arms in a cohort, and how many cohorts there are."""


@dataclass(frozen=True)
class World:
    """Two versions, and a judge of their answers.

    Attributes:
        current: The share of good answers.
        candidate: Likewise.
        accuracy: How often the judge is right, of either arm: the current version's first.
        label_share: Of the answers.
        refusals: How often the judge says nothing of a bad answer of the candidate.
    """

    current: float
    candidate: float
    accuracy: tuple[float, float]
    label_share: float
    refusals: float = 0.0


def expected_losses(calibration: JudgeCalibration, scores: Floats) -> Floats:
    known = np.clip(calibration.at_0 + calibration.slope * scores, 0.0, 1.0)
    return np.where(np.isnan(scores), calibration.unusable, known)


def rectified(rectifier: Rectifier, scores: Floats, losses: Floats, labelled: Floats) -> Floats:
    """In units of the bound, from 0 to 1."""
    least, width = rectifier.range
    expected = expected_losses(rectifier.calibration, scores)
    share = rectifier.label_share / rectifier.judged_share
    return (expected + np.where(labelled, losses - expected, 0.0) / share - least) / width


def judged(world: World, arm: int, good: NDArray[np.bool_], random: np.random.Generator) -> Floats:
    """The judge's scores of answers, a bias towards an arm included."""
    is_right = random.random(len(good)) < world.accuracy[arm]
    scores = np.where(is_right, good, ~good).astype(np.float64)
    refuses = (arm == 1) & ~good & (random.random(len(good)) < world.refusals)
    return np.where(refuses, np.nan, scores)


def guard_of(world: World, random: np.random.Generator, *, with_judge: bool, history: int) -> Guard:
    """Calibrated on labelled answers of the current version from before the rollout."""
    if not with_judge:
        return Guard("approval", MARGIN, "pp")
    good = random.random(history) < world.current
    scores = judged(world, 0, good, random)
    calibration = calibrate_judge(scores, ~good) if history else JudgeCalibration()
    rectifier = Rectifier("j", 1.0, world.label_share, calibration)
    return Guard("judged[j]", MARGIN, "pp", Loss("", bound=rectifier.range[1], rectifier=rectifier))


def cohorts_of(world: World, guard: Guard, random: np.random.Generator) -> list[Cohort]:
    """As the ledger counts them, half of the answers each; labels alone where no judge is."""
    cohorts = []
    for number in range(COHORTS):
        arms = []
        for arm, rate in enumerate((world.current, world.candidate)):
            good = random.random(COHORT // 2) < rate
            labelled = random.random(COHORT // 2) < world.label_share
            if guard.measure.rectifier is None:
                losses = (~good)[labelled].astype(np.float64)
            else:
                scores = judged(world, arm, good, random)
                losses = rectified(guard.measure.rectifier, scores, ~good, labelled)
            sums = float(losses.sum()), float((losses**2).sum())
            arms.append(CohortArm(len(losses), 0, *((total,) for total in sums)))
        cohorts.append(Cohort(number, 0, 60.0 * (number + 1), *arms))
    return cohorts


def ended(
    world: World, seed: int, *, with_judge: bool = True, history: int = 400
) -> tuple[str, int]:
    """How a rollout ends that looks at each cohort, and after how many answers."""
    random = np.random.default_rng(seed)
    guard = guard_of(world, random, with_judge=with_judge, history=history)
    plan = Rollout(
        id="r1", started_at=START, endpoint="chat", candidate="chat/2", current="chat/1",
        strategy="canary", guards=(guard,), steps_percent=(50.0, 100.0), step_s=1.0,
        max_s=30 * 86_400.0,
    )  # fmt: skip
    cohorts = cohorts_of(world, guard, random)
    counts = ArmCounts(requests=COHORT * COHORTS)
    table, state = table_of([Interval(0, 0, counts, counts)]), Running(0, START)
    for place in range(1, len(cohorts) + 1):
        now = START + timedelta(seconds=60.0 * place + 60)
        revision = Cohorts(place, tuple(cohorts[:place]))
        state = decide(plan, state, table, now=now, cohorts=revision).state
        if isinstance(state, FINAL):
            return type(state).__name__.lower(), place * COHORT
    return "held", COHORTS * COHORT
