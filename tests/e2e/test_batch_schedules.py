"""A running server runs what is scheduled in its catalogue."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from tests.unit.batch.conftest import flights

from bascule.batch import Runs, Schedule, Schedules, job_of
from bascule.catalogue import Catalogue, SqliteDatabase

WAIT_S = 60.0


def test_a_server_runs_a_job_that_is_due(serve, table_bundle, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    pq.write_table(flights(300), tmp_path / "in.parquet")
    job = job_of({"model": str(table_bundle), "from": "in.parquet", "to": "scored/"})
    schedules = Schedules(Catalogue(SqliteDatabase(home / "catalogue.db")))
    ago = datetime.now(UTC) - timedelta(minutes=2)
    missed = Schedule(
        name="n", cron="* * * * *", job=job.to_json(), folder=str(tmp_path), created_at=ago
    )
    schedules.add(missed, by="ada")

    serve(table_bundle, env={"BASCULE_HOME": str(home)})

    give_up_at = time.monotonic() + WAIT_S
    while (outcome := schedules.get("n").outcome) is None:
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    assert outcome["rows"] == 300
    assert ds.dataset(str(tmp_path / "scored")).count_rows() == 300
    assert [one.state for one in Runs(home).list()] == ["done"]
