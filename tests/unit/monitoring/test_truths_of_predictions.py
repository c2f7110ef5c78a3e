"""Which prediction a truth is about: one rule, whatever asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from bascule.monitoring.ledger import Ledger, Outcomes, SpoolWriter
from bascule.monitoring.performance.rows import Sampling
from bascule.monitoring.reporting.facts import _health
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
FALLBACK = "old"


@pytest.fixture
def record(tmp_path):
    """`record("a", model="old")`: an answer to the endpoint `late`."""
    made = []

    def recorded(name, model="late", status=200, minutes=0):
        recorder = LedgerRecorder(SpoolWriter(tmp_path))
        at_ns = int((NOON + timedelta(minutes=minutes)).timestamp() * 1e9)
        context = SimpleNamespace(
            prediction_id=name, caller="", protocol="oip", trace=(b"", b""),
            started_ns=at_ns - recorder._epoch_ns,
        )  # fmt: skip
        answer = Answer({"label": np.ones(1)}, AnsweredBy(model, "1", "onnx"))
        if status >= 300:
            answer = None
        call = Call({"x": np.ones(1)}, 1)
        recorder.add(context, call, answer, MetricLabels("late", "1"), status, 1)
        recorder.close()
        made.append(recorder)

    return recorded


def truth(home, model, name="a", value=1):
    Outcomes(home).add(model, pa.table({"id": [name], "truth": [value]}))


def joined(home):
    sql = (
        "select model, status, epoch(time) - epoch(timestamptz '2026-11-26 12:00:00+00') passed, "
        "repeats, truth from predictions_with_outcomes order by all"
    )
    return [tuple(row.values()) for row in Ledger(home).query(sql).to_pylist()]


@pytest.mark.parametrize("named", ["late", FALLBACK])
def test_the_truth_about_a_fallbacks_answer_names_the_endpoint_or_the_model(
    tmp_path, record, named
):
    record("a", model=FALLBACK)
    truth(tmp_path, named)
    assert joined(tmp_path) == [(FALLBACK, 200, 0, 0, "1")]


def test_the_truth_about_another_model_is_not_joined(tmp_path, record):
    record("a")
    truth(tmp_path, "other")
    assert joined(tmp_path) == []


def test_of_truths_that_name_endpoint_and_model_the_one_received_last_counts(tmp_path, record):
    record("a", model=FALLBACK)
    truth(tmp_path, "late", value=1)
    truth(tmp_path, FALLBACK, value=2)
    assert joined(tmp_path) == [(FALLBACK, 200, 0, 0, "2")]


@pytest.mark.parametrize(("second", "chosen"), [(200, 1), (503, 0)])
def test_the_newest_answer_has_the_truth_and_a_failed_repetition_does_not(
    tmp_path, record, second, chosen
):
    record("a")
    record("a", minutes=1, status=second)
    truth(tmp_path, "late")
    assert joined(tmp_path) == [("late", 200, 60.0 * chosen, 1, "1")]


def test_the_delay_counts_to_the_first_truth_and_the_value_is_of_the_last(tmp_path, record):
    record("a")
    truth(tmp_path, "late", value=1)
    truth(tmp_path, "late", value=2)
    sql = (
        "select truth, truth_first_received_at < truth_received_at was_corrected "
        "from predictions_with_outcomes"
    )
    assert Ledger(tmp_path).query(sql).to_pylist() == [{"truth": "2", "was_corrected": True}]


def test_thinned_rows_have_the_rate_of_all_answers():
    """A busy hour errs in 30 % and is kept at 1 in 20; a quiet one errs in 10 %, and is whole."""
    random = np.random.default_rng(3)
    busy, quiet = 400_000, 20_000
    errs = np.concatenate([random.random(busy) < 0.3, random.random(quiet) < 0.1])
    shares = np.repeat([0.05, 1.0], [busy, quiet])
    kept = random.random(busy + quiet) < shares
    errs, shares = errs[kept], shares[kept]
    rows = Sampling(shares, random.random(len(shares))).uniform(np.arange(len(shares)))
    true = (busy * 0.3 + quiet * 0.1) / (busy + quiet)
    assert errs[rows].mean() == pytest.approx(true, abs=4 * (0.21 / len(rows)) ** 0.5)
    assert errs.mean() == pytest.approx(0.2, abs=0.01)  # far from it
    assert len(rows) == pytest.approx(0.05 * (busy + quiet), rel=0.05)


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_rows_of_one_share_all_count(share):
    places = np.arange(100)
    sampling = Sampling(np.full(100, share), np.linspace(0, 0.999, 100))
    assert sampling.uniform(places).tolist() == places.tolist()


def test_rates_of_health_count_each_kept_request_for_those_that_were_sampled_out(tmp_path):
    """A slow, failing minute is kept at 1 in 10; it had as many requests as the rest of the day."""
    random = Random(1)
    for keep, status, latency_ns in ((0.1, 503, 10**9), (1.0, 200, 10**6)):
        recorder = LedgerRecorder(
            SpoolWriter(tmp_path), keep=keep, max_rows_per_s=10**6, draw=random.random
        )
        for number in range(2_000):
            context = SimpleNamespace(
                prediction_id=f"{status}-{number}", caller="", protocol="oip", trace=(b"", b""),
                started_ns=int(NOON.timestamp() * 1e9) - recorder._epoch_ns,
            )  # fmt: skip
            recorder.add(context, None, None, MetricLabels("late", "1"), status, latency_ns)
        recorder.close()
    total, day = _health(Ledger(tmp_path), "true")
    assert (total.day, day.day) == (None, NOON.date())
    assert total.requests == day.requests == pytest.approx(4_000, rel=0.1)
    assert total.errors == pytest.approx(2_000, rel=0.2)
    assert (total.p50_s > 0, total.p99_s) == (True, 1.0)
