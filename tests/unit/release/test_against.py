from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.tiers import first_of

import bascule
from bascule.core.errors import Invalid, NotFound
from bascule.metrics import SHORT_NAMES
from bascule.registry import open_registry
from bascule.release import Criterion, check
from bascule.release.against import _BY_CLASS, _BY_ROW, finder
from bascule.release.criteria import QUALITIES, NotWorse
from bascule.release.reports import as_junit
from bascule.stats.paired import MIN_ROWS

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

# -- how it is written --


@pytest.mark.parametrize(
    ("text", "metric", "against", "margin"),
    [
        ("roc_auc >= champion - 0.01", "roc_auc", "champion", 0.01),
        ("  roc_auc>=champion -1e-3 ", "roc_auc", "champion", 1e-3),
        ("rmse <= champion + 2.5", "rmse", "champion", 2.5),
        ("neg_max_error >= gb/3 - 5", "neg_max_error", "gb/3", 5),
        ("auc >= gb@last-good - .5", "auc", "gb@last-good", 0.5),
    ],
)
def test_a_comparison_is_read(text, metric, against, margin):
    criterion = Criterion.parse(text)
    assert isinstance(criterion, NotWorse)
    assert (criterion.metric, criterion.against, criterion.margin) == (metric, against, margin)


@given(
    st.sampled_from(sorted(QUALITIES)),
    st.sampled_from(["champion", "gb@last", "gb/12", "a-b.c_d"]),
    st.floats(1e-6, 1e6).map(lambda value: float(f"{value:.12g}")),
)
def test_a_comparison_is_written_as_it_is_read(metric, against, margin):
    criterion = NotWorse(metric, ">", -margin, against=against)
    assert Criterion.parse(str(criterion)) == criterion


def test_a_wrong_direction_is_answered_with_the_right_line():
    with pytest.raises(Invalid, match="rmse is better when smaller") as refused:
        Criterion.parse("rmse >= champion - 0.5")
    assert refused.value.hint == "write rmse <= champion + 0.5"
    assert Criterion.parse("rmse <= champion + 0.5").margin == 0.5


# -- how it is measured --


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    """A scorer of scikit-learn takes milliseconds a draw; the areas have a quick way."""
    monkeypatch.setattr("bascule.release.against.RESAMPLES", 60)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")

    def packed(model, train, test, name="m"):
        to = folder / f"{len(list(folder.iterdir()))}"
        return bascule.pack(model, name=name, train=train, test=test, to=to, measure=False)

    return packed


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X.iloc[order], y.iloc[order]
    return (X[:200], y[:200]), (X[200:], y[200:])


@pytest.fixture(scope="module")
def good(pack, cancer):
    (X, y), test = cancer
    return pack(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y), X, test)


@pytest.fixture(scope="module")
def alike(pack, cancer):
    """As good as the good one, and not the same; it takes fewer columns."""
    (X, y), (X_test, y_test) = cancer
    fewer = list(X.columns[2:])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.8)).fit(X[fewer], y)
    return pack(model, X[fewer], (X_test[fewer], y_test))


@pytest.fixture(scope="module")
def poor(pack, cancer):
    (X, y), test = cancer
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-5)).fit(X[:20], y[:20])
    return pack(model, X, test)


def judged(candidate, criterion, champion, **more):
    report = check(
        candidate, [criterion], now=T0, by="ada", record=lambda report: None,
        find=lambda against: champion, **more,
    )  # fmt: skip
    return report.results[0]


def test_a_worse_candidate_fails_and_the_reason_tells_all(good, poor):
    result = judged(poor, "accuracy >= champion - 0.02", good)
    assert not result.passed
    assert result.value < -0.02
    for said in (
        "is not > -0.02",
        "of champion (" + good.digest[7:19] + ")",
        "on 369 rows",
        "90% interval [",
        "Tango's score interval; exact McNemar p = ",
    ):
        assert said in result.reason


@pytest.mark.parametrize("metric", first_of(["accuracy", "roc_auc", "f1"]))
def test_a_candidate_that_is_as_good_passes(good, alike, metric):
    # The good one takes more columns than these rows have, so the rows are those of the good one.
    result = judged(good, f"{metric} >= champion - 0.05", alike)
    assert result.passed, result.reason


@pytest.mark.parametrize("metric", ["accuracy", "roc_auc", "neg_log_loss"])
def test_the_same_bundle_differs_by_nothing(good, metric):
    """No rows are needed to know that, so it holds at any margin, and for metrics of no bound."""
    result = judged(good, f"{metric} >= champion - 0.0001", good)
    assert (result.passed, result.value) == (True, 0)
    assert "better by 0 on any rows" in result.reason


def test_a_margin_that_is_too_narrow_for_the_rows_fails(good, alike):
    assert not judged(good, "accuracy >= champion - 0.0001", alike).passed


def test_the_difference_and_its_test_are_those_of_the_metric(good, poor, cancer):
    _, (X, y) = cancer
    areas = [roc_auc_score(y, bundle.predict(X)["probabilities"][:, 1]) for bundle in (poor, good)]
    result = judged(good, "roc_auc >= champion - 0.01", poor)
    assert result.passed
    assert f"better by {areas[1] - areas[0]:.3g}," in result.reason
    assert "paired bootstrap, the wider of BCa and Student's t, 60 draws" in result.reason


def test_an_error_is_better_when_smaller(pack):
    X, y = load_diabetes(return_X_y=True)
    train, test = (X[:300], y[:300]), (X[300:], y[300:])
    line = pack(Ridge(alpha=0.1).fit(*train), X[:300], test)
    flat = pack(Ridge(alpha=1e4).fit(*train), X[:300], test)
    assert judged(line, "rmse <= champion + 1", flat).passed
    worse = judged(flat, "rmse <= champion + 1", line)
    assert not worse.passed
    assert "better by -" in worse.reason
    assert judged(flat, "rmse <= champion + 1000", line).passed


def test_the_same_rows_give_the_same_verdict(good, alike):
    first, again = (judged(good, "roc_auc >= champion - 0.05", alike) for _ in range(2))
    assert first == again


def test_rows_given_take_the_place_of_those_of_the_candidate(good, poor, cancer):
    _, (X, y) = cancer
    result = judged(poor, "accuracy >= champion - 0.02", good, test=(X[:50], y[:50]))
    assert "on 50 rows" in result.reason


# -- what cannot be compared fails --


def test_a_champion_that_cannot_take_the_rows_fails_the_gate(good, alike):
    result = judged(alike, "accuracy >= champion - 0.05", good)
    assert (result.value, result.passed) == (None, False)
    assert "not compared with champion: " in result.reason
    assert "mean radius" in result.reason


def test_a_metric_that_does_not_fit_is_refused(pack, good):
    X, y = load_iris(return_X_y=True)
    iris = pack(LogisticRegression(max_iter=500).fit(X, y), X, (X, y))
    with pytest.raises(Invalid, match=r"a metric of two classes, and .* has 3") as said:
        judged(iris, "roc_auc >= champion - 0.05", iris)
    assert said.value.hint == "write roc_auc_ovr >= champion - 0.05"


def rows_of_classes(test, *counts):
    """The first rows of each class, as many as is said."""
    X, y = test
    kept = np.concatenate([np.flatnonzero(y == label)[:rows] for label, rows in enumerate(counts)])
    return X.iloc[kept], y.iloc[kept]


@pytest.mark.parametrize("metric", first_of(["roc_auc", "f1"]))
def test_too_few_rows_of_a_class_fail_the_gate_and_it_says_so(good, alike, cancer, metric):
    """At any margin: on so few rows a worse candidate passed far more often than promised."""
    _, test = cancer
    criterion = f"{metric} >= champion - 0.9"
    few = judged(good, criterion, alike, test=rows_of_classes(test, MIN_ROWS - 1, 100))
    assert (few.value, few.passed) == (None, False)
    assert few.reason == (
        f"not measured: not compared with champion: {MIN_ROWS - 1} rows of the rarest class are "
        f"too few to compare on; {MIN_ROWS} are the fewest: give more test rows"
    )
    assert judged(good, criterion, alike, test=rows_of_classes(test, MIN_ROWS, 100)).passed


def test_a_metric_that_counts_rows_asks_for_rows_of_any_class(good, alike, cancer):
    _, test = cancer
    some, few = (rows_of_classes(test, 3, rows - 3) for rows in (MIN_ROWS, MIN_ROWS - 1))
    assert judged(good, "brier <= champion + 0.9", alike, test=some).passed
    assert "are too few" in judged(good, "brier <= champion + 0.9", alike, test=few).reason


@pytest.mark.slow
def test_equal_answers_are_judged_by_what_so_many_rows_can_tell(pack, cancer):
    """Another bundle that answers the same: where a row can cost anything, that tells nothing."""
    (X, y), test = cancer
    one, other = (
        pack(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y), X, test, name=name)
        for name in ("one", "other")
    )
    assert one.digest != other.digest
    assert judged(one, "brier <= champion + 0.009", other).passed
    assert not judged(one, "brier <= champion + 0.008", other).passed, "3 / 369 is the limit"
    unbounded = judged(one, "log_loss <= champion + 0.5", other)
    assert (unbounded.value, unbounded.passed) == (None, False)
    assert "all rows tell the same difference" in unbounded.reason


def test_of_every_metric_of_classes_it_is_known_what_a_row_can_cost():
    unbounded = {"log_loss", "neg_log_loss", "d2_log_loss_score", "d2_brier_score"}
    page = Path(__file__).parents[3] / "docs" / "reference" / "criteria.md"
    (line,) = [one for one in page.read_text().splitlines() if one.startswith("| classes |")]
    named = set(re.findall(r"`(\w+)`", line)) | {"auc", "brier", "log_loss"}
    assert named == _BY_CLASS.keys() | _BY_ROW.keys() | unbounded
    assert not _BY_CLASS.keys() & _BY_ROW.keys()


def test_without_test_rows_or_a_registry_the_gate_fails(pack, good, cancer):
    (X, y), _ = cancer
    bare = pack(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y), X, None)
    assert "holds no test rows" in judged(bare, "f1 >= champion - 0.1", good).reason
    report = check(good, ["f1 >= champion - 0.1"], now=T0, by="ada", record=lambda report: None)
    assert not report.passed
    assert "no registry to look for champion in" in report.results[0].reason


def test_plain_criteria_are_measured_beside_it(good):
    report = check(
        good, ["accuracy >= 0.9", "accuracy >= champion - 0.1", "size <= 5 MB"], now=T0, by="ada",
        record=lambda report: None, find=lambda against: good,
    )  # fmt: skip
    assert report.passed
    assert [str(one.criterion) for one in report.results] == [
        "accuracy >= 0.9", "accuracy >= champion - 0.1", "size <= 5 MB"
    ]  # fmt: skip


# -- in the registry --


@pytest.fixture
def registry(tmp_path):
    return open_registry(tmp_path / "home")


def test_before_the_first_alias_there_is_nothing_to_be_worse_than(registry, good):
    find = finder(registry, "m")
    registry.push(good.path, by="ada")
    assert find("champion") is None
    assert finder(registry, "another")("champion") is None, "its first version is not pushed yet"
    report = check(
        good, ["f1 >= champion - 0.1"], now=T0, by="ada", record=lambda report: None, find=find
    )
    (result,) = report.results
    assert report.passed
    assert result.is_waived, "nobody has judged it"
    assert result.value is None
    assert result.reason.startswith("passed without a comparison: no alias of m was ever set")
    case = ElementTree.fromstring(as_junit(report, "m")).find("testsuite/testcase")
    assert [part.tag for part in case] == ["skipped"]


def test_a_registry_that_is_not_there_fails_the_gate_and_says_what_to_do(registry, good, tmp_path):
    report = check(
        good, ["f1 >= champion - 0.1"], now=T0, by="ada", record=lambda report: None,
        find=finder(registry, "m"),
    )  # fmt: skip
    assert not report.passed
    assert report.results[0].reason.startswith(
        f"not measured: not compared with champion: no registry at {tmp_path / 'home'}"
    )
    assert "point BASCULE_HOME" in report.results[0].reason


def test_a_version_is_found_by_its_alias_or_its_reference(registry, good, poor):
    for number, bundle in enumerate((good, poor), 1):
        registry.push(bundle.path, by="ada")
        registry.set_alias("m", ("champion", "last")[number - 1], number, by="ada")
    find = finder(registry, "m")
    assert find("champion").digest == find("m/1").digest == good.digest
    assert find("last").digest == find("m@last").digest == poor.digest


def test_a_missing_alias_fails_once_there_was_one(registry, good):
    registry.push(good.path, by="ada")
    registry.set_alias("m", "champion", 1, by="ada")
    find = finder(registry, "m")
    with pytest.raises(NotFound):
        find("champoin")
    registry.drop_alias("m", "champion", by="ada")
    report = check(
        good, ["f1 >= champion - 0.1"], now=T0, by="ada", record=lambda report: None, find=find
    )
    assert not report.passed
    assert "not compared with champion: " in report.results[0].reason
    with pytest.raises(NotFound):
        finder(registry, "other")("m/7")


def test_short_names_of_errors_are_the_ones_that_are_better_when_smaller():
    smaller = {name for name in SHORT_NAMES if "<=" in str(NotWorse(name, ">", -1, against="a"))}
    assert smaller == set(SHORT_NAMES) - {"auc"}
