"""Alerts of callers whose queries look like a search for the model."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from tests.ledger_rows import take_in
from tests.production import flights, packed

from bascule.bundle import take
from bascule.bundle.statements import column_names
from bascule.core import NotFound
from bascule.monitoring.alerts.sources import QueriesSource, throttled_counters
from bascule.monitoring.ledger import Ledger, SpoolWriter
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("queries"))


@pytest.fixture
def asks(tmp_path, bundle):
    """`asks(caller, columns, version="1")`: its queries are answered and recorded."""

    def ask(caller, columns, version="1"):
        recorder = LedgerRecorder(SpoolWriter(tmp_path), max_rows_per_s=10**9)
        names = column_names(bundle.signature, bundle.manifest.classes, bundle.manifest.targets)
        by = AnsweredBy("late", version, "onnx", tuple(names.items()))
        answers = dict(bundle.predict(columns))
        for row in range(len(columns["wind"])):
            part = slice(row, row + 1)
            context = SimpleNamespace(
                prediction_id=f"{caller}-{time.perf_counter_ns()}", caller=caller, protocol="oip",
                trace=(b"", b""), started_ns=time.perf_counter_ns(),
            )  # fmt: skip
            answer = Answer(take(answers, part), by)
            labels = MetricLabels("late", version)
            recorder.add(context, Call(take(columns, part), 1), answer, labels, 200, 10**6)
        recorder.close()
        take_in(tmp_path)

    return ask


@pytest.fixture
def looks(tmp_path, bundle):
    source = QueriesSource(
        Ledger(tmp_path), ["late"], lambda *_: bundle, 4.0, {"k1": "partner"}.get
    )

    def look(now=None):
        (seen,) = source.look(now or datetime.now(UTC))
        return {finding.column: finding for finding in seen.findings}

    return look


def search(random, rows):
    """Small steps along the boundary, as of an attacker that follows it."""
    return {
        "wind": 13 + np.cumsum(random.normal(0, 0.02, rows)),
        "distance": 700 + np.cumsum(random.normal(0, 2, rows)),
        "carrier": np.full(rows, "AA", object),
    }


def test_a_caller_that_searches_is_found_until_it_asks_as_others_do(asks, looks):
    random = np.random.default_rng(5)
    asks("k0", flights(random, 150))
    assert looks() == {}
    asks("k1", search(random, 120))
    found = looks()
    assert "k0" not in found
    assert ("late", "key:k1") in throttled_counters(found.values(), ["late"])
    assert throttled_counters(found.values(), ["other"]) == []
    assert found["k1"].sentence.startswith(
        "the last 100 queries of key partner are unlike held-out rows of late (p = "
    )
    assert found["k1"].value < found["k1"].limit < 4 / 365
    assert looks()["k1"].id == found["k1"].id
    asks("k1", flights(random, 480))
    assert "k1" not in looks()
    assert looks(datetime.now(UTC) + timedelta(days=1)) == {}, "another day, another budget"


def test_callers_that_share_a_search_are_found_together(asks, looks):
    random = np.random.default_rng(6)
    for caller in range(6):
        asks(f"c{caller}", search(random, 50))
    found = looks()
    assert throttled_counters(found.values(), ["late"]) == [("late", "group:*")]


def test_without_answers_or_a_bundle_nothing_is_found(tmp_path, asks, looks):
    assert looks() == {}
    asks("k1", search(np.random.default_rng(7), 120))

    def gone(*_):
        raise NotFound("late/1 is gone")

    (seen,) = QueriesSource(Ledger(tmp_path), ["late"], gone, 4.0).look(datetime.now(UTC))
    assert seen.findings == ()
