"""Features that requests leave out: over every protocol, in batches, and when the store is away."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime

import pytest
from tests.shelf_store import shelves

import bascule
from bascule.bundle.disk import write_statement
from bascule.bundle.features import FEATURES_KIND
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry import MetricLabels
from bascule.serving.workers import LoadedModels
from bascule_client import Client

KNOWN = {
    "JFK": {"wind": (2.0, 60.0), "gust": (1.5, 30.0), "month": (7, 5.0), "carrier": ("AA", 10.0)},
    "EWR": {"wind": (3.0, 10.0), "gust": (0.5, 20.0), "carrier": ("BB", 10.0)},
}
BY_KEY = [{"airport": "JFK"}]
WHOLE = [{name: value for name, (value, _) in KNOWN["JFK"].items()} | BY_KEY[0]]
STORE = "shelf://here"


@pytest.fixture(autouse=True)
def shelf(monkeypatch):
    with shelves(monkeypatch, {name: dict(of) for name, of in KNOWN.items()}) as store:
        yield store


@pytest.fixture
def records():
    """The columns that the ledger gets."""
    return []


@pytest.fixture
def server(serve_models, fake, inline, table_bundle, tmp_path, records):
    """A server of `late`, whose features are on the shelf."""
    path = shutil.copytree(table_bundle, tmp_path / "late.bundle")
    max_age_s = {"wind": 3600.0, "gust": 3600.0, "month": 0.0, "carrier": 0.0}
    body = {"source": "all", "keys": {"airport": "BYTES"}, "max_age_s": max_age_s}
    write_statement(path, FEATURES_KIND, body, at=datetime.now(UTC), by="test")

    class Recorder:
        def add(self, _context, call, *_):
            records.append(None if call is None else dict(call.columns))

    started = serve_models(("other", fake(), inline), recorder=Recorder())
    started.counters.name(MetricLabels("late", "1"))
    served = []
    limits = Limits(feature_store=STORE, feature_timeout_s=0.5)
    models = LoadedModels(
        started.counters, 0, limits, started.loop, served.extend, policies={}, held=started.held
    )  # fmt: skip
    started.on_loop(lambda: models.start((ModelSpec("late", "1", path),)))
    started.serve(*served)
    started.loaded = models
    return started


@pytest.fixture
def post(server):
    def request(path, body):
        with server.client() as client:
            return client.request("POST", path, body).answer()

    return request


def tensors(rows):
    kinds = {"airport": "BYTES", "carrier": "BYTES", "month": "FP64"}
    return {
        "inputs": [
            {"name": n, "datatype": kinds.get(n, "FP64"), "shape": [len(rows)],
             "data": [row[n] for row in rows]}
            for n in rows[0]
        ]
    }  # fmt: skip


def columns(rows):
    return {"inputs": {name: [row[name] for row in rows] for name in rows[0]}}


def split(rows):
    return {"dataframe_split": {"columns": [*rows[0]], "data": [[*row.values()] for row in rows]}}


FORMS = {
    "tensors": ("/v2/models/late/infer", tensors),
    "records": ("/invocations", lambda rows: {"dataframe_records": rows}),
    "columns": ("/v1/models/late:predict", columns),
    "split": ("/invocations", split),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_request_by_keys_has_the_answer_of_the_written_out_one(post, form):
    path, body = FORMS[form]
    by_key, whole = post(path, body(BY_KEY)), post(path, body(WHOLE))
    assert (by_key.status, whole.status) == (200, 200), by_key.body
    answers = [one.json.get("outputs") or one.json.get("predictions") for one in (by_key, whole)]
    assert answers[0] == answers[1]


def test_a_request_over_grpc_by_keys_has_the_same_answer(server, grpc_client, messages, post):
    request = messages("ModelInferRequest")(model_name="late")
    tensor = request.inputs.add(name="airport", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"JFK")
    outputs = {one.name: one for one in grpc_client(server).infer(request).outputs}
    whole = {one["name"]: one["data"] for one in post(*by("tensors", WHOLE)).json["outputs"]}
    assert [*outputs["probabilities"].contents.fp64_contents] == whole["probabilities"]


def by(form, rows):
    path, body = FORMS[form]
    return path, body(rows)


def test_the_python_client_leaves_features_out(server, table_bundle):
    whole = bascule.load(table_bundle).predict(WHOLE)
    with Client(f"http://127.0.0.1:{server.port}", model="late") as client:
        assert client.predict(BY_KEY)["label"].tolist() == whole["label"].tolist()


def test_the_key_is_needed_and_an_unknown_column_refused(post):
    for form, lacking in (
        ("tensors", "inputs: 'airport' missing"),
        ("records", "'airport' missing"),
    ):
        answer = post(*by(form, [{"wind": 1.0}]))
        assert answer.status == 400
        assert lacking in answer.json["error"]
    assert post(*by("records", [BY_KEY[0] | {"winds": 1.0}])).status == 400


def test_the_metadata_and_the_schema_say_what_may_be_left_out(server):
    with server.client() as client:
        told = client.request("GET", "/v2/models/late").answer().json["inputs"]
        schema = client.request("GET", "/v2/openapi.json").answer().json
    optional = {one["name"] for one in told if one.get("parameters", {}).get("optional")}
    assert optional == {"wind", "gust", "month", "carrier"}
    assert '"required":["airport"]' in str(schema).replace(" ", "").replace("'", '"')


def test_the_ledger_gets_what_was_looked_up_and_its_age(post, records):
    assert post(*by("records", BY_KEY)).status == 200
    (call,) = records
    assert {name: call[name].tolist() for name in ("wind", "gust", "month", "carrier")} == {
        name: [value] for name, (value, _) in KNOWN["JFK"].items()
    }
    assert call["feature_age_s"] == pytest.approx([60.0], abs=5.0)


def test_a_row_without_what_the_model_needs_fails_alone(server, post, shelf):
    """Requests that wait for the store together are looked up together, and refused apart."""
    answers = {}

    def ask(name, airport):
        answers[name] = post(*by("records", [{"airport": airport}]))

    shelf.open.clear()
    first = threading.Thread(target=ask, args=("first", "JFK"))
    first.start()
    server.until(lambda: len(shelf.asked) == 1)
    others = [threading.Thread(target=ask, args=of) for of in (("good", "JFK"), ("bad", "EWR"))]
    for one in others:
        one.start()
    server.until(lambda: server.loaded.tell()[0]["open_calls"] == 3)
    shelf.open.set()
    for one in (first, *others):
        one.join(10)
    assert {name: answer.status for name, answer in answers.items()} == {
        "first": 200, "good": 200, "bad": 400,
    }  # fmt: skip
    assert "month is missing in row 0" in answers["bad"].json["error"]
    assert [sorted(keys) for keys in shelf.asked] == [["JFK"], ["EWR", "JFK"]]


def test_a_store_that_is_away_is_503_unless_the_request_has_all(post, shelf):
    shelf.failure = ConnectionError("refused")
    refused = post(*by("records", BY_KEY))
    assert (refused.status, "away: refused" in refused.json["error"]) == (503, True)
    assert post(*by("records", WHOLE)).status == 200
    shelf.failure = None
    assert post(*by("records", BY_KEY)).status == 200
