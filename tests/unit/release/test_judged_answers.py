"""Rollouts on what people and a judge model think of texts: a biased judge decides nothing."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pytest
from tests.chat_models import answered_texts, chat_bundle
from tests.judged_answers import World, ended, judged, rectified

from bascule.core import Invalid
from bascule.endpoints import Arm, Plan, Shadow
from bascule.monitoring import KEPT_TEXT
from bascule.monitoring.ledger import (
    CountedLoss,
    Ledger,
    Outcomes,
    Span,
    count_cohorts,
    outcome_draw,
)
from bascule.release.rollouts import (
    ArmCounts,
    Cohorts,
    Interval,
    Recording,
    Rollout,
    Running,
    Stage,
    count_outcomes,
    decide,
    parse_guard,
    prepare,
    table_of,
)
from bascule.release.rollouts.deciding import start
from bascule.release.rollouts.losses import Loss, Rectifier, loss_sql
from bascule.release.rollouts.plan import check_rollout
from bascule.release.rollouts.store import plan_of
from bascule.stats import JudgeCalibration, calibrate_judge

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)
ARMS = ("current", "candidate")
JUDGES = {"strict": 1.0}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    bundle = chat_bundle(tmp_path_factory.mktemp("chat") / "1", "chat", {"hello": "hi"})
    return {"chat/1": bundle, "chat/2": bundle}


def served(home, world, count, *, seed=0, start=T0):
    """Answers of both arms within ten minutes: ids, which are good, and the judge's scores."""
    random = np.random.default_rng(seed)
    arms = []
    for arm, rate in enumerate((world.current, world.candidate)):
        ids = [f"{seed}-{arm}-{n}" for n in range(count)]
        at = [start + timedelta(seconds=600 * n / count) for n in range(count)]
        good = random.random(count) < rate
        answered_texts(home, ids, at, ["hi"] * count, arm=ARMS[arm], version=str(arm + 1))
        arms.append((ids, good, judged(world, arm, good, random)))
    return arms


def label(home, ids, good, share):
    rows = [(i, bool(g), None) for i, g in zip(ids, good, strict=True) if outcome_draw(i) < share]
    Outcomes(home).add_rows("chat", rows)
    return np.array([outcome_draw(i) < share for i in ids])


def keep_verdicts(home, ids, scores):
    rows = [
        (i, "unusable" if np.isnan(s) else float(s), None) for i, s in zip(ids, scores, strict=True)
    ]
    Outcomes(home).add_rows("strict", rows, of_judge=True)


def rollout(*guards, **changes):
    fields = {
        "id": "r1", "started_at": T0, "endpoint": "chat", "candidate": "chat/2",
        "current": "chat/1", "strategy": "canary", "guards": tuple(map(parse_guard, guards)),
        "steps_percent": (50.0, 100.0), "step_s": 1.0, "outcomes_sample": 0.1, "max_s": 9e6,
    }  # fmt: skip
    return Rollout(**(fields | changes))


def prepared(bundles, home, plan, judges=JUDGES):
    return prepare(plan, bundles.__getitem__, Ledger(home), Recording(True, {}, 64, "", judges))


def looked_at(plan, home, minutes=20):
    """What the rollout decides from the ledger alone."""
    now = T0 + timedelta(minutes=minutes)
    cohorts = count_outcomes(Ledger(home), plan, [Stage(T0, 0, 0.5, 0)], now)
    many = ArmCounts(requests=10_000)
    table = table_of([Interval(0, 0, many, many)])
    return decide(plan, Running(0, T0), table, now=now, cohorts=Cohorts(1, tuple(cohorts)))


def test_the_ledger_counts_the_rectified_losses_of_the_formula(tmp_path):
    world = World(0.8, 0.6, (0.9, 0.7), 0.2, refusals=0.2)
    arms = served(tmp_path, world, 300)
    rectifier = Rectifier("strict", 0.8, 0.2, JudgeCalibration(0.6, 0.9, -0.7))
    loss = Loss("", bound=rectifier.range[1], rectifier=rectifier)
    spans = [Span(0, T0, T0 + timedelta(minutes=10))]
    for arm, (ids, good, scores) in enumerate(arms):
        labelled = label(tmp_path, ids, good, 0.2)
        keep_verdicts(tmp_path, ids, scores)
        keep_verdicts(tmp_path, ids, 1 - scores)  # judged twice: the first verdict counts
        (made,) = count_cohorts(
            Ledger(tmp_path), model="chat", endpoint="chat", arm=ARMS[arm], spans=spans, sample=0.8,
            losses=[CountedLoss(loss_sql("", loss, arm), "", loss.bound, judge="strict")],
        )  # fmt: skip
        expected = rectified(rectifier, scores, ~good, labelled)
        expected = expected[[outcome_draw(i) < 0.8 for i in ids]]
        assert (made.predictions, made.unknown) == (len(expected), 0)
        assert made.losses[0] == pytest.approx(expected.sum(), abs=1e-5)
        assert made.squares[0] == pytest.approx((expected**2).sum(), abs=1e-5)


def test_an_answer_without_its_verdict_or_its_label_is_unknown(tmp_path):
    ((ids, good, scores), _) = served(tmp_path, World(0.8, 0.8, (0.9, 0.9), 0.2), 200)
    loss = Loss("", bound=9.0, rectifier=Rectifier("strict", 1.0, 0.2))
    options = {
        "model": "chat", "endpoint": "chat", "arm": "current",
        "spans": [Span(0, T0, T0 + timedelta(minutes=10))],
        "losses": [CountedLoss(loss_sql("", loss, 0), "", loss.bound, judge="strict")],
    }  # fmt: skip
    assert count_cohorts(Ledger(tmp_path), **options)[0].unknown == 200
    keep_verdicts(tmp_path, ids, scores)
    drawn = sum(outcome_draw(i) < 0.2 for i in ids)
    assert count_cohorts(Ledger(tmp_path), **options)[0].unknown == drawn > 20
    label(tmp_path, ids, good, 0.2)
    assert count_cohorts(Ledger(tmp_path), **options)[0].unknown == 0


def test_answers_whose_texts_are_not_kept_count_for_no_judge(tmp_path):
    ids, at = [f"a{n}" for n in range(40)], [T0] * 40
    answered_texts(tmp_path, ids, at, ["hi", None] * 20, arm="current", version="1")
    keep_verdicts(tmp_path, ids[::2], np.ones(20))
    loss = Loss(KEPT_TEXT, bound=3.0, rectifier=Rectifier("strict", 1.0, 0.5))
    (made,) = count_cohorts(
        Ledger(tmp_path), model="chat", endpoint="chat", arm="current",
        spans=[Span(0, T0, T0 + timedelta(minutes=10))],
        losses=[CountedLoss(loss_sql("", loss, 0), KEPT_TEXT, loss.bound, judge="strict")],
    )  # fmt: skip
    drawn = sum(outcome_draw(name) < 0.5 for name in ids[::2])
    assert (made.predictions, made.unknown) == (20, drawn)


def test_a_thumb_that_is_no_number_is_none_and_an_approval_is_from_0_to_1():
    sql = loss_sql("approval", Loss(""), 0).replace("truth_number", "CAST(t AS DOUBLE)")
    table = duckdb.sql(f"SELECT {sql} FROM unnest(['nan', NULL, '0.25', '7', '-1']) u(t)")
    assert [loss for (loss,) in table.fetchall()] == [None, None, 0.75, 0.0, 1.0]
    loss = Loss("", bound=19.0, rectifier=Rectifier("strict", 1.0, 0.1))
    assert [loss.approval_of(rate) for rate in (0.0, 9 / 19, 9.5 / 19, 1.0)] == [1, 1, 0.5, 0]


def test_a_worse_candidate_that_the_judge_prefers_is_rolled_back(bundles, tmp_path):
    """By the judge's word alone it is 12 points better; it is 30 points worse."""
    world = World(0.9, 0.6, (0.9, 0.9), 0.1)
    before = served(tmp_path, world, 1_000, seed=1, start=T0 - timedelta(days=1))
    arms = served(tmp_path, world, 3_000)
    for ids, good, scores in [before[0], *arms]:
        label(tmp_path, ids, good, 0.1)
        keep_verdicts(tmp_path, ids, np.where(good, scores, 1.0) if ids[0][2] == "1" else scores)
    plan = prepared(bundles, tmp_path, rollout("judged[strict] -5 pp"))
    calibration = plan.guards[0].measure.rectifier.calibration
    assert -0.9 < calibration.slope < -0.2
    decision = looked_at(plan, tmp_path)
    assert type(decision.state).__name__ == "Aborted"
    assert "the approval of chat/2 is " in decision.sentence
    assert "(allowed judged[strict] -5 pp)" in decision.sentence


def test_thumbs_by_prediction_ids_decide_a_canary_and_move_the_shares_of_a_bandit(
    bundles, tmp_path
):
    for ids, good, _ in served(tmp_path, World(0.5, 0.8, (1, 1), 1), 600):
        label(tmp_path, ids, good, 1.0)
    canary = prepared(bundles, tmp_path, rollout("approval -5 pp", outcomes_sample=1.0))
    assert type(looked_at(canary, tmp_path).state).__name__ == "Promoted"
    bandit = rollout(
        "approval -5 pp", outcomes_sample=1.0, strategy="bandit", steps_percent=(50.0,)
    )
    decision = looked_at(prepared(bundles, tmp_path, bandit), tmp_path)
    assert "chat/2" in decision.sentence
    assert type(decision.state).__name__ == "Promoted"
    few = looked_at(prepared(bundles, tmp_path, bandit), tmp_path, minutes=1)
    assert few.shares.candidate_percent > 60


@pytest.mark.parametrize(
    ("guards", "changes", "said"),
    [
        (["judged[kind] -2 pp"], {}, "the settings have no judge 'kind'"),
        (["judged[strict] -2 pp"], {"outcomes_sample": 1.0}, "needs labels of fewer answers"),
        (["judged[strict] -2 pp", "approval -2 pp"], {}, "counts answers without a label too"),
        (
            ["judged[strict] -2 pp"],
            {"strategy": "bandit", "steps_percent": (50.0,)},
            "needs the reward",
        ),
    ],
)
def test_a_judged_guard_that_cannot_be_counted_is_refused(bundles, tmp_path, guards, changes, said):
    with pytest.raises(Invalid, match=said.replace("[", r"\[")):
        prepared(bundles, tmp_path, rollout(*guards, **changes))


@pytest.mark.parametrize(
    ("text", "shadow"),
    [
        ("disagreement +5 pp", Shadow("chat/2", 10.0)),
        ("disagreement[0.2] +5 pp", Shadow("chat/2", 10.0, 0.2)),
        ("disagreement[minilm/3 0.1] +5 pp", Shadow("chat/2", 10.0, 0.1, "minilm/3")),
    ],
)
def test_a_guard_says_which_texts_of_a_shadow_agree(text, shadow):
    plan = rollout(text, strategy="shadow", steps_percent=(10.0,), outcomes_sample=1.0)
    check_rollout(plan)
    assert str(plan.guards[0]) == text
    made = plan_of(plan, start(plan, T0), Plan("chat", 1, (Arm("current", "chat/1", 100.0),)))
    assert made.shadow == shadow
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made
    with pytest.raises(Invalid):
        parse_guard("disagreement[2] +5 pp")


def test_a_shadow_by_the_embeddings_of_what_embeds_nothing_is_refused(bundles, tmp_path):
    plan = {"strategy": "shadow", "steps_percent": (10.0,), "outcomes_sample": 1.0}
    with pytest.raises(Invalid, match=r"disagreement\[chat/1 0.1\]: chat/1 embeds no texts"):
        prepared(bundles, tmp_path, rollout("disagreement[chat/1 0.1] +5 pp", **plan))


# -- the formulas, by hand --


def test_rectified_losses_have_the_mean_of_the_truth_whatever_the_judge_says():
    """All four cells of one score, summed by hand: no calibration moves the mean."""
    for expected in (0.0, 0.3, 1.0):
        for share in (0.02, 0.2):
            mean = 0.0
            for loss, rate in ((1.0, 0.3), (0.0, 0.7)):
                labelled = expected + (loss - expected) / share
                mean += rate * (share * labelled + (1 - share) * expected)
            assert mean == pytest.approx(0.3)
            least, width = Rectifier("strict", 1.0, share).range
            assert least <= expected + (0 - expected) / share
            assert expected + (1 - expected) / share <= least + width + 1e-9


def test_a_calibration_is_the_regression_of_ppi_plus_plus_and_ignores_a_judge_that_knows_nothing():
    random = np.random.default_rng(3)
    losses = random.random(20_000) < 0.3
    scores = np.where(random.random(20_000) < 0.8, ~losses, losses).astype(float)
    made = calibrate_judge(scores, losses)
    slope, at_0 = np.polyfit(scores, losses, 1)
    assert (made.slope, made.at_0) == pytest.approx((slope, at_0), abs=1e-3)
    useless = calibrate_judge(random.random(20_000), losses)
    assert abs(useless.slope) < 0.05
    assert calibrate_judge(scores[:10], losses[:10]) == JudgeCalibration()


def test_a_biased_judge_ends_few_rollouts_of_equal_versions():
    """One small form; the table of all judges is the slow one."""
    ends = Counter(ended(World(0.8, 0.8, (0.95, 0.6), 0.2), seed)[0] for seed in range(6))
    assert ends["aborted"] <= 1


WORLDS = [
    World(0.8, 0.8, accuracy, share, refusals)
    for accuracy in ((0.6, 0.6), (0.8, 0.8), (0.95, 0.95), (0.95, 0.6), (0.6, 0.95))
    for share in (0.02, 0.05, 0.2)
    for refusals in ((0.0, 0.5) if share == 0.05 else (0.0,))
]


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_each_judge_keeps_both_promises(world):
    """Of 60 rollouts, 3 errors are promised at most; 8 or more come in 1 % of runs."""
    assert Counter(ended(world, seed)[0] for seed in range(60))["aborted"] <= 7
    at_margin = World(0.8, 0.75, world.accuracy, world.label_share, world.refusals)
    assert Counter(ended(at_margin, seed)[0] for seed in range(60))["promoted"] <= 7


@pytest.mark.slow
def test_a_good_judge_finds_harm_sooner_than_its_labels_alone():
    world = World(0.8, 0.65, (0.95, 0.95), 0.05)
    with_judge, alone = (
        np.median([ended(world, seed, with_judge=which)[1] for seed in range(30)])
        for which in (True, False)
    )
    assert with_judge < 0.6 * alone


def test_the_settings_of_a_rollout_survive_its_store():
    import msgspec

    plan = rollout("judged[strict] -2 pp")
    rectifier = Rectifier("strict", 1.0, 0.1, JudgeCalibration(0.4, 0.9, -0.8))
    guard = msgspec.structs.replace(plan.guards[0], loss=Loss("", bound=19.0, rectifier=rectifier))
    plan = msgspec.structs.replace(plan, guards=(guard,))
    again = msgspec.json.decode(msgspec.json.encode(plan), type=Rollout)
    assert again == plan
    assert json.loads(msgspec.json.encode(plan))["guards"][0]["name"] == "judged[strict]"
