"""What the controller of rollouts does in one turn."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.unit.control.test_rollouts_killed import CountedServer

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.rollouts import RolloutRunner
from bascule.endpoints import Arm, EndpointStore, Plan, PlanEvent, StoredPlan
from bascule.release.rollouts import Guard, Rollout, RolloutStore

NOW = datetime.now(UTC)


@pytest.fixture
def catalogue(tmp_path):
    """With a rollout of `late/2` that was asked for against `late/1`."""
    made = Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))
    rollout = Rollout(
        id="r1", started_at=NOW, endpoint="late", candidate="late/2", current="late/1",
        strategy="canary", guards=(Guard("errors", 0.02, "pp"),),
    )  # fmt: skip
    plan = Plan("late", 1, (Arm("current", "late/1", 100.0),))
    RolloutStore(made).add(rollout, by="ada", reason="", first=StoredPlan(plan, NOW, "ada"))
    return made


def test_a_plan_that_is_made_before_the_first_decision_ends_the_rollout_and_stays(catalogue):
    endpoints = EndpointStore(catalogue)
    by_hand = Plan("late", 2, (Arm("current", "late/2", 100.0),))
    event = PlanEvent("deployed", NOW, "ada", "", "late/2 answers late")
    endpoints.add([StoredPlan(by_hand, NOW, "ada")], [event])
    RolloutRunner(CountedServer(catalogue), catalogue, lambda _: {}).turn()
    (stored,) = RolloutStore(catalogue).decisions("r1")
    assert stored.decision.sentence == "ended: plan 2 of late was made meanwhile"
    assert endpoints.endpoint("late").current.plan == by_hand


def test_a_rollout_begins_where_the_version_is_current_that_it_was_asked_for_against(catalogue):
    RolloutRunner(CountedServer(catalogue), catalogue, lambda _: {}).turn()
    plan = EndpointStore(catalogue).endpoint("late").current.plan
    assert [arm.version for arm in plan.arms] == ["late/1", "late/2"]
