from __future__ import annotations

import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier
from tests.tiers import first_of

import bascule
from bascule.bundle.disk.manifest import MANIFEST
from bascule.core.digests import canonical_json
from bascule.core.errors import Invalid
from bascule.core.fields import DType, Field
from bascule.metrics import SCORERS
from bascule.release import Criterion, check, measure as measuring

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    rows, truth = load_breast_cancer(return_X_y=True)
    model = DecisionTreeClassifier(max_depth=4, random_state=0).fit(rows[:300], truth[:300])
    place = tmp_path_factory.mktemp("packed") / "tree"
    return bascule.pack(
        model,
        name="tree",
        train=(rows[:300], truth[:300]),
        test=(rows[300:], truth[300:]),
        to=place,
        measure=False,
    )


@pytest.fixture(scope="module")
def regressor(tmp_path_factory):
    rows, truth = load_diabetes(return_X_y=True)
    model = LinearRegression().fit(rows, truth)
    place = tmp_path_factory.mktemp("packed") / "line"
    return bascule.pack(
        model, name="line", train=(rows, truth), keep_test=False, to=place, measure=False
    )


class Counting:
    """A program that answers at once and counts the rows of every call."""

    name = "counting"
    inputs = (Field("x", DType.FP32),)
    outputs = (Field("prediction", DType.FP32),)

    def __init__(self, *, problem: Exception | None = None) -> None:
        self.calls: list[int] = []
        self.problem = problem

    def run(self, columns, outputs=None):  # the port asks for it
        self.calls.append(len(columns["x"]))
        if self.problem is not None:
            raise self.problem
        return {"prediction": columns["x"]}


def fake(program: Counting, **said):
    rows = {"x": np.arange(3, dtype=np.float32)}
    facts = {"task": "regression", "classes": None, "targets": ()}
    facts["test_data"] = lambda: (rows, rows["x"])
    return SimpleNamespace(program=lambda threads=1: program, **{**facts, **said})


def measure(bundle, *texts, **options):
    return measuring.measure(bundle, [Criterion.parse(text) for text in texts], **options)


def one(bundle, text, **options):
    criterion = Criterion.parse(text)
    return measuring.measure(bundle, [criterion], **options)[criterion.measure]


def test_quality_is_that_of_the_answers_of_the_program_on_the_held_out_rows(classifier):
    rows, truth = load_breast_cancer(return_X_y=True)
    answer = classifier.predict(rows[300:])
    positive = answer["probabilities"][:, 1]

    found = measure(classifier, "roc_auc > 0", "accuracy > 0", "f1 > 0", "log_loss < 1")

    assert found["roc_auc"].value == metrics.roc_auc_score(truth[300:], positive)
    assert found["accuracy"].value == metrics.accuracy_score(truth[300:], answer["label"])
    assert found["f1"].value == metrics.f1_score(truth[300:], answer["label"])
    assert found["log_loss"].value == pytest.approx(
        metrics.log_loss(truth[300:], answer["probabilities"]), rel=1e-6
    )


def test_short_names_are_errors_as_one_says_them(classifier, regressor):
    data = load_diabetes(return_X_y=True)

    found = measure(classifier, "auc > 0", "roc_auc > 0", "brier < 1", "neg_brier_score > 0")
    assert found["auc"] == found["roc_auc"]
    assert found["brier"].value == -found["neg_brier_score"].value > 0

    found = measure(
        regressor,
        *("rmse < 1", "mae < 1", "mse < 1", "r2 > 0", "neg_root_mean_squared_error > 0"),
        test=data,
    )
    assert found["rmse"].value == -found["neg_root_mean_squared_error"].value > 0
    assert found["mse"].value == pytest.approx(found["rmse"].value ** 2)
    assert found["r2"].value == pytest.approx(
        1 - found["mse"].value / float(np.var(data[1])), abs=1e-6
    )


def test_every_classification_scorer_is_measured_or_says_why_not(classifier):
    facts = measure(classifier, *(f"{scorer} > 0" for scorer in SCORERS))

    missing = {name for name, fact in facts.items() if fact.value is None}
    assert missing == {"neg_mean_gamma_deviance", "neg_mean_poisson_deviance"}
    assert all(facts[name].note for name in missing)


def test_rows_given_take_the_place_of_those_of_the_bundle(classifier):
    rows, truth = load_breast_cancer(return_X_y=True)

    assert one(classifier, "accuracy > 0", test=(rows, 1 - truth)).value < 0.1


@pytest.fixture(scope="module")
def whole_rows(tmp_path_factory):
    """Of a model that takes no missing values."""
    rows, truth = load_breast_cancer(return_X_y=True)
    model = LinearDiscriminantAnalysis().fit(rows[:300], truth[:300])
    place = tmp_path_factory.mktemp("packed") / "lda"
    train = (rows[:300], truth[:300])
    return bascule.pack(model, name="lda", train=train, to=place, measure=False)


NEED_ROWS = ("accuracy >= 0", "accuracy[by c0] >= 0", "finite >= 1", "auc >= champion - 0.1")


@pytest.mark.parametrize(
    ("rows", "reason"),
    first_of(
        [
            (np.empty((0, 30)), "there are no rows"),
            (np.full((2, 30), np.nan), "missing values"),
            (np.ones((2, 29)), "29"),
        ]
    ),
)
def test_rows_that_the_model_does_not_take_fail_what_needs_them_and_nothing_else(
    whole_rows, rows, reason
):
    kept = []
    report = check(
        whole_rows,
        [*NEED_ROWS, "latency_p50 <= 1 s", "size <= 1 GB"],
        test=(rows, np.zeros(len(rows), int)),
        now=T0,
        by="ada",
        record=kept.append,
    )
    assert kept == [report]
    *lacking, latency, size = report.results
    assert latency.passed
    assert size.passed
    for result in lacking:
        assert not result.passed
        assert "the test rows cannot be judged: " in result.reason
        assert reason in result.reason


def test_labels_that_the_model_does_not_know_are_named(classifier):
    rows, truth = load_breast_cancer(return_X_y=True)
    letters = np.array(["a", "b"])[truth]
    said = "the truth holds 'a', 'b', which the model does not know: its classes are 0, 1"
    for text in ("auc >= 0.5", "f1 >= 0.5", "log_loss <= 1"):
        found = one(classifier, text, test=(rows, letters))
        assert (found.value, found.note) == (None, said), text

    another = np.where(truth == 0, 7, 1)
    found = one(classifier, "accuracy >= 0.5", test=(rows, another))
    assert found.value < 0.7
    assert found.note.startswith("the truth holds 7, which the model does not know")


@pytest.mark.parametrize("test", [([[1.0] * 30], [1, 0]), [1, 2], ([[1.0] * 30],)])
def test_rows_that_are_no_pair_of_one_length_are_refused(classifier, test):
    with pytest.raises(Invalid, match="test"):
        one(classifier, "accuracy > 0", test=test)


def test_without_held_out_rows_quality_is_not_measured_and_latency_is(regressor):
    found = measure(regressor, "r2 > 0", "latency_p50[3] <= 1 s")

    assert found["r2"].value is None
    assert "no test rows" in found["r2"].note
    assert found["latency_p50[3]"].value > 0


def test_a_metric_that_does_not_fit_the_model_is_not_measured(regressor):
    found = one(regressor, "roc_auc > 0", test=load_diabetes(return_X_y=True))

    assert found.value is None
    assert found.note == "roc_auc needs probabilities, and the model gives none"


def test_a_test_set_with_one_class_has_no_area_under_the_curve(classifier):
    rows, truth = load_breast_cancer(return_X_y=True)

    report = check(
        classifier,
        ["roc_auc <= 1"],
        test=(rows[truth == 1], truth[truth == 1]),
        now=T0,
        by="ada",
    )

    assert not report.passed
    assert report.results[0].value is None


def test_a_program_that_breaks_fails_its_gates_and_says_why():
    broken = fake(Counting(problem=RuntimeError("it broke")))

    found = measure(broken, "r2 > 0", "latency_p99 <= 1 ms")

    assert {name: fact.value for name, fact in found.items() if name != "latency_p50[1]"} == {
        "r2": None,
        "latency_p99[1]": None,
    }
    assert "it broke" in found["r2"].note
    assert "it broke" in found["latency_p99[1]"].note


def test_latency_is_that_of_at_least_200_batches_of_the_size_asked_for():
    program = Counting()

    found = one(fake(program), "latency_p99[7] <= 1 ms")

    assert set(program.calls) == {7}
    assert len(program.calls) >= 200
    assert found.value > 0
    assert "with 7 rows" in found.note


def test_batches_of_two_sizes_are_measured_apart():
    program = Counting()

    found = measure(
        fake(program), "latency_p99[7] <= 1 ms", "latency_p50[7] <= 1 ms", "latency_p50 <= 1 ms"
    )

    assert set(program.calls) == {1, 7}
    assert found["latency_p50[7]"].value <= found["latency_p99[7]"].value


@pytest.mark.parametrize(
    ("runs", "elapsed_s", "enough"),
    [
        (199, 1.0, False),
        (200, 1.0, True),
        (200, 0.24, False),
        (200, 0.25, True),
        (20, 1.49, False),
        (20, 1.5, True),
        (19, 1.5, False),
    ],
)
def test_measuring_goes_on_until_there_is_enough_or_it_takes_too_long(runs, elapsed_s, enough):
    assert measuring._has_run_enough(runs, elapsed_s) == enough


@pytest.mark.parametrize(
    ("count", "percent", "expected"), [(100, 50, 50), (100, 99, 99), (101, 99, 100), (20, 99, 20)]
)
def test_a_percentile_is_a_duration_that_happened(count, percent, expected):
    assert measuring._percentile(list(range(count, 0, -1)), percent) == expected


def test_what_nobody_asks_for_is_not_measured():
    program = Counting()

    found = measure(fake(program), "accuracy > 0")

    assert set(found) == {"accuracy"}
    assert program.calls == [3]


def test_memory_is_that_of_a_process_which_does_nothing_else(classifier):
    found = one(classifier, "peak_memory <= 200 MB")

    assert 10 < found.value < 150


def test_a_process_that_cannot_load_the_program_is_a_failure_with_its_last_words(tmp_path):
    found = one(fake(Counting(), path=tmp_path), "peak_memory <= 200 MB")

    assert found.value is None
    assert "no bundle at" in found.note


def test_size_counts_what_a_server_reads_and_not_the_original(classifier):
    files = classifier.manifest.files
    expected = (
        (classifier.path / MANIFEST).stat().st_size
        + files["programs/onnx.onnx"].bytes
        + files["data/example.json"].bytes
    )

    assert one(classifier, "size <= 1 MB").value == pytest.approx(expected / 1e6)


def test_parity_is_the_measured_one(classifier):
    assert one(classifier, "parity <= 1").value == classifier.parity.max_difference


@pytest.mark.parametrize(
    ("said", "value", "note"),
    [
        ({"manifest": SimpleNamespace(served=None)}, 0.0, "the original itself is served"),
        (
            {"manifest": SimpleNamespace(served="onnx"), "parity": None},
            None,
            "the bundle carries no parity statement; pack it again",
        ),
    ],
)
def test_parity_where_there_is_no_program_or_no_statement(said, value, note):
    found = one(fake(Counting(), **said), "parity <= 1e-5")

    assert (found.value, found.note) == (value, note)


def test_a_program_with_other_labels_has_no_parity_however_near_its_numbers_are():
    parity = SimpleNamespace(label_differences=2, ties=1, max_difference=0.0, reason="a label")
    bundle = fake(Counting(), manifest=SimpleNamespace(served="onnx"), parity=parity)

    assert one(bundle, "parity <= 1").value is None


def test_check_lays_the_verdict_beside_the_bundle(classifier):
    report = check(classifier, ["accuracy >= 0.5", "size <= 1 KB"], now=T0, by="ada")

    said = classifier.statements("gates")
    latest = next(one for one in said if one.body == report.to_json())
    assert not report.passed
    assert (latest.subject, latest.by) == (classifier.digest, "ada")
    assert datetime.fromisoformat(latest.at) == T0
    assert not math.isnan(latest.body["results"][0]["value"])


def test_check_without_criteria_or_with_a_wrong_one_measures_and_writes_nothing(classifier):
    before = classifier.statements("gates")

    for criteria in ([], ["accuracy >= 0.5", "acuracy >= 0.5"]):
        with pytest.raises(Invalid):
            check(classifier, criteria, now=T0, by="ada")
    assert classifier.statements("gates") == before


def test_a_bundle_that_is_to_classify_and_names_no_classes_fails_its_gates(classifier, tmp_path):
    """No model is packed so, but anybody can write a manifest."""
    place = tmp_path / "crafted"
    shutil.copytree(classifier.path, place)
    manifest = replace(classifier.manifest, classes=None, digest_on_disk="")
    (place / MANIFEST).write_bytes(canonical_json(manifest.to_json()))
    verdict = check(bascule.load(place), ["accuracy >= 0"], now=T0, by="eve", record=lambda _: None)
    assert not verdict.passed
    assert "names no classes" in verdict.results[0].reason
