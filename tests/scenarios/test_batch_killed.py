"""A batch job that is killed anywhere goes on, and ends as one that nothing disturbed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.unit.batch.conftest import flights

CHUNKS, ROWS = 6, 3000
RUN = """
import json, sys
from pathlib import Path
from bascule.batch import job_of, run_job
from bascule.bundle import load
bundle = load(sys.argv[1])
made = run_job(job_of(json.loads(sys.argv[3])), bundle, Path(sys.argv[2]))
print(made.rows)
"""


class Jobs:
    """Runs one job in processes of their own."""

    def __init__(self, bundle: Path, home: Path, job: dict[str, Any]) -> None:
        options = {"chunk_rows": ROWS // CHUNKS, "model": "table", **job}
        self._argv = [sys.executable, "-c", RUN, str(bundle), str(home), json.dumps(options)]

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self) -> int:
        done = subprocess.run(self._argv, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return int(done.stdout)

    def kill(self, moment: random.Random, committed: Callable[[], int]) -> bool:
        """Kill it a moment after it has committed some more chunks; whether it had not ended."""
        wanted = committed() + moment.randrange(2)
        process = self.start()
        while process.poll() is None and committed() < wanted:
            time.sleep(0.001)
        time.sleep(moment.random() * 0.02 if wanted else moment.random())
        process.kill()
        process.communicate()
        return process.returncode == -9


KILLS = [3, pytest.param(50, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kills", KILLS)
def test_files_are_whole_after_kills(table_bundle, tmp_path, kills):
    source, sink = tmp_path / "in.parquet", tmp_path / "scored"
    pq.write_table(flights(ROWS), source, row_group_size=100)
    moment, died = random.Random(kills), 0
    expected = None
    for turn in range(max(1, kills // 5)):
        sink = tmp_path / f"scored-{turn}"
        jobs = Jobs(table_bundle, tmp_path / "home", {"from": str(source), "to": str(sink)})
        for _ in range(min(kills, 5)):
            died += jobs.kill(moment, lambda: len(list(sink.glob("part-*"))))  # noqa: B023
        assert jobs.end() == ROWS
        rows = ds.dataset(str(sink)).to_table().drop_columns(["prediction_id"]).sort_by("id")
        expected = expected or rows
        assert rows.equals(expected)
        assert rows.select(["id", "carrier"]).equals(flights(ROWS).select(["id", "carrier"]))
        orphans = [one for one in sink.rglob("*") if "draft" in str(one) or "tmp" in one.name]
        assert (len(list(sink.glob("*.parquet"))), orphans) == (CHUNKS, [])
    assert died


@pytest.mark.parametrize("kills", KILLS)
def test_a_table_is_whole_after_kills(table_bundle, postgresql_url, tmp_path, kills):
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
    connection = dbapi.connect(postgresql_url, autocommit=True)
    cursor = connection.cursor()
    cursor.adbc_ingest("flights", flights(ROWS), mode="create")

    def count(query: str) -> int:
        cursor.execute(query)
        return int(cursor.fetchone()[0])

    moment, died = random.Random(kills), 0
    places: dict[str, Any] = {"from": f"{postgresql_url}#flights", "where": "id >= 0"}
    chunks = "SELECT count(*) FROM bascule_batch_chunks c JOIN bascule_batch_runs r USING (run)"
    for turn in range(max(1, kills // 5)):
        table = f"scored_{turn}"
        jobs = Jobs(table_bundle, tmp_path / "home", places | {"to": f"{postgresql_url}#{table}"})

        def committed(sink: str = table) -> int:
            if not count("SELECT count(to_regclass('bascule_batch_runs'))"):
                return 0
            return count(f"{chunks} WHERE sink = '{sink}'")

        for _ in range(min(kills, 5)):
            died += jobs.kill(moment, committed)
        assert jobs.end() == ROWS
        cursor.execute(f"SELECT id, carrier FROM {table} ORDER BY id")
        assert cursor.fetch_arrow_table().equals(
            pa.table(flights(ROWS).select(["id", "carrier"])), check_metadata=False
        )
        assert count(f"SELECT count(DISTINCT prediction_id) FROM {table}") == ROWS
    connection.close()
    assert died
