from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, roc_auc_score

import bascule
from bascule.bundle.statements.training import Training, row_hashes
from bascule.core.errors import Invalid, Untrusted
from bascule.core.fields import DType, Field, Signature
from bascule.packing.imported import Rows
from bascule.packing.statements.training import KEPT_HASHES, describe
from bascule.release import Criterion, check, evaluate
from bascule.release.conditions import Each, Missing, Noise, Slice
from bascule.release.gates import Measured
from bascule.release.measure import measure
from bascule.release.reports import FORMS, as_junit, as_markdown, parse_output
from bascule.release.states import in_state

T0 = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def flights():
    random = np.random.default_rng(3)
    n = 900
    table = pd.DataFrame(
        {
            "carrier": random.choice(["AA", "BB", "CC"], n),
            "hour": random.integers(0, 4, n),
            "wind": random.normal(size=n),
            "gust": random.normal(size=n),
        }
    )
    late = np.where(table.carrier == "CC", table.wind + random.normal(size=n), table.wind) > 0
    table.loc[random.random(n) < 0.1, "gust"] = np.nan
    return table, late.astype(int)


@pytest.fixture(scope="module")
def bundle(flights, packed):
    table, late = flights
    coded = table.assign(carrier=table.carrier.astype("category"))
    model = HistGradientBoostingClassifier(max_iter=30, categorical_features=["carrier"])
    model.fit(coded[:600], late[:600])
    return bascule.load(
        packed("sliced", model, (coded[:600], late[:600]), (coded[600:], late[600:]))
    )


def one(bundle, text, **options):
    criterion = Criterion.parse(text)
    return measure(bundle, [criterion], **options)[criterion.measure]


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("roc_auc[carrier=AA] >= 0.7", Slice("carrier", "AA")),
        ("roc_auc[ carrier = A A ] >= 0.7", Slice("carrier", "A A")),
        ("roc_auc[by carrier] >= 0.7", Each("carrier")),
        ("accuracy[by x]y] >= 0.7", Each("x]y")),
        ("accuracy[sizes[0]=[3]] >= 0.7", Slice("sizes[0]", "[3]")),
        ("rmse[missing 10%] <= 3", Missing(10)),
        ("rmse[noise .5%] <= 3", Noise(0.5)),
        ("finite >= 1", None),
        ("finite[missing 20%] >= 1", Missing(20)),
    ],
)
def test_what_stands_in_brackets_is_read(text, condition):
    criterion = Criterion.parse(text)
    assert criterion.condition == condition
    assert Criterion.parse(str(criterion)) == criterion


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("roc_auc[] >= 0.7", "says no rows and no state"),
        ("roc_auc[100] >= 0.7", "says no rows and no state"),
        ("roc_auc[missing 0%] >= 0.7", "not a share above 0%"),
        ("roc_auc[missing 101%] >= 0.7", "not a share above 0%"),
        ("roc_auc[noise 0%] >= 0.7", "no amount of noise"),
        ("stability >= 0.9", "stability needs a state"),
        ("stability[by carrier] >= 0.9", "stability is measured on all rows"),
        ("train_test_overlap[by carrier] <= 0", "has nothing in brackets"),
    ],
)
def test_brackets_that_make_no_sense_are_refused(text, complaint):
    with pytest.raises(Invalid, match=complaint.replace("[", r"\[")):
        Criterion.parse(text)


def test_the_whole_share_may_be_missing():
    assert Criterion.parse("finite[missing 100%] >= 1").condition == Missing(100)


# -- slices --


def probabilities(bundle, table):
    return bundle.predict(table)["probabilities"][:, 1]


def test_a_slice_is_measured_on_its_own_rows(bundle, flights):
    table, late = flights[0][600:], flights[1][600:]
    chosen = (table.carrier == "AA").to_numpy()
    found = one(bundle, "roc_auc[carrier=AA] >= 0.5")
    assert found.value == pytest.approx(
        roc_auc_score(late[chosen], probabilities(bundle, table[chosen]))
    )
    assert found.note == f"{chosen.sum()} rows"


def test_a_column_with_a_bracket_in_its_name_can_be_sliced_by(flights, packed):
    table, late = flights
    rows = table[["hour", "wind"]].rename(columns={"hour": "hours]"})
    model = HistGradientBoostingClassifier(max_iter=5).fit(rows[:600], late[:600])
    sliced = bascule.load(
        packed("bracketed", model, (rows[:600], late[:600]), (rows[600:], late[600:]))
    )
    assert "hours]=" in one(sliced, "accuracy[by hours]] >= 0.1").note


def test_the_worst_slice_counts_and_is_named(bundle, flights):
    table, late = flights[0][600:], flights[1][600:]
    by_carrier = {
        carrier: roc_auc_score(late[table.carrier == carrier], probabilities(bundle, rows))
        for carrier, rows in table.groupby("carrier")
    }
    found = one(bundle, "roc_auc[by carrier] >= 0.5")
    assert found.value == pytest.approx(min(by_carrier.values()))
    worst = min(by_carrier, key=by_carrier.get)
    assert found.note.startswith(f"carrier={worst} with ")
    assert found.note.endswith("the worst of 3")


def test_of_an_error_the_largest_slice_is_the_worst(bundle):
    most = one(bundle, "log_loss[by carrier] <= 1").value
    least = one(bundle, "log_loss[by carrier] >= 0").value
    assert most > one(bundle, "log_loss <= 1").value > least


def test_whole_numbers_are_sliced_by_as_people_write_them(bundle, flights):
    table, late = flights[0][600:], flights[1][600:]
    chosen = (table.hour == 3).to_numpy()
    expected = accuracy_score(late[chosen], bundle.predict(table[chosen])["label"])
    assert one(bundle, "accuracy[hour=3] >= 0").value == pytest.approx(expected)
    assert one(bundle, "accuracy[hour=3.0] >= 0").value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("accuracy[carrier=ZZ] >= 0", "no held-out row has carrier=ZZ"),
        ("roc_auc[by wind] >= 0", "with 1 row"),
    ],
)
def test_a_slice_that_cannot_be_measured_fails_with_the_reason(bundle, text, reason):
    report = check(bundle, [text], now=T0, by="ada", record=lambda report: None)
    assert not report.passed
    assert report.results[0].value is None
    assert reason in report.results[0].reason


# -- states --


def test_missing_values_are_left_out_where_they_may_be_and_nowhere_else():
    signature = Signature(
        (
            Field("a", DType.FP64, nullable=True),
            Field("b", DType.FP64),
            Field("c", DType.BYTES, nullable=True),
        ),
        (Field("prediction", DType.FP64),),
    )
    rows = {
        "a": np.arange(10_000.0), "b": np.arange(10_000.0),
        "c": np.array(["x"] * 10_000, object),
    }  # fmt: skip
    made = in_state(rows, signature, "missing", 0.1)
    assert np.isnan(made["a"]).mean() == pytest.approx(0.1, abs=0.02)
    assert np.equal(made["c"], None).mean() == pytest.approx(0.1, abs=0.02)
    assert made["b"] is rows["b"]
    assert not np.isnan(rows["a"]).any()
    again = in_state(rows, signature, "missing", 0.1)
    assert np.array_equal(again["a"], made["a"], equal_nan=True)


def test_noise_is_of_the_size_asked_for_and_leaves_whole_numbers_alone():
    signature = Signature(
        (Field("a", DType.FP64), Field("n", DType.FP64)), (Field("prediction", DType.FP64),)
    )
    random = np.random.default_rng(0)
    rows = {"a": random.normal(scale=50, size=20_000), "n": np.arange(20_000.0)}
    made = in_state(rows, signature, "noise", 0.02)
    assert np.std(made["a"] - rows["a"]) == pytest.approx(1.0, rel=0.05)
    assert made["n"] is rows["n"]


def test_a_model_that_takes_no_missing_value_cannot_be_asked_with_some(regressor_bundle):
    found = one(bascule.load(regressor_bundle), "finite[missing 10%] >= 1")
    assert found.value is None
    assert found.note == "no column of the model takes missing values"


def test_quality_under_missing_values_is_less_and_answers_stay_finite(bundle):
    whole = one(bundle, "roc_auc >= 0.5").value
    assert one(bundle, "finite[missing 30%] >= 1").value == 1.0
    under = one(bundle, "roc_auc[missing 30%] >= 0.5").value
    assert under != whole


def test_more_noise_is_less_stable(bundle):
    little = one(bundle, "stability[noise 0.1%] >= 0").value
    much = one(bundle, "stability[noise 100%] >= 0").value
    assert 0.95 < little <= 1
    assert much < little


def test_stability_of_numbers_is_in_deviations_of_the_answers(packed):
    random = np.random.default_rng(0)
    X = random.normal(size=(4_000, 1))
    path = packed("steady", LinearRegression().fit(X, 2 * X[:, 0]), X, (X, 2 * X[:, 0]))
    # The mean of |N(0, 1)| is sqrt(2 / pi).
    expected = 1 - 0.1 * np.sqrt(2 / np.pi)
    assert one(bascule.load(path), "stability[noise 10%] >= 0").value == pytest.approx(
        expected, abs=0.003
    )


# -- the data --


def test_an_overlap_is_counted_in_rows(bundle, flights):
    table, late = flights
    coded = table.assign(carrier=table.carrier.astype("category"))
    assert one(bundle, "train_test_overlap <= 0").value == 0.0
    mixed = (pd.concat([coded[:100], coded[600:700]]), np.r_[late[:100], late[600:700]])
    found = one(bundle, "train_test_overlap <= 0", test=mixed)
    assert found.value == pytest.approx(0.5)
    assert found.note == "100 of 200 rows"


def test_an_overlap_with_many_rows_is_judged_from_a_sample():
    random = np.random.default_rng(1)
    signature = Signature((Field("x", DType.FP64, (4,)),), (Field("y", DType.FP64),))
    rows = {"x": random.normal(size=(20 * KEPT_HASHES, 4))}
    training = Training.from_json(json.loads(json.dumps(describe(Rows(rows), signature))))
    fresh = {"x": random.normal(size=(20_000, 4))}
    assert training.overlap(fresh)[0] == 0.0
    half = {"x": np.concatenate([rows["x"][:20_000], fresh["x"]])}
    share, asked = training.overlap(half)
    assert asked == pytest.approx(40_000 / 20, rel=0.2)
    assert share == pytest.approx(0.5, abs=0.05)
    with pytest.raises(Untrusted, match="falls into the sample"):
        training.overlap({"x": fresh["x"][:0]})


def test_rows_have_one_hash_in_whatever_type_they_are_held():
    as_floats = row_hashes(
        {"a": np.array([1.0, -0.0, np.nan]), "b": np.array(["x", None, "y"], object)}
    )
    as_other = row_hashes(
        {"a": np.array([1, 0, 7], np.int32), "b": np.array(["x", None, "y"], object)}
    )
    assert list(as_floats[:2]) == list(as_other[:2])
    assert as_floats[2] != as_other[2]
    assert len(set(as_floats.tolist())) == 3


def test_coverage_is_the_share_of_rows_inside_what_was_trained_on(bundle, flights):
    table, late = flights
    coded = table.assign(carrier=table.carrier.astype("category"))
    assert one(bundle, "coverage >= 0.9", test=(coded[:100], late[:100])).value == 1.0
    beyond = coded[:100].copy()
    beyond.loc[beyond.index[:30], "wind"] = 1e6
    assert one(bundle, "coverage >= 0.9", test=(beyond, late[:100])).value == pytest.approx(0.7)


def test_a_column_that_is_the_target_is_found_and_named(flights, packed):
    table, late = flights
    leaking = table[["wind", "gust"]].assign(delay=late * 10.0 + table.gust.fillna(0) * 0.01)
    model = HistGradientBoostingClassifier(max_iter=5).fit(leaking, late)
    path = packed("leaking", model, leaking, (leaking, late))
    found = one(bascule.load(path), "target_in_features <= 0.99")
    assert found.value > 0.999
    assert found.note == "column 'delay' by itself"


def test_an_honest_column_does_not_give_the_target_away(bundle):
    assert 0.6 < one(bundle, "target_in_features <= 0.99").value < 0.99


def test_without_a_word_of_the_training_rows_their_gates_fail(bundle, tmp_path):
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    for file in (copy / "statements").glob("training-*"):
        file.unlink()
    for text in ("train_test_overlap <= 0", "coverage >= 0"):
        found = one(bascule.load(copy), text)
        assert found.value is None
        assert "says nothing of its training rows" in found.note


def test_the_truth_may_be_unknown(bundle, tmp_path, packed, flights):
    path = packed("untold", LinearRegression().fit(np.eye(3), [1, 2, 3]), np.eye(3))
    for text in ("rmse[by c0] <= 1", "finite >= 1", "target_in_features <= 1"):
        assert one(bascule.load(path), text).value is None


# -- reports --


def report():
    criteria = [
        Criterion.parse(text) for text in ("accuracy >= 0.9", "rmse <= 1", "f1[a=<|x>] >= 0")
    ]
    facts = {
        "accuracy": Measured(0.95),
        "rmse": Measured(2.0),
        "f1[a=<|x>]": Measured(None, "no row \x00 has a=<|x>"),
    }
    return evaluate(criteria, facts)


def test_junit_tells_what_failed_from_what_could_not_be_evaluated():
    suite = ElementTree.fromstring(as_junit(report(), "late/3")).find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    good, bad, unknown = suite.findall("testcase")
    assert list(good) == []
    assert bad.find("failure").get("message") == "2 is not <= 1"
    assert "not measured: no row ? has a=<|x>" in unknown.find("error").get("message")


def test_markdown_says_the_verdict_first_and_escapes_what_would_break_its_table():
    text = as_markdown(report(), "late/3")
    assert text.startswith("### late/3 failed 2 of 3 gates\n")
    assert "| rmse &lt;= 1 | 2 | **failed** | 2 is not &lt;= 1 |" in text
    assert "a=&lt;\\|x&gt;" in text
    assert all(line.replace("\\|", "").count("|") == 5 for line in text.splitlines()[2:])


def test_every_form_is_written_by_the_name_before_the_colon(tmp_path):
    for form, write in FORMS.items():
        assert parse_output(f"{form}:{tmp_path}/x") == (form, tmp_path / "x")
        assert write(report(), "late/3").endswith("\n")
    assert json.loads(FORMS["json"](report(), "late/3"))["passed"] is False


@pytest.mark.parametrize("text", ["junit", "junit:", "xml:file", ":file", "junit:/nowhere/x.xml"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_measured(text):
    with pytest.raises(Invalid, match="--output"):
        parse_output(text)
