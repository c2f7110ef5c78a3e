"""Batch jobs, schedules and recorded predictions over the control API."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression
from tests.console_work import finished, looking
from tests.ledger_rows import Answers, spool

from bascule.app import open_catalogue, open_registry
from bascule.batch import Schedule, Schedules
from bascule.settings import load_settings


@pytest.fixture(scope="module")
def bundle(packed):
    X = np.arange(40.0).reshape(20, 2)
    return packed("rain", LinearRegression().fit(X, X[:, 0]), X)


@pytest.fixture
def settings(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    open_registry(made).push(bundle, by="ada")
    pq.write_table(pa.table({"a": np.arange(9.0), "b": np.arange(9.0)}), tmp_path / "rows.parquet")
    return made


@pytest.fixture
def api(settings):
    with looking(settings) as client:
        yield client


JOB = {"model": "rain/1", "from": "rows.parquet", "to": "out/"}


def test_a_run_is_begun_looked_at_and_listed(api, tmp_path):
    begun = api.post("/api/v1/batch/runs", json={"job": JOB})
    assert begun.status_code == 202
    assert begun.json()["rows"] == 9
    finished(api)
    one = api.get(begun.headers["location"]).json()
    assert (one["state"], one["rows"]) == ("done", 9)
    assert [each["run"] for each in api.get("/api/v1/batch/runs").json()["items"]] == [one["run"]]
    assert "9 rows" in api.get(begun.headers["location"] + "/log").json()["log"]
    assert pq.read_table(tmp_path / "out").num_rows == 9
    again = api.post(begun.headers["location"] + "/resume", json={})
    assert again.status_code == 409
    assert "is done" in again.json()["detail"]


def test_a_dry_run_writes_nothing_and_has_the_first_rows(api, tmp_path):
    plan = api.post("/api/v1/batch/runs", json={"job": JOB, "dry_run": True}).json()
    assert len(plan["preview"]) == 9
    assert not (tmp_path / "out").exists()
    assert api.get("/api/v1/batch/runs").json()["items"] == []


@pytest.mark.parametrize(
    ("job", "status", "said"),
    [
        ({**JOB, "model": "/srv/bundle"}, 400, "is a folder"),
        ({**JOB, "colour": "red"}, 400, "colour"),
        ({**JOB, "from": "none.csv"}, 404, "no table files"),
        ({"model": "rain/1"}, 400, "from"),
    ],
)
def test_a_job_that_cannot_be_is_refused_with_the_field(api, job, status, said):
    answer = api.post("/api/v1/batch/runs", json={"job": job})
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_schedules_are_listed_paused_and_run(settings, api, tmp_path):
    from datetime import UTC, datetime

    plan = Schedule(
        name="nightly", cron="0 2 * * *", job=JOB, folder=str(tmp_path),
        created_at=datetime.now(UTC),
    )  # fmt: skip
    Schedules(open_catalogue(settings)).add(plan, by="ada")
    assert api.get("/api/v1/schedules").json()["items"][0]["cron"] == "0 2 * * *"
    assert api.post("/api/v1/schedules/nightly/pause", json={"reason": "x"}).status_code == 200
    assert api.get("/api/v1/schedules/nightly").json()["is_paused"] is True
    run = api.post("/api/v1/schedules/nightly/run", json={}).json()["run"]
    finished(api)
    assert api.get(f"/api/v1/batch/runs/{run}").json()["state"] == "done"
    assert api.post("/api/v1/schedules/weekly/pause", json={}).status_code == 404


def test_from_another_machine_no_job_is_begun_and_none_is_stopped(settings):
    with looking(settings, client=("10.1.2.3", 5_000)) as far:
        assert far.post("/api/v1/batch/runs", json={"job": JOB}).status_code == 403
        assert far.post("/api/v1/batch/runs/x/cancel", json={}).status_code == 403
        assert far.post("/api/v1/schedules/x/run", json={}).status_code == 403


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
