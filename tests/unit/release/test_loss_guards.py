"""Guards on losses: what can be counted, at which scale, and in which words."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from statistics import NormalDist

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from bench.outcomes import LOSS_WORLDS, START, errors_in, outcome_of, plan_of
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import LinearSVC
from tests.ledger_rows import table

import bascule
from bascule.console.story import sequences_of
from bascule.core import DType, Field, Invalid, Signature
from bascule.monitoring.ledger import Ledger, Outcomes, write_segment
from bascule.monitoring.ledger.manifest import commit, read_manifest
from bascule.release.rollouts import (
    Aborted,
    ArmCounts,
    Cohort,
    CohortArm,
    Cohorts,
    Guard,
    Interval,
    Loss,
    Promoted,
    Recording,
    Rollout,
    Running,
    count_outcomes,
    decide,
    forecast,
    parse_guard,
    prepare,
    start,
    table_of,
)
from bascule.release.rollouts.counting import Stage
from bascule.release.rollouts.losses import Answers, countable
from bascule.release.rollouts.plan import check_rollout

KEEPS = Recording(True, {}, 1_024)
MANY = ArmCounts(requests=10_000)
TABLE = table_of([Interval(0, 2, MANY, MANY)])


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("mae +5 %", Guard("mae", 0.05, "%")),
        ("mae +0.2", Guard("mae", 0.2, "")),
        ("MSE + 10%", Guard("mse", 0.1, "%")),
        ("log_loss +0.02", Guard("log_loss", 0.02, "")),
        ("pinball0.9 +5 %", Guard("pinball0.9", 0.05, "%")),
        ("pinball.05 +1e-3", Guard("pinball.05", 0.001, "")),
        ("mape +2 pp", Guard("mape", 0.02, "pp")),
        ("roc_auc -1 pp", Guard("roc_auc", 0.01, "pp")),
        ("cost.Net price-1 +5 %", Guard("cost.Net price-1", 0.05, "%")),
        ("cost.amount +12.5", Guard("cost.amount", 12.5, "")),
    ],
)
def test_guards_on_losses_are_read_and_written(text, guard):
    assert parse_guard(text) == guard
    assert parse_guard(str(guard)) == guard
    assert guard.is_on_outcomes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rmse +5 %", "no guard 'rmse'"),
        ("mae -5 %", "allows a gain"),
        ("mae +1 pp", "its own unit"),
        ("mae +0", "allows no noise"),
        ("roc_auc +1 pp", "allows a gain"),
        ("roc_auc -1 %", "in pp"),
        ("pinball1.5 +1 %", "no guard 'pinball1.5'"),
        ("pinball0 +1 %", "no guard 'pinball0'"),
        ("cost. +1 %", "no guard 'cost.'"),
        ("errors +0.1", "in pp"),
    ],
)
def test_guards_that_mean_nothing_are_refused(text, said):
    with pytest.raises(Invalid) as raised:
        parse_guard(text)
    assert said in f"{raised.value} {raised.value.hint}"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """By name: two regressors, one on positive truths, classifiers with and without probabilities,
    with three classes, and a model of two outputs."""
    folder = tmp_path_factory.mktemp("losses")
    random = np.random.default_rng(0)
    X = random.normal(size=(800, 3))
    y = 10 + X[:, 0] + random.standard_t(3, 800)
    names = ["amount", "b", "c"]
    positive = X[:, 1] + random.normal(size=800) > 0
    three = np.digitize(X[:, 0], [-0.5, 0.5])
    words = np.where(positive, "late", "in time")
    models = {
        "numbers": (LinearRegression(), y),
        "zeros": (LinearRegression(), np.where(X[:, 0] > 1, 0.0, y)),
        "words": (LogisticRegression(), words),
        "margins": (LinearSVC(), words),
        "three": (LogisticRegression(), three),
        "two": (LinearRegression(), np.stack([y, -y], axis=1)),
    }
    packed = {}
    for name, (model, truth) in models.items():
        table = pa.table(dict(zip(names, X.T, strict=True))).to_pandas()
        model.fit(table[:400], truth[:400])
        packed[name] = bascule.pack(
            model, name=name, train=table[:400], test=(table[400:], truth[400:]),
            to=folder / name, measure=False,
        )  # fmt: skip
    model = LinearRegression().fit(X[:400], y[:400])
    packed["bare"] = bascule.pack(
        model, name="bare", train=X[:400], to=folder / "bare", measure=False
    )
    return packed


def prepared(bundles, name, *guards, ledger, recording=KEEPS, **changes):
    rollout = plan_of(
        current=f"{name}/1", candidate=f"{name}/2", endpoint=name,
        guards=tuple(map(parse_guard, guards)), **changes,
    )  # fmt: skip
    return prepare(rollout, lambda _: bundles[name], ledger, recording)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path)


def test_the_scale_is_that_of_the_held_out_rows(bundles, ledger):
    (guard,) = prepared(bundles, "numbers", "mae +5 %", ledger=ledger).guards
    columns, truth = bundles["numbers"].test_data()
    errors = abs(next(iter(bundles["numbers"].predict(columns).values())).ravel() - truth)
    bound = np.quantile(errors, 0.99)
    assert guard.loss.bound == pytest.approx(bound)
    assert guard.loss.level == pytest.approx(np.minimum(errors, bound).mean())
    assert guard.loss.rows == 400
    assert guard.rate_margin == pytest.approx(0.05 * guard.loss.level / bound)
    assert msgspec.json.decode(msgspec.json.encode(guard), type=Guard) == guard


@pytest.mark.parametrize("name", ["mse +5 %", "mape +1 pp", "pinball0.9 +5 %", "cost.amount +5 %"])
def test_each_loss_of_numbers_has_a_scale(bundles, ledger, name):
    (guard,) = prepared(bundles, "numbers", name, ledger=ledger).guards
    assert 0 < guard.loss.level < guard.loss.bound


@pytest.mark.parametrize("name", ["log_loss +5 %", "cost.amount +5 %"])
def test_each_loss_of_classes_has_a_scale(bundles, ledger, name):
    (guard,) = prepared(bundles, "words", name, ledger=ledger).guards
    assert 0 < guard.loss.level < guard.loss.bound


def test_losses_are_of_the_prediction_where_bounds_are_answered_beside_it():
    median, upper = Field("prediction", DType.FP64), Field("upper_quantile", DType.FP64)
    assert "mae" in countable(Answers("regression", (), Signature((), (median, upper))))
    assert countable(Answers("regression", (), Signature((), (upper, median)))) == []


def test_rates_need_no_held_out_rows(bundles, ledger):
    guards = prepared(bundles, "words", "accuracy -2 pp", "roc_auc -1 pp", ledger=ledger).guards
    assert [guard.loss.rows for guard in guards] == [0, 0]


@pytest.mark.parametrize(
    ("name", "guard", "said", "can"),
    [
        ("numbers", "accuracy -2 pp", "is a model for regression", "mae, mse"),
        ("numbers", "log_loss +1 %", "is a model for regression", "mae, mse"),
        ("words", "mae +5 %", "is a model for classification", "accuracy, log_loss, roc_auc"),
        ("three", "roc_auc -1 pp", "with 3 classes", "accuracy, log_loss"),
        ("margins", "log_loss +1 %", "without probabilities", "accuracy, cost.COLUMN"),
        ("words", "cost.price +5 %", "no input of numbers named 'price'", "accuracy"),
        ("two", "mae +5 %", "multioutput-regression", "errors, fallbacks"),
        ("zeros", "mape +1 pp", "held-out truths of zeros/1 are 0", "mae"),
        ("bare", "mae +5 %", "has no held-out rows", "test=(X, y)"),
        ("numbers", "mae +900", "allows everything", "the mae of numbers/1 is"),
    ],
)
def test_a_guard_that_cannot_be_counted_is_refused_with_those_that_can(
    bundles, ledger, name, guard, said, can
):
    with pytest.raises(Invalid) as raised:
        prepared(bundles, name, guard, ledger=ledger)
    assert said in str(raised.value)
    assert can in raised.value.hint


def test_without_a_ledger_no_outcome_can_be_counted(bundles, ledger):
    off = Recording(False, {}, 1_024)
    with pytest.raises(Invalid, match="no answers are in the ledger") as raised:
        prepared(bundles, "words", "accuracy -2 pp", ledger=ledger, recording=off)
    assert "errors, fallbacks" in raised.value.hint
    assert prepared(bundles, "words", "errors +1 pp", ledger=ledger, recording=off)


@pytest.mark.parametrize(
    ("private", "most", "guard", "can"),
    [
        ({"label": "omit"}, 1_024, "accuracy -2 pp", "log_loss, roc_auc"),
        ({"words.label": "hash"}, 1_024, "accuracy -2 pp", "log_loss"),
        ({"probabilities": "omit"}, 1_024, "roc_auc -2 pp", "accuracy, cost"),
        ({"amount": "omit"}, 1_024, "cost.amount +5 %", "accuracy"),
        ({}, 1, "log_loss +5 %", "accuracy, cost"),
    ],
)
def test_a_field_that_the_ledger_leaves_out_cannot_be_compared(
    bundles, ledger, private, most, guard, can
):
    with pytest.raises(Invalid, match="cannot be counted") as raised:
        prepared(bundles, "words", guard, ledger=ledger, recording=Recording(True, private, most))
    assert can in raised.value.hint


@pytest.mark.parametrize(("days", "is_kept"), [(0.5, True), (4, False)])
def test_answers_of_today_show_that_a_server_with_other_settings_keeps_them(
    bundles, tmp_path, days, is_kept
):
    now = datetime.now(UTC)
    keep_answers(tmp_path, "words", ["a"], now - timedelta(days=days))
    off, options = Recording(False, {}, 1_024), {"ledger": Ledger(tmp_path), "started_at": now}
    if is_kept:
        assert prepared(bundles, "words", "accuracy -2 pp", recording=off, **options)
    else:
        with pytest.raises(Invalid, match="no answers are in the ledger"):
            prepared(bundles, "words", "accuracy -2 pp", recording=off, **options)


def test_before_the_first_answer_there_is_nothing_to_count(tmp_path):
    plan = plan_of(guards=(MAE,))
    stages, now = [Stage(START, 0, 0.05, 2)], START + timedelta(hours=1)
    assert count_outcomes(Ledger(tmp_path), plan, stages, now) == []


def keep_answers(home, model, ids, at):
    """Commit a segment of answers of `model/1`."""
    rows = table(ids, at)
    for column in ("model", "endpoint"):
        place = rows.column_names.index(column)
        rows = rows.set_column(place, column, pa.array([model] * len(ids)))
    manifest = read_manifest(home)
    manifest.segments.append(write_segment(home, rows, model, "1", str(at.date()), "1.parquet"))
    manifest.sequence += 1
    commit(home, manifest)


def test_the_ledger_has_no_answers_of_a_shadow():
    guards = (Guard("errors", 0.01, "pp"), Guard("accuracy", 0.02, "pp"))
    with pytest.raises(Invalid, match="no answers of a shadow"):
        check_rollout(plan_of(strategy="shadow", guards=guards))


def test_a_rollout_shorter_than_truths_take_is_refused_with_the_figure(bundles, tmp_path):
    now = datetime.now(UTC)
    ids = [f"n{number}" for number in range(200)]
    keep_answers(tmp_path, "numbers", ids, now - timedelta(days=9))
    Outcomes(tmp_path).add("numbers", pa.table({"id": ids, "truth": np.ones(200)}))
    ledger = Ledger(tmp_path)
    with pytest.raises(Invalid) as raised:
        prepared(bundles, "numbers", "mae +5 %", ledger=ledger, max_s=7 * 86_400.0)
    assert "took up to 9.0 d so far, and the rollout ends after 7.0 d" in str(raised.value)
    assert prepared(bundles, "numbers", "mae +5 %", ledger=ledger, max_s=10 * 86_400.0)
    assert prepared(bundles, "numbers", "errors +1 pp", ledger=ledger, max_s=7 * 86_400.0)


MAE = Guard("mae", 0.05, "%", Loss("output.prediction", bound=20.0, level=3.0, rows=400))


def cohort(number, mean_c, mean_0, *, unknown=0, cut=0.0, stage=2):
    """400 predictions of each arm with a spread of a tenth of the bound."""
    arms = [
        CohortArm(
            400, unknown, ((400 - unknown) * mean,), ((400 - unknown) * (mean**2 + 0.01),),
            (cut,) if cut else (),
        )
        for mean in (mean_0, mean_c)
    ]  # fmt: skip
    return Cohort(number, stage, 60.0 * number, *arms)


def decided(cohorts, guard=MAE, **changes):
    plan = plan_of(guards=(guard,), **changes)
    now = START + timedelta(hours=5)
    return decide(plan, Running(2, START), TABLE, now=now, cohorts=Cohorts(1, tuple(cohorts)))


def test_a_rollback_tells_the_loss_in_its_unit_and_what_was_cut():
    decision = decided([cohort(n, 0.2, 0.15, cut=8.0) for n in range(40)])
    assert isinstance(decision.state, Aborted)
    assert (
        "the mae of late/2 is 4, and that of late/1 3 (allowed mae +5 %: a mae 0.15 higher); 2.0% "
        "of the losses of late/2 and 2.0% of those of late/1 were over 20 and count as that, a "
        "difference of 0."
    ) in decision.sentence
    assert "of mae at least" in decision.sentence


def test_an_mse_is_shown_as_rmse():
    guard = Guard("mse", 0.05, "%", Loss("output.prediction", bound=400.0, level=60.0, rows=400))
    sentence = decided([cohort(n, 0.25, 0.16) for n in range(40)], guard).sentence
    assert "the rmse of late/2 is 10, and that of late/1 8 (allowed mse +5 %" in sentence


def test_unknown_truths_are_told_as_bounds():
    cohorts = [cohort(n, 0.2, 0.15) for n in range(40)]
    cohorts += [cohort(40 + n, 0.2, 0.15, unknown=300) for n in range(10)]
    sentence = decided(cohorts).sentence
    assert "the mae of late/2 is at least 4, and that of late/1 at most 3" in sentence


def test_an_equal_regressor_is_promoted_and_the_start_tells_the_scale():
    decision = decided([cohort(n, 0.15, 0.15, cut=4.0) for n in range(400)])
    assert isinstance(decision.state, Promoted)
    assert "1.0% of the losses of late/2 and 1.0% of those of late/1 were" in decision.sentence
    sentence = start(plan_of(guards=(MAE,)), START).sentence
    assert "the mae of late/1 is 3 on its 400 held-out rows, and a loss over 20 counts" in sentence


@pytest.mark.parametrize("strategy", ["ab", "bandit"])
def test_a_b_and_bandit_take_any_guard_on_outcomes(strategy):
    plan = check_rollout(plan_of(strategy=strategy, guards=(MAE,), steps_percent=(50.0,)))
    table = table_of([Interval(0, 0, MANY, MANY)])
    state = Running(0, START, (0.5,) if strategy == "bandit" else ())
    cohorts = tuple(cohort(n, 0.10, 0.15, stage=0) for n in range(40))
    now = START + timedelta(hours=5)
    decision = decide(plan, state, table, now=now, cohorts=Cohorts(1, cohorts))
    assert isinstance(decision.state, Promoted)
    assert "late/2 is better by 0." in decision.sentence
    assert "of mae at least" in decision.sentence


def test_an_ab_without_a_gain_ends_as_futile():
    plan = plan_of(strategy="ab", guards=(MAE,), steps_percent=(50.0,))
    cohorts = tuple(cohort(n, 0.15, 0.15, stage=0) for n in range(400))
    table = table_of([Interval(0, 0, MANY, MANY)])
    decision = decide(
        plan, Running(0, START), table, now=START + timedelta(hours=5), cohorts=Cohorts(1, cohorts)
    )
    assert isinstance(decision.state, Aborted)
    assert "gains less than 0.15 of mae" in decision.sentence


def test_a_rollout_of_an_older_version_is_read():
    content = msgspec.to_builtins(plan_of())
    content["guards"] = [{"name": "accuracy", "margin": 0.02, "unit": "pp"}]
    assert msgspec.convert(content, Rollout).guards[0].measure.output == "output.label"


def test_a_hold_tells_what_was_cut_and_the_page_draws_the_guard_in_its_unit():
    cohorts = [cohort(n, 0.15, 0.15, cut=4.0) for n in range(5)]
    decision = decided(cohorts)
    assert isinstance(decision.state, Running)
    assert "are in; 1.0% of the losses of late/2" in decision.sentence
    intervals = [Interval(number, 2, MANY, MANY) for number in range(20)]
    (drawn,) = sequences_of(plan_of(guards=(MAE,)), intervals, cohorts)
    assert "the margin of 0.15 of mae" in drawn.caption


@pytest.mark.parametrize("world", LOSS_WORLDS[:2], ids=lambda world: world.name)
def test_an_equal_world_and_a_worse_one_end_as_expected(world):
    assert {outcome_of(world, seed)[0] for seed in range(2)} == {world.expected}


@pytest.mark.slow
@pytest.mark.parametrize("world", LOSS_WORLDS, ids=lambda world: world.name)
def test_each_world_of_losses_keeps_its_promise_in_forty_rollouts(world):
    ends = Counter(outcome_of(world, seed)[0] for seed in range(40))
    assert errors_in(world, ends) <= 6  # 2 expected at most; 7 or more come in 1 of 300 runs
    assert world.is_at_margin or ends[world.expected] >= 34


PAIR_MARGIN = 0.02


def pair_cohorts(random, shift_c, shift_0, *, late, size=40):
    """Cohorts of 600 pairs in each arm, each pair of a positive and a negative; `late` is the share
    of pairs without a truth, all of them such that the positive has the higher score."""
    arms = []
    for shift in (shift_c, shift_0):
        lost = (random.normal(shift, 1, (size, 600)) < random.normal(0, 1, (size, 600))).astype(int)
        unknown = (random.random(lost.shape) < late * (lost == 0)).sum(axis=1)
        arms.append([(600, int(n), int(u)) for n, u in zip(lost.sum(axis=1), unknown, strict=True)])
    return [
        Cohort(
            number, 2, 60.0 * number,
            *(CohortArm(4_000, u, (float(k),), (), (), ((n, u),)) for n, k, u in (now, candidate)),
        )
        for number, (candidate, now) in enumerate(zip(*arms, strict=True))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shift_c", "late", "expected"),
    [(1.2, 0.0, Promoted), (1.2, 0.3, Running), (0.9, 0.0, Aborted), (0.9, 0.02, Aborted)],
)
def test_a_rollout_by_roc_auc_ends_as_pairs_say(shift_c, late, expected):
    """Areas of .802 and .738; where right pairs are late, nothing is shown of equal versions."""
    random = np.random.default_rng(7)
    guard = Guard("roc_auc", PAIR_MARGIN, "pp", Loss("output.probabilities"))
    decision = decided(pair_cohorts(random, shift_c, 1.2, late=late), guard)
    assert isinstance(decision.state, expected)
    if expected is Aborted:
        assert "the roc_auc of late/2 is" in decision.sentence
        assert "and that of late/1 " in decision.sentence


def test_of_versions_at_the_margin_of_roc_auc_few_end_either_way():
    """100 rollouts of 24,000 pairs; 5 % are promised, and 13 of 100 come in 1 in 1,000."""
    random = np.random.default_rng(8)
    area = NormalDist().cdf(1.2 / 2**0.5)
    shift = NormalDist().inv_cdf(area - PAIR_MARGIN) * 2**0.5
    guard = Guard("roc_auc", PAIR_MARGIN, "pp", Loss("output.probabilities"))
    ends = Counter(
        type(decided(pair_cohorts(random, shift, 1.2, late=0.0), guard).state) for _ in range(100)
    )
    assert max(ends[Aborted], ends[Promoted]) <= 12


def test_a_forecast_of_losses_knows_their_spread():
    """Losses that vary little are shown sooner; a guard on pairs says what it does not know."""
    lines = {}
    for spread in (2.0, 5.0):
        loss = msgspec.structs.replace(MAE.loss, spread=spread)
        guards = (msgspec.structs.replace(MAE, loss=loss), Guard("roc_auc", 0.01, "pp"))
        lines[spread] = forecast(plan_of(guards=guards), rates={}, requests=100_000)
    few, many = (lines[spread][3].detection for spread in (2.0, 5.0))
    assert 1_000 < few.median_requests < 0.4 * many.median_requests
    found = [line.detection.median_requests for line in lines[2.0][:3]]
    assert found == sorted(found, reverse=True)
    assert "a mae higher by 25% more than mae +5 % is found after" in lines[2.0][1].sentence
    assert "depends on the share of positives" in lines[2.0][4].sentence
