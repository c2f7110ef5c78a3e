"""Rankers and models of survival: packed as such, and judged by metrics of an order."""

from __future__ import annotations

from datetime import UTC, datetime

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.metrics import ndcg_score
from tests.tiers import first_of

import bascule
from bascule.core.errors import Invalid
from bascule.metrics import concordance
from bascule.packing.rebuilding import rebuild
from bascule.release import check
from bascule.release.quality import measure_quality

T0 = datetime(2026, 3, 1, tzinfo=UTC)
QUERIES, OF_EACH = 40, 8
GROUPS = np.repeat(np.arange(QUERIES), OF_EACH)


@pytest.fixture(scope="module")
def documents():
    random = np.random.default_rng(0)
    rows = random.normal(size=(QUERIES * OF_EACH, 4))
    relevance = np.clip(np.round(rows[:, 0] + random.normal(size=len(rows)) / 2 + 1), 0, 3)
    return rows, relevance.astype(int)


@pytest.fixture(scope="module")
def patients():
    random = np.random.default_rng(1)
    rows = random.normal(size=(300, 3))
    times = random.exponential(np.exp(-rows[:, 0]))
    censored = random.exponential(2, 300)
    return rows, np.minimum(times, censored), times <= censored


def _ranker(library, rows, relevance):
    if library == "lightgbm":
        model = lightgbm.LGBMRanker(n_estimators=5, verbose=-1, n_jobs=1)
        return model.fit(rows, relevance, group=[OF_EACH] * QUERIES)
    if library == "xgboost":
        return xgboost.XGBRanker(n_estimators=5, n_jobs=1).fit(rows, relevance, qid=GROUPS)
    model = catboost.CatBoostRanker(
        iterations=5, verbose=0, allow_writing_files=False, thread_count=1
    )
    return model.fit(rows, relevance, group_id=GROUPS)


@pytest.mark.parametrize("library", first_of(["lightgbm", "xgboost", "catboost"]))
def test_a_ranker_is_judged_by_the_order_of_each_group(pack, documents, library):
    rows, relevance = documents
    model = _ranker(library, rows, relevance)
    truth = pd.DataFrame({"group": GROUPS, "relevance": relevance})  # in either order
    bundle = pack(model, (rows, relevance), test=(rows, truth))
    assert (bundle.manifest.task, bundle.manifest.serves) == ("ranking", "onnx")
    scores = model.predict(rows)
    expected = np.mean(
        [
            ndcg_score([relevance[group == GROUPS]], [scores[group == GROUPS]], k=5)
            for group in range(QUERIES)
        ]
    )
    report = check(bundle, ["ndcg_5 >= 0.5"], now=T0, by="me")
    assert report.passed
    assert report.results[0].value == pytest.approx(expected, abs=1e-6)
    assert measure_quality(bundle)["overall"]["ndcg_5"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(Invalid, match=r"r2 is no metric of orders.*ranking"):
        check(bundle, ["r2 >= 0.5"], now=T0, by="me")
    with pytest.raises(Invalid, match="comparison of groups"):
        check(bundle, ["ndcg_5 >= champion - 0.1"], now=T0, by="me")


def test_a_ranker_without_groups_says_what_is_missing(pack, documents):
    rows, relevance = documents
    model = _ranker("lightgbm", rows, relevance)
    with pytest.warns(bascule.BasculeWarning, match="columns relevance and group"):
        bundle = pack(model, (rows, relevance), test=(rows, relevance))
    (result,) = check(bundle, ["ndcg_5 >= 0.5"], now=T0, by="me").results
    assert not result.passed
    with pytest.raises(Invalid, match="shape") as refusal:
        check(bundle, ["ndcg_5 >= 0.5"], test=(rows, relevance), now=T0, by="me")
    assert "relevance and group" in refusal.value.hint


@pytest.mark.parametrize("objective", ["cox", "aft"])
def test_a_model_of_survival_is_judged_by_its_concordance(pack, patients, objective):
    rows, times, events = patients
    data = xgboost.DMatrix(rows)
    if objective == "cox":
        data.set_label(np.where(events, times, -times))
    else:
        data.set_float_info("label_lower_bound", times)
        data.set_float_info("label_upper_bound", np.where(events, times, np.inf))
    model = xgboost.train({"objective": f"survival:{objective}", "nthread": 1}, data, 10)
    truth = {"time": times, "event": events.astype(int)}
    bundle = pack(model, rows, test=(rows, truth))
    answers = model.predict(data)
    name = {"cox": "risk", "aft": "time"}[objective]
    assert (bundle.manifest.task, bundle.manifest.serves) == ("survival", "onnx")
    np.testing.assert_allclose(bundle.predict(rows)[name], answers, rtol=1e-5)
    np.testing.assert_allclose(
        bundle.original().run({"input": rows.astype(np.float32)})[name], answers, rtol=1e-6
    )
    expected = concordance(times, events, answers if name == "risk" else -answers)
    report = check(bundle, ["concordance >= 0.6"], now=T0, by="me")
    assert report.passed
    assert report.results[0].value == pytest.approx(expected, abs=1e-3)


def test_a_survival_truth_of_signed_times_is_none(pack, patients):
    rows, times, events = patients
    signed = np.where(events, times, -times)
    model = xgboost.XGBRegressor(objective="survival:cox", n_estimators=3, n_jobs=1)
    model.fit(rows, signed)
    with pytest.warns(bascule.BasculeWarning, match="columns time and event"):
        pack(model, (rows, signed), test=(rows, signed))
    with pytest.raises(Invalid, match="other values than 0 and 1"):
        pack(model, rows, test=(rows, np.c_[events, times]))


def test_a_bundle_with_truths_of_two_columns_is_rebuilt(pack, documents):
    rows, relevance = documents
    truth = np.c_[relevance, GROUPS]
    bundle = pack(_ranker("lightgbm", rows, relevance), rows, test=(rows, truth))
    assert rebuild(bundle.path, train=rows).same
