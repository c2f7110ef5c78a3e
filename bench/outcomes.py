"""Rollouts by outcomes that come late, by simulation of whole rollouts: `make bench-outcomes`.

Each run is a canary of 5, 25, 50 and 100 % with the guard `accuracy -2 pp`, at 10,000 requests an
hour, through `release.rollouts.decide`, for at most 24 hours. A prediction is right or wrong in one
of two ways (a false positive, a false negative); each kind has its own delay, its own share of
truths that never come, and its own share of truths that come wrong at first and are corrected.

Worlds of losses have the guard `mae +10 %` instead, on errors with heavy tails or bounded ones: the
smaller and the larger half of them have their own delays.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

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
    Promoted,
    Rollout,
    Running,
    Stage,
    decide,
    start,
    table_of,
)
from bascule.release.rollouts.counting import spans_of
from bascule.stats import exact_interval

Floats = NDArray[np.float64]

START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = (5.0, 25.0, 50.0, 100.0)
STEP_S = 300.0
HOURS = 24.0
REQUESTS_AN_HOUR = 10_000
LOOK_GROWTH = 1.07
Kinds = tuple[float, float, float]
"""Of a right answer, a false positive and a false negative."""
LATE_RIGHT: Kinds = (2.9, 1 / 6, 1 / 6)
LATE_WRONG: Kinds = (1 / 6, 2.9, 2.9)


@dataclass(frozen=True)
class World:
    """How two versions answer, and when the truths come.

    Attributes:
        name: In the table.
        current: Shares of the kinds of answers of the current version.
        candidate: Of the candidate.
        delays_h: The median delay of each kind of answer, in hours.
        never: The share of each kind whose truth never comes.
        corrected: The share of truths that come wrong at first and are corrected an hour later.
        expected: "promoted", "aborted", or "held" where truths lack.
        is_at_margin: Whether the candidate is worse by just the margin, so that either end is an
            error.
    """

    name: str
    current: Kinds
    candidate: Kinds
    delays_h: Kinds
    never: Kinds = (0.005, 0.005, 0.005)
    corrected: float = 0.0
    expected: str = "promoted"
    is_at_margin: bool = False

    @property
    def is_worse(self) -> bool:
        """Whether a promotion is the error; a rollback otherwise."""
        return self.candidate[0] < self.current[0] - 0.03

    @property
    def guard(self) -> Guard:
        return Guard("accuracy", 0.02, "pp")


EQUAL: Kinds = (0.95, 0.025, 0.025)
WORSE: Kinds = (0.91, 0.045, 0.045)
AT_MARGIN: Kinds = (0.93, 0.035, 0.035)
WORLDS = (
    World("equal, wrong answers known first", EQUAL, EQUAL, LATE_RIGHT),
    World("equal, right answers known first", EQUAL, EQUAL, LATE_WRONG),
    World("equal, 2 min for all", EQUAL, EQUAL, (1 / 30, 1 / 30, 1 / 30)),
    World("equal, other mix of errors", (0.9, 0.01, 0.09), (0.9, 0.09, 0.01), (2.9, 1 / 30, 2.9)),
    World("equal, other mix, turned", (0.9, 0.09, 0.01), (0.9, 0.01, 0.09), (2.9, 1 / 30, 2.9)),
    World("equal, a tenth corrected", EQUAL, EQUAL, LATE_RIGHT, corrected=0.1),
    World("4 pp worse, wrong known first", EQUAL, WORSE, LATE_RIGHT, expected="aborted"),
    World("4 pp worse, right known first", EQUAL, WORSE, LATE_WRONG, expected="aborted"),
    World("4 pp worse, a tenth corrected", EQUAL, WORSE, LATE_WRONG, corrected=0.1,
          expected="aborted"),
    World("at the margin, wrong known first", EQUAL, AT_MARGIN, LATE_RIGHT, (0, 0, 0),
          is_at_margin=True),
    World("at the margin, right known first", EQUAL, AT_MARGIN, LATE_WRONG, (0, 0, 0),
          is_at_margin=True),
    World("at the margin, at once", EQUAL, AT_MARGIN, (1e-3, 1e-3, 1e-3), (0, 0, 0),
          is_at_margin=True),
    # At worst 10 % wrong beside 9.5 % at best: within the margin.
    World("equal, half of the false negatives never", (0.9, 0.09, 0.01), (0.9, 0.01, 0.09),
          LATE_RIGHT, (0.0, 0.0, 0.5)),
    World("4 pp worse, 70 % never", EQUAL, WORSE, LATE_WRONG, (0.7, 0.7, 0.7), expected="held"),
)  # fmt: skip


Law = Callable[[np.random.Generator, int], Floats]
LOSS_MARGIN = 0.1
_LAW_ROWS = 200_000
LAWS: dict[str, Law] = {
    "|t3|": lambda random, size: abs(random.standard_t(3, size)),
    "Pareto 1.2": lambda random, size: random.pareto(1.2, size),
    "t2 squared": lambda random, size: random.standard_t(2, size) ** 2,
    "Beta(2, 5)": lambda random, size: random.beta(2, 5, size),
}


@dataclass(frozen=True)
class LossWorld:
    """How much two versions err, and when the truths come.

    Attributes:
        name: In the table.
        law: Of the current version's errors.
        factor: Of the candidate's errors to these; 0 for the one that is at the margin.
        delays_h: The median delays of smaller and larger errors, in hours.
        expected: As of `World`.
    """

    name: str
    law: str
    factor: float
    delays_h: tuple[float, float]
    expected: str = "promoted"

    @property
    def is_at_margin(self) -> bool:
        return self.factor == 0

    @property
    def is_worse(self) -> bool:
        return self.factor > 1 + LOSS_MARGIN

    @property
    def guard(self) -> Guard:
        """With the scale that held-out rows of the law give."""
        bound, level = scale_of(self.law)
        return Guard("mae", LOSS_MARGIN, "%", Loss("output.y", bound=bound, level=level, rows=1))


@cache
def scale_of(law: str) -> tuple[float, float]:
    """The bound and the mean loss with that bound."""
    errors = LAWS[law](np.random.default_rng(0), _LAW_ROWS)
    bound = float(np.quantile(errors, 0.99))
    return bound, float(np.minimum(errors, bound).mean())


@cache
def factor_at_margin(law: str) -> float:
    """The factor of the errors whose mean, with the bound, is higher by the margin."""
    errors = LAWS[law](np.random.default_rng(1), _LAW_ROWS)
    bound, level = scale_of(law)
    low, high = 1.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        rises = np.minimum(errors * middle, bound).mean() - np.minimum(errors, bound).mean()
        low, high = (middle, high) if rises < LOSS_MARGIN * level else (low, middle)
    return low


LATE_SMALL, LATE_LARGE = (2.9, 1 / 6), (1 / 6, 2.9)
LOSS_WORLDS = (
    LossWorld("|t3| equal, large known first", "|t3|", 1.0, LATE_SMALL),
    LossWorld("|t3| 25 % worse, small known first", "|t3|", 1.25, LATE_LARGE, "aborted"),
    LossWorld("|t3| at the margin", "|t3|", 0.0, LATE_SMALL),
    LossWorld("Pareto 1.2 equal, small known first", "Pareto 1.2", 1.0, LATE_LARGE),
    LossWorld("Pareto 1.2 at the margin", "Pareto 1.2", 0.0, LATE_LARGE),
    LossWorld("t2 squared, 50 % worse", "t2 squared", 1.5, LATE_SMALL, "aborted"),
    LossWorld("t2 squared at the margin", "t2 squared", 0.0, LATE_SMALL),
    LossWorld("Beta(2, 5) equal", "Beta(2, 5)", 1.0, LATE_LARGE),
    LossWorld("Beta(2, 5) at the margin, at once", "Beta(2, 5)", 0.0, (1e-3, 1e-3)),
)


def plan_of(**changes: object) -> Rollout:
    """The canary of every run."""
    fields: dict[str, object] = {
        "id": "r1", "started_at": START, "endpoint": "late", "candidate": "late/2",
        "current": "late/1", "strategy": "canary", "guards": (Guard("accuracy", 0.02, "pp"),),
        "steps_percent": STEPS, "step_s": STEP_S, "max_s": HOURS * 3600.0,
    }  # fmt: skip
    return Rollout(**(fields | changes))  # type: ignore[arg-type]


class Answers:
    """The answers of one rollout, with the moments in which their truths come."""

    def __init__(
        self, world: World | LossWorld, plan: Rollout, random: np.random.Generator
    ) -> None:
        steps_h = np.arange(1, len(STEPS)) * STEP_S / 3600
        self.count = random.poisson(REQUESTS_AN_HOUR * HOURS)
        self.at_h = np.sort(random.uniform(0, HOURS, self.count))
        shares = np.array(plan.steps_percent[:3]) / 100
        stage = np.minimum(np.searchsorted(steps_h, self.at_h), 2)
        self.is_candidate = random.random(self.count) < shares[stage]
        never: tuple[float, ...] = (0.0, 0.0)
        corrected = 0.0
        if isinstance(world, World):
            kind, never, corrected = self._kinds(world, random), world.never, world.corrected
        else:
            kind = self._errors(world, random)
        delay = np.array(world.delays_h)[kind] * random.uniform(0.9, 1.03, self.count)
        is_never = random.random(self.count) < np.array(never)[kind]
        self.known_h = np.where(is_never, np.inf, self.at_h + delay)
        self.corrected_h = np.where(
            random.random(self.count) < corrected, self.known_h + 1.0, self.known_h
        )

    def _kinds(self, world: World, random: np.random.Generator) -> NDArray[np.int64]:
        draws = random.random(self.count)
        cuts = [np.cumsum(shares)[:2] for shares in (world.current, world.candidate)]
        kinds = [np.searchsorted(cut, draws, "right") for cut in cuts]
        kind = np.where(self.is_candidate, kinds[1], kinds[0])
        self.loss = (kind > 0).astype(np.float64)
        return kind

    def _errors(self, world: LossWorld, random: np.random.Generator) -> NDArray[np.int64]:
        bound, _ = scale_of(world.law)
        factor = world.factor or factor_at_margin(world.law)
        errors = LAWS[world.law](random, self.count) * np.where(self.is_candidate, factor, 1.0)
        self.loss = np.minimum(errors, bound) / bound
        return (self.loss > np.median(self.loss)).astype(np.int64)

    def cohorts(self, looked_h: float, stages: list[Stage]) -> tuple[Cohort, ...]:
        """As a count at this moment finds them."""
        now = START + timedelta(hours=looked_h)
        spans = spans_of(START, stages, now)
        if not spans:
            return ()
        ends_h = [(span.end - START).total_seconds() / 3600 for span, _ in spans]
        edges = np.searchsorted(self.at_h, [0.0, *ends_h])
        old = slice(edges[-1])
        known = self.known_h[old] <= looked_h
        loss = np.where(self.corrected_h[old] > looked_h, 1 - self.loss[old], self.loss[old])
        arms = []
        for of_arm in (~self.is_candidate[old], self.is_candidate[old]):
            columns = (of_arm, of_arm & ~known, of_arm * known * loss, of_arm * known * loss**2)
            sums = [np.append(0, np.cumsum(column))[edges] for column in columns]
            arms.append(np.diff(np.stack(sums), axis=1).T)
        return tuple(
            Cohort(span.number, stage, 3600 * end_h, *(_arm(arm[place]) for arm in arms))
            for place, ((span, stage), end_h) in enumerate(zip(spans, ends_h, strict=True))
        )

    def intervals(self, stages: int) -> list[Interval]:
        """Requests enough for each stage: what comes by outcomes is what decides."""
        many = ArmCounts(requests=100_000)
        return [Interval(stage, stage, many, many) for stage in range(stages)]


def _arm(sums: Floats) -> CohortArm:
    predictions, unknown, loss, square = sums
    return CohortArm(
        int(predictions), float(unknown), (round(float(loss), 6),), (round(float(square), 6),)
    )


def outcome_of(world: World | LossWorld, seed: int) -> tuple[str, float]:
    """How one rollout ends: promoted, aborted or held; and after how many hours."""
    plan = plan_of(guards=(world.guard,))
    random = np.random.default_rng(seed)
    answers = Answers(world, plan, random)
    decision = start(plan, START)
    stages = [Stage(START, 0, STEPS[0] / 100, 1)]
    for revision, looked_h in enumerate(_looks(), 1):
        now = START + timedelta(hours=looked_h)
        cohorts = Cohorts(revision, answers.cohorts(looked_h, stages))
        table = table_of(answers.intervals(len(stages)))
        decision = decide(plan, decision.state, table, now=now, cohorts=cohorts)
        state = decision.state
        if isinstance(state, FINAL):
            if decision.sentence.startswith("ended"):
                break
            return "promoted" if isinstance(state, Promoted) else "aborted", looked_h
        if isinstance(state, Running) and state.stage > stages[-1].number:
            stages.append(Stage(now, state.stage, STEPS[state.stage] / 100, state.stage + 1))
    return "held", HOURS


def _looks() -> Iterator[float]:
    """The moments of looks in hours: the stages, then ever fewer."""
    yield from (STEP_S / 3600, 2 * STEP_S / 3600, 0.3)
    at = 0.3
    while (at := at * LOOK_GROWTH) < HOURS:
        yield at


def errors_in(world: World | LossWorld, ends: Counter[str]) -> int:
    """The rollouts that ended against the promise."""
    if world.is_at_margin:
        return max(ends["promoted"], ends["aborted"])
    return ends["promoted" if world.is_worse else "aborted"]


def main() -> int:
    """Print a line for each world; 1 where one misses what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    missed = 0
    print(f"{'world':42} promoted aborted   held  median h  errors")
    for world in (*WORLDS, *LOSS_WORLDS):
        found = [outcome_of(world, seed) for seed in range(runs)]
        ends = Counter(end for end, _ in found)
        errors = errors_in(world, ends)
        low, high = exact_interval(errors, runs)
        reached = (
            ends[world.expected]
            >= {"promoted": 0.9, "aborted": 0.95}.get(world.expected, 0.0) * runs
            or world.is_at_margin
        )
        missed += errors > 0.05 * runs or not reached
        hours = float(np.median([hour for _, hour in found]))
        shares = "  ".join(f"{ends[name] / runs:6.1%}" for name in ("promoted", "aborted", "held"))
        print(
            f"{world.name:42}  {shares}  {hours:8.1f}  {errors / runs:.1%} "
            f"({low:.1%} to {high:.1%})",
            flush=True,
        )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
