"""A running server runs what is scheduled in its catalogue."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.homes import jobs_in, runs_in
from tests.unit.batch.conftest import flights
from tests.waiting import until
from typer.testing import CliRunner

import bascule
from bascule.batch import RemoteRuns, job_of
from bascule.cli.commands import app
from bascule.core import Unavailable
from bascule.jobs import RemoteJobs, Schedule, Schedules
from bascule_client.control import ControlClient


def test_a_server_runs_a_job_that_is_due_and_raises_an_alert_for_a_run_that_failed(
    serve, table_bundle, tmp_path: Path
):
    home = tmp_path / "home"
    home.mkdir()
    pq.write_table(flights(300), tmp_path / "in.parquet")
    job = job_of({"model": str(table_bundle), "from": "in.parquet", "to": "scored/"})
    schedules = Schedules(jobs_in(home).catalogue)
    ago = datetime.now(UTC) - timedelta(minutes=2)
    missed = Schedule(
        name="n", cron="* * * * *", job=job.to_json(), folder=str(tmp_path), created_at=ago
    )
    schedules.add(missed, by="ada")

    alerts = {"BASCULE_ALERTS__WATCH": "on", "BASCULE_ALERTS__EVERY_S": "1"}
    server = serve(table_bundle, env={"BASCULE_HOME": str(home), **alerts})

    outcome = until(lambda: schedules.get("n").outcome)
    assert outcome["rows"] == 300
    assert ds.dataset(str(tmp_path / "scored")).count_rows() == 300
    schedules.pause("n", by="ada")
    assert {one.state for one in runs_in(home).list()} == {"done"}

    client = ControlClient(f"http://127.0.0.1:{server.control_port}")
    failing = job.to_json() | {
        "from": f"{tmp_path}/in.parquet", "to": f"{tmp_path}/a/", "checks": ["rows >= 301"],
    }  # fmt: skip
    client.do("POST /api/v1/batch/runs", failing)
    (alert,) = until(lambda: list(client.list("GET /api/v1/alerts")))
    assert (alert["source"], alert["kind"]) == ("batch", "batch_failed")
    assert "rows >= 301 is not met: it is 300" in alert["sentence"]


@pytest.mark.slow
def test_the_commands_work_on_the_runs_and_schedules_of_a_server(
    serve, table_bundle, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pq.write_table(flights(300), tmp_path / "in.parquet")
    Path("JOB.toml").write_text(
        f'model = "{table_bundle}/"\nfrom = "{tmp_path}/in.parquet"\nto = "{tmp_path}/scored/"\n'
    )
    server = serve(table_bundle, env={"BASCULE_HOME": str(tmp_path / "home")})
    address = f"http://127.0.0.1:{server.control_port}"

    def call(*words: str) -> str:
        done = CliRunner().invoke(app, ["--server", address, *words])
        assert done.exception is None, done.exception
        return done.stdout

    made = json.loads(call("batch", "run", "JOB.toml", "--json"))
    assert (made["state"], made["rows"]) == ("done", 300)
    assert made["run"][:12] in call("batch", "runs")
    assert "300 rows" in call("batch", "logs", made["run"])
    assert f"rows in {tmp_path}/scored/" in call("batch", "resume", made["run"])
    call("schedule", "add", "night", "--cron", "0 2 * * *", "--job", "JOB.toml")
    assert "night" in call("schedule", "list")
    assert json.loads(call("schedule", "run", "night", "--json"))["rows"] == 300
    call("schedule", "remove", "night")
    assert json.loads(call("schedule", "list", "--json")) == []
    again = bascule.batch.run(f"{table_bundle}/", tmp_path / "in.parquet", "s/", server=address)
    assert (again.rows, len(again.manifest.chunks)) == (300, 1)


def test_a_run_whose_control_process_is_killed_says_so_and_is_resumed(
    serve, table_bundle, tmp_path
):
    pq.write_table(flights(20_000), tmp_path / "in.parquet", row_group_size=100)
    server = serve(table_bundle, env={"BASCULE_HOME": str(tmp_path / "home")})
    client = ControlClient(f"http://127.0.0.1:{server.control_port}")
    runs, wanted = RemoteRuns(client), {"from": f"{tmp_path}/in.parquet", "to": f"{tmp_path}/s/"}
    job = {"model": f"{table_bundle}/", "chunk_rows": 100, "workers": 1, **wanted}
    run = runs.start(job_of(job)).run
    until(lambda: runs.get(run).chunks_done > 3)

    os.kill(server.control_pid(), signal.SIGKILL)

    def ended():
        with suppress(Unavailable):  # until there is the next control process
            return (state := runs.get(run).state) != "running" and state
        return ""

    assert until(ended) == "killed"
    (listed,) = RemoteJobs(client).find(kind="batch")
    until(lambda: RemoteJobs(client).get(listed.id).error)  # once a turn has looked
    assert "ended" in RemoteJobs(client).get(listed.id).error["error"]
    done = runs.wait(runs.resume(run).run)
    assert (done.state, done.rows, done.rows_before > 0) == ("done", 20_000, True)
    assert ds.dataset(str(tmp_path / "s")).count_rows() == 20_000
