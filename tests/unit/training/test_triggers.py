"""A trigger starts a run where a condition holds and nothing speaks against it, and says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bascule.core import Invalid
from bascule.training import Facts, PastRun, Trigger, decide

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DRIFT = ("drift", "the mean of distance has moved by 2 sd")


def hours_ago(hours: float, **facts) -> PastRun:
    return PastRun(NOW - timedelta(hours=hours), **facts)


def test_an_alert_starts_a_run_with_its_sentence():
    trigger = Trigger(on=("drift",))
    assert decide(trigger, Facts([], [DRIFT]), NOW).sentence == DRIFT[1]
    assert decide(trigger, Facts([], [DRIFT]), NOW).starts
    assert not decide(trigger, Facts([], [("performance", "worse")]), NOW).starts
    assert not decide(trigger, Facts([], []), NOW).starts


@pytest.mark.parametrize(
    ("runs", "starts", "sentence"),
    [
        ([hours_ago(23.9)], False, "no run before 2026-11-30 12:06Z, to cool down"),
        ([hours_ago(24)], True, "the mean"),
        ([hours_ago(700, is_under_way=True)], False, "one is under way"),
        ([hours_ago(24 * day) for day in range(1, 11)], False, "10 in 30 days are the whole"),
        ([hours_ago(24 * day) for day in range(1, 10)], True, "the mean"),
        ([hours_ago(24 * day) for day in range(21, 31)], True, "the mean"),
    ],
)
def test_cool_down_budget_and_a_run_under_way_hold_a_run_back(runs, starts, sentence):
    decision = decide(Trigger(on=("drift",), budget=10), Facts(runs, [DRIFT]), NOW)
    assert decision.starts == starts
    assert sentence in decision.sentence


@pytest.mark.parametrize(
    ("on", "before", "now", "starts"),
    [
        ("5000 new rows", 10_000, 14_999, False),
        ("5000 new rows", 10_000, 15_000, True),
        ("5000 new rows", None, 10, True),
        ("5000 new rows", 10_000, 100, True),
        ("30 % new rows", 10_000, 12_999, False),
        ("30% new rows", 10_000, 13_000, True),
        ("new data", 10_000, 10_000, False),
        ("new data", 10_000, 10_001, True),
    ],
)
def test_new_rows_are_counted_from_the_last_run_that_had_read_some(on, before, now, starts):
    runs = [hours_ago(30), hours_ago(60, rows=before)]
    assert decide(Trigger(on=(on,)), Facts(runs, [], now), NOW).starts == starts


@pytest.mark.parametrize(
    "content",
    [
        {"on": []},
        {"on": ["dritf"]},
        {"on": ["0 new rows"]},
        {"on": ["0 % new rows"]},
        {"on": ["drift"], "budget": 0},
    ],
)
def test_a_trigger_that_could_never_start_is_refused(content):
    with pytest.raises(Invalid):
        Trigger.of(content)
