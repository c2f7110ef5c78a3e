"""Recorded predictions over the control API."""

import threading

import pytest
from tests.console_work import looking
from tests.ledger_rows import Answers, spool

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
