"""Predictions and truths in, a report of performance out: of the ledger and of tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import bascule
from bascule.core import Invalid, NotFound
from bascule.metrics import Estimate, Labelled, estimate, metric_of
from bascule.monitoring import Outcomes, measure_performance
from bascule.monitoring.ledger import SpoolWriter
from bascule.monitoring.performance.delays import delay_curve
from bascule.monitoring.performance.estimating import estimator_of
from bascule.monitoring.performance.judging import estimate_interval, judge
from bascule.release import join_attributes, production_fairness
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
START = datetime(2026, 5, 4, 9, tzinfo=UTC)


def flights(rows, random, wind=10.0):
    return pd.DataFrame(
        {
            "wind": random.normal(wind, 4, rows),
            "carrier": random.choice(np.array(["AA", "UA"], object), rows),
        }
    )


def late(X, random, noise=3.0):
    return np.where(X.wind + random.normal(0, noise, len(X)) > 13, "late", "ok")


@pytest.fixture
def random():
    return np.random.default_rng(4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    random = np.random.default_rng(9)
    X = flights(5_000, random)
    y = late(X, random)
    columns = make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression()).fit(X[:3_000], y[:3_000])
    return bascule.pack(
        model, name="late", train=(X[:3_000], y[:3_000]), test=(X[3_000:], y[3_000:]),
        to=tmp_path_factory.mktemp("performance") / "late.bundle", measure=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def regressor(tmp_path_factory):
    random = np.random.default_rng(9)
    X = random.normal(size=(4_000, 3))
    y = X[:, 0] * 2 + random.normal(size=4_000) * np.exp(X[:, 1] / 2)
    model = LinearRegression().fit(X[:2_000], y[:2_000])
    return bascule.pack(
        model, name="gb", train=(X[:2_000], y[:2_000]), test=(X[2_000:], y[2_000:]),
        to=tmp_path_factory.mktemp("performance") / "gb.bundle", measure=False,
    )  # fmt: skip


def days(random, count=10, *, worse_from=99, rows=300):
    made = []
    for day in range(count):
        X = flights(rows, random)
        noise = 9.0 if day >= worse_from else 3.0
        made.append(X.assign(y=late(X, random, noise), at=START + timedelta(days=day)))
    return pd.concat(made, ignore_index=True)


# -- tables --


def test_a_model_that_is_as_good_as_recorded_raises_no_alarm(bundle, random):
    report = bascule.performance(bundle, days(random), truth_column="y", time_column="at")
    assert not report.is_alarm
    whole = report.windows[0]
    assert (whole.start, whole.predictions, whole.truths) == (None, 3_000, 3_000)
    assert [one.metric for one in whole.metrics] == ["accuracy", "auc", "log_loss"]
    assert [one.start.day for one in report.windows[1:]] == list(range(4, 14))
    assert report.windows[1].metrics[0].level == pytest.approx(4 / (365 * 3))


def test_days_of_worse_answers_raise_an_alarm_each_and_the_sentence_has_the_numbers(bundle, random):
    report = measure_performance(
        days(random, worse_from=8), bundle, truth_column="y", time_column="at"
    )
    alarmed = {one.start.day for one in report.windows if one.alarms}
    assert alarmed == {12, 13}
    found = report.findings[0]
    assert found.is_alarm
    assert found.metric == "accuracy"
    assert found.sentence.startswith("2026-05-12: accuracy is 70.7% (95 % interval")
    assert "worse than the 83.0% on held-out rows (p = " in found.sentence
    assert report.alarms[0] == found.sentence


def test_a_worsening_that_does_not_matter_raises_no_alarm(bundle, random):
    table = days(random, worse_from=8)
    report = measure_performance(
        table, bundle, truth_column="y", time_column="at", metrics=["accuracy"],
        effects={"accuracy": 0.5},
    )  # fmt: skip
    assert not report.is_alarm


def test_predictions_of_the_table_are_used_instead_of_the_bundles(bundle, random):
    table = days(random, 1)
    table["said"] = table.y
    report = measure_performance(table, bundle, truth_column="y", prediction_column="said")
    assert report.windows[0].metrics[0].found.value == 1.0
    assert report.windows[0].metrics[1].found.note == "it needs probabilities, and there are none"


def test_answers_as_the_bundle_writes_them_give_the_same_as_those_it_makes(bundle, random):
    table = days(random, 1)
    answer = bundle.predict(table[["wind", "carrier"]])
    table["label"] = answer["label"]
    for place, label in enumerate(bundle.classes):
        table[f"probabilities.{label}"] = answer["probabilities"][:, place]
    own = measure_performance(table, bundle, truth_column="y")
    given = measure_performance(table, bundle, truth_column="y", prediction_column="label")
    assert own.to_json() == given.to_json()
    one = table.assign(p=answer["probabilities"][:, 1])
    named = measure_performance(
        one.drop(columns=[f"probabilities.{label}" for label in bundle.classes]), bundle,
        truth_column="y", prediction_column="label", probability_column="p",
    )  # fmt: skip
    assert named.to_json()["windows"][0]["metrics"][1]["value"] == pytest.approx(
        own.windows[0].metrics[1].found.value
    )


@pytest.mark.parametrize("make", [lambda t: t, pl.from_pandas, pa.Table.from_pandas, dict])
def test_any_table_gives_the_same_report(bundle, make):
    table = days(np.random.default_rng(3), 2).drop(columns="at")
    if make is dict:
        table = {name: table[name].to_numpy() for name in table}
        make = lambda t: t  # noqa: E731
    found = measure_performance(make(table), bundle, truth_column="y")
    expected = measure_performance(days(np.random.default_rng(3), 2), bundle, truth_column="y")
    assert found.to_json() == expected.to_json()


def test_slices_are_compared_with_the_same_slice_of_the_held_out_rows(bundle, random):
    table = days(random, 6)
    broken = (table.carrier == "AA") & (table["at"] >= START + timedelta(days=4))
    table.loc[broken, "y"] = np.where(table.y[broken] == "ok", "late", "ok")
    report = measure_performance(
        table, bundle, truth_column="y", time_column="at", slice_by=["carrier"],
        metrics=["accuracy"],
    )  # fmt: skip
    alarmed = {(one.slice, one.start.day) for one in report.windows if one.alarms}
    assert {day for part, day in alarmed if part == ("carrier", "AA")} == {8, 9}
    assert not any(part == ("carrier", "UA") for part, _ in alarmed)
    of_aa = next(one for one in report.windows if one.slice == ("carrier", "AA"))
    assert of_aa.metrics[0].recorded != report.windows[0].metrics[0].recorded


def test_a_number_is_sliced_by_fifths_of_the_training_rows(bundle, random):
    report = measure_performance(
        days(random, 2), bundle, truth_column="y", slice_by=["wind"], metrics=["accuracy"]
    )
    parts = [one for one in report.windows if one.slice]
    assert len(parts) == 5
    assert sum(one.predictions for one in parts) == 600
    assert parts[0].slice[1].startswith("<= 6.")


def test_truths_that_are_missing_leave_bounds(bundle, random):
    table = days(random, 1)
    table.loc[:99, "y"] = None
    whole = measure_performance(table, bundle, truth_column="y").windows[0]
    assert (whole.predictions, whole.truths) == (300, 200)
    right = whole.metrics[0].found.successes
    assert whole.metrics[0].bounds == (right / 300, (right + 100) / 300)
    assert whole.metrics[1].bounds is None


def test_estimates_without_truth_are_near_where_only_the_inputs_change(bundle, random):
    X = flights(4_000, random, wind=13)
    table = X.assign(y=late(X, random))
    (whole,) = measure_performance(table, bundle, truth_column="y").windows
    for one in whole.metrics:
        assert one.estimated == pytest.approx(one.found.value, abs=3 * one.found.error), one.metric
    assert whole.metrics[0].recorded - whole.metrics[0].estimated > 0.03


def test_an_estimate_has_an_interval_and_says_what_it_cannot_see(bundle, random):
    X = flights(1_000, random)
    report = measure_performance(X.assign(y=late(X, random)), bundle, truth_column="y")
    for window in report.windows:
        for one in window.metrics:
            assert one.estimated_between is not None
            low, high = one.estimated_between
            assert low < one.estimated < high
    (said,) = [
        one.sentence for one in report.findings if "estimated without truth at" in one.sentence
    ]
    assert said.endswith("cannot see concept drift: the same inputs with other truths")
    assert "95 % interval" in said
    flat = report.to_arrow().to_pylist()[0]
    assert flat["estimated_lower"] < flat["estimated"] < flat["estimated_upper"]


def test_the_interval_of_an_estimate_holds_the_value_where_rows_are_like_the_held_out_ones():
    random, hits, runs = np.random.default_rng(3), 0, 100

    def drawn(rows):
        chances = random.beta(2, 2, rows)
        truth = (random.random(rows) < chances).astype(int)
        return Labelled(
            "classification", truth, (chances > 0.5).astype(int), (0, 1),
            np.column_stack([1 - chances, chances]),
        )  # fmt: skip

    for _ in range(runs):
        known, window = drawn(300), drawn(500)
        estimator = estimator_of(known, None)
        assert estimator is not None
        between = estimate_interval(
            metric_of("log_loss"), estimator.estimate(window, None)["log_loss"],
            estimator.errors(window)["log_loss"], estimate("log_loss", known), 500,
        )  # fmt: skip
        assert between is not None
        hits += between[0] <= estimate("log_loss", window).value <= between[1]
    assert hits >= 88


def test_errors_of_numbers_are_estimated_from_the_inputs(regressor, random):
    X = random.normal(size=(4_000, 3))
    X[:, 1] += 1
    y = X[:, 0] * 2 + random.normal(size=4_000) * np.exp(X[:, 1] / 2)
    table = pd.DataFrame({f"c{place}": X[:, place] for place in range(3)})
    table["p"] = regressor.predict(X)["prediction"]
    table["y"] = y
    report = measure_performance(table, regressor, truth_column="y", prediction_column="p")
    assert [one.metric for one in report.windows[0].metrics] == ["mae", "rmse", "r2"]
    assert report.is_alarm


def test_a_detector_of_outliers_is_measured_as_a_classifier_of_two_classes(tmp_path, random):
    X = random.normal(size=(600, 2))
    X[::10] += 6
    y = np.where(np.arange(600) % 10 == 0, -1, 1)
    model = IsolationForest(n_estimators=10, random_state=0).fit(X[:300])
    packed = bascule.pack(
        model, name="odd", train=X[:300], test=(X[300:], y[300:]), to=tmp_path / "odd.bundle",
        measure=False,
    )  # fmt: skip
    table = {"c0": X[:, 0], "c1": X[:, 1], "y": y, "said": packed.predict(X)["label"]}
    report = measure_performance(table, packed, truth_column="y", prediction_column="said")
    found = {one.metric: one.found.value for one in report.windows[0].metrics}
    assert list(found) == ["balanced_accuracy", "precision", "recall"]
    assert found["recall"] == np.mean(table["said"][y == 1] == 1)


def test_rows_that_the_model_refuses_are_left_out_and_counted(bundle, random):
    table = days(random, 1)
    table.loc[:9, "wind"] = np.nan
    report = measure_performance(table, bundle, truth_column="y")
    assert report.windows[0].predictions == 290
    assert report.notes == (
        "10 rows that the model refuses (missing, unknown, out of bounds) are left out",
    )
    with pytest.raises(Invalid, match="refuses every row"):
        measure_performance(table[:10], bundle, truth_column="y")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "which column of the table holds the truth"),
        ({"truth_column": "z"}, "truth_column: the table has no column 'z'"),
        ({"truth_column": "y", "time_column": "z"}, "time_column: the table has no column 'z'"),
        ({"truth_column": "y", "time_column": "wind"}, "holds double, not times"),
        ({"truth_column": "y", "by": "month"}, "by: 'month' is no window"),
        ({"truth_column": "y", "metrics": ["best"]}, "no metric 'best'"),
        ({"truth_column": "y", "slice_by": ["z"]}, "slice: the table has no column 'z'"),
        ({"truth_column": "y", "budget": 0}, "budget: 0 alarms a year is not > 0"),
        ({"truth_column": "y", "effects": {"auc": -1}}, "effect: auc -1 is not >= 0"),
    ],
)
def test_what_is_wrong_is_named(bundle, random, options, problem):
    with pytest.raises(Invalid, match=problem) as caught:
        measure_performance(days(random, 1), bundle, **options)
    assert caught.value.hint or "effect" in problem


def test_a_report_has_lines_of_80_letters_json_arrow_and_html(bundle, random):
    report = measure_performance(
        days(random, worse_from=8), bundle, truth_column="y", time_column="at",
        slice_by=["carrier"],
    )  # fmt: skip
    lines = repr(report).splitlines()
    assert max(map(len, lines[2 : lines.index("", 2)])) <= 80
    assert any(set("▁█") <= set(line) for line in lines)
    assert report.to_arrow().num_rows == len(report.windows) * 3
    assert json.loads(json.dumps(report.to_json()))["alarm"]
    assert "<td>carrier=AA</td>" in report._repr_html_()


# -- the ledger --


class Server:
    """What records answers, with times of its own."""

    def __init__(self, home, bundle):
        self.home, self.bundle = home, bundle
        self._recorder = LedgerRecorder(SpoolWriter(home))
        self._recorder._epoch_ns = 0

    def answer(self, X, names, at, version="1"):
        answer = dict(self.bundle.predict(X))
        by = AnsweredBy(self.bundle.name, version, "onnx")
        for row, name in enumerate(names):
            when = at[row] if isinstance(at, list) else at
            context = SimpleNamespace(
                prediction_id=name, caller="me", protocol="oip", trace=(b"", b""),
                started_ns=int(when.timestamp() * 1e9),
            )  # fmt: skip
            asked = {name: X[name].to_numpy()[row : row + 1] for name in X}
            said = {name: values[row : row + 1] for name, values in answer.items()}
            self._recorder.add(
                context, Call(asked, 1), Answer(said, by), self._label(version), 200, 1
            )

    def _label(self, version):
        self._labels = getattr(self, "_labels", {})
        return self._labels.setdefault(version, MetricLabels(self.bundle.name, version))

    def close(self):
        self._recorder.close()


@pytest.fixture
def received(monkeypatch):
    """Say when the next outcomes are received."""

    def at(moment):
        monkeypatch.setattr(
            "bascule.monitoring.ledger.outcomes.time.time_ns", lambda: int(moment.timestamp() * 1e9)
        )

    return at


def served(home, bundle, X, at, **options):
    server = Server(home, bundle)
    server.answer(X, [f"a-{row}" for row in range(len(X))], at, **options)
    server.close()


def told(home, y, rows=None, names="a-{}"):
    rows = range(len(y)) if rows is None else rows
    ids = [names.format(row) for row in rows]
    Outcomes(home).add("late", pa.table({"id": ids, "truth": [y[row] for row in rows]}))


def measured(home, bundle, **options):
    return measure_performance(home, bundle, now=options.pop("now", NOW), **options)


def test_answers_of_the_ledger_are_joined_with_their_truths(tmp_path, bundle, random, received):
    X = flights(200, random)
    y = late(X, random)
    served(tmp_path, bundle, X, START)
    received(START + timedelta(hours=5))
    told(tmp_path, y, range(150))
    report = measured(tmp_path, bundle)
    whole, day = report.windows
    assert (whole.predictions, whole.truths) == (200, 150)
    assert (day.version, day.start) == ("1", datetime(2026, 5, 4, tzinfo=UTC))
    own = measure_performance(X.assign(y=y)[:150], bundle, truth_column="y").windows[0]
    for found, expected in zip(whole.metrics, own.metrics, strict=True):
        assert found.found.value == pytest.approx(expected.found.value)
        assert found.found.upper == pytest.approx(expected.found.upper)
    assert report.delays.eventual == pytest.approx(0.75)
    assert report.delays.quantile(0.5) == pytest.approx(5 * 3600)
    assert "half of the truths that come are in after 5 h" in repr(report)


def test_truths_of_a_regression_that_are_texts_are_counted_and_left_out(tmp_path, random):
    X = pd.DataFrame(random.normal(size=(40, 2)), columns=["a", "b"])
    model = LinearRegression().fit(X, X["a"])
    bundle = bascule.pack(
        model, name="gb", train=X, test=(X, X["a"]), to=tmp_path / "gb", measure=False
    )
    served(tmp_path, bundle, X, START)
    truths = [*map(str, X["a"][:37]), "high", "12,5", ""]
    ids = [f"a-{row}" for row in range(40)]
    Outcomes(tmp_path).add("gb", pa.table({"id": ids, "truth": truths}))
    report = measured(tmp_path, bundle)
    assert report.windows[0].truths == 37
    (note,) = [one for one in report.notes if "no numbers" in one]
    assert "such as 'high', are left out: 2;" in note


def test_versions_are_measured_apart_and_those_without_a_bundle_left_out(tmp_path, bundle, random):
    X = flights(60, random)
    server = Server(tmp_path, bundle)
    for number, version in enumerate(("1", "2", "10")):
        names = [f"{version}-{row}" for row in range(20)]
        server.answer(X[number * 20 : number * 20 + 20], names, START, version=version)
    server.close()
    report = measure_performance(
        tmp_path, "late", bundle_of=lambda version: None if version == "2" else bundle, now=NOW
    )
    assert list(dict.fromkeys(one.version for one in report.windows)) == ["1", "10"]
    with pytest.raises(Invalid, match="no version of late in the ledger can be measured: 1, 2, 10"):
        measure_performance(tmp_path, "late", bundle_of=lambda _: None)


def test_versions_in_the_same_window_share_its_part_of_the_budget(tmp_path, bundle, random):
    X = flights(40, random)
    server = Server(tmp_path, bundle)
    for place, (version, day) in enumerate((("1", 0), ("2", 1), ("2", 0), ("3", 2))):
        rows = X[place * 10 : place * 10 + 10]
        names = [f"{version}-{day}-{row}" for row in range(10)]
        server.answer(rows, names, START + timedelta(days=day), version=version)
    server.close()

    def bundle_of(version):
        if version == "3":
            raise NotFound("it is gone")
        return bundle

    def level(**options):
        report = measure_performance(tmp_path, "late", now=NOW, **options)
        (found,) = {one.metrics[0].level for one in report.windows if one.start}
        return found

    assert level(bundle_of=bundle_of) == pytest.approx(4 / (365 * 3 * 2))
    only_1 = {"1": bundle}
    assert level(bundle_of=only_1.get) == pytest.approx(4 / (365 * 3))


def test_a_ledger_without_answers_says_so(tmp_path, bundle, random):
    with pytest.raises(NotFound, match="no answers of 'late'"):
        measured(tmp_path, bundle)
    served(tmp_path, bundle, flights(2, random), START)
    with pytest.raises(NotFound, match="no answers of 'late' in this time"):
        measured(tmp_path, bundle, since=START + timedelta(days=1))


def test_a_window_that_is_not_over_is_not_judged(tmp_path, bundle, random):
    X = flights(200, random)
    served(tmp_path, bundle, X, START)
    told(tmp_path, ["late" if one == "ok" else "ok" for one in late(X, random)])
    over = datetime(2026, 5, 5, tzinfo=UTC)
    assert measured(tmp_path, bundle, now=over).is_alarm
    before = measured(tmp_path, bundle, now=over - timedelta(seconds=1))
    assert not before.is_alarm
    assert before.windows[1].waits == "it is not over"


def test_a_young_window_waits_where_late_truths_differ(tmp_path, bundle, random, received):
    """Wrong answers are known after an hour, right ones after two days: a fresh day looks bad."""
    X = flights(2_000, random)
    y = late(X, random)
    at = [START + timedelta(days=row // 200) for row in range(2_000)]
    served(tmp_path, bundle, X, at)
    wrong = y != bundle.predict(X)["label"]
    now = at[-1] + timedelta(hours=20)
    due = {}
    for row, is_wrong in enumerate(wrong):
        when = at[row] + timedelta(hours=1 if is_wrong else 48)
        if when <= now:
            due.setdefault(when, []).append(row)
    for when, rows in sorted(due.items()):
        received(when)
        told(tmp_path, y, rows)
    report = measured(tmp_path, bundle, now=now)
    assert not report.is_alarm
    young = [one for one in report.windows if one.start and one.start.day >= 13]
    assert [one.metrics[0].found.value for one in young] == [0.0]
    assert "late ones differ" in young[0].waits or "not over" in young[0].waits
    of_12 = next(one for one in report.windows if one.start and one.start.day == 12)
    assert "of its truths are in, and late ones differ" in of_12.waits
    assert "differ from later ones" in report.notes[0]


def test_groups_with_later_truths_are_compared_at_equal_age(tmp_path, bundle, random, received):
    """Of one carrier the right answers are known after two days, all others after an hour."""
    X = flights(600, random)
    y = late(X, random)
    at = [START + timedelta(days=row // 100) for row in range(600)]
    served(tmp_path, bundle, X, at)
    right = y == bundle.predict(X)["label"]
    slow = (X.carrier == "UA").to_numpy() & right
    now = at[-1] + timedelta(hours=20)
    due = {}
    for row, is_slow in enumerate(slow):
        when = at[row] + timedelta(hours=48 if is_slow else 1)
        if when <= now:
            due.setdefault(when, []).append(row)
    for when, rows in sorted(due.items()):
        received(when)
        told(tmp_path, y, rows)
    body = production_fairness(
        tmp_path, "late", lambda _: bundle, ["carrier"], since=START, now=now
    )["1"]
    assert body["truths_within_s"] == pytest.approx(48 * 3600)
    old = np.array([(now - when).total_seconds() >= 48 * 3600 for when in at])
    for carrier, group in body["attributes"]["carrier"]["groups"].items():
        rows = (X.carrier == carrier).to_numpy()
        assert group["rows"] == rows.sum()
        assert group["rates"]["accuracy"]["value"] == pytest.approx(right[rows & old].mean())
    register = pa.table({"id": [f"a-{row}" for row in range(len(X))], "home": list(X.carrier)})
    joined = production_fairness(
        tmp_path, "late", lambda _: bundle, ["home"], since=START, now=now,
        join=lambda ids: join_attributes(ids, register, "id"),
    )["1"]  # fmt: skip
    assert joined["attributes"]["home"] == body["attributes"]["carrier"]


# -- delays --


def test_the_curve_of_delays_takes_truths_that_are_still_to_come_into_account(random):
    """Half of the predictions are a day old at most: the delays that are in alone are too short."""
    delays = random.exponential(20, 20_000)
    ages = np.where(random.random(20_000) < 0.5, random.random(20_000) * 24, 1_000)
    found = delay_curve(np.where(delays <= ages, delays, np.nan), ages)
    assert found.quantile(0.5) == pytest.approx(20 * np.log(2), rel=0.03)
    assert found.quantile(0.9) == pytest.approx(20 * np.log(10), rel=0.03)
    naive = np.median(delays[delays <= ages])
    assert naive < 0.95 * found.quantile(0.5)
    assert found.completeness(np.array([20.0])) == pytest.approx(1 - np.exp(-1), abs=0.02)


def test_predictions_that_never_get_a_truth_lower_what_is_expected_at_all(random):
    delays = np.where(random.random(10_000) < 0.3, random.exponential(1, 10_000), np.nan)
    found = delay_curve(delays, np.full(10_000, 100.0))
    assert found.eventual == pytest.approx(0.3, abs=0.02)
    assert found.completeness(np.array([100.0])) == 1


def test_without_truths_nothing_is_known_of_delays():
    found = delay_curve(np.full(5, np.nan), np.ones(5))
    assert (found.truths, found.eventual, found.completeness(np.ones(2))) == (0, 0, None)


# -- false alarms --


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "held_out"), [(60, 1_000), (500, 1_000)])
def test_false_alarms_stay_within_the_budget(rows, held_out):
    """At a level of 1 %, without a least effect, at most 1.3 % of 4,000 windows alarm."""
    random = np.random.default_rng(6)

    def drawn(count):
        chances = random.beta(2, 2, count)
        truth = (random.random(count) < chances).astype(int)
        probabilities = np.column_stack([1 - chances, chances])
        answers = (chances > 0.5).astype(int)
        return Labelled("classification", truth, answers, (0, 1), probabilities)

    for name in ("accuracy", "auc", "log_loss"):
        metric = metric_of(name)
        alarms = [
            judge(
                metric, estimate(name, drawn(rows)), estimate(name, drawn(held_out)), 0.01,
                {name: 0.0},
            ).is_alarm
            for _ in range(4_000)
        ]  # fmt: skip
        assert np.mean(alarms) <= 0.013, name


@pytest.mark.parametrize("held_out", [50, 100])
def test_few_held_out_rows_raise_no_more_alarms_than_the_budget(held_out):
    """Rows that happen to be good have a small standard error, or none, and stay the record."""
    random, level, alarms, windows = np.random.default_rng(8), 4 / (365 * 3), 0, 0
    names = ("accuracy", "auc", "log_loss")

    def drawn(rows):
        chances = random.beta(0.3, 0.3, rows)
        truth = (random.random(rows) < chances).astype(int)
        kept = np.clip(chances, 1e-6, 1 - 1e-6)
        return Labelled(
            "classification", truth, (kept > 0.5).astype(int), (0, 1),
            np.column_stack([1 - kept, kept]),
        )  # fmt: skip

    for _ in range(400):
        known = drawn(held_out)
        record = {name: estimate(name, known) for name in names}
        window, windows = drawn(1_000), windows + 1
        alarms += sum(
            judge(metric_of(name), estimate(name, window), record[name], level, {}).is_alarm
            for name in names
        )
    assert alarms <= 12  # 4 / 365 of 400 are 4.4


def test_a_record_that_errs_in_no_row_is_no_certain_one():
    """Fifty rows may be ordered without a fault by a model whose area is 0.9."""
    metric = metric_of("auc")
    record = Estimate(1.0, rows=50, error=0.0, fewest=20)
    window = Estimate(0.96, rows=1_000, error=0.01, fewest=400)
    assert judge(metric, window, record, 0.0036, {}).p_value == pytest.approx(0.19, abs=0.02)
    worse = Estimate(0.7, rows=1_000, error=0.02, fewest=400)
    assert judge(metric, worse, record, 0.0036, {}).is_alarm
