"""A route that is analysed late answers, and is described, as one analysed at the start."""

from __future__ import annotations

import threading
from typing import Annotated

import pytest
from fastapi import FastAPI, Query
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from bascule.control import DeferredRoute


def app_of(route_class):
    app = FastAPI()
    app.router.route_class = route_class

    @app.get("/things/{number}", status_code=203)
    def thing(number: int, most: Annotated[int, Query(le=9)] = 3) -> dict[str, int]:
        """A thing."""
        return {"number": number, "most": most}

    @app.post("/things", include_in_schema=False)
    def add(things: list[int]) -> int:
        return len(things)

    return app


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/things/4?most=5", None),
        ("GET", "/things/four", None),
        ("GET", "/things/4?most=10", None),
        ("POST", "/things", [1, 2]),
        ("POST", "/things", {"no": "list"}),
        ("PUT", "/things", None),
        ("GET", "/things", None),
        ("GET", "/nothing", None),
    ],
)
def test_it_answers_as_a_route_of_fastapi(method, path, body):
    late, early = (
        TestClient(app_of(kind)).request(method, path, json=body)
        for kind in (DeferredRoute, APIRoute)
    )
    assert (late.status_code, late.json()) == (early.status_code, early.json())


def test_it_is_described_as_a_route_of_fastapi():
    assert app_of(DeferredRoute).openapi() == app_of(APIRoute).openapi()


def test_it_is_analysed_at_its_first_request_alone():
    app = app_of(DeferredRoute)
    (thing, add) = (one for one in app.routes if isinstance(one, DeferredRoute))
    assert not any("dependant" in vars(one) for one in (thing, add))
    TestClient(app).get("/things/4")
    assert "dependant" in vars(thing)
    assert "dependant" not in vars(add)


def test_a_declaration_that_fastapi_refuses_is_refused_then():
    app = FastAPI()
    app.router.route_class = DeferredRoute

    @app.get("/")
    def wrong(given: object) -> threading.Lock:
        raise NotImplementedError

    with pytest.raises(Exception, match="response field"):
        app.openapi()


def test_two_threads_that_need_it_at_once_get_the_same_analysis():
    (thing, _) = (one for one in app_of(DeferredRoute).routes if isinstance(one, DeferredRoute))
    found, begin = [], threading.Barrier(4)

    def look():
        begin.wait()
        found.append(thing.dependant)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(one is found[0] for one in found)


def test_what_no_route_has_is_not_found():
    (thing, _) = (one for one in app_of(DeferredRoute).routes if isinstance(one, DeferredRoute))
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = thing.nothing_such
