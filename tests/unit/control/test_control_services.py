"""What the control API changes, and for whom."""

from __future__ import annotations

import asyncio
import threading
from functools import partialmethod
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from tests.controls import Services, control_app

from bascule.control.api.rights import loopback_only
from bascule.core.errors import NotFound, Refused, Unauthenticated, Unavailable
from bascule.serving import ModelSpec


def find(reference):
    model, _, version = reference.partition("/")
    if model == "nobody":
        raise NotFound("no model 'nobody'", hint="push it first")
    return ModelSpec(model, version or "9", Path("/bundles", model, version or "9"))


class Client:
    """Asks the application as somebody at an address would."""

    def __init__(self, app, caller, base_url):
        self._app, self._caller, self._base_url = app, caller, base_url

    def request(self, method, path, **more):
        async def ask():
            transport = httpx.ASGITransport(self._app, client=(self._caller, 5000))
            async with httpx.AsyncClient(transport=transport, base_url=self._base_url) as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    get = partialmethod(request, "GET")
    post = partialmethod(request, "POST")
    delete = partialmethod(request, "DELETE")


@pytest.fixture
def supervisor():
    return Services(find("late/1"), find("early/1"))


@pytest.fixture
def client(supervisor):
    return client_of(supervisor)


def client_of(supervisor, *guard, caller="127.0.0.1", base_url="http://127.0.0.1:8082"):
    app = control_app(supervisor, lambda: None, find, *guard)
    return Client(app, caller, base_url)


def names(answer):
    assert answer.status_code == 200, answer.text
    return [
        f"{one['model']}/{one['version']}" + ("*" if one["is_default"] else "")
        for one in answer.json()["items"]
    ]


SERVICES = "/api/v1/server/services"


@pytest.mark.parametrize(
    ("role", "served"),
    [
        (None, ["late/1*", "early/1*", "late/2"]),
        ("beside", ["late/1*", "early/1*", "late/2"]),
        ("default", ["late/2*", "late/1", "early/1*"]),
        ("swap", ["late/2*", "early/1*"]),
    ],
)
def test_a_version_is_loaded_in_the_role_that_is_asked_for(client, role, served):
    wish = {"reference": "late/2"} | ({} if role is None else {"role": role})

    assert names(client.post(SERVICES, json=wish)) == served
    assert names(client.get(SERVICES)) == served


def test_a_version_is_shown_with_where_it_is_in_memory(client):
    assert client.get(SERVICES).json()["items"][0] == {
        "model": "late",
        "version": "1",
        "is_default": True,
        "loaded_in": 1,
        "size_bytes": 11,
    }


def test_versions_are_unloaded_by_model_and_version(client):
    client.post(SERVICES, json={"reference": "late/2"})

    assert names(client.delete(SERVICES + "/late?version=2")) == ["late/1*", "early/1*"]
    assert names(client.delete(SERVICES + "/late")) == ["early/1*"]
    gone = client.delete(SERVICES + "/late")
    assert (gone.status_code, gone.json()["error"]) == (
        404,
        "'late' is not served; served are early",
    )


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({}, "reference"),
        ({"reference": ""}, "reference"),
        ({"reference": "late/2", "role": "king"}, "role"),
        ({"reference": "late/2", "rolle": "swap"}, "rolle"),
    ],
)
def test_a_wish_that_cannot_be_read_is_refused_and_changes_nothing(client, wish, said):
    answer = client.post(SERVICES, json=wish)

    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert names(client.get(SERVICES)) == ["late/1*", "early/1*"]


def test_what_kept_a_worker_from_loading_is_told(client, supervisor):
    supervisor.problem = Unavailable("a worker died, and nothing was changed", hint="try again")

    answer = client.post(SERVICES, json={"reference": "late/2"})

    assert (answer.status_code, answer.json()["error"]) == (
        503,
        "a worker died, and nothing was changed; try again",
    )


def test_the_model_repository_extension_says_and_does_the_same(client):
    client.post(SERVICES, json={"reference": "late/2"})
    index = client.post("/v2/repository/index", json={"ready": True})
    assert [(one["name"], one["version"], one["state"]) for one in index.json()] == [
        ("late", "1", "READY"),
        ("early", "1", "READY"),
        ("late", "2", "READY"),
    ]

    loaded = client.post("/v2/repository/models/late/load", json={"parameters": {}})
    assert (loaded.status_code, loaded.json()) == (200, {})
    assert names(client.get(SERVICES)) == ["late/9*", "early/1*", "late/2"]

    assert client.post("/v2/repository/models/late/unload").status_code == 200
    assert names(client.get(SERVICES)) == ["early/1*"]
    assert client.post("/v2/repository/models/late/unload").status_code == 404
    assert client.post("/v2/repository/models/nobody/load").status_code == 404


# -- rights --

CHANGES = [
    ("POST", SERVICES, {"reference": "late/2"}),
    ("DELETE", SERVICES + "/late", None),
    ("POST", "/v2/repository/models/late/load", None),
    ("POST", "/v2/repository/models/late/unload", None),
]
_VERSION = "/api/v1/models/late/versions/1"
REGISTRY_CHANGES = [
    ("POST", "/api/v1/models/late/versions", None),
    ("PUT", "/api/v1/models/late/aliases/champion", {"number": 1}),
    ("DELETE", "/api/v1/models/late/aliases/champion", None),
    ("PATCH", _VERSION + "/tags", {"team": "risk"}),
    ("PUT", _VERSION + "/retirement", {"reason": "old"}),
    ("DELETE", _VERSION + "/retirement", None),
    ("PUT", _VERSION + "/deprecation", {"sunset": "2100-01-01", "reason": "old"}),
    ("DELETE", _VERSION + "/deprecation", None),
    ("POST", "/api/v1/models/late/outcomes", {"outcomes": [{"id": "a", "truth": 1}]}),
    ("POST", "/api/v1/endpoints", {"name": "fast", "version": "late/1"}),
    ("POST", "/api/v1/endpoints/fast/plans", {"version": "late/1"}),
    ("POST", "/api/v1/endpoints/fast/rollback", {"reason": "worse"}),
    ("PATCH", "/api/v1/endpoints/fast", {"fallback": "late/1"}),
    ("DELETE", "/api/v1/endpoints/fast?reason=unused", None),
    ("POST", "/api/v1/replays", {"id": "a1b2-1"}),
    ("POST", "/api/v1/deployments", {"version": "late/1"}),
    ("POST", "/api/v1/rollouts", {"version": "late/1"}),
    ("POST", "/api/v1/rollouts/0e4f/pause", {"reason": "look first"}),
    ("POST", "/api/v1/rollouts/0e4f/promote", {"reason": "looked"}),
    ("DELETE", "/api/v1/sessions/5a6b", None),
    ("POST", "/api/v1/keys", {"name": "ada", "permissions": ["keys"]}),
    ("DELETE", "/api/v1/keys/ada", None),
    ("PUT", "/api/v1/alerts/0a1b/acknowledgement", {"why": "rolling back"}),
    ("POST", "/api/v1/silences", {"until": "2100-01-01T00:00:00Z", "why": "planned"}),
    ("DELETE", "/api/v1/silences/0c2d", None),
    ("POST", "/api/v1/jobs", {"kind": "batch", "input": {"model": "late/1"}}),
    ("POST", "/api/v1/jobs/7b8c/cancel", None),
    ("POST", "/api/v1/batch/runs", {"model": "late/1", "from": "/in/", "to": "/out/"}),
    ("POST", "/api/v1/batch/runs/1f2e/cancel", None),
    ("POST", "/api/v1/schedules", {"name": "nightly", "cron": "0 2 * * *", "job": {}}),
    ("DELETE", "/api/v1/schedules/nightly?reason=moved", None),
    ("POST", "/api/v1/schedules/nightly/run", None),
    ("POST", "/api/v1/schedules/nightly/pause", {"reason": "moved"}),
    ("PUT", "/api/v1/configuration", {"document": {"version": 1}, "reason": "reviewed"}),
    ("POST", "/api/v1/sign-in-links", {"roles": ["viewer:*"]}),
    ("POST", "/api/v1/receivers/oncall/test", None),
    ("POST", "/api/v1/approvals/3c4d/approve", None),
    ("POST", "/api/v1/models/late/reviews/4e5f/answer", {"truth": 1}),
    ("POST", "/api/v1/subjects/find", {"field": "customer_id", "subject": "c-1"}),
    ("POST", "/api/v1/subjects/export", {"field": "customer_id", "subject": "c-1"}),
    ("POST", "/api/v1/edge/devices", {"device": "camera", "group": "stable"}),
    ("DELETE", "/api/v1/edge/devices/6d7e", None),
    ("POST", "/api/v1/edge/reports", {"reports": []}),
    ("POST", "/api/v1/edge/rollouts", {"version": "late/1", "group": "stable"}),
    ("POST", "/api/v1/edge/rollouts/0e4f/abort", None),
    ("POST", "/api/v1/erasures", {"field": "customer_id", "subject": "c-1"}),
]


def test_every_route_that_changes_something_is_tried_here(supervisor):
    paths = control_app(supervisor, lambda: None, find).openapi()["paths"]
    changing = {
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if method != "get"
    }
    tried = {
        "fast": "{endpoint}",
        "late": "{model}",
        "champion": "{alias}",
        "ada": "{key}",
        "/1/": "/{number}/",
    }
    tried |= {"0a1b": "{alert}", "0c2d": "{silence}", "0e4f": "{rollout}", "1f2e": "{run}"}
    tried |= {"nightly": "{schedule}", "oncall": "{receiver}", "5a6b": "{session}", "7b8c": "{job}"}
    tried |= {
        "3c4d": "{approval}",
        "/approve": "/{decision}",
        "4e5f": "{review}",
        "6d7e": "{device}",
    }
    tried |= {"/pause": "/{command}", "/cancel": "/{command}"}
    written = set()
    for method, path, _ in CHANGES + REGISTRY_CHANGES:
        for value, name in tried.items():
            path = path.partition("?")[0].replace(value, name)
        written.add((method, path))
    elsewhere = {
        ("POST", "/v2/repository/index"),  # reads
        ("POST", "/api/v1/verdicts/{endpoint}"),  # reads
        ("DELETE", "/api/v1/session"),  # ends what the caller's own cookie began
        ("POST", "/api/v1/models/{model}/inferences"),  # see the test below
        ("DELETE", "/api/v1/jobs/{job}"),  # of a job that its caller alone sees
    }
    assert changing - elsewhere == written


@pytest.mark.parametrize(
    "from_where",
    [
        {"caller": "192.0.2.7"},
        {"base_url": "http://rebound.example:8082"},
        {"origin": "https://page.example"},
        {"origin": "null"},
    ],
    ids=["another machine", "a name made to mean this machine", "a page", "a sandboxed page"],
)
def test_who_is_not_on_this_machine_changes_nothing(supervisor, from_where):
    origin = from_where.get("origin")
    where = {name: value for name, value in from_where.items() if name != "origin"}
    client = client_of(supervisor, **where)
    headers = {} if origin is None else {"Origin": origin}
    before = supervisor.services

    for method, path, body in CHANGES + REGISTRY_CHANGES:
        answer = client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 403, (method, path)
        said = "only from this machine", f"a page of {origin} may not do this"
        assert any(one in answer.json()["error"] for one in said), (method, path)
        assert supervisor.services == before, (method, path)
    later = client.post("/api/v1/models/late/inferences", content=b"{}", headers=headers)
    assert later.status_code == 403


@pytest.mark.parametrize(
    "where",
    [
        {"base_url": "http://localhost:8082"},
        {"base_url": "http://[::1]:8082", "caller": "::1"},
        {"base_url": "http://127.0.0.1:8082", "caller": "127.0.0.1"},
    ],
)
def test_this_machine_may(supervisor, where):
    client = client_of(supervisor, **where)
    origin = {"Origin": where["base_url"]}
    assert client.post(SERVICES, json={"reference": "late/2"}, headers=origin).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_rights_are_asked_first_by_action_and_model(supervisor, method, path, body):
    asked = []

    class NotThis:
        """Keys by which nobody may do anything to `late`."""

        def look(self):
            pass

        def check(self, authorization, action, model):
            asked.append((action, model))
            if model:
                raise Refused("no")

        def key_of(self, authorization):
            raise Unauthenticated("no")

    before = supervisor.services
    client = client_of(supervisor, NotThis())

    assert client.request(method, path, json=body).status_code == 403
    assert asked[-1] == ("manage", "late")
    assert supervisor.services == before


def test_a_folder_is_loaded_by_who_may_manage_all_and_what_it_holds(supervisor):
    asked = []

    class All:
        def look(self):
            pass

        def check(self, authorization, action, model):
            asked.append(model)

        def key_of(self, authorization):
            raise Unauthenticated("no")

    client = client_of(supervisor, All())
    client.post(SERVICES, json={"reference": "/srv/late.bundle"})
    assert asked[:2] == ["", "*"]
    client.post(SERVICES, json={"reference": "late/2"})
    assert asked[-2:] == ["late", "late"]


def test_a_caller_without_an_address_is_not_on_this_machine():
    request = Request({"type": "http", "headers": [], "server": ("127.0.0.1", 80), "path": "/"})
    with pytest.raises(Refused):
        loopback_only(request, "manage", "late")


def test_loads_that_take_long_leave_threads_for_other_requests(supervisor):
    began, goes_on = [], threading.Event()

    def slow(reference):
        began.append(reference)
        assert goes_on.wait(30)
        return find(reference)

    transport = httpx.ASGITransport(control_app(supervisor, None, slow), client=("127.0.0.1", 5000))

    async def ask():
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8082"
        ) as client:
            body = {"reference": "gb/2"}
            loads = [asyncio.create_task(client.post(SERVICES, json=body)) for _ in range(50)]
            while not began:
                await asyncio.sleep(0.01)
            for _ in range(1_000):  # for every load to take the thread that it can get
                await asyncio.sleep(0)
            try:
                async with asyncio.timeout(5):
                    return (await client.get(SERVICES)).status_code
            finally:
                goes_on.set()
                assert {answer.status_code for answer in await asyncio.gather(*loads)} == {200}

    assert asyncio.run(ask()) == 200
    assert len(began) == 50
