"""What a device does next, from facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, strategies as st

from bascule.edge import Candidate, Channel, Offer, Plan, State
from bascule.edge.deciding import (
    Facts,
    Trial,
    Tried,
    breach,
    installed,
    may_fetch,
    next_act,
    offer_for,
    refused,
    returned,
    settled,
    started,
)

OLD, NEW = Offer("1", "sha256:1"), Offer("2", "sha256:2")
PLAN = Plan()
SERVING = State(device="d", current=OLD)
KNOWN = Facts(channel=Channel("late", NEW, 1), look_at_s=1e9)


def act(state=SERVING, now_s=0.0, plan=PLAN, **facts):
    return next_act(state, replace(KNOWN, **facts), plan, now_s).verb


def test_a_device_looks_fetches_tries_and_installs_in_this_order():
    there = {"slots": {NEW.digest}}
    assert act(channel=None, look_at_s=0.0) == "look"
    assert act() == "fetch"
    assert act(**there) == "record"
    assert act(**there, trial=recorded(2, most=3)) == "rest"
    assert act(**there, trial=recorded(3, most=3)) == "try"
    assert act(**there, tried=Tried(digest=NEW.digest, requests=3)) == "install"
    assert act(**there, tried=Tried(digest=OLD.digest, requests=3)) == "record"
    assert act(replace(SERVING, current=NEW)) == "rest"


def test_a_device_without_a_version_installs_what_was_proven_without_a_trial():
    assert act(State(device="d"), slots={NEW.digest}) == "install"


def recorded(count, most=PLAN.trial_requests, size=1):
    trial = Trial(NEW.digest, 0.0, most)
    for _ in range(count):
        trial.record(b"x" * size, -1)
    return trial


def test_a_trial_that_few_requests_reach_ends_after_its_time():
    there = {"slots": {NEW.digest}}
    assert act(**there, trial=recorded(1), now_s=PLAN.trial_s - 1) == "rest"
    assert act(**there, trial=recorded(1), now_s=PLAN.trial_s) == "try"
    assert act(**there, trial=recorded(0), now_s=PLAN.trial_s) == "install"


def test_few_large_requests_are_recorded():
    trial = recorded(PLAN.trial_requests, size=1 << 20)
    assert len(trial.requests) == 4
    assert act(slots={NEW.digest}, trial=trial) == "try"


@pytest.mark.parametrize(
    ("tried", "verb"),
    [({"requests": 20, "failed": 2}, "install"), ({"requests": 20, "failed": 3}, "refuse"),
     ({"requests": 1, "failed": 1}, "refuse"), ({"problem": "it hangs"}, "refuse")],
)  # fmt: skip
def test_a_trial_allows_the_share_of_failures_that_the_plan_allows(tried, verb):
    assert act(slots={NEW.digest}, tried=Tried(digest=NEW.digest, **tried)) == verb


@pytest.mark.parametrize(
    ("requests", "failed", "is_bad"), [(19, 19, False), (20, 2, False), (20, 3, True)]
)
def test_few_requests_are_not_judged_and_the_limit_is_the_largest_share_allowed(
    requests, failed, is_bad
):
    window = [True] * failed + [False] * (requests - failed)
    assert bool(breach(window, PLAN)) == is_bad


def test_a_share_of_the_devices_takes_a_candidate_and_the_stable_version_where_it_was_refused():
    channel = Channel("late", OLD, 1, Candidate("2", NEW.digest, "r", 0.3, "salt"))
    states = [State(device=f"d-{number}") for number in range(1000)]
    takers = [state for state in states if offer_for(channel, state) == NEW]
    assert 250 <= len(takers) <= 350
    assert offer_for(channel, refused(takers[0], NEW, "bad")) == OLD
    assert offer_for(channel, refused(refused(takers[0], NEW, "bad"), OLD, "bad")) is None


@pytest.mark.parametrize(
    ("hours", "hour", "may"),
    [(None, 12, True), ((22, 5), 21, False), ((22, 5), 22, True), ((22, 5), 5, True),
     ((22, 5), 6, False), ((1, 3), 0, False), ((1, 3), 3, True)],
)  # fmt: skip
def test_bundles_are_fetched_in_the_hours_of_the_plan(hours, hour, may):
    plan = Plan(hours=hours)
    assert may_fetch(plan, hour) == may
    assert act(plan=plan, hour=hour) == ("fetch" if may else "rest")


EVENTS = {
    "start": lambda state, offer: started(state, PLAN)[0],
    "settle": lambda state, offer: settled(state),
    "install": installed,
    "refuse": lambda state, offer: refused(state, offer, "bad"),
    "return": lambda state, offer: returned(state, "bad") if state.last_good else state,
}


@example([("install", 0), ("refuse", 1), ("return", 0)])
@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(0, 4)), max_size=40))
def test_a_device_that_once_served_always_has_a_version_that_was_not_refused(history):
    state = SERVING
    for event, number in history:
        offer = Offer(str(number), f"sha256:{number}")
        is_new = offer != state.current and offer.digest not in state.refused
        if is_new or event in ("start", "settle", "return"):
            state = EVENTS[event](state, offer)
        assert state.current is not None
        assert state.current.digest not in state.refused
        assert state.last_good != state.current
