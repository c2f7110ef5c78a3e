"""Alerts of rollouts in trouble, and of plans that a server cannot serve."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from bascule.catalogue import Catalogue, Leases, SqliteDatabase
from bascule.endpoints import Arm, Plan, StoredPlan
from bascule.monitoring.alerts.sources import (
    HealthLimits,
    HealthSource,
    RolloutSource,
    ServerFacts,
)
from bascule.release.rollouts import Decision, Guard, Rollout, RolloutStore, Running, Shares

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_rollout_whose_latest_look_has_trouble_is_found_until_a_look_has_none(tmp_path):
    catalogue = Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))
    store = RolloutStore(catalogue)
    source = RolloutSource(store.troubles)
    assert source.look(T0) == []
    rollout = Rollout(
        id="r1", started_at=T0, endpoint="late", candidate="late/2", current="late/1",
        strategy="canary", guards=(Guard("errors", 0.02, "pp"),),
    )  # fmt: skip
    plan = Plan("late", 1, (Arm("current", "late/1", 100.0),))
    store.add(rollout, by="ada", reason="", first=StoredPlan(plan, T0, "ada"))
    (nothing,) = source.look(T0)
    assert (nothing.model, nothing.findings) == ("late", ())
    lease = Leases(catalogue).acquire("rollouts", "a", 60.0)
    look = Decision(
        state=Running(0, T0), shares=Shares(5.0), sentence="held: x", trouble="late/2 is gone"
    )
    store.look(store.active()[0], look, lease)
    ((finding,),) = [seen.findings for seen in source.look(T0)]
    assert finding.sentence == "rollout r1 of late cannot go on: late/2 is gone"
    assert (finding.source, finding.kind, finding.column) == (
        "rollouts", "rollout_in_trouble", "r1",
    )  # fmt: skip
    store.look(
        store.active()[0], Decision(state=look.state, shares=look.shares, sentence="held: y"), lease
    )
    assert [seen.findings for seen in source.look(T0)] == [()]


def test_a_plan_that_a_server_cannot_serve_is_a_finding_of_the_server():
    facts = ServerFacts(0.0, {}, (1.0,), 0, {"late": "plan 2 of late: it is gone"})
    moments = iter([facts, replace(facts, at_s=15.0, unserved={})])
    source = HealthSource(lambda: next(moments), HealthLimits(), "a:1")
    (look,) = source.look(T0)
    (finding,) = look.findings
    assert (finding.kind, finding.column, finding.place) == ("plan_not_served", "late", "a:1")
    assert finding.sentence == "plan 2 of late: it is gone"
    assert [seen.findings for seen in source.look(T0)] == [()]
