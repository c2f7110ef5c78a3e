"""A batch job that is killed anywhere goes on, and ends as one that nothing disturbed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conformance.batch_places import PLACES, Database, Place
from tests.homes import runs_in
from tests.tiers import first_of
from tests.unit.batch.conftest import flights

from bascule.batch import Status

CHUNKS, ROWS = 24, 6000
RUN = """
import json, sys
from pathlib import Path
from tests.homes import jobs_in
from bascule.batch import job_of, recorded_run, run_job
from bascule.bundle import load
job, home = job_of(json.loads(sys.argv[3])), Path(sys.argv[2])
with recorded_run(jobs_in(home), job, by="ada") as live:
    run_job(job, load(sys.argv[1]), home, live=live)
"""


class Jobs:
    """Runs one job in processes of their own."""

    def __init__(self, bundle: Path, home: Path, job: dict[str, Any]) -> None:
        options = {"chunk_rows": ROWS // CHUNKS, "model": "table", **job}
        self._runs = runs_in(home)
        self._argv = [sys.executable, "-c", RUN, str(bundle), str(home), json.dumps(options)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self) -> Status:
        """Let a process go on to the end."""
        process = self._start()
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
        (status,) = (one for one in self._runs.list() if one.pid == process.pid)
        return status

    def kill(self, after_s: float) -> bool:
        """Kill a process so long after it has begun to write; whether it had not ended."""
        process = self._start()
        while process.poll() is None and process.pid not in [one.pid for one in self._runs.list()]:
            time.sleep(0.001)
        time.sleep(after_s)
        process.kill()
        process.communicate()
        return process.returncode == -9


def rows_of(place: Place, sink: str) -> pa.Table:
    """All rows of a sink without their ids, which must differ."""
    rows = place.read(sink).sort_by("id")
    assert rows.column("id").to_pylist() == list(range(ROWS))
    assert len(set(rows.column("prediction_id").to_pylist())) == ROWS
    return rows.drop_columns(["prediction_id"])


EACH_COMMIT = ("parquet", "postgresql", "one file", "delta", "sqlite")
"""For each way of committing a chunk: a rename, one file, a log, transactions of two APIs."""
LONG = [
    pytest.param(kind, mode, kills, marks=pytest.mark.slow)
    for kind in PLACES
    for mode, kills in (
        ("error", 50 if kind in ("parquet", "postgresql") else 5), ("replace", 5)
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "mode", "kills"), [*first_of((kind, "error", 1) for kind in EACH_COMMIT), *LONG]
)
def test_a_killed_job_ends_as_one_that_nothing_disturbed(
    table_bundle, tmp_path, request, kind, mode, kills
):
    """With `replace`, over the rows of another run, none of which may be left."""
    place_of = PLACES[kind]
    place = place_of(
        request.getfixturevalue(place_of.needs) if place_of.needs else tmp_path / "place"
    )
    source = f"{tmp_path}/in.parquet"
    pq.write_table(flights(ROWS), source, row_group_size=50)
    if isinstance(place, Database):
        place.put("flights", flights(ROWS))
        source = place.source("flights")

    def jobs_into(sink: str, **options: Any) -> Jobs:
        job = {"from": source, "to": place.sink(sink), **place.options, **options}
        return Jobs(table_bundle, tmp_path / "home", job)

    undisturbed = jobs_into("undisturbed").end()
    expected, files = rows_of(place, "undisturbed"), place.files("undisturbed", undisturbed.run)
    assert undisturbed.chunks > CHUNKS // 2  # of PostgreSQL, some pages each
    moment, killed, turn = random.Random(kind), 0, 0
    while killed < kills:
        turn += 1
        sink = f"scored{turn}"
        if mode == "replace":
            jobs_into(sink, limit=50).end()
        jobs = jobs_into(sink, mode=mode)
        while killed < kills and jobs.kill(moment.random() * undisturbed.seconds):
            killed += 1
        ended = jobs.end()
        assert rows_of(place, sink).equals(expected)
        assert place.files(sink, ended.run) == files
        assert place.leftovers() == []


def test_a_full_disk_is_an_error_and_leaves_no_part(table_bundle, tmp_path):
    """The folder of the sink is a file system of its own, of 200 kB."""
    pq.write_table(flights(30_000), tmp_path / "in.parquet", row_group_size=30_000)
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
    assert said["kind"] == "Invalid"
    assert "small/scored/" in said["error"]
    assert "No space left" in said["error"]
    assert "make room" in said["hint"]
    assert "part-" not in found
    assert "draft" not in found


COUNTS = {
    "small/s.csv": "import os; print(int(os.path.exists('small/s.csv')))",
    "sqlite:///small/s.db#s": "import sqlite3; "
    "print(sqlite3.connect('small/s.db').execute('SELECT count(*) FROM s').fetchone()[0])",
    "delta://small/s": "import os; print(len(os.listdir('small/s/_delta_log')) if "
    "os.path.exists('small/s/_delta_log') else 0)",
    "duckdb:///small/s.db#s": "import duckdb; print(duckdb.connect('small/s.db', read_only=True)"
    ".execute('SELECT count(*) FROM s').fetchall()[0][0])",
}


@pytest.mark.slow
@pytest.mark.parametrize("sink", COUNTS)
def test_a_full_disk_of_a_table_is_an_error_and_shows_no_row(table_bundle, tmp_path, sink):
    """The folder of the table is a file system of its own, of 2 MB."""
    rows = 90_000
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
    assert "small/s" in said["error"]
    assert "make room" in said["hint"]
    assert visible.strip() == "0", done.stderr
