"""Recorded predictions over the control API."""

import threading
from urllib.parse import quote

import pytest
from tests.console_work import looking
from tests.ledger_rows import Answers, spool
from tests.tiers import first_of

from bascule.app import open_catalogue, open_keys
from bascule.core import Invalid, seconds_of
from bascule.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})


@pytest.fixture
def api(settings):
    with looking(settings) as client:
        yield client


def test_recorded_predictions_are_listed_and_found(settings, api):
    spool(settings.home, Answers(["one", "two"], model="gb"))
    rows = api.get("/api/v1/predictions", params={"model": "gb"}).json()["items"]
    assert {each["id"] for each in rows} == {"one", "two"}
    found = api.get("/api/v1/prediction", params={"id": "two"}).json()
    assert found["inputs"] == [{"x": 1.0}]
    assert found["outputs"] == [{"label": 1}]
    assert found["truths"] == [None]
    assert api.get("/api/v1/prediction", params={"id": "three"}).status_code == 404
    too_far = api.get("/api/v1/predictions", params={"model": "gb", "limit": 900, "offset": 900})
    assert too_far.status_code == 400


def test_the_form_of_the_ledger_loads_what_its_first_answer_needs(settings, api):
    spool(settings.home, Answers(["one"], model="gb"))
    assert api.get("/ledger").status_code == 200
    for one in threading.enumerate():
        if one.name == "bascule-ledger":
            one.join()
    assert api.app.state.control.predictions._is_prepared
    assert "one" in api.get("/ledger?model=gb").text


def test_from_another_machine_the_inputs_of_people_are_not_shown(settings):
    spool(settings.home, Answers(["one"], model="gb"))
    with looking(settings, client=("10.1.2.3", 5_000)) as far:
        assert far.get("/api/v1/predictions", params={"model": "gb"}).status_code == 403
        assert far.get("/api/v1/prediction", params={"id": "one"}).status_code == 403


EDGES = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "0001-01-02T12:00:00-14:00",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999-12:00",
    "9999-12-30T12:00:00+14:00",
]
SPANS = {
    "predictions": "/api/v1/predictions?model=gb",
    "history": "/api/v1/history?limit=1",
    "incident": "/api/v1/endpoints/gb/incident?x=1",
}


@pytest.mark.parametrize("path", first_of(SPANS.values(), 2), ids=SPANS)
@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize("moment", EDGES)
def test_a_span_may_reach_the_edges_of_the_calendar(settings, api, path, name, moment):
    spool(settings.home, Answers(["one"], model="gb"))
    answer = api.get(f"{path}&{name}={quote(moment)}")
    assert answer.status_code < 500, answer.text
    if "predictions" in path:
        assert answer.status_code == 200, answer.text
        spans_now = name == "since" and moment.startswith("0001")
        assert [row["id"] for row in answer.json()["items"]] == ["one"] * spans_now


@pytest.mark.parametrize("moment", EDGES)
def test_a_span_of_a_page_may_reach_the_edges_of_the_calendar(settings, api, moment):
    spool(settings.home, Answers(["one"], model="gb"))
    for path in (
        f"/ledger?model=gb&span=7d&until={quote(moment)}",
        f"/history?since={moment[:10]}",
    ):
        assert api.get(path).status_code < 500


@pytest.mark.parametrize("moment", EDGES)
def test_what_ends_at_the_edges_of_the_calendar_is_refused_or_kept(settings, moment):
    open_catalogue(settings).create()
    with looking(settings, open_keys=lambda: open_keys(settings)) as api:
        check_ends(api, moment)


def check_ends(api, moment):
    made = api.post(
        "/api/v1/keys", json={"name": "a", "permissions": ["read:*"], "expires_at": moment}
    )
    kept = api.post("/api/v1/silences", json={"until": moment, "why": "maintenance"})
    expected = (400, 400) if moment.startswith("0001") else (201, 201)
    assert (made.status_code, kept.status_code) == expected
    for path in ("keys", "silences"):
        assert api.get(f"/api/v1/{path}").status_code == 200


@pytest.mark.parametrize("length", ["99999999999d", f"{'9' * 400}h"])
def test_a_length_beyond_the_calendar_is_refused(length):
    with pytest.raises(Invalid, match="longer than a century"):
        seconds_of(length, "--for")
