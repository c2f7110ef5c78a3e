"""What the controller of rollouts does in one turn."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from tests.unit.control.test_rollouts_killed import CountedServer

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.loops.rollouts import RolloutRunner, counted
from bascule.core import Unavailable
from bascule.endpoints import KEY_UNITS, Arm, EndpointStore, Plan, PlanEvent, StoredPlan
from bascule.release.rollouts import (
    ArmCounts,
    Cohort,
    CohortArm,
    Guard,
    Interval,
    Rollout,
    RolloutStore,
    schema as rollout_schema,
)
from bascule.release.rollouts.keys import Cell
from bascule.serving.telemetry import ArmTotals
from bascule.stats.durations import place_of

NOW = datetime.now(UTC)


@pytest.fixture
def catalogue(tmp_path):
    """With a rollout of `late/2` that was asked for against `late/1`."""
    made = Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))
    rollout = Rollout(
        id="r1", started_at=NOW, endpoint="late", candidate="late/2", current="late/1",
        strategy="canary", guards=(Guard("errors", 0.02, "pp"), Guard("p95", 0.2, "%")),
    )  # fmt: skip
    plan = Plan("late", 1, (Arm("current", "late/1", 100.0),))
    RolloutStore(made).add(rollout, by="ada", reason="", first=StoredPlan(plan, NOW, "ada"))
    return made


def test_what_a_shadow_failed_to_answer_is_not_compared():
    shadow = ArmTotals("late", 1, "shadow", "late/2", 10, 4, 0, (), disagreements=3, dropped=5)
    told = counted({"shadow": shadow}, 0, Cell(0.0, 0.0, 1.0))
    assert (told.compared, told.disagreements, told.candidate.errors) == (6, 3, 4)


def test_a_plan_that_is_made_before_the_first_decision_ends_the_rollout_and_stays(catalogue):
    endpoints = EndpointStore(catalogue)
    by_hand = Plan("late", 2, (Arm("current", "late/2", 100.0),))
    event = PlanEvent("deployed", NOW, "ada", "", "late/2 answers late")
    endpoints.add([StoredPlan(by_hand, NOW, "ada")], [event])
    RolloutRunner(CountedServer(catalogue), catalogue, lambda *_: []).turn()
    (stored,) = RolloutStore(catalogue).decisions("r1")
    assert stored.decision.sentence == "ended: plan 2 of late was made meanwhile"
    assert endpoints.endpoint("late").current.plan == by_hand


def test_a_rollout_begins_where_the_version_is_current_that_it_was_asked_for_against(catalogue):
    RolloutRunner(CountedServer(catalogue), catalogue, lambda *_: []).turn()
    plan = EndpointStore(catalogue).endpoint("late").current.plan
    assert [arm.version for arm in plan.arms] == ["late/1", "late/2"]


def begun(catalogue, name, *guards):
    """A rollout of the endpoint `name` that has its first decision."""
    rollout = Rollout(
        id=f"r-{name}", started_at=NOW, endpoint=name, candidate=f"{name}/2", current=f"{name}/1",
        strategy="canary", guards=guards, step_s=0.0, steps_percent=(20.0, 100.0),
    )  # fmt: skip
    plan = Plan(name, 1, (Arm("current", f"{name}/1", 100.0),))
    RolloutStore(catalogue).add(rollout, by="ada", reason="", first=StoredPlan(plan, NOW, "ada"))


ACCURACY = Guard("accuracy", 0.02, "pp")
ARM = CohortArm(10_000, 0.0, (500.0,))


@pytest.mark.parametrize("broken", ["early", "rain"])
def test_a_rollout_that_cannot_be_decided_says_so_and_the_others_go_on(catalogue, broken):
    """Whichever of the two comes first."""
    begun(catalogue, "early", ACCURACY)
    begun(catalogue, "rain", ACCURACY)

    def count(rollout, stages, now):
        if rollout.endpoint == broken:
            wrong = CohortArm(10_000, 0.0, (20_000.0,))
            return [Cohort(0, 0, 1.0, wrong, wrong)]
        return [Cohort(0, stage, 1.0, ARM, ARM) for _, stage, *_ in stages[:1]]

    runner = RolloutRunner(CountedServer(catalogue), catalogue, count)
    for _ in range(3):
        runner.turn()
    store = RolloutStore(catalogue)
    troubled, other = (
        store.get(f"r-{name}").latest for name in sorted(["early", "rain"], key=broken.__ne__)
    )
    assert troubled.trouble == "Invalid: a cohort has more losses than predictions with a truth"
    assert troubled.sentence.startswith("cannot be decided, so its shares stay: Invalid")
    assert (other.trouble, other.revision) == ("", 1)
    assert len(store.decisions(f"r-{broken}")) == 1


def ledger_away(rollout, stages, now):
    raise Unavailable("the ledger changes faster than it can be read")


def test_a_ledger_that_is_away_is_told_and_keeps_no_other_guard_from_rolling_back(catalogue):
    begun(catalogue, "late-2", ACCURACY)
    store = RolloutStore(catalogue)
    with catalogue.write() as connection:  # the fixture's rollout, by outcomes too
        content = msgspec.to_builtins(
            msgspec.structs.replace(
                store.get("r1").rollout, guards=(Guard("errors", 0.02, "pp"), ACCURACY)
            )
        )
        connection.execute(
            sa.update(rollout_schema.rollouts).where(rollout_schema.rollouts.c.id == "r1")
            .values(content=content)
        )  # fmt: skip
    server = CountedServer(catalogue, bad_every=2)
    runner = RolloutRunner(server, catalogue, ledger_away)
    for _ in range(6):
        runner.turn()
        server.answer()
    assert type(store.get("r1").latest.state).__name__ == "Aborted"
    held = store.get("r-late-2").latest
    assert held.trouble.startswith("outcomes cannot be counted: Unavailable: the ledger")
    assert held.sentence.endswith(held.trouble)


def test_the_counts_of_a_look_stay_as_they_were_when_a_correction_comes(catalogue):
    begun(catalogue, "rain", ACCURACY)
    wrong = iter([500.0, 300.0, 300.0])

    def count(rollout, stages, now):
        arm = CohortArm(10_000, 0.0, (next(wrong),))
        return [Cohort(0, 0, 1.0, arm, arm), Cohort(1, 0, 2.0, ARM, ARM)]

    runner = RolloutRunner(CountedServer(catalogue), catalogue, count)
    store = RolloutStore(catalogue)
    for _ in range(4):
        runner.turn()
        runner._known.clear()
    as_of = store.cohorts_by_revision("r-rain")
    assert [as_of(n).cohorts[0].candidate.losses for n in (1, 2)] == [(500.0,), (300.0,)]
    assert as_of(2).cohorts[1].candidate == ARM
    assert store.cohorts("r-rain").revision == 2  # the same counts again are no revision
    assert as_of(0).cohorts == ()


def test_a_sealed_interval_keeps_counts_beyond_limits_that_were_known_before_it(catalogue):
    """And no durations: a rollout of a day has many intervals."""
    runner = RolloutRunner(CountedServer(catalogue), catalogue, lambda *_: [])
    runner.turn()
    store, lease = RolloutStore(catalogue), runner.leadership.lease
    fast, slow = place_of(30_000_000, 1), place_of(45_000_000, 1)

    def sealed(current, candidate):
        for host in ("a", "b"):
            store.put_counts(
                "r1", host,
                Interval(
                    0, 0, ArmCounts(current, durations=(fast, current)),
                    ArmCounts(candidate, durations=(slow, candidate)),
                ),
            )  # fmt: skip
        return store.seal("r1", lease)

    (first,) = sealed(100, 10)
    assert (first.current, first.candidate) == (ArmCounts(200), ArmCounts(20))
    (second,) = sealed(150, 30)
    assert second.current == ArmCounts(100, slow=((0, 100, 0, 100),))
    assert second.candidate == ArmCounts(40, slow=((0, 40, 40, 40),))
    assert sealed(150, 30) == []


class KeyedServer(CountedServer):
    """Every request has a key, and each unit of keys fails by a law of its own."""

    def __init__(self, catalogue, fails):
        super().__init__(catalogue)
        self._fails = fails
        self.requests_of_a_key = 0

    def arm_totals(self, _compared=""):
        made = []
        self.requests_of_a_key += 20
        for arm in super().arm_totals():
            plan = self._plans.endpoint("late").current.plan
            share = sum(one.share_percent for one in plan.arms if one.name == "candidate") / 100
            of_candidate = np.arange(KEY_UNITS) < math.floor(share * KEY_UNITS)
            if arm.plan_number != plan.number:
                continue
            firsts = np.where(self._fails, 7, 3) * (of_candidate == (arm.arm == "candidate"))
            requests = self.requests_of_a_key * int((firsts > 0).sum())
            errors = self.requests_of_a_key * int((firsts == 7).sum())
            made.append(
                replace(
                    arm, requests=requests, errors=errors, bound=requests, bound_errors=errors,
                    firsts=firsts.astype(np.uint8).tobytes(),
                )
            )  # fmt: skip
        return made


def test_keys_count_once_over_all_servers_and_their_requests_do_not(catalogue):
    fails = np.arange(KEY_UNITS) % 50 == 0
    runners = []
    for name in ("east", "west"):
        runner = RolloutRunner(KeyedServer(catalogue, fails), catalogue, lambda *_: [])
        runner._source = name
        runners.append(runner)
    for _ in range(3):
        for runner in runners:
            runner.turn()
    store = RolloutStore(catalogue)
    first = [one for one, _ in store.intervals("r1") if one.stage == 0]
    candidate, current = (
        sum(getattr(one, arm).keys for one in first) for arm in ("candidate", "current")
    )
    assert (candidate, current) == (819, KEY_UNITS - 820)  # 5 %, but for the unit where it ends
    assert sum(one.candidate.key_errors for one in first) == 17
    # Of three turns of the first server and two of the second one.
    assert sum(one.candidate.requests for one in first) == (60 + 40) * 819
    assert {(one.share, round(one.key_share, 4)) for one in first} == {(0.05, 0.05)}
    latest = store.get("r1").latest
    assert (latest.warning, latest.trouble) == ("", "")
