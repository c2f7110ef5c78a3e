"""Another process takes the lease of rollouts in the middle of a look: one story, the same end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.unit.control.test_rollouts_killed import CountedServer

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.loops import rollouts as module
from bascule.control.loops.rollouts import RolloutRunner
from bascule.endpoints import Arm, EndpointStore, Plan, StoredPlan
from bascule.release.rollouts import (
    Aborted,
    Cohort,
    CohortArm,
    Guard,
    Rollout,
    RolloutStore,
    replay,
    table_of,
)

NOW = datetime.now(UTC)
EQUAL, WORSE = CohortArm(10_000, 0.0, (500.0,)), CohortArm(10_000, 0.0, (1_500.0,))


@pytest.fixture
def new_catalogue(tmp_path):
    numbers = iter(range(10))

    def make(*guards):
        made = Catalogue(SqliteDatabase(tmp_path / f"{next(numbers)}.db"))
        rollout = Rollout(
            id="r1", started_at=NOW, endpoint="late", candidate="late/2", current="late/1",
            strategy="canary", guards=guards or (Guard("errors", 0.02, "pp"),),
        )  # fmt: skip
        plan = Plan("late", 1, (Arm("current", "late/1", 100.0),))
        RolloutStore(made).add(rollout, by="ada", reason="", first=StoredPlan(plan, NOW, "ada"))
        return made

    return make


def runner_of(catalogue, name, count=lambda *_: [], server=None):
    runner = RolloutRunner(server or CountedServer(catalogue), catalogue, count, clock=lambda: NOW)
    runner._source = runner.leadership.holder = name
    return runner


ACCURACY = Guard("accuracy", 0.02, "pp")


def harmful(rollout, stages, now):
    return [Cohort(0, 0, 1.0, EQUAL, WORSE)]


class KilledError(BaseException):
    """As a kill: no handler runs."""


def test_a_leader_that_dies_between_a_count_of_outcomes_and_its_decision_changes_neither(
    new_catalogue, monkeypatch
):
    def die(*_, **__):
        raise KilledError

    ends = []
    for dies in (False, True):
        catalogue = new_catalogue(ACCURACY)
        store = RolloutStore(catalogue)
        first, second = (runner_of(catalogue, name, harmful) for name in ("first", "second"))
        first.turn()  # begins
        if dies:
            with monkeypatch.context() as patch:
                patch.setattr(module, "decide", die)
                with pytest.raises(KilledError):
                    first.turn()
            assert store.cohorts("r1").revision == 1, "counted, and not decided"
            assert len(store.decisions("r1")) == 1
        first.leadership.release()
        second.turn()
        ends.append(store.decisions("r1")[-1].decision)
        assert replay_differs(store) == []
    assert isinstance(ends[0].state, Aborted)
    assert ends[0].revision == 1
    assert ends[1] == ends[0]


def replay_differs(store):
    decided = [one for one in store.decisions("r1") if one.decision.is_by_evidence]
    table = table_of(one for one, _ in store.intervals("r1"))
    return replay(store.get("r1").rollout, decided, table, store.cohorts_by_revision("r1"))


def test_a_leader_that_comes_back_does_not_decide_by_its_count_of_before(new_catalogue):
    catalogue = new_catalogue(ACCURACY)
    store = RolloutStore(catalogue)
    losses = iter([500.0, 510.0, 520.0])

    def count(rollout, stages, now):
        arm = CohortArm(10_000, 0.0, (next(losses),))
        return [Cohort(0, 0, 1.0, arm, arm)]

    first, second = (runner_of(catalogue, name, count) for name in ("first", "second"))
    for runner in (first, first, second, first):
        runner.turn()
        runner.leadership.release()
    assert store.cohorts("r1").revision == 3
    assert store.get("r1").latest.revision == 3


def test_intervals_that_another_leader_sealed_meanwhile_are_in_the_table_once(
    new_catalogue, monkeypatch
):
    catalogue = new_catalogue()
    store, server = RolloutStore(catalogue), CountedServer(catalogue)
    first, second = (runner_of(catalogue, name, server=server) for name in ("first", "second"))
    first.turn()
    server.answer()
    first.turn()
    first.leadership.release()
    listed = first._store.active

    def and_then_the_other_turns():
        rollouts = listed()
        server.answer()
        second.turn()
        second.leadership.release()
        return rollouts

    with monkeypatch.context() as patch:
        patch.setattr(first._store, "active", and_then_the_other_turns)
        first.turn()
    for _ in range(2):
        server.answer()
        first.turn()
    sealed = [one for one, _ in store.intervals("r1")]
    assert len(sealed) > 3
    assert first._known["r1"].intervals == sealed
    assert store.get("r1").latest.intervals == len(sealed)


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_look_does_not_undo_a_command_that_was_given_meanwhile(
    new_catalogue, monkeypatch, is_broken
):
    catalogue = new_catalogue()
    store = RolloutStore(catalogue)
    runner = runner_of(catalogue, "first")
    runner.turn()
    decide = module.decide

    def decide_late(*given, **more):
        stored = store.get("r1")
        plan = EndpointStore(catalogue).endpoint("late").current.plan
        ended = module.superseded(stored, plan, NOW)
        record_end(store, stored, ended)
        if is_broken:
            raise ValueError("no such column")
        return decide(*given, **more)

    monkeypatch.setattr(module, "decide", decide_late)
    runner.turn()
    assert isinstance(store.get("r1").latest.state, Aborted)
    assert store.get("r1").latest.sentence.startswith("ended")


def record_end(store, stored, decision):
    store.record(
        stored,
        module.StoredDecision(
            number=stored.decisions + 1, at=NOW, made_by="ada", before=stored.latest.state,
            decision=decision, plan_number=None,
        ),
        None, has_ended=True,
    )  # fmt: skip
