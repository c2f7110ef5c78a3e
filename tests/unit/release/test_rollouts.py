"""Rollouts: harm rolls back, proof promotes, too little traffic holds, and a replay agrees."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.tiers import examples, first_of

from bascule.core import Conflict, Invalid
from bascule.release.rollouts import (
    DEFAULT_GUARDS,
    NO_COHORTS,
    Aborted,
    ArmCounts,
    Baking,
    Cohort,
    CohortArm,
    Cohorts,
    Decision,
    Guard,
    Interval,
    Passed,
    Paused,
    Promoted,
    Rollout,
    Running,
    State,
    Waiting,
    check_limits,
    check_rollout,
    decide,
    forecast,
    obey,
    parse_guard,
    replay,
    start,
    summed,
    table_of,
)
from bascule.release.rollouts.evidence import CANDIDATE, CURRENT, column, grouped

START = datetime(2026, 1, 1, tzinfo=UTC)
ERRORS = Guard("errors", 0.01, "pp")


def rollout(**changes):
    made = Rollout(
        id="r1", started_at=START, endpoint="late", candidate="late/5", current="late/4",
        strategy="canary", guards=(ERRORS,), step_s=60.0,
    )  # fmt: skip
    return check_rollout(msgspec.structs.replace(made, **changes))


class Stored(NamedTuple):
    before: State
    at: datetime
    decision: Decision


class Traffic:
    """A simulated endpoint: an interval every ten seconds, with the shares of the decision."""

    def __init__(self, plan, *, rate=0.005, harm=0.0, requests=300, wrong=None, seed=0):
        self.plan, self.rate, self.harm, self.requests = plan, rate, harm, requests
        self.wrong = wrong or (0.1, 0.1)
        self.random = np.random.default_rng(seed)
        self.intervals = []
        self.table = table_of([])
        self.now = plan.started_at
        self.decision = start(plan, self.now)
        self.stored = []
        self.cohorts = []

    def cohorts_at(self, revision):
        return Cohorts(revision, tuple(self.cohorts[:revision]))

    def arm(self, n, rate):
        return ArmCounts(requests=n, errors=int(self.random.binomial(n, rate)))

    def late(self, n, wrong):
        """All truths are in by the next look, but for one in a hundred, which never comes."""
        unknown = n // 100
        return CohortArm(n, unknown, (float(self.random.binomial(n - unknown, wrong)),))

    def turn(self):
        shares = self.decision.shares
        n = self.requests
        tried = int(self.random.binomial(n, shares.candidate_percent / 100))
        copied = int(self.random.binomial(n, shares.shadow_percent / 100))
        stage = getattr(self.decision.state, "stage", 0)
        self.intervals.append(
            Interval(
                number=len(self.intervals), stage=stage,
                current=self.arm(n - tried, self.rate),
                candidate=self.arm(tried + copied, self.rate + self.harm),
                compared=copied, disagreements=int(self.random.binomial(copied, 0.02)),
            )
        )  # fmt: skip
        self.table = np.concatenate([self.table, table_of(self.intervals[-1:])])
        self.now += timedelta(seconds=10)
        before, cohorts = self.decision.state, NO_COHORTS
        if any(guard.is_on_outcomes for guard in self.plan.guards):
            ended_s = (self.now - START).total_seconds()
            arms = self.late(n - tried, self.wrong[0]), self.late(tried, self.wrong[1])
            self.cohorts.append(Cohort(len(self.cohorts), stage, ended_s, *arms))
            cohorts = self.cohorts_at(len(self.cohorts))
        self.decision = decide(self.plan, before, self.table, now=self.now, cohorts=cohorts)
        self.stored.append(Stored(before, self.now, self.decision))

    def run(self, turns=2_000):
        for _ in range(turns):
            if isinstance(self.decision.state, Aborted | Promoted | Passed):
                break
            self.turn()
        return self.decision


def test_a_good_version_goes_up_its_steps_and_is_promoted():
    traffic = Traffic(rollout())
    decision = traffic.run()
    assert isinstance(decision.state, Promoted)
    assert decision.shares.candidate_percent == 100
    stages = [one.decision.shares.candidate_percent for one in traffic.stored]
    assert list(dict.fromkeys(stages)) == [5, 25, 50, 100]
    assert "within every guard" in decision.sentence


def test_a_harmful_version_is_rolled_back_with_the_sentence_that_says_why():
    decision = Traffic(rollout(), harm=0.05).run()
    assert isinstance(decision.state, Aborted)
    assert decision.shares.candidate_percent == 0
    assert decision.sentence.startswith("rolled back to late/4: ")
    assert "of the answers of late/5 failed" in decision.sentence
    assert "allowed errors +1 pp" in decision.sentence
    assert "requests saw late/5" in decision.sentence


def test_few_requests_hold_however_long_it_takes():
    decision = Traffic(rollout(), requests=1).run(500)
    assert decision.state == Running(0, START)
    assert "of at least 100 requests" in decision.sentence


def test_a_step_lasts_its_time_however_much_traffic_there_is():
    traffic = Traffic(rollout(), requests=100_000)
    traffic.run(5)
    assert traffic.decision.state == Running(0, START)
    traffic.run(1)
    assert isinstance(traffic.decision.state, Running)
    assert traffic.decision.state.stage == 1


def test_without_proof_the_last_step_is_not_taken():
    traffic = Traffic(rollout(guards=(Guard("errors", 0.0001, "pp"),), max_s=7_200.0))
    decision = traffic.run()
    assert isinstance(decision.state, Aborted)
    assert "ended without a promotion after 2 h" in decision.sentence
    assert "not shown yet to be within errors +0.01 pp" in decision.sentence


def test_a_promoted_version_that_does_harm_while_it_bakes_is_rolled_back():
    traffic = Traffic(rollout(bake_s=3_600.0))
    while not isinstance(traffic.decision.state, Baking):
        traffic.turn()
    assert traffic.decision.shares.candidate_percent == 95
    traffic.harm = 0.1
    decision = traffic.run()
    assert isinstance(decision.state, Aborted)


def test_a_version_that_bakes_without_harm_is_promoted():
    traffic = Traffic(rollout(bake_s=600.0))
    assert isinstance(traffic.run().state, Promoted)
    assert any(isinstance(one.before, Baking) for one in traffic.stored)


def test_the_last_step_waits_for_an_approval():
    traffic = Traffic(rollout(needs_approval=True))
    while not isinstance(traffic.decision.state, Waiting):
        traffic.turn()
    traffic.turn()
    assert traffic.decision.sentence == "waits for an approval"
    made = obey(traffic.plan, traffic.decision.state, "promote", "ada", "looks fine", traffic.now)
    assert isinstance(made.state, Promoted)
    assert made.sentence == "promoted by ada: looks fine"


def test_harm_ends_a_rollout_that_is_paused():
    traffic = Traffic(rollout(), harm=0.1)
    traffic.turn()
    paused = obey(traffic.plan, traffic.decision.state, "pause", "ada", "", traffic.now)
    assert isinstance(paused.state, Paused)
    traffic.decision = paused
    traffic.turn()
    assert traffic.decision.shares.candidate_percent == 5
    assert isinstance(traffic.run().state, Aborted)


def test_commands_that_have_no_meaning_are_refused():
    plan = rollout()
    with pytest.raises(Conflict, match="running, so it cannot resume"):
        obey(plan, Running(0, START), "resume", "ada", "", START)
    with pytest.raises(Conflict, match="has ended"):
        obey(plan, Aborted(START), "promote", "ada", "", START)
    assert obey(plan, Paused(1, START), "resume", "ada", "", START).state == Running(1, START)
    assert isinstance(obey(plan, Waiting(1, START), "abort", "ada", "", START).state, Aborted)


def test_a_shadow_gives_no_client_an_answer_and_passes():
    plan = rollout(
        strategy="shadow", steps_percent=(20.0,), guards=(Guard("disagreement", 0.05, "pp"), ERRORS)
    )
    traffic = Traffic(plan)
    decision = traffic.run()
    assert isinstance(decision.state, Passed)
    assert {one.decision.shares.candidate_percent for one in traffic.stored} == {0}


def test_a_shadow_that_disagrees_too_often_ends():
    plan = rollout(
        strategy="shadow", steps_percent=(20.0,), guards=(Guard("disagreement", 0.005, "pp"),)
    )
    decision = Traffic(plan).run()
    assert isinstance(decision.state, Aborted)
    assert "of the answers of late/5 differ from those of late/4" in decision.sentence


ACCURACY = Guard("accuracy", 0.02, "pp")


def test_an_ab_test_promotes_the_better_version():
    plan = rollout(strategy="ab", steps_percent=(50.0,), guards=(ACCURACY,))
    decision = Traffic(plan, wrong=(0.2, 0.12)).run()
    assert isinstance(decision.state, Promoted)
    assert "better by" in decision.sentence


def test_an_ab_test_of_equal_versions_ends_as_futile():
    plan = rollout(strategy="ab", steps_percent=(50.0,), guards=(ACCURACY,))
    decision = Traffic(plan, requests=2_000).run()
    assert isinstance(decision.state, Aborted)
    assert "futile" in decision.sentence


def test_a_bandit_moves_traffic_to_the_better_version():
    plan = rollout(strategy="bandit", steps_percent=(50.0,), guards=(ACCURACY,), step_s=30.0)
    traffic = Traffic(plan, wrong=(0.2, 0.17))
    decision = traffic.run()
    assert isinstance(decision.state, Promoted)
    assert max(one.decision.shares.candidate_percent for one in traffic.stored[:-1]) > 80


def test_all_at_once_is_guarded_while_it_bakes():
    plan = rollout(strategy="all", bake_s=3_600.0)
    traffic = Traffic(plan, harm=0.1)
    assert traffic.decision.shares.candidate_percent == 95
    assert isinstance(traffic.run().state, Aborted)
    assert isinstance(start(rollout(strategy="all"), START).state, Promoted)


def test_blue_green_is_loaded_first_and_then_takes_everything():
    traffic = Traffic(rollout(strategy="blue-green"))
    assert traffic.decision.shares.candidate_percent == 0
    assert isinstance(traffic.run().state, Promoted)


@pytest.mark.parametrize(
    ("harm", "strategy"), first_of([(0.05, "canary"), (0.0, "bandit"), (0.0, "canary")], 2)
)
def test_every_stored_decision_is_made_again_from_what_is_stored(harm, strategy):
    guards = (ERRORS, ACCURACY) if strategy == "bandit" else DEFAULT_GUARDS
    traffic = Traffic(rollout(strategy=strategy, guards=guards), harm=harm)
    traffic.run(120)
    as_json = msgspec.json.encode(traffic.intervals)
    intervals = msgspec.json.decode(as_json, type=list[Interval])
    decisions = [
        msgspec.json.decode(msgspec.json.encode(one.decision), type=Decision)
        for one in traffic.stored
    ]
    stored = [
        one._replace(decision=made) for one, made in zip(traffic.stored, decisions, strict=True)
    ]
    table, cohorts_at = table_of(intervals), traffic.cohorts_at
    assert replay(traffic.plan, stored, table, cohorts_at) == []
    altered = msgspec.structs.replace(stored[-1].decision, state=Promoted(START))
    changed = [stored[-1]._replace(decision=altered)]
    assert len(replay(traffic.plan, changed, table, cohorts_at)) == 1


@pytest.mark.slow
def test_good_versions_are_rolled_back_at_most_one_time_in_twenty():
    guards = (Guard("errors", 0.0, "pp"),)
    ended = [
        Traffic(rollout(guards=guards, max_s=3_600.0), seed=seed).run().sentence
        for seed in range(200)
    ]
    assert sum(one.startswith("rolled back") for one in ended) <= 20


@given(parts=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=30))
@settings(max_examples=examples(30), deadline=None)
def test_groups_depend_on_numbers_of_requests_alone_and_lose_only_the_last(parts):
    intervals = [
        Interval(
            number=n,
            stage=0,
            current=ArmCounts(requests=a, errors=a),
            candidate=ArmCounts(requests=b),
        )
        for n, (a, b) in enumerate(parts)
    ]

    columns = tuple(
        column(arm, name) for arm in (CANDIDATE, CURRENT) for name in ("requests", "errors")
    )
    made = grouped(table_of(intervals), columns)
    total = sum(a + b for a, b in parts)
    kept = int(made[:, [0, 2]].sum())
    assert total - kept < 100 + 180
    assert len(made) <= total // 100
    longer = grouped(
        table_of([*intervals, Interval(number=99, stage=0, current=ArmCounts(requests=50))]),
        columns,
    )
    assert np.array_equal(longer[: len(made)], made)


def test_hosts_are_added_up_within_an_interval():
    first = ArmCounts(10, 1, durations=(3, 4, 9, 2))
    second = ArmCounts(20, 0, durations=(2, 1, 9, 1))
    made = summed(
        [
            Interval(3, 1, first, ArmCounts(5), compared=2),
            Interval(3, 1, second, ArmCounts(7, 2), disagreements=1),
        ]
    )
    both = ArmCounts(30, 1, durations=(2, 1, 3, 4, 9, 3))
    assert made == Interval(3, 1, both, ArmCounts(12, 2), compared=2, disagreements=1)


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("errors +1 pp", Guard("errors", 0.01, "pp")),
        ("p95 +20%", Guard("p95", 0.2, "%")),
        ("P99.9 + 5 ms", Guard("p99.9", 0.005, "ms")),
        ("accuracy -2 pp", Guard("accuracy", 0.02, "pp")),
    ],
)
def test_guards_are_read_as_they_are_said(text, guard):
    assert parse_guard(text) == guard
    assert parse_guard(str(guard)) == guard


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("errors", "is no guard"),
        ("speed +1 %", "no guard 'speed'"),
        ("errors +1 %", "in pp"),
        ("p95 +20 pp", "in % or ms"),
        ("errors -1 pp", "allows a gain"),
        ("accuracy +1 pp", "allows a gain"),
        ("errors +100 pp", "allows everything"),
        ("p95 +0 %", "allows no noise"),
        ("latency +3 %", "counted in steps of 3.7 %"),
    ],
)
def test_guards_that_make_no_sense_are_refused(text, words):
    with pytest.raises(Invalid, match=words):
        parse_guard(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidate": "late/4"}, "is the current version"),
        ({"strategy": "magic"}, "no strategy"),
        ({"steps_percent": (5.0, 5.0, 100.0)}, "must rise"),
        ({"steps_percent": (0.0, 100.0)}, "must rise"),
        ({"steps_percent": (5.0, 50.0)}, "must be 100"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"guards": ()}, "needs a guard"),
        ({"guards": (ERRORS, ERRORS)}, "there twice"),
        ({"strategy": "ab"}, "compares outcomes"),
        ({"guards": (Guard("disagreement", 0.1, "pp"),)}, "in a shadow only"),
        ({"strategy": "shadow"}, None),
        ({"strategy": "shadow", "guards": (*DEFAULT_GUARDS,)}, "latency of a shadow"),
    ],
)
def test_rollouts_whose_parts_do_not_fit_are_refused(changes, words):
    if words is None:
        assert rollout(**changes)
        return
    with pytest.raises(Invalid, match=words):
        rollout(**changes)


def test_more_quantiles_than_intervals_keep_are_refused():
    guards = tuple(Guard(name, 0.2, "%") for name in ("latency", "p75", "p90"))
    check_limits(guards)
    with pytest.raises(Invalid, match="more quantiles of latency"):
        check_limits((*guards, Guard("p99", 0.2, "%")))


def test_a_forecast_says_what_will_be_found_and_what_cannot():
    made = forecast(rollout(guards=(ERRORS,)), rates={"errors": 0.02}, requests=20_000, runs=60)
    assert [one.harm for one in made] == [0.01, 0.02, 0.05, 0.0]
    assert "cannot be found in 20,000 requests at 5%" in made[0].sentence
    assert "is found after about" in made[2].sentence
    assert made[3].sentence.startswith("that an equal version is within errors +1 pp")


def test_assumed_rates_are_told_by_what_the_guard_is_called_by():
    guards = (ERRORS, Guard("approval", 0.05, "pp"), Guard("p95", 0.2, "%"))
    made = forecast(rollout(guards=guards), rates={}, requests=1_000, runs=5)
    assert {line.assumed for line in made} == {"errors 1%", "approval 80%", ""}
