"""A packed model and a table in, a report of drift out."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.tiers import first_of

import bascule
from bascule.core.errors import Invalid, NotFound
from bascule.monitoring import Effect


def table(rows, random, *, shift=0.0, unknown=0.0):
    shares = [0.5, 0.3, 0.2 - unknown, unknown]
    return pd.DataFrame(
        {
            "delay": random.normal(10 + shift, 5, rows),
            "idle": random.normal(size=rows),
            "carrier": random.choice(np.array(["A", "B", "C", "new"], object), rows, p=shares),
        }
    )


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, random):
    X = table(4_000, random)
    y = np.where(X.delay + random.normal(size=len(X)) > 12, "late", "ok")
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough"
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(X, y)
    return bascule.pack(
        model, name="late", train=(X[:3_000], y[:3_000]), test=(X[3_000:], y[3_000:]),
        to=tmp_path_factory.mktemp("drift") / "late.bundle", measure=False,
    )  # fmt: skip


def alarmed(report):
    return {column.name for window in report.windows for column in window.alarms}


def test_rows_like_the_training_rows_raise_no_alarm(bundle, random):
    report = bascule.drift(bundle, table(800, random))
    assert not report.is_alarm
    assert [(one.where, one.name) for one in report.windows[0].columns] == [
        ("input", "delay"), ("input", "idle"), ("input", "carrier"),
        ("answer", "label"), ("answer", "probabilities.ok"),
    ]  # fmt: skip
    assert report.level == pytest.approx(4 / (365 * 5))


@pytest.mark.parametrize("load", first_of([load_iris, load_diabetes]))
def test_machine_code_raises_no_alarm_on_the_rows_of_the_baseline(tmp_path, load):
    """It differs from the program of the baseline in the tenth digit; its few answers are ties."""
    X, y = load(return_X_y=True)
    kind = GradientBoostingClassifier if load is load_iris else GradientBoostingRegressor
    model = kind(n_estimators=10, max_depth=1, random_state=0).fit(X, y)
    made = bascule.pack(model, name="m", train=(X, y), test=(X, y), to=tmp_path / "m.bundle")
    assert "llvm" in {one.name for one in made.manifest.programs}
    assert not alarmed(bascule.drift(made, X))


def test_a_shift_is_found_in_the_input_and_in_the_answers(bundle, random):
    report = bascule.drift(bundle, table(800, random, shift=5))
    assert alarmed(report) == {"delay", "label", "probabilities.ok"}
    delay = report.windows[0].columns[0]
    assert delay.leading.name == "location"
    assert delay.leading.effect == pytest.approx(1, abs=0.15)
    assert delay.then["p50"] == pytest.approx(10, abs=0.5)
    assert delay.now["p50"] == pytest.approx(15, abs=0.7)
    assert "baseline deviations higher than the baseline; median 10" in delay.sentence


def test_the_share_of_an_alarm_is_weighed_by_what_the_model_uses(bundle, random):
    rows = table(800, random, shift=5)
    rows["idle"] += 3
    columns = {one.name: one for one in bascule.drift(bundle, rows).windows[0].columns}
    assert columns["idle"].is_alarm
    assert columns["idle"].influence < 0.05 < 0.2 < columns["delay"].influence
    assert columns["delay"].share > 0.9
    assert columns["delay"].share + columns["idle"].share == pytest.approx(1)


def test_an_unknown_category_is_named(bundle, random):
    report = bascule.drift(bundle, table(800, random, unknown=0.1))
    carrier = report.windows[0].columns[2]
    assert carrier.leading.name == "unseen"
    assert carrier.leading.what == "new"
    assert "of the values are not in the baseline, such as 'new'" in carrier.sentence


def test_missing_values_that_the_model_refuses_are_found_and_not_scored(bundle, random):
    rows = table(800, random)
    rows.loc[:100, "delay"] = np.nan
    report = bascule.drift(bundle, rows)
    assert alarmed(report) == {"delay"}
    assert report.windows[0].columns[0].leading.name == "missing"
    assert any("rows that the model refuses" in note for note in report.notes)


@pytest.mark.parametrize(("wrong", "is_alarm"), [(10, False), (40, True)])
def test_values_of_another_type_raise_an_alarm_from_2_percent(bundle, random, wrong, is_alarm):
    rows = table(800, random)
    rows["idle"] = rows["idle"].astype(str)
    rows.loc[: wrong - 1, "idle"] = "n/a"
    idle = bascule.drift(bundle, rows).windows[0].columns[1]
    assert idle.is_broken is is_alarm
    assert "of the values are of another type than the model takes" in idle.sentence


def test_type_errors_of_one_day_are_those_of_that_day(bundle, random):
    rows = table(400, random).assign(at=["2026-03-01"] * 200 + ["2026-03-02"] * 200)
    rows["idle"] = rows["idle"].astype(str)
    rows.loc[390:, "idle"] = "n/a"
    report = bascule.drift(bundle, rows, time_column="at")
    assert [one.columns[1].is_broken for one in report.windows] == [False, True]


def test_a_value_far_out_of_the_range_and_a_constant_column_are_reported(bundle, random):
    rows = table(800, random)
    rows["idle"] = 0.5
    rows.loc[0, "delay"] = 1e9
    found = bascule.drift(bundle, rows).windows[0].columns
    assert any("the largest value is 1e+09" in one for one in found[0].findings)
    assert found[1].findings == ("all 800 values are the same",)


@pytest.mark.parametrize(
    "form", [lambda X: X, pl.from_pandas, pa.Table.from_pandas, lambda X: X.to_dict("list")]
)
def test_every_kind_of_table_gives_the_same_report(bundle, form):
    rows = table(300, np.random.default_rng(4), shift=2)
    assert bascule.drift(bundle, form(rows)).to_json() == bascule.drift(bundle, rows).to_json()


def test_columns_that_the_model_does_not_take_may_hold_anything(bundle, random):
    rows = table(100, random)
    rows["note"] = [{"any": "thing"}] * 100
    assert not bascule.drift(bundle, rows).is_alarm


def test_each_utc_day_is_a_window_in_order(bundle, random):
    rows = table(1_200, random)
    times = pd.Timestamp("2026-03-01", tz="UTC") + pd.to_timedelta(np.arange(1_200) * 3, "min")
    rows["at"] = times.tz_convert("America/New_York")
    rows.loc[times >= pd.Timestamp("2026-03-03", tz="UTC"), "delay"] += 6
    report = bascule.drift(bundle, rows.sample(frac=1, random_state=0), time_column="at")
    assert [(str(one.day), one.rows) for one in report.windows] == [
        ("2026-03-01", 480), ("2026-03-02", 480), ("2026-03-03", 240),
    ]  # fmt: skip
    assert [bool(one.alarms) for one in report.windows] == [False, False, True]
    assert report.level == pytest.approx(4 / (365 * 5 * 2))


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["2026-03-01T23:30:00-05:00"] * 30, "2026-03-02"),
        (["2026-03-01 23:30:00"] * 30, "2026-03-01"),
        (pd.to_datetime(["2026-03-01"] * 30).date, "2026-03-01"),
    ],
)
def test_times_are_read_in_their_zone_and_as_utc_without_one(bundle, random, times, said):
    report = bascule.drift(bundle, table(30, random).assign(at=times), time_column="at")
    assert [str(one.day) for one in report.windows] == [said]


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda X: X.drop(columns="idle"), {}, "the table has no column 'idle'"),
        (lambda X: X[:0], {}, "the table has no rows"),
        (lambda X: X, {"time_column": "at"}, "time_column: the table has no column 'at'"),
        (lambda X: X, {"time_column": "delay"}, "holds double, not times"),
        (lambda X: X, {"time_column": "carrier"}, "holds what is no time"),
        (lambda X: X.assign(at=pd.NaT), {"time_column": "at"}, "lacks 30 times"),
        (lambda X: X, {"budget": -1}, "budget: -1 alarms a year is not > 0"),
        (lambda X: X, {"windows_a_year": 0}, "windows_a_year: 0 is not >= 1"),
        (lambda X: X, {"effects": {"x": Effect()}}, "the baseline has no column 'x'"),
    ],
)
def test_a_table_or_option_that_does_not_fit_is_refused(bundle, random, change, options, said):
    with pytest.raises(Invalid, match=said):
        bascule.drift(bundle, change(table(30, random)), **options)


def test_a_bundle_without_a_baseline_says_how_to_get_one(tmp_path):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X, y)
    made = bascule.pack(
        model, name="m", train=(X, y), to=tmp_path / "m", baseline=False, measure=False
    )
    with pytest.raises(Invalid, match="m has no baseline") as refused:
        bascule.drift(made.path, X)
    assert "train=" in refused.value.hint


@pytest.mark.parametrize("named", first_of([False, True]))
def test_a_model_of_a_matrix_is_compared_by_column(tmp_path, named):
    X, y = load_iris(return_X_y=True, as_frame=named)
    model = LogisticRegression(max_iter=500).fit(X, y)
    made = bascule.pack(
        model, name="m", train=(X, y), test=(X, y), to=tmp_path / "m", measure=False
    )
    moved = X.copy()
    if named:
        moved.iloc[:, 2] += 2
    else:
        moved[:, 2] += 2
    report = bascule.drift(made, moved)
    inputs = [one for one in report.windows[0].columns if one.where == "input"]
    assert len(inputs) == 4
    assert [one.is_alarm for one in inputs] == [False, False, True, False]
    assert inputs[2].influence is not None
    assert not bascule.drift(made, X).is_alarm


def test_a_reference_that_is_nothing_is_not_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound):
        bascule.drift("late", {"x": [1.0]})


def test_a_report_is_json_a_table_lines_and_html(bundle, random):
    report = bascule.drift(bundle, table(500, random, shift=5, unknown=0.1))
    assert json.loads(json.dumps(report.to_json()))["alarm"] is True
    flat = report.to_arrow()
    assert flat.column("column").to_pylist()[:2] == ["delay", "idle"]
    assert flat.column("alarm").to_pylist()[:2] == [True, False]
    lines = repr(report).splitlines()
    assert lines[0].startswith("late: 4 alarms; 500 rows, 5 columns, budget 4 false alarms a year")
    assert all(len(line) <= 80 for line in lines[2:8])
    page = report._repr_html_()
    assert page.count("<tr>") == 6
    assert '<th scope="row">delay</th>' in page
