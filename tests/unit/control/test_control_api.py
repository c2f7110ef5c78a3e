from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import httpx
import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.controls import Services, asking, control_app

from bascule.control.api.rights import OPERATIONS, RIGHTS
from bascule.core.errors import NotFound, Unavailable
from bascule.core.version import VERSION
from bascule.endpoints import EndpointStore
from bascule.registry import CatalogueKeys, open_registry
from bascule.security.keys import GRANTABLE, OPEN_ACTIONS, Permission, create_key
from bascule.serving import ModelSpec
from bascule.serving.telemetry import MetricLabels, Totals
from bascule.serving.telemetry.counters import Histogram, Pulse
from bascule.serving.transports import Authenticator
from bascule.serving.workers import WorkerStatus

EIGHT = (0, 8) + (0,) * 15
COUNTED = [
    Totals({404: 3}, 0, 0.5, (3,) + (0,) * 16),
    Totals(
        {200: 5, 400: 2, 500: 1}, 50, 1.5, EIGHT, histograms=(Histogram("oip", "2xx", EIGHT, 1.5),)
    ),
]


class FakeSupervisor(Services):
    """A server with one worker and one model."""

    address = "127.0.0.1", 8080
    labels = (MetricLabels(), MetricLabels("gb", "1"))

    def __init__(self):
        super().__init__(ModelSpec("gb", "1", Path("/bundles/gb-1")))
        self.is_alive = True

    def arm_totals(self, _compared=""):
        return []

    def totals(self):
        return COUNTED

    def pulse(self):
        return Pulse()

    def statuses(self):
        return [WorkerStatus(worker=0, pid=7, alive=self.is_alive, restarts=2)]


SHAPE = {"type", "title", "status", "detail", "instance", "error", "hint"}


def find(reference):
    """gb/N and late/N are there, as if they were pushed."""
    model, _, version = reference.partition("/")
    if model not in ("gb", "late"):
        raise NotFound(f"no model {model!r}")
    return ModelSpec(model, version or "9", Path(f"/bundles/{model}-{version or 9}"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory, cancer_bundle):
    registry = open_registry(tmp_path_factory.mktemp("console") / "home")
    registry.push(cancer_bundle, by="ada")
    registry.set_alias("gb", "champion", 1, by="ada")
    return registry


@pytest.fixture(scope="module")
def supervisor():
    return FakeSupervisor()


@pytest.fixture(scope="module")
def client(supervisor, registry):
    with asking(control_app(supervisor, lambda: registry, find)) as client:
        yield client


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory, cancer_bundle):
    """A client of its own: random requests also load, unload, tag, retire and make keys."""
    registry = open_registry(tmp_path_factory.mktemp("fuzzed") / "home")
    registry.push(cancer_bundle, by="ada")
    keys = CatalogueKeys(registry._records)
    endpoints = EndpointStore(registry._records._catalogue)
    app = control_app(
        FakeSupervisor(), lambda: registry, find, open_keys=lambda: keys,
        open_endpoints=lambda: endpoints,
    )  # fmt: skip
    with asking(app) as client:
        yield client


def schema_of(document, *, coverage):
    """The schema; `coverage` asks each route for each bound of each parameter, thousands in all."""
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.phases.coverage.enabled = coverage
    return loaded


document = control_app(FakeSupervisor(), lambda: None, find).openapi()
few = schema_of(document, coverage=False)


schemathesis.serializer.alias("application/vnd.apache.parquet", "application/octet-stream")


def answers_as_the_schema_says(case, fuzzed, *more):
    case.call_and_validate(
        base_url=str(fuzzed.base_url),
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            *more,
        ],
    )


@few.parametrize()
@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_is_answered_as_the_schema_says(case, fuzzed):
    answers_as_the_schema_says(case, fuzzed)


def test_the_server_is_shown_with_its_workers_and_what_was_counted(client):
    assert client.get("/api/v1/server").json() == {
        "version": VERSION,
        "host": "127.0.0.1",
        "port": 8080,
        "workers": [{"worker": 0, "pid": 7, "alive": True, "restarts": 2}],
        "services": [
            {
                "model": "gb",
                "version": "1",
                "is_served": True,
                "requests": 8,
                "errors": 3,
                "rows": 50,
            }
        ],
    }


def test_the_load_is_what_was_counted_and_what_is_under_way(client):
    look = client.get("/api/v1/server/load").json()
    other, served = look["versions"]
    assert (other["model"], other["requests"], other["is_served"]) == ("", 3, True)
    assert (served["model"], served["requests"], served["errors"]) == ("gb", 8, 3)
    assert served["buckets"] == [0, 8] + [0] * 15
    assert len(look["bounds_s"]) == 16
    (worker,) = look["workers"]
    assert (worker["pid"], worker["alive"], worker["models_bytes"]) == (7, True, 10)


def test_health_is_bad_while_a_worker_is_not_alive(client, supervisor, monkeypatch):
    good = client.get("/health")
    assert (good.status_code, good.json()["ready"]) == (200, True)
    monkeypatch.setattr(supervisor, "is_alive", False)
    bad = client.get("/health")
    health = {"live": True, "ready": False, "name": "bascule", "secrets": "fresh"}
    assert (bad.status_code, bad.json()) == (503, health)


def test_metrics_are_read_by_prometheus_as_they_were_counted(client):
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = families["bascule_requests"].samples
    assert Counter({int(s.labels["status"]): s.value for s in requests}) == COUNTED[1].by_status
    assert families["bascule_rows"].samples[0].value == 50
    durations = families["bascule_request_duration_seconds"].samples
    assert [s.value for s in durations if s.labels.get("le") in ("0.0001", "0.00025", "+Inf")] == [
        0,
        8,
        8,
    ]


def test_models_versions_statements_and_history_are_shown(client, cancer_bundle):
    (model,) = client.get("/api/v1/models").json()["items"]
    assert (model["name"], model["versions"], model["aliases"]) == ("gb", 1, {"champion": 1})
    (version,) = client.get("/api/v1/models/gb/versions").json()["items"]
    assert (version["number"], version["pushed_by"], version["gates"]) == (1, "ada", "unchecked")
    said = client.get("/api/v1/models/gb/versions/1/statements").json()["items"]
    kinds = {one["kind"] for one in said}
    assert {"parity", "provenance"} <= kinds
    events = client.get("/api/v1/models/gb/history").json()["items"]
    assert [event["number"] or event["to_number"] for event in events] == [1, 1]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/models/absent/versions", 404),
        ("/api/v1/models/absent/history", 404),
        ("/api/v1/models/gb/versions/9/statements", 404),
        ("/api/v1/models/gb/versions/0/statements", 400),
        ("/api/v1/models/gb/versions/x/statements", 400),
        ("/api/v1/models/gb/versions/2147483647/statements", 404),
        ("/api/v1/models/gb/versions/2147483648/statements", 400),
        ("/api/v1/models/%00/history", 404),
        ("/api/v1/models/..%2f/history", 404),
        ("/api/v1/models?limit=0", 400),
        ("/api/v1/models?limit=1001", 400),
        ("/api/v1/models?cursor=nonsense", 400),
        ("/nowhere", 404),
    ],
)
def test_errors_are_problem_details(client, path, status):
    answer = client.get(path)
    problem = answer.json()
    assert answer.status_code == status == problem["status"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(problem) - {"facts"} == SHAPE
    assert problem["instance"] == httpx.URL(path).path


def test_an_error_for_a_model_that_is_not_there_names_it(client):
    problem = client.get("/api/v1/models/absent/history").json()
    assert problem["facts"] == {"model": "absent"}


def test_a_method_that_would_change_something_is_not_allowed(client):
    for method in ("post", "put", "delete", "patch"):
        answer = client.request(method, "/api/v1/models")
        assert (answer.status_code, set(answer.json())) == (405, SHAPE)


def test_a_registry_that_is_away_is_503_and_the_server_is_still_shown(supervisor):
    def away():
        raise Unavailable("the registry is away", hint="retry")

    with asking(control_app(supervisor, away, find)) as client:
        answer = client.get("/api/v1/models")
        assert client.get("/api/v1/server").status_code == 200
    assert answer.status_code == 503
    assert answer.json() == {
        "type": "urn:bascule:error:Unavailable",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "the registry is away",
        "instance": "/api/v1/models",
        "error": "the registry is away; retry",
        "hint": "retry",
    }


def test_a_bug_is_answered_in_the_one_shape_without_its_details(supervisor):
    def broken():
        raise KeyError("secret")

    with asking(control_app(supervisor, broken, find)) as client:
        answer = client.get("/api/v1/models")
    assert (answer.status_code, set(answer.json())) == (500, SHAPE)
    assert "secret" not in answer.text


def test_the_document_is_valid_and_describes_the_conventions_of_every_route(supervisor, ring):
    import openapi_spec_validator

    app = control_app(supervisor, lambda: None, find, ring.guard)
    document = app.openapi()
    openapi_spec_validator.validate(document)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            responses, text = operation["responses"], json.dumps(operation)
            needs_key = RIGHTS[name] is not None and RIGHTS[name][0] not in OPEN_ACTIONS
            assert bool(operation["security"]) == needs_key == ("401" in responses), name
            assert "Problem4XX" in str(responses["4XX"]), name
            assert ("304" in responses) == (method == "get"), name
            assert ("412" in responses) == ("if-match" in text), name
            assert ("IdempotencyKey" in text) == OPERATIONS[name].keeps_answers, name
            good = next(one for status, one in responses.items() if status in ("200", "201", "202"))
            if "Page_" in str(good):
                given = {one.get("name") for one in operation["parameters"]}
                assert method != "get" or {"limit", "cursor"} <= given, name
            else:
                schema = good.get("content", {}).get("application/json", {}).get("schema", {})
                assert schema.get("type") != "array" or path.startswith("/v2/"), name


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_needs_nothing_from_elsewhere_and_has_no_script_in_it(client, path):
    page = client.get(path)
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert set(re.findall(r"<script src=[^>]*>([^<]*)<", page.text)) == {""}
    assert page.text.count("<script") == page.text.count("<script src=")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert client.get(f"/{name}").status_code == 200, name


def test_the_document_is_made_once_and_beside_the_event_loop(supervisor, registry):
    """It takes a second; a loop that stands still for three has its process replaced."""
    app, made_on = control_app(supervisor, lambda: registry, find), []
    plain = app.openapi

    def openapi():
        made_on.append(threading.current_thread())
        return plain()

    app.openapi = openapi

    async def ask_many():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await asyncio.gather(*(client.get("/openapi.json") for _ in range(50)))

    answers = asyncio.run(ask_many())
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].json()["paths"]
    assert len(made_on) == 1
    assert made_on[0] is not threading.current_thread()


# -- keys --


@pytest.fixture
def ring(tmp_path):
    """A guard, and the header of a key with the permissions that a test asks for."""
    file = tmp_path / "keys.json"
    kept = []

    class Kept:
        stored = staticmethod(lambda: kept)
        add = staticmethod(kept.append)

    def header(*permissions):
        name = f"k{len(kept)}"
        now = datetime.now(UTC)
        _, token = create_key(Kept, name, [*map(Permission.parse, permissions)], now=now, by="ada")
        file.write_text(json.dumps([key.to_json() for key in kept]))
        return {"Authorization": f"Bearer {token}"}

    file.write_text("[]")
    header.guard, header.keys = Authenticator(file), kept
    return header


PLACES = {
    "model": "gb", "number": 1, "alias": "champion", "document": "annex-iv", "key": "nobody",
    "endpoint": "gb", "alert": "0", "silence": "0", "rollout": "0", "run": "0", "schedule": "0",
    "job": "0", "command": "pause", "session": "0", "review": "0", "receiver": "pager",
    "device": "camera", "approval": "0", "decision": "approve",
}  # fmt: skip


def test_every_route_opens_by_its_own_right_and_by_no_other(supervisor, registry, ring):
    """The matrix is made of the routes themselves, so a new one cannot be forgotten.

    A key with every other right at once is refused, and so is one with any of them.
    """
    app = control_app(supervisor, lambda: registry, find, ring.guard)
    permissions = [f"{a}:{m}" for a in GRANTABLE for m in ("gb", "other", "*")]
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert {f"{method} {route.path}" for route in routes for method in route.methods} == set(RIGHTS)
    cases, header_of = [], cache(ring)
    for method, path in ((method, route.path) for route in routes for method in route.methods):
        action, model = RIGHTS[f"{method} {path}"] or ("health", "")
        right = action, model.format(model="gb", endpoint="gb")
        is_open = action in OPEN_ACTIONS
        own = [text for text in permissions if Permission.parse(text).covers(*right)]
        others = [text for text in permissions if text not in own]
        keys = [(header_of(text), True) for text in own] + [(header_of(*others), is_open)]
        cases += [(method, path, *key) for key in [*keys, ({}, is_open)]]
    with asking(app) as client:
        for method, path, header, may in cases:
            answer = client.request(method, path.format(**PLACES), headers=header)
            kind = answer.json().get("type") if answer.status_code == 403 else ""
            status = 400 if kind == "urn:bascule:error:Untrusted" else answer.status_code
            refused = 403 if header else 401
            assert (status not in (401, 403)) == may, (method, path, header, status)
            assert may or status == refused, (method, path, header, status)


def test_a_caller_without_a_key_is_told_how_to_send_one(supervisor, registry, ring):
    with asking(control_app(supervisor, lambda: registry, find, ring.guard)) as client:
        refused = client.get("/api/v1/models")
    assert refused.headers["www-authenticate"] == 'Bearer realm="bascule"'
    assert "Authorization: Bearer" in refused.json()["error"]
