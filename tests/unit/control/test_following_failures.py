"""How tries to serve a plan are counted, spaced and stored, of a server that cannot load it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.loops.following import Follower
from bascule.core import ModelFailed, NotFound, Unavailable, Untrusted
from bascule.endpoints import Arm, EndpointStore, Plan, PlanEvent, StoredPlan
from bascule.release.rollouts import Guard, Rollout, RolloutStore
from bascule.serving import ModelSpec

NOW = datetime.now(UTC)


@dataclass
class LoadingServer:
    """A server that raises `error` where it should load; without one it serves the plan."""

    error: Exception | None = None
    services: tuple = ()
    plans: tuple = ()
    unserved: dict = field(default_factory=dict)
    place = "a:1"

    def change_all(self, edit):
        if self.error is not None:
            raise self.error
        self.services, self.plans = edit(self.services, self.plans)


@pytest.fixture
def catalogue(tmp_path):
    """With plan 2 of `late`, of a rollout, and plan 1 of `early`, made at once."""
    opened = Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))
    rollout = Rollout(
        id="r1", started_at=NOW, endpoint="late", candidate="late/2", current="late/1",
        strategy="canary", guards=(Guard("errors", 0.02, "pp"),),
    )  # fmt: skip
    plan = Plan("late", 1, (Arm("current", "late/1", 100.0),))
    RolloutStore(opened).add(rollout, by="ada", reason="", first=StoredPlan(plan, NOW, "ada"))
    arms = (Arm("current", "late/1", 95.0), Arm("candidate", "late/2", 5.0))
    store, event = EndpointStore(opened), PlanEvent("deployed", NOW, "ada", "", "")
    store.add([StoredPlan(Plan("late", 2, arms, rollout="r1"), NOW, "ada")], [event])
    early = Plan("early", 1, (Arm("current", "early/1", 100.0),))
    store.add([StoredPlan(early, NOW, "ada")], [event])
    return opened


def find(reference):
    model, _, number = reference.partition("/")
    return ModelSpec(model, number, Path("/bundles", reference))


def follower(server, find=find):
    return Follower(server, lambda: None, find, lambda: None, every_endpoint=True)


def failures(catalogue):
    return [
        (one.versions, one.tries, one.away)
        for one in RolloutStore(catalogue).load_failures("r1", NOW)
    ]


def let_pause_end(one):
    for failing in one._failing.values():
        failing.again_s = 0.0


def raising(error):
    def look(reference):
        if reference == "late/2":
            raise error
        return find(reference)

    return look


@pytest.mark.parametrize(
    ("error", "tries", "away"),
    [
        (Untrusted("it was altered", version="late/2"), 1, 0),
        (Unavailable("it died", version="late/2", while_loading=True), 1, 0),
        (Unavailable("it is started again", version="late/2", while_loading=False), 0, 1),
        (Unavailable("a worker died meanwhile", version="late/2"), 0, 1),
        (RuntimeError("a bug"), 1, 0),
    ],
)
def test_what_a_server_cannot_load_is_told_from_what_is_away(catalogue, error, tries, away):
    follower(LoadingServer(error)).reconcile(EndpointStore(catalogue))
    ((versions, *counted),) = failures(catalogue)
    assert counted == [tries, away]
    assert "late/2" in versions


@pytest.mark.parametrize(
    ("error", "counted"), [(NotFound("gone"), (1, 0)), (Unavailable("the store is away"), (0, 1))]
)
def test_a_version_that_is_not_found_is_named_and_keeps_no_other_endpoint(
    catalogue, error, counted
):
    server = LoadingServer()
    follower(server, raising(error)).reconcile(EndpointStore(catalogue))
    assert failures(catalogue) == [(("late/2",), *counted)]
    assert [plan.endpoint for plan in server.plans] == ["early"]


def test_tries_are_spaced_outlive_the_process_and_end_with_one_that_succeeds(catalogue):
    server, store = LoadingServer(ModelFailed("no licence")), EndpointStore(catalogue)
    tried = follower(server)
    tried.reconcile(store)
    tried.reconcile(store)  # too soon
    assert [one[1] for one in failures(catalogue)] == [1]
    let_pause_end(tried)
    tried.reconcile(store)
    assert [one[1] for one in failures(catalogue)] == [2]
    another = follower(server)  # of the next control process
    another.reconcile(store)
    assert [one[1] for one in failures(catalogue)] == [3]
    server.error = None
    let_pause_end(another)
    another.reconcile(store)
    assert failures(catalogue) == []
    assert server.unserved == {}


def test_a_failure_counts_until_the_next_try_should_have_been_reported(catalogue):
    server = LoadingServer(ModelFailed("no licence"))
    follower(server).reconcile(EndpointStore(catalogue))
    (failure,) = RolloutStore(catalogue).load_failures("r1", NOW)
    assert timedelta(0) < failure.until - datetime.now(UTC) < timedelta(minutes=5)


@pytest.mark.parametrize("ahead_min", [-5, 5])
def test_a_failure_counts_as_long_where_the_clock_of_a_host_differs(
    catalogue, monkeypatch, ahead_min
):
    class OfHost(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(minutes=ahead_min)

    monkeypatch.setattr("bascule.control.loops.following.datetime", OfHost)
    follower(LoadingServer(ModelFailed("no licence"))).reconcile(EndpointStore(catalogue))
    (failure,) = RolloutStore(catalogue).load_failures("r1")
    assert timedelta(0) < failure.until - datetime.now(UTC) < timedelta(minutes=5)


def test_a_plan_made_at_once_is_told_by_the_server_and_once_by_the_history(catalogue):
    server, store = LoadingServer(ModelFailed("no licence")), EndpointStore(catalogue)
    tried = follower(server)
    for _ in range(3):
        tried.reconcile(store)
        let_pause_end(tried)
    sentence = (
        "a:1 cannot serve plan 1 of early, and goes on with what it served before: no licence"
    )
    assert server.unserved == {"early": sentence}
    kinds = [event.kind for event in store.history("early")]
    assert kinds == ["deployed", "not_served"]
