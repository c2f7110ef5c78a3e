from __future__ import annotations

from types import SimpleNamespace

import pytest

from bascule.core.errors import NotFound
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.transports.routes import Route, table


class Model(SimpleNamespace):
    """A version, which is itself alone, as predictors are."""

    __eq__, __hash__ = object.__eq__, object.__hash__


def model(name, version):
    service = SimpleNamespace(labels=(), version=version)
    return Model(
        name=name, version=version, service=service, asks_headers=frozenset(), needs="infer"
    )


class Paths:
    """A protocol with one path for the server and one for each model."""

    name = "paths"

    def server_routes(self, plane):
        yield Route(b"GET", b"/server", print, "read")

    def model_routes(self, plane, model):
        yield Route(b"POST", f"/{model.name}/{model.version}".encode(), print, "infer", model.name)
        if plane.is_default(model):
            yield Route(b"POST", f"/{model.name}".encode(), print, "infer", model.name)

    def not_found(self, plane, path):
        return NotFound("a model of mine") if path.startswith(b"/mine") else None


@pytest.fixture
def plane():
    return DataPlane([Paths()], lambda: True)


def test_the_first_version_of_a_name_is_the_one_of_the_plain_name(plane):
    new, old = model("late", "2"), model("late", "1")

    routes = plane.serve([new, old])

    assert sorted(routes) == [b"/late", b"/late/1", b"/late/2", b"/server"]
    assert plane.find("late") is new
    assert plane.find("late", "1") is old
    assert plane.is_default(new)
    assert not plane.is_default(old)


def test_a_route_names_its_protocol_so_that_the_ledger_can(plane):
    routes = plane.serve([model("late", "1")])

    assert {route.protocol for of in routes.values() for route in of.values()} == {"paths"}


def test_what_is_served_is_replaced_as_a_whole(plane):
    plane.serve([model("late", "1"), model("early", "1")])

    assert sorted(plane.serve([model("early", "2")])) == [b"/early", b"/early/2", b"/server"]
    with pytest.raises(NotFound, match="no model 'late' here"):
        plane.find("late")
    with pytest.raises(NotFound, match="no version '1' of 'early' here"):
        plane.find("early", "1")


def test_the_routes_of_a_version_are_made_again_only_when_something_about_it_changed(plane):
    late, early, old = model("late", "2"), model("early", "1"), model("late", "1")
    before = plane.serve([late, early])

    after = plane.serve([late, early, old])

    assert after[b"/early/1"][b"POST"] is before[b"/early/1"][b"POST"]
    assert after[b"/late/2"][b"POST"] is not before[b"/late/2"][b"POST"], "it has a sister now"
    turned = plane.serve([old, early, late])
    assert turned[b"/late/2"][b"POST"] is not after[b"/late/2"][b"POST"], "no default any more"
    assert turned[b"/early/1"][b"POST"] is before[b"/early/1"][b"POST"]
    assert sorted(plane.serve([late])) == [b"/late", b"/late/2", b"/server"]
    assert len(plane._kept) == 1, "what is served no more is not kept"
    again = plane.serve([early])
    assert again[b"/early"][b"POST"] is not before[b"/early"][b"POST"]


def test_protocols_without_names_speak_to_the_first_model(plane):
    assert plane.first is None
    first = model("late", "2")
    plane.serve([first, model("early", "1")])
    assert plane.first is first


def test_a_path_is_explained_by_the_face_that_it_is_of(plane):
    assert plane.not_found(b"/mine/x").message == "a model of mine"
    assert plane.not_found(b"/other").message == "no such path"


def test_whoever_answers_get_answers_head():
    methods = table([Route(b"GET", b"/x", print, "read")])[b"/x"]
    assert methods[b"HEAD"] is methods[b"GET"]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_two_protocols_cannot_claim_one_path(method):
    with pytest.raises(ValueError, match="routed twice"):
        table([Route(b"GET", b"/x", print, "read"), Route(method, b"/x", print, "read")])
