"""Runs and schedules over the control API, with real runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow.parquet as pq
import pytest
from tests.controls import asking, control_app
from tests.tiers import first_of
from tests.unit.batch.conftest import flights
from tests.unit.control.test_control_api import FakeSupervisor, find, ring  # noqa: F401

from bascule.app import open_alerts, open_catalogue, open_endpoints, open_registry
from bascule.batch import Places, RemoteRuns, RemoteSchedules, is_below, job_of
from bascule.catalogue import Requests
from bascule.core import Conflict, Invalid, NotFound, Refused
from bascule.jobs import JobRunner, RemoteJobs, Schedule, Task, next_time
from bascule.kinds import KINDS, asking as children_by, runner_of
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


def app_of(place: Path, ring: Any = None, places: Sequence[str] = ()) -> Any:  # noqa: F811
    allowed = [*(places or [str(place)]), str((place / "m.bundle").resolve())]
    settings = load_settings(place, {"BASCULE_BATCH__PLACES": json.dumps(allowed)})
    catalogue = open_catalogue(settings)
    jobs = JobRunner(catalogue, KINDS, children_by(settings), lambda: ring.keys if ring else ())
    return control_app(
        FakeSupervisor(), partial(open_registry, settings), find, ring and ring.guard,
        open_catalogue=lambda: catalogue, open_requests=lambda: Requests(catalogue), jobs=jobs,
        places=allowed,
        open_endpoints=partial(open_endpoints, settings),
        open_alerts=partial(open_alerts, settings),
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
    remote(client).do("POST /api/v1/batch/runs", job)


def test_a_run_that_failed_says_why(client):
    runs = RemoteRuns(remote(client))
    begun = runs.start(job_of({**JOB, "checks": ["rows >= 1000"]}))
    with pytest.raises(Refused, match="rows >= 1000 is not met"):
        runs.wait(begun.run)


@pytest.mark.slow
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
    job = wanted.job | {"to": str(place / "days" / "{{ ds }}" / "x.parquet")}
    schedules.add(msgspec.structs.replace(wanted, name="dated", job=job), by="ada")
    run = schedules.run("dated", by="ada", due=datetime(2026, 3, 2, 2))
    assert "/2026-03-01/" in RemoteRuns(remote(client)).wait(run.run).sink
    schedules.remove("dated", by="ada")
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
    with asking(app_of(place, ring)) as client:
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
        ("postgresql+psycopg://db:5432/x/@evil:5432/x#t", "postgresql://db:5432/x", False),
        ("postgresql+psycopg://db:5432/x/@evil:5432/x#t", "postgresql+psycopg://db:5432/x", False),
        ("mysql+pymysql://db:3306/x/@evil:3306/x#t", "mysql+pymysql://db:3306/x", False),
        ("postgresql+psycopg://ada:pw@db:5432/x#t", "postgresql://db/x", True),
        ("postgres://db/x#t", "postgresql://db:5432/x", True),
        ("postgresql://db:6543/x#t", "postgresql://db/x", False),
        ("postgresql://db,evil/x#t", "postgresql://db/x", False),
        ("postgresql://DB/x#t", "postgresql://db/x", True),
        ("postgresql://db/x/y#t", "postgresql://db/x", False),
        ("postgresql:///x#t", "postgresql://db/x", False),
        ("postgresql://db\\@evil/x#t", "postgresql://db/x", False),
        ("postgresql://ada:p%40w@db/x#t", "postgresql://db/x", True),
        ("oracle+oracledb://db/x#t", "oracle://db/x", False),
        ("file:///data/in.parquet", "/data", True),
        ("file:///data/../etc/x.parquet", "/data", False),
        ("file://evil/data/in.parquet", "/data", False),
        ("delta:///data/lake", "/data", True),
        ("delta:///data/lake#/../../etc", "/data", False),
        ("delta+s3://bucket/a/lake", "s3://bucket/a", True),
        ("delta+s3://bucket/lake", "s3://bucket/a", False),
        ("sqlite:////data/x.db#t", "/data", True),
        ("sqlite:////etc/x.db#t", "/data", False),
        ("sqlite:////data/x.db#t2", "sqlite:////data/x.db#t", False),
        ("duckdb:////data/x.db#t", "duckdb:////data/x.db#t", True),
        ("s3://key:secret@bucket/a/b", "s3://bucket/a", True),
        ("s3://bucket/*/b", "s3://bucket/a", False),
        ("s3://bucket:81/a", "s3://bucket/a", False),
        ("s3://bucket/a#/../../b", "s3://bucket/a", False),
        ("s3://bucket//a", "s3://bucket/a", False),
        ("S3://bucket/a", "s3://bucket/a", False),
        ("abfs://private@account/a", "abfs://public@account/a", False),
        ("abfss://public@account/a/b", "abfs://public@account/a", True),
        ("ray://head:10001", "ray://head:10001", True),
        ("ray://evil:10001", "ray://head:10001", False),
        ("/data/in.parquet", "s3://bucket", False),
        ("s3://bucket/a", "/", False),
    ],
)
def test_a_place_is_allowed_where_it_is_below_one_that_is(place, allowed, is_allowed):
    assert is_below(place, allowed) is is_allowed


def test_links_lead_to_no_other_place(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    (tmp_path / "x.db").touch()
    (tmp_path / "in" / "x.db").symlink_to(tmp_path / "x.db")
    assert is_below(str(tmp_path / "in" / "x"), str(tmp_path / "in"))
    assert not is_below(str(tmp_path / "in" / "link" / "x"), str(tmp_path / "in"))
    for scheme in ("sqlite", "duckdb"):
        address = f"{scheme}:///{tmp_path}/in/x.db#t"
        assert not is_below(address, str(tmp_path / "in"))
        assert is_below(address, str(tmp_path))


def test_a_step_back_over_a_link_is_no_way_in(tmp_path):
    """Delta's library drops `link/..` from a path; the system follows the link first."""
    (tmp_path / "allowed" / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "allowed" / "a" / "b")
    assert not is_below(f"delta://{tmp_path}/link/../x", str(tmp_path / "allowed"))


JOB_OF_KEY = {"model": "m", "from": "postgresql://db/x#t"}


def test_sql_on_a_table_needs_the_whole_database(place):
    places = Places(["postgresql://db/x#t", str(place)])
    job = {**JOB_OF_KEY, "to": str(place / "out")}
    places.check(job_of(job))
    for option in ({"where": "true"}, {"query": "SELECT 1", "key": "id"}):
        with pytest.raises(Refused, match="from: "):
            places.check(job_of({**job, **option}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("on", "ray://elsewhere:10001"),
        ("model", "../m.bundle"),
        ("model", "folder/../../m.bundle/"),
        ("model", "s3://elsewhere/m.bundle"),
        ("to", "/tmp/*"),
    ],
)
def test_every_address_of_a_job_is_looked_at(place, field, value):
    (place / "in").mkdir()
    places = Places([str(place / "in"), "ray://head:10001"])
    job = {"model": "m", "from": "in/x.parquet", "to": "in/out/", "on": "ray://head:10001"}
    places.check(job_of(job))
    with pytest.raises(Refused, match=f"{field}: "):
        places.check(job_of({**job, field: value}))


def test_a_version_whose_name_is_also_a_folder_with_a_bundle_is_a_folder(place):
    (place / "m" / "1").mkdir(parents=True)
    places = Places([str(place / "in")])
    job = job_of({"model": "m/1", "from": "in/x.parquet", "to": "in/out/"})
    places.check(job)
    (place / "m" / "1" / "bundle.json").touch()
    with pytest.raises(Refused, match="model: "):
        places.check(job)


@pytest.mark.parametrize(
    "source", first_of(["in/*.parquet", "in/", "in/**/*.parquet", "in/day=*/*"])
)
def test_a_glob_or_folder_does_not_lead_over_links(place, ring, source):  # noqa: F811
    """Neither links to files nor links to folders, below the place that is allowed."""
    inside = place / "in" / "day=1"
    inside.mkdir(parents=True)
    secret = place / "secret"
    secret.mkdir()
    pq.write_table(flights(10), secret / "x.parquet")
    (place / "in" / "x.parquet").symlink_to(secret / "x.parquet")
    (inside / "x.parquet").symlink_to(secret / "x.parquet")
    (place / "in" / "link").symlink_to(secret)
    with asking(app_of(place, ring, [str(place / "in"), str(place / "out")])) as client:
        client.timeout = WAIT_S
        job = {"model": str((place / "m.bundle").resolve()), "from": source, "to": "out/"}
        answer = client.post("/api/v1/batch/runs", json=job, headers=ring("manage:*"))
    assert answer.status_code == 403, answer.text
    assert "batch.places" in answer.text
    assert not (place / "out").exists()


def test_the_values_of_a_check_are_no_query_of_a_file(place):
    """`other` takes values, and a query needs no brackets where the check brings them."""
    Path("secret.csv").write_text("carrier\nAA\n")
    with asking(app_of(place)) as client:
        client.timeout = WAIT_S
        runs = RemoteRuns(remote(client))
        check = "other(carrier, SELECT carrier FROM 'secret.csv') <= 0"
        begun = runs.start(job_of({**JOB, "checks": [check]}))
        with pytest.raises(Refused, match="cannot be measured"):
            runs.wait(begun.run)


def test_a_document_with_schedules_is_held_to_the_places(place, ring):  # noqa: F811
    with asking(app_of(place, ring)) as client:
        header = ring("manage:*", "deploy:*")
        job = {"model": "m@champion", "from": "in.parquet", "to": "/tmp/elsewhere/"}
        spec = {"cron": "0 2 * * *", "folder": str(place), "job": job}
        body = {"document": {"version": 1, "schedules": {"night": spec}}}
        answer = client.put("/api/v1/configuration", json=body, headers=header)
        assert answer.status_code == 403, answer.text
        assert "batch.places" in answer.text
        spec["job"] = {**job, "to": "out/"}
        answer = client.put("/api/v1/configuration", json=body, headers=header)
        assert answer.status_code == 200, answer.text
        again = client.put("/api/v1/configuration", json=body, headers=header)
        assert again.json()["changes"] == []


def test_runs_of_a_schedule_that_a_key_has_added_are_held_to_the_places_of_then(place):
    (place / "bascule.toml").write_text('batch.places = ["out"]')
    jobs = runner_of(load_settings(place, {}))
    made = Task(kind="batch", input=job_of(JOB).to_json(), folder=str(place), is_confined=True)
    refused = jobs.wait(jobs.submit(made), WAIT_S)
    assert isinstance(refused.problem, Refused)
    done = jobs.wait(jobs.submit(replace(made, is_confined=False)), WAIT_S)
    assert done.result["rows"] == 400


@pytest.mark.slow
def test_the_document_of_a_run_has_its_rate(client):
    runs = RemoteRuns(remote(client))
    run = runs.wait(runs.start(job_of(JOB)).run).run
    said = json.loads(client.get(f"/api/v1/batch/runs/{run}").text)
    assert said["rows_per_s"] > 0
    assert said["left_s"] is None


# -- jobs of every kind --


def test_a_batch_job_is_a_job_as_any_other(client):
    jobs = RemoteJobs(remote(client))
    run = RemoteRuns(remote(client)).start(job_of(JOB), by="ada").run
    (job,) = jobs.find(kind="batch")
    assert (job.subject, job.by) == (run, "ada")
    RemoteRuns(remote(client)).wait(run)
    done = jobs.get(job.id[:8])
    assert (done.state, done.progress["done"], done.result["rows"]) == ("done", 400, 400)
    assert "400 rows in" in jobs.log(job.id)
    again = jobs.submit(Task(kind="batch", input={**JOB, "mode": "replace"}, by="ada"))
    assert again.state in ("queued", "running")
    with pytest.raises(Refused, match="alone"):
        jobs.submit(Task(kind="pack", input={"model": "m"}))
    with pytest.raises(NotFound, match="no kind"):
        jobs.submit(Task(kind="dig", input={}))
    with pytest.raises(Invalid, match="frm"):
        jobs.submit(Task(kind="batch", input={"frm": 1}))


def test_passwords_in_the_input_of_a_job_are_not_shown(client):
    secret = {**JOB, "from": "postgresql://ada:secret@db/x#t"}
    made = client.post("/api/v1/jobs", json={"kind": "batch", "input": secret})
    assert made.status_code == 201, made.text
    for answer in (
        made,
        client.get("/api/v1/jobs"),
        client.get(f"/api/v1/jobs/{made.json()['id']}"),
    ):
        assert "secret" not in answer.text
