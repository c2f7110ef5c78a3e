"""Reviews: which rows are chosen, and what becomes of the answers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from tests.stores import open_database
from tests.unit.catalogue.conftest import (  # noqa: F401  # migrations run once for all tests
    new_file,
    new_server_database,
)
from tests.waiting import until

import bascule
from bascule.catalogue import events
from bascule.control import choosing_reviews
from bascule.core import Conflict, Invalid, NotFound
from bascule.metrics import Labelled
from bascule.monitoring import measure_performance
from bascule.monitoring.ledger import (
    Ledger,
    Line,
    Outcomes,
    OutcomeSpool,
    SpoolWriter,
    outcome_draw,
)
from bascule.monitoring.performance.measuring import _waits_for_reviews
from bascule.monitoring.performance.rows import PredictionRows
from bascule.monitoring.reviews import ReviewRule, ReviewStore, choose
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

RULE = ReviewRule(outlier_p=0.05, score_band=(0.4, 0.6), base_rate=0.1)
ROWS = 200


def now():
    return datetime.now(UTC) + timedelta(seconds=1)


def record(home, rows=ROWS, first=0):
    """Of ten rows the first is outlying, and the second and the third are uncertain."""
    recorder = LedgerRecorder(SpoolWriter(home))
    by, label = AnsweredBy("late", "1", "onnx"), MetricLabels("late", "1")
    for number in range(first, first + rows):
        context = SimpleNamespace(
            prediction_id=f"p{number}", caller="", protocol="oip", trace=(b"", b""),
            started_ns=int(datetime.now(UTC).timestamp() * 1e9) - recorder._epoch_ns,
        )  # fmt: skip
        sure = 0.55 if number % 10 == 1 else 0.9
        outputs = {
            "label": np.array([number % 2]),
            "probabilities": np.array([[sure, 1 - sure]]),
            "prediction_set": np.array([[True, number % 10 == 2]]),
            "outlier_p": np.array([0.01 if number % 10 == 0 else 0.6]),
        }
        call = Call({"x": np.array([float(number)])}, 1)
        recorder.add(context, call, Answer(outputs, by), label, 200, 1)
    recorder.close()


@pytest.fixture(params=["new_file", "new_server_database"], ids=["sqlite", "postgresql"])
def catalogue(request, tmp_path):
    return open_database(tmp_path, request.getfixturevalue(request.param)(tmp_path))


@pytest.fixture
def shared(catalogue, tmp_path):
    """On either database."""
    record(tmp_path)
    return ReviewStore(catalogue, tmp_path)


@pytest.fixture
def store(new_file, tmp_path):  # noqa: F811
    record(tmp_path)
    return ReviewStore(open_database(tmp_path, new_file(tmp_path)), tmp_path)


def look(store, rule=RULE, until=None):
    store.look("late", rule, now() - timedelta(days=1), until or now())


def test_rows_are_chosen_once_with_the_probability_that_is_kept(store, tmp_path):
    expected = {
        f"p{number}"
        for number in range(ROWS)
        if number % 10 < 3 or outcome_draw(f"review::p{number}#0") < 0.1
    }
    look(store)
    chosen = store.reviews("late")
    assert len(chosen) == len(expected) > 50
    assert {review.prediction_id for review in chosen} == expected
    kinds = {(review.reason, review.probability) for review in chosen}
    assert kinds == {("outlying", 1.0), ("uncertain", 1.0), ("sample", 0.1)}
    # Again, and with another rate: what is there stays.
    look(store)
    look(store, ReviewRule(outlier_p=0.05, base_rate=0.01))
    assert store.reviews("late") == chosen
    record(tmp_path, rows=10, first=ROWS)
    look(store)
    assert len(store.reviews("late")) >= len(chosen) + 2


def test_more_rows_than_are_chosen_at_once_are_all_chosen(store, monkeypatch):
    for module in ("choosing", "store"):
        monkeypatch.setattr(f"bascule.monitoring.reviews.{module}.MOST_CHOSEN", 70)
    look(store, ReviewRule(base_rate=1.0))
    assert len(store.reviews("late")) == ROWS


def test_a_seed_makes_another_sample(tmp_path):
    record(tmp_path)
    ids = [
        {review.prediction_id for review in choose(
            Ledger(tmp_path), "late", ReviewRule(base_rate=0.3, outlier_p=0, seed=seed),
            now() - timedelta(hours=1), now(),
        )}
        for seed in ("", "secret")
    ]  # fmt: skip
    assert ids[0] != ids[1]
    assert choose(Ledger(tmp_path), "gone", RULE, now(), now()) == []


def test_an_answer_is_an_outcome_with_its_reviewer_and_probability(shared, catalogue, tmp_path):
    look(shared)
    sample = next(review for review in shared.reviews("late") if review.reason == "sample")
    with pytest.raises(Invalid):
        shared.answer("late", sample.id, "", by="ada", now=now())
    for _ in range(2):  # the same again is the same
        answered = shared.answer("late", sample.id, "1", by="ada", now=now())
    assert (answered.state, answered.truth) == ("answered", "1")
    with pytest.raises(Conflict, match="is answered"):
        shared.answer("late", sample.id, "0", by="ada", now=now())
    with pytest.raises(NotFound):
        shared.answer("other", sample.id, "1", by="ada", now=now())
    rows = Ledger(tmp_path).query("SELECT id, truth, reviewer, probability FROM outcome_history")
    outcome = {"id": sample.prediction_id, "truth": "1", "reviewer": "ada", "probability": 0.1}
    assert rows.to_pylist() == [outcome]
    Outcomes(tmp_path).fold()
    rows = Ledger(tmp_path).query("SELECT id, truth, reviewer, probability FROM outcome_history")
    assert rows.to_pylist() == [outcome]
    with catalogue.read() as connection:
        (event,) = events.find(connection, subject=events.Subject("model", "late"))
    assert (event.kind, event.actor) == ("reviewed", "ada")
    ((inputs, outputs),) = shared.recorded("late", [sample])
    assert inputs == {"x": float(sample.prediction_id[1:])}
    assert outputs["outlier_p"] == 0.6


def test_a_review_whose_truth_came_otherwise_is_deleted_and_the_truth_stays(store, tmp_path):
    look(store)
    first, second = store.reviews("late")[:2]
    told = pa.table({"id": [first.prediction_id, second.prediction_id], "truth": [0, 0]})
    Outcomes(tmp_path).add("late", told)
    with pytest.raises(Conflict, match="has come otherwise"):
        store.answer("late", first.id, 1, by="ada", now=now())
    look(store)
    assert not {first.id, second.id} & {review.id for review in store.reviews("late")}
    truths = Ledger(tmp_path).query("SELECT truth, probability FROM outcomes").to_pylist()
    assert truths == [{"truth": "0", "probability": None}] * 2


def test_an_answer_that_was_not_committed_is_open_still(store, tmp_path, monkeypatch):
    """As after a kill between the outcome and the commit: what is said then counts."""
    look(store)
    review = store.reviews("late")[0]
    monkeypatch.setattr(events, "append", lambda *_: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        store.answer("late", review.id, 0, by="ada", now=now())
    monkeypatch.undo()
    assert store.reviews("late")[0] == review
    store.answer("late", review.id, 1, by="bob", now=now())
    rows = Ledger(tmp_path).query("SELECT truth, reviewer FROM outcomes").to_pylist()
    assert rows == [{"truth": "1", "reviewer": "bob"}]


def test_a_control_process_chooses_by_itself_and_old_reviews_are_deleted(tmp_path, new_file):  # noqa: F811
    catalogue = open_database(tmp_path, new_file(tmp_path))
    record(tmp_path, rows=20)
    store, at_once = ReviewStore(catalogue, tmp_path), threading.Event()
    at_once.set()
    with choosing_reviews({"late": RULE}, lambda: catalogue, tmp_path, after=at_once):
        until(lambda: len(store.reviews("late")) >= 4)
    look(store, until=now() + timedelta(days=89))
    assert len(store.reviews("late")) >= 4
    store.look("late", RULE, now() + timedelta(days=90), now() + timedelta(days=91))
    assert store.reviews("late") == []


def test_performance_of_reviews_is_that_of_all_rows(tmp_path):
    """Uncertain rows are wrong half of the time, others never."""
    X = np.arange(40.0)[:, None]
    model = LogisticRegression(C=100).fit(X, X[:, 0] >= 20)
    bundle = bascule.pack(
        model, name="late", train=X, test=(X, X[:, 0] >= 20), to=tmp_path / "late.bundle",
        measure=False,
    )  # fmt: skip
    record(tmp_path, rows=2_000)
    rule = ReviewRule(outlier_p=0, score_band=(0.4, 0.6), set_size=2, base_rate=0.1)
    # All rows of the test answer 0 or 1, as their number is even or odd.
    chosen = choose(Ledger(tmp_path), "late", rule, now() - timedelta(hours=1), now())
    lines = []
    for review in chosen:
        number = int(review.prediction_id[1:])
        is_wrong = review.reason == "uncertain" and number % 20 == 1
        truth = str((number % 2 == 1) != is_wrong).lower()
        line = Line(review.prediction_id, 0, truth, float(truth == "true"), None)
        lines.append(line._replace(reviewer="ada", probability=review.probability))
    spool = OutcomeSpool(tmp_path)
    spool.append("late", [lines])
    spool.close()
    report = measure_performance(tmp_path, bundle, by="all", metrics=["accuracy"])
    (found,) = report.windows[0].metrics
    assert report.windows[0].truths == len(chosen)
    assert abs(found.found.value - 0.95) < 0.02
    unweighted = 1 - 100 / len(chosen)
    assert unweighted < 0.8
    assert found.found.lower < 0.95 < found.found.upper
    assert any("are of reviews" in note for note in report.notes)
    assert not report.windows[0].waits


def test_a_window_whose_usual_rows_are_not_reviewed_is_not_judged():
    labelled = Labelled("classification", np.zeros(9), np.zeros(9), (0, 1), None, np.ones(9))
    rows = PredictionRows("1", labelled, np.ones(9, bool))
    some = np.arange(2)
    assert _waits_for_reviews(rows, some, 9, 0.8) == "its reviews stand for 22% of its rows"
    assert _waits_for_reviews(rows, np.arange(8), 9, 0.8) == ""
    plain = replace(rows, labelled=replace(labelled, weights=None))
    assert _waits_for_reviews(plain, some, 9, 0.8) == ""


def test_of_two_answers_at_once_one_is_kept(shared, catalogue, tmp_path):
    look(shared)
    review = shared.reviews("late")[0]

    def answer(by, truth):
        try:
            return ReviewStore(catalogue, tmp_path).answer(
                "late", review.id, truth, by=by, now=now()
            )
        except Conflict as conflict:
            return conflict

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(answer, ("ada", "bob"), (0, 1)))
    assert sorted(type(one) is Conflict for one in done) == [False, True]
    (kept,) = Ledger(tmp_path).query("SELECT reviewer FROM outcome_history").to_pylist()
    (answered,) = shared.reviews("late", "answered")
    assert kept["reviewer"] == answered.reviewer
