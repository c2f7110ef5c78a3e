"""The same job on a real Ray cluster: same rows, same ids, also when a worker is killed."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.own_environments import ROOT, python_of
from tests.unit.batch.conftest import flights, with_values

pytestmark = [pytest.mark.slow, pytest.mark.serial]  # a node tells the next where its cluster is

WAIT_S = 900.0  # under load, a worker of Ray takes minutes to start
RUN = """
import json, sys, threading, time
from pathlib import Path
import psutil
from bascule.batch import MonitoringRules, job_of, run_job
from bascule.bundle import load
from bascule.core import BasculeError

KILLED = []

def kill_one(sink):
    # A worker of Ray, once some of its chunks are committed.
    while len(list(sink.glob("part-*"))) < 2:
        time.sleep(0.01)
    for one in psutil.process_iter(["cmdline"]):
        title = " ".join(one.info["cmdline"] or ())
        if title.startswith("ray::") and "ChunkScorer" in title:
            one.kill()
            KILLED.append(one.pid)
            return

asked = json.loads(sys.argv[1])
bundle = load(asked["bundle"])
rules = MonitoringRules(is_recorded=True, version="1")
if asked["kills"]:
    threading.Thread(target=kill_one, args=(Path(asked["job"]["to"]),), daemon=True).start()
try:
    made = run_job(job_of(asked["job"]), bundle, Path(asked["home"]), monitoring=rules)
    print(json.dumps({**made.to_json(), "killed": len(KILLED)}))
except BasculeError as error:
    print(json.dumps({"error": error.message, "kind": type(error).__name__}))
"""


TOKEN = secrets.token_hex(32)


def environment() -> dict[str, str]:
    """That of nodes and of clients, which know the token of the nodes."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {
        **plain, "PYTHONPATH": str(ROOT / "src"), "RAY_raylet_start_wait_time_s": "600",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN,
    }  # fmt: skip


class Jobs:
    """Runs jobs on one table, each into a folder of its own."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._bundle, self._folder = bundle, folder
        self.sinks = 0

    def run(self, table: pa.Table, *, kills: bool = False, **options: Any) -> dict[str, Any]:
        self.sinks += 1
        pq.write_table(table, self._folder / "in.parquet", row_group_size=500)
        os.utime(self._folder / "in.parquet", (1, 1))
        sink = self._folder / f"scored-{self.sinks}"
        content = {"model": "table", "from": "in.parquet", "to": f"{sink}/", "chunk_rows": 500}
        asked = {
            "bundle": str(self._bundle), "home": str(self._folder / f"home-{self.sinks}"),
            "job": {**content, **options}, "kills": kills,
        }  # fmt: skip
        done = subprocess.run(
            [python_of("ray"), "-c", RUN, json.dumps(asked)], cwd=self._folder, env=environment(),
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert done.stdout.strip(), done.stderr[-5_000:]
        return {**json.loads(done.stdout.splitlines()[-1]), "sink": sink}


@pytest.fixture
def jobs(table_bundle: Path, tmp_path: Path) -> Jobs:
    return Jobs(table_bundle, tmp_path)


def rows_of(made: dict[str, Any]) -> pa.Table:
    assert "error" not in made, made
    table = ds.dataset(made["sink"], format="parquet").to_table().sort_by("id")
    return table.drop_columns(["prediction_id"])


def quarantine_of(made: dict[str, Any]) -> list[Any]:
    files = sorted(made["sink"].glob("_bascule/*/quarantine-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_rows_and_quarantine_are_those_of_this_machine_also_when_a_worker_is_killed(jobs):
    table = with_values(flights(60_000), "airport", {7: "XXX", 40_123: "XXX"})
    here = jobs.run(table)
    on_ray = jobs.run(table, kills=True, on="ray", workers=2)
    assert on_ray["killed"] == 1
    assert (on_ray["rows"], on_ray["quarantined"]) == (here["rows"], here["quarantined"])
    assert rows_of(on_ray).equals(rows_of(here))
    assert quarantine_of(on_ray) == quarantine_of(here)
    assert len(list(on_ray["sink"].glob("part-*"))) == 120
    assert not list(on_ray["sink"].glob("_bascule/*/drafts*")), "what the killed worker left"


def test_a_row_limit_and_the_refusal_of_a_model_are_those_of_this_machine(jobs):
    table = flights(3_000)
    assert rows_of(jobs.run(table, limit=700)).equals(
        rows_of(jobs.run(table, limit=700, on="ray", workers=1))
    )
    bad = with_values(table, "airport", dict.fromkeys(range(100), "XXX"))
    refused = [jobs.run(bad, **more) for more in ({}, {"on": "ray", "workers": 1})]
    assert refused[0]["kind"] == refused[1]["kind"] == "Refused"
    assert "100 of 3,000 rows cannot be scored" in refused[1]["error"]


@pytest.mark.parametrize("place", ["{}.jsonl", "delta://{}", "sqlite:///{}.db#scored"])
def test_a_sink_that_workers_write_to_and_one_that_they_do_not_hold_the_same_rows(
    jobs, place, tmp_path
):
    sinks = [place.format(tmp_path / name) for name in ("here", "there")]
    table = flights(2_000)
    for sink, on in zip(sinks, ("local", "ray"), strict=True):
        made = jobs.run(table, to=sink, on=on, workers=1)
        assert made.get("rows") == 2_000, made
    here, there = (written(one) for one in sinks)
    assert here == there
    assert len(here) == 2_000


def written(sink: str) -> list[Any]:
    """The rows of a file of JSON lines or of a table, without the ids of the run."""
    if sink.startswith("delta"):
        table = deltalake.DeltaTable(sink.removeprefix("delta://")).to_pyarrow_table()
        rows = table.sort_by("id").to_pylist()
    elif "://" not in sink:
        rows = [json.loads(line) for line in Path(sink).read_text().splitlines()]
    else:
        with (
            closing(sqlite3.connect(sink.removeprefix("sqlite:///").partition("#")[0])) as database,
            database,
        ):
            database.row_factory = sqlite3.Row
            rows = [dict(one) for one in database.execute("SELECT * FROM scored ORDER BY id")]
    for row in rows:
        del row["prediction_id"]
    return rows


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a cluster that runs beside the test."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    ray = python_of("ray").with_name("ray")
    head = subprocess.Popen(
        [
            python_of("ray"), ray, "start", "--head", f"--port={ports[0]}", "--num-cpus=3",
            f"--ray-client-server-port={ports[1]}", "--include-dashboard=false", "--block",
        ],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        give_up_at = time.monotonic() + WAIT_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", ports[1])) == 0:
                    break
            assert head.poll() is None
            assert time.monotonic() < give_up_at
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{ports[1]}"
    finally:
        head.terminate()
        head.wait(60)


def test_a_cluster_at_an_address_scores_the_same_rows(jobs, cluster):
    table = flights(5_000)
    assert rows_of(jobs.run(table, on=cluster)).equals(rows_of(jobs.run(table)))


def test_a_cluster_that_is_away_is_said_to_be(jobs):
    made = jobs.run(flights(100), on="ray://127.0.0.1:9")
    assert made["kind"] == "Unavailable"
    assert "ray://127.0.0.1:9" in made["error"]
