"""Features that requests leave out: over every protocol, in batches, and when the store is away."""

from __future__ import annotations

import shutil
import threading

import pytest
from tests.shelf_store import declare, shelves

import bascule
from bascule.endpoints import Arm, Plan, Shadow
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry import MetricLabels, labels_of
from bascule.serving.workers import LoadedModels
from bascule.serving.workers.planned_endpoints import PlannedEndpoints, find_version
from bascule_client import Client

KNOWN = {
    "JFK": {"wind": (2.0, 60.0), "gust": (1.5, 30.0), "month": (7, 5.0), "carrier": ("AA", 10.0)},
    "EWR": {"wind": (3.0, 10.0), "gust": (0.5, 20.0), "carrier": ("BB", 10.0)},
}
BY_KEY = [{"airport": "JFK"}]
WHOLE = [{name: value for name, (value, _) in KNOWN["JFK"].items()} | BY_KEY[0]]
STORE = "here"


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
    """A server of `late`, whose features are on the shelf; those of `late/2` in another service."""
    paths = [shutil.copytree(table_bundle, tmp_path / f"{name}.bundle") for name in ("a", "b")]
    max_age_s = {"wind": 3600.0, "gust": 3600.0, "month": 0.0, "carrier": 0.0}
    for path, source in zip(paths, ("all", "others"), strict=True):
        declare(path, {"source": source, "keys": {"airport": "BYTES"}, "max_age_s": max_age_s})
    specs = ModelSpec("late", "1", paths[0]), ModelSpec("late", "2", paths[1])

    class Recorder:
        def add(self, _context, call, answer, *_):
            looked_up = None if answer is None else answer.inputs
            records.append(None if call is None else dict(looked_up or call.columns))

    started = serve_models(("other", fake(), inline), recorder=Recorder())
    for number in ("1", "2"):
        started.counters.name(MetricLabels("late", number))
    served = []
    limits = Limits(feature_store=STORE, feature_timeout_s=0.5)
    models = LoadedModels(
        started.counters, 0, limits, started.loop, served.extend, policies={}, held=started.held
    )  # fmt: skip
    started.on_loop(lambda: models.start(specs))
    started.serve(*served)
    started.loaded = models
    started.versions = served
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


def behind_an_endpoint(server, plan):
    """The versions answer by this plan."""
    endpoints = PlannedEndpoints(
        server.counters, 0, server.loop, lambda *_: None,
        lambda reference: find_version(reference, server.versions),
    )  # fmt: skip
    server.counters.arms.name(labels_of(plan), [])
    (endpoint,) = server.on_loop(lambda: endpoints.follow((plan,))).values()
    server.serve(endpoint, *server.versions)


def test_a_shadow_looks_up_its_own_features(server, post, shelf, records):
    arms = (Arm("current", "late/1", 100.0),)
    behind_an_endpoint(server, Plan("late", 1, arms, shadow=Shadow("late/2", 100.0)))
    assert post(*by("tensors", BY_KEY)).status == 200
    server.until(lambda: len(shelf.sources) == 2)
    assert shelf.sources == ["all", "others"]
    (call,) = records
    assert call["wind"].tolist() == [2.0]


def test_a_fallback_looks_up_its_own_features(server, post, shelf, records):
    """And its answer is in the ledger with what it was given."""
    arms = (Arm("current", "late/1", 100.0),)
    behind_an_endpoint(server, Plan("late", 1, arms, fallback="late/2"))
    failing = server.versions[0].engine.program

    def fail(*_):
        raise RuntimeError("broken")

    failing.run = fail
    assert post(*by("tensors", BY_KEY)).status == 200
    assert shelf.sources == ["all", "others"]
    assert records[0]["wind"].tolist() == [2.0]


def test_an_explanation_is_of_what_was_looked_up(post):
    asks = {"parameters": {"explain": True}}
    path, body = FORMS["tensors"]
    by_key, whole = (post(path, body(rows) | asks) for rows in (BY_KEY, WHOLE))
    assert (by_key.status, by_key.json["outputs"]) == (200, whole.json["outputs"])
