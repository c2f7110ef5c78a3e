"""A contextual bandit: what it learns and decides, and what each version would have earned."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import norm
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tests.ledger_rows import table

import bascule
from bascule.bundle.disk import write_statement
from bascule.bundle.features import FEATURES_KIND
from bascule.core import Invalid
from bascule.endpoints import Arm, ContextFeature, ContextPolicy, Plan, context_of
from bascule.monitoring.ledger import (
    CountedLoss,
    Ledger,
    Outcomes,
    Span,
    SteeredAnswers,
    write_segment,
)
from bascule.monitoring.ledger.manifest import commit, read_manifest
from bascule.release.rollouts import (
    Aborted,
    ArmCounts,
    Cohort,
    CohortArm,
    Cohorts,
    Decision,
    Guard,
    Interval,
    Promoted,
    Recording,
    Rollout,
    Running,
    StoredDecision,
    Waiting,
    check_rollout,
    decide,
    obey,
    plan_of,
    prepare,
    replay,
    start,
    table_of,
)
from bascule.release.rollouts.counting import Stage, count_outcomes
from bascule.release.rollouts.evidence import KEY_COHORTS, steered_sums
from bascule.release.rollouts.losses import LABELS, loss_sql
from bascule.release.rollouts.strategies.contextual import learn
from bascule.release.rollouts.valuing import read_values, steered_values
from bascule.stats import linear_posterior, policy_value, thompson_shares

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
FEATURES = ContextFeature("a", "a"), ContextFeature("b", "b")
ACCURACY, ERRORS = Guard("accuracy", 0.3, "pp"), Guard("errors", 0.01, "pp")


def rollout(**changes):
    made = Rollout(
        id="r1", started_at=START, endpoint="late", candidate="late/5", current="late/4",
        strategy="contextual", guards=(ACCURACY, ERRORS), step_s=10.0, steps_percent=(50.0,),
        context=FEATURES,
    )  # fmt: skip
    return check_rollout(msgspec.structs.replace(made, **changes))


def candidate_chances(policy, contexts):
    """Of each request, the propensity of the candidate, computed apart from the policy's code."""
    if not policy.gain:
        return np.full(len(contexts), 0.5)
    variance = np.einsum("ni,ij,nj->n", contexts, np.array(policy.covariance), contexts)
    preferred = norm.cdf(contexts @ np.array(policy.gain) / np.sqrt(variance))
    preferred = np.minimum(preferred.round(3), policy.most)
    return policy.floor + (1 - 2 * policy.floor) * preferred


def products(contexts, rewards):
    """The sums of those with a reward, as `linear_posterior` has them."""
    known = ~np.isnan(rewards)
    numbers = np.column_stack([contexts[known], rewards[known]])
    return numbers.T @ numbers


def vector(contexts, rewards):
    """As the ledger sums them: all answers, then those with a reward."""
    sums = products(contexts, rewards)
    return (float(len(contexts)), *sums[np.triu_indices(len(sums))])


def posterior(x, r):
    return linear_posterior(products(x, r))


SUITS = lambda x: np.column_stack([0.5 + 0.15 * x[:, 1], 0.5 - 0.15 * x[:, 1]])  # noqa: E731
ALIKE = lambda x: np.tile([0.5, 0.55], (len(x), 1))  # noqa: E731


def requests(random, number):
    return np.column_stack([np.ones(number), np.clip(random.normal(size=(number, 2)), -3, 3)])


def lost(truth, seed, *, by_context, number=20_000, turn=500):
    """Rewards lost a request against the better arm of each."""
    random = np.random.default_rng(seed)
    x = requests(random, number)
    rates, policy, share = truth(x), ContextPolicy(FEATURES), 0.5
    arms, rewards = np.zeros(number, int), np.zeros(number)
    for begin in range(0, number, turn):
        now, past = slice(begin, begin + turn), slice(begin + turn)
        chances = candidate_chances(policy, x[now]) if by_context else share
        arms[now] = random.random(turn) < chances
        rewards[now] = random.random(turn) < rates[now][np.arange(turn), arms[now]]
        of = [arms[past] == arm for arm in (0, 1)]
        if by_context:
            policy = learn(policy, *(products(x[past][mask], rewards[past][mask]) for mask in of))
        else:
            won = [rewards[past][mask].sum() for mask in of]
            share = float(thompson_shares(won, [mask.sum() for mask in of])[1])
    return float((rates.max(axis=1) - rates[np.arange(number), arms]).mean())


def test_less_is_lost_than_by_a_plain_bandit_where_the_context_matters():
    by_context, plain = (
        np.mean([lost(SUITS, seed, by_context=kind) for seed in range(3)]) for kind in (True, False)
    )
    assert by_context < 0.2 * plain


def test_about_as_much_is_lost_where_the_context_does_not_matter():
    """The floor alone loses 0.0025 of each reward, by either."""
    by_context, plain = (
        np.mean([lost(ALIKE, seed, by_context=kind) for seed in range(10)])
        for kind in (True, False)
    )
    assert by_context == pytest.approx(plain, abs=0.003)


def test_weights_are_those_of_ridge_regression():
    random = np.random.default_rng(0)
    x, r = requests(random, 400), random.random(400)
    padded = np.vstack([x, np.diag([0.1, 1, 1])]), np.append(r, np.zeros(3))
    expected = np.linalg.lstsq(*padded, rcond=None)[0]
    mean, covariance = posterior(x, r)
    assert mean == pytest.approx(expected, rel=1e-9)
    assert np.linalg.eigvalsh(covariance).min() > 0
    learnt = learn(ContextPolicy(FEATURES), products(x, r), products(x, 1 - r))
    assert learnt.gain == pytest.approx(posterior(x, 1 - r)[0] - mean, rel=1e-5)
    assert np.array(learnt.covariance) == pytest.approx(
        covariance + posterior(x, 1 - r)[1], rel=1e-5
    )
    tiny = posterior(x[:0], r[:0])
    assert (tiny[0] == 0).all()
    assert np.isfinite(tiny[1]).all()


# -- decisions --


class Traffic:
    """An endpoint under a contextual rollout: an interval and a cohort every ten seconds."""

    def __init__(self, truth, *, failing=0.0, requests=400, seed=0, **changes):
        self.plan, self.truth, self.failing, self.requests = (
            rollout(**changes), truth, failing, requests,
        )  # fmt: skip
        self.random, self.now = np.random.default_rng(seed), START
        self.decision = start(self.plan, START)
        self.intervals, self.cohorts, self.stored = [], [], []

    def turn(self, *, known=1.0):
        random, n = self.random, self.requests
        x = requests(random, n)
        policy = getattr(self.decision.state, "policy", None) or ContextPolicy(FEATURES)
        explored = random.random(n) < (2 * policy.floor if policy.gain else 1.0)
        chances = candidate_chances(policy, x)
        preferred = (chances - policy.floor) / (1 - 2 * policy.floor)
        arms = (random.random(n) < np.where(explored, 0.5, preferred)).astype(int)
        rewards = (random.random(n) < self.truth(x)[np.arange(n), arms]).astype(float)
        rewards[random.random(n) > known] = np.nan
        failed = random.random(n) < 0.005 + self.failing * arms
        counted, late = [], []
        for arm in (0, 1):
            mine, drawn = arms == arm, (arms == arm) & explored
            counted.append(
                ArmCounts(
                    requests=int(mine.sum()), errors=int((failed & mine).sum()),
                    bound=int((mine & ~explored).sum()),
                    bound_errors=int((failed & mine & ~explored).sum()),
                )
            )  # fmt: skip
            unknown = int(np.isnan(rewards[drawn]).sum())
            losses = (float(np.nansum(1 - rewards[drawn])),)
            late.append(
                CohortArm(
                    int(drawn.sum()), unknown, losses, losses,
                    moments=vector(x[mine], rewards[mine]),
                )
            )  # fmt: skip
        number = len(self.intervals)
        self.intervals.append(Interval(number, 0, *counted, share=0.5))
        self.now += timedelta(seconds=10)
        self.cohorts.append(Cohort(number, 0, (self.now - START).total_seconds(), *late))
        before = self.decision.state
        self.decision = decide(
            self.plan, before, table_of(self.intervals), now=self.now,
            cohorts=self.cohorts_at(number + 1),
        )  # fmt: skip
        self.stored.append(
            StoredDecision(
                number=number + 1, at=self.now, made_by="c", before=before,
                decision=self.decision, plan_number=None,
            )
        )  # fmt: skip
        return self.decision

    def cohorts_at(self, revision):
        return Cohorts(revision, tuple(self.cohorts[:revision]))

    def run(self, turns):
        while turns and isinstance(self.decision.state, Running):
            self.turn()
            turns -= 1
        return self.decision


def test_requests_get_the_version_that_suits_them_and_replay_says_the_same():
    traffic = Traffic(SUITS)
    assert traffic.decision.state.policy == ContextPolicy(FEATURES)
    decision = traffic.run(100)
    assert isinstance(decision.state, Running)
    policy = decision.state.policy
    assert policy.preference([1, 2, 0]) < 0.01 < 0.99 < policy.preference([1, -2, 0])
    plans = {msgspec.json.encode(stored.decision.state) for stored in traffic.stored}
    assert 5 < len(plans) < 40, "a plan is made where the policy has changed by enough"
    as_json = msgspec.json.encode(traffic.stored)
    stored = msgspec.json.decode(as_json, type=list[StoredDecision])
    assert replay(traffic.plan, stored, table_of(traffic.intervals), traffic.cohorts_at) == []


def test_a_candidate_that_is_better_everywhere_is_promoted_and_one_that_fails_is_not():
    better = Traffic(lambda x: np.tile([0.5, 0.8], (len(x), 1))).run(300)
    assert isinstance(better.state, Promoted)
    assert "preferred in nearly every context" in better.sentence
    suits_but_fails = Traffic(SUITS, failing=0.1).run(300)
    assert isinstance(suits_but_fails.state, Aborted)
    assert "of the answers of late/5 failed" in suits_but_fails.sentence


def test_which_requests_a_version_gets_is_no_harm_of_it():
    """Hard requests go to the candidate, which errs less there; all are compared on explored ones.

    Of what it answered, it was wrong more often than the current version by 25 points.
    """
    hard = lambda x: np.where(  # noqa: E731
        x[:, [1]] > 0, np.tile([0.3, 0.45], (len(x), 1)), np.tile([0.95, 0.85], (len(x), 1))
    )
    traffic = Traffic(hard, guards=(Guard("accuracy", 0.1, "pp"), ERRORS))
    decision = traffic.run(150)
    assert isinstance(decision.state, Running), decision.sentence
    totals = [steered_sums([cohort]) for cohort in traffic.cohorts[-50:]]
    right = [sum(arms[arm, 0, -1] for arms in totals) for arm in (0, 1)]
    answers = [sum(arms[arm, 0, 0] for arms in totals) for arm in (0, 1)]
    assert right[0] / answers[0] - right[1] / answers[1] > 0.25


def test_before_an_approval_no_context_sends_the_candidate_more_than_half():
    traffic = Traffic(SUITS, needs_approval=True)
    traffic.run(60)
    policies = [getattr(one.decision.state, "policy", None) for one in traffic.stored]
    chances = [candidate_chances(one, requests(traffic.random, 100)) for one in policies if one]
    assert len(chances) > 5
    assert max(map(np.max, chances)) <= 0.5
    better = Traffic(lambda x: np.tile([0.5, 0.8], (len(x), 1)), needs_approval=True)
    assert isinstance(better.run(300).state, Waiting)


def test_nothing_is_learnt_before_the_truths_of_a_span_are_in():
    traffic = Traffic(SUITS)
    for _ in range(20):
        decision = traffic.turn(known=0.9)
    assert decision.state.policy.gain == ()
    assert "of no span of time are all truths in" in decision.sentence


def test_a_decision_makes_the_policy_part_of_the_plan_and_its_end_takes_it_away():
    plan, before = rollout(), Plan("late", 1, (Arm("current", "late/4", 100.0),))
    begun = start(plan, START)
    steered = plan_of(plan, begun, before)
    assert steered.context == ContextPolicy(FEATURES)
    assert [arm.share_percent for arm in steered.arms] == [50.0, 50.0]
    paused = obey(plan, begun.state, "pause", "ada", "", START)
    assert plan_of(plan, paused, steered).context == steered.context
    assert obey(plan, paused.state, "resume", "ada", "", START).state == begun.state
    aborted = Decision(state=Aborted(START), shares=begun.shares, sentence="")
    assert plan_of(plan, aborted, steered).context is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": ()}, "needs inputs to steer by"),
        ({"strategy": "bandit"}, "no other strategy has them"),
        ({"context": tuple(ContextFeature(f"c{n}") for n in range(17))}, "16 numbers, not 17"),
        ({"steps_percent": (10.0,)}, "steps of contextual are 50"),
        ({"guards": (ERRORS,)}, "compares outcomes"),
        ({"guards": (Guard("roc_auc", 0.01, "pp"),)}, "of pairs"),
        ({"context": FEATURES * 2}, "twice"),
    ],
)
def test_what_cannot_be_steered_is_refused(changes, words):
    with pytest.raises(Invalid, match=words):
        rollout(**changes)


# -- features --


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Of a model with a number, a text of ten values, and inputs that say nothing."""
    random = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "age": random.normal(3.0, 2.0, 3_000),
            "region": random.choice(list("abcdefghij"), 3_000),
            "key": [f"key{number}" for number in range(3_000)],
            "empty": np.nan,
            "huge": random.choice([-1e300, 1e300], 3_000),
        }
    )
    model = make_pipeline(
        make_column_transformer(("passthrough", ["age"]), ("drop", list(X.columns[1:]))),
        LogisticRegression(),
    ).fit(X, X.age > 3)
    to = tmp_path_factory.mktemp("features") / "bundle"
    return bascule.pack(model, name="named", train=X, to=to, measure=False)


def prepared(bundle, *names, home, private=None, feature_store=""):
    plan = rollout(
        current="named/1", candidate="named/2", endpoint="named", guards=(ACCURACY,),
        context=tuple(map(ContextFeature, names)),
    )  # fmt: skip
    recording = Recording(True, private or {}, 1_024, feature_store)
    return prepare(plan, lambda _: bundle, Ledger(home), recording).context


def test_features_have_the_scale_of_the_training_rows(bundle, tmp_path):
    age, region = prepared(bundle, "age", "region", home=tmp_path)
    assert (age.field, age.place, age.categories) == ("age", 0, ())
    assert (age.mean, age.scale) == pytest.approx((3, 2), abs=0.3)
    assert len(region.categories) == 8
    assert set(region.categories) < set("abcdefghij")


def test_a_column_of_a_matrix_is_found_by_its_name(tmp_path):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=["a", "b", "c"])
    model = LogisticRegression().fit(X.to_numpy(), X.a > 0)
    matrix = bascule.pack(model, name="named", train=X, to=tmp_path / "b", measure=False)
    (second,) = prepared(matrix, "b", home=tmp_path)
    assert second.place == 2
    assert context_of((second,), {second.field: np.array([[0, second.mean, 0]])}) == [1, 0]


@pytest.mark.parametrize(
    ("names", "private", "words"),
    [
        (["height"], {}, "no input of one value named 'height'"),
        (["age"], {"age": "hash"}, "does not keep age"),
        (["age"], {"named.age": "omit"}, "does not keep age"),
        (["age", "region", "age"], {}, "twice"),
        (["key"], {}, "no scale and no frequent values of key"),
        (["empty"], {}, "no scale and no frequent values of empty"),
        (["huge"], {}, "no scale and no frequent values of huge"),
    ],
)
def test_an_input_by_which_nothing_can_be_steered_is_refused(
    bundle, tmp_path, names, private, words
):
    with pytest.raises(Invalid, match=words):
        prepared(bundle, *names, home=tmp_path, private=private)


def test_what_a_feature_store_gives_once_the_version_is_known_steers_no_request(bundle, tmp_path):
    path = shutil.copytree(bundle.path, tmp_path / "named.bundle")
    said = {"source": "all", "keys": {"key": "BYTES"}, "max_age_s": {"age": 0.0}}
    write_statement(path, FEATURES_KIND, said, at=START, by="test")
    looked_up = bascule.load(path)
    assert prepared(looked_up, "age", home=tmp_path), "callers send it where no store is set"
    with pytest.raises(Invalid, match="age is looked up"):
        prepared(looked_up, "age", home=tmp_path, feature_store="feast://here")
    assert prepared(looked_up, "region", home=tmp_path, feature_store="feast://here")


# -- the ledger --


def answered(home, ids, at, x, *, arm="candidate", rows=None, propensity=0.5, labels=None):
    made = table(ids, at)
    changed = {
        "arm": pa.array([arm] * len(ids)), "output.label": pa.array(labels or [1] * len(ids)),
        "row": pa.array(np.array(rows or [0] * len(ids), np.int32)),
        "propensity": pa.array([propensity] * len(ids), pa.float64()),
        "plan": pa.array([7] * len(ids), pa.int32()), "input.a": pa.array(x, pa.float64()),
    }  # fmt: skip
    for name, values in changed.items():
        if name in made.column_names:
            made = made.drop_columns([name])
        made = made.append_column(name, values)
    manifest = read_manifest(home)
    file = f"{manifest.sequence + 1:08d}.parquet"
    manifest.segments.append(write_segment(home, made, "gb", "1", "2026-11-01", file))
    manifest.sequence += 1
    commit(home, manifest)


def asked(home):
    spans = [
        Span(n, START + timedelta(minutes=n), START + timedelta(minutes=n + 1), plan=7)
        for n in range(2)
    ]
    loss = CountedLoss(loss_sql("accuracy", LABELS, 0), "output.label")
    context = ["1", 'coalesce("input.a", 0)']
    return SteeredAnswers(Ledger(home), "gb", "gb", "candidate", spans, loss, context)


def test_sums_are_of_the_newest_truths_however_often_and_late_they_come(tmp_path):
    answered(tmp_path, ["a", "b", "c"], START, [2.0, -1.0, None])
    answered(tmp_path, ["d", "d"], START + timedelta(minutes=1), [3.0, 9.0], rows=[0, 1])
    answered(tmp_path, ["other"], START, [5.0], arm="current")
    answered(tmp_path, ["keyed"], START, [5.0], propensity=None)
    assert asked(tmp_path).moments() == {
        0: (3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        1: (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    }
    outcomes = Outcomes(tmp_path)
    for truths in ([0, 1, 1], [0, 1, 1], [1, 1, 0]):
        outcomes.add("gb", pa.table({"id": ["a", "b", "c"], "truth": truths}))
    outcomes.add("gb", pa.table({"id": ["d#0"], "truth": [1]}))
    x, r = np.array([[1, 2], [1, -1], [1, 0]]), np.array([1.0, 1.0, 0.0])
    once = asked(tmp_path).moments()
    assert once[0] == pytest.approx(vector(x, r))
    assert once[1][:2] == (1.0, 0.0), "a request counts once all its rows have their truth"
    outcomes.add("gb", pa.table({"id": ["d#1"], "truth": [0]}))
    assert asked(tmp_path).moments()[1] == (1, 1, 3, 0.5, 9, 1.5, 0.25)
    rows = asked(tmp_path).rows([0, 1])
    assert sorted(map(tuple, rows[:, 1:])) == [
        (0.0, 0.5, 1.0, 0.0), (0.5, 0.5, 1.0, 3.0), (1.0, 0.5, 1.0, -1.0), (1.0, 0.5, 1.0, 2.0),
    ]  # fmt: skip
    assert asked(tmp_path).rows([0, 1]).tolist() == rows.tolist()
    assert asked(tmp_path).rows([1])[:, 1:].tolist() == [[0.5, 0.5, 1.0, 3.0]]


def test_a_ledger_of_earlier_releases_has_no_steered_answers(tmp_path):
    made = table(["a"], START).append_column("output.label", pa.array([1]))
    made = made.append_column("input.a", pa.array([1.0]))
    assert "propensity" not in made.column_names
    manifest = read_manifest(tmp_path)
    manifest.segments.append(write_segment(tmp_path, made, "gb", "1", "2026-11-01", "1.parquet"))
    commit(tmp_path, manifest)
    assert asked(tmp_path).moments() == {}


# -- off-policy estimates --


def test_values_are_of_all_spans_whose_truths_are_in_whatever_else_was_answered(tmp_path):
    """A span that keeps lacking truths, and requests with a key, are left out."""
    outcomes = Outcomes(tmp_path)
    for arm, rate in (("current", 3), ("candidate", 2)):
        for minute in range(3):
            ids = [f"{arm}{minute}-{number}" for number in range(120)]
            answered(tmp_path, ids, START + timedelta(minutes=minute), [0.5] * 120, arm=arm)
            known = ids[: 60 if minute == 1 else 120]
            right = [int(number % rate > 0) for number in range(len(known))]
            outcomes.add("gb", pa.table({"id": known, "truth": right}))
    plan = rollout(
        endpoint="gb", current="gb/1", candidate="gb/2", context=(ContextFeature("a", "a"),),
        guards=(msgspec.structs.replace(ACCURACY, loss=LABELS),),
    )  # fmt: skip
    ledger, now = Ledger(tmp_path), START + timedelta(minutes=4)
    stages = [Stage(START, 0, 0.5, 7)]
    made = count_outcomes(ledger, plan, stages, now)
    keyed = Cohort(KEY_COHORTS, 0, 60.0, CohortArm(9), CohortArm(9))
    values = read_values(ledger, plan, stages, [made[0], keyed, *made[1:]], now)
    assert values.answers == 480
    assert values.values["gb/1"].value == pytest.approx(2 / 3, abs=0.01)
    assert values.values["gb/2"].value == pytest.approx(1 / 2, abs=0.01)


def test_estimates_are_unbiased_by_enumeration_of_all_that_can_happen():
    """Two contexts, two arms, two rewards: the mean over every case is the value of the policy."""
    logged, played = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([[0.2, 0.8], [1.0, 0.0]])
    rates, model = np.array([[0.3, 0.6], [0.5, 0.2]]), np.array([[0.9, 0.1], [0.4, 0.4]])
    true = float((played * rates).sum(axis=1).mean())
    means = np.zeros(2)
    for x in (0, 1):
        for arm in (0, 1):
            for reward in (0, 1):
                rate = rates[x, arm] if reward else 1 - rates[x, arm]
                facts = [reward] * 2, [arm] * 2, [logged[x, arm]] * 2, played[[x, x]]
                value, plain = policy_value(*facts, model[[x, x]]), policy_value(*facts)
                chance = 0.5 * logged[x, arm] * rate
                means += chance * np.array([value.value, plain.value])
    assert means == pytest.approx([true, true], abs=1e-12)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (([1], [0], [0.5], [[1, 0]]), "two rows"),
        (([1, 0], [0, 1], [0.5], [[1, 0]] * 2), "all its facts"),
        (([1, 0], [0, 1], [0.5, 0.0], [[1, 0]] * 2), "propensities"),
        (([1, 0], [0, 1], [0.5, float("nan")], [[1, 0]] * 2), "propensities"),
    ],
)
def test_what_cannot_be_estimated_is_refused(facts, words):
    with pytest.raises(Invalid, match=words):
        policy_value(*facts)


def coverage(truth, runs, seed, number=2_000):
    """How often the intervals of both arms and of the learnt policy hold the truth.

    Answers are drawn by a policy that learns from them, as a rollout does.
    """
    held, turn = [], 400
    for run in range(runs):
        random = np.random.default_rng([seed, run])
        x = requests(random, number)
        rates, policy = truth(x), ContextPolicy(FEATURES)
        arms, rewards, drawn = np.zeros(number, int), np.zeros(number), np.zeros(number)
        for begin in range(0, number, turn):
            now, past = slice(begin, begin + turn), slice(begin + turn)
            chances = candidate_chances(policy, x[now])
            arms[now] = random.random(turn) < chances
            drawn[now] = np.where(arms[now], chances, 1 - chances)
            rewards[now] = random.random(turn) < rates[now][np.arange(turn), arms[now]]
            policy = learn(
                policy, *(products(x[past][arms[past] == arm], rewards[past][arms[past] == arm])
                          for arm in (0, 1))
            )  # fmt: skip
        order = random.permutation(number)
        values = steered_values(x[order], arms[order], rewards[order], drawn[order])
        fresh = requests(random, 20_000)
        of_fresh = truth(fresh)
        expected = [*of_fresh.mean(axis=0), _of_learnt(x, arms, rewards, order, fresh, of_fresh)]
        held.append(
            [value.low <= true <= value.high for value, true in zip(values, expected, strict=True)]
        )
    return np.mean(held, axis=0)


def _of_learnt(x, arms, rewards, order, fresh, rates):
    """The mean value of the policies of the five folds, on requests that none of them has seen."""
    folds, values = np.arange(len(x)) % 5, []
    for fold in range(5):
        weights = [
            posterior(x[order][mask], rewards[order][mask])[0]
            for mask in ((folds != fold) & (arms[order] == arm) for arm in (0, 1))
        ]
        better = np.clip(fresh @ weights[1], 0, 1) > np.clip(fresh @ weights[0], 0, 1)
        values.append(rates[np.arange(len(fresh)), better.astype(int)].mean())
    return np.mean(values)


def test_intervals_hold_the_truth_in_a_few_runs():
    assert coverage(SUITS, 40, 0).min() >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("truth", [SUITS, ALIKE])
def test_intervals_of_95_percent_hold_the_truth_in_93_percent_of_runs_at_least(truth):
    assert coverage(truth, 1_000, 1, 4_000).min() >= 0.93
