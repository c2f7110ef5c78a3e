"""Hosts that cannot load a candidate: the rollout waits for them, then ends, and says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.core import Invalid
from bascule.endpoints import Arm, Plan, StoredPlan
from bascule.release.rollouts import (
    Aborted,
    Baking,
    Decision,
    Guard,
    LoadFailure,
    Paused,
    Rollout,
    RolloutStore,
    Running,
    Shares,
    StoredDecision,
    Waiting,
    check_rollout,
    decide,
    replay,
    table_of,
)
from bascule.release.rollouts.loading import AWAY_TIMES

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING = table_of([])
ROLLOUT = Rollout(
    id="r1", started_at=T0, endpoint="late", candidate="late/2", current="late/1",
    strategy="canary", guards=(Guard("errors", 0.02, "pp"),), bake_s=60.0,
)  # fmt: skip


def failing(host="a:1", versions=("late/2",), *, tries=0, away=0, error="it was altered"):
    return LoadFailure(
        host=host, versions=versions, error=error, tries=tries, away=away,
        until=T0 + timedelta(minutes=5),
    )  # fmt: skip


STATES = [Running(0, T0), Waiting(0, T0), Paused(0, T0), Baking(1, T0)]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("tries", "ends"), [(1, False), (4, False), (5, True)])
def test_a_rollout_waits_for_a_host_until_its_tries_are_spent(state, tries, ends):
    decision = decide(ROLLOUT, state, NOTHING, now=T0, failures=(failing(tries=tries),))
    if ends:
        assert decision.state == Aborted(T0)
        assert decision.shares.candidate_percent == 0.0
        assert decision.trouble == ""
        assert decision.sentence == (
            "rolled back to late/1: late/2 cannot be loaded on a:1: it was altered, tried 5 times"
        )
    else:
        trouble = f"late/2 cannot be loaded on a:1: it was altered (try {tries} of 5)"
        assert decision.state == state
        assert decision.trouble == trouble


def test_a_host_that_cannot_load_holds_a_promotion_that_is_due():
    state, later = Baking(1, T0), T0 + timedelta(hours=1)
    assert decide(ROLLOUT, state, NOTHING, now=later).state != state
    held = decide(ROLLOUT, state, NOTHING, now=later, failures=(failing(tries=1),))
    assert (held.state, held.sentence) == (state, f"waits: {held.trouble}")


@pytest.mark.parametrize(("away", "ends"), [(5 * AWAY_TIMES - 1, False), (5 * AWAY_TIMES, True)])
def test_a_store_that_is_away_has_more_tries(away, ends):
    decision = decide(ROLLOUT, STATES[0], NOTHING, now=T0, failures=(failing(away=away),))
    assert isinstance(decision.state, Aborted) == ends


def test_tries_of_both_kinds_are_not_added():
    failures = (failing(tries=4, away=5 * AWAY_TIMES - 1),)
    assert decide(ROLLOUT, STATES[0], NOTHING, now=T0, failures=failures).state == STATES[0]


def test_a_host_that_cannot_load_the_current_version_does_not_end_the_rollout():
    failures = (failing(versions=("late/1",), tries=100),)
    decision = decide(ROLLOUT, STATES[0], NOTHING, now=T0, failures=failures)
    assert decision.state == STATES[0]
    assert decision.trouble.startswith("late/1 cannot be loaded on a:1")


def test_a_rollout_in_trouble_ends_at_its_longest_time():
    failures, late = (failing(versions=("late/1",), tries=1),), T0 + timedelta(days=8)
    decision = decide(ROLLOUT, STATES[0], NOTHING, now=late, failures=failures)
    assert decision.sentence.startswith("ended without a promotion after 7 d: waits: late/1 cannot")


def test_every_host_is_named_as_far_as_a_sentence_has_room():
    failures = tuple(failing(f"h{n}:1", tries=1) for n in range(5))
    trouble = decide(ROLLOUT, STATES[0], NOTHING, now=T0, failures=failures).trouble
    assert [f"h{n}:1" in trouble for n in range(5)] == [True, True, True, False, False]
    assert trouble.endswith("and 2 more hosts")


def test_the_number_of_tries_is_of_the_rollout():
    once = check_rollout(
        Rollout(**{name: getattr(ROLLOUT, name) for name in ROLLOUT.__struct_fields__}
                | {"load_tries": 1})
    )  # fmt: skip
    decision = decide(once, STATES[0], NOTHING, now=T0, failures=(failing(tries=1),))
    assert isinstance(decision.state, Aborted)
    with pytest.raises(Invalid, match="load_tries must be 1 or more"):
        check_rollout(
            Rollout(**{name: getattr(ROLLOUT, name) for name in ROLLOUT.__struct_fields__}
                    | {"load_tries": 0})
        )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    opened = RolloutStore(Catalogue(SqliteDatabase(tmp_path / "catalogue.db")))
    plan = Plan("late", 1, (Arm("current", "late/1", 100.0),))
    opened.add(ROLLOUT, by="ada", reason="", first=StoredPlan(plan, T0, "ada"))
    return opened


def test_failures_are_stored_by_host_until_they_end_or_the_host_goes_silent(store):
    store.put_load_failure("r1", "b:1", failing("b:1", tries=1))
    store.put_load_failure("r1", "a:1", failing("a:1", tries=1))
    store.put_load_failure("r1", "a:1", failing("a:1", tries=2))
    assert [(f.host, f.tries) for f in store.load_failures("r1", T0)] == [("a:1", 2), ("b:1", 1)]
    store.put_load_failure("r1", "b:1", None)
    assert [f.host for f in store.load_failures("r1", T0)] == ["a:1"]
    assert store.load_failures("r1", T0 + timedelta(minutes=6)) == ()


def test_a_decision_by_failures_is_made_again_from_what_is_stored(store):
    stored = store.get("r1")
    decision = decide(ROLLOUT, STATES[0], NOTHING, now=T0, failures=(failing(tries=5),))
    made = StoredDecision(
        number=1, at=T0, made_by="a", before=STATES[0], decision=decision, plan_number=None
    )
    store.record(stored, made, None, has_ended=True)
    decisions = store.decisions("r1")
    assert decisions == [made]
    assert decisions[0].decision.is_by_evidence
    assert replay(ROLLOUT, decisions, NOTHING) == []


def test_a_decision_of_an_earlier_release_has_no_trouble():
    import msgspec

    old = {"state": {"type": "paused", "stage": 0, "since": T0.isoformat()},
           "shares": {"candidate_percent": 5.0}, "sentence": "held"}  # fmt: skip
    read = msgspec.convert(old, Decision)
    assert (read.trouble, read.failures, read.shares) == ("", (), Shares(5.0))
