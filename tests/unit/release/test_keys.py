"""A sticky key counts once in a stage; a split that is not as planned holds the rollout."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from bench.sticky import CELLS, outcome_of

from bascule.endpoints import KEY_UNITS
from bascule.release.rollouts import (
    Aborted,
    ArmCounts,
    Cohort,
    CohortArm,
    Guard,
    Interval,
    Promoted,
    Rollout,
    Running,
    Told,
    cells_of,
    decide,
    forecast,
    packed,
    table_of,
)
from bascule.release.rollouts.evidence import KEY_COHORTS, cohorts_of
from bascule.release.rollouts.keys import add_keys
from bascule.stats import split_log_e

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DONE, FAILED, FELL_BACK, SEEN = 3, 7, 11, 1


def test_the_arm_of_a_key_is_open_between_the_shares_that_it_has_seen():
    cells = cells_of([0.05, 0.25, 0.5, 0.95])
    assert [(cell.low, cell.high) for cell in cells] == [(0, 1), (0.05, 1), (0.25, 1), (0.5, 1)]
    assert [round(cell.key_share, 2) for cell in cells] == [0.05, 0.21, 0.33, 0.9]
    up_and_down = cells_of([0.5, 0.2, 0.3, 0.5])
    assert [(cell.low, cell.high) for cell in up_and_down[1:3]] == [(0, 0.5), (0.2, 0.5)]
    assert up_and_down[3].key_share == 0.0  # whose arm it is was known


def test_no_unit_of_keys_has_two_arms():
    cell = cells_of([0.05, 0.25])[0]  # 5 % of 16,384 ends within a unit
    assert cell.candidate == (0, 819)
    assert cell.current == (820, KEY_UNITS)


def units(states):
    made = np.zeros(KEY_UNITS, np.uint8)
    for unit, state in states.items():
        made[unit] = state
    return packed([made.tobytes()])


def told(states, stage=1):
    cell = cells_of([0.05, 0.25])[stage]
    return Told(0, stage, share=cell.share, low=cell.low, high=cell.high, firsts=units(states))


def test_a_key_counts_once_over_all_sources_and_only_where_its_arm_is_open():
    # Of the candidate since the stage before, of the candidate, of the current version.
    first = told({0: FAILED, 1_000: FAILED, 9_000: DONE})
    second = told({1_000: DONE, 9_000: FAILED, 9_001: FELL_BACK, 9_002: SEEN})
    (made,), seen = add_keys(Interval(0, 1), [first, second], "")
    assert made.candidate == ArmCounts(keys=1, key_errors=1)
    assert made.current == ArmCounts(keys=2, key_fallbacks=1)
    assert made.key_share == pytest.approx(0.2 / 0.95, abs=1e-4)
    (again,), seen = add_keys(Interval(1, 1), [second, first], seen)
    assert again.candidate == again.current == ArmCounts()
    answered = told({9_002: DONE})
    (late,), _ = add_keys(Interval(2, 1), [answered], seen)
    assert late.current == ArmCounts(keys=1)


def test_a_later_round_is_an_interval_of_its_own():
    early = told({1_000: DONE, 9_000: DONE})
    _, seen = add_keys(Interval(0, 1), [early], "")
    later = told({1_000: 1 << 4 | FAILED, 9_000: DONE, 9_001: DONE})
    first, second = add_keys(Interval(3, 1), [later], seen)[0]
    assert (first.round_number, first.current) == (0, ArmCounts(keys=1))
    assert (second.round_number, second.candidate) == (1, ArmCounts(keys=1, key_errors=1))


@pytest.mark.slow
def test_users_with_habits_of_their_own_roll_nothing_back():
    """Counted by request, some of these are rolled back."""
    ends = Counter(outcome_of(100, 0.0, seed, requests=24_000) for seed in range(12))
    by_request = Counter(
        outcome_of(100, 0.0, seed, requests=24_000, by_key=False) for seed in range(12)
    )
    assert ends["aborted"] == 0
    assert by_request["aborted"] >= 2


def test_an_equal_version_is_promoted_where_there_are_keys_enough():
    assert outcome_of(10_000, 0.01, 3) == "promoted"


def test_a_version_that_fails_is_rolled_back_by_few_keys():
    assert outcome_of(300, 0.01, 3, harm=0.6) == "aborted"


def test_a_version_that_begins_to_fail_when_every_key_has_counted_is_rolled_back():
    """In the second round of the last stage."""
    assert outcome_of(300, 0.01, 3, harm=0.6, harmful_from=36) == "aborted"


@pytest.mark.slow
@pytest.mark.parametrize(("users", "margin"), CELLS)
def test_each_cell_keeps_its_promise_in_a_hundred_rollouts(users, margin):
    ends = Counter(outcome_of(users, margin, seed) for seed in range(100))
    assert ends["aborted"] <= 11  # 5 expected at most; 12 or more come in 0.5 % of runs


PLAN = Rollout(
    id="r1", started_at=NOW, endpoint="late", candidate="late/2", current="late/1",
    strategy="canary", guards=(Guard("errors", 0.01, "pp"),), step_s=0.0, min_requests=0,
)  # fmt: skip


def decided(*intervals, stage=0):
    state = Running(stage, NOW)
    return decide(PLAN, state, table_of(intervals), now=NOW + timedelta(minutes=10))


def split(candidate, current, *, share=0.05, **fields):
    return Interval(0, 0, ArmCounts(current), ArmCounts(candidate), share=share, **fields)


def test_a_split_that_is_not_as_planned_holds_the_rollout_and_says_so():
    decision = decided(split(710, 9_290))
    assert decision.state == Running(0, NOW)
    assert decision.warning == (
        "the split is not as planned: expected 5.0% of the requests of step 1 for the candidate, "
        "seen 7.1% of 10,000"
    )
    assert decision.sentence == f"waits: {decision.warning}"


@pytest.mark.parametrize("candidate", [480, 500, 530])
def test_a_split_as_planned_goes_on(candidate):
    decision = decided(split(candidate, 10_000 - candidate))
    assert (decision.warning, decision.state.stage) == ("", 1)


def test_a_split_by_a_router_is_not_judged():
    assert decided(split(710, 9_290, share=0.0)).warning == ""


def test_requests_whose_arm_was_not_drawn_are_no_part_of_the_split():
    tested = Interval(
        0, 0, ArmCounts(9_500), ArmCounts(900, bound=400, errors=400, bound_errors=400), share=0.05
    )
    decision = decided(tested)
    assert decision.warning == ""
    assert not isinstance(decision.state, Aborted)


def test_keys_are_split_as_planned_too():
    keys = Interval(
        0, 0, ArmCounts(9_000, bound=9_000, keys=9_000), ArmCounts(1_000, bound=1_000, keys=1_000),
        share=0.05, key_share=0.05,
    )  # fmt: skip
    assert "10.0% of 10,000" in decided(keys).warning
    assert "sticky keys" in decided(keys).warning


def test_a_split_is_said_to_be_off_in_few_of_those_that_are_not():
    random = np.random.default_rng(1)
    false = 0
    for _ in range(300):
        candidate = np.cumsum(random.binomial(100, 0.05, 200))
        logs = [
            split_log_e(int(n), 100 * look - int(n), 0.05) for look, n in enumerate(candidate, 1)
        ]
        false += max(logs) >= np.log(20)
    assert false <= 24  # 15 expected at most


def test_the_forecast_says_how_many_keys_are_needed():
    lines = [one.sentence for one in forecast(PLAN, rates={"errors": 0.01}, requests=100_000)]
    assert any("; with sticky keys: " in line and line.endswith(" keys") for line in lines)


@pytest.mark.slow
def test_an_equal_version_is_promoted_after_the_keys_that_the_forecast_says():
    sentence = forecast(PLAN, rates={"errors": 0.01}, requests=100_000)[-1].sentence
    needed = int(sentence.split("keys: ")[1].split()[0].replace(",", ""))
    ends = [outcome_of(2 * needed, 0.01, seed, requests=12 * needed) for seed in range(6)]
    assert ends.count("promoted") >= 4
    few = [outcome_of(needed // 4, 0.01, seed, requests=12 * needed) for seed in range(6)]
    assert few.count("promoted") <= 2


def test_a_promoted_version_needs_no_keys_where_there_are_none():
    many = Interval(0, 2, ArmCounts(20_000, 200), ArmCounts(20_000, 200), share=0.5)
    assert isinstance(decided(many, stage=2).state, Promoted)


def shared(requests, keys, *, errors, key_errors, share, key_share, stage):
    """An arm of the current version and one of the candidate, with exactly these rates."""
    arms = []
    for part, key_part in ((1 - share, 1 - key_share), (share, key_share)):
        drawn, firsts = round(part * requests), round(key_part * keys)
        arms.append(
            ArmCounts(
                drawn + firsts, round(drawn * errors) + round(firsts * key_errors), bound=firsts,
                bound_errors=round(firsts * key_errors), keys=firsts,
                key_errors=round(firsts * key_errors),
            )
        )  # fmt: skip
    return Interval(0, stage, *arms, share=share, key_share=key_share)


def test_keys_and_requests_with_rates_of_their_own_are_not_mixed():
    """A step gives the candidate another share of the keys than of the requests without one."""
    plan = msgspec.structs.replace(PLAN, guards=(Guard("errors", 0.0, "pp"),))
    parts = [
        shared(10_000, 10_000, errors=0.2, key_errors=0.01, share=0.5, key_share=1 / 3, stage=2)
        for _ in range(5)
    ]
    decision = decide(plan, Running(2, NOW), table_of(parts), now=NOW + timedelta(minutes=10))
    assert decision.log_e["all"] < 1
    pooled = [
        Interval(
            0, 2, *(ArmCounts(one.requests, one.errors) for one in (part.current, part.candidate))
        )
        for part in parts
    ]
    decision = decide(plan, Running(2, NOW), table_of(pooled), now=NOW + timedelta(minutes=10))
    assert isinstance(decision.state, Aborted)


def test_outcomes_of_keys_are_not_mixed_with_others():
    def arm(part, wrong):
        return CohortArm(round(part * 10_000), 0.0, (part * 10_000 * wrong,))

    cohorts = [
        Cohort(0, 2, 10.0, arm(0.5, 0.2), arm(0.5, 0.2)),
        Cohort(KEY_COHORTS, 2, 10.0, arm(2 / 3, 0.01), arm(1 / 3, 0.01)),
    ]
    assert [one.is_of_keys for one in cohorts] == [False, True]
    assert cohorts_of(cohorts, 0).shape == (2, 6)
    later = Cohort(1, 2, 20.0)
    assert sorted([later, *cohorts], key=lambda one: one.order) == [*cohorts, later]
