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
from tests.conformance.batch_places import PLACES
from tests.unit.batch.conftest import flights

from bascule.batch import Runs

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


OTHERS = [name for name in PLACES if name not in ("parquet", "postgresql")]


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("mode", ["error", "replace"])
def test_every_other_place_is_whole_after_kills(table_bundle, tmp_path, request, kind, mode, kills):
    """With `replace`, over the rows of another run, none of which may be left."""
    place = PLACES[kind]
    root = request.getfixturevalue(place.needs) if place.needs else tmp_path / "place"
    place, home = place(root), tmp_path / "home"
    pq.write_table(flights(ROWS), tmp_path / "in.parquet", row_group_size=100)
    job = {"from": str(tmp_path / "in.parquet"), "to": place.sink("scored"), "mode": mode}
    if mode == "replace":
        Jobs(table_bundle, home, job | {"limit": 50, "workers": 1}).end()
    jobs, moment = Jobs(table_bundle, home, job), random.Random(kind)

    def committed() -> int:
        return sum(one.chunks_done for one in Runs(home).list()[:1])

    for _ in range(kills):
        jobs.kill(moment, committed)
    assert jobs.end() == ROWS
    scored = place.read("scored").sort_by("id")
    assert scored.column("id").to_pylist() == list(range(ROWS))
    assert len(set(scored.column("prediction_id").to_pylist())) == ROWS
    assert place.leftovers() == []


def test_a_full_disk_is_an_error_and_leaves_no_part(table_bundle, tmp_path):
    """The folder of the sink is a file system of its own, of 200 kB."""
    pq.write_table(flights(ROWS * 10), tmp_path / "in.parquet", row_group_size=ROWS * 10)
    sink = tmp_path / "small"
    sink.mkdir()
    script = (
        f"mount -t tmpfs -o size=200k none {sink} && {sys.executable} -m bascule.cli batch run "
        f"{table_bundle}/ --from in.parquet --to small/scored/ --json; find {sink}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    document, _, found = done.stdout.rpartition("}\n")
    said = json.loads(document + "}")
    assert (said["kind"], "No space left" in said["error"]) == ("Invalid", True)
    assert "make room" in said["hint"]
    assert "part-" not in found
    assert "draft" not in found


COUNTS = {
    "sqlite:///small/s.db#s": "import sqlite3; "
    "print(sqlite3.connect('small/s.db').execute('SELECT count(*) FROM s').fetchone()[0])",
    "delta://small/s": "import os; print(len(os.listdir('small/s/_delta_log')) if "
    "os.path.exists('small/s/_delta_log') else 0)",
    "duckdb:///small/s.db#s": "import duckdb; print(duckdb.connect('small/s.db', read_only=True)"
    ".execute('SELECT count(*) FROM s').fetchall()[0][0])",
}


@pytest.mark.parametrize("sink", COUNTS)
def test_a_full_disk_of_a_table_is_an_error_and_shows_no_row(table_bundle, tmp_path, sink):
    """The folder of the table is a file system of its own, of 2 MB."""
    rows = ROWS * 30
    pq.write_table(flights(rows), tmp_path / "in.parquet", row_group_size=rows)
    (tmp_path / "small").mkdir()
    script = (
        f"mount -t tmpfs -o size=2m none small && {sys.executable} -m bascule.cli batch run "
        f'{table_bundle}/ --from in.parquet --to "{sink}" --json; '
        f'{sys.executable} -c "{COUNTS[sink]}"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    document, _, visible = done.stdout.rpartition("}\n")
    said = json.loads(document + "}")
    assert said["kind"] == "Invalid", said
    assert "make room" in said["hint"]
    assert visible.strip() == "0", done.stderr
