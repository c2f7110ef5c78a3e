"""Latency: equal versions are promoted whatever the law of durations, and slow ones are found."""

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from tests.tiers import first_of

from bascule.release.rollouts import (
    DEFAULT_GUARDS,
    Aborted,
    ArmCounts,
    Guard,
    Interval,
    Promoted,
    Rollout,
    Running,
    check_rollout,
    decide,
    limits_of,
    table_of,
)
from bascule.release.rollouts.evidence import with_limits
from bascule.stats.durations import PLACES, place_of, sparse

START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = START + timedelta(hours=1)
LATENCY = Guard("latency", 0.2, "%")
REQUESTS = 500


def modes(shares, spread):
    """Modes a factor of ten apart, each log-normal; without a spread, steps."""
    at = 10.0 ** np.arange(len(shares))

    def law(random, n):
        return random.choice(at, n, p=shares) * random.lognormal(0, spread, n)

    return law


LAWS = {
    "lognormal .5": lambda random, n: random.lognormal(0, 0.5, n),
    "lognormal 1": lambda random, n: random.lognormal(0, 1, n),
    "pareto": lambda random, n: 1 + random.pareto(1.5, n),
    "bimodal": modes([0.9, 0.1], 0.3),
    "gap at p95": modes([0.955, 0.045], 0.3),
    "narrow": lambda random, n: random.normal(1, 0.02, n),
    "alike": lambda _, n: np.ones(n),
    "steps": modes([0.5, 0.4, 0.08, 0.02], 0.0),
}
FIRST = ("gap at p95", "pareto", "alike", "steps")
each_law = pytest.mark.parametrize("law", first_of(sorted(LAWS, key=lambda it: it not in FIRST), 4))


def plan(**changes):
    made = Rollout(
        id="r1", started_at=START, endpoint="late", candidate="late/5", current="late/4",
        strategy="canary", guards=DEFAULT_GUARDS, step_s=0.0,
    )  # fmt: skip
    return check_rollout(msgspec.structs.replace(made, **changes))


class Story:
    """A rollout whose intervals have `REQUESTS` answers, counted and sealed as the server does."""

    def __init__(self, rollout, law, slow=lambda took, _: took, *, scale_s=0.003, seed=0):
        self.rollout, self.law, self.slow, self.scale_s = rollout, law, slow, scale_s
        self.random = np.random.default_rng(seed)
        self.past = np.zeros(PLACES, np.int64)
        self.intervals = []
        self.state = Running(0, START)

    def durations(self, n, *, candidate):
        took = LAWS[self.law](self.random, n)
        return (self.slow(took, self.random) if candidate else took) * self.scale_s

    def rows(self, n, *, candidate):
        return np.ones(n, int)

    def arm(self, n, *, candidate):
        took, rows = self.durations(n, candidate=candidate), self.rows(n, candidate=candidate)
        places = [place_of(int(s * 1e9), int(r)) for s, r in zip(took, rows, strict=True)]
        return np.bincount(places, minlength=PLACES)

    def turn(self, *, looks=True):
        stage = self.state.stage
        n = int(self.random.binomial(REQUESTS, self.rollout.steps_percent[stage] / 100))
        current, candidate = self.arm(REQUESTS - n, candidate=False), self.arm(n, candidate=True)
        counted = Interval(
            number=len(self.intervals), stage=stage,
            current=ArmCounts(requests=REQUESTS - n, durations=sparse(current)),
            candidate=ArmCounts(requests=n, durations=sparse(candidate)),
        )  # fmt: skip
        past = Interval(0, 0, current=ArmCounts(durations=sparse(self.past)))
        limits = limits_of(self.rollout.guards, [past])
        self.past += current
        self.intervals.append(with_limits(counted, limits))
        if looks:
            decision = decide(self.rollout, self.state, table_of(self.intervals), now=LATER)
            self.state = decision.state
            self.sentence = decision.sentence

    def run(self, requests):
        """Every stage has a third of the requests."""
        total = requests // REQUESTS
        for number in range(total):
            if number % 10 == 9:
                self.turn()
                stage = min(3 * (number + 1) // total, 2)
                if isinstance(self.state, Running):
                    self.state = Running(stage, START)
                else:
                    break
            else:
                self.turn(looks=False)
        return self


@each_law
def test_an_equal_version_is_promoted_by_the_default_guards(law):
    story = Story(plan(), law).run(100_000)
    assert isinstance(story.state, Promoted), story.sentence


@each_law
def test_a_version_that_is_twice_as_slow_is_rolled_back(law):
    story = Story(plan(), law, lambda took, _: 2 * took).run(20_000)
    assert isinstance(story.state, Aborted)
    assert "late/5 is slower than late/4 by more than latency +20 % allows: at p" in story.sentence


@each_law
def test_a_version_whose_slowest_answers_take_four_times_as_long_is_rolled_back(law):
    def slow(took, random):
        tail = np.quantile(LAWS[law](np.random.default_rng(9), 100_000), 0.98)
        is_tail = (took >= tail) & (
            random.random(len(took)) < 0.02 / max((took >= tail).mean(), 0.02)
        )
        return np.where(is_tail, 4 * took, took)

    assert isinstance(Story(plan(), law, slow).run(50_000).state, Aborted)


def test_the_limits_of_an_interval_come_from_the_intervals_before_it():
    story = Story(plan(guards=(LATENCY,)), "lognormal 1")
    story.turn()
    assert story.intervals[0].current.slow == ()
    story.turn()
    (slow,) = story.intervals[1].current.slow
    assert slow[:2] == (0, story.intervals[1].current.requests)
    assert slow[2:] == tuple(sorted(slow[2:12], reverse=True)) + slow[12:]


class MixedStory(Story):
    """Requests of 1 row and of 1,000, which take 30 times as long and go to the candidate more."""

    large_shares = 0.1, 0.6

    def durations(self, n, *, candidate):
        self.large = self.random.random(n) < self.large_shares[candidate]
        return np.where(self.large, 30, 1) * super().durations(n, candidate=candidate)

    def rows(self, n, *, candidate):
        return np.where(self.large, 1_000, 1)


def test_an_arm_that_gets_more_large_requests_is_not_taken_for_a_slow_one():
    assert isinstance(MixedStory(plan(), "lognormal .5").run(60_000).state, Promoted)


@pytest.mark.parametrize("shares", [(0.1, 0.6), (0.03, 0.03)], ids=["many", "few"])
def test_a_version_that_is_slow_at_large_requests_alone_is_rolled_back(shares):
    """Also where it is faster at all others."""
    story = MixedStory(plan(), "lognormal .5")
    story.large_shares = shares
    story.slow = lambda took, _: np.where(story.large, 3, 0.8) * took
    assert isinstance(story.run(60_000).state, Aborted)


def test_a_hold_is_worded_as_a_hold():
    story = Story(plan(guards=(LATENCY,), steps_percent=(50.0, 100.0)), "lognormal 1")
    story.turn(looks=False)
    story.turn()
    assert story.sentence.startswith(
        "waits: not shown yet to be within latency +20 %: evidence of "
    )
    assert "20 to 1 needed; at p" in story.sentence
    assert "of the answers of late/5 are over the limit, and " in story.sentence
    assert "slower" not in story.sentence


def test_intervals_of_an_older_release_have_no_evidence_of_latency():
    old = {
        "number": 0,
        "stage": 0,
        "current": {"requests": 900, "slower": [450, 300, 50, 10, 9, 8]},
    }
    table = table_of([msgspec.convert(old, Interval)])
    decision = decide(plan(guards=(LATENCY,), min_requests=0), Running(2, START), table, now=LATER)
    assert decision.state == Running(2, START)
    assert decision.sentence.endswith("too few answers to compare")


@pytest.mark.parametrize("guard", [Guard("p50", 0.5, "%"), Guard("p95", 0.005, "ms")])
def test_a_quantile_is_guarded_by_itself_in_percent_and_in_milliseconds(guard):
    allowed, slow = (
        Story(plan(guards=(guard,)), "narrow", lambda took, _, by=by: by * took).run(20_000)
        for by in (1.4, 4)
    )
    assert isinstance(allowed.state, Promoted)
    assert isinstance(slow.state, Aborted)
    assert f"at {guard.name}, " in slow.sentence
