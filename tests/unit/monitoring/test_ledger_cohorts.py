"""Outcomes by the time of their predictions: the newest truth counts, requests are the unit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from tests.ledger_rows import table

from bascule.monitoring.ledger import (
    CountedLoss,
    Ledger,
    Outcomes,
    Span,
    count_cohorts,
    outcome_draw,
    write_segment,
)
from bascule.monitoring.ledger.manifest import commit, read_manifest
from bascule.release.rollouts.counting import Stage, spans_of
from bascule.release.rollouts.losses import LABELS, Loss, loss_sql

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)
SPANS = [Span(n, T0 + timedelta(minutes=n), T0 + timedelta(minutes=n + 1)) for n in range(3)]


ACCURACY = CountedLoss(loss_sql("accuracy", LABELS, 0), "output.label")
NUMBER = Loss("output.prediction")


def loss_of(name, bound=1.0, loss=NUMBER, **options):
    return CountedLoss(loss_sql(name, loss, 0), loss.output, bound, **options)


def answered(
    home, ids, at, *, arm="candidate", labels=None, rows=None, labels_type=None, numbers=None,
    units=None, plan=None,
):  # fmt: skip
    """Commit a segment of answers of `gb` in one arm; without units as an earlier release."""
    made = table(ids, at)
    columns = {"arm": pa.array([arm] * len(ids))}
    if labels is not None:
        columns["output.label"] = pa.array(labels, labels_type)
    if rows is not None:
        columns["row"] = pa.array(np.array(rows, np.int32))
    if numbers is not None:
        made = made.append_column("output.prediction", pa.array(numbers))
    if units is not None:
        made = made.append_column("unit", pa.array(units, pa.int32()))
    if plan is not None:
        made = made.append_column("plan", pa.array([plan] * len(ids), pa.int32()))
    for name, values in columns.items():
        made = made.set_column(made.column_names.index(name), name, values)
    manifest = read_manifest(home)
    file = f"{manifest.sequence + 1:08d}-{arm}.parquet"
    manifest.segments.append(write_segment(home, made, "gb", "1", "2026-11-01", file))
    manifest.sequence += 1
    commit(home, manifest)


def truths(home, ids, values):
    """Import truths, each in an import of its own order."""
    Outcomes(home).add("gb", pa.table({"id": ids, "truth": values}))


def counted(home, **options):
    options = {"arm": "candidate", "losses": [ACCURACY], "spans": SPANS} | options
    return count_cohorts(Ledger(home), model="gb", endpoint="gb", **options)


def summary(home, **options):
    return [
        (one.number, one.predictions, one.unknown, *one.losses) for one in counted(home, **options)
    ]


def test_an_outcome_counts_in_the_span_of_its_prediction_whenever_it_comes(tmp_path):
    answered(tmp_path, ["a", "b"], T0, labels=[1, 1])
    answered(tmp_path, ["c"], T0 + timedelta(minutes=2), labels=[1])
    answered(tmp_path, ["d"], T0, arm="current", labels=[1])
    assert summary(tmp_path) == [(0, 2, 2.0, 0.0), (2, 1, 1.0, 0.0)]
    truths(tmp_path, ["c", "d"], [0, 0])
    truths(tmp_path, ["b"], [1])
    assert summary(tmp_path) == [(0, 2, 1.0, 0.0), (2, 1, 0.0, 1.0)]
    assert summary(tmp_path, arm="current") == [(0, 1, 0.0, 1.0)]


def test_a_correction_takes_a_wrong_answer_back_and_a_repetition_changes_nothing(tmp_path):
    answered(tmp_path, ["a", "b"], T0, labels=[1, 1])
    for values in ([0, 0], [1, 0], [1, 0]):
        truths(tmp_path, ["a", "b"], values)
    assert summary(tmp_path) == [(0, 2, 0.0, 1.0)]
    truths(tmp_path, ["b"], [1])
    assert summary(tmp_path) == [(0, 2, 0.0, 0.0)]


def test_a_request_of_several_rows_counts_once_with_the_mean_of_its_rows(tmp_path):
    answered(tmp_path, ["a"] * 4, T0, labels=[1, 1, 1, 1], rows=[0, 1, 2, 3])
    truths(tmp_path, ["a#0", "a#1", "a#2"], [1, 0, 0])
    assert summary(tmp_path) == [(0, 1, 0.25, 0.5)]


@pytest.mark.parametrize(
    ("labels", "kind", "truth", "wrong"),
    [
        ([1, 0], pa.int64(), [1.0, 1.0], 1.0),
        ([1, 0], pa.int64(), ["1", "1"], 1.0),
        ([True, False], pa.bool_(), [1, 1], 1.0),
        ([True, False], pa.bool_(), ["True", "true"], 1.0),
        (["yes", "no"], pa.string(), ["yes", "yes"], 1.0),
        ([1.0, 0.0], pa.float64(), [1, 1], 1.0),
    ],
)
def test_a_label_may_be_written_as_another_type_than_its_truth(
    tmp_path, labels, kind, truth, wrong
):
    answered(tmp_path, ["a", "b"], T0, labels=labels, labels_type=kind)
    truths(tmp_path, ["a", "b"], truth)
    assert summary(tmp_path) == [(0, 2, 0.0, wrong)]


def test_losses_of_numbers_are_cut_at_their_bound_and_say_how_many_were(tmp_path):
    answered(tmp_path, ["a", "b", "c", "d"], T0, numbers=[1.0, 2.0, 9.0, np.nan])
    truths(tmp_path, ["a", "b", "c", "d"], [1.5, 4.0, 1.0, 1.0])
    losses = [
        loss_of("mae", 2.0), loss_of("mse", 100.0), loss_of("pinball0.9", 10.0),
        loss_of("mape", 1.0),
    ]  # fmt: skip
    (count,) = counted(tmp_path, losses=losses)
    assert (count.predictions, count.unknown) == (4, 0.0)
    assert count.losses == pytest.approx(
        (
            0.25 + 1 + 1 + 1, 0.0025 + 0.04 + 0.64 + 1, 0.045 + 0.18 + 0.08 + 1,
            0.5 / 1.5 + 0.5 + 1 + 1,
        ),
        abs=1e-5,
    )  # fmt: skip
    assert count.squares[0] == pytest.approx(0.0625 + 3)
    assert count.cut == (2.0, 1.0, 1.0, 2.0)


def test_a_truth_without_a_loss_counts_as_unknown(tmp_path):
    """A relative error of 0 and the error of a text have no value."""
    answered(tmp_path, ["a", "b", "c"], T0, numbers=[1.0, 2.0, 3.0])
    truths(tmp_path, ["a", "b", "c"], ["0", "high", "4"])
    (count,) = counted(tmp_path, losses=[loss_of("mape")])
    assert (count.predictions, count.unknown, *count.losses) == (3, 2.0, 0.25)


def test_answers_whose_callers_asked_for_other_outputs_do_not_count(tmp_path):
    answered(tmp_path, ["a", "b"], T0, labels=[1, None], labels_type=pa.int64())
    truths(tmp_path, ["a", "b"], [0, 0])
    assert summary(tmp_path) == [(0, 1, 0.0, 1.0)]


def test_costs_are_those_of_a_column(tmp_path):
    """The fixture's `input.x` is the place of the row."""
    answered(tmp_path, ["a", "b", "c"], T0, labels=[0, 1, 1])
    truths(tmp_path, ["a", "b", "c"], [1, 0, 1])
    (of_labels,) = counted(
        tmp_path, losses=[loss_of("cost.x", 10.0, Loss("output.label", cost="input.x"))]
    )
    assert of_labels.losses == (0.1,)


def with_probabilities(home, ids, shares, at=T0, arm="candidate"):
    answered(home, ids, at, arm=arm)
    manifest = read_manifest(home)
    made = table(ids, at).set_column(6, "arm", pa.array([arm] * len(ids)))
    values = pa.array([[1 - share, share] for share in shares], pa.list_(pa.float64(), 2))
    made = made.append_column("output.probabilities", values)
    segment = manifest.segments.pop()
    manifest.segments.append(
        write_segment(home, made, "gb", "1", "2026-11-01", "p-" + segment.file.rsplit("/")[-1])
    )
    commit(home, manifest)


PAIR = Loss("output.probabilities", classes=(("no", "yes"), ("no", "yes")))


def test_the_log_loss_is_that_of_the_true_class_and_an_unknown_class_costs_the_bound(tmp_path):
    with_probabilities(tmp_path, ["a", "b", "c"], [0.8, 0.8, 0.8])
    truths(tmp_path, ["a", "b", "c"], ["yes", "no", "perhaps"])
    (count,) = counted(tmp_path, losses=[loss_of("log_loss", 4.0, PAIR)])
    assert count.losses[0] == pytest.approx((-np.log(0.8) - np.log(0.2)) / 4 + 1, abs=1e-5)
    assert count.cut == (1.0,)


@pytest.mark.parametrize("classes", [(0, 1), (False, True), (0.0, 1.0), ("0", "1")])
def test_classes_are_found_whatever_their_type(tmp_path, classes):
    with_probabilities(tmp_path, ["a", "b"], [0.8, 0.8])
    truths(tmp_path, ["a", "b"], ["1", "0"])
    loss = Loss("output.probabilities", classes=(classes, classes))
    (count,) = counted(tmp_path, losses=[loss_of("log_loss", 4.0, loss)])
    assert count.losses[0] == pytest.approx((-np.log(0.8) - np.log(0.2)) / 4, abs=1e-5)


def test_pairs_stay_as_they_are_when_truths_come_and_lose_where_the_negative_scores_higher(
    tmp_path,
):
    random = np.random.default_rng(0)
    ids = [f"p{number}" for number in range(2_000)]
    is_yes = random.random(2_000) < 0.3
    scores = np.clip(random.normal(0.4 + 0.2 * is_yes, 0.15), 0, 1).round(2)
    with_probabilities(tmp_path, ids, scores)
    loss = loss_of("roc_auc", 1.0, PAIR, of_pairs=True)
    (nothing,) = counted(tmp_path, losses=[loss])
    assert nothing.pairs == ((1_000, 1_000),)
    words = np.where(is_yes, "yes", "no").tolist()
    truths(tmp_path, ids[:1_000], words[:1_000])
    (half,) = counted(tmp_path, losses=[loss])
    truths(tmp_path, ids[1_000:], words[1_000:])
    (full,) = counted(tmp_path, losses=[loss, ACCURACY][:1])
    (pairs, unknown), (known, _) = half.pairs[0], full.pairs[0]
    assert unknown > 500
    assert pairs - unknown < known
    assert full.pairs[0][1] == 0
    assert 0.35 * 1_000 < known < 0.49 * 1_000
    assert half.losses[0] <= full.losses[0] <= half.losses[0] + unknown
    yes, no = scores[is_yes][:, None], scores[~is_yes]
    area = (yes > no).mean() + (yes == no).mean() / 2
    assert full.losses[0] / known == pytest.approx(1 - area, abs=4 * 0.4 / np.sqrt(known))


def test_a_sample_waits_for_the_ids_that_python_and_sql_choose_alike(tmp_path):
    ids = [f"p-{number}" for number in range(400)]
    answered(tmp_path, ids, T0, labels=[1] * 400)
    chosen = [name for name in ids if outcome_draw(name) < 0.1]
    assert 20 < len(chosen) < 65
    truths(tmp_path, chosen, [1] * len(chosen))
    assert summary(tmp_path, sample=0.1) == [(0, len(chosen), 0.0, 0.0)]
    sql = "SELECT id FROM predictions WHERE outcome_draw(id) < 0.1 ORDER BY id"
    assert Ledger(tmp_path).query(sql)["id"].to_pylist() == sorted(chosen)


def test_spans_grow_with_age_end_with_their_stage_and_stay_as_they_are():
    stages = [Stage(T0, 0, 0.05, 2), Stage(T0 + timedelta(seconds=33), 1, 0.25, 3)]
    early = spans_of(T0, stages[:1], T0 + timedelta(seconds=33))
    late = spans_of(T0, stages, T0 + timedelta(days=7))
    assert [span for span, _ in late][: len(early)] == [span for span, _ in early]
    assert len(late) < 900
    cut = next(place for place, (_, stage) in enumerate(late) if stage)
    assert late[cut][0].start == late[cut - 1][0].end == stages[1][0]
    assert [span.number for span, _ in late] == list(range(len(late)))
    assert all(a.end == b.start for (a, _), (b, _) in pairwise(late))
    assert spans_of(T0, [], T0 + timedelta(days=1)) == []


def test_a_key_counts_once_in_a_stage_with_its_first_request(tmp_path):
    answered(tmp_path, ["a", "b", "c"], T0, labels=[1, 1, 1], units=[7, -1, None])
    later = T0 + timedelta(minutes=1)
    answered(tmp_path, ["d", "e"], later, labels=[1, 1], units=[7, 8])  # of another host
    truths(tmp_path, list("abcde"), [0, 0, 0, 0, 0])
    found = [
        (one.number, one.is_of_keys, one.predictions, *one.losses) for one in counted(tmp_path)
    ]
    assert found == [(0, False, 1, 1.0), (0, True, 1, 1.0), (1, True, 1, 1.0)]


def test_a_key_counts_where_its_arm_is_open_and_again_in_the_next_stage(tmp_path):
    answered(tmp_path, ["a", "b"], T0, labels=[1, 1], units=[7, 900])
    answered(tmp_path, ["c", "d"], T0 + timedelta(minutes=2), labels=[1, 1], units=[7, 900])
    spans = [
        replace(SPANS[0], units=(0, 820)),
        *(replace(one, units=(820, 4_096)) for one in SPANS[1:]),
    ]
    assert [one[:2] for one in summary(tmp_path, spans=spans)] == [(0, 1), (2, 1)]
    spans = [replace(one, units=(0, 4_096)) for one in SPANS]
    assert [one[:2] for one in summary(tmp_path, spans=spans)] == [(0, 2)]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_key_that_two_hosts_see_at_once_counts_once_in_any_order(tmp_path, order):
    """Also where the clock of one of them is ahead, and where its rows come later."""
    for name in order:
        answered(tmp_path, [name], T0, labels=[1], units=[7])
    ahead = T0 + timedelta(minutes=2)
    answered(tmp_path, ["c"], ahead, labels=[1], units=[7])
    truths(tmp_path, list("abc"), [1, 0, 0])
    assert summary(tmp_path) == [(0, 1, 0.0, 0.0)], "the first one; of two at once, by the id"


PLANNED = [replace(span, plan=plan) for span, plan in zip(SPANS, (4, 4, 5), strict=True)]


def minutes(count):
    return T0 + timedelta(minutes=count)


@pytest.mark.parametrize(("plan", "at", "number"), [
    (4, 0.5, 0), (4, 7, 1), (4, 1.5, 1), (5, 0.5, 2), (5, 2.5, 2),
])  # fmt: skip
def test_a_prediction_is_of_the_stage_whose_plan_answered_it_whatever_its_clock_says(
    tmp_path, plan, at, number
):
    answered(tmp_path, ["a"], minutes(at), labels=[1], plan=plan)
    assert summary(tmp_path, spans=PLANNED) == [(number, 1, 1.0, 0.0)]


@pytest.mark.parametrize(("plan", "at"), [(3, 0.5), (3, 2.5), (6, 0.5), (5, 7)])
def test_other_plans_and_moments_that_are_still_to_come_do_not_count(tmp_path, plan, at):
    answered(tmp_path, ["a"], minutes(at), labels=[1], plan=plan)
    assert summary(tmp_path, spans=PLANNED) == []


def test_the_clocks_of_two_hosts_mix_no_requests_of_different_shares(tmp_path):
    """The host that is ahead has more errors, and 5 % of the candidate when the step began."""
    for host, ahead_min, is_wrong in (("right", 0, 0), ("ahead", 5, 1)):
        for plan, at, of_candidate in ((4, 1.5, 5), (5, 2.5, 25)):
            for arm, count in (("candidate", of_candidate), ("current", 100 - of_candidate)):
                ids = [f"{host}{plan}{arm}{n}" for n in range(count)]
                answered(
                    tmp_path, ids, minutes(at + ahead_min), arm=arm, labels=[1] * count, plan=plan
                )
                truths(tmp_path, ids, [1 - is_wrong] * count)
    spans = [*PLANNED, replace(PLANNED[2], number=3, start=minutes(3), end=minutes(9))]
    for plan, numbers in ((4, {1}), (5, {2, 3})):
        rates = [
            sum(row[3] for row in rows if row[0] in numbers)
            / sum(row[1] for row in rows if row[0] in numbers)
            for rows in (
                summary(tmp_path, arm=arm, spans=spans) for arm in ("candidate", "current")
            )
        ]
        assert rates == [0.5, 0.5], plan


def test_what_an_earlier_release_wrote_is_read(tmp_path):
    answered(tmp_path, ["a"], T0, labels=[1])
    (row,) = Ledger(tmp_path).query("SELECT unit, plan, caller FROM predictions").to_pylist()
    assert row == {"unit": None, "plan": None, "caller": "me"}
    assert summary(tmp_path) == [(0, 1, 1.0, 0.0)]
