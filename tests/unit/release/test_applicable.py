"""A criterion that does not apply to a model is an error, and records nothing."""

from datetime import UTC, datetime

import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier

import bascule
from bascule.core import Invalid
from bascule.registry import open_registry
from bascule.release import check, check_and_record

T0 = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    table = pd.DataFrame({"wind": range(60), "gust": [1.0, 5.0, 2.0] * 20})

    def make(name, model, truth):
        return bascule.pack(
            model.fit(table, truth), name=name, train=(table, truth), test=(table, truth),
            to=tmp_path_factory.mktemp("packed") / name, measure=False,
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def models(pack):
    late = [row > 30 for row in range(60)]
    return {
        "late": pack("late", LogisticRegression(), [int(one) for one in late]),
        "worded": pack("worded", LogisticRegression(), ["late" if one else "ok" for one in late]),
        "iris": pack("iris", LogisticRegression(), [*load_iris().target[:60].tolist()[:-1], 2]),
        "unsure": pack("unsure", RidgeClassifier(), [int(one) for one in late]),
        "delay": pack("delay", LinearRegression(), [row * 2.0 for row in range(60)]),
    }


@pytest.mark.parametrize(
    ("model", "text", "said", "hint"),
    [
        ("late", "rmse <= 3", "rmse is a metric of numbers", "accuracy"),
        ("late", "r2[by gust] >= 0", "r2 is a metric of numbers", "accuracy"),
        ("delay", "accuracy >= 0.9", "accuracy is a metric of classes", "rmse"),
        ("delay", "auc >= 0.9", "auc is a metric of classes", "rmse"),
        ("iris", "f1 >= 0.9", "f1 is a metric of two classes, and iris has 3", "f1_macro >= 0.9"),
        ("worded", "f1 >= 0.9", "f1 is of the class 1", "f1_macro >= 0.9"),
        ("unsure", "log_loss <= 1", "log_loss needs probabilities, and unsure gives none", "f1_"),
        ("late", "accuracy[gusts=5] >= 0", "the model has no column 'gusts'", "'gust'"),
        ("late", "accuracy[by wnd] >= 0", "the model has no column 'wnd'", "'wind'"),
        ("late", "accuracy[missing 5%] >= 0", "no column of the model takes missing", "noise"),
    ],
)
def test_a_criterion_that_does_not_apply_is_refused_and_not_recorded(
    models, model, text, said, hint
):
    with pytest.raises(Invalid) as refused:
        check(models[model], [text], now=T0, by="ada")
    assert said in refused.value.message
    assert hint in refused.value.hint
    assert models[model].statements("gates") == []


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("late", "f1 >= 0"), ("late", "roc_auc >= 0"), ("iris", "auc >= 0"),
        ("iris", "roc_auc_ovr >= 0"), ("worded", "roc_auc >= 0"), ("worded", "f1_macro >= 0"),
        ("unsure", "accuracy >= 0"), ("delay", "rmse <= 1e9"), ("late", "accuracy[by gust] >= 0"),
    ],
)  # fmt: skip
def test_a_criterion_that_applies_is_measured(models, model, text):
    report = check(models[model], [text], now=T0, by="ada", record=lambda report: None)
    assert report.passed, report.results


def test_a_check_that_leaves_out_configured_criteria_is_a_trial(models, tmp_path):
    """`-c "accuracy >= 0"` after a failure made the version pass, and its alias could move."""
    configured = ("accuracy > 1", "size <= 10 MB")
    registry = open_registry(tmp_path / "home", criteria=configured)
    version = registry.push(models["late"].path, by="ada")

    def judge(*criteria):
        report, problem = check_and_record(
            models["late"], criteria, registry, version, configured=configured, now=T0, by="ada"
        )
        assert problem is None
        return report

    assert judge(*configured).unjudged == ()
    trial = judge("accuracy >= 0")
    assert (trial.passed, trial.unjudged) == (True, configured)
    assert registry.resolve("late/1").gates == "failed"
    assert [one.kind for one in registry.statements(version) if one.kind == "trial"] == ["trial"]
    assert judge(*configured, "parity <= 1").unjudged == ()
