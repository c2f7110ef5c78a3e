"""Runs and schedules over the control API, with real runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from tests.unit.batch.conftest import flights
from tests.unit.control.test_control_api import FakeSupervisor, asking, find, ring  # noqa: F401

from bascule.batch import RemoteRuns, RemoteSchedules, Schedule, job_of, next_time
from bascule.catalogue import Catalogue, Requests, SqliteDatabase
from bascule.cli.scheduled import run_command_of
from bascule.control import BatchRunner
from bascule.control.api import control_app
from bascule.control.batch_runs import is_below
from bascule.core import Conflict, Invalid, NotFound, Refused
from bascule.settings import load_settings
from bascule_client.control import ControlClient

WAIT_S = 60.0


@pytest.fixture
def place(tmp_path: Path, table_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server: a bundle, and a table of 400 rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.bundle").symlink_to(table_bundle)
    pq.write_table(flights(400), "in.parquet", row_group_size=100)
    return tmp_path


def app_of(place: Path, guard: Any = None) -> Any:
    settings = load_settings(place, {})
    batch = BatchRunner(
        settings.home, run_command_of(settings), [str(place), str((place / "m.bundle").resolve())]
    )
    catalogue = Catalogue(SqliteDatabase(settings.home / "catalogue.db"))
    return control_app(
        FakeSupervisor(), lambda: None, find, guard, open_catalogue=lambda: catalogue, batch=batch,
        open_requests=lambda: Requests(catalogue),
    )  # fmt: skip


@pytest.fixture
def client(place: Path) -> Iterator[httpx.Client]:
    with asking(app_of(place)) as client:
        client.timeout = WAIT_S
        yield client


def remote(client: httpx.Client) -> ControlClient:
    return ControlClient(str(client.base_url))


JOB = {"model": "./m.bundle/", "from": "in.parquet", "to": "scored/"}


def test_a_job_is_started_watched_and_found_in_the_list(client, place):
    runs = RemoteRuns(remote(client))
    begun = runs.start(job_of(JOB), by="ada")
    done = runs.wait(begun.run)
    assert (done.rows, done.state, done.by) == (400, "done", "ada")
    assert [one.run for one in runs.list()] == [begun.run]
    assert "400 rows in" in runs.log(begun.run[:6])
    assert runs.manifest(begun.run).run == begun.run
    assert pq.read_table(place / "scored").num_rows == 400
    assert "bascule_batch_runs" in client.get("/metrics").text


def test_a_job_that_cannot_begin_is_refused_as_the_command_refuses_it(client):
    runs = RemoteRuns(remote(client))
    with pytest.raises(NotFound, match="no table files"):
        runs.start(job_of({**JOB, "from": "none.parquet"}))
    with pytest.raises(Invalid, match="limit"):
        client_error(client, {**JOB, "limit": -1})
    with pytest.raises(Invalid, match="frm"):
        client_error(client, {"frm": "x"})
    with pytest.raises(NotFound, match="no run"):
        runs.get("00")


def client_error(client: httpx.Client, job: dict[str, Any]) -> None:
    remote(client).ask("POST", "/api/v1/batch/runs", job)


def test_a_run_that_failed_says_why(client):
    runs = RemoteRuns(remote(client))
    begun = runs.start(job_of({**JOB, "checks": ["rows >= 1000"]}))
    with pytest.raises(Refused, match="rows >= 1000 is not met"):
        runs.wait(begun.run)


def test_a_run_is_cancelled_and_resumed(client, place):
    pq.write_table(flights(60_000), "big.parquet", row_group_size=100)
    runs = RemoteRuns(remote(client))
    job = job_of({**JOB, "from": "big.parquet", "chunk_rows": 100, "workers": 1})
    run = runs.start(job).run
    assert runs.start(job).run == run  # under way: the same run
    runs.cancel(run)
    with pytest.raises(Conflict, match="was cancelled"):
        runs.wait(run)
    assert runs.wait(runs.resume(run).run).rows == 60_000
    assert pq.read_table(place / "scored").num_rows == 60_000


def test_a_schedule_is_kept_and_run_by_the_server(client, place):
    schedules = RemoteSchedules(remote(client))
    wanted = Schedule(
        name="night", cron="0 2 * * *", window="01:00-05:00", job=job_of(JOB).to_json(),
        created_at=datetime.now(UTC),
    )  # fmt: skip
    schedules.add(wanted, by="ada")
    (one,) = schedules.list()
    assert (one.schedule.window, one.schedule.folder) == ("01:00-05:00", str(place))
    assert next_time(one.schedule, one.schedule.created_at) is not None
    schedules.pause("night", by="ada")
    assert schedules.get("night").schedule.is_paused
    schedules.resume("night", by="ada")
    run = schedules.run("night", by="ada")
    assert RemoteRuns(remote(client)).wait(run.run).rows == 400
    schedules.remove("night", by="ada")
    assert schedules.list() == []
    with pytest.raises(NotFound, match="night"):
        schedules.get("night")


def test_passwords_of_places_are_not_shown(client):
    job = {**JOB, "from": "postgresql://ada:secret@db/x#t"}
    body = {"name": "n", "cron": "0 2 * * *", "job": job}
    made = client.post("/api/v1/schedules", json=body)
    assert made.status_code == 201
    assert "secret" not in made.text
    assert "secret" not in client.get("/api/v1/schedules").text


# -- callers with keys --


def test_a_key_runs_jobs_of_its_models_in_the_places_that_are_allowed(place, ring):  # noqa: F811
    header = ring("manage:*")
    with asking(app_of(place, ring.guard)) as client:
        client.timeout = WAIT_S
        elsewhere = {**JOB, "to": "/tmp/elsewhere/"}
        answer = client.post("/api/v1/batch/runs", json=elsewhere, headers=header)
        assert answer.status_code == 403
        assert "batch.places" in answer.json()["hint"]
        other = ring("manage:other")
        assert client.post("/api/v1/batch/runs", json=JOB, headers=other).status_code == 403
        begun = client.post("/api/v1/batch/runs", json=JOB, headers=header)
        assert begun.status_code == 201, begun.text
        run = begun.json()["run"]
        assert client.get(f"/api/v1/batch/runs/{run}", headers=other).status_code == 403
        give_up_at = time.monotonic() + WAIT_S
        reader = ring("read:*")
        while client.get(f"/api/v1/batch/runs/{run}", headers=reader).json()["state"] != "done":
            assert time.monotonic() < give_up_at
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("place", "allowed", "is_allowed"),
    [
        ("/data/in.parquet", "/data", True),
        ("/data/*/x.parquet", "/data", True),
        ("/data2/in.parquet", "/data", False),
        ("/data/../etc/x.parquet", "/data", False),
        ("/data/*/../../etc/x.parquet", "/data", False),
        ("/*/x.parquet", "/data", False),
        ("s3://bucket/a/b", "s3://bucket/a", True),
        ("s3://bucket/ab", "s3://bucket/a", False),
        ("s3://bucket/a/../b", "s3://bucket/a", False),
        ("s3://bucket/a/x?endpoint_override=evil", "s3://bucket/a", False),
        ("s3://bucket/a/%2e%2e/b", "s3://bucket/a", False),
        ("postgresql://db/x#t", "postgresql://db/x", True),
        ("postgresql://db/x#t", "postgresql://db/x#t", True),
        ("postgresql://db/x#t2", "postgresql://db/x#t", False),
        ("postgresql://db/xy#t", "postgresql://db/x", False),
        ("postgresql://ada:pw@db/x#t", "postgresql://db/x", True),
        ("postgresql://db@evil/x#t", "postgresql://db/x", False),
        ("postgresql://a@evil@db/x#t", "postgresql://db/x", False),
        ("/data/in.parquet", "s3://bucket", False),
        ("s3://bucket/a", "/", False),
    ],
)
def test_a_place_is_allowed_where_it_is_below_one_that_is(place, allowed, is_allowed):
    assert is_below(place, allowed) is is_allowed


def test_links_lead_to_no_other_place(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    assert is_below(str(tmp_path / "in" / "x"), str(tmp_path / "in"))
    assert not is_below(str(tmp_path / "in" / "link" / "x"), str(tmp_path / "in"))


def test_sql_on_a_table_needs_the_whole_database(place):
    table = "postgresql://db/x#t"
    runner = BatchRunner(place, lambda _: ((), b""), [table, str(place)])
    job = {**JOB, "from": table, "to": str(place / "out")}
    runner.check_places(job_of({**job, "model": "m"}))
    for option in ({"where": "true"}, {"query": "SELECT 1", "key": "id"}):
        with pytest.raises(Refused, match="from: "):
            runner.check_places(job_of({**job, "model": "m", **option}))


def test_the_document_of_a_run_has_its_rate(client):
    runs = RemoteRuns(remote(client))
    run = runs.wait(runs.start(job_of(JOB)).run).run
    said = json.loads(client.get(f"/api/v1/batch/runs/{run}").text)
    assert said["rows_per_s"] > 0
    assert said["left_s"] is None
