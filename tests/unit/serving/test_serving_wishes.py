"""Models that callers have loaded and unloaded: what they may say, and what they are told."""

from __future__ import annotations

import json

import pytest

from bascule.core.errors import Conflict, NoRoom, Overloaded
from bascule.serving.protocols import invocations
from bascule.serving.protocols.load_requests import MAX_WAITING, LoadRequests

JSON = "Content-Type: application/json; charset=utf-8\r\n"


class Putting:
    """Keeps what callers want, for the test to settle."""

    def __init__(self):
        self.put = []

    def load(self, name, place, settle):
        self.put.append((name, place, settle))

    def unload(self, name, settle):
        self.put.append((name, None, settle))


@pytest.fixture
def wishes():
    return Putting()


@pytest.fixture
def served(serve_models, program, inline, wishes):
    return serve_models(("late", program, inline), ("early", program, inline), wishes=wishes)


def ask(client, method, path, body=b"", headers=JSON):
    return client.request(method, path, body, headers)


def until_put(served, wishes, count=1):
    for _ in range(1_000):
        if served.on_loop(lambda: len(wishes.put)) >= count:
            return wishes.put[-1]
    raise AssertionError("nothing was asked for")


def test_a_wish_is_reported_with_its_number_and_settled_once():
    reported, settled = [], []
    wishes = LoadRequests(reported.append)
    wishes.load("late", "/models/late", lambda problem: settled.append(("late", problem)))
    wishes.unload("early", lambda problem: settled.append(("early", problem)))

    assert reported == [
        {"ask": 1, "what": "load", "model": "late", "place": "/models/late"},
        {"ask": 2, "what": "unload", "model": "early"},
    ]
    taken = Conflict("taken")
    wishes.settle(2, taken)
    wishes.settle(1, None)
    assert settled == [("early", taken), ("late", None)]


def test_only_so_many_wishes_wait():
    reported = []
    wishes = LoadRequests(reported.append)
    for _ in range(MAX_WAITING):
        wishes.unload("late", lambda _: None)
    with pytest.raises(Overloaded, match="64 changes of models wait already"):
        wishes.unload("late", lambda _: None)
    assert len(reported) == MAX_WAITING
    wishes.settle(1, None)
    wishes.unload("late", lambda _: None)


def test_a_caller_is_answered_when_its_wish_is_settled_and_others_meanwhile(served, wishes):
    with served.client() as client, served.client() as other:
        ask(client, "POST", "/models", {"model_name": "new", "url": "/models/new"})
        name, place, settle = until_put(served, wishes)
        assert (name, place) == ("new", "/models/new")
        assert ask(other, "GET", "/ping").answer().status == 200
        served.on_loop(lambda: settle(None))
        answer = client.answer()
        assert (answer.status, answer.json) == (
            200,
            {"modelName": "new", "modelUrl": "/models/new"},
        )

        ask(client, "DELETE", "/models/late")
        name, place, settle = until_put(served, wishes, 2)
        assert (name, place) == ("late", None)
        served.on_loop(lambda: settle(None))
        assert client.answer().status == 200


@pytest.mark.parametrize(
    ("problem", "status"), [(Conflict("it is loaded"), 409), (NoRoom("too large"), 507)]
)
def test_why_a_model_is_not_loaded_is_told(served, wishes, problem, status):
    with served.client() as client:
        ask(client, "POST", "/models", {"model_name": "new", "url": "/models/new"})
        _, _, settle = until_put(served, wishes)
        served.on_loop(lambda: settle(problem))
        answer = client.answer()
        assert (answer.status, answer.json) == (status, {"error": problem.message})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ([], "the body is not a JSON object"),
        ({"url": "/models/new"}, "model_name: not a text"),
        ({"model_name": 3, "url": "/models/new"}, "model_name: not a text"),
        ({"model_name": "a/b", "url": "/models/new"}, "model_name 'a/b' is not allowed"),
        ({"model_name": "new"}, "url: not a text"),
        ({"model_name": "new", "url": ""}, "url: not a text"),
        ({"model_name": "new", "url": "models/new"}, "url: 'models/new' is not the whole path"),
        ({"model_name": "new", "url": "s3://b/new"}, "url: 's3://b/new' is not the whole path"),
        ({"model_name": "new", "url": "/" + "x" * 1_024}, "in 1024 characters"),
    ],
)
def test_a_wish_that_is_malformed_is_refused_with_its_part(served, wishes, body, told):
    with served.client() as client:
        answer = ask(client, "POST", "/models", body).answer()
    assert answer.status == 400
    assert told in answer.json["error"]
    assert wishes.put == []


@pytest.mark.parametrize("headers", ["", "Content-Type: text/plain\r\n"])
def test_what_a_page_of_a_browser_may_send_unasked_loads_nothing(served, wishes, headers):
    body = json.dumps({"model_name": "new", "url": "/models/new"}).encode()
    with served.client() as client:
        answer = ask(client, "POST", "/models", body, headers).answer()
    assert (answer.status, wishes.put) == (400, [])


def test_models_are_listed_page_by_page_in_the_order_of_their_names(served, monkeypatch, tmp_path):
    def told(name):
        return {"modelName": name, "modelUrl": str(tmp_path)}

    with served.client() as client:
        assert ask(client, "GET", "/models").answer().json == {
            "models": [told("early"), told("late")]
        }
        monkeypatch.setattr(invocations, "_PAGE", 1)
        first = ask(client, "GET", "/models").answer().json
        assert first == {"models": [told("early")], "nextPageToken": "early"}
        last = ask(client, "GET", "/models?next_page_token=early").answer().json
        assert last == {"models": [told("late")]}
        # A model that goes between two pages takes no other one with it.
        assert ask(client, "GET", "/models?next_page_token=f").answer().json == last
        assert ask(client, "GET", "/models/late").answer().json == told("late")


def test_a_model_that_is_not_there_is_not_unloaded(served, wishes):
    with served.client() as client:
        assert ask(client, "DELETE", "/models/gone").answer().status == 404
    assert wishes.put == []


def test_elsewhere_callers_neither_load_nor_unload_nor_learn_of_places(
    serve_models, program, inline
):
    plain = serve_models(("late", program, inline))
    with plain.client() as client:
        for method, path in (("POST", "/models"), ("DELETE", "/models/late")):
            answer = ask(client, method, path, {"model_name": "n", "url": "/n"}).answer()
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        named = {"modelName": "late", "modelUrl": "late"}
        assert ask(client, "GET", "/models").answer().json == {"models": [named]}
        assert ask(client, "GET", "/models/late").answer().json == named
